//! Connections that break, through a proxy that breaks them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use outrigger::model::commit::LookUp;
use outrigger::model::ids::Lsn;
use outrigger::model::powers::Role;
use outrigger::model::problem::Code;
use outrigger::store::neo4j::{Neo4j, Neo4jConfig};
use outrigger::store::{Decision, Fenced, Store};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::contract::{Subject, fresh_name, fresh_owner, fresh_run, no_note};
use crate::{config, op, subject};

/// A Bolt COMMIT as it stands in the stream: a chunk of two bytes, a structure without fields, tag 0x12.
const COMMIT: [u8; 6] = [0, 2, 0xb0, 0x12, 0, 0];

/// When the proxy cuts a connection whose client sends COMMIT.
#[derive(Clone, Copy, PartialEq)]
pub enum Cut {
    /// The server never gets it.
    BeforeCommit,
    /// The server gets it, and its answer is lost.
    AfterCommit,
}

pub struct Proxy {
    url: String,
    armed: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    cut_all: watch::Sender<u32>,
}

impl Proxy {
    /// Between the real server and whoever connects; cuts at the next COMMIT once it is armed.
    pub async fn start(cut: Cut) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("bolt://{}", listener.local_addr().unwrap());
        let server = config().url.split_once("://").unwrap().1.to_owned();
        let armed = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(AtomicUsize::new(0));
        let (cut_all, cuts) = watch::channel(0);
        let (arm, count) = (armed.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let server = TcpStream::connect(&server).await.unwrap();
                // Earlier cuts were for earlier connections.
                let mut cuts = cuts.clone();
                cuts.mark_unchanged();
                tokio::spawn(carry(client, server, cut, arm.clone(), cuts));
            }
        });
        Self { url, armed, connections, cut_all }
    }

    /// Cuts every connection that stands.
    pub fn cut_all(&self) {
        self.cut_all.send_modify(|cuts| *cuts += 1);
    }

    /// The store, reached through it.
    pub fn store(&self) -> Arc<Neo4j> {
        Neo4j::new("graph".into(), Neo4jConfig { url: self.url.clone(), ..config() })
    }
}

/// Carries bytes both ways until a side ends or it is time to cut: then both sockets are simply closed.
async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    cut: Cut,
    armed: Arc<AtomicBool>,
    mut all: watch::Receiver<u32>,
) {
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(n @ 1..) = read else { return };
                let commits = up[..n].windows(COMMIT.len()).any(|window| window == COMMIT);
                if commits && armed.swap(false, Ordering::SeqCst) {
                    if cut == Cut::AfterCommit {
                        server.write_all(&up[..n]).await.unwrap();
                        // The answer is read, so that it was given, and thrown away.
                        let _ = server.read(&mut down).await;
                    }
                    return;
                }
                if server.write_all(&up[..n]).await.is_err() { return }
            }
            read = server.read(&mut down) => {
                let Ok(n @ 1..) = read else { return };
                if client.write_all(&down[..n]).await.is_err() { return }
            }
            _ = all.changed() => return,
        }
    }
}

