//! What a client sees: its own writes at once, others nothing before the verdict, and one outcome for ever.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Open;
use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_grows_call_by_call_and_sees_its_own_writes() {
    let world = World::new("grows").await;
    let mut sidecar = world.start(&world.launch()).await;
    let name = format!("talk:{}", world.name);
    let open = Open::new(&world, &sidecar, json!({"name": name})).await;
    let row = open.run(json!([world.row(7)])).await;
    row.must_be(200, "active");
    assert_eq!(row.body["results"]["row"]["rows"][0]["id"], 7);
    assert!(row.body["lease_expires_at"].is_string());
    // By name as well, and a reference into an earlier call.
    let of_row = json!({"$ref": "row#/rows/0/id"});
    let body = json!({"operations": [world.node(&of_row)]});
    world.call(&open.url, &format!("name:{name}"), "operations", &body).await.unwrap().must_be(200, "active");
    open.run(json!([world.point(&of_row)])).await.must_be(200, "active");
    let seen = open
        .run(json!([
            {"id": "rows", "store": "pg", "sql": format!("SELECT id FROM {} WHERE id = $1", world.name), "params": [7]},
            {"id": "nodes", "store": "graph", "read": true, "cypher": format!("MATCH (n:{} {{id: 7}}) RETURN n.id AS id", world.name)},
            {"id": "points", "store": "vectors", "collection": world.name, "retrieve": {"ids": [7]}},
            {"id": "near", "store": "vectors", "collection": world.name, "query": {"query": [0.1, 0.2, 0.3, 0.4], "limit": 3}},
        ]))
        .await;
    let results = &seen.body["results"];
    assert_eq!(results["rows"]["rows"], json!([{"id": 7}]));
    assert_eq!(results["nodes"]["rows"], json!([{"id": 7}]));
    assert_eq!(results["points"]["points"][0]["id"], 7);
    assert_eq!((&results["near"]["points"], &results["near"]["sees_own_writes"]), (&json!([]), &json!(false)));
    assert_eq!(results.as_object().unwrap().len(), 4, "a call answers its own results");
    assert_eq!(world.audit().await, crate::world::Audit::default(), "nobody else sees anything yet");
    assert_eq!(seen.body["plan"]["decider"], "graph");

    let committed = open.commit().await;
    committed.must_be(200, "committed");
    assert_eq!(committed.body["plan"]["prepared"], json!(["pg"]));
    assert_eq!(committed.body["results"].as_object().unwrap().len(), 7, "all of them");
    let audit = world.audit().await;
    assert_eq!((audit.rows.len(), audit.nodes.len(), audit.points.len()), (1, 1, 1));
    open.commit().await.must_be(200, "committed");
    let other = open.roll_back().await;
    other.must_be(409, "wrong_state");
    assert_eq!(other.body["state"], "committed");
    open.run(json!([world.row(8)])).await.must_be(409, "wrong_state");
    assert_eq!(world.prepared(&sidecar).await, 0);
    sidecar.stop(Duration::from_secs(10)).unwrap();
}

