//! What `record` operations do, in every store alike.

// Every store's binary uses its part; all of it is test code.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::sync::Arc;

use outrigger::model::problem::{Code, Problem};
use outrigger::model::record::{Act, IfVersion, Record};
use outrigger::model::reference::Template;
use outrigger::model::request::{Action, BoundOp, Expect, Operation};
use serde_json::{Value, json};

/// Where the records are.
pub struct Place {
    /// A configured store.
    pub store: &'static str,
    /// A table, label or collection of the test's own: records have `id`, `balance`, `note` and `version`.
    pub name: String,
    /// What a put must bring to make a point.
    pub vector: Option<Value>,
}

impl Place {
    /// An operation on the record `id`.
    pub fn op(&self, act: Act, id: i64, condition: IfVersion, set: Value) -> BoundOp {
        self.with(act, &self.name, "version", condition, json!({"key": {"id": id}, "set": set}))
    }

    /// The same with every part named.
    pub fn with(&self, act: Act, place: &str, version: &str, condition: IfVersion, mut body: Value) -> BoundOp {
        if act != Act::Put {
            body.as_object_mut().unwrap().remove("set");
        } else if let Some(vector) = &self.vector {
            body["vector"] = vector.clone();
        }
        let template = Template::plain(body.clone());
        let record = Record { act, place: place.to_owned(), body: template, version: version.to_owned(), condition };
        let operation = Operation {
            id: "r".to_owned(),
            store: self.store.into(),
            reads: act.reads(),
            action: Action::Record(record),
            expect: Expect::default(),
            pointer: "/operations/0".to_owned(),
        };
        BoundOp { op: Arc::new(operation), values: body }
    }

    fn put(&self, id: i64, condition: IfVersion, set: Value) -> BoundOp {
        self.op(Act::Put, id, condition, set)
    }

    fn get(&self, id: i64) -> BoundOp {
        self.op(Act::Get, id, IfVersion::Any, json!({}))
    }
}

#[track_caller]
fn is(result: &Value, found: bool, version: Option<i64>, balance: Option<i64>) {
    assert_eq!((&result["found"], &result["version"]), (&json!(found), &json!(version)), "{result}");
    assert_eq!(result["value"]["balance"], json!(balance), "{result}");
    assert_eq!(result["value"].is_object(), balance.is_some(), "{result}");
}

/// Every act under every condition, on a record that is there and on one that is not. `run` runs one whole transaction.
pub async fn every_act_under_every_condition(
    place: &Place,
    run: impl AsyncFn(Vec<BoundOp>) -> Result<Vec<Value>, Problem>,
) {
    use Act::{Delete, Get, Put};
    use IfVersion::{Absent, Any, Is};
    let one = async |act: Act, condition: IfVersion, balance: i64| {
        run(vec![place.op(act, 1, condition, json!({"balance": balance}))]).await.map(|mut all| all.remove(0))
    };
    let refused = async |act: Act, condition: IfVersion| {
        let problem = one(act, condition, -1).await.expect_err("it is not as it must be");
        assert_eq!(problem.code, Code::Conflict, "{act:?} {condition:?}: {problem}");
        assert_eq!(problem.pointer.as_deref(), Some("/operations/0/record/if_version"), "{problem}");
        assert_eq!(problem.operation.as_deref(), Some("r"), "{problem}");
    };
    // It is not there.
    for (act, condition) in [(Get, Is(0)), (Get, Is(1)), (Put, Is(0)), (Put, Is(1)), (Delete, Is(0)), (Delete, Is(1))] {
        refused(act, condition).await;
    }
    for (act, condition) in [(Get, Any), (Get, Absent), (Delete, Any), (Delete, Absent)] {
        is(&one(act, condition, 0).await.unwrap(), false, None, None);
    }
    is(&one(Put, Absent, 10).await.unwrap(), false, Some(1), Some(10));
    // It is there, at version 1.
    for (act, condition) in [(Get, Absent), (Get, Is(0)), (Get, Is(2)), (Put, Absent), (Put, Is(0)), (Put, Is(2))] {
        refused(act, condition).await;
    }
    for condition in [Absent, Is(0), Is(2)] {
        refused(Delete, condition).await;
    }
    is(&one(Get, Any, 0).await.unwrap(), true, Some(1), Some(10));
    is(&one(Get, Is(1), 0).await.unwrap(), true, Some(1), Some(10));
    // A put merges: what it does not name stays.
    let note = run(vec![place.put(1, Is(1), json!({"note": "it's `here` \"now\" \\ $1"}))]).await.unwrap();
    is(&note[0], true, Some(2), Some(10));
    is(&one(Put, Any, 30).await.unwrap(), true, Some(3), Some(30));
    let seen = one(Get, Is(3), 0).await.unwrap();
    assert_eq!(seen["value"]["note"], "it's `here` \"now\" \\ $1");
    run(vec![place.put(1, Is(3), json!({"note": null}))]).await.unwrap();
    let seen = one(Get, Any, 0).await.unwrap();
    assert!(seen["value"]["note"].is_null(), "{seen}");
    is(&one(Delete, Is(4), 0).await.unwrap(), true, Some(4), Some(30));
    is(&one(Get, Any, 0).await.unwrap(), false, None, None);
    is(&one(Put, Any, 5).await.unwrap(), false, Some(1), Some(5));
    is(&one(Delete, Any, 0).await.unwrap(), true, Some(1), Some(5));
}

