use proptest::prelude::*;

use super::*;
use crate::journal::prepared::Prepared;
use crate::journal::record::Intent;
use crate::model::commit::RedoWrite;
use crate::model::ids::{Attempt, LogId, Run, TxnId};
use crate::model::operator::Skipped;
use crate::model::request::OnExpiry;

fn history(first: u64, decider: &str, verdict: Option<Outcome>) -> History {
    let intent = Intent {
        run: Run { txn: TxnId::fresh(), attempt: Attempt::FIRST },
        name: None,
        decider: decider.into(),
        preparers: Vec::new(),
        redo: Vec::new(),
        claims: Vec::new(),
        key: None,
        began_us: 0,
        reason: String::new(),
        durable: Lsn::ZERO,
        trace: None,
        chunk: None,
    };
    History { verdict, ..History::of(Lsn::from_u64(first), intent) }
}

#[test]
fn each_history_has_one_bucket() {
    let open = vec![
        history(1, "graph", None),
        history(2, "wal", None),
        history(4, "wal", Some(Outcome::Committed)),
        history(5, "graph", Some(Outcome::Aborted)),
    ];
    let began = Began {
        run: Run { txn: TxnId::fresh(), attempt: Attempt::FIRST },
        name: None,
        key: None,
        began_us: 0,
        durable: Lsn::ZERO,
        principal: "anonymous".to_owned(),
        trace: None,
    };
    let plan = RecoveryPlan::new(open, &[(Lsn::from_u64(3), began)]);
    assert!(matches!(&plan.buckets[0], Bucket::Fence(_, store) if store.as_str() == "graph"));
    assert!(matches!(&plan.buckets[1], Bucket::NeverDecided(_)));
    assert!(matches!(&plan.buckets[2], Bucket::Interrupted(_)), "in Lsn order");
    assert!(matches!(&plan.buckets[3], Bucket::Obey(_)));
    assert!(matches!(&plan.buckets[4], Bucket::Obey(_)));
}

#[test]
fn what_the_marker_owes_and_the_log_does_not_know_is_named() {
    let mut known = history(1, "graph", None);
    let marker = |followers: &[&str], outcome| Marker {
        run: known.intent.run,
        outcome,
        log: LogId::from_bytes([1; 16]),
        durable: Lsn::ZERO,
        followers: followers.iter().map(|store| StoreName::from(*store)).collect(),
        key: None,
        answer: None,
        redo: Vec::new(),
    };
    let (owes, aborted, nothing) =
        (marker(&["vec"], Outcome::Committed), marker(&["vec"], Outcome::Aborted), marker(&[], Outcome::Committed));
    assert_eq!(lost_parts(&known, &owes), vec!["vec".into()]);
    assert_eq!((lost_parts(&known, &aborted), lost_parts(&known, &nothing)), (vec![], vec![]));
    let skipped = Skipped { store: "vec".into(), reason: "r".into(), by: "o".into(), at_us: 0 };
    assert!(lost_parts(&History { skipped: vec![skipped], ..known.clone() }, &owes).is_empty(), "given up is not lost");
    known.intent.redo =
        vec![RedoWrite { store: "vec".into(), resource: "c".into(), keys: vec!["1".into()], body: vec![] }];
    assert!(lost_parts(&known, &owes).is_empty());
}

/// A verdict, or a store that was asked for one, ends the waiting.
#[test]
fn a_prepared_one_waits_until_it_is_ruled() {
    let of = |verdict| {
        let mut held = history(1, "wal", verdict);
        held.prepared = Some(Box::new(Prepared {
            intent: held.intent.clone(),
            principal: "anonymous".to_owned(),
            expires_us: 0,
            on_expiry: OnExpiry::Rollback,
            terms: serde_json::from_str(r#"{"timeout_ms": 1, "wait_decided": false}"#).unwrap(),
            answer: None,
        }));
        RecoveryPlan::new(vec![held], &[]).buckets.remove(0)
    };
    assert!(matches!(of(None), Bucket::Hold(_)), "expired or not: the clock decides nothing here");
    assert!(matches!(of(Some(Outcome::Aborted)), Bucket::Obey(_)));
}

proptest! {
    /// A verdict in the log is never asked for again, and nothing is guessed without one.
    #[test]
    fn the_plan_never_guesses(kinds in prop::collection::vec((any::<bool>(), prop::option::of(any::<bool>())), 0..20)) {
        let outcome = |committed| if committed { Outcome::Committed } else { Outcome::Aborted };
        let open: Vec<_> = kinds.iter().enumerate()
            .map(|(at, (by_store, verdict))| history(at as u64, if *by_store { "graph" } else { "wal" }, verdict.map(outcome)))
            .collect();
        let plan = RecoveryPlan::new(open.clone(), &[]);
        prop_assert_eq!(plan.buckets.len(), open.len());
        for (bucket, history) in plan.buckets.iter().zip(&open) {
            match bucket {
                Bucket::Obey(same) => prop_assert!(same.verdict.is_some() && same == history),
                Bucket::NeverDecided(same) => prop_assert!(same.verdict.is_none() && same.intent.decider == Decider::Wal),
                Bucket::Fence(same, store) => {
                    prop_assert!(same.verdict.is_none());
                    prop_assert_eq!(&same.intent.decider, &Decider::Store(store.clone()));
                }
                Bucket::Hold(_) | Bucket::Interrupted(_) => prop_assert!(false, "nothing was prepared or only begun"),
            }
        }
    }
}
