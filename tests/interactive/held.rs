//! Prepared transactions: they wait over restarts, and the verdict by name is exact.

use std::time::Duration;

use serde_json::{Value, json};
use xtask::sidecar::Sidecar;
use xtask::stack::{Stack, Store, Wanted};

use crate::Open;
use crate::world::{Audit, Reply, World};

/// The operation that writes `id` to a store.
fn write(world: &World, store: &str, id: i64) -> Value {
    match store {
        "pg" => world.row(id),
        "graph" => world.node(&json!(id)),
        _ => world.point(&json!(id)),
    }
}

/// Opened, worked in these stores, not yet prepared.
async fn opened<'a>(world: &'a World, sidecar: &Sidecar, name: &str, stores: &[&str], id: i64) -> Open<'a> {
    let open = Open::new(world, sidecar, json!({"name": name})).await;
    let operations: Vec<Value> = stores.iter().map(|store| write(world, store, id)).collect();
    open.run(json!(operations)).await.must_be(200, "active");
    open
}

async fn prepared(world: &World, sidecar: &Sidecar, name: &str, stores: &[&str], id: i64) -> Reply {
    let open = opened(world, sidecar, name, stores, id).await;
    let reply = open.call("prepare", json!({})).await;
    reply.must_be(200, "prepared");
    reply
}

async fn verdict(world: &World, sidecar: &Sidecar, name: &str, what: &str) -> Reply {
    world.call(&sidecar.url(), &format!("name:{name}"), what, &json!({})).await.unwrap()
}

async fn killed_and_started(world: &World, mut sidecar: Sidecar) -> Sidecar {
    sidecar.kill().unwrap();
    drop(sidecar);
    world.start(&world.launch()).await
}

fn counts(audit: &Audit) -> (usize, usize, usize) {
    (audit.rows.len(), audit.nodes.len(), audit.points.len())
}

const SHAPES: [&[&str]; 6] =
    [&["pg"], &["graph"], &["vectors"], &["pg", "vectors"], &["pg", "graph"], &["pg", "graph", "vectors"]];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_waits_over_a_kill_and_ends_as_told() {
    let world = World::new("shapes").await;
    let mut sidecar = world.start(&world.launch()).await;
    let name = |n: usize, what: &str| format!("{}-{n}-{what}", world.name);
    let mut expected = Audit::default();
    for (n, stores) in SHAPES.iter().enumerate() {
        for (m, what) in ["commit", "rollback"].into_iter().enumerate() {
            let id = (n * 10 + m) as i64;
            let reply = prepared(&world, &sidecar, &name(n, what), stores, id).await;
            let unless = if stores.contains(&"graph") { "prepared_unless_refused" } else { "prepared" };
            assert_eq!(reply.body["guarantee"], unless, "{stores:?}");
            assert!(reply.body["prepared"]["expires_at"].is_string());
            if what == "commit" {
                expected.rows.extend(stores.contains(&"pg").then_some(id));
                expected.nodes.extend(stores.contains(&"graph").then_some(id));
                expected.points.extend(stores.contains(&"vectors").then_some(id));
            }
        }
    }
    assert_eq!(world.audit().await, Audit::default(), "nothing is seen before the verdict");
    let held = world.get(&sidecar, "/v1/status").await.body["locks"]["held"].clone();
    sidecar = killed_and_started(&world, sidecar).await;
    let status = world.get(&sidecar, "/v1/status").await.body;
    assert_eq!(status["locks"]["held"], held, "its locks are kept over a kill");
    assert_eq!(status["transactions"]["prepared"], 12);
    for (n, stores) in SHAPES.iter().enumerate() {
        for what in ["commit", "rollback"] {
            let name = name(n, what);
            let shown = world.get(&sidecar, &format!("/v1/transactions/name:{name}")).await;
            shown.must_be(200, "prepared");
            assert_eq!(shown.body["results"].as_object().unwrap().len(), stores.len(), "results are kept");
            verdict(&world, &sidecar, &name, "prepare").await.must_be(200, "prepared");
            let operate = json!({"operations": [world.row(999)]});
            let more = world.call(&sidecar.url(), &format!("name:{name}"), "operations", &operate).await.unwrap();
            more.must_be(409, "wrong_state");
            let end = if what == "commit" { "committed" } else { "aborted" };
            verdict(&world, &sidecar, &name, what).await.must_be(200, end);
            verdict(&world, &sidecar, &name, what).await.must_be(200, end);
            let other = if what == "commit" { "rollback" } else { "commit" };
            verdict(&world, &sidecar, &name, other).await.must_be(409, "wrong_state");
        }
    }
    assert_eq!(world.audit().await, expected);
    assert_eq!(world.prepared(&sidecar).await, 0);
    sidecar = killed_and_started(&world, sidecar).await;
    assert_eq!(world.get(&sidecar, "/v1/status").await.body["locks"]["held"], 0);
    for (n, what) in [(5, "commit"), (5, "rollback")] {
        let end = if what == "commit" { "committed" } else { "aborted" };
        verdict(&world, &sidecar, &name(n, what), what).await.must_be(200, end);
    }
    // A name is free again once its transaction has ended.
    prepared(&world, &sidecar, &name(0, "commit"), &["pg"], 500).await;
    verdict(&world, &sidecar, &name(0, "commit"), "commit").await.must_be(200, "committed");
    sidecar.stop(Duration::from_secs(10)).unwrap();
}

