//! Left-overs in real stores: hundreds of orphaned promises are ended a few at a time, each as its decider says, and
//! nothing of anybody else's is touched.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod world;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;
use world::World;
use xtask::sidecar::{Launch, Sidecar};
use xtask::stack::{Stack, Store, Wanted};

/// Orphans of our log, and how many of them have committed.
const ORPHANS: usize = 200;
const COMMITTED: usize = 40;
/// What `src/txn/site.rs` lets through at a time.
const TURNS: i64 = 4;

/// What stands in `/metrics` under this name and these labels.
fn metric(sidecar: &Sidecar, series: &str) -> f64 {
    let text = sidecar.metrics().unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
}

fn status(sidecar: &Sidecar) -> Value {
    let door = sidecar.url().trim_start_matches("http://").to_owned();
    serde_json::from_str(&xtask::sidecar::get(&door, "/v1/status").unwrap().1).unwrap()
}

async fn until(limit: Duration, what: &str, mut done: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !done().await {
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// PostgreSQL alone, with two databases that are two stores: `pg` promises, `ledger` decides.
struct Two {
    stack: Stack,
    dir: tempfile::TempDir,
    launch: Launch,
}

impl Two {
    fn new() -> Two {
        let wanted = Wanted { max_prepared_transactions: 256, ..Wanted::only(&[Store::Postgres]) };
        let stack = Stack::fresh("reaper", wanted).unwrap();
        stack.sql("CREATE DATABASE ledger").unwrap();
        stack.sql("CREATE TABLE kept (id int)").unwrap();
        let config = std::fs::read_to_string(stack.sidecar_config()).unwrap();
        let pg = config.split("[stores.pg]").nth(1).unwrap().split("\n[").next().unwrap();
        let url = stack.login(Store::Postgres).unwrap().url;
        let ledger = pg.replace(&url, &format!("{}/ledger", url.rsplit_once('/').unwrap().0));
        let dir = tempfile::tempdir().unwrap();
        let both = dir.path().join("both.toml");
        std::fs::write(&both, format!("{config}\n[stores.ledger]{ledger}")).unwrap();
        let launch = Launch::over(env!("CARGO_BIN_EXE_outrigger"), &both, dir.path()).unwrap();
        Two { stack, dir, launch }
    }

    async fn start(&self) -> Sidecar {
        let mut sidecar = self.launch.start().unwrap();
        sidecar.wait_ready(Duration::from_secs(20)).unwrap();
        sidecar
    }

    async fn ledger(&self) -> Client {
        let login = self.stack.login(Store::Postgres).unwrap();
        let host = login.url.trim_start_matches("postgres://").rsplit_once('/').unwrap().0.to_owned();
        let url = format!("postgres://{}:{}@{host}/ledger", login.user, login.password);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    fn prepared(&self, like: &str) -> usize {
        let count = self.stack.sql(&format!("SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE '{like}'"));
        count.unwrap().trim().parse().unwrap()
    }
}

/// Prepares a transaction of this gid that keeps `id`, with the participant row that ours write.
fn promise(gid: &str, log: &str, txn: Uuid, id: usize) -> String {
    format!(
        "BEGIN; INSERT INTO outrigger.participant (txn, attempt, log_id, durable_lsn) VALUES ('{txn}', 1, '{log}', 1);
         INSERT INTO kept VALUES ({id}); PREPARE TRANSACTION '{gid}';\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_are_fenced_in_turns_and_strangers_are_left_alone() {
    let two = Two::new();
    let mut sidecar = two.start().await;
    let log = status(&sidecar)["log"]["id"].as_str().unwrap().to_owned();
    sidecar.stop(Duration::from_secs(10)).unwrap();
    drop(sidecar);

    let ledger = two.ledger().await;
    let stranger = Uuid::now_v7().simple().to_string();
    let mut script = String::new();
    for id in 0..ORPHANS {
        let txn = Uuid::now_v7();
        script += &promise(&format!("ogr1:{log}:{txn}:1:1:ledger"), &log, txn, id);
        if id < COMMITTED {
            let marker = "INSERT INTO outrigger.decision (txn, attempt, outcome, log_id, durable_lsn, followers)
                VALUES ($1, 1, 'committed', $2::text::uuid, 1, '{pg}')";
            ledger.execute(marker, &[&txn, &log]).await.unwrap();
        }
    }
    let another = Uuid::now_v7();
    for gid in [format!("ogr1:{stranger}:{another}:1:1:ledger"), format!("ogr1:{log}:no-gid-of-ours"), "theirs".into()]
    {
        script += &format!("BEGIN; INSERT INTO kept VALUES (-1); PREPARE TRANSACTION '{gid}';\n");
    }
    two.stack.sql(&script).unwrap();
    assert_eq!((two.prepared(&format!("ogr1:{log}:%:ledger")), two.prepared("%")), (ORPHANS, ORPHANS + 3));

    // Every fence waits for this lock: so many wait as are let through at a time.
    let mut holder = two.ledger().await;
    let lock = holder.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE outrigger.decision IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
    let sidecar = two.start().await;
    let fences = async || -> i64 {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'ledger' AND wait_event_type = 'Lock'";
        ledger.query_one(waiting, &[]).await.unwrap().get(0)
    };
    until(Duration::from_secs(20), "the orphans are found", async || {
        status(&sidecar)["recovery"]["orphans"] == ORPHANS && fences().await == TURNS
    })
    .await;
    for _ in 0..25 {
        assert!(fences().await <= TURNS, "more than {TURNS} at a time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(two.prepared(&format!("ogr1:{log}:%:ledger")), ORPHANS, "nobody has said how they ended");
    lock.rollback().await.unwrap();

    let reaped = r#"outrigger_reaped_total{what="prepared_orphan"}"#;
    until(Duration::from_secs(30), "all of them are ended", async || {
        metric(&sidecar, reaped) >= f64::from(u32::try_from(ORPHANS).unwrap())
    })
    .await;
    assert_eq!(two.prepared(&format!("ogr1:{log}:%:ledger")), 0);
    assert_eq!(two.prepared("%"), 3, "other logs' and other people's stand as they stood");
    let kept = two.stack.sql("SELECT count(*), max(id), min(id) FROM kept").unwrap();
    assert_eq!(
        kept.trim().replace('|', " "),
        format!("{COMMITTED} {} 0", COMMITTED - 1),
        "those whose decider committed"
    );
    let report = status(&sidecar)["recovery"].clone();
    assert_eq!(
        (&report["committed"], &report["aborted"]),
        (&json!(COMMITTED), &json!(ORPHANS - COMMITTED)),
        "{report}"
    );
    assert_eq!(metric(&sidecar, reaped), f64::from(u32::try_from(ORPHANS).unwrap()), "each is counted once");
    drop(two.dir);
}

/// The same with Neo4j as the decider; they appear while the sidecar lives, as after a PREPARE whose connection died.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_that_neo4j_decides_are_ended_as_it_says() {
    let world = World::new("orphan").await;
    let sidecar = world.start(&world.launch().with("OUTRIGGER__JOURNAL__MARKER_GRACE_MS", "1000")).await;
    let log = world.get(&sidecar, "/v1/status").await.body["log"]["id"].as_str().unwrap().to_owned();
    let n = &world.name;
    let mut script = String::new();
    for id in 0..10 {
        let txn = Uuid::now_v7();
        if id % 2 == 0 {
            world.cypher(&format!(
                "CREATE (:OutriggerDecision {{id: '{txn}/1', txn: '{txn}', outcome: 'committed', log: '{log}', durable: 1, \
                 followers: ['pg'], created_at: datetime()}})"
            ));
        }
        script += &format!(
            "BEGIN; INSERT INTO outrigger.participant (txn, attempt, log_id, durable_lsn) VALUES ('{txn}', 1, '{log}', 1);
             INSERT INTO {n} (id, title) VALUES ({id}, ''); PREPARE TRANSACTION 'ogr1:{log}:{txn}:1:1:graph';\n"
        );
    }
    world.sql(&script);
    world
        .until(Duration::from_secs(20), "all of them are ended", async || {
            metric(&sidecar, r#"outrigger_reaped_total{what="prepared_orphan"}"#) >= 10.0
        })
        .await;
    assert_eq!(world.prepared(&sidecar).await, 0);
    assert_eq!(world.audit().await.rows.into_iter().collect::<Vec<_>>(), [0, 2, 4, 6, 8]);
    // What they leave goes in its turn: the participant rows of those that committed, the fences of the others.
    world.submit(&sidecar, &world.document(100, &["pg", "graph", "vectors"])).await.must_be(200, "committed");
    world
        .until(Duration::from_secs(20), "their markers are swept", async || {
            metric(&sidecar, r#"outrigger_reaped_total{what="marker"}"#) >= 15.0
        })
        .await;
    world.submit(&sidecar, &world.document(101, &["pg", "graph", "vectors"])).await.must_be(200, "committed");
}
