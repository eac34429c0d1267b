//! What statements may do, what they leave, and how their failures are told.

use std::time::Duration;

use outrigger::model::commit::LookUp;
use outrigger::model::ids::LogOwner;
use outrigger::model::powers::Role;
use outrigger::model::problem::{Code, Problem};
use outrigger::model::request::{Expect, Isolation};
use outrigger::store::{Decision, Session, TxnContext};
use serde_json::{Value, json};

use super::{config, expecting, op, plain, store, subject, url};
use crate::contract::{Subject, fresh_key, fresh_name, fresh_run, no_note};

async fn run(session: &mut Box<dyn Session>, sql: &str, params: Value) -> Result<Value, Problem> {
    Ok(session.work(&[op(sql, params, false)]).await?.remove(0))
}

async fn begin(subject: &Subject, owner: LogOwner) -> Box<dyn Session> {
    subject.decider(&subject.context(owner, fresh_run())).await
}

/// A table of this test's own.
async fn table(columns: &str) -> String {
    let name = format!("t_{}", fresh_name().replace('-', ""));
    plain(url()).await.batch_execute(&format!("CREATE TABLE {name} ({columns})")).await.unwrap();
    name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_told_by_kind_and_operation() {
    let subject = subject().await;
    let owner = subject.registered().await;
    let t = table("id int PRIMARY KEY, n int CHECK (n > 0), m int NOT NULL DEFAULT 1").await;
    for (sql, code, sqlstate) in [
        (format!("INSERT INTO {t} VALUES (1, 1), (1, 1)"), Code::ConstraintViolation, "23505"),
        (format!("INSERT INTO {t} VALUES (1, 0)"), Code::ConstraintViolation, "23514"),
        (format!("INSERT INTO {t} VALUES (1, 1, NULL)"), Code::ConstraintViolation, "23502"),
        ("SELECT * FROM there_is_no_such_table".to_owned(), Code::RejectedByStore, "42P01"),
        ("SELEKT 1".to_owned(), Code::RejectedByStore, "42601"),
        ("SELECT 1; SELECT 2".to_owned(), Code::InvalidRequest, "42601"),
        ("SELECT 1 / (SELECT 0)".to_owned(), Code::RejectedByStore, "22012"),
        ("DO $$ BEGIN RAISE EXCEPTION 'no'; END $$".to_owned(), Code::RejectedByStore, "P0001"),
        ("DO $$ BEGIN COMMIT; END $$".to_owned(), Code::RejectedByStore, "2D000"),
        ("VACUUM".to_owned(), Code::RejectedByStore, "25001"),
        ("SELECT pg_terminate_backend(pg_backend_pid())".to_owned(), Code::StoreUnavailable, "57P01"),
    ] {
        let mut session = begin(&subject, owner).await;
        // In one flight with sound ones before and behind it: the first failure is the one that is told.
        let ops = [op("SELECT 1", json!([]), false), op(&sql, json!([]), false), op("SELECT 2", json!([]), false)];
        let problem = session.work(&ops).await.expect_err(&sql);
        assert_eq!((problem.code, problem.store_code.as_deref()), (code, Some(sqlstate)), "{sql}: {problem}");
        assert_eq!(problem.operation.as_deref(), Some("row"));
        assert_eq!(problem.store.as_ref().map(|name| name.as_str()), Some("pg"));
        session.rollback().await;
    }
    let rows = plain(url()).await.query(&format!("SELECT * FROM {t}"), &[]).await.unwrap();
    assert!(rows.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expectations_are_checked_in_order() {
    let subject = subject().await;
    let owner = subject.registered().await;
    let t = table("id int PRIMARY KEY, n int").await;
    let mut session = begin(&subject, owner).await;
    run(&mut session, &format!("INSERT INTO {t} SELECT i, i FROM generate_series(1, 5) i"), json!([])).await.unwrap();
    let rows = |rows| Expect { rows: Some(rows), ..Expect::default() };
    let equals = |path: &str, value| Expect { equals: vec![(path.to_owned(), value)], ..Expect::default() };
    let update = format!("UPDATE {t} SET n = n + 1 WHERE id <= 2");
    let returning = format!("{update} RETURNING n");
    for (sql, expect) in [
        (&update, rows(2)),
        (&returning, rows(2)),
        (&returning, equals("/rows/0/n", json!(4))),
        (&returning, equals("/rows_affected", json!(2))),
    ] {
        session.work(&[expecting(sql, json!([]), false, expect)]).await.unwrap();
    }
    let late = op("SELECT 1 / (SELECT 0)", json!([]), false);
    let ops = [expecting(&update, json!([]), false, rows(3)), late];
    let problem = session.work(&ops).await.expect_err("two, not three");
    assert_eq!((problem.code, problem.operation.as_deref()), (Code::Conflict, Some("row")), "{problem}");
    assert!(matches!(session.commit(&no_note()).await, Decision::Refused(p) if p == problem));
    assert!(plain(url()).await.query(&format!("SELECT * FROM {t}"), &[]).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ddl_and_what_builds_on_it_share_a_transaction() {
    let subject = subject().await;
    let owner = subject.registered().await;
    let t = format!("t_{}", fresh_name().replace('-', ""));
    for commits in [false, true, false] {
        let mut session = begin(&subject, owner).await;
        let ops = [
            op(&format!("DROP TABLE IF EXISTS {t}"), json!([]), false),
            op(&format!("CREATE TABLE {t} (id int)"), json!([]), false),
            op(&format!("INSERT INTO {t} VALUES ($1) RETURNING *"), json!([7]), false),
            op(&format!("ALTER TABLE {t} ADD COLUMN name text DEFAULT 'x'"), json!([]), false),
            op(&format!("SELECT * FROM {t}"), json!([]), false),
        ];
        let results = session.work(&ops).await.unwrap();
        assert_eq!(results[4], json!({"rows": [{"id": 7, "name": "x"}], "rows_affected": 1}));
        if commits {
            assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)));
        } else {
            session.rollback().await;
        }
    }
}

/// A table changes under the statements that pooled connections have prepared: nobody notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_changes_pass_unnoticed() {
    let subject = subject().await;
    let owner = subject.registered().await;
    let t = table("id int").await;
    let client = plain(url()).await;
    let select = format!("SELECT * FROM {t}");
    let insert = format!("INSERT INTO {t} (id) VALUES ($1)");
    for (change, value) in [
        ("ADD COLUMN a int", json!(1)),
        ("ALTER COLUMN id TYPE bigint", json!(1_i64 << 40)),
        ("ALTER COLUMN id TYPE text", json!("text now")),
        ("DROP COLUMN a", json!("x")),
    ] {
        let mut session = begin(&subject, owner).await;
        let before = if change.contains("ADD") { json!(0) } else { json!(null) };
        session.work(&[op(&select, json!([]), false), op(&insert, json!([before]), false)]).await.unwrap();
        session.rollback().await;
        client.batch_execute(&format!("ALTER TABLE {t} {change}")).await.unwrap();
        let mut session = begin(&subject, owner).await;
        let ops = [op(&select, json!([]), false), op(&insert, json!([value]), false)];
        session.work(&ops).await.unwrap_or_else(|problem| panic!("{change}: {problem}"));
        session.rollback().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_as_it_should_be_whatever_the_server_is_set_to() {
    let sep = if url().contains('?') { '&' } else { '?' };
    let options = "-c%20synchronous_commit%3Doff%20-c%20default_transaction_isolation%3Dserializable";
    let mut config = config();
    config.url = format!("{}{sep}options={options}", url());
    let store = store(config).await;
    let subject = super::subject_of(store).await;
    let owner = subject.registered().await;
    for (isolation, level) in [
        (Isolation::ReadCommitted, "read committed"),
        (Isolation::RepeatableRead, "repeatable read"),
        (Isolation::Serializable, "serializable"),
    ] {
        for (role, read_only) in [(Role::Reader, "on"), (Role::Decider, "off")] {
            let context = TxnContext { isolation, ..subject.context(owner, fresh_run()) };
            let mut session = subject.store.open(&context, role).await.unwrap();
            let sql = "SELECT current_setting('transaction_isolation') AS level,
                current_setting('transaction_read_only') AS read_only, current_setting('synchronous_commit') AS sync,
                current_setting('default_transaction_read_only') AS guard, current_setting('lock_timeout') AS locks,
                current_setting('application_name') AS name";
            let result = session.work(&[op(sql, json!([]), role == Role::Reader)]).await.unwrap().remove(0);
            let expected = json!({"level": level, "read_only": read_only, "sync": "on", "guard": "on",
                "locks": "10s", "name": owner.session_name()});
            assert_eq!(result["rows"][0], expected);
            session.rollback().await;
        }
    }
}

/// Nothing that one transaction does to its session is met by the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_clean() {
    let mut config = config();
    config.pool_max = 1;
    let subject = super::subject_of(store(config).await).await;
    let owner = subject.registered().await;
    for commits in [true, false] {
        let mut session = begin(&subject, owner).await;
        let ops = [
            op("SET LOCAL search_path = nowhere", json!([]), false),
            op("SELECT set_config('work_mem', '77MB', false)", json!([]), false),
            op("SELECT pg_advisory_lock(4711)", json!([]), false),
            op("CREATE TEMP TABLE mine (id int)", json!([]), false),
        ];
        session.work(&ops).await.unwrap();
        if commits {
            assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)));
        } else {
            session.rollback().await;
        }
        let mut next = begin(&subject, owner).await;
        let sql = "SELECT current_setting('work_mem') AS mem, to_regclass('mine') IS NULL AS gone,
            pg_try_advisory_xact_lock(4711) AS free, current_setting('search_path') AS path";
        // The old backend may be on its way out still.
        let mut row = Value::Null;
        for _ in 0..50 {
            row = run(&mut next, sql, json!([])).await.unwrap()["rows"][0].clone();
            if row["free"] == json!(true) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(row["mem"] != json!("77MB") && row["path"] != json!("nowhere"), "{row}");
        assert_eq!((&row["gone"], &row["free"]), (&json!(true), &json!(true)), "{row}");
        next.rollback().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_statements_are_bounded() {
    let mut config = config();
    config.pool_max = 1;
    let subject = super::subject_of(store(config).await).await;
    let owner = subject.registered().await;
    for round in 0..4 {
        let mut session = begin(&subject, owner).await;
        let ops: Vec<_> = (0..100).map(|i| op(&format!("SELECT {i} + {round} AS n"), json!([]), false)).collect();
        let results = session.work(&ops).await.unwrap();
        assert_eq!(results[99]["rows"][0]["n"], json!(99 + round));
        session.rollback().await;
    }
    let mut session = begin(&subject, owner).await;
    let count = "SELECT count(*) AS n FROM pg_prepared_statements";
    let n = run(&mut session, count, json!([])).await.unwrap()["rows"][0]["n"].as_i64().unwrap();
    // 256 of ours, and one that the client prepares for itself to learn of types.
    assert!((200..=258).contains(&n), "{n} prepared statements");
    session.rollback().await;
}

/// Serializable transactions with keys, side by side on different rows: their markers and notes make no conflicts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markers_make_no_serialization_failures() {
    let subject = subject().await;
    let owner = subject.registered().await;
    let note = outrigger::model::commit::MarkerNote { answer: Some("{}".to_owned()), redo: Vec::new() };
    let t = table("id int PRIMARY KEY, n int NOT NULL").await;
    // Rows far apart, so that the table's own pages are no shared ground.
    let client = plain(url()).await;
    client
        .batch_execute(&format!("INSERT INTO {t} SELECT i, 0 FROM generate_series(1, 40000) i; ANALYZE {t}"))
        .await
        .unwrap();
    for _ in 0..20 {
        let lives = (0..8).map(|life| {
            let (subject, note, t) = (&subject, &note, &t);
            async move {
                let isolation = Isolation::Serializable;
                let run = fresh_run();
                let context = TxnContext { isolation, key: Some(fresh_key()), ..subject.context(owner, run) };
                let mut session = subject.decider(&context).await;
                let update = op(&format!("UPDATE {t} SET n = n + 1 WHERE id = $1"), json!([life * 5000 + 1]), false);
                session.work(&[update]).await.expect("no conflict");
                let decision = session.commit(note).await;
                assert!(matches!(decision, Decision::Committed(_)), "{decision:?}");
                let marker = subject.marks().look_up(&LookUp::Txn(run.txn)).await.unwrap().unwrap();
                assert_eq!(marker.answer.as_deref(), Some("{}"));
            }
        });
        futures::future::join_all(lives).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn races_among_transactions_have_their_codes() {
    let subject = subject().await;
    let owner = subject.registered().await;
    let t = table("id int PRIMARY KEY, n int").await;
    plain(url()).await.batch_execute(&format!("INSERT INTO {t} VALUES (1, 0), (2, 0)")).await.unwrap();
    let update = |id: i32| op(&format!("UPDATE {t} SET n = n + 1 WHERE id = {id}"), json!([]), false);
    // A deadlock: one of the two is its victim, the other goes through.
    let (mut a, mut b) = (begin(&subject, owner).await, begin(&subject, owner).await);
    a.work(&[update(1)]).await.unwrap();
    b.work(&[update(2)]).await.unwrap();
    let (a2, b1) = ([update(2)], [update(1)]);
    let (first, second) = tokio::join!(a.work(&a2), async {
        let result = b.work(&b1).await;
        if result.is_err() {
            b.rollback().await;
        }
        result
    });
    let victims: Vec<_> = [first, second].into_iter().filter_map(Result::err).collect();
    assert_eq!(victims.iter().map(|p| p.code).collect::<Vec<_>>(), [Code::Deadlock], "{victims:?}");
    a.rollback().await;
    // A snapshot that another transaction has overtaken.
    let context = TxnContext { isolation: Isolation::RepeatableRead, ..subject.context(owner, fresh_run()) };
    let mut late = subject.decider(&context).await;
    run(&mut late, &format!("SELECT * FROM {t}"), json!([])).await.unwrap();
    let mut early = begin(&subject, owner).await;
    early.work(&[update(1)]).await.unwrap();
    assert!(matches!(early.commit(&no_note()).await, Decision::Committed(_)));
    let problem = late.work(&[update(1)]).await.unwrap_err();
    assert_eq!((problem.code, problem.store_code.as_deref()), (Code::Serialization, Some("40001")));
    late.rollback().await;
}

/// What is found only at the commit (a deferred constraint) is refused there, without an operation, at the promise too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deferred_constraints_speak_at_the_end() {
    let subject = subject().await;
    let owner = subject.registered().await;
    let t = table("id int UNIQUE DEFERRABLE INITIALLY DEFERRED").await;
    let twice = op(&format!("INSERT INTO {t} VALUES (1), (1)"), json!([]), false);
    let run = fresh_run();
    let mut session = subject.decider(&subject.context(owner, run)).await;
    session.work(std::slice::from_ref(&twice)).await.unwrap();
    let Decision::Refused(problem) = session.commit(&no_note()).await else { panic!("it is refused") };
    assert_eq!((problem.code, &problem.operation), (Code::ConstraintViolation, &None));
    assert!(subject.marks().look_up(&LookUp::Txn(run.txn)).await.unwrap().is_none());
    let mut session = subject.store.open(&subject.preparing(owner, run), Role::Preparer).await.unwrap();
    session.work(&[twice]).await.unwrap();
    let gid = crate::contract::promises::gid(owner, run, 1);
    assert_eq!(session.prepare(&gid).await.unwrap_err().code, Code::ConstraintViolation);
    session.rollback().await;
    assert!(subject.prepares().prepared(owner.log).await.unwrap().is_empty());
}

/// A key that is running elsewhere: whoever comes second waits for its end, and then knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_key_is_waited_for() {
    let subject = subject().await;
    let owner = subject.registered().await;
    let key = fresh_key();
    let with_key = || TxnContext { key: Some(key.clone()), ..subject.context(owner, fresh_run()) };
    for first_commits in [false, true] {
        let first = subject.having_put(&with_key(), &fresh_name()).await;
        let context = with_key();
        let mut second = subject.decider(&context).await;
        let name = fresh_name();
        let put = [(subject.put)(&name)];
        let ending = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if first_commits { drop(first.commit(&no_note()).await) } else { first.rollback().await }
        };
        let (worked, ()) = tokio::join!(second.work(&put), ending);
        match worked {
            Ok(_) => assert!(!first_commits),
            Err(problem) => assert_eq!(problem.store_code.as_deref(), Some(outrigger::store::postgres::KEY_TAKEN)),
        }
        second.rollback().await;
    }
    let first = subject.having_put(&TxnContext { key: Some(fresh_key()), ..with_key() }, &fresh_name()).await;
    first.rollback().await;
    // Longer than a lock may be waited for: it is in flight.
    let key = fresh_key();
    let with_key = || TxnContext { key: Some(key.clone()), ..subject.context(owner, fresh_run()) };
    let holder = subject.having_put(&with_key(), &fresh_name()).await;
    let mut waiter = subject.decider(&TxnContext { lock_wait: Duration::from_millis(200), ..with_key() }).await;
    let problem = waiter.work(&[]).await.unwrap_err();
    assert_eq!((problem.code, problem.store_code.as_deref()), (Code::InFlight, Some("55P03")));
    waiter.rollback().await;
    holder.rollback().await;
}
