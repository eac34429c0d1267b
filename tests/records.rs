//! Optimistic writes through the real sidecar: no update is lost, and a transaction that lost a race runs again whole.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use serde_json::{Value, json};
use world::World;
use xtask::sidecar::Sidecar;

/// Clients at once, and what each adds.
const CLIENTS: usize = 64;
const INCREMENTS: usize = 3;

/// A world whose records have a counter.
async fn world(test: &str) -> (Arc<World>, Sidecar) {
    let world = World::new(test).await;
    world.sql(&format!("ALTER TABLE {} ADD COLUMN counter int, ALTER COLUMN title SET DEFAULT ''", world.name));
    let sidecar = world.start(&world.launch()).await;
    (Arc::new(world), sidecar)
}

fn record(world: &World, id: &str, store: &str, mut record: Value) -> Value {
    record["in"] = json!(world.name);
    record["key"] = json!({"id": 1});
    json!({"id": id, "store": store, "record": record})
}

/// One operation by itself; its result.
async fn one(world: &World, url: &str, operation: Value) -> Result<Value, String> {
    let id = operation["id"].as_str().unwrap().to_owned();
    let reply = world.post(url, &json!({"operations": [operation], "timeout_ms": 60000}), None).await.unwrap();
    match reply.status {
        200 => Ok(reply.body["results"][&id].clone()),
        409 if reply.code() != "lock_timeout" => Err(reply.code().to_owned()),
        _ => panic!("{:#}", reply.body),
    }
}

fn made(store: &str) -> Value {
    let mut put = json!({"do": "put", "set": {"counter": 0}, "if_version": "absent"});
    if store == "vectors" {
        put["vector"] = json!([1, 2, 3, 4]);
    }
    put
}

/// Reads, adds one, and puts it if nobody else has put since; else from the start.
async fn increment(world: &World, url: &str, store: &str, conflicts: &AtomicUsize) {
    for tries in 0_u32.. {
        let seen = one(world, url, record(world, "g", store, json!({"do": "get"}))).await.unwrap();
        let next = seen["value"]["counter"].as_i64().unwrap() + 1;
        let put = json!({"do": "put", "set": {"counter": next}, "if_version": seen["version"]});
        match one(world, url, record(world, "p", store, put)).await {
            Ok(done) => return assert_eq!(done["value"]["counter"], next, "{done}"),
            Err(code) => {
                assert!(matches!(code.as_str(), "conflict" | "serialization" | "deadlock"), "{code}");
                conflicts.fetch_add(1, Ordering::Relaxed);
                // Those who met once spread out, as `retry` does for what the sidecar runs again.
                let pause = rand::rng().random_range(0..50 << tries.min(5));
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }
}

/// Everybody counts the same record of one store up; answers how often somebody had to start again.
async fn count_up(world: &Arc<World>, url: &str, store: &'static str) -> usize {
    one(world, url, record(world, "m", store, made(store))).await.unwrap();
    let conflicts = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (world, url, conflicts) = (world.clone(), url.to_owned(), conflicts.clone());
            tokio::spawn(async move {
                for _ in 0..INCREMENTS {
                    increment(&world, &url, store, &conflicts).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    conflicts.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_lose_no_update() {
    let (world, sidecar) = world("lost").await;
    let (url, stores) = (sidecar.url(), ["pg", "graph", "vectors"]);
    let counted = futures::future::join_all(stores.map(|store| count_up(&world, &url, store))).await;
    for (store, conflicts) in stores.into_iter().zip(counted) {
        let left = one(&world, &url, record(&world, "g", store, json!({"do": "get"}))).await.unwrap();
        let total = CLIENTS * INCREMENTS;
        assert_eq!((&left["value"]["counter"], &left["version"]), (&json!(total), &json!(total + 1)), "{store}");
        println!("{store}: {total} increments, {conflicts} conflicts");
        assert!(conflicts > 0, "{store}: nobody met anybody");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rerun_reads_again() {
    let (world, sidecar) = world("rerun").await;
    let url = sidecar.url();
    for store in ["pg", "graph", "vectors"] {
        one(&world, &url, record(&world, "m", store, made(store))).await.unwrap();
    }
    // Copies PostgreSQL's counter into the others; waits by retrying until the point is at version 2.
    // A lock of their own keeps the two apart: across stores isolation is as strong as the locks declared, and without it
    // the row could be read before the other's commit and the point put after it.
    let locks = json!([{"key": world.name}]);
    let copied = json!({"counter": {"$ref": "seen#/value/counter"}});
    let copy = |retry: Value| {
        json!({"retry": retry, "locks": locks, "operations": [
            record(&world, "seen", "pg", json!({"do": "get"})),
            record(&world, "node", "graph", json!({"do": "put", "set": copied, "if_version": 1})),
            record(&world, "point", "vectors", json!({"do": "put", "set": copied, "if_version": 2}))]})
    };
    let given_up = world.post(&url, &copy(json!({"max_attempts": 3, "base_delay_ms": 1})), None).await.unwrap();
    given_up.must_be(409, "conflict");
    assert_eq!((&given_up.body["operation"], &given_up.body["retryable"]), (&json!("point"), &json!(true)));
    assert_eq!(
        (&given_up.body["attempts"], &given_up.body["retried_for"]),
        (&json!(3), &json!(["conflict", "conflict"])),
        "{:#}",
        given_up.body
    );
    let node = one(&world, &url, record(&world, "g", "graph", json!({"do": "get"}))).await.unwrap();
    assert_eq!(node["version"], 1, "a conflict leaves nothing in any store");

    let long = copy(json!({"max_attempts": 100, "base_delay_ms": 20, "max_delay_ms": 50}));
    let copying = async { world.post(&url, &long, None).await.unwrap() };
    let helping = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let both = json!({"locks": locks, "operations": [
            record(&world, "row", "pg", json!({"do": "put", "set": {"counter": 41}, "if_version": 1})),
            record(&world, "point", "vectors", json!({"do": "put", "if_version": 1}))]});
        world.post(&url, &both, None).await.unwrap().must_be(200, "committed");
    };
    let (done, ()) = futures::join!(copying, helping);
    done.must_be(200, "committed");
    assert_eq!(done.body["results"]["seen"]["value"]["counter"], 41, "the read was repeated: {:#}", done.body);
    assert_eq!(done.body["results"]["point"]["value"]["counter"], 41, "and so was what referred to it");
    assert_eq!(done.body["results"]["point"]["version"], 3);
    let attempts = done.body["attempts"].as_u64().unwrap();
    assert!(attempts > 1 && done.body["retried_for"].as_array().unwrap().iter().all(|why| why == "conflict"));
    let metrics = world.metrics(&sidecar).await;
    let counted = metrics.lines().find_map(|line| line.strip_prefix("outrigger_attempts_total{reason=\"conflict\"} "));
    assert_eq!(counted.unwrap().parse::<u64>().unwrap(), 2 + attempts - 1, "reasons are counted");
    for (store, version) in [("graph", 2), ("vectors", 3)] {
        let left = one(&world, &url, record(&world, "g", store, json!({"do": "get"}))).await.unwrap();
        assert_eq!((&left["value"]["counter"], &left["version"]), (&json!(41), &json!(version)), "{store}");
    }
}
