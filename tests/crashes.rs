//! `kill -9` at every named place, on real stores: afterwards the transaction is in all of them or in none, and the
//! answer to "which?" agrees.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_wrap,
    clippy::too_many_lines,
    reason = "a test that panics has failed, and a table of cases is long"
)]

mod world;

use std::time::Duration;

use serde_json::json;
use world::World;

/// What must stand after a crash at a place.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    Nothing,
    Everything,
}

/// Dies at `point` in the middle of a document over `stores`, starts again, and compares.
async fn dies_at(point: &str, stores: &[&str], then: Then) {
    let world = World::new(&format!("crash_{point}")).await;
    let launch = world.launch();
    let mut sidecar = world.start(&launch.with("OUTRIGGER_CRASH_AT", point)).await;
    let body = world.document(7, stores);
    // All suites share the stores, and a key is known to all sidecars over them.
    let key = world.name.clone();
    let answer = world.post(&sidecar.url(), &body, Some(&key)).await;
    assert!(answer.is_err(), "{point}: it answered {:?} instead of dying", answer.map(|reply| reply.body));
    assert!(sidecar.wait_end(Duration::from_secs(5)).unwrap().is_some(), "{point}: it still lives");

    let sidecar = world.start(&launch).await;
    world.recovered(&sidecar).await;
    let audit = world.audit().await;
    let expected = |store: &str| usize::from(then == Then::Everything && stores.contains(&store));
    let seen = (audit.rows.len(), audit.nodes.len(), audit.points.len());
    assert_eq!(seen, (expected("pg"), expected("graph"), expected("vectors")), "{point} {stores:?}");
    assert_eq!(world.prepared(&sidecar).await, 0, "{point}: a prepared transaction is left");
    let status = world.get(&sidecar, "/v1/status").await.body;
    assert_eq!(status["locks"]["held"], 0, "{point}: a lock is left");

    let known = world.get(&sidecar, &format!("/v1/idempotency/{key}")).await;
    match then {
        Then::Everything => known.must_be(200, "committed"),
        Then::Nothing => known.must_be(404, "not_found"),
    }
    let again = world.post(&sidecar.url(), &body, Some(&key)).await.unwrap();
    again.must_be(200, "committed");
    assert_eq!(again.headers.contains_key("idempotency-replayed"), then == Then::Everything, "{point}");
    let audit = world.audit().await;
    assert!(stores.len() < 3 || (audit.orphans().is_empty() && audit.rows.len() == 1), "{point}: {audit:?}");
}

macro_rules! crashes {
    ($($name:ident: $point:literal, $stores:expr, $then:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            dies_at($point, &$stores, $then).await;
        })*
    };
}

crashes! {
    all_three_before_intent: "before_intent", ["pg", "graph", "vectors"], Then::Nothing;
    all_three_after_intent: "after_intent", ["pg", "graph", "vectors"], Then::Nothing;
    all_three_after_prepare: "after_prepare", ["pg", "graph", "vectors"], Then::Nothing;
    all_three_after_decide: "after_decide", ["pg", "graph", "vectors"], Then::Everything;
    all_three_after_verdict: "after_verdict", ["pg", "graph", "vectors"], Then::Everything;
    all_three_mid_finish: "mid_finish", ["pg", "graph", "vectors"], Then::Everything;
    all_three_before_done: "before_done", ["pg", "graph", "vectors"], Then::Everything;
    all_three_after_done: "after_done", ["pg", "graph", "vectors"], Then::Everything;
    pg_and_qdrant_after_intent: "after_intent", ["pg", "vectors"], Then::Nothing;
    pg_and_qdrant_after_decide: "after_decide", ["pg", "vectors"], Then::Everything;
    pg_and_qdrant_mid_finish: "mid_finish", ["pg", "vectors"], Then::Everything;
    pg_and_neo4j_after_prepare: "after_prepare", ["pg", "graph"], Then::Nothing;
    pg_and_neo4j_after_decide: "after_decide", ["pg", "graph"], Then::Everything;
    pg_alone_after_decide: "after_decide", ["pg"], Then::Everything;
    neo4j_alone_after_decide: "after_decide", ["graph"], Then::Everything;
    qdrant_alone_before_intent: "before_intent", ["vectors"], Then::Nothing;
    qdrant_alone_after_verdict: "after_verdict", ["vectors"], Then::Everything;
    qdrant_alone_before_done: "before_done", ["vectors"], Then::Everything;
}

