//! Leases, the lock table, the wait-for graph and deadlocks, through the real sidecar and its command line.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod world;

use std::process::Command;
use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use world::World;
use xtask::sidecar::Sidecar;

async fn send(sidecar: &Sidecar, method: Method, path: &str, token: &str, body: Option<Value>) -> Response {
    let url = format!("{}{path}", sidecar.url());
    let mut request = reqwest::Client::new().request(method, url).bearer_auth(token);
    if let Some(body) = body {
        request = request.json(&body);
    }
    request.send().await.unwrap()
}

async fn ask(sidecar: &Sidecar, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let answer = send(sidecar, method, path, "none", body).await;
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null))
}

async fn lease(sidecar: &Sidecar, body: Value) -> (u16, Value) {
    ask(sidecar, Method::POST, "/v1/locks", Some(body)).await
}

#[track_caller]
fn is((status, body): &(u16, Value), expected: u16, code: &str) {
    assert_eq!((*status, body["code"].as_str().unwrap_or_default()), (expected, code), "{body:#}");
}

/// What the program prints.
fn outrigger(sidecar: &Sidecar, args: &[&str]) -> String {
    let door = sidecar.launch().door.clone();
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger")).args(args).args(["--door", &door]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_taken_renewed_released_and_runs_out() {
    let world = World::new("lease").await;
    let launch = world.launch();
    let mut sidecar = world.start(&launch).await;
    let key = |name: &str| format!("{}/{name}", world.name);
    let first = lease(&sidecar, json!({"key": key("a"), "ttl_ms": 60_000})).await;
    is(&first, 201, "");
    let path = format!("/v1/locks/{}", first.1["lease"].as_str().unwrap());
    let token = first.1["fencing_token"].as_u64().unwrap();
    is(&lease(&sidecar, json!({"key": key("a")})).await, 409, "lock_timeout");
    is(&lease(&sidecar, json!({"key": key("a"), "mode": "shared", "wait_ms": 50})).await, 409, "lock_timeout");
    let renewed = ask(&sidecar, Method::PUT, &path, Some(json!({"ttl_ms": 30_000}))).await;
    assert_eq!((renewed.0, renewed.1["fencing_token"].as_u64()), (200, Some(token)), "{}", renewed.1);
    is(&ask(&sidecar, Method::PUT, &path, None).await, 200, "");
    is(&ask(&sidecar, Method::PUT, &path, Some(json!({"ttl_ms": 1}))).await, 400, "invalid_request");
    assert_eq!(ask(&sidecar, Method::DELETE, &path, None).await.0, 204);
    for method in [Method::PUT, Method::DELETE] {
        is(&ask(&sidecar, method.clone(), &path, None).await, 404, "not_found");
        is(&ask(&sidecar, method, "/v1/locks/no-such-lease", None).await, 404, "not_found");
    }
    // Shared with each other, and with nobody who writes.
    for _ in 0..2 {
        is(&lease(&sidecar, json!({"key": key("s"), "mode": "shared"})).await, 201, "");
    }
    is(&lease(&sidecar, json!({"key": key("s")})).await, 409, "lock_timeout");
    // It runs out: whoever waits for it gets it, with a greater number, and it is over for its first holder.
    let short = lease(&sidecar, json!({"key": key("b"), "ttl_ms": 300})).await;
    let next = lease(&sidecar, json!({"key": key("b"), "wait_ms": 20_000})).await;
    is(&next, 201, "");
    let short_path = format!("/v1/locks/{}", short.1["lease"].as_str().unwrap());
    is(&ask(&sidecar, Method::PUT, &short_path, None).await, 404, "not_found");
    let tokens: Vec<u64> =
        [&first, &short, &next].iter().map(|lease| lease.1["fencing_token"].as_u64().unwrap()).collect();
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    // A client that goes away while it waits leaves nothing behind.
    let gone = send(&sidecar, Method::POST, "/v1/locks", "none", Some(json!({"key": key("b"), "wait_ms": 60_000})));
    assert!(tokio::time::timeout(Duration::from_millis(300), gone).await.is_err());
    world
        .until(Duration::from_secs(5), "nobody waits", async || {
            world.get(&sidecar, "/v1/status").await.body["locks"]["waiting"] == 0
        })
        .await;
    assert_eq!(world.get(&sidecar, "/v1/status").await.body["locks"]["leases"], 3, "two shared, one exclusive");
    let reaped = sidecar.metrics().unwrap().lines().any(|line| line == r#"outrigger_reaped_total{what="lease"} 1"#);
    assert!(reaped, "one has run out");
    // Leases end with the sidecar; numbers do not start again.
    sidecar.kill().unwrap();
    let sidecar = world.start(&launch).await;
    let next_path = format!("/v1/locks/{}", next.1["lease"].as_str().unwrap());
    is(&ask(&sidecar, Method::PUT, &next_path, None).await, 404, "not_found");
    let later = lease(&sidecar, json!({"key": key("b")})).await;
    let later_token = later.1["fencing_token"].as_u64().unwrap();
    assert!(later_token > tokens[2] && later_token < 1 << 53, "{later_token} after {tokens:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_waits_for_a_lease_and_it_can_be_seen() {
    let world = World::new("seen").await;
    let sidecar = world.start(&world.launch()).await;
    let key = format!("{}/<&\"key\">", world.name);
    let held = lease(&sidecar, json!({"key": key, "ttl_ms": 60_000})).await;
    let id = held.1["lease"].as_str().unwrap().to_owned();
    let name = format!("{}:waits", world.name);
    let body = json!({"name": name, "locks": [{"key": key, "mode": "shared"}],
        "operations": [{"store": "pg", "sql": "SELECT 1 AS one"}]});
    let waiting = async { world.submit(&sidecar, &body).await };
    let looking = async {
        world
            .until(Duration::from_secs(10), "it waits", async || {
                world.get(&sidecar, "/v1/status").await.body["locks"]["waiting"] == 1
            })
            .await;
        let table = world.get(&sidecar, "/v1/locks?limit=5").await.body;
        let line = &table["locks"][0];
        assert_eq!((&line["key"], &line["mode"]), (&json!(key), &json!("exclusive")), "{table:#}");
        assert_eq!(line["holders"], json!([{"lease": id, "mode": "exclusive"}]));
        assert_eq!(line["waiters"][0]["mode"], "shared");
        let transaction = line["waiters"][0]["transaction"].as_str().unwrap();
        let graph = world.get(&sidecar, "/v1/wait-for").await.body;
        let edge = &graph["edges"][0];
        assert_eq!((&edge["waiter"], &edge["holder"]), (&json!(transaction), &json!(id)), "{graph:#}");
        assert_eq!((&edge["source"], &edge["resource"]), (&json!("locks"), &json!(key)));
        let nodes = graph["nodes"].as_array().unwrap();
        assert!(nodes.contains(&json!({"id": id, "name": key, "state": "lease"})), "{graph:#}");
        assert!(nodes.contains(&json!({"id": transaction, "name": name, "state": "active"})), "{graph:#}");
        for (form, holds) in
            [("text/vnd.graphviz", format!("\"{transaction}\" -> \"{id}\"")), ("image/svg+xml", name.clone())]
        {
            let request = reqwest::Client::new().get(format!("{}/v1/wait-for", sidecar.url())).header("Accept", form);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.headers()["content-type"], form);
            let text = answer.text().await.unwrap();
            assert!(text.contains(&holds), "{text}");
        }
        let printed: Value = serde_json::from_str(&outrigger(&sidecar, &["locks", "--json"])).unwrap();
        assert_eq!(printed, table);
        let printed = outrigger(&sidecar, &["locks"]);
        assert!(printed.contains(&format!("lease {id}")) && printed.contains("waits"), "{printed}");
        assert_eq!(ask(&sidecar, Method::DELETE, &format!("/v1/locks/{id}"), None).await.0, 204);
    };
    let (done, ()) = futures::join!(waiting, looking);
    done.must_be(200, "committed");
    assert_eq!(world.get(&sidecar, "/v1/wait-for").await.body, json!({"nodes": [], "edges": []}));
    assert!(outrigger(&sidecar, &["deadlocks"]).contains("No deadlocks."));
}

/// Two transactions that each hold a point and learn only then that they need the other's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circle_in_the_table_is_broken_and_told() {
    let world = World::new("circle").await;
    let sidecar = world.start(&world.launch()).await;
    for id in [1, 2] {
        world.submit(&sidecar, &json!({"operations": [world.point(&json!(id))]})).await.must_be(200, "committed");
    }
    let crossing = |first: i64, second: i64| {
        let set = |id: Value| json!({"payload": {"by": first}, "points": [id]});
        json!({"operations": [
            {"id": "first", "store": "vectors", "collection": world.name, "set_payload": set(json!(first))},
            {"id": "later", "store": "pg", "write": true, "sql": "SELECT $1::bigint AS id, pg_sleep(0.3)::text", "params": [second]},
            {"id": "second", "store": "vectors", "collection": world.name,
             "set_payload": set(json!({"$ref": "later#/rows/0/id"}))}]})
    };
    let (one, two) = (crossing(1, 2), crossing(2, 1));
    let (one, two) = futures::join!(world.submit(&sidecar, &one), world.submit(&sidecar, &two));
    let (winner, victim) = if one.status == 200 { (one, two) } else { (two, one) };
    winner.must_be(200, "committed");
    victim.must_be(409, "deadlock");
    assert_eq!(victim.body["retryable"], true);
    let cycle = victim.body["cycle"].as_array().unwrap();
    assert!(cycle.len() == 2 && cycle.iter().all(|edge| edge["source"] == "locks"), "{:#}", victim.body);
    let past = world.get(&sidecar, "/v1/deadlocks").await.body;
    let deadlock = &past["deadlocks"][0];
    assert_eq!((past["deadlocks"].as_array().unwrap().len(), &deadlock["victim"]), (1, &victim.body["transaction"]));
    assert_eq!((&deadlock["cycle"], deadlock["scores"].as_array().unwrap().len()), (&victim.body["cycle"], 2));
    let printed: Value = serde_json::from_str(&outrigger(&sidecar, &["deadlocks", "--json"])).unwrap();
    assert_eq!(printed, past);
    assert!(outrigger(&sidecar, &["deadlocks"]).contains("◄ victim"));
    let metrics = world.metrics(&sidecar).await;
    assert!(metrics.contains("outrigger_deadlocks_total{source=\"locks\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_its_own_principals() {
    let world = World::new("whose").await;
    let tokens = world.dir().join("tokens.toml");
    let principal = |name: &str, role: &str| {
        let hash: String =
            Sha256::digest(format!("token-of-{name}")).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("[[principal]]\nname = \"{name}\"\ntoken_sha256 = \"{hash}\"\nrole = \"{role}\"\n")
    };
    let all = [principal("ann", "app"), principal("bob", "app"), principal("olga", "operator")].concat();
    std::fs::write(&tokens, all).unwrap();
    let launch = world.launch().with("OUTRIGGER__SERVER__TOKENS_FILE", tokens.to_str().unwrap());
    let mut sidecar = launch.start().unwrap();
    sidecar.wait_ready(Duration::from_secs(20)).unwrap();
    let body = Some(json!({"key": world.name}));
    let as_whom = async |method: Method, path: &str, who: &str, body: Option<Value>| {
        let answer = send(&sidecar, method, path, &format!("token-of-{who}"), body).await;
        (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null))
    };
    assert_eq!(as_whom(Method::POST, "/v1/locks", "nobody", body.clone()).await.0, 401);
    for path in ["/v1/locks", "/v1/wait-for", "/v1/deadlocks"] {
        assert_eq!(as_whom(Method::GET, path, "nobody", None).await.0, 401, "{path}");
        assert_eq!(as_whom(Method::GET, path, "bob", None).await.0, 200, "{path}");
    }
    let held: (u16, Value) = as_whom(Method::POST, "/v1/locks", "ann", body).await;
    let path = format!("/v1/locks/{}", held.1["lease"].as_str().unwrap());
    for (method, who, status) in [
        (Method::PUT, "nobody", 401),
        (Method::PUT, "bob", 403),
        (Method::DELETE, "bob", 403),
        (Method::PUT, "ann", 200),
        (Method::PUT, "olga", 200),
        (Method::DELETE, "olga", 204),
        (Method::PUT, "ann", 404),
    ] {
        assert_eq!(as_whom(method.clone(), &path, who, None).await.0, status, "{method} by {who}");
    }
}
