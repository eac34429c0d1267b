//! What a write costs here. Prints and asserts nothing, so it runs only when asked:
//! `cargo test -p qdrant-dev --test suite load -- --ignored --nocapture`

use std::time::{Duration, Instant};

use qdrant_client::Payload;
use qdrant_client::qdrant::{CreateCollection, Distance, PointStruct, Query, QueryPoints, VectorParamsBuilder};
use serde_json::json;

use super::harness::{Server, completed, storage, upsert_of};

const SIZE: u64 = 128;
const WRITES: u64 = 3000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn load() {
    let (_dir, storage) = storage();
    let server = Server::start(&storage);
    let request = CreateCollection {
        collection_name: "c".to_owned(),
        vectors_config: Some(VectorParamsBuilder::new(SIZE, Distance::Cosine).into()),
        ..CreateCollection::default()
    };
    server.client().create_collection(request).await.expect("a collection");
    for clients in [1, 8, 32] {
        writes(&server, clients).await;
    }
    queries(&server).await;
}

fn vector(id: u64) -> Vec<f32> {
    (0..SIZE).map(|at| ((id * 131 + at * 7) % 97) as f32 / 97.0 + 0.01).collect()
}

async fn writes(server: &Server, clients: u64) {
    let each = if clients == 1 { WRITES / 5 } else { WRITES / clients };
    let (counts, cpu, begun) = (server.counts(), server.cpu(), Instant::now());
    let tasks: Vec<_> = (0..clients)
        .map(|who| {
            let client = server.client();
            tokio::spawn(async move {
                let mut times = Vec::new();
                for n in 0..each {
                    let id = clients * 1_000_000 + who * 10_000 + n;
                    let payload = Payload::try_from(json!({"title": format!("point {id}"), "n": n})).expect("object");
                    let begun = Instant::now();
                    completed(client.upsert_points(upsert_of(vec![PointStruct::new(id, vector(id), payload)])).await);
                    times.push(begun.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("no panic"));
    }
    let (took, cpu, after) = (begun.elapsed(), server.cpu() - cpu, server.counts());
    times.sort();
    let grown = |what: &str| (after[what].as_u64().unwrap_or(0) - counts[what].as_u64().unwrap_or(0)) as f64;
    let jobs = grown("jobs");
    println!(
        "{clients:2} clients: {:6.0} upserts/s, p50 {:.2} ms, p99 {:.2} ms, server CPU {:.0} us each; \
         {:.3} ms per upsert in the engine, {:.2} ms per flush, {:.1} upserts per flush",
        jobs / took.as_secs_f64(),
        ms(times[times.len() / 2]),
        ms(times[times.len() * 99 / 100]),
        cpu.as_secs_f64() * 1e6 / jobs,
        grown("apply_us") / jobs / 1e3,
        grown("flush_us") / grown("flushes") / 1e3,
        jobs / grown("flushes"),
    );
}

async fn queries(server: &Server) {
    let client = server.client();
    let mut times = Vec::new();
    for n in 0..100 {
        let request = QueryPoints {
            collection_name: "c".to_owned(),
            query: Some(Query::new_nearest(vector(n))),
            ..QueryPoints::default()
        };
        let begun = Instant::now();
        assert_eq!(client.query(request).await.expect("an answer").result.len(), 10);
        times.push(begun.elapsed());
    }
    times.sort();
    println!("nearest of all: p50 {:.2} ms, p99 {:.2} ms", ms(times[50]), ms(times[99]));
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