/// What stands after `kill -9` at a named place.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    Aborted,
    Prepared,
    Committed,
}

async fn dies_at(point: &str, call: &str, stores: &[&str], then: Then) {
    let world = World::new(&format!("held_{point}")).await;
    let launch = world.launch();
    let mut sidecar = world.start(&launch.with("OUTRIGGER_CRASH_AT", point)).await;
    let name = world.name.clone();
    let open = opened(&world, &sidecar, &name, stores, 7).await;
    let died = async |what: &str| world.call(&open.url, &open.id, what, &json!({})).await.is_err();
    if call == "prepare" {
        assert!(died("prepare").await, "{point}: it answered");
    } else {
        open.call("prepare", json!({})).await.must_be(200, "prepared");
        assert!(died(call).await, "{point}: it answered");
    }
    assert!(sidecar.wait_end(Duration::from_secs(5)).unwrap().is_some(), "{point}: it still lives");
    drop(sidecar);
    let mut sidecar = world.start(&launch).await;
    world
        .until(Duration::from_secs(20), "recovery is done", async || {
            world.get(&sidecar, "/v1/status").await.body["recovery"]["remaining"] == 0
        })
        .await;
    let found = world.get(&sidecar, &format!("/v1/transactions/{}", open.id)).await;
    let word = match then {
        Then::Aborted => "aborted",
        Then::Prepared => "prepared",
        Then::Committed => "committed",
    };
    found.must_be(200, word);
    let again = verdict(&world, &sidecar, &name, "commit").await;
    match then {
        Then::Aborted => again.must_be(409, "wrong_state"),
        Then::Prepared | Then::Committed => again.must_be(200, "committed"),
    }
    let one = |store: &str| usize::from(then != Then::Aborted && stores.contains(&store));
    assert_eq!(counts(&world.audit().await), (one("pg"), one("graph"), one("vectors")), "{point} {call} {stores:?}");
    assert_eq!(world.prepared(&sidecar).await, 0, "{point}: a promise is left");
    assert_eq!(world.get(&sidecar, "/v1/status").await.body["locks"]["held"], 0, "{point}: a lock is left");
    sidecar.stop(Duration::from_secs(10)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_every_place_where_neo4j_decides() {
    let all = ["pg", "graph", "vectors"];
    dies_at("before_promise", "prepare", &all, Then::Aborted).await;
    dies_at("after_promise", "prepare", &all, Then::Prepared).await;
    dies_at("before_verdict", "commit", &all, Then::Prepared).await;
    dies_at("after_intent", "commit", &all, Then::Aborted).await;
    dies_at("after_decide", "commit", &all, Then::Committed).await;
    dies_at("after_verdict", "commit", &all, Then::Committed).await;
    dies_at("mid_finish", "commit", &all, Then::Committed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_every_place_where_the_log_decides() {
    let two = ["pg", "vectors"];
    dies_at("before_promise", "prepare", &two, Then::Aborted).await;
    dies_at("after_promise", "prepare", &two, Then::Prepared).await;
    dies_at("after_decide", "commit", &two, Then::Committed).await;
    dies_at("mid_finish", "commit", &two, Then::Committed).await;
    dies_at("after_decide", "rollback", &two, Then::Aborted).await;
    dies_at("before_done", "rollback", &two, Then::Aborted).await;
}

/// What the graph refuses at the commit aborts everything: PostgreSQL's promise is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_neo4j_refuses_later_aborts_the_whole() {
    let world = World::new("refused").await;
    let mut sidecar = world.start(&world.launch()).await;
    let all = ["pg", "graph", "vectors"];
    let name = world.name.clone();
    let taken = format!("{name}-taken");
    prepared(&world, &sidecar, &taken, &all, 1).await;
    // Somebody else makes that node meanwhile.
    world.cypher(&format!("CREATE (:{name} {{id: 1}})"));
    let refused = verdict(&world, &sidecar, &taken, "commit").await;
    refused.must_be(422, "constraint_violation");
    assert_eq!((&refused.body["state"], &refused.body["store"]), (&json!("aborted"), &json!("graph")));
    assert_eq!(counts(&world.audit().await), (0, 1, 0), "only what somebody else made");
    assert_eq!(world.prepared(&sidecar).await, 0);

    // What the graph told the others has changed: their part no longer fits.
    world.cypher(&format!("CREATE (:{name} {{id: 100, next: 50}})"));
    let told = format!("{name}-told");
    let open = Open::new(&world, &sidecar, json!({"name": told})).await;
    let next = format!("MATCH (n:{name} {{id: 100}}) SET n.seen = true RETURN n.next AS next");
    open.run(json!([{"id": "next", "store": "graph", "cypher": next}])).await.must_be(200, "active");
    let row = json!({"store": "pg", "sql": format!("INSERT INTO {name}(id, title) VALUES ($1, 'x')"),
                     "params": [{"$ref": "next#/rows/0/next"}]});
    open.run(json!([row])).await.must_be(200, "active");
    open.call("prepare", json!({})).await.must_be(200, "prepared");
    world.cypher(&format!("MATCH (n:{name} {{id: 100}}) SET n.next = 51"));
    let differs = verdict(&world, &sidecar, &told, "commit").await;
    differs.must_be(409, "conflict");
    assert_eq!((&differs.body["state"], &differs.body["operation"]), (&json!("aborted"), &json!("next")));
    assert_eq!(world.audit().await.rows.len(), 0);
    sidecar.stop(Duration::from_secs(10)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_time_runs_out_over_a_restart_too() {
    let world = World::new("expiry").await;
    let mut sidecar = world.start(&world.launch()).await;
    let names = ["live", "dead", "hold"].map(|what| format!("{}-{what}", world.name));
    for (id, name) in (1i64..).zip(&names[..2]) {
        let open = opened(&world, &sidecar, name, &["pg", "vectors"], id).await;
        let ttl = if name.ends_with("live") { 1000 } else { 4000 };
        open.call("prepare", json!({"prepared_ttl_ms": ttl})).await.must_be(200, "prepared");
    }
    let open = opened(&world, &sidecar, &names[2], &["pg", "vectors"], 3).await;
    open.call("prepare", json!({"prepared_ttl_ms": 1000, "on_expiry": "hold"})).await.must_be(200, "prepared");
    let state = async |sidecar: &Sidecar, name: &str| {
        world.get(sidecar, &format!("/v1/transactions/name:{name}")).await.state().to_owned()
    };
    world.until(Duration::from_secs(10), "it expires", async || state(&sidecar, &names[0]).await == "aborted").await;
    sidecar = killed_and_started(&world, sidecar).await;
    world.until(Duration::from_secs(20), "it expires", async || state(&sidecar, &names[1]).await == "aborted").await;
    let counted = r#"outrigger_reaped_total{what="prepared_expired"} 1"#;
    assert!(sidecar.metrics().unwrap().lines().any(|line| line == counted), "the reaper's count");
    let held = world.get(&sidecar, &format!("/v1/transactions/name:{}", names[2])).await;
    held.must_be(200, "prepared");
    assert_eq!(
        (&held.body["prepared"]["expired"], &held.body["prepared"]["on_expiry"]),
        (&json!(true), &json!("hold"))
    );
    verdict(&world, &sidecar, &names[0], "commit").await.must_be(409, "wrong_state");
    verdict(&world, &sidecar, &names[2], "commit").await.must_be(200, "committed");
    assert_eq!(counts(&world.audit().await), (1, 0, 1));
    sidecar.stop(Duration::from_secs(10)).unwrap();
}

/// However long it waits, it does not keep the log from growing old: its record moves on, and is found where it went.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_wait_holds_no_segments() {
    let world = World::new("moves").await;
    let launch = world
        .launch()
        .with("OUTRIGGER__JOURNAL__SEGMENT_BYTES", "1048576")
        .with("OUTRIGGER__JOURNAL__RETAIN_BYTES", "0")
        .with("OUTRIGGER__JOURNAL__MARKER_GRACE_MS", "1000");
    let mut sidecar = world.start(&launch).await;
    let name = world.name.clone();
    prepared(&world, &sidecar, &name, &["pg", "vectors"], 1).await;
    let oldest = async |sidecar: &Sidecar| {
        let journal = world.get(sidecar, "/v1/status").await.body["journal"].clone();
        (journal["oldest_live_lsn"].as_u64().unwrap(), journal["segments"].as_u64().unwrap())
    };
    let before = oldest(&sidecar).await.0;
    for id in 2..8 {
        let title = "t".repeat(700_000);
        let points = json!([{"id": id, "vector": [0.1, 0.2, 0.3, 0.4], "payload": {"title": title}}]);
        let write = json!({"store": "vectors", "collection": name, "upsert": {"points": points}});
        world.submit(&sidecar, &json!({"operations": [write]})).await.must_be(200, "committed");
    }
    world
        .until(Duration::from_secs(20), "its record moves on and old segments go", async || {
            let (oldest, segments) = oldest(&sidecar).await;
            oldest > before + (2 << 20) && segments <= 4
        })
        .await;
    sidecar.kill().unwrap();
    drop(sidecar);
    let mut sidecar = world.start(&launch).await;
    verdict(&world, &sidecar, &name, "commit").await.must_be(200, "committed");
    let audit = world.audit().await;
    assert!(audit.rows.contains(&1) && audit.points.contains(&1), "{audit:?}");
    sidecar.stop(Duration::from_secs(10)).unwrap();
}

/// The issue's own line: 200 of them over a sidecar's and a PostgreSQL's restart, then half this way and half that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_over_two_restarts() {
    const MANY: i64 = 200;
    let wanted = Wanted { max_prepared_transactions: 300, ..Wanted::all() };
    let stack = tokio::task::spawn_blocking(|| Stack::fresh("held", wanted)).await.unwrap().unwrap();
    let world = World::on(stack, "many").await;
    let mut sidecar = world.start(&world.launch()).await;
    let name = |id: i64| format!("job:{id}");
    let all: &[&str] = &["pg", "graph", "vectors"];
    let stores = |id: i64| if id % 4 < 2 { all } else { &all[..1] };
    for id in 0..MANY {
        prepared(&world, &sidecar, &name(id), stores(id), id).await;
    }
    sidecar = killed_and_started(&world, sidecar).await;
    world.stack.kill(Store::Postgres).unwrap();
    world.stack.start(Store::Postgres).unwrap();
    assert_eq!(world.prepared(&sidecar).await, MANY as usize);
    assert_eq!(world.audit().await, Audit::default());
    // While the store that has to decide is away, a commit changes nothing: it can be repeated.
    world.stack.kill(Store::Neo4j).unwrap();
    let away = verdict(&world, &sidecar, &name(0), "commit").await;
    away.must_be(503, "store_unavailable");
    assert_eq!((away.state(), &away.body["store"]), ("prepared", &json!("graph")));
    world.stack.start(Store::Neo4j).unwrap();
    let mut expected = Audit::default();
    for id in 0..MANY {
        let commits = id % 2 == 0;
        let (what, end) = if commits { ("commit", "committed") } else { ("rollback", "aborted") };
        // The stores have just come back: until that is noticed a verdict may find one away.
        loop {
            let reply = verdict(&world, &sidecar, &name(id), what).await;
            if reply.body["retryable"] == json!(true) {
                assert_eq!(reply.state(), "prepared", "{:#}", reply.body);
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            assert_eq!(reply.status, 200, "{:#}", reply.body);
            assert!(reply.state() == end || reply.state().ends_with("ing"), "{:#}", reply.body);
            break;
        }
        if commits {
            expected.rows.insert(id);
            if stores(id).len() == 3 {
                expected.nodes.insert(id);
                expected.points.insert(id);
            }
        }
    }
    world.recovered(&sidecar).await;
    assert_eq!(world.audit().await, expected);
    assert_eq!(world.prepared(&sidecar).await, 0);
    sidecar.stop(Duration::from_secs(10)).unwrap();
}