/// A crash in the middle of recovery itself: the second recovery ends it all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dies_again_while_recovering() {
    for second in ["after_verdict", "mid_finish", "before_done"] {
        let world = World::new("crash_twice").await;
        let launch = world.launch();
        let mut first = world.start(&launch.with("OUTRIGGER_CRASH_AT", "after_decide")).await;
        let body = world.document(7, &["pg", "graph", "vectors"]);
        assert!(world.post(&first.url(), &body, None).await.is_err());
        first.wait_end(Duration::from_secs(5)).unwrap();
        let mut again = launch.with("OUTRIGGER_CRASH_AT", second).start().unwrap();
        // Recovery's own places are the live path's: there is no second copy of it.
        let died = again.wait_end(Duration::from_secs(20)).unwrap();
        if second == "after_verdict" {
            assert_eq!(died, None, "recovery has no such place: this test must be told of it");
            again.kill().unwrap();
        } else {
            assert_eq!(died, Some(false), "{second}: {}", again.log_tail());
        }
        let sidecar = world.start(&launch).await;
        world.recovered(&sidecar).await;
        let audit = world.audit().await;
        assert_eq!((audit.orphans().len(), audit.rows.len()), (0, 1), "{second}: {audit:?}");
        assert_eq!(world.prepared(&sidecar).await, 0);
    }
}

/// Ready is a promise too: whoever is let in right after `/readyz` said yes is served, though the graph is still being
/// rid of the dead sidecar's sessions at that moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_means_that_work_is_taken() {
    let world = World::new("ready").await;
    let launch = world.launch();
    let mut first = world.start(&launch.with("OUTRIGGER_CRASH_AT", "after_prepare")).await;
    assert!(world.post(&first.url(), &world.document(1, &["pg", "graph", "vectors"]), None).await.is_err());
    first.wait_end(Duration::from_secs(5)).unwrap();
    let mut again = launch.start().unwrap();
    let ready = again.wait_ready(Duration::from_secs(20)).unwrap();
    let seen = world.get(&again, "/v1/status").await.body["stores"]["graph"]["state"].clone();
    println!("ready after {ready:?}, with the graph {seen}");
    world.submit(&again, &world.document(2, &["pg", "graph", "vectors"])).await.must_be(200, "committed");
    world.recovered(&again).await;
    let audit = world.audit().await;
    assert_eq!((audit.orphans().len(), audit.rows.len()), (0, 1), "{audit:?}");
}

/// Random kills under parallel load: what was acknowledged is there, nothing is half there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_kills_under_load() {
    const WRITERS: i64 = 8;
    const EACH: i64 = 40;
    let seed =
        std::env::var("OUTRIGGER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("seed {seed}: OUTRIGGER_SEED={seed} repeats the moments of the kills");
    let mut random = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(seed);
    let world = std::sync::Arc::new(World::new("kills").await);
    let launch = world.launch();
    let url = format!("http://{}", launch.door);
    let mut sidecar = world.start(&launch).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (world, url) = (world.clone(), url.clone());
            tokio::spawn(async move {
                for n in 0..EACH {
                    let id = writer * 1000 + n + 1;
                    let (body, key) = (world.document(id, &["pg", "graph", "vectors"]), format!("{}-{id}", world.name));
                    // Asked again with the same key until the answer is final: that is all a client has to do.
                    loop {
                        match world.post(&url, &body, Some(&key)).await {
                            Ok(reply) if reply.status == 200 && reply.state() == "committed" => break,
                            Ok(reply) => {
                                let again = reply.status == 202 || reply.state() == "committing";
                                let retryable = reply.body["retryable"] == json!(true);
                                assert!(again || retryable, "{:#}", reply.body);
                            }
                            Err(_) => {}
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            })
        })
        .collect();
    for _ in 0..5 {
        let pause = rand::RngExt::random_range(&mut random, 200..900);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        sidecar.kill().unwrap();
        drop(sidecar);
        sidecar = world.start(&launch).await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    world.recovered(&sidecar).await;
    let audit = world.audit().await;
    assert_eq!(audit.orphans().len(), 0, "seed {seed}: {:?}", audit.orphans());
    assert_eq!(audit.rows.len() as i64, WRITERS * EACH, "seed {seed}");
    assert_eq!(world.prepared(&sidecar).await, 0);
}
