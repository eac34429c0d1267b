//! Stores that are killed under load, each in turn, and come back: no orphan, nothing in doubt for long.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_wrap,
    clippy::too_many_lines,
    reason = "a test that panics has failed, and a table of cases is long"
)]

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use serde_json::json;
use world::World;
use xtask::stack::{Stack, Store, Wanted};

/// What is in doubt when a store returns must have ended by then.
const RESOLVED_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_store_dies_under_load_and_returns() {
    let stack = tokio::task::spawn_blocking(|| Stack::fresh("outages", Wanted::all())).await.unwrap().unwrap();
    let world = Arc::new(World::on(stack, "outage").await);
    let sidecar = world.start(&world.launch()).await;
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let writers: Vec<_> = (0..4i64)
        .map(|writer| {
            let (world, url) = (world.clone(), sidecar.url());
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            tokio::spawn(async move {
                for n in 1.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let id = writer * 100_000 + n;
                    let body = world.document(id, &["pg", "graph", "vectors"]);
                    let reply = world.post(&url, &body, None).await.unwrap();
                    match (reply.status, reply.code()) {
                        (200, "") => _ = acknowledged.fetch_add(1, Ordering::Relaxed),
                        (202, "") => {}
                        _ => {
                            assert!(reply.body["retryable"] == json!(true), "{:#}", reply.body);
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                }
            })
        })
        .collect();
    for store in Store::ALL {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let before = acknowledged.load(Ordering::Relaxed);
        on_stack(&world, move |stack| stack.kill(store)).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        on_stack(&world, move |stack| stack.start(store)).await;
        let back = std::time::Instant::now();
        loop {
            let status = world.get(&sidecar, "/v1/status").await.body;
            let up = status["stores"].as_object().unwrap().values().all(|store| store["state"] == "up");
            if up && status["transactions"]["in_doubt"] == 0 {
                break;
            }
            assert!(back.elapsed() < RESOLVED_WITHIN, "{store} is back: {status:#}\n{}", sidecar.log_tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!("{store}: up and nothing in doubt {:?} after its return", back.elapsed());
        world
            .until(Duration::from_secs(10), "work goes on", async || acknowledged.load(Ordering::Relaxed) > before + 3)
            .await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    world.recovered(&sidecar).await;
    let audit = world.audit().await;
    assert!(audit.orphans().is_empty(), "{:?}", audit.orphans());
    assert!(audit.rows.len() as i64 >= acknowledged.load(Ordering::Relaxed));
    assert_eq!(world.prepared(&sidecar).await, 0);
    let rss = sidecar.rss_anon().unwrap() >> 20;
    assert!(rss < 100, "{rss} MiB of anonymous memory");
}

/// Qdrant is down when the decision falls: the client is told `committing`, and the point follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redo_that_has_to_wait_is_committing_not_lost() {
    let stack = tokio::task::spawn_blocking(|| Stack::fresh("late", Wanted::only(&[Store::Postgres, Store::Qdrant])));
    let stack = stack.await.unwrap().unwrap();
    // `World` wants all three; this test makes its own places.
    stack.sql("CREATE TABLE t (id bigint PRIMARY KEY)").unwrap();
    let login = stack.login(Store::Qdrant).unwrap();
    let faults = login.faults.clone().expect("our own engine takes faults on order");
    let qdrant = qdrant_client::Qdrant::from_url(&login.url).skip_compatibility_check().build().unwrap();
    let vectors = qdrant_client::qdrant::VectorParamsBuilder::new(2, qdrant_client::qdrant::Distance::Dot);
    let collection = qdrant_client::qdrant::CreateCollectionBuilder::new("t").vectors_config(vectors);
    qdrant.create_collection(collection).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let launch =
        xtask::sidecar::Launch::over(env!("CARGO_BIN_EXE_outrigger"), &stack.sidecar_config(), dir.path()).unwrap();
    let mut sidecar = launch.start().unwrap();
    sidecar.wait_ready(Duration::from_secs(20)).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    order(&faults, "inject fail_before n=1000 code=unavailable");
    let body = json!({"timeout_ms": 1500, "operations": [
        {"store": "pg", "sql": "INSERT INTO t VALUES (1)"},
        {"store": "vectors", "collection": "t", "upsert": {"points": [{"id": 1, "vector": [0.5, 0.5]}]}}]});
    let http = reqwest::Client::new();
    let answer = http.post(format!("{}/v1/transactions", sidecar.url())).json(&body).send().await.unwrap();
    let status = answer.status().as_u16();
    let view: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(
        (status, view["state"].as_str(), &view["pending"]),
        (200, Some("committing"), &json!(["vectors"])),
        "{view:#}"
    );
    assert_eq!(view["results"]["1"], json!({"affected": 1, "applied": false}), "not yet, and it says so");
    assert_eq!(stack.sql("SELECT count(*) FROM t").unwrap().trim(), "1", "decided is decided");
    // Not even a crash in between loses it.
    sidecar.kill().unwrap();
    order(&faults, "reset");
    let mut sidecar = launch.start().unwrap();
    sidecar.wait_ready(Duration::from_secs(20)).unwrap();
    let path = format!("/v1/transactions/{}", view["id"].as_str().unwrap());
    let began = std::time::Instant::now();
    loop {
        let (_, text) = xtask::sidecar::get(&launch.door, &path).unwrap();
        if text.contains("\"state\":\"committed\"") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(15), "{text}\n{}", sidecar.log_tail());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let count = qdrant.count(qdrant_client::qdrant::CountPointsBuilder::new("t").exact(true)).await.unwrap();
    assert_eq!(count.result.unwrap().count, 1);
    // Whoever does not wait is told that it is not applied; whoever asks later, that it is.
    order(&faults, "inject fail_before n=4 code=unavailable");
    let body = json!({"wait": "decided", "operations": [
        {"id": "w", "store": "vectors", "collection": "t", "upsert": {"points": [{"id": 2, "vector": [0.5, 0.5]}]}}]});
    let answer = http.post(format!("{}/v1/transactions", sidecar.url())).json(&body).send().await.unwrap();
    let mut view: serde_json::Value = answer.json().await.unwrap();
    assert_eq!((&view["state"], &view["results"]["w"]["applied"]), (&json!("committing"), &json!(false)), "{view:#}");
    let path = format!("/v1/transactions/{}", view["id"].as_str().unwrap());
    while view["state"] == "committing" {
        assert_eq!(view["results"]["w"]["applied"], view["pending"].as_array().unwrap().is_empty(), "{view:#}");
        tokio::time::sleep(Duration::from_millis(5)).await;
        view = serde_json::from_str(&xtask::sidecar::get(&launch.door, &path).unwrap().1).unwrap();
    }
    assert_eq!((&view["state"], &view["results"]["w"]["applied"]), (&json!("committed"), &json!(true)), "{view:#}");
}

fn order(faults: &str, line: &str) {
    use std::io::{BufRead, BufReader, Write};
    let mut stream = std::net::TcpStream::connect(faults).unwrap();
    writeln!(stream, "{line}").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert!(answer.starts_with("ok"), "{line}: {answer}");
}

async fn on_stack(world: &Arc<World>, act: impl FnOnce(&Stack) -> anyhow::Result<()> + Send + 'static) {
    let world = world.clone();
    tokio::task::spawn_blocking(move || act(&world.stack)).await.unwrap().unwrap();
}