async fn lost_commit(subject: &Subject, cut: Cut) -> (bool, bool) {
    let owner = subject.registered().await;
    let proxy = Proxy::start(cut).await;
    let store = proxy.store();
    let (run, name) = (fresh_run(), fresh_name());
    let mut session = store.open(&subject.context(owner, run), Role::Decider).await.unwrap();
    session.work(&[(subject.put)(&name)]).await.unwrap();
    proxy.armed.store(true, Ordering::SeqCst);
    let decision = timeout(Duration::from_secs(5), session.commit(&no_note())).await.expect("it is told at once");
    assert!(matches!(decision, Decision::Lost(_)), "{decision:?}");
    let fenced = subject.marks().fence(run, owner, Lsn::from_u64(1)).await.unwrap();
    let stands = matches!(fenced, Fenced::Committed(..));
    (stands, subject.has(&name).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_never_arrived_is_lost_and_fenced_away() {
    let (subject, _turn) = subject().await;
    for _ in 0..3 {
        assert_eq!(lost_commit(&subject, Cut::BeforeCommit).await, (false, false));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_was_lost_is_found() {
    let (subject, _turn) = subject().await;
    for _ in 0..3 {
        assert_eq!(lost_commit(&subject, Cut::AfterCommit).await, (true, true));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_in_the_middle_is_unavailable_and_nothing_happened() {
    let (subject, _turn) = subject().await;
    let owner = subject.registered().await;
    let proxy = Proxy::start(Cut::BeforeCommit).await;
    let store = proxy.store();
    let (run, name) = (fresh_run(), fresh_name());
    let mut session = store.open(&subject.context(owner, run), Role::Decider).await.unwrap();
    session.work(&[(subject.put)(&name)]).await.unwrap();
    proxy.cut_all();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let problem = session.work(&[(subject.put)(&fresh_name())]).await.unwrap_err();
    assert_eq!(problem.code, Code::StoreUnavailable, "{problem}");
    assert!(matches!(session.commit(&no_note()).await, Decision::Refused(_)), "COMMIT was never sent");
    assert!(!subject.has(&name).await);
    assert!(subject.marks().look_up(&LookUp::Txn(run.txn)).await.unwrap().is_none());
}

/// After a server's restart the pooled connections are all dead; the next transactions must not pay for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_pooled_connections_are_replaced_unseen() {
    let (subject, _turn) = subject().await;
    let owner = subject.registered().await;
    let proxy = Proxy::start(Cut::BeforeCommit).await;
    let store = proxy.store();
    for round in 0..3 {
        for role in [Role::Decider, Role::Reader] {
            let context = subject.context(owner, fresh_run());
            let mut session = store.open(&context, role).await.unwrap();
            let results = session.work(&[op("RETURN 1 AS one", json!({}), true)]).await.expect("a fresh connection");
            assert_eq!(results[0]["rows"], json!([{"one": 1}]));
            assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)));
            if role == Role::Decider {
                assert_eq!(proxy.connections.load(Ordering::SeqCst), round + 1, "a connection is used again and again");
            }
        }
        proxy.cut_all();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A refused transaction costs no connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_transaction_keeps_its_connection() {
    let (subject, _turn) = subject().await;
    let owner = subject.registered().await;
    let proxy = Proxy::start(Cut::BeforeCommit).await;
    let store = proxy.store();
    for _ in 0..3 {
        for role in [Role::Decider, Role::Reader] {
            let mut session = store.open(&subject.context(owner, fresh_run()), role).await.unwrap();
            session.work(&[op("RETURN 1/0", json!({}), true)]).await.unwrap_err();
            session.rollback().await;
        }
        let session = store.open(&subject.context(fresh_owner(), fresh_run()), Role::Decider).await.unwrap();
        assert!(matches!(session.commit(&no_note()).await, Decision::Refused(_)), "its log is not registered");
    }
    assert_eq!(proxy.connections.load(Ordering::SeqCst), 1);
}

/// Nobody answers on a connection that stands: the bound holds all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_left_at_the_deadline() {
    let (subject, _turn) = subject().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("bolt://{}", listener.local_addr().unwrap());
    let silent = Neo4j::new("graph".into(), Neo4jConfig { url, connect_timeout: Duration::from_secs(60), ..config() });
    for role in [Role::Decider, Role::Reader] {
        let mut context = subject.context(fresh_owner(), fresh_run());
        context.deadline = tokio::time::Instant::now() + Duration::from_secs(1);
        let mut session = silent.open(&context, role).await.unwrap();
        let work = [op("RETURN 1", json!({}), true)];
        let problem = timeout(Duration::from_secs(3), session.work(&work)).await.expect("bounded").unwrap_err();
        assert_eq!(problem.code, Code::Timeout, "{problem}");
        timeout(Duration::from_secs(1), session.rollback()).await.expect("nothing to wait for");
    }
}
