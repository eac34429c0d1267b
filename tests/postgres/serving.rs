//! Pools, the server's coming and going, and the marker tables.

use std::sync::Arc;
use std::time::Duration;

use outrigger::journal::slip::Decided;
use outrigger::model::commit::LookUp;
use outrigger::model::ids::Lsn;
use outrigger::model::powers::Role;
use outrigger::model::problem::Code;
use outrigger::model::state::Outcome;
use outrigger::store::postgres::{Postgres, PostgresConfig, statements};
use outrigger::store::{Decision, Fenced, Setback, Store as _, TxnContext};
use serde_json::json;
use tokio::time::Instant;
use xtask::stack::{Stack, Store, Wanted};

use super::{config, op, plain, store, subject, subject_of, url, url_of};
use crate::contract::{fresh_name, fresh_owner, fresh_run, no_note, promises};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_bounded_and_reused() {
    let mut config = config();
    config.pool_max = 2;
    let subject = subject_of(store(config).await).await;
    let owner = subject.registered().await;
    let pid = op("SELECT pg_backend_pid() AS pid", json!([]), false);
    let soon = |owner| TxnContext {
        deadline: Instant::now() + Duration::from_millis(300),
        ..subject.context(owner, fresh_run())
    };
    let mut pids = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let (mut a, mut b) = (
            subject.decider(&subject.context(owner, fresh_run())).await,
            subject.decider(&subject.context(owner, fresh_run())).await,
        );
        for session in [&mut a, &mut b] {
            pids.insert(session.work(std::slice::from_ref(&pid)).await.unwrap()[0]["rows"][0]["pid"].as_i64());
        }
        let Err(problem) = subject.store.open(&soon(owner), Role::Decider).await else { panic!("two are two") };
        assert_eq!(problem.code, Code::Timeout);
        a.rollback().await;
        assert!(matches!(b.commit(&no_note()).await, Decision::Committed(_)));
    }
    assert_eq!(pids.len(), 2, "sessions that end well are reused");
}

/// Nobody but the registered owner's name is on a pooled connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_owner_gets_new_connections() {
    let subject = subject().await;
    let client = plain(url()).await;
    let count = async |name: String| -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
        client.query_one(sql, &[&name]).await.unwrap().get(0)
    };
    let old = subject.registered().await;
    subject.having_put(&subject.context(old, fresh_run()), &fresh_name()).await.rollback().await;
    assert!(count(old.session_name()).await >= 2);
    let new = crate::contract::reopened(old);
    subject.marks().register(new).await.unwrap();
    subject.having_put(&subject.context(new, fresh_run()), &fresh_name()).await.rollback().await;
    subject.marks().end_old_sessions(new).await.unwrap();
    assert_eq!(count(old.session_name()).await, 0);
    assert!(count(new.session_name()).await >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_are_made_once_by_any_number() {
    let client = plain(url()).await;
    let database = format!("made_{}", fresh_name().replace('-', ""));
    client.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
    let parsed: tokio_postgres::Config = url().parse().unwrap();
    let old = format!("/{}", parsed.get_dbname().unwrap());
    let at = url().rfind(&old).unwrap();
    let url = format!("{}/{database}{}", &url()[..at], &url()[at + old.len()..]);
    let fresh = || Postgres::new("pg".into(), PostgresConfig::new(&url));
    let problem = fresh().probe(false).await.unwrap_err();
    assert_eq!(problem.code, Code::RejectedByStore);
    assert!(problem.detail.contains("outrigger init"), "{problem}");
    let stores: Vec<Arc<Postgres>> = (0..8).map(|_| fresh()).collect();
    let probes = futures::future::join_all(stores.iter().map(|store| store.probe(true))).await;
    for probe in probes {
        let probe = probe.unwrap();
        assert!(
            probe.powers.mark
                && probe.powers.prepare
                && !probe.powers.redo
                && probe.version.starts_with(char::is_numeric)
        );
    }
    assert!(fresh().probe(false).await.is_ok());
    let made = plain(&url).await;
    for statement in statements() {
        made.batch_execute(statement).await.unwrap();
    }
    // Only where something is missing is anything made: a role without the right to is as good then.
    let role = format!("r_{}", fresh_name().replace('-', ""));
    let grants = format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA outrigger TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA outrigger TO {role}"
    );
    made.batch_execute(&grants).await.unwrap();
    let config = PostgresConfig { user: Some(role), password: Some("x".to_owned()), ..PostgresConfig::new(&url) };
    let poor = Postgres::new("pg".into(), config);
    poor.probe(true).await.unwrap();
    outrigger::store::Marks::register(&*poor, fresh_owner()).await.unwrap();
    drop((made, stores, poor));
    let _ = client.batch_execute(&format!("DROP DATABASE {database} WITH (FORCE)")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_reached_is_unavailable() {
    for (url, detail) in [
        ("postgres://127.0.0.1:1/x", "refused"),
        ("postgres://nobody:wrong@HOST/x", ""),
        ("not a url", "url"),
        ("postgres:///x", "host"),
    ] {
        let parsed: tokio_postgres::Config = super::url().parse().unwrap();
        let url = url.replace("HOST", &format!("127.0.0.1:{}", parsed.get_ports()[0]));
        let store = Postgres::new("pg".into(), PostgresConfig::new(&url));
        assert!(store.powers().prepare, "hoped for before the first probe");
        let problem = store.probe(false).await.unwrap_err();
        let nonsense = matches!(problem.code, Code::RejectedByStore) && PostgresConfig::new(&url).check().is_err();
        assert!(problem.code == Code::StoreUnavailable || nonsense, "{url}: {problem}");
        assert!(problem.detail.contains(detail) && !problem.detail.contains("wrong"), "{url}: {problem}");
    }
    let shown = format!(
        "{:?}",
        PostgresConfig { password: Some("s3cret".into()), ..PostgresConfig::new("postgres://u:s3cret@h/d") }
    );
    assert!(!shown.contains("s3cret"), "{shown}");
}

/// A fence that somebody else's lock blocks waits, and does not touch them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_ends_nobody_elses_session() {
    let subject = subject().await;
    let owner = subject.registered().await;
    let client = plain(url()).await;
    client.batch_execute("BEGIN; LOCK TABLE outrigger.decision IN SHARE MODE").await.unwrap();
    let fencing = subject.marks().fence(fresh_run(), owner, Lsn::from_u64(5));
    assert!(tokio::time::timeout(Duration::from_millis(500), fencing).await.is_err(), "it waits");
    client.batch_execute("COMMIT").await.expect("it was left alone");
    let fenced = subject.marks().fence(fresh_run(), owner, Lsn::from_u64(5)).await.unwrap();
    assert!(matches!(fenced, Fenced::Aborted(_)));
}

/// More fences at once than there are connections for them, each blocked: all go in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_fences_at_once() {
    let mut config = config();
    config.pool_max = 24;
    let subject = subject_of(store(config).await).await;
    let owner = subject.registered().await;
    let mut sessions = Vec::new();
    for _ in 0..24 {
        let run = fresh_run();
        sessions.push((run, subject.having_put(&subject.context(owner, run), &fresh_name()).await));
    }
    let fences = sessions.iter().map(|(run, _)| subject.marks().fence(*run, owner, Lsn::from_u64(5)));
    for fenced in futures::future::join_all(fences).await {
        assert!(matches!(fenced.unwrap(), Fenced::Aborted(_)));
    }
    for (_, session) in sessions {
        assert!(!matches!(session.commit(&no_note()).await, Decision::Committed(_)));
    }
}

