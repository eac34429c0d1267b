//! What a session sees, locks, checks and refuses before the decision.

use ::qdrant_client::qdrant::{CreateAliasBuilder, DeleteCollectionBuilder};
use outrigger::lock::{LockKey, Mode};
use outrigger::model::commit::{Gid, MarkerNote};
use outrigger::model::powers::Role;
use outrigger::model::problem::Code;
use outrigger::model::request::PointCondition;
use outrigger::store::{Decision, Store};
use serde_json::{Value, json};

use crate::help::{Bed, context, op};

const U: &str = "0199aa00-0000-7000-8000-00000000000a";

#[tokio::test]
async fn a_footprint_has_one_spelling() {
    let bed = Bed::plain().await;
    let alias = format!("{}-alias", bed.collection);
    bed.client.create_alias(CreateAliasBuilder::new(&bed.collection, &alias)).await.expect("an alias");
    let mut session = bed.session().await;
    let ops = [
        op(
            "a",
            &alias,
            "upsert",
            json!({"points": [{"id": 7, "vector": [1, 1]}, {"id": U.to_uppercase(), "vector": [1, 1]}]}),
            vec![],
        ),
        op("b", &bed.collection, "delete", json!({"filter": {"must": {"has_id": [1]}}}), vec![]),
        op("c", &bed.collection, "count", json!({}), vec![]),
        op("d", &alias, "clear_payload", json!({"points": [8]}), vec![condition(9, Some(true), Value::Null)]),
    ];
    let claims = session.footprint(&ops).await.expect("claims");
    let whole = LockKey::Resource("vectors".into(), bed.collection.clone());
    let point = |id: &str| LockKey::Point("vectors".into(), bed.collection.clone(), id.to_owned());
    let found: Vec<_> = claims.into_iter().map(|claim| (claim.key, claim.mode)).collect();
    let expected = vec![
        (whole.clone(), Mode::IntentExclusive),
        (point("7"), Mode::Exclusive),
        (point(U), Mode::Exclusive),
        (whole.clone(), Mode::Exclusive),
        (whole.clone(), Mode::IntentShared),
        (point("9"), Mode::Shared),
        (whole, Mode::IntentExclusive),
        (point("8"), Mode::Exclusive),
    ];
    assert_eq!(found, expected);
    let writes = bed.plan(&ops[..1]).await.expect("fine");
    assert_eq!(
        (writes[0].resource.as_str(), writes[0].keys.clone()),
        (bed.collection.as_str(), vec!["7".to_owned(), U.to_owned()])
    );
}

#[tokio::test]
async fn look_ups_by_id_see_own_writes_and_searches_say_that_they_do_not() {
    let bed = Bed::plain().await;
    bed.one("upsert", json!({"points": [{"id": 1, "vector": [1, 1], "payload": {"a": {"b": 1, "c": 2}}}, {"id": 2, "vector": [2, 2]}]})).await;
    let mut session = bed.session().await;
    let ops = [
        bed.op("0", "count", json!({})),
        bed.op("1", "upsert", json!({"points": [{"id": 3, "vector": [3, 3], "payload": {"new": true}}]})),
        bed.op("2", "set_payload", json!({"payload": {"b": 9}, "key": "a", "points": [1, 3]})),
        bed.op("3", "update_vectors", json!({"points": [{"id": 1, "vector": [7, 7]}]})),
        bed.op("4", "delete", json!({"points": [2]})),
        bed.op("5", "retrieve", json!({"ids": [3, 2, 1], "with_vector": true})),
        bed.op("6", "retrieve", json!({"ids": [1], "with_payload": {"exclude": ["a.c"]}})),
        bed.op("7", "scroll", json!({})),
        bed.op("8", "count", json!({})),
        bed.op("10", "count", json!({"filter": {"must": [{"has_id": [1, 2, 3, 4]}]}})),
        bed.op("11", "scroll", json!({"filter": {"must": [{"has_id": [3, 2, 1]}]}, "limit": 1, "with_payload": false})),
    ];
    session.footprint(&ops).await.expect("claims");
    let results = session.work(&ops).await.expect("results");
    assert_eq!(results[0], json!({"count": 2}), "nothing was written yet");
    assert_eq!(results[2], json!({"affected": 2, "applied": false}), "nothing is, before the decision");
    assert_eq!(
        results[5]["points"],
        json!([
            {"id": 3, "payload": {"new": true, "a": {"b": 9}}, "vector": [3.0, 3.0]},
            {"id": 1, "payload": {"a": {"b": 9, "c": 2}}, "vector": [7.0, 7.0]},
        ])
    );
    assert_eq!(results[6]["points"], json!([{"id": 1, "payload": {"a": {"b": 9}}}]));
    assert_eq!(results[7]["sees_own_writes"], json!(false));
    assert_eq!(results[8], json!({"count": 2, "sees_own_writes": false}));
    assert_eq!(results[9], json!({"count": 2}), "a list of ids is a look-up: 1 is there, 2 is gone, 3 is new");
    assert_eq!(results[10], json!({"points": [{"id": 1}], "next_page_offset": 3}));
    let late = session.work(&[bed.op("9", "delete", json!({"filter": {}}))]).await.expect_err("it could not see them");
    assert_eq!(
        (late.code, late.pointer.as_deref()),
        (Code::Unsupported, Some("/operations/0/delete/filter")),
        "{late}"
    );
    session.rollback().await;
    assert_eq!(bed.read("count", json!({})).await["count"], 2, "nothing is written before the decision");
}

