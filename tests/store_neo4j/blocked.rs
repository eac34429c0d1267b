//! Who else may be in the way in Neo4j: strangers, and holders whose connection has been replaced.

use std::time::Duration;

use outrigger::model::powers::Role;
use outrigger::model::problem::Code;
use outrigger::model::wait::Party;
use outrigger::store::Decision;
use outrigger::store::neo4j::{Neo4j, Neo4jConfig};
use serde_json::json;
use tokio::time::timeout;
use xtask::stack::bolt::Bolt;

use crate::contract::waits::{SOON, ours, pairs};
use crate::contract::{Subject, fresh_name, fresh_run, no_note};
use crate::faults::{Cut, Proxy};
use crate::{config, subject};

/// The same store by another configuration.
fn through(subject: &Subject, config: Neo4jConfig) -> Subject {
    Subject { store: Neo4j::new("graph".into(), config), ..*subject }
}

/// Locks the thing `name` in a transaction of a stranger's.
async fn stranger(name: &str) -> Bolt {
    let name = name.to_owned();
    let locking = tokio::task::spawn_blocking(move || {
        let Neo4jConfig { url, user, password, .. } = config();
        let address = url.split_once("://").unwrap().1.to_owned();
        let mut bolt = Bolt::connect(&address, &user, &password, Duration::from_secs(20)).unwrap();
        bolt.begin().unwrap();
        bolt.run("MATCH (t:Thing {name: $name}) SET t.count = 0", json!({"name": name})).unwrap();
        bolt
    });
    locking.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circle_through_a_stranger_is_seen_by_name() {
    let (subject, _turn) = subject().await;
    let owner = subject.registered().await;
    let (mine, theirs) = (subject.standing(owner).await, subject.standing(owner).await);
    let mut bolt = stranger(&theirs).await;
    let run = fresh_run();
    let session = subject.having_put(&subject.context(owner, run), &mine).await;
    let waiter = subject.putting(session, &theirs);
    let edges = subject.edges(&[run], 1).await;
    let Party::Foreign(name) = &edges[0].holder else { panic!("{edges:?}") };
    assert!(name.starts_with("graph: neo4j-transaction-") && name.contains(" of neo4j at 127.0.0.1:"), "{name}");
    assert!(edges[0].resource.starts_with("node "), "{edges:?}");
    // Neo4j itself would see a circle that is all its own: so the stranger only waits, and for somebody behind us.
    let (other, behind) = (fresh_run(), subject.standing(owner).await);
    let holder = subject.having_put(&subject.context(owner, other), &behind).await;
    let waits = tokio::task::spawn_blocking(move || {
        bolt.run("MATCH (t:Thing {name: $name}) SET t.count = 0", json!({"name": behind})).unwrap();
        bolt.commit().unwrap();
    });
    let mut seen = pairs(&subject.edges(&[run], 2).await);
    seen.sort();
    let stranger = Party::Foreign(name.clone());
    assert_eq!(seen, [(ours(run), stranger.clone()), (stranger, ours(other))]);
    subject.blockers().interrupt(run).await.unwrap();
    timeout(SOON, waiter).await.expect("it was interrupted").unwrap().0.rollback().await;
    holder.rollback().await;
    timeout(SOON, waits).await.expect("its turn").expect("the stranger goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pool_blinds_nobody() {
    let (subject, _turn) = subject().await;
    let subject = through(&subject, Neo4jConfig { pool_max: 2, ..config() });
    let owner = subject.registered().await;
    let name = subject.standing(owner).await;
    let (first, second) = (fresh_run(), fresh_run());
    let holder = subject.having_put(&subject.context(owner, first), &name).await;
    let waiter = subject.wanting(owner, second, &name).await;
    let context = subject.context(owner, fresh_run());
    let third = subject.store.open(&context, Role::Decider);
    assert!(timeout(Duration::from_millis(50), third).await.is_err(), "there is no third connection");
    assert_eq!(pairs(&subject.edges(&[second], 1).await), [(ours(second), ours(first))]);
    subject.blockers().interrupt(second).await.unwrap();
    timeout(SOON, waiter).await.expect("it was interrupted").unwrap().0.rollback().await;
    assert!(matches!(holder.commit(&no_note()).await, Decision::Committed(_)));
}

/// The driver replaces a broken connection in silence; its idle holder is known all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_holder_on_a_replaced_connection_is_known() {
    let (direct, _turn) = subject().await;
    let owner = direct.registered().await;
    let proxy = Proxy::start(Cut::BeforeCommit).await;
    let subject = Subject { store: proxy.store(), ..direct };
    let name = subject.standing(owner).await;
    for round in 0..2 {
        // One connection rests in the pool, another is at work, when both are cut.
        let idle = subject.having_put(&subject.context(owner, fresh_run()), &fresh_name()).await;
        let mut busy = subject.having_put(&subject.context(owner, fresh_run()), &fresh_name()).await;
        idle.rollback().await;
        proxy.cut_all();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let problem = busy.work(&[(subject.put)(&fresh_name())]).await.expect_err("it was cut");
        assert_eq!(problem.code, Code::StoreUnavailable);
        busy.rollback().await;
        let (first, second) = (fresh_run(), fresh_run());
        let holder = subject.having_put(&subject.context(owner, first), &name).await;
        let waiter = subject.wanting(owner, second, &name).await;
        assert_eq!(pairs(&subject.edges(&[second], 1).await), [(ours(second), ours(first))], "round {round}");
        holder.rollback().await;
        timeout(SOON, waiter).await.expect("its turn").unwrap().0.rollback().await;
    }
}