/// kill -9 with promises standing and transactions open: what was acknowledged is there, the store is served again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_comes_back_after_kill_nine() {
    if super::is_external() {
        return;
    }
    let stack = tokio::task::spawn_blocking(|| Stack::fresh("pg-kill", Wanted::only(&[Store::Postgres])).unwrap());
    let stack = Arc::new(stack.await.unwrap());
    let client = plain(&url_of(&stack)).await;
    client.batch_execute("CREATE TABLE thing (name text PRIMARY KEY, count int NOT NULL)").await.unwrap();
    let subject = subject_of(store(PostgresConfig::new(url_of(&stack))).await).await;
    let owner = subject.registered().await;
    let (committed, open, promised) = (fresh_name(), fresh_name(), fresh_name());
    let (run, open_run, promised_run) = (fresh_run(), fresh_run(), fresh_run());
    let session = subject.having_put(&subject.context(owner, run), &committed).await;
    assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)));
    let gid = subject.promised(owner, promised_run, &promised).await;
    let session = subject.having_put(&subject.context(owner, open_run), &open).await;
    let killing = stack.clone();
    tokio::task::spawn_blocking(move || killing.kill(Store::Postgres).unwrap()).await.unwrap();
    assert!(!matches!(session.commit(&no_note()).await, Decision::Committed(_)));
    assert_eq!(subject.store.probe(false).await.unwrap_err().code, Code::StoreUnavailable);
    let fenced = subject.marks().fence(open_run, owner, Lsn::from_u64(5)).await;
    assert!(matches!(fenced, Err(Setback::Again(_))), "{fenced:?}");
    let starting = stack.clone();
    tokio::task::spawn_blocking(move || starting.start(Store::Postgres).unwrap()).await.unwrap();
    subject.store.probe(false).await.unwrap();
    assert!(subject.has(&committed).await && !subject.has(&open).await && !subject.has(&promised).await);
    assert!(subject.marks().look_up(&LookUp::Txn(run.txn)).await.unwrap().is_some());
    assert!(matches!(subject.marks().fence(open_run, owner, Lsn::from_u64(5)).await.unwrap(), Fenced::Aborted(_)));
    assert_eq!(subject.prepares().prepared(owner.log).await.unwrap().len(), 1);
    subject.prepares().finish(&Decided::for_tests(promised_run, Outcome::Committed), &gid).await.unwrap();
    assert!(subject.has(&promised).await);
}

/// Without prepared transactions it says so loudly, and can only decide.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_slots_it_cannot_promise() {
    if super::is_external() {
        return;
    }
    let wanted = Wanted { max_prepared_transactions: 0, ..Wanted::only(&[Store::Postgres]) };
    let stack = tokio::task::spawn_blocking(|| Stack::fresh("pg-slots", wanted).unwrap()).await.unwrap();
    let store = Postgres::new("pg".into(), PostgresConfig::new(url_of(&stack)));
    let probe = store.probe(true).await.unwrap();
    assert!(!probe.powers.prepare && !store.powers().prepare && probe.powers.mark);
    assert!(
        probe.warnings.iter().any(|warning| warning.starts_with("max_prepared_transactions is 0")),
        "{:?}",
        probe.warnings
    );
    let subject = crate::contract::Subject {
        store,
        put: |_| op("CREATE TABLE x ()", json!([]), false),
        get: |_| op("SELECT 1", json!([]), true),
        there: |_| false,
    };
    let owner = subject.registered().await;
    let run = fresh_run();
    let mut session = subject.preparer(&subject.preparing(owner, run), "").await;
    let problem = session.prepare(&promises::gid(owner, run, 1)).await.unwrap_err();
    assert_eq!(problem.store_code.as_deref(), Some("55000"));
    session.rollback().await;
    tokio::task::spawn_blocking(move || drop(stack)).await.unwrap();
}
