use super::*;
use crate::model::ids::{Run, TxnId};
use crate::model::state::Event;

fn entry(events: &[Event]) -> Entry {
    let run = Run { txn: TxnId::fresh(), attempt: crate::model::ids::Attempt::FIRST };
    let entry = Entry::from_past(run.txn, Some("n".into()), None, None, crate::model::ids::Lsn::ZERO, 0);
    entry.replanned(run, &"graph".into(), &["pg".into()], &["vec".into()], "graph cannot prepare, so it decides");
    events.iter().for_each(|event| entry.take(*event));
    entry
}

fn told(entry: &Entry, down: &str) -> Explanation {
    let standing = |store: &str| match store {
        "gone" => Standing::NotConfigured,
        store if store == down => Standing::Down("connection refused".into()),
        _ => Standing::Up,
    };
    let facts = Facts {
        standing: &standing,
        log: "ab".repeat(16),
        poisoned: false,
        waits_for: Vec::new(),
        setbacks: entry.hand.setbacks(),
        refused: entry.hand.refused().iter().map(ToString::to_string).collect(),
    };
    explain(&entry.view(), facts)
}

fn says(explanation: &Explanation, part: &str) {
    let text = explanation.summary.join("\n");
    assert!(text.contains(part), "no `{part}` in\n{text}");
}

#[test]
fn in_doubt_names_who_can_tell_and_what_stands_in_the_way() {
    let doubt = entry(&[Event::VerdictLost]);
    doubt.set_back(&"graph".into(), "no route");
    let seen = told(&doubt, "graph");
    says(
        &seen,
        "It ends as soon as graph answers the fence: only graph can say what came of it. Now graph is down (connection refused).",
    );
    says(&seen, &format!("ogr1:{}:{}:1:…", "ab".repeat(16), doubt.id));
    says(&seen, "graph failed 1 times since");
    says(&seen, "An operator may: `retry` (asks the decider now).");
    assert_eq!(seen.decider.as_ref().map(|decider| decider.state), Some("down"));
    let allowed: Vec<_> = seen.operator.iter().filter(|verb| verb.allowed).map(|verb| verb.action).collect();
    assert_eq!(allowed, ["retry"]);
    // Where the store that decides is gone from the configuration, it says so, and nobody may guess.
    doubt.replanned(doubt.run(), &"gone".into(), &["pg".into()], &[], "because");
    says(&told(&doubt, ""), "It ends once gone is configured again");
    doubt.replanned(doubt.run(), &"wal".into(), &[], &["vec".into()], "because");
    says(&told(&doubt, ""), "It ends at the next start: the log was to decide");
}

#[test]
fn a_refused_part_is_told_from_parts_that_are_only_late() {
    let stuck = entry(&[Event::DecidedCommit, Event::Refused]);
    stuck.owes(["pg".into(), "vec".into()]);
    stuck.hand.refuse(&"vec".into());
    stuck.set_back(&"vec".into(), "collection docs does not exist");
    let seen = told(&stuck, "pg");
    says(&seen, "and vec refuses its part");
    says(&seen, "vec failed 1 times");
    says(&seen, "pg: it has promised to commit ogr1:");
    says(&seen, "or by `skip`");
    says(&seen, "graph: it has committed, and thereby decided.");
    stuck.told(&"vec".into());
    stuck.hand.give_up(Skipped { store: "vec".into(), reason: "gone".into(), by: "olga".into(), at_us: 1 });
    let seen = told(&stuck, "");
    says(&seen, "vec's part was given up by olga: gone.");
    assert_eq!(
        seen.promises.iter().find(|part| part.store == "vec").map(|part| &*part.promise),
        Some("its part was given up")
    );
}

#[test]
fn every_state_is_explained_whole() {
    use Event as E;
    for events in [
        &[][..],
        &[E::Promised],
        &[E::RolledBack],
        &[E::VerdictLost],
        &[E::DecidedCommit],
        &[E::DecidedCommit, E::Refused],
        &[E::DecidedCommit, E::Finished],
        &[E::DecidedAbort],
        &[E::DecidedAbort, E::Finished],
    ] {
        let entry = entry(events);
        if entry.state() == TxnState::NeedsIntervention {
            entry.hand.refuse(&"vec".into());
        }
        let seen = told(&entry, "");
        assert!(seen.summary.len() >= 4, "{:?}", seen.summary);
        assert!(
            seen.summary.iter().all(|sentence| !sentence.is_empty() && !sentence.contains("  ")),
            "{:?}",
            seen.summary
        );
        assert_eq!(seen.operator.len(), Verb::ALL.len());
        assert_eq!(seen.promises.len(), 3);
    }
}