fn condition(id: u64, exists: Option<bool>, payload: Value) -> PointCondition {
    PointCondition { id: json!(id), exists, payload: payload.as_object().cloned() }
}

#[tokio::test]
async fn conditions_are_checked_against_the_store_and_own_writes() {
    let bed = Bed::plain().await;
    bed.one("upsert", json!({"points": [{"id": 1, "vector": [1, 1], "payload": {"version": 7}}]})).await;
    let put = json!({"points": [{"id": 2, "vector": [1, 1], "payload": {"version": 1}}]});
    for (condition, pointer) in [
        (condition(1, Some(true), json!({"version": 7.0})), None),
        (condition(2, Some(false), Value::Null), None),
        (condition(1, None, json!({"version": 8})), Some("/operations/0/expect/if/0/payload/version")),
        (condition(1, None, json!({"other": null})), Some("/operations/0/expect/if/0/payload/other")),
        (condition(1, Some(false), Value::Null), Some("/operations/0/expect/if/0/exists")),
        (condition(2, Some(true), Value::Null), Some("/operations/0/expect/if/0/exists")),
    ] {
        let shown = format!("{condition:?}");
        let answer = bed.plan(&[op("w", &bed.collection, "upsert", put.clone(), vec![condition])]).await;
        match (answer, pointer) {
            (Ok(writes), None) => assert_eq!(writes.len(), 1, "{shown}"),
            (Err(problem), Some(pointer)) => {
                assert_eq!((problem.code, problem.pointer.as_deref()), (Code::Conflict, Some(pointer)), "{shown}");
            }
            (answer, _) => panic!("{shown}: {answer:?}"),
        }
    }
    let own = [
        bed.op("put", "upsert", put),
        op("then", &bed.collection, "delete", json!({"points": [1]}), vec![condition(2, None, json!({"version": 1}))]),
    ];
    bed.plan(&own).await.expect("the condition sees what the transaction itself has put");
}

