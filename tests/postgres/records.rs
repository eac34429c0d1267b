//! `record` operations as rows: names, keys that are not unique, types, and writers that meet.

use outrigger::model::problem::{Code, Problem};
use outrigger::model::record::{Act, IfVersion};
use outrigger::model::request::BoundOp;
use outrigger::store::Decision;
use serde_json::{Value, json};

use crate::contract::records::{self, Place};
use crate::contract::{Subject, fresh_name, fresh_run, no_note};
use crate::postgres::{plain, subject, url};

/// A schema and a table of names that want quoting, and the subject.
async fn place() -> (Subject, Place) {
    let subject = subject().await;
    let name = format!("R\"x.{}", fresh_name());
    let quoted = format!("\"{}\"", name.replace('"', "\"\""));
    let sql = format!(
        "CREATE SCHEMA IF NOT EXISTS \"Odd Schema\"; \
         CREATE TABLE \"Odd Schema\".{quoted} (id bigint PRIMARY KEY, balance int NOT NULL, note varchar(40), version int)"
    );
    plain(url()).await.batch_execute(&sql).await.unwrap();
    (subject, Place { store: "pg", name: format!("Odd Schema.{quoted}"), vector: None })
}

/// One whole transaction.
async fn run(subject: &Subject, ops: Vec<BoundOp>) -> Result<Vec<Value>, Problem> {
    let owner = subject.registered().await;
    let mut session = subject.decider(&subject.context(owner, fresh_run())).await;
    match session.work(&ops).await {
        Ok(results) => {
            let decision = session.commit(&no_note()).await;
            assert!(matches!(decision, Decision::Committed(_)), "{decision:?}");
            Ok(results)
        }
        Err(problem) => {
            session.rollback().await;
            Err(problem)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_act_under_every_condition() {
    let (subject, place) = place().await;
    records::every_act_under_every_condition(&place, async |ops| run(&subject, ops).await).await;
    records::one_transaction_is_one(&place, async |ops| run(&subject, ops).await).await;
    let table = place.name.replacen("Odd Schema", "\"Odd Schema\"", 1);
    let sql = format!("INSERT INTO {table} (id, balance) VALUES (77, 0)");
    plain(url()).await.batch_execute(&sql).await.unwrap();
    records::without_a_version_it_is_at_0(&place, 77, async |ops| run(&subject, ops).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_a_record_is_said() {
    let (subject, place) = place().await;
    let long = "x".repeat(64);
    let table = format!("loose_{}", fresh_name().replace('-', "_"));
    let sql = format!(
        "CREATE TABLE {table} (a int, b text, v text, n int, made int GENERATED ALWAYS AS IDENTITY UNIQUE); \
         INSERT INTO {table} VALUES (1, 'x', 'one', 1), (1, 'y', 'two', 1), (2, 'z', NULL, 1)"
    );
    plain(url()).await.batch_execute(&sql).await.unwrap();
    let op = |act, place_: &str, version: &str, condition, body| place.with(act, place_, version, condition, body);
    let key = |key: Value| json!({"key": key, "set": {}});
    for (bound, code, pointer) in [
        (op(Act::Get, "a.b.c", "n", IfVersion::Any, key(json!({"a": 1}))), Code::InvalidRequest, "/in"),
        (op(Act::Get, "\"open", "n", IfVersion::Any, key(json!({"a": 1}))), Code::InvalidRequest, "/in"),
        (op(Act::Get, "\"a\"b", "n", IfVersion::Any, key(json!({"a": 1}))), Code::InvalidRequest, "/in"),
        (op(Act::Get, "a.", "n", IfVersion::Any, key(json!({"a": 1}))), Code::InvalidRequest, "/in"),
        (op(Act::Get, &long, "n", IfVersion::Any, key(json!({"a": 1}))), Code::InvalidRequest, "/in"),
        (op(Act::Get, &table, &long, IfVersion::Any, key(json!({"a": 1}))), Code::InvalidRequest, "/version"),
        (op(Act::Get, &table, "n", IfVersion::Any, key(json!({"a": "x"}))), Code::InvalidRequest, "/key/a"),
        (
            op(Act::Put, &table, "n", IfVersion::Is(1), json!({"key": {"a": 2}, "set": {"b": 7}})),
            Code::InvalidRequest,
            "/set/b",
        ),
        (op(Act::Get, &table, "n", IfVersion::Any, key(json!({"a": 1}))), Code::RejectedByStore, "/key"),
        (op(Act::Put, &table, "n", IfVersion::Is(1), key(json!({"a": 1}))), Code::RejectedByStore, "/key"),
        (op(Act::Delete, &table, "n", IfVersion::Any, key(json!({"a": 1}))), Code::RejectedByStore, "/key"),
        // Unique by chance is not unique.
        (op(Act::Put, &table, "n", IfVersion::Any, key(json!({"a": 2}))), Code::RejectedByStore, "/key"),
        (op(Act::Put, &table, "n", IfVersion::Absent, key(json!({"a": 9}))), Code::RejectedByStore, "/key"),
        (op(Act::Get, &table, "none", IfVersion::Any, key(json!({"a": 2}))), Code::RejectedByStore, "/version"),
        (op(Act::Get, &table, "b", IfVersion::Any, key(json!({"a": 2}))), Code::RejectedByStore, "/version"),
    ] {
        let problem = run(&subject, vec![bound]).await.expect_err(pointer);
        let expected = format!("/operations/0/record{pointer}");
        assert_eq!((problem.code, problem.pointer.as_deref()), (code, Some(expected.as_str())), "{problem}");
    }
    for (bound, store_code) in [
        (op(Act::Get, "no_such_table", "n", IfVersion::Any, key(json!({"a": 1}))), "42P01"),
        (op(Act::Put, &table, "none", IfVersion::Is(1), key(json!({"a": 2}))), "42703"),
        (op(Act::Put, &table, "v", IfVersion::Is(1), key(json!({"a": 2}))), "42804"),
        (op(Act::Put, &table, "n", IfVersion::Absent, key(json!({"made": 9}))), "428C9"),
    ] {
        let problem = run(&subject, vec![bound]).await.expect_err(store_code);
        assert_eq!(
            (problem.code, problem.store_code.as_deref()),
            (Code::RejectedByStore, Some(store_code)),
            "{problem}"
        );
    }
    let unique = run(&subject, vec![op(Act::Put, &table, "n", IfVersion::Any, key(json!({"a": 2})))]).await;
    assert!(unique.unwrap_err().detail.contains("unique index on exactly these columns"));
    // Where the row is there, a version is enough: nothing can be made.
    run(&subject, vec![op(Act::Put, &table, "n", IfVersion::Is(1), key(json!({"made": 3})))]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_many_types() {
    let (subject, place) = place().await;
    let table = format!("keys_{}", fresh_name().replace('-', "_"));
    let sql = format!(
        "CREATE TABLE {table} (u uuid, v varchar(20), c char(5), d date, flag bool, f jsonb, n numeric, version bigint, \
         PRIMARY KEY (u, v, c, d, flag))"
    );
    plain(url()).await.batch_execute(&sql).await.unwrap();
    let key =
        json!({"u": "0199aa00-0000-7000-8000-00000000000a", "v": "it's", "c": "ab", "d": "2024-02-29", "flag": true});
    let op =
        |act, condition, set: Value| place.with(act, &table, "version", condition, json!({"key": key, "set": set}));
    let set = json!({"f": {"deep": [1, null]}, "n": "12345678901234567890.5"});
    let made = run(&subject, vec![op(Act::Put, IfVersion::Any, set)]).await.unwrap();
    assert_eq!(
        (&made[0]["found"], &made[0]["value"]["f"]),
        (&json!(false), &json!({"deep": [1, null]})),
        "{}",
        made[0]
    );
    assert_eq!((&made[0]["value"]["d"], &made[0]["value"]["v"]), (&key["d"], &key["v"]), "{}", made[0]);
    let again = run(&subject, vec![op(Act::Put, IfVersion::Any, json!({"n": 2}))]).await.unwrap();
    assert_eq!((&again[0]["found"], &again[0]["version"]), (&json!(true), &json!(2)));
    let gone = run(&subject, vec![op(Act::Delete, IfVersion::Is(2), json!({}))]).await.unwrap();
    assert_eq!((&gone[0]["found"], &gone[0]["value"]["f"]["deep"][0]), (&json!(true), &json!(1)));
}

/// Two writers of one version: the second waits for the first, and then is told. Two makers of one record too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_one_is_told() {
    let (subject, place) = place().await;
    run(&subject, vec![place.op(Act::Put, 1, IfVersion::Absent, json!({"balance": 1}))]).await.unwrap();
    for (id, condition) in [(1, IfVersion::Is(1)), (2, IfVersion::Absent)] {
        let owner = subject.registered().await;
        let mut first = subject.decider(&subject.context(owner, fresh_run())).await;
        let put = |balance: i64| [place.op(Act::Put, id, condition, json!({"balance": balance}))];
        first.work(&put(10)).await.unwrap();
        let mut second = subject.decider(&subject.context(owner, fresh_run())).await;
        let put_second = put(20);
        let waiting = second.work(&put_second);
        let ending = async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            assert!(matches!(first.commit(&no_note()).await, Decision::Committed(_)));
        };
        let (told, ()) = tokio::join!(waiting, ending);
        assert_eq!(told.expect_err("it came second").code, Code::Conflict);
        second.rollback().await;
        let seen = run(&subject, vec![place.op(Act::Get, id, IfVersion::Any, json!({}))]).await.unwrap();
        assert_eq!(seen[0]["value"]["balance"], 10);
    }
}
