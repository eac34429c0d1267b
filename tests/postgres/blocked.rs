//! Who else may be in the way in PostgreSQL: strangers, and prepared transactions, which have no session.

use outrigger::model::commit::{Decider, Gid};
use outrigger::model::ids::{Attempt, LogOwner, Lsn, Run};
use outrigger::model::powers::Role;
use outrigger::model::wait::Party;
use outrigger::store::{Decision, Session};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{config, op, plain, store, subject, subject_of, url};
use crate::contract::waits::{SOON, ours, pairs};
use crate::contract::{Subject, fresh_name, fresh_owner, fresh_run, no_note, promises};

fn stranger(pid: i32) -> Party {
    let user = url().parse::<tokio_postgres::Config>().unwrap().get_user().unwrap().to_owned();
    Party::Foreign(format!("pg: pid {pid}, psql of {user} at 127.0.0.1").into())
}

/// A session of somebody else, and its pid.
async fn psql() -> (tokio_postgres::Client, i32) {
    let client = plain(url()).await;
    client.batch_execute("SET application_name = 'psql'").await.unwrap();
    let pid = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    (client, pid)
}

fn lock_row(name: &str) -> String {
    format!("UPDATE thing SET count = count + 1 WHERE name = '{name}'")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circle_through_a_stranger_is_seen_by_name() {
    let subject = subject().await;
    let owner = subject.registered().await;
    let (mine, theirs) = (subject.standing(owner).await, subject.standing(owner).await);
    let (client, pid) = psql().await;
    client.batch_execute(&format!("BEGIN; {}", lock_row(&theirs))).await.unwrap();
    let run = fresh_run();
    let mut session = subject.having_put(&subject.context(owner, run), &mine).await;
    let update = [op(&lock_row(&theirs), json!([]), false)];
    let waiter = tokio::spawn(async move {
        let done = session.work(&update).await;
        (session, done)
    });
    let edges = subject.edges(&[run], 1).await;
    assert_eq!(pairs(&edges), [(ours(run), stranger(pid))]);
    assert!(edges[0].resource.starts_with("row (") && edges[0].resource.ends_with(") of thing"), "{edges:?}");
    let wanted = lock_row(&mine);
    let theirs_to_wait = tokio::spawn(async move { client.batch_execute(&wanted).await });
    let seen = pairs(&subject.edges(&[run], 2).await);
    assert_eq!(seen, [(ours(run), stranger(pid)), (stranger(pid), ours(run))]);
    subject.blockers().interrupt(run).await.unwrap();
    let (session, done) = timeout(SOON, waiter).await.expect("it was interrupted").unwrap();
    done.unwrap_err();
    session.rollback().await;
    timeout(SOON, theirs_to_wait).await.expect("its turn").unwrap().expect("the stranger goes on");
}

/// A session that locks the table in a mode, in a task of its own.
async fn locking(subject: &Subject, owner: LogOwner, run: Run, mode: &str) -> JoinHandle<Box<dyn Session>> {
    let mut session = subject.decider(&subject.context(owner, run)).await;
    let lock = [op(&format!("LOCK TABLE thing_locked IN {mode} MODE"), json!([]), false)];
    tokio::spawn(async move {
        session.work(&lock).await.expect("it has its turn");
        session
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction_in_the_way_is_named_by_its_gid() {
    let subject = subject().await;
    let owner = subject.registered().await;
    let other = fresh_owner();
    let client = plain(url()).await;
    let by_hand = format!("by-hand-{}", fresh_name());
    let (first, again) = (fresh_run(), fresh_run());
    let again = Run { txn: again.txn, attempt: again.attempt.next() };
    for (prepared, rerun) in [(first, None), (fresh_run(), Some(again))] {
        let name = subject.standing(owner).await;
        let leftover = Run { attempt: Attempt::FIRST, ..again };
        let held = if rerun.is_some() { leftover } else { prepared };
        let gid = subject.promised(owner, held, &name).await;
        let waiter = fresh_run();
        let waiting = subject.wanting(owner, waiter, &name).await;
        let mut asked = vec![waiter];
        asked.extend(rerun);
        let holder = match rerun {
            None => ours(prepared),
            // Another attempt of its transaction is at work: what waits for this one does not wait for that.
            Some(_) => Party::Foreign(format!("pg: the prepared transaction {gid}").into()),
        };
        assert_eq!(pairs(&subject.edges(&asked, 1).await), [(ours(waiter), holder)]);
        client.batch_execute(&format!("ROLLBACK PREPARED '{gid}'")).await.unwrap();
        timeout(SOON, waiting).await.expect("its turn").unwrap().0.rollback().await;
    }
    // Of another log, and of nobody's: foreign, by their names.
    let name = subject.standing(owner).await;
    let others = promises::gid(other, fresh_run(), 1);
    for gid in [others.to_string(), by_hand] {
        client.batch_execute(&format!("BEGIN; {}; PREPARE TRANSACTION '{gid}'", lock_row(&name))).await.unwrap();
        let waiter = fresh_run();
        let waiting = subject.wanting(owner, waiter, &name).await;
        let named = Party::Foreign(format!("pg: the prepared transaction {gid}").into());
        assert_eq!(pairs(&subject.edges(&[waiter], 1).await), [(ours(waiter), named)]);
        client.batch_execute(&format!("ROLLBACK PREPARED '{gid}'")).await.unwrap();
        timeout(SOON, waiting).await.expect("its turn").unwrap().0.rollback().await;
    }
}

/// Two prepared transactions hold locks on the table that is waited for; only one of them is in the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_prepared_transaction_that_conflicts_is_in_the_way() {
    let subject = subject().await;
    let owner = subject.registered().await;
    let client = plain(url()).await;
    client.batch_execute("CREATE TABLE IF NOT EXISTS thing_locked (id int)").await.unwrap();
    let runs = [fresh_run(), fresh_run()];
    let gids = runs.map(|run| Gid { log: owner.log, run, durable: Lsn::from_u64(1), decider: Decider::Wal });
    for (gid, mode) in gids.iter().zip(["ACCESS SHARE", "ROW EXCLUSIVE"]) {
        let sql = format!("BEGIN; LOCK TABLE thing_locked IN {mode} MODE; SELECT pg_current_xact_id()");
        client.batch_execute(&format!("{sql}; PREPARE TRANSACTION '{gid}'")).await.unwrap();
    }
    let waiter = fresh_run();
    let waiting = locking(&subject, owner, waiter, "SHARE").await;
    assert_eq!(pairs(&subject.edges(&[waiter], 1).await), [(ours(waiter), ours(runs[1]))]);
    for gid in gids {
        client.batch_execute(&format!("ROLLBACK PREPARED '{gid}'")).await.unwrap();
    }
    timeout(SOON, waiting).await.expect("its turn").unwrap().rollback().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pool_blinds_nobody() {
    let mut config = config();
    config.pool_max = 2;
    let subject = subject_of(store(config).await).await;
    let owner = subject.registered().await;
    let name = subject.standing(owner).await;
    let (first, second) = (fresh_run(), fresh_run());
    let holder = subject.having_put(&subject.context(owner, first), &name).await;
    let waiter = subject.wanting(owner, second, &name).await;
    let context = subject.context(owner, fresh_run());
    let third = subject.store.open(&context, Role::Decider);
    assert!(timeout(std::time::Duration::from_millis(50), third).await.is_err(), "there is no third connection");
    assert_eq!(pairs(&subject.edges(&[second], 1).await), [(ours(second), ours(first))]);
    subject.blockers().interrupt(second).await.unwrap();
    timeout(SOON, waiter).await.expect("it was interrupted").unwrap().0.rollback().await;
    assert!(matches!(holder.commit(&no_note()).await, Decision::Committed(_)));
}
