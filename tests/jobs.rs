//! Batch jobs on real stores, with a worker that remembers nothing and a sidecar that is killed: every chunk once in every
//! store, or every chunk undone.

#![allow(clippy::unwrap_used, clippy::cast_possible_wrap, reason = "a test that panics has failed")]

mod world;

use std::time::Duration;

use serde_json::{Value, json};
use world::{Audit, Reply, World};
use xtask::sidecar::Sidecar;

const ALL: [&str; 3] = ["pg", "graph", "vectors"];
const CHUNKS: i64 = 40;

/// Chunk `number` of `parent`: one document, and what undoes it by the id that the chunk itself gave.
fn chunk(world: &World, parent: &str, number: i64, stores: &[&str]) -> Value {
    let mut body = world.document(number + 1, stores);
    let id = if stores.contains(&"pg") { json!({"$ref": "row#/rows/0/id"}) } else { json!(number + 1) };
    let n = &world.name;
    let undo = stores.iter().map(|store| match *store {
        "pg" => json!({"store": "pg", "sql": format!("DELETE FROM {n} WHERE id = $1"), "params": [id], "expect": {"rows": 1}}),
        "graph" => json!({"store": "graph", "cypher": format!("MATCH (n:{n} {{id: $id}}) DELETE n"), "params": {"id": id}}),
        _ => json!({"store": "vectors", "collection": n, "delete": {"points": [id]}}),
    });
    body["compensate"] = json!({"operations": undo.collect::<Vec<_>>()});
    body["parent"] = json!(parent);
    body["chunk"] = json!(number);
    body
}

async fn open(world: &World, sidecar: &Sidecar, name: &str, chunks: Option<i64>) -> Reply {
    let job = chunks.map_or_else(|| json!({}), |chunks| json!({"chunks": chunks}));
    world.submit(sidecar, &json!({"name": name, "job": job})).await
}

async fn job(world: &World, sidecar: &Sidecar, name: &str) -> Value {
    world.get(sidecar, &format!("/v1/transactions/name:{name}")).await.body
}

/// A worker without a memory: opens the job (again), asks what comes next, does it, and so on. Answers whether the sidecar
/// lived to the end.
async fn work(world: &World, sidecar: &Sidecar, name: &str, stores: &[&str]) -> bool {
    let body = json!({"name": name, "job": {"chunks": CHUNKS}});
    let Ok(opened) = world.post(&sidecar.url(), &body, None).await else { return false };
    assert!([200, 201].contains(&opened.status), "{:#}", opened.body);
    while let Some(next) = job(world, sidecar, name).await["job"]["next"].as_i64() {
        match world.post(&sidecar.url(), &chunk(world, name, next, stores), None).await {
            Ok(reply) => reply.must_be(200, "committed"),
            Err(_) => return false,
        }
    }
    true
}

fn everything(stores: &[&str]) -> Audit {
    let ids = |store: &str| if stores.contains(&store) { (1..=CHUNKS).collect() } else { Default::default() };
    Audit { rows: ids("pg"), nodes: ids("graph"), points: ids("vectors") }
}

/// Waits until nothing of the past is open, jobs apart.
async fn at_rest(world: &World, sidecar: &Sidecar) {
    world
        .until(Duration::from_secs(30), "the past is over", async || {
            let status = world.get(sidecar, "/v1/status").await.body;
            let open = status["transactions"].as_object().unwrap().values().any(|count| *count != 0);
            !open && status["recovery"]["remaining"] == 0
        })
        .await;
}

async fn left_behind(world: &World, sidecar: &Sidecar) {
    assert_eq!(world.prepared(sidecar).await, 0, "a prepared transaction is left");
    let status = world.get(sidecar, "/v1/status").await.body;
    assert_eq!(status["locks"]["held"], 0, "a lock is left");
}