/// Who joins first, and who only reads, must not matter for who decides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_plan_is_found_at_the_end() {
    let world = World::new("late_plans").await;
    let mut sidecar = world.start(&world.launch()).await;
    type Names = &'static [&'static str];
    let plans: [(Names, &str, Names, Names); 8] = [
        (&["pg"], "pg", &[], &[]),
        (&["graph"], "graph", &[], &[]),
        (&["vectors"], "wal", &[], &["vectors"]),
        (&["pg", "vectors"], "pg", &[], &["vectors"]),
        (&["pg", "graph"], "graph", &["pg"], &[]),
        (&["graph", "pg"], "graph", &["pg"], &[]),
        (&["vectors", "pg", "graph"], "graph", &["pg"], &["vectors"]),
        (&["pg", "vectors", "graph"], "graph", &["pg"], &["vectors"]),
    ];
    for (id, (stores, decider, prepared, redo)) in (1i64..).zip(plans) {
        let open = Open::new(&world, &sidecar, json!({})).await;
        // Every store is read first: a session that has only read may still become anything.
        open.run(json!([
            {"store": "pg", "sql": format!("SELECT count(*) AS n FROM {}", world.name)},
            {"store": "graph", "read": true, "cypher": format!("MATCH (n:{}) RETURN count(n) AS n", world.name)},
            {"store": "vectors", "collection": world.name, "count": {"exact": true}},
        ]))
        .await
        .must_be(200, "active");
        for store in stores {
            let operation = match *store {
                "pg" => world.row(id),
                "graph" => world.node(&json!(id)),
                _ => world.point(&json!(id)),
            };
            open.run(json!([operation])).await.must_be(200, "active");
        }
        let reply = open.commit().await;
        reply.must_be(200, "committed");
        let plan = &reply.body["plan"];
        assert_eq!(plan["decider"], decider, "{stores:?}: {plan}");
        assert_eq!((&plan["prepared"], &plan["redo"]), (&json!(prepared), &json!(redo)), "{stores:?}: {plan}");
        let audit = world.audit().await;
        assert_eq!(audit.rows.contains(&id), stores.contains(&"pg"), "{stores:?}");
        assert_eq!(audit.nodes.contains(&id), stores.contains(&"graph"), "{stores:?}");
        assert_eq!(audit.points.contains(&id), stores.contains(&"vectors"), "{stores:?}");
    }
    let reads = Open::new(&world, &sidecar, json!({})).await;
    reads.run(json!([{"store": "pg", "sql": "SELECT 1 AS one"}])).await.must_be(200, "active");
    let done = reads.commit().await;
    done.must_be(200, "committed");
    assert_eq!((&done.body["plan"]["decider"], done.body["guarantee"].as_str()), (&Value::Null, Some("read_only")));
    Open::new(&world, &sidecar, json!({})).await.commit().await.must_be(200, "committed");
    sidecar.stop(Duration::from_secs(10)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_leaves_nothing_and_is_remembered() {
    let world = World::new("back").await;
    let launch = world.launch();
    let mut sidecar = world.start(&launch).await;
    let open = Open::new(&world, &sidecar, json!({"locks": [{"key": world.name}]})).await;
    open.run(json!([world.row(1), world.node(&json!(1)), world.point(&json!(1))])).await.must_be(200, "active");
    open.roll_back().await.must_be(200, "aborted");
    open.roll_back().await.must_be(200, "aborted");
    let late = open.commit().await;
    late.must_be(409, "wrong_state");
    assert_eq!((&late.body["state"], &late.body["cause"]["code"]), (&json!("aborted"), &json!("rolled_back")));
    assert_eq!(world.audit().await, crate::world::Audit::default());
    assert_eq!(world.get(&sidecar, "/v1/status").await.body["locks"]["held"], 0);
    sidecar.stop(Duration::from_secs(10)).unwrap();
    drop(sidecar);
    let mut sidecar = world.start(&launch).await;
    world.get(&sidecar, &format!("/v1/transactions/{}", open.id)).await.must_be(200, "aborted");
    world.call(&sidecar.url(), &open.id, "commit", &json!({})).await.unwrap().must_be(409, "wrong_state");
    sidecar.stop(Duration::from_secs(10)).unwrap();
}

/// What is refused before it runs leaves the transaction open; what a store refuses ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_say_whether_it_goes_on() {
    let world = World::new("refusals").await;
    let mut sidecar = world.start(&world.launch()).await;
    let open = Open::new(&world, &sidecar, json!({})).await;
    open.run(json!([world.row(1)])).await.must_be(200, "active");
    let refused = [
        (json!([world.row(2)]), "/operations/0/id"),
        (json!([world.node(&json!({"$ref": "nobody#/x"}))]), "/operations/0/params/id/$ref"),
        (json!([{"store": "nowhere", "sql": "SELECT 1"}]), "/operations/0/store"),
        (json!([]), "/operations"),
        (json!([{"id": "1", "store": "pg", "sql": "SELECT 1"}, {"store": "pg", "sql": "SELECT 1"}]), ""),
    ];
    for (operations, pointer) in refused {
        let reply = open.run(operations.clone()).await;
        if pointer.is_empty() {
            // The second has its place in the whole transaction as its id: 2.
            reply.must_be(200, "active");
            assert_eq!(reply.body["results"].as_object().unwrap().keys().collect::<Vec<_>>(), ["1", "2"]);
            continue;
        }
        reply.must_be(400, "invalid_request");
        assert_eq!(reply.body["pointer"], pointer, "{operations}");
    }
    open.run(json!([world.node(&json!({"$ref": "row#/rows/0/id"}))])).await.must_be(200, "active");
    let dead = open.run(json!([{"id": "again", "store": "pg", "sql": format!("INSERT INTO {}(id, title) VALUES (1, 'x')", world.name)}])).await;
    dead.must_be(422, "constraint_violation");
    assert_eq!((&dead.body["state"], &dead.body["operation"]), (&json!("aborted"), &json!("again")));
    let late = open.commit().await;
    late.must_be(409, "wrong_state");
    assert_eq!(late.body["cause"]["code"], "constraint_violation");
    assert_eq!(world.audit().await, crate::world::Audit::default());

    // A read that writes would be committed outside of any decision.
    world.sql(&format!("CREATE FUNCTION {0}_sly() RETURNS int LANGUAGE sql AS $$ INSERT INTO {0}(id, title) VALUES (99, 'sly') RETURNING 1 $$", world.name));
    let sly = Open::new(&world, &sidecar, json!({})).await;
    sly.run(json!([{"store": "pg", "sql": format!("SELECT {}_sly()", world.name)}, world.node(&json!(99))]))
        .await
        .must_be(200, "active");
    sly.commit().await.must_be(422, "rejected_by_store");
    assert_eq!(world.audit().await, crate::world::Audit::default());
    let unknown =
        world.call(&sidecar.url(), "0199b000-0000-7000-8000-000000000001", "commit", &json!({})).await.unwrap();
    unknown.must_be(404, "not_found");
    sidecar.stop(Duration::from_secs(10)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_costs_its_lease() {
    let world = World::new("lease").await;
    let mut sidecar = world.start(&world.launch()).await;
    let lock = json!([{"key": world.name}]);
    let open = Open::new(&world, &sidecar, json!({"lease_ms": 400, "locks": lock, "name": world.name})).await;
    open.run(json!([world.row(1), world.point(&json!(1))])).await.must_be(200, "active");
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        open.run(json!([{"store": "pg", "sql": "SELECT 1 AS one"}])).await.must_be(200, "active");
    }
    let taken = world.submit(&sidecar, &json!({"interactive": true, "name": world.name})).await;
    taken.must_be(409, "name_in_use");
    // Whoever wants the lock has it once the lease is over.
    let next = json!({"locks": lock, "operations": [world.row(1)]});
    world.submit(&sidecar, &next).await.must_be(200, "committed");
    let gone = world.get(&sidecar, &format!("/v1/transactions/name:{}", world.name)).await;
    gone.must_be(200, "aborted");
    assert_eq!(gone.body["cause"]["code"], "timeout");
    let counted = r#"outrigger_reaped_total{what="interactive"} 1"#;
    assert!(sidecar.metrics().unwrap().lines().any(|line| line == counted), "the reaper's count");
    open.commit().await.must_be(409, "wrong_state");
    assert_eq!(world.audit().await.rows.len(), 1);
    let again = Open::new(&world, &sidecar, json!({"name": world.name})).await;
    again.roll_back().await.must_be(200, "aborted");
    sidecar.stop(Duration::from_secs(10)).unwrap();
}

/// Calls at the same time are done one after the other; beyond a few they are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_at_the_same_time_are_serialized() {
    let world = World::new("serial").await;
    let mut sidecar = world.start(&world.launch()).await;
    let open = Open::new(&world, &sidecar, json!({})).await;
    let call = |n: i64| {
        let sql = format!("INSERT INTO {}(id, title) VALUES ($1, 'x'), ($1 + 1000, pg_sleep(0.02)::text)", world.name);
        open.run(json!([{"id": format!("op{n}"), "store": "pg", "sql": sql, "params": [n]}]))
    };
    let replies = futures::future::join_all((0..40).map(call)).await;
    let done = replies.iter().filter(|reply| reply.status == 200).count();
    let refused = replies.iter().filter(|reply| reply.code() == "overloaded").count();
    assert_eq!(done + refused, 40);
    assert!(done > 1 && refused > 0, "{done} done, {refused} refused");
    open.commit().await.must_be(200, "committed");
    assert_eq!(world.audit().await.rows.len(), 2 * done);
    sidecar.stop(Duration::from_secs(10)).unwrap();
}

