//! What is refused, by whom, and how it is said.

use std::time::Duration;

use outrigger::model::commit::LookUp;
use outrigger::model::ids::Lsn;
use outrigger::model::powers::Role;
use outrigger::model::problem::{Code, Problem};
use outrigger::model::request::BoundOp;
use outrigger::store::neo4j::{Neo4j, Neo4jConfig, statements};
use outrigger::store::{Decision, Store, Sweep};
use serde_json::{Value, json};

use crate::contract::{Subject, fresh_name, fresh_owner, fresh_run, no_note};
use crate::{config, op, subject};

async fn refused(subject: &Subject, bound: BoundOp) -> Problem {
    let owner = subject.registered().await;
    let run = fresh_run();
    let mut session = subject.decider(&subject.context(owner, run)).await;
    let problem = session.work(&[bound]).await.expect_err("it is refused");
    session.rollback().await;
    assert!(subject.marks().look_up(&LookUp::Txn(run.txn)).await.unwrap().is_none());
    assert_eq!((problem.operation.as_deref(), problem.store.as_ref()), (Some("node"), Some(subject.store.name())));
    problem
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_a_request_are_named() {
    let (subject, _turn) = subject().await;
    let nested = json!({"id": 1, "p": {"a": 1}});
    for (cypher, params, code, pointer) in [
        ("RETURN $x", json!({"x": u64::MAX}), Code::InvalidRequest, "/operations/0/params/x"),
        ("RETURN $x", json!({"x": [1, {"a/b": [u64::MAX]}]}), Code::InvalidRequest, "/operations/0/params/x/1/a~1b/0"),
        ("RETURN 1", json!({"__ogr": "x"}), Code::InvalidRequest, "/operations/0/params/__ogr"),
        ("RETURN 1", json!({"__ogr_more": 1}), Code::InvalidRequest, "/operations/0/params/__ogr_more"),
        ("RETURN 1", json!([1]), Code::InvalidRequest, "/operations/0/params"),
        ("RETURN $x", json!({}), Code::InvalidRequest, "/operations/0/params"),
        ("CREATE (n:Thing {id: $id, p: $p})", nested, Code::InvalidRequest, "/operations/0/params/p"),
        ("COMMIT", json!({}), Code::InvalidRequest, "/operations/0/cypher"),
        (":begin", json!({}), Code::InvalidRequest, "/operations/0/cypher"),
        ("  // nothing\n", json!({}), Code::InvalidRequest, "/operations/0/cypher"),
    ] {
        let problem = refused(&subject, op(cypher, params, false)).await;
        assert_eq!((problem.code, problem.pointer.as_deref()), (code, Some(pointer)), "{cypher}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_refuses_is_said_in_our_words() {
    let (subject, _turn) = subject().await;
    for (cypher, code, store_code, says) in [
        ("RETRUN 1", Code::RejectedByStore, "Neo.ClientError.Statement.SyntaxError", "Invalid input"),
        ("CREATE (:X); CREATE (:Y)", Code::RejectedByStore, "Neo.ClientError.Statement.SyntaxError", "one statement"),
        ("RETURN 1/0", Code::RejectedByStore, "Neo.ClientError.Statement.ArithmeticError", "zero"),
        ("RETURN date('x')", Code::RejectedByStore, "Neo.ClientError.Statement.SyntaxError", "Date"),
        (
            "UNWIND [1] AS x CALL (x) { CREATE (:Thing) } IN TRANSACTIONS",
            Code::RejectedByStore,
            "Neo.DatabaseError.Statement.ExecutionFailed",
            "leave it out",
        ),
        (
            "CREATE INDEX never FOR (n:Never) ON (n.a)",
            Code::RejectedByStore,
            "Neo.ClientError.Transaction.ForbiddenDueToTransactionType",
            "no schema change",
        ),
        ("CALL no.such.procedure()", Code::RejectedByStore, "Neo.ClientError.Procedure.ProcedureNotFound", "procedure"),
    ] {
        let problem = refused(&subject, op(cypher, json!({}), false)).await;
        assert_eq!(problem.code, code, "{cypher}: {problem}");
        assert_eq!(problem.store_code.as_deref(), Some(store_code), "{cypher}: {problem}");
        assert!(problem.detail.contains(says), "{cypher}: {problem}");
    }
    // A user's own uniqueness constraint.
    let log = subject.registered().await.log.to_string();
    let problem = refused(&subject, op("CREATE (:OutriggerLog {id: $id})", json!({"id": log}), false)).await;
    assert_eq!(problem.code, Code::ConstraintViolation, "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_is_held_to_reading() {
    let (subject, _turn) = subject().await;
    let context = subject.context(fresh_owner(), fresh_run());
    for cypher in
        ["CREATE (:Thing)", "MATCH (t:Thing) SET t.x = 1 RETURN t", "CREATE INDEX never FOR (n:Never) ON (n.a)"]
    {
        let mut session = subject.store.open(&context, Role::Reader).await.unwrap();
        let problem = session.work(&[op(cypher, json!({}), true)]).await.expect_err(cypher);
        assert_eq!(problem.code, Code::RejectedByStore, "{problem}");
        assert!(problem.detail.contains("\"write\": true"), "{problem}");
        session.rollback().await;
    }
    let mut session = subject.store.open(&context, Role::Reader).await.unwrap();
    let ops =
        [op("RETURN 1 AS a", json!({}), true), op("SHOW INDEXES YIELD name RETURN count(*) AS n", json!({}), true)];
    let results = session.work(&ops).await.unwrap();
    assert_eq!(results[0]["rows"], json!([{"a": 1}]));
    assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crossing_writers_are_a_deadlock() {
    let (subject, _turn) = subject().await;
    let owner = subject.registered().await;
    let names = [fresh_name(), fresh_name()];
    for name in &names {
        let session = subject.having_put(&subject.context(owner, fresh_run()), name).await;
        assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)));
    }
    let mut one = subject.having_put(&subject.context(owner, fresh_run()), &names[0]).await;
    let mut two = subject.having_put(&subject.context(owner, fresh_run()), &names[1]).await;
    let (put_one, put_two) = ([(subject.put)(&names[1])], [(subject.put)(&names[0])]);
    let (first, second) = tokio::join!(
        async {
            let done = one.work(&put_one).await;
            one.rollback().await;
            done
        },
        async {
            let done = two.work(&put_two).await;
            two.rollback().await;
            done
        }
    );
    let problems: Vec<Problem> = [first, second].into_iter().filter_map(Result::err).collect();
    assert!(!problems.is_empty(), "somebody must give way");
    for problem in problems {
        assert_eq!(problem.code, Code::Deadlock, "{problem}");
        assert_eq!(problem.store_code.as_deref(), Some("Neo.TransientError.Transaction.DeadlockDetected"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_nodes_cannot_be_swept_away() {
    let (subject, _turn) = subject().await;
    let owner = subject.registered().await;
    let run = fresh_run();
    let id = json!({"id": run.to_string(), "log": owner.log.to_string()});
    for cypher in [
        "MATCH (d:OutriggerDecision {id: $id}) DETACH DELETE d",
        "MATCH (l:OutriggerLog {id: $log}) REMOVE l:OutriggerLog",
    ] {
        let session = {
            let mut session = subject.decider(&subject.context(owner, run)).await;
            session.work(&[op(cypher, id.clone(), false)]).await.unwrap();
            session
        };
        let Decision::Refused(problem) = session.commit(&no_note()).await else { panic!("its marker was gone") };
        assert_eq!(problem.code, Code::RejectedByStore, "{problem}");
        assert!(problem.detail.contains("OutriggerDecision"), "{problem}");
    }
    assert!(subject.marks().look_up(&LookUp::Txn(run.txn)).await.unwrap().is_none());
    let mut session = subject.decider(&subject.context(owner, fresh_run())).await;
    session.work(&[op("CREATE (t:Thing) WITH t DELETE t", json!({}), false)]).await.unwrap();
    assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)), "other deletions are as they were");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_swept_leave_a_witness() {
    let (subject, _turn) = subject().await;
    let owner = subject.registered().await;
    for durable in [7, 9] {
        subject.marks().fence(fresh_run(), owner, Lsn::from_u64(durable)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    let sweep = Sweep { log: owner.log, below: Lsn::from_u64(100), grace: Duration::ZERO, key_ttl: Duration::ZERO };
    assert_eq!(subject.marks().forget(&sweep).await.unwrap().markers, 2);
    assert_eq!(subject.marks().latest_durable(owner.log).await.unwrap(), Lsn::from_u64(9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probing_tells_what_is_there() {
    let (subject, _turn) = subject().await;
    let probe = subject.store.probe(false).await.unwrap();
    assert!(probe.version.starts_with("5.") || probe.version.starts_with("20"), "{}", probe.version);
    assert!(probe.powers.mark && !probe.powers.prepare && !probe.powers.redo);
    assert_eq!(probe.warnings, Vec::<String>::new());
    assert!(statements().iter().all(|statement| statement.contains("IF NOT EXISTS")));
    let wrong = Neo4j::new("graph".into(), Neo4jConfig { password: "wrong".to_owned(), ..config() });
    let problem = wrong.probe(false).await.unwrap_err();
    assert_eq!(problem.code, Code::StoreUnavailable);
    assert!(problem.detail.contains("user and password"), "{problem}");
    let nowhere = Neo4j::new("graph".into(), Neo4jConfig { database: "nowhere".to_owned(), ..config() });
    assert_eq!(nowhere.probe(false).await.unwrap_err().code, Code::StoreUnavailable);
    let closed = Neo4j::new("graph".into(), Neo4jConfig { url: "bolt://127.0.0.1:1".to_owned(), ..config() });
    let begun = std::time::Instant::now();
    assert_eq!(closed.probe(true).await.unwrap_err().code, Code::StoreUnavailable);
    assert!(begun.elapsed() < Duration::from_secs(1), "cheap while it is down");
    let context = subject.context(fresh_owner(), fresh_run());
    for role in [Role::Reader, Role::Decider] {
        let begun = std::time::Instant::now();
        let mut session = closed.open(&context, role).await.unwrap();
        let problem = session.work(&[op("RETURN 1", Value::Null, true)]).await.unwrap_err();
        assert_eq!(problem.code, Code::StoreUnavailable, "{problem}");
        assert!(begun.elapsed() < Duration::from_secs(3), "said soon, not at the deadline");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pool_is_waited_for_to_the_deadline() {
    let (subject, _turn) = subject().await;
    let small = Neo4j::new("graph".into(), Neo4jConfig { pool_max: 1, ..config() });
    let mut context = subject.context(fresh_owner(), fresh_run());
    context.deadline = tokio::time::Instant::now() + Duration::from_millis(200);
    let only = small.open(&context, Role::Reader).await.unwrap();
    assert_eq!(small.open(&context, Role::Reader).await.err().map(|problem| problem.code), Some(Code::Timeout));
    drop(only);
    context.deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    assert!(small.open(&context, Role::Reader).await.is_ok());
}
