//! Transactions that are open or wait for their verdict, as the log remembers them.

use serde_json::json;

use super::*;
use crate::journal::prepared::{Prepared, Terms};
use crate::journal::replay::Replayed;
use crate::model::record::{Act, IfVersion, Record};
use crate::model::reference::Template;
use crate::model::request::{Action, Expect, Isolation, OnExpiry, Operation};

fn operation(action: Action) -> Operation {
    Operation {
        id: "a".to_owned(),
        store: "graph".into(),
        reads: false,
        action,
        expect: Expect { rows: Some(1), equals: vec![("/rows/0/n".to_owned(), json!(0.1))], conditions: Vec::new() },
        pointer: "/operations/0".to_owned(),
    }
}

fn prepared(run: Run, decider: &str) -> Prepared {
    let cypher = Action::Cypher {
        text: "CREATE (n {x: $x})".to_owned(),
        params: Template::plain(json!({"x": 1.7976931348623157e308})),
    };
    let record = Action::Record(Record {
        act: Act::Put,
        place: "Document".to_owned(),
        body: Template::plain(json!({"key": {"id": 1}, "set": {"$ref": "is plain by now"}})),
        version: "version".to_owned(),
        condition: IfVersion::Is(3),
    });
    Prepared {
        intent: intent(run, decider),
        principal: "anonymous".to_owned(),
        expires_us: 42,
        on_expiry: OnExpiry::Hold,
        terms: Terms {
            timeout_ms: 30_000,
            wait_decided: true,
            isolation: Isolation::Serializable,
            again: vec![operation(cypher), operation(record)],
            told: vec![("a".to_owned(), "/rows/0/n".to_owned(), json!(9_007_199_254_740_993_i64))],
        },
        answer: Some("{}".to_owned()),
    }
}

fn began(run: Run) -> Began {
    let key = Some(KeyNote { key: "anonymous/k".into(), digest: [5; 32] });
    Began {
        run,
        name: Some("n".to_owned()),
        key,
        began_us: 1,
        durable: Lsn::from_u64(2),
        principal: "p".to_owned(),
        trace: TraceId::from_bytes(&[3; 16]),
    }
}

#[test]
fn they_read_back() {
    let prepared = prepared(run(), "graph");
    assert_eq!(Prepared::decode(&prepared.encode(17, false)), Ok(prepared));
    let began = began(run());
    assert_eq!(Began::decode(&began.encode()), Ok(began));
}

/// Takes records in their order, each one step further.
fn replay(records: &[(u8, Vec<u8>)]) -> Replayed {
    let mut replayed = Replayed::new(10);
    for (at, (record_kind, payload)) in (1u64..).zip(records) {
        replayed.take(Lsn::from_u64(at), *record_kind, payload).unwrap();
    }
    replayed.finished()
}

#[test]
fn who_was_open_is_interrupted_until_it_intends_or_ends() {
    let run = run();
    let opened = (kind::BEGAN, began(run).encode());
    let only = replay(std::slice::from_ref(&opened));
    assert_eq!((only.interrupted.len(), only.open.len()), (1, 0));
    let intends = replay(&[opened.clone(), (kind::INTENT, intent(run, "graph").encode(17))]);
    assert_eq!((intends.interrupted.len(), intends.open.len()), (0, 1));
    let done = replay(&[opened, (kind::DONE, ended(run, None).encode())]);
    assert_eq!((done.interrupted.len(), done.open.len(), done.ended.len()), (0, 0, 1));
}

#[test]
fn it_waits_until_a_store_is_asked_or_it_is_ruled() {
    let run = run();
    let intent = (kind::INTENT, intent(run, "graph").encode(17));
    let promised = (kind::PREPARED, prepared(run, "graph").encode(17, false));
    let verdict = VerdictRecord { run: run.into(), committed: false, answer: None, at_us: 17 };
    let verdict = (kind::DECISION, verdict.encode_to_vec());
    let waits = |records: &[(u8, Vec<u8>)]| {
        let open = replay(records).open;
        assert_eq!(open.len(), 1);
        (open[0].first, open[0].prepared.is_some(), open[0].verdict)
    };
    let first = Lsn::from_u64(1);
    assert_eq!(waits(&[intent.clone(), promised.clone()]), (first, true, None));
    assert_eq!(waits(&[intent.clone(), promised.clone(), promised.clone()]), (first, true, None), "written again");
    let asked = waits(&[intent.clone(), promised.clone(), intent.clone()]);
    assert_eq!((asked.1, asked.2), (false, None), "the deciding store was asked: to be fenced");
    let ruled = waits(&[intent, promised, verdict]);
    assert_eq!(ruled.2, Some(Outcome::Aborted));
}
