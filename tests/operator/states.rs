//! Every verb on every state that a transaction can be left in: what the table refuses is refused, with its state and a
//! sentence; what it allows is done.

use super::*;

/// What the table allows, as the sidecar itself explains it.
async fn allowed(world: &World, sidecar: &Sidecar, id: &str) -> Vec<String> {
    let told = world.get(sidecar, &format!("/v1/transactions/{id}/explain")).await.body;
    assert!(told["summary"].as_array().is_some_and(|summary| summary.len() > 2), "{told:#}");
    let verbs = told["operator"].as_array().unwrap().iter().filter(|verb| verb["allowed"] == true);
    verbs.map(|verb| verb["action"].as_str().unwrap().to_owned()).collect()
}

/// Tries what is not `expected` to be allowed: 409 with the state, and nothing changes.
async fn the_rest_is_refused(world: &World, sidecar: &Sidecar, id: &str, state: &str, expected: &[&str]) {
    assert_eq!(allowed(world, sidecar, id).await, expected, "{state}");
    for verb in ["retry", "commit", "rollback", "skip"].into_iter().filter(|verb| !expected.contains(verb)) {
        let reply = resolve(world, sidecar, id, verb).await;
        reply.must_be(409, "wrong_state");
        assert_eq!((&reply.body["state"], &reply.body["transaction"]), (&json!(state), &json!(id)), "{verb}");
        let last = audit(world).pop().unwrap();
        assert_eq!(
            (&last["action"], &last["outcome"], &last["before"]),
            (&json!(verb), &json!("refused"), &json!(state)),
            "{last}"
        );
    }
    let view = world.get(sidecar, &format!("/v1/transactions/{id}")).await;
    assert_eq!(view.state(), state, "{:#}", view.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_at_work_gives_way() {
    let world = World::new("hand_active").await;
    let sidecar = world.start(&world.launch()).await;
    let name = format!("{}:works", world.name);
    let body = json!({"name": name, "retry": {"max_attempts": 5}, "operations": [
        world.row(1), {"store": "pg", "write": true, "sql": "SELECT pg_sleep(60)::text"}]});
    let working = async { world.submit(&sidecar, &body).await };
    let by_hand = async {
        world
            .until(Duration::from_secs(10), "it is at work", async || {
                world.get(&sidecar, &format!("/v1/transactions/name:{name}")).await.state() == "active"
            })
            .await;
        let id = id_of(&world, &sidecar, &name).await;
        the_rest_is_refused(&world, &sidecar, &id, "active", &["rollback"]).await;
        let reply = resolve(&world, &sidecar, &format!("name:{name}"), "rollback").await;
        reply.must_be(200, "aborted");
        assert_eq!(reply.body["cause"]["code"], "rolled_back", "{:#}", reply.body);
        id
    };
    let (client, id) = futures::join!(working, by_hand);
    client.must_be(409, "rolled_back");
    assert_eq!(client.body["retryable"], false);
    assert!(client.body["detail"].as_str().unwrap().contains("a test says rollback"), "{:#}", client.body);
    assert!(world.audit().await.rows.is_empty());
    // It has ended: the same verb is so already, and the rest contradicts.
    the_rest_is_refused(&world, &sidecar, &id, "aborted", &["rollback"]).await;
    resolve(&world, &sidecar, &id, "rollback").await.must_be(200, "aborted");
    let lines = audit(&world);
    let steps: Vec<_> = lines.iter().rev().take(1).map(|line| (&line["outcome"], &line["transaction"])).collect();
    assert_eq!(steps, [(&json!("already"), &json!(id))]);
    let asked: Vec<_> = lines.iter().filter(|line| line["step"] == "asked").collect();
    assert_eq!(asked.len(), 1, "only what was done was asked for: {lines:#?}");
    assert_eq!((&asked[0]["who"], &asked[0]["before"]), (&json!("local-operator"), &json!("active")));
    assert_eq!((&asked[0]["reason"], &asked[0]["name"]), (&json!("a test says rollback"), &json!(name)));
    assert_eq!(asked[0]["trace"], "0af7651916cd43dd8448eb211c80319c");
    // A committed one, one that nobody knows, and somebody who is nobody.
    let done = world.submit(&sidecar, &json!({"operations": [world.row(2)]})).await.body["id"].clone();
    let done = done.as_str().unwrap();
    the_rest_is_refused(&world, &sidecar, done, "committed", &["commit"]).await;
    resolve(&world, &sidecar, done, "commit").await.must_be(200, "committed");
    let unknown = resolve(&world, &sidecar, "0199b000-0000-7000-8000-000000000001", "retry").await;
    unknown.must_be(404, "not_found");
    assert_eq!(unknown.body["state"], "unknown");
    let body = json!({"action": "commit", "reason": "r"});
    let path = format!("/v1/transactions/{done}/resolve");
    send(&sidecar, Method::POST, &path, "none", Some(body)).await.unwrap().must_be(403, "forbidden");
    let last = audit(&world).pop().unwrap();
    assert_eq!((&last["who"], &last["detail"]), (&json!("anonymous"), &json!("forbidden")));
    let metrics = world.metrics(&sidecar).await;
    for line in [
        r#"outrigger_resolutions_total{action="rollback",result="done"} 1"#,
        r#"outrigger_resolutions_total{action="rollback",result="already"} 1"#,
        r#"outrigger_resolutions_total{action="commit",result="already"} 1"#,
        r#"outrigger_audit_failures_total{place="file"} 0"#,
    ] {
        assert!(metrics.lines().any(|shown| shown == line), "{line} is not in {metrics}");
    }
}

/// What a crash left, with the store in the way that keeps it there: (died at, missing, its state, what may be done).
const LEFT: [(&str, &str, &str, &[&str]); 3] = [
    ("after_prepare", "GRAPH", "in_doubt", &["retry"]),
    ("after_decide", "VECTORS", "committing", &["retry", "commit"]),
    ("after_prepare", "PG", "aborting", &["retry", "rollback"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_is_hastened_and_never_contradicted() {
    let world = World::new("hand_left").await;
    let launch = world.launch();
    let nowhere = xtask::stack::free_port().unwrap();
    for (round, (point, missing, state, may)) in LEFT.into_iter().enumerate() {
        let id = i64::try_from(round).unwrap() + 1;
        let name = leave(&world, &launch, point, id).await;
        let scheme = match missing {
            "GRAPH" => "bolt://127.0.0.1",
            "VECTORS" => "http://127.0.0.1",
            _ => "postgres://127.0.0.1",
        };
        let url = format!("{scheme}:{nowhere}/postgres");
        let url = if missing == "PG" { url } else { url.trim_end_matches("/postgres").to_owned() };
        let mut sidecar = start(&launch.with(&format!("OUTRIGGER__STORES__{missing}__URL"), &url));
        let txn = id_of(&world, &sidecar, &name).await;
        until(&world, &sidecar, &txn, state).await;
        the_rest_is_refused(&world, &sidecar, &txn, state, may).await;
        // What may be done is taken, and says how far it is.
        for verb in may {
            resolve(&world, &sidecar, &txn, verb).await.must_be(200, state);
        }
        let (code, told) = outrigger(&world, &sidecar, &["txn", "explain", &txn]);
        assert_eq!(code, Some(0), "{told}");
        assert!(told.contains(&format!("Now {} is down", missing.to_lowercase())), "{told}");
        sidecar.kill().unwrap();
        // With the store back it ends as it was decided, whatever was asked for meanwhile.
        let mut sidecar = world.start(&launch).await;
        let end = if state == "committing" { "committed" } else { "aborted" };
        until(&world, &sidecar, &txn, end).await;
        sidecar.kill().unwrap();
    }
    let held = world.audit().await;
    assert_eq!((held.orphans().len(), held.rows.into_iter().collect::<Vec<_>>()), (0, vec![2]));
}

/// Opens a named interactive transaction with a row and a point in it.
async fn opened(world: &World, sidecar: &Sidecar, id: i64) -> String {
    let body = json!({"interactive": true, "name": format!("{}:{id}", world.name)});
    let opened = world.submit(sidecar, &body).await;
    opened.must_be(201, "active");
    let txn = opened.body["id"].as_str().unwrap().to_owned();
    let operations = json!({"operations": [world.row(id), world.point(&json!(id))]});
    world.call(&sidecar.url(), &txn, "operations", &operations).await.unwrap().must_be(200, "active");
    txn
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_verdict_gets_it_by_hand() {
    let world = World::new("hand_verdict").await;
    let sidecar = world.start(&world.launch()).await;
    for (id, verb, state) in [(1, "commit", "committed"), (2, "rollback", "aborted")] {
        let txn = opened(&world, &sidecar, id).await;
        world.call(&sidecar.url(), &txn, "prepare", &json!({})).await.unwrap().must_be(200, "prepared");
        the_rest_is_refused(&world, &sidecar, &txn, "prepared", &["commit", "rollback"]).await;
        let told = world.get(&sidecar, &format!("/v1/transactions/{txn}/explain")).await.body["summary"].to_string();
        assert!(told.contains("pg: it has promised, as ogr1:") && told.contains("is rolled back by itself"), "{told}");
        resolve(&world, &sidecar, &txn, verb).await.must_be(200, state);
        let again = resolve(&world, &sidecar, &txn, verb).await;
        again.must_be(200, state);
        let cause = again.body["cause"]["detail"].as_str().unwrap_or("by hand: a test says rollback").to_owned();
        assert!(cause.contains("by hand: a test says rollback"), "{:#}", again.body);
    }
    // One that is at work in a call gives way in the middle of it.
    let txn = opened(&world, &sidecar, 3).await;
    let sleep = json!({"operations": [{"store": "pg", "write": true, "sql": "SELECT pg_sleep(60)::text"}]});
    let by_hand = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        resolve(&world, &sidecar, &txn, "rollback").await.must_be(200, "aborted");
    };
    let url = sidecar.url();
    let (client, ()) = futures::join!(world.call(&url, &txn, "operations", &sleep), by_hand);
    client.unwrap().must_be(409, "rolled_back");
    // And one that nobody calls.
    let txn = opened(&world, &sidecar, 4).await;
    resolve(&world, &sidecar, &txn, "rollback").await.must_be(200, "aborted");
    let held = world.audit().await;
    assert_eq!((held.rows.into_iter().collect::<Vec<_>>(), held.points.len()), (vec![1], 1));
    assert_eq!(world.get(&sidecar, "/v1/status").await.body["locks"]["held"], 0);
    assert_eq!(world.prepared(&sidecar).await, 0);
}
