//! `kill -9` at every named place of an interactive transaction's end: the stores and the answer agree afterwards.

use std::time::Duration;

use serde_json::json;

use crate::Open;
use crate::world::World;

async fn dies_at(point: &str, stores: &[&str], committed: bool) {
    let world = World::new(&format!("talk_{point}")).await;
    let launch = world.launch();
    let mut sidecar = world.start(&launch.with("OUTRIGGER_CRASH_AT", point)).await;
    let open = Open::new(&world, &sidecar, json!({})).await;
    for store in stores {
        let operation = match *store {
            "pg" => world.row(7),
            "graph" => world.node(&json!(7)),
            _ => world.point(&json!(7)),
        };
        open.run(json!([operation])).await.must_be(200, "active");
    }
    assert!(world.call(&open.url, &open.id, "commit", &json!({})).await.is_err(), "{point}: it answered");
    assert!(sidecar.wait_end(Duration::from_secs(5)).unwrap().is_some(), "{point}: it still lives");
    drop(sidecar);
    let mut sidecar = world.start(&launch).await;
    world.recovered(&sidecar).await;
    let found = world.get(&sidecar, &format!("/v1/transactions/{}", open.id)).await;
    found.must_be(200, if committed { "committed" } else { "aborted" });
    let again = world.call(&sidecar.url(), &open.id, "commit", &json!({})).await.unwrap();
    if committed {
        again.must_be(200, "committed");
    } else {
        again.must_be(409, "wrong_state");
    }
    let audit = world.audit().await;
    let expected = |store: &str| usize::from(committed && stores.contains(&store));
    let seen = (audit.rows.len(), audit.nodes.len(), audit.points.len());
    assert_eq!(seen, (expected("pg"), expected("graph"), expected("vectors")), "{point} {stores:?}");
    assert_eq!(world.prepared(&sidecar).await, 0, "{point}: a prepared transaction is left");
    assert_eq!(world.get(&sidecar, "/v1/status").await.body["locks"]["held"], 0, "{point}: a lock is left");
    sidecar.stop(Duration::from_secs(10)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three() {
    for (point, committed) in [
        ("before_settle", false),
        ("before_intent", false),
        ("after_intent", false),
        ("after_prepare", false),
        ("after_decide", true),
        ("after_verdict", true),
        ("mid_finish", true),
        ("before_done", true),
    ] {
        dies_at(point, &["pg", "graph", "vectors"], committed).await;
    }
}

/// Nobody follows, so the log forces nothing: only the stores' markers know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_alone() {
    for stores in [["pg"], ["graph"]] {
        dies_at("before_settle", &stores, false).await;
        dies_at("after_decide", &stores, true).await;
    }
    dies_at("before_intent", &["vectors"], false).await;
    dies_at("after_verdict", &["vectors"], true).await;
}
