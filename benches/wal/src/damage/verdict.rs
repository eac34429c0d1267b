//! Right or wrong.

use super::kinds::Damage;
use super::read::Read;

/// What a log did, against what had been acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It gives every acknowledged record.
    Whole,
    /// It does not open.
    Refused { why: String },
    /// It opens and does not say that acknowledged records are missing.
    Lost { records: u64, of: u64 },
    /// It gives records that nobody wrote.
    False { records: u64 },
    /// There is no such place in this log.
    Absent,
}

/// Compares.
pub(crate) fn of(read: &Read, acknowledged: u64) -> Verdict {
    match read {
        Read::Refused(why) => Verdict::Refused { why: why.clone() },
        Read::Opened { false_records, .. } if *false_records > 0 => Verdict::False { records: *false_records },
        Read::Opened { numbers, .. } => match acknowledged - numbers.range(..acknowledged).count() as u64 {
            0 => Verdict::Whole,
            records => Verdict::Lost { records, of: acknowledged },
        },
    }
}

impl Verdict {
    pub(crate) fn is_right(&self, damage: Damage) -> bool {
        match self {
            Verdict::Whole | Verdict::Absent => true,
            Verdict::Refused { .. } => !damage.is_legal(),
            Verdict::Lost { .. } | Verdict::False { .. } => false,
        }
    }

    /// The worse of two tries of a legal crash.
    pub(crate) fn or_worse(self, other: Verdict) -> Verdict {
        let weight = |verdict: &Verdict| match verdict {
            Verdict::Whole | Verdict::Absent => (0, 0),
            Verdict::Refused { .. } => (1, 0),
            Verdict::Lost { records, .. } => (2, *records),
            Verdict::False { records } => (3, *records),
        };
        if weight(&self) >= weight(&other) { self } else { other }
    }

    pub(crate) fn text(&self, damage: Damage) -> String {
        match self {
            Verdict::Whole if damage.is_legal() => "opened".into(),
            Verdict::Whole => "opened, nothing lost".into(),
            Verdict::Refused { why, .. } if damage.is_legal() => format!("refused a legal crash ({})", short(why)),
            Verdict::Refused { why, .. } if why.contains("panicked") => "refused (panic)".into(),
            Verdict::Refused { .. } => "refused".into(),
            Verdict::Lost { records, of } => format!("opened, {records} of {of} silently lost"),
            Verdict::False { records } => format!("opened, {records} false records"),
            Verdict::Absent => "–".into(),
        }
    }
}

/// The beginning of a reason, fit for a table's cell.
fn short(why: &str) -> String {
    why.chars().filter(|letter| *letter != '|').take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(numbers: std::ops::Range<u64>, false_records: u64) -> Read {
        Read::Opened { numbers: numbers.collect(), false_records }
    }

    #[test]
    fn what_is_missing_is_counted_and_what_was_never_acknowledged_is_not() {
        assert_eq!(of(&opened(0..10, 0), 10), Verdict::Whole);
        assert_eq!(of(&opened(0..11, 0), 10), Verdict::Whole);
        assert_eq!(of(&opened(0..7, 0), 10), Verdict::Lost { records: 3, of: 10 });
        assert_eq!(of(&opened(3..11, 0), 10), Verdict::Lost { records: 3, of: 10 });
        assert_eq!(of(&opened(0..10, 1), 10), Verdict::False { records: 1 });
    }

    #[test]
    fn refusing_is_right_for_damage_and_wrong_for_a_legal_crash() {
        let refused = of(&Read::Refused("no".into()), 10);
        assert!(refused.is_right(Damage::Middle) && !refused.is_right(Damage::Torn));
        let lost = of(&opened(0..7, 0), 10);
        assert!(!lost.is_right(Damage::Middle) && !lost.is_right(Damage::Torn));
        assert!(Verdict::Whole.is_right(Damage::Torn));
    }

    #[test]
    fn the_worst_of_many_tries_stands() {
        let (refused, lost) = (of(&Read::Refused("no".into()), 10), of(&opened(0..7, 0), 10));
        assert_eq!(Verdict::Whole.or_worse(lost.clone()).or_worse(refused.clone()), lost);
        assert!(!Verdict::Whole.or_worse(refused).or_worse(Verdict::Whole).is_right(Damage::Torn));
        assert_eq!(Verdict::Whole.or_worse(Verdict::Whole), Verdict::Whole);
    }
}
