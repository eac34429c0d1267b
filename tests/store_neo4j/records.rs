//! `record` operations as nodes: names, keys without a constraint, and writers that meet.

use outrigger::model::problem::{Code, Problem};
use outrigger::model::record::{Act, IfVersion};
use outrigger::model::request::BoundOp;
use outrigger::store::Decision;
use serde_json::{Value, json};

use crate::contract::records::{self, Place};
use crate::contract::{Subject, fresh_name, fresh_run, no_note};
use crate::{STACK, config, op, subject};

fn cypher(text: &str) {
    config();
    STACK.get().unwrap().bolt().unwrap().run(text, json!({})).unwrap();
}

/// A label that wants quoting, its `id` unique.
fn place() -> Place {
    let name = format!("It`s {}", fresh_name());
    let quoted = name.replace('`', "``");
    cypher(&format!("CREATE CONSTRAINT FOR (n:`{quoted}`) REQUIRE n.id IS UNIQUE"));
    Place { store: "graph", name, vector: None }
}

/// One whole transaction.
async fn run(subject: &Subject, ops: Vec<BoundOp>) -> Result<Vec<Value>, Problem> {
    let owner = subject.registered().await;
    let mut session = subject.decider(&subject.context(owner, fresh_run())).await;
    match session.work(&ops).await {
        Ok(results) => match session.commit(&no_note()).await {
            Decision::Committed(_) => Ok(results),
            Decision::Refused(problem) => Err(problem),
            Decision::Lost(why) => panic!("{why}"),
        },
        Err(problem) => {
            session.rollback().await;
            Err(problem)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_act_under_every_condition() {
    let (subject, _turn) = subject().await;
    let place = place();
    records::every_act_under_every_condition(&place, async |ops| run(&subject, ops).await).await;
    records::one_transaction_is_one(&place, async |ops| run(&subject, ops).await).await;
    let quoted = place.name.replace('`', "``");
    cypher(&format!("CREATE (:`{quoted}` {{id: 77}})"));
    records::without_a_version_it_is_at_0(&place, 77, async |ops| run(&subject, ops).await).await;
    // Behind another operation, it is a statement of its own, and the marker's.
    let made = run(
        &subject,
        vec![
            op("CREATE (t:Thing {name: $n})", json!({"n": fresh_name()}), false),
            place.op(Act::Put, 5, IfVersion::Any, json!({"balance": 1})),
        ],
    );
    assert_eq!(made.await.unwrap()[1]["found"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_a_record_is_said() {
    let (subject, _turn) = subject().await;
    let (place, loose) = (place(), format!("Loose{}", fresh_name().replace('-', "")));
    cypher(&format!("UNWIND [1, 1, 2] AS id CREATE (n:{loose} {{id: id, version: 1, v: 'one'}}) CREATE (n)-[:X]->(n)"));
    let op = |act, label: &str, version: &str, condition, body| place.with(act, label, version, condition, body);
    let key = |id: Value| json!({"key": {"id": id}, "set": {}});
    for (bound, code, pointer) in [
        (op(Act::Get, "a\\u0060", "n", IfVersion::Any, key(json!(1))), Code::InvalidRequest, "/in"),
        (op(Act::Get, &loose, "n\\", IfVersion::Any, key(json!(1))), Code::InvalidRequest, "/version"),
        (op(Act::Get, &loose, "n", IfVersion::Any, key(json!(u64::MAX))), Code::InvalidRequest, "/key/id"),
        (
            op(Act::Put, &loose, "n", IfVersion::Is(1), json!({"key": {"id": 2}, "set": {"x": {"y": 1}}})),
            Code::InvalidRequest,
            "/set/x",
        ),
        (op(Act::Get, &loose, "version", IfVersion::Any, key(json!(1))), Code::RejectedByStore, "/key"),
        (op(Act::Put, &loose, "version", IfVersion::Is(1), key(json!(1))), Code::RejectedByStore, "/key"),
        // Nothing keeps two from being made.
        (op(Act::Put, &loose, "version", IfVersion::Any, key(json!(2))), Code::RejectedByStore, "/key"),
        (op(Act::Put, &loose, "version", IfVersion::Absent, key(json!(3))), Code::RejectedByStore, "/key"),
        (op(Act::Get, &loose, "v", IfVersion::Any, key(json!(2))), Code::RejectedByStore, "/version"),
    ] {
        let problem = run(&subject, vec![bound]).await.expect_err(pointer);
        let expected = format!("/operations/0/record{pointer}");
        assert_eq!((problem.code, problem.pointer.as_deref()), (code, Some(expected.as_str())), "{problem}");
    }
    // What has relations is not torn out of them.
    let tied = run(&subject, vec![op(Act::Delete, &loose, "version", IfVersion::Is(1), key(json!(2)))]).await;
    assert_eq!(tied.unwrap_err().code, Code::ConstraintViolation);
    run(&subject, vec![op(Act::Put, &loose, "version", IfVersion::Is(1), key(json!(2)))]).await.unwrap();
    // A constraint that comes later is seen.
    let place = Place { name: format!("{loose}X"), ..place };
    assert!(run(&subject, vec![place.op(Act::Put, 1, IfVersion::Any, json!({}))]).await.is_err());
    cypher(&format!("CREATE CONSTRAINT FOR (n:{}) REQUIRE n.id IS UNIQUE", place.name));
    run(&subject, vec![place.op(Act::Put, 1, IfVersion::Any, json!({}))]).await.unwrap();
}

/// Two writers of one version: the second waits for the first, and then is told; so is whoever waits for a node that is
/// deleted meanwhile, and the second of two makers. Whoever puts whatever is there runs
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_one_is_told() {
    let (subject, _turn) = subject().await;
    let place = place();
    let (put, delete) = (Act::Put, Act::Delete);
    for (id, first_act, condition, refused, left) in [
        (1, put, IfVersion::Is(1), Some(Code::Conflict), json!(10)),
        (2, put, IfVersion::Absent, Some(Code::Conflict), json!(10)),
        (3, delete, IfVersion::Is(1), Some(Code::Conflict), Value::Null),
        (4, delete, IfVersion::Any, Some(Code::Serialization), Value::Null),
        (5, put, IfVersion::Any, None, json!(20)),
    ] {
        if condition != IfVersion::Absent {
            run(&subject, vec![place.op(put, id, IfVersion::Absent, json!({"balance": 1}))]).await.unwrap();
        }
        let owner = subject.registered().await;
        let mut first = subject.decider(&subject.context(owner, fresh_run())).await;
        first.work(&[place.op(first_act, id, condition, json!({"balance": 10}))]).await.unwrap();
        let mut second = subject.decider(&subject.context(owner, fresh_run())).await;
        let second_put = [place.op(put, id, condition, json!({"balance": 20}))];
        let waiting = second.work(&second_put);
        let ending = async {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            assert!(matches!(first.commit(&no_note()).await, Decision::Committed(_)));
        };
        let (told, ()) = tokio::join!(waiting, ending);
        assert_eq!(told.as_ref().err().map(|problem| problem.code), refused, "{id}: {told:?}");
        if refused.is_some() {
            second.rollback().await;
        } else {
            assert!(matches!(second.commit(&no_note()).await, Decision::Committed(_)));
        }
        let seen = run(&subject, vec![place.op(Act::Get, id, IfVersion::Any, json!({}))]).await.unwrap();
        assert_eq!(seen[0]["value"]["balance"], left, "{id}");
    }
}
