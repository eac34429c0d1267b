use std::time::Duration;

use tonic::Code;

use super::parse::{Command, command};
use super::{Faults, Kind, Verb};

fn armed(lines: &[&str]) -> Faults {
    let faults = Faults::default();
    for line in lines {
        match command(line) {
            Ok(Command::Inject(rule)) => faults.arm(rule),
            other => panic!("{line}: {other:?}"),
        }
    }
    faults
}

#[test]
fn a_rule_hits_n_calls_after_its_skips() {
    let faults = armed(&["inject fail_before n=2 skip=1 code=internal"]);
    let codes: Vec<_> = (0..5).map(|_| faults.next(Verb::Upsert, "c").map(|fault| fault.status().code())).collect();
    assert_eq!(codes, [None, Some(Code::Internal), Some(Code::Internal), None, None]);
    assert_eq!(faults.status()["fired"]["fail_before"], 2);
}

#[test]
fn a_rule_without_verbs_leaves_reads_alone() {
    let faults = armed(&["inject delay ms=5"]);
    assert_eq!(faults.next(Verb::Get, "c"), None);
    let fault = faults.next(Verb::UpdateBatch, "c").expect("a write");
    assert_eq!((fault.kind, fault.time), (Kind::Delay, Duration::from_millis(5)));
}

#[test]
fn a_rule_fits_its_verbs_and_its_collection_only() {
    let faults = armed(&["inject fail_after verbs=get,upsert collection=docs n=9"]);
    assert!(faults.next(Verb::Delete, "docs").is_none());
    assert!(faults.next(Verb::Upsert, "other").is_none());
    assert!(faults.next(Verb::Upsert, "docs").is_some());
    assert!(faults.next(Verb::Get, "docs").is_some());
}

#[test]
fn rules_are_used_in_the_order_in_which_they_were_armed() {
    let faults = armed(&["inject fail_before", "inject exhausted retry_after=7"]);
    assert_eq!(faults.next(Verb::Upsert, "c").map(|fault| fault.kind), Some(Kind::FailBefore));
    let second = faults.next(Verb::Upsert, "c").expect("the second rule").status();
    assert_eq!(second.code(), Code::ResourceExhausted);
    assert_eq!(second.metadata().get("retry-after").map(|value| value.as_bytes()), Some(&b"7"[..]));
    assert!(faults.next(Verb::Upsert, "c").is_none());
}

#[test]
fn reset_forgets_rules_and_counts() {
    let faults = armed(&["inject fail_before n=3"]);
    faults.next(Verb::Upsert, "c");
    faults.reset();
    assert!(faults.next(Verb::Upsert, "c").is_none());
    assert_eq!(faults.status(), serde_json::json!({"armed": [], "fired": {}}));
}

#[test]
fn nonsense_is_refused() {
    for line in [
        "",
        "inject",
        "inject fail",
        "inject delay n=0",
        "inject delay ms=soon",
        "inject delay verbs=upsort",
        "inject half verbs=get",
        "inject delay code=42",
        "inject delay twice",
        "optimize",
        "reset all",
    ] {
        assert!(command(line).is_err(), "{line:?} was taken");
    }
}