#[tokio::test]
async fn what_qdrant_would_refuse_is_refused_before_the_decision() {
    let (plain, named) = (Bed::plain().await, Bed::named().await);
    plain.one("upsert", json!({"points": [{"id": 1, "vector": [1, 1]}]})).await;
    let put = |vector: Value| json!({"points": [{"id": 1, "vector": vector}]});
    for (bed, verb, body) in [
        (&plain, "upsert", json!({"points": []})),
        (&plain, "upsert", put(json!([1, 2, 3]))),
        (&plain, "upsert", put(json!([[1, 2], [1, 2]]))),
        (&plain, "upsert", put(json!({"nobody": [1, 2]}))),
        (&named, "upsert", put(json!([1, 2, 3]))),
        (&named, "upsert", put(json!({"words": [1, 2, 3]}))),
        (&named, "upsert", put(json!({"rows": [[1, 2], [1]]}))),
        (&plain, "set_payload", json!({"payload": {"a": 1}, "points": [1, 99]})),
        (&plain, "clear_payload", json!({"points": [99]})),
        (&plain, "delete_payload", json!({"keys": ["a"], "points": [99]})),
        (&plain, "update_vectors", json!({"points": [{"id": 99, "vector": [1, 1]}]})),
        (&plain, "update_vectors", json!({"points": []})),
        (&plain, "delete_vectors", json!({"vector": ["nobody"], "points": [1]})),
    ] {
        let problem = bed.refusal(verb, body.clone()).await;
        assert_eq!(
            (problem.code, problem.operation.as_deref()),
            (Code::RejectedByStore, Some("w")),
            "{verb} {body}: {problem}"
        );
    }
    let deleted_before = [
        plain.op("d", "delete", json!({"points": [1]})),
        plain.op("s", "set_payload", json!({"payload": {"a": 1}, "points": [1]})),
    ];
    let problem = plain.plan(&deleted_before).await.expect_err("deleted by the transaction itself");
    assert_eq!((problem.code, problem.operation.as_deref()), (Code::RejectedByStore, Some("s")), "{problem}");
    for (verb, body, pointer) in [
        ("upsert", put(json!(["x", 1])), "/operations/0/upsert/points/0/vector/0"),
        ("upsert", put(json!([1e39, 1])), "/operations/0/upsert/points/0/vector/0"),
        ("upsert", json!({"points": [{"id": "no uuid", "vector": [1, 1]}]}), "/operations/0/upsert/points/0/id"),
        ("upsert", json!({"points": [], "wait": true}), "/operations/0/upsert/wait"),
        ("delete", json!({"points": [1], "filter": {}}), "/operations/0/delete"),
        ("delete", json!({"filter": {"must": [{"kay": "x"}]}}), "/operations/0/delete/filter/must/0/kay"),
        ("set_payload", json!({"payload": 1, "points": [1]}), "/operations/0/set_payload/payload"),
    ] {
        let problem = plain.refusal(verb, body).await;
        assert_eq!((problem.code, problem.pointer.as_deref()), (Code::InvalidRequest, Some(pointer)), "{problem}");
    }
}

#[tokio::test]
async fn a_collection_that_goes_away_before_the_decision_is_noticed() {
    let bed = Bed::plain().await;
    let mut session = bed.session().await;
    let ops = [bed.op("w", "upsert", json!({"points": [{"id": 1, "vector": [1, 1]}]}))];
    session.footprint(&ops).await.expect("claims");
    session.work(&ops).await.expect("buffered");
    bed.client.delete_collection(DeleteCollectionBuilder::new(&bed.collection)).await.expect("deleted");
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let problem = session.validate().await.expect_err("there is nothing to write to");
    assert_eq!((problem.code, problem.operation.as_deref()), (Code::RejectedByStore, Some("w")), "{problem}");
}

#[tokio::test]
async fn it_promises_nothing_and_decides_nothing() {
    let bed = Bed::plain().await;
    let note = MarkerNote { answer: None, redo: Vec::new() };
    let context = context();
    let gid: Gid = format!("ogr1:{}:{}:1:1:wal", context.owner.log, context.run.txn).parse().expect("a gid");
    let mut writer = bed.store.open(&context, Role::Redoer).await.expect("a session");
    assert_eq!(writer.prepare(&gid).await.expect_err("it cannot").code, Code::Internal);
    assert!(matches!(writer.commit(&note).await, Decision::Refused(_)));
    let mut reader = bed.store.open(&context, Role::Reader).await.expect("a session");
    let write = bed.op("w", "delete", json!({"points": [1]}));
    assert_eq!(reader.work(&[write]).await.expect_err("planned as a reader").code, Code::Internal);
    assert!(matches!(reader.commit(&note).await, Decision::Committed(verdict) if verdict.run == context.run));
    assert!(bed.store.marks().is_none() && bed.store.prepares().is_none());
    let probe = bed.store.probe(false).await.expect("the server is up");
    assert!(probe.powers.redo && !probe.powers.mark && !probe.version.is_empty());
}