/// A stop does not wait for clients that think: the door is shut, so no verdict can come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_rolls_open_ones_back() {
    let world = World::new("stop").await;
    let launch = world.launch();
    let mut sidecar = world.start(&launch).await;
    let open = Open::new(&world, &sidecar, json!({})).await;
    open.run(json!([world.row(1), world.node(&json!(1))])).await.must_be(200, "active");
    sidecar.stop(Duration::from_secs(5)).unwrap();
    drop(sidecar);
    let mut sidecar = world.start(&launch).await;
    let found = world.get(&sidecar, &format!("/v1/transactions/{}", open.id)).await;
    found.must_be(200, "aborted");
    assert_eq!(world.audit().await, crate::world::Audit::default());
    sidecar.stop(Duration::from_secs(10)).unwrap();
}

/// With tokens, a transaction is its principal's: another one's calls are refused and do it no harm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_its_principal_goes_on_with_it() {
    let world = World::new("mine").await;
    let tokens = world.dir().join("tokens.toml");
    let principal = |name: &str, role: &str| {
        let digest: String = Sha256::digest(format!("{name}-token")).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("[[principal]]\nname = \"{name}\"\ntoken_sha256 = \"{digest}\"\nrole = \"{role}\"\n")
    };
    let all = principal("ann", "app") + &principal("bob", "app") + &principal("op", "operator");
    std::fs::write(&tokens, all).unwrap();
    let launch = world.launch().with("OUTRIGGER__SERVER__TOKENS_FILE", tokens.to_str().unwrap());
    let mut sidecar = launch.start().unwrap();
    sidecar.wait_ready(Duration::from_secs(20)).unwrap();
    let client = reqwest::Client::new();
    let call = async |who: &str, path: &str, body: Value| {
        let url = format!("{}/v1/transactions{path}", sidecar.url());
        let request = client.post(url).bearer_auth(format!("{who}-token")).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (status, opened) = call("ann", "", json!({"interactive": true})).await;
    assert_eq!(status, 201, "{opened}");
    let id = opened["id"].as_str().unwrap();
    let row = json!({"operations": [world.row(1)]});
    for (path, body) in
        [("operations", row.clone()), ("prepare", json!({})), ("commit", json!({})), ("rollback", json!({}))]
    {
        let (status, refused) = call("bob", &format!("/{id}/{path}"), body).await;
        assert_eq!((status, &refused["code"]), (403, &json!("forbidden")), "{path}: {refused}");
    }
    assert_eq!(call("ann", &format!("/{id}/operations"), row).await.0, 200);
    assert_eq!(call("ann", &format!("/{id}/prepare"), json!({})).await.0, 200);
    sidecar.kill().unwrap();
    drop(sidecar);
    let mut sidecar = launch.start().unwrap();
    sidecar.wait_ready(Duration::from_secs(20)).unwrap();
    let call = async |who: &str, path: &str, body: Value| {
        let url = format!("{}/v1/transactions{path}", sidecar.url());
        let request = client.post(url).bearer_auth(format!("{who}-token")).json(&body);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(call("bob", &format!("/{id}/commit"), json!({})).await, 403, "after a restart too");
    assert_eq!(call("op", &format!("/{id}/commit"), json!({})).await, 200);
    sidecar.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(world.audit().await.rows.len(), 1);
}