/// A conflict leaves nothing of its transaction, and a transaction sees its own records.
pub async fn one_transaction_is_one(place: &Place, run: impl AsyncFn(Vec<BoundOp>) -> Result<Vec<Value>, Problem>) {
    use IfVersion::{Absent, Any, Is};
    let ops = vec![
        place.get(1),
        place.put(1, Absent, json!({"balance": 1})),
        place.get(1),
        place.put(1, Is(1), json!({"balance": 2})),
        place.put(2, Any, json!({"balance": 7})),
        place.put(2, Any, json!({"balance": 8})),
        place.op(Act::Delete, 1, Is(2), json!({})),
        place.get(1),
        place.get(2),
    ];
    let results = run(ops).await.unwrap();
    is(&results[0], false, None, None);
    is(&results[1], false, Some(1), Some(1));
    is(&results[2], true, Some(1), Some(1));
    is(&results[3], true, Some(2), Some(2));
    is(&results[5], true, Some(2), Some(8));
    is(&results[6], true, Some(2), Some(2));
    is(&results[7], false, None, None);
    is(&results[8], true, Some(2), Some(8));
    let spoilt = vec![place.put(3, Any, json!({"balance": 1})), place.put(2, Is(1), json!({"balance": 9}))];
    assert_eq!(run(spoilt).await.unwrap_err().code, Code::Conflict);
    let left = run(vec![place.get(1), place.get(2), place.get(3)]).await.unwrap();
    is(&left[0], false, None, None);
    is(&left[1], true, Some(2), Some(8));
    is(&left[2], false, None, None);
}

/// A record that nobody has versioned has version 0. `id` names one that is there, without a version.
pub async fn without_a_version_it_is_at_0(
    place: &Place,
    id: i64,
    run: impl AsyncFn(Vec<BoundOp>) -> Result<Vec<Value>, Problem>,
) {
    let seen = run(vec![place.get(id)]).await.unwrap();
    assert_eq!((&seen[0]["found"], &seen[0]["version"]), (&json!(true), &json!(0)), "{}", seen[0]);
    let refused = run(vec![place.put(id, IfVersion::Is(1), json!({"balance": 1}))]).await.unwrap_err();
    assert_eq!(refused.code, Code::Conflict);
    let put = run(vec![place.put(id, IfVersion::Is(0), json!({"balance": 1}))]).await.unwrap();
    is(&put[0], true, Some(1), Some(1));
}