/// The whole life of a job, without a crash: progress, repeats, refusals.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_done_chunk_by_chunk() {
    let world = World::new("job_life").await;
    let launch = world.launch();
    let sidecar = world.start(&launch).await;
    let name = &world.name;
    let early = world.submit(&sidecar, &chunk(&world, name, 0, &ALL)).await;
    early.must_be(404, "not_found");
    let opened = open(&world, &sidecar, name, Some(4)).await;
    opened.must_be(201, "active");
    assert_eq!(opened.headers["location"], format!("/v1/transactions/{}", opened.body["id"].as_str().unwrap()));
    let again = open(&world, &sidecar, name, Some(4)).await;
    again.must_be(200, "active");
    assert_eq!(again.body["id"], opened.body["id"]);
    open(&world, &sidecar, name, Some(5)).await.must_be(409, "name_in_use");
    world.submit(&sidecar, &json!({"name": name, "operations": [world.row(9)]})).await.must_be(409, "name_in_use");

    let first = world.submit(&sidecar, &chunk(&world, name, 1, &ALL)).await;
    first.must_be(200, "committed");
    assert_eq!((&first.body["parent"], &first.body["chunk"]), (&json!(name), &json!(1)));
    let twice = world.submit(&sidecar, &chunk(&world, name, 1, &ALL)).await;
    twice.must_be(200, "committed");
    assert_eq!(
        (&twice.headers["idempotency-replayed"], &twice.body["id"]),
        (&"true".parse().unwrap(), &first.body["id"])
    );
    let mut other = chunk(&world, name, 1, &ALL);
    other["operations"][0]["params"][1] = json!("another title");
    world.submit(&sidecar, &other).await.must_be(422, "idempotency_mismatch");
    let keyed = world.post(&sidecar.url(), &chunk(&world, name, 2, &ALL), Some("mine")).await.unwrap();
    keyed.must_be(400, "invalid_request");
    world.submit(&sidecar, &chunk(&world, name, 4, &ALL)).await.must_be(400, "invalid_request");

    // One that a store refuses is told until it is done.
    let mut refused = chunk(&world, name, 0, &ALL);
    refused["operations"][0]["params"][0] = json!(2);
    world.submit(&sidecar, &refused).await.must_be(422, "constraint_violation");
    let shown = job(&world, &sidecar, name).await;
    assert_eq!(shown["guarantee"], "chunks");
    let progress = &shown["job"];
    assert_eq!((&progress["done"], &progress["chunks"], &progress["next"]), (&json!(1), &json!(4), &json!(0)));
    assert_eq!((&progress["ranges"], &progress["failed"]["chunk"]), (&json!([[1, 1]]), &json!(0)));
    assert_eq!(progress["failed"]["code"], "constraint_violation");
    world.submit(&sidecar, &chunk(&world, name, 0, &ALL)).await.must_be(200, "committed");
    // A chunk may have nothing to write, and is done all the same.
    let reads = json!({"parent": name, "chunk": 2, "operations": [{"store": "pg", "sql": "SELECT 1 AS one"}]});
    world.submit(&sidecar, &reads).await.must_be(200, "committed");
    let progress = job(&world, &sidecar, name).await["job"].clone();
    assert_eq!(
        (&progress["ranges"], &progress["next"], &progress["failed"]),
        (&json!([[0, 2]]), &json!(3), &Value::Null)
    );
    assert_eq!(progress["without_compensation"], 1);

    let metrics = world.metrics(&sidecar).await;
    for line in [
        "outrigger_jobs_open 1",
        r#"outrigger_job_chunks_total{outcome="done"} 3"#,
        r#"outrigger_job_chunks_total{outcome="refused"} 1"#,
        r#"outrigger_job_chunks_total{outcome="replayed"} 1"#,
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is missing");
    }
    // After a restart memory holds no answer: the marker of the first time gives it.
    drop(sidecar);
    let sidecar = world.start(&launch).await;
    let progress = job(&world, &sidecar, name).await["job"].clone();
    assert_eq!((&progress["ranges"], &progress["next"]), (&json!([[0, 2]]), &json!(3)));
    let replayed = world.submit(&sidecar, &chunk(&world, name, 1, &ALL)).await;
    replayed.must_be(200, "committed");
    assert!(replayed.headers.contains_key("idempotency-replayed"));
    assert_eq!((&replayed.body["id"], &replayed.body["results"]), (&first.body["id"], &first.body["results"]));
    world.submit(&sidecar, &reads).await.must_be(200, "committed");
    world.submit(&sidecar, &other).await.must_be(422, "idempotency_mismatch");
    assert_eq!(world.audit().await.rows.len(), 2);
    left_behind(&world, &sidecar).await;
}

/// Dies at every place of a chunk in the middle, and once right after the opening; the worker goes on each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_chunks_over_all_stores_and_a_kill_at_every_place() {
    let world = World::new("job_kills").await;
    let launch = world.launch();
    let name = &world.name;
    let places = [
        "after_job",
        "before_intent:3",
        "after_intent:4",
        "after_prepare:3",
        "after_decide:5",
        "after_verdict:4",
        "mid_finish:5",
        "before_done:4",
        "after_done:4",
    ];
    for place in places {
        let mut sidecar = world.start(&launch.with("OUTRIGGER_CRASH_AT", place)).await;
        at_rest(&world, &sidecar).await;
        assert!(!work(&world, &sidecar, name, &ALL).await, "{place}: nothing killed it");
        assert!(sidecar.wait_end(Duration::from_secs(5)).unwrap().is_some(), "{place}: it still lives");
    }
    let sidecar = world.start(&launch).await;
    at_rest(&world, &sidecar).await;
    assert!(work(&world, &sidecar, name, &ALL).await);
    let audit = world.audit().await;
    assert_eq!(audit, everything(&ALL));
    let progress = job(&world, &sidecar, name).await["job"].clone();
    assert_eq!((&progress["ranges"], &progress["next"]), (&json!([[0, CHUNKS - 1]]), &Value::Null));
    left_behind(&world, &sidecar).await;
}

/// One store decides and nobody else has to be told: no record but the chunk's own Intent tells of it after a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_in_one_store_are_known_after_a_crash() {
    for stores in [["pg"], ["graph"], ["vectors"]] {
        let world = World::new("job_one").await;
        let launch = world.launch();
        let name = &world.name;
        // Qdrant decides nothing: there the log does, and this is the place behind that.
        let place = if stores == ["vectors"] { "after_verdict:3" } else { "after_decide:3" };
        let mut sidecar = world.start(&launch.with("OUTRIGGER_CRASH_AT", place)).await;
        assert!(!work(&world, &sidecar, name, &stores).await);
        sidecar.wait_end(Duration::from_secs(5)).unwrap();
        let sidecar = world.start(&launch).await;
        at_rest(&world, &sidecar).await;
        let progress = job(&world, &sidecar, name).await["job"].clone();
        assert_eq!(progress["ranges"], json!([[0, 2]]), "{stores:?}: the chunk that was decided is known to be done");
        let again = world.submit(&sidecar, &chunk(&world, name, 2, &stores)).await;
        again.must_be(200, "committed");
        assert!(again.headers.contains_key("idempotency-replayed"), "{stores:?}");
        assert!(work(&world, &sidecar, name, &stores).await);
        assert_eq!(world.audit().await, everything(&stores), "{stores:?}");
    }
}
