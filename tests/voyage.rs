//! The contract on real stores: every plan, references, optimistic checks, keys, and bad input that leaves no effect.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_wrap,
    clippy::too_many_lines,
    reason = "a test that panics has failed, and a table of cases is long"
)]

mod world;

use std::time::Duration;

use serde_json::{Value, json};
use world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_plan_commits_and_says_who_decided() {
    let world = World::new("plans").await;
    let mut sidecar = world.start(&world.launch()).await;
    type Names = &'static [&'static str];
    let plans: [(Names, &str, Names, Names); 6] = [
        (&["pg"], "pg", &[], &[]),
        (&["graph"], "graph", &[], &[]),
        (&["vectors"], "wal", &[], &["vectors"]),
        (&["pg", "vectors"], "pg", &[], &["vectors"]),
        (&["pg", "graph"], "graph", &["pg"], &[]),
        (&["pg", "graph", "vectors"], "graph", &["pg"], &["vectors"]),
    ];
    for (id, (stores, decider, prepared, redo)) in (1i64..).zip(plans) {
        let reply = world.submit(&sidecar, &world.document(id, stores)).await;
        reply.must_be(200, "committed");
        let plan = &reply.body["plan"];
        assert_eq!(plan["decider"], decider, "{plan}");
        assert_eq!((&plan["prepared"], &plan["redo"]), (&json!(prepared), &json!(redo)), "{plan}");
        assert_eq!(reply.body["guarantee"], "atomic");
        assert_eq!(reply.body["pending"], json!([]));
        let audit = world.audit().await;
        assert_eq!(audit.rows.contains(&id), stores.contains(&"pg"));
        assert_eq!(audit.nodes.contains(&id), stores.contains(&"graph"));
        assert_eq!(audit.points.contains(&id), stores.contains(&"vectors"));
        let found = world.get(&sidecar, &format!("/v1/transactions/{}", reply.body["id"].as_str().unwrap())).await;
        found.must_be(200, "committed");
        assert_eq!(found.body["results"], reply.body["results"]);
    }
    let reads = json!({"operations": [
        {"store": "pg", "sql": format!("SELECT count(*) AS n FROM {}", world.name)},
        {"store": "graph", "read": true, "cypher": format!("MATCH (n:{}) RETURN count(n) AS n", world.name)},
        {"store": "vectors", "collection": world.name, "count": {"exact": true}},
    ]});
    let reply = world.submit(&sidecar, &reads).await;
    reply.must_be(200, "committed");
    assert_eq!(reply.body["plan"]["decider"], Value::Null);
    let results = &reply.body["results"];
    assert_eq!((&results["0"]["rows"][0]["n"], &results["1"]["rows"][0]["n"]), (&json!(4), &json!(3)), "{results}");
    assert_eq!(results["2"]["count"], 3);
    sidecar.stop(Duration::from_secs(10)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_expectation_aborts_all_and_retry_runs_again() {
    let world = World::new("expect").await;
    let sidecar = world.start(&world.launch()).await;
    world.submit(&sidecar, &world.document(1, &["pg", "graph", "vectors"])).await.must_be(200, "committed");
    let n = &world.name;
    let update = |version: i32| {
        json!({"id": "up", "store": "pg", "sql": format!("UPDATE {n} SET version = version + 1 WHERE id = $1 AND version = $2"),
               "params": [1, version], "expect": {"rows": 1}})
    };
    let with = |version: i32| json!({"operations": [update(version), world.node(&json!(2)), world.point(&json!(2))]});
    let refused = world.submit(&sidecar, &with(9)).await;
    refused.must_be(409, "conflict");
    assert_eq!((&refused.body["operation"], &refused.body["retryable"]), (&json!("up"), &json!(true)));
    assert_eq!(world.audit().await.nodes.len(), 1);
    assert_eq!(world.audit().await.points.len(), 1);
    world.submit(&sidecar, &with(1)).await.must_be(200, "committed");

    // Qdrant's `if`, and a retry that wins once somebody else has made the condition true.
    let mut conditional = json!({"retry": {"max_attempts": 40, "base_delay_ms": 20, "max_delay_ms": 50}, "operations": [
        {"id": "p", "store": "vectors", "collection": n, "expect": {"if": [{"id": 1, "exists": true, "payload": {"flag": true}}]},
         "set_payload": {"payload": {"seen": 1}, "points": [1]}}]});
    let waiting = async { world.submit(&sidecar, &conditional).await };
    let flag = json!({"operations": [{"store": "vectors", "collection": n,
        "set_payload": {"payload": {"flag": true}, "points": [1]}}]});
    let helping = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        world.submit(&sidecar, &flag).await.must_be(200, "committed");
    };
    let (won, ()) = futures::join!(waiting, helping);
    won.must_be(200, "committed");
    assert!(won.body["attempts"].as_u64().unwrap() > 1, "{:#}", won.body);
    conditional["retry"] = Value::Null;
    conditional.as_object_mut().unwrap().remove("retry");
    conditional["operations"][0]["expect"]["if"][0]["payload"]["flag"] = json!(false);
    world.submit(&sidecar, &conditional).await.must_be(409, "conflict");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_has_one_effect_also_over_restarts() {
    let world = World::new("keys").await;
    let launch = world.launch();
    let mut sidecar = world.start(&launch).await;
    for (id, stores) in [(1i64, &["pg", "graph", "vectors"][..]), (2, &["vectors"][..]), (3, &["pg", "vectors"][..])] {
        let (body, key) = (world.document(id, stores), format!("{}-{id}", world.name));
        let first = world.post(&sidecar.url(), &body, Some(&key)).await.unwrap();
        first.must_be(200, "committed");
        for restart in [false, true] {
            if restart {
                sidecar.kill().unwrap();
                sidecar = world.start(&launch).await;
            }
            let again = world.post(&sidecar.url(), &body, Some(&key)).await.unwrap();
            again.must_be(200, "committed");
            assert_eq!(again.headers["idempotency-replayed"], "true");
            assert_eq!(
                (&again.body["id"], &again.body["results"]),
                (&first.body["id"], &first.body["results"]),
                "{id}"
            );
            let other = world.post(&sidecar.url(), &world.document(id + 100, stores), Some(&key)).await.unwrap();
            other.must_be(422, "idempotency_mismatch");
        }
        world.get(&sidecar, &format!("/v1/idempotency/{key}")).await.must_be(200, "committed");
    }
    let audit = world.audit().await;
    assert_eq!((audit.rows.len(), audit.nodes.len(), audit.points.len()), (2, 1, 3), "{audit:?}");
    // An aborted transaction does not consume its key.
    let key = format!("{}-free", world.name);
    let twice = json!({"operations": [world.row(1)]});
    world.post(&sidecar.url(), &twice, Some(&key)).await.unwrap().must_be(422, "constraint_violation");
    let fine = json!({"operations": [world.row(50)]});
    world.post(&sidecar.url(), &fine, Some(&key)).await.unwrap().must_be(200, "committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_from_many_at_once_has_one_effect() {
    let world = World::new("race").await;
    let sidecar = world.start(&world.launch()).await;
    for round in 1i64..=5 {
        let (body, key) = (world.document(round, &["pg", "graph", "vectors"]), format!("{}-{round}", world.name));
        let url = sidecar.url();
        let asked = (0..8).map(|_| world.post(&url, &body, Some(&key)));
        for reply in futures::future::join_all(asked).await {
            let reply = reply.unwrap();
            assert!(matches!((reply.status, reply.code()), (200, "") | (409, "in_flight")), "{:#}", reply.body);
        }
    }
    let audit = world.audit().await;
    assert_eq!((audit.orphans().len(), audit.rows.len()), (0, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_named_and_leaves_no_effect() {
    let world = World::new("bad").await;
    let sidecar = world.start(&world.launch()).await;
    let n = world.name.clone();
    let whole =
        |last: Value| json!({"operations": [world.row(1), world.node(&json!(1)), world.point(&json!(1)), last]});
    let sql = |text: &str, params: Value| json!({"store": "pg", "sql": text, "params": params});
    let point = |body: Value| json!({"store": "vectors", "collection": n, "upsert": {"points": [body]}});
    let insert = format!("INSERT INTO {n}(id, title) VALUES ($1, $2)");
    let cases: Vec<(Value, u16, &str, &str)> = vec![
        (sql(&insert, json!(["no number", "t"])), 400, "invalid_request", "/operations/3/params/0"),
        (sql(&insert, json!([99999999999999999999u128 as f64, "t"])), 400, "invalid_request", "/operations/3/params/0"),
        (sql(&insert, json!([5, 6])), 400, "invalid_request", "/operations/3/params/1"),
        (sql(&insert, json!([1, "again"])), 422, "constraint_violation", ""),
        (sql("SELEC 1", json!([])), 422, "rejected_by_store", ""),
        (sql("COMMIT", json!([])), 400, "invalid_request", "/operations/3/sql"),
        (json!({"store": "graph", "cypher": "CREAT (n)"}), 422, "rejected_by_store", ""),
        (json!({"store": "graph", "cypher": format!("CREATE (n:{n} {{id: 1}})")}), 422, "constraint_violation", ""),
        (json!({"store": "nowhere", "sql": "SELECT 1"}), 400, "invalid_request", "/operations/3/store"),
        (json!({"store": "pg", "cypher": "RETURN 1"}), 400, "invalid_request", "/operations/3/cypher"),
        (json!({"store": "pg", "sql": "SELECT 1", "colour": "red"}), 400, "invalid_request", "/operations/3/colour"),
        (sql("SELECT $1::int", json!([{"$ref": "nothing#/x"}])), 400, "invalid_request", "/operations/3/params/0/$ref"),
        (
            sql("SELECT $1::int", json!([{"$ref": "row#/rows/7/id"}])),
            400,
            "invalid_request",
            "/operations/3/params/0/$ref",
        ),
        (point(json!({"id": 9, "vector": [1.0]})), 422, "rejected_by_store", ""),
        (point(json!({"id": -1, "vector": [1.0, 1.0, 1.0, 1.0]})), 400, "invalid_request", ""),
        (
            json!({"store": "vectors", "collection": "no_such_one", "delete": {"points": [1]}}),
            422,
            "rejected_by_store",
            "",
        ),
    ];
    for (last, status, code, pointer) in cases {
        let reply = world.submit(&sidecar, &whole(last.clone())).await;
        assert_eq!((reply.status, reply.code()), (status, code), "{last}: {:#}", reply.body);
        assert_eq!(reply.headers["content-type"], "application/problem+json");
        if !pointer.is_empty() {
            assert_eq!(reply.body["pointer"], pointer, "{last}: {:#}", reply.body);
        }
    }
    let forward = json!({"operations": [
        {"id": "a", "store": "pg", "sql": "SELECT $1::int", "params": [{"$ref": "b#/rows/0/x"}]},
        {"id": "b", "store": "pg", "sql": "SELECT 1 AS x"}]});
    world.submit(&sidecar, &forward).await.must_be(400, "invalid_request");
    let json_type = "application/json";
    let deep = [vec![b'['; 10_000], vec![b']'; 10_000]].concat();
    let raw: [(&str, Vec<u8>, u16, &str); 6] = [
        (json_type, deep, 400, "invalid_request"),
        (json_type, b"{\"operations\": [\xff\xfe]}".to_vec(), 400, "invalid_request"),
        (json_type, b"{\"operations\": [}".to_vec(), 400, "invalid_request"),
        (json_type, b"{\"operations\": [], \"operations\": []}".to_vec(), 400, "invalid_request"),
        (json_type, format!("{{\"name\": \"{}\"}}", "x".repeat(20 << 20)).into_bytes(), 413, "payload_too_large"),
        ("text/plain", b"hello".to_vec(), 415, "unsupported_media_type"),
    ];
    for (content_type, body, status, code) in raw {
        let reply = world.send_raw(&sidecar, content_type, body).await;
        assert_eq!((reply.status, reply.code()), (status, code), "{:#}", reply.body);
    }
    let audit = world.audit().await;
    assert_eq!((audit.rows.len(), audit.nodes.len(), audit.points.len()), (0, 0, 0), "{audit:?}");
    let status = world.get(&sidecar, "/v1/status").await.body;
    assert_eq!((&status["locks"]["held"], &status["transactions"]["active"]), (&json!(0), &json!(0)));
    assert_eq!(world.prepared(&sidecar).await, 0);
    world.submit(&sidecar, &world.document(1, &["pg", "graph", "vectors"])).await.must_be(200, "committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_cannot_promise_are_refused_with_the_remedy() {
    let world = World::new("two").await;
    let launch = world.launch();
    let config = std::fs::read_to_string(&launch.config).unwrap();
    let graph = config.split("[stores.graph]").nth(1).unwrap().split("\n[").next().unwrap();
    let both = world.dir().join("both.toml");
    std::fs::write(&both, format!("{config}\n[stores.graph2]{graph}\n")).unwrap();
    let sidecar = world.start(&xtask::sidecar::Launch { config: both, ..launch }).await;
    let second = json!({"id": "b", "store": "graph2", "cypher": "CREATE (n:Nothing)"});
    let reply = world.submit(&sidecar, &json!({"operations": [world.node(&json!(1)), second]})).await;
    reply.must_be(422, "impossible_guarantee");
    assert!(reply.body["detail"].as_str().unwrap().contains("graph and graph2"), "{:#}", reply.body);
    assert_eq!(world.audit().await.nodes.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_locks_and_time_limits() {
    let world = World::new("names").await;
    let sidecar = world.start(&world.launch()).await;
    let slow = json!({"name": format!("{}:slow", world.name), "locks": [{"key": "k", "mode": "exclusive"}],
        "operations": [{"store": "pg", "write": true, "sql": "SELECT pg_sleep(1)::text"}]});
    let first = async { world.submit(&sidecar, &slow).await };
    let second = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        world.submit(&sidecar, &slow).await.must_be(409, "name_in_use");
        let waits = json!({"locks": [{"key": "k", "mode": "shared"}], "timeout_ms": 100,
            "operations": [{"store": "pg", "sql": "SELECT 1"}]});
        let reply = world.submit(&sidecar, &waits).await;
        assert!(matches!(reply.code(), "lock_timeout" | "timeout"), "{:#}", reply.body);
    };
    let (first, ()) = futures::join!(first, second);
    first.must_be(200, "committed");
    let named = world.get(&sidecar, &format!("/v1/transactions/name:{}:slow", world.name)).await;
    named.must_be(200, "committed");
    let late = json!({"timeout_ms": 300, "operations": [world.node(&json!(1)),
        {"store": "pg", "write": true, "sql": "SELECT pg_sleep(5)::text"}]});
    let began = std::time::Instant::now();
    world.submit(&sidecar, &late).await.must_be(504, "timeout");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(world.audit().await.nodes.len(), 0);
    let unknown = world.get(&sidecar, &format!("/v1/transactions/{}", uuid::Uuid::now_v7())).await;
    unknown.must_be(404, "not_found");
}
