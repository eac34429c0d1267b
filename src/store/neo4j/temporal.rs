//! Neo4j's temporal values as text: RFC 3339 up to microseconds, durations in ISO 8601.

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, SubsecRound as _};
use neo4rs::{BoltDuration, BoltMap, BoltType};

/// Digits after the second that are shown.
const DIGITS: u16 = 6;

/// The text of a temporal value.
///
/// # Errors
/// Where it lies outside of what can be shown: years beyond ±262,000.
pub(super) fn show(value: &BoltType) -> Result<String, String> {
    let far = |_| "a year so far away cannot be shown; return toString() of it".to_owned();
    Ok(match value {
        BoltType::Date(v) => NaiveDate::try_from(v).map_err(far)?.to_string(),
        BoltType::LocalTime(v) => time(NaiveTime::from(v)),
        BoltType::Time(v) => {
            let (at, offset) = <(NaiveTime, FixedOffset)>::from(v);
            format!("{}{}", time(at), zone(offset))
        }
        BoltType::LocalDateTime(v) => local(NaiveDateTime::try_from(v).map_err(far)?),
        BoltType::DateTime(v) => instant(DateTime::<FixedOffset>::try_from(v).map_err(far)?),
        BoltType::DateTimeZoneId(v) => match DateTime::<FixedOffset>::try_from(v) {
            Ok(at) => instant(at),
            // The hour that a clock change repeats, or a zone that we have no rules for: its offset is not known here.
            Err(_) => format!("{}[{}]", local(NaiveDateTime::try_from(v).map_err(far)?), v.tz_id()),
        },
        BoltType::Duration(v) => duration(v)?,
        other => return Err(format!("a value of a kind that is not known: {other:?}")),
    })
}

fn time(at: NaiveTime) -> String {
    at.trunc_subsecs(DIGITS).format("%H:%M:%S%.f").to_string()
}

fn local(at: NaiveDateTime) -> String {
    at.trunc_subsecs(DIGITS).format("%Y-%m-%dT%H:%M:%S%.f").to_string()
}

fn instant(at: DateTime<FixedOffset>) -> String {
    at.trunc_subsecs(DIGITS).to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

fn zone(offset: FixedOffset) -> String {
    if offset.local_minus_utc() == 0 { "Z".to_owned() } else { offset.to_string() }
}

fn duration(value: &BoltDuration) -> Result<String, String> {
    // The driver hides a duration's fields; reading one as four numbers is its public way to them.
    let mut map = BoltMap::new();
    map.put("d".into(), BoltType::Duration(value.clone()));
    let (months, days, seconds, nanos) =
        map.get::<(i64, i64, i64, i64)>("d").map_err(|error| format!("a duration that cannot be read: {error}"))?;
    Ok(iso_duration(months, days, seconds, nanos))
}

/// `P1Y2M3DT4H5M6.7S`; every part carries its own sign, as Neo4j writes it.
fn iso_duration(months: i64, days: i64, seconds: i64, nanos: i64) -> String {
    const NANOS: i128 = 1_000_000_000;
    let mut text = String::from("P");
    let mut part = |value: i128, unit: char| {
        if value != 0 {
            text.push_str(&format!("{value}{unit}"));
        }
    };
    part((months / 12).into(), 'Y');
    part((months % 12).into(), 'M');
    part(days.into(), 'D');
    let total = i128::from(seconds) * NANOS + i128::from(nanos);
    let (whole, fraction) = (total / NANOS, total % NANOS);
    let (hours, minutes, second) = (whole / 3600, whole / 60 % 60, whole % 60);
    if total != 0 {
        text.push('T');
    }
    let mut part = |value: i128, unit: char| {
        if value != 0 {
            text.push_str(&format!("{value}{unit}"));
        }
    };
    part(hours, 'H');
    part(minutes, 'M');
    if second != 0 || fraction != 0 {
        let sign = if total < 0 { "-" } else { "" };
        let digits = format!("{:09}", fraction.unsigned_abs());
        let digits = digits.trim_end_matches('0');
        let dot = if digits.is_empty() { "" } else { "." };
        text.push_str(&format!("{sign}{}{dot}{digits}S", second.unsigned_abs()));
    }
    if text == "P" { "PT0S".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_iso_8601() {
        for (parts, text) in [
            ((0, 0, 0, 0), "PT0S"),
            ((14, 3, 3_661, 0), "P1Y2M3DT1H1M1S"),
            ((0, 0, 0, 1_500_000), "PT0.0015S"),
            ((0, 0, -2, 500_000_000), "PT-1.5S"),
            ((-13, 0, -3_600, 0), "P-1Y-1MT-1H"),
            ((0, 1, 0, 0), "P1D"),
            (
                (i64::MAX, i64::MIN, i64::MAX, 999_999_999),
                "P768614336404564650Y7M-9223372036854775808DT2562047788015215H30M7.999999999S",
            ),
        ] {
            let (months, days, seconds, nanos) = parts;
            assert_eq!(iso_duration(months, days, seconds, nanos), text);
        }
    }

    #[test]
    fn instants_keep_their_offset_and_microseconds() {
        let at = DateTime::parse_from_rfc3339("2015-06-24T12:50:35.556123456+01:00").unwrap();
        assert_eq!(show(&BoltType::DateTime(at.into())).unwrap(), "2015-06-24T12:50:35.556123+01:00");
        let at = DateTime::parse_from_rfc3339("2015-06-24T12:50:35Z").unwrap();
        assert_eq!(show(&BoltType::DateTime(at.into())).unwrap(), "2015-06-24T12:50:35Z");
    }

    #[test]
    fn a_zone_shows_its_offset_where_it_is_known() {
        let at = NaiveDate::from_ymd_opt(2026, 7, 1).unwrap().and_hms_opt(8, 0, 0).unwrap();
        assert_eq!(show(&(at, "Europe/Paris").into()).unwrap(), "2026-07-01T08:00:00+02:00");
        assert_eq!(show(&(at, "Nowhere/Here").into()).unwrap(), "2026-07-01T08:00:00[Nowhere/Here]");
        // 2026-10-25 02:30 happens twice in Paris.
        let twice = NaiveDate::from_ymd_opt(2026, 10, 25).unwrap().and_hms_opt(2, 30, 0).unwrap();
        assert_eq!(show(&(twice, "Europe/Paris").into()).unwrap(), "2026-10-25T02:30:00[Europe/Paris]");
    }
}
