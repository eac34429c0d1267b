//! Prepared transactions of other logs: never touched by us, ended by hand only when their log is dead and only the way
//! that the decider says. And the recovery of a log whose sidecar is gone.

use super::*;

/// Another log, as it would have registered in PostgreSQL, last heard of `silent` ago.
fn stranger(world: &World, silent: &str) -> String {
    let log = uuid::Uuid::new_v4().simple().to_string();
    world.sql(&format!(
        "INSERT INTO outrigger.log VALUES ('{log}', 1, 'elsewhere', clock_timestamp() - interval '{silent}')"
    ));
    log
}

/// Prepares a row of `log`'s; answers its gid.
fn prepare(world: &World, log: &str, id: i64, decider: &str) -> String {
    let gid = format!("ogr1:{log}:{}:1:0:{decider}", uuid::Uuid::now_v7());
    world.sql(&format!("BEGIN; INSERT INTO {} VALUES ({id}, 't'); PREPARE TRANSACTION '{gid}';", world.name));
    gid
}

async fn end(world: &World, sidecar: &Sidecar, gid: &str, action: &str) -> Reply {
    let body = json!({"store": "pg", "gid": gid, "action": action, "reason": format!("a test says {action}")});
    send(sidecar, Method::POST, "/v1/orphans/resolve", &token(world), Some(body)).await.expect("the sidecar answers")
}

/// Ends one where that is refused: nothing happens, and the sentence says why.
async fn refused(world: &World, sidecar: &Sidecar, gid: &str, action: &str, why: &str) {
    let reply = end(world, sidecar, gid, action).await;
    reply.must_be(409, "wrong_state");
    assert!(reply.body["detail"].as_str().unwrap().contains(why), "no `{why}` in {:#}", reply.body);
    assert_eq!(world.sql(&format!("SELECT count(*) FROM pg_prepared_xacts WHERE gid = '{gid}'")).trim(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "a table of cases is long")]
async fn those_of_dead_logs_are_ended_as_their_decider_says() {
    let world = World::new("orphans").await;
    let launch = world.launch().with("OUTRIGGER__AUDIT__STORE", "pg");
    let mut sidecar = world.start(&launch).await;
    let (dead, living) = (stranger(&world, "2 hours"), stranger(&world, "1 second"));
    let lives = prepare(&world, &living, 1, "wal");
    let by_log = [prepare(&world, &dead, 2, "wal"), prepare(&world, &dead, 3, "wal")];
    let (unseen, elsewhere) = (prepare(&world, &dead, 4, "graph"), prepare(&world, &dead, 5, "elsewhere"));
    let committed = prepare(&world, &dead, 6, "pg");
    let txn = committed.split(':').nth(2).unwrap();
    world.sql(&format!(
        "INSERT INTO outrigger.decision (txn, attempt, outcome, log_id, durable_lsn) VALUES ('{txn}', 1, 'committed', '{dead}', 0)"
    ));
    // They are seen, with what is known of their logs.
    let list = world.get(&sidecar, "/v1/orphans").await.body;
    let of =
        |gid: &str| list["orphans"].as_array().unwrap().iter().find(|orphan| orphan["gid"] == gid).unwrap().clone();
    assert_eq!(
        (&of(&lives)["alive"], &of(&lives)["ours"], &of(&lives)["host"]),
        (&json!(true), &json!(false), &json!("elsewhere"))
    );
    assert_eq!((&of(&unseen)["alive"], &of(&unseen)["decider"]), (&json!(false), &json!("graph")));
    assert!(of(&unseen)["silent_seconds"].as_u64().unwrap() >= 7200, "{list:#}");
    let (code, shown) = outrigger(&world, &sidecar, &["orphans", "list"]);
    assert!(code == Some(0) && shown.contains(&lives) && shown.contains("another's, silent"), "{shown}");
    // Refused: a log that may live, a decider that nobody here can ask, what the decider contradicts.
    refused(&world, &sidecar, &lives, "rollback", "may live").await;
    refused(&world, &sidecar, &elsewhere, "rollback", "is not in this sidecar's configuration").await;
    refused(&world, &sidecar, &unseen, "rollback", "has never seen that log").await;
    refused(&world, &sidecar, &committed, "rollback", "pg decided about it, and says committed").await;
    let log = world.get(&sidecar, "/v1/status").await.body["log"]["id"].as_str().unwrap().to_owned();
    let own = format!("ogr1:{log}:{}:1:0:wal", uuid::Uuid::now_v7());
    let reply = end(&world, &sidecar, &own, "rollback").await;
    reply.must_be(409, "wrong_state");
    assert!(reply.body["detail"].as_str().unwrap().contains("recovery fences"), "{:#}", reply.body);
    end(&world, &sidecar, &own.replace(&log, &dead), "rollback").await.must_be(404, "not_found");
    end(&world, &sidecar, "ogr1:nonsense", "rollback").await.must_be(400, "invalid_request");
    let body = json!({"store": "pg", "gid": lives, "action": "commit", "reason": "r"});
    send(&sidecar, Method::POST, "/v1/orphans/resolve", "none", Some(body)).await.unwrap().must_be(403, "forbidden");
    // Done: what the decider says, and where the lost log was to decide, what the operator says.
    let reply = end(&world, &sidecar, &committed, "commit").await;
    assert_eq!(
        (reply.status, &reply.body["decided_by"], &reply.body["outcome"]),
        (200, &json!("pg"), &json!("committed"))
    );
    let (code, shown) = outrigger(
        &world,
        &sidecar,
        &["orphans", "resolve", "pg", &by_log[0], "commit", "--reason", "the disk is gone"],
    );
    assert!(code == Some(0) && shown.contains("is committed, as operator decided"), "{code:?} {shown}");
    assert_eq!(end(&world, &sidecar, &by_log[1], "rollback").await.body["decided_by"], "operator");
    // The graph knows that log after all, and never had its marker: fenced, so only a rollback may follow, over a crash too.
    world.cypher(&format!(
        "CREATE (:OutriggerLog {{id: '{dead}', incarnation: 1, host: 'elsewhere', heartbeat: datetime() - duration('PT2H')}})"
    ));
    refused(&world, &sidecar, &unseen, "commit", "graph decided about it, and says aborted").await;
    sidecar.kill().unwrap();
    let mut sidecar = world.start(&launch.with("OUTRIGGER_CRASH_AT", "after_orphan_verdict")).await;
    let body = json!({"store": "pg", "gid": unseen, "action": "rollback", "reason": "a test"});
    assert!(send(&sidecar, Method::POST, "/v1/orphans/resolve", &token(&world), Some(body)).await.is_none());
    sidecar.wait_end(Duration::from_secs(5)).unwrap();
    let sidecar = world.start(&launch).await;
    assert_eq!(end(&world, &sidecar, &unseen, "rollback").await.body["decided_by"], "graph");
    // Only what was ended by hand is gone, starts or not.
    let left =
        world.sql(&format!("SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'ogr1:{dead}%' OR gid = '{lives}'"));
    let mut left: Vec<_> = left.split_whitespace().collect();
    left.sort_unstable();
    let mut expected = [lives.as_str(), elsewhere.as_str()];
    expected.sort_unstable();
    assert_eq!(left, expected);
    assert_eq!(world.audit().await.rows.into_iter().collect::<Vec<_>>(), [2, 6]);
    the_copy_has_every_line(&world, &log);
    for gid in expected {
        world.sql(&format!("ROLLBACK PREPARED '{gid}'"));
    }
}

/// The rows in PostgreSQL say what the file says.
fn the_copy_has_every_line(world: &World, log: &str) {
    let rows = world.sql(&format!(
        "SELECT step, who, action, coalesce(outcome, '-'), coalesce(trace, '-') FROM outrigger.audit WHERE log_id = '{log}' ORDER BY at"
    ));
    let text = |line: &Value, member: &str| line[member].as_str().unwrap_or("-").to_owned();
    let lines: Vec<String> = audit(world)
        .iter()
        .map(|line| ["step", "who", "action", "outcome", "trace"].map(|member| text(line, member)).join("|"))
        .collect();
    assert_eq!(rows.trim().lines().collect::<Vec<_>>(), lines);
    assert!(lines.iter().any(|line| line.starts_with("answered|local-operator|orphan_commit|done")), "{lines:#?}");
}

/// Runs `recover --once` over the journal of a sidecar that is gone.
fn recover(launch: &Launch, more: &[(&str, String)], timeout: &str) -> (i32, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(["recover", "--once", "--timeout", timeout, "--json", "--config"]).arg(&launch.config);
    command.envs(launch.env.iter().cloned()).envs(more.iter().cloned());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let read = serde_json::from_str(&text);
    (
        output.status.code().unwrap(),
        read.unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr))),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_sidecar_that_is_gone_is_recovered_once() {
    let world = World::new("recover").await;
    let launch = world.launch();
    let name = leave(&world, &launch, "after_decide", 7).await;
    // A store that is away leaves it open, and says so.
    let nowhere = format!("http://127.0.0.1:{}", xtask::stack::free_port().unwrap());
    let (code, report) = recover(&launch, &[("OUTRIGGER__STORES__VECTORS__URL", nowhere)], "3");
    assert_eq!((code, &report["open"]["committing"]), (3, &json!(1)), "{report:#}");
    let told = report["still_open"][0]["summary"].to_string();
    assert!(told.contains("still to be told: vectors") && told.contains("Now vectors is down"), "{told}");
    // With everything there it ends, and nothing is left for a second time.
    let (code, report) = recover(&launch, &[], "60");
    assert_eq!(
        (code, &report["recovery"]["committed"], &report["still_open"]),
        (0, &json!(1), &json!([])),
        "{report:#}"
    );
    let held = world.audit().await;
    assert_eq!((held.orphans().len(), held.rows.len(), held.points.len()), (0, 1, 1), "{held:?}");
    let (code, report) = recover(&launch, &[], "60");
    assert_eq!((code, &report["recovery"]["found"]), (0, &json!(0)), "{report:#}");
    // What needs an operator is no matter of waiting.
    let stuck = leave(&world, &launch, "after_decide", 8).await;
    world.qdrant().delete_collection(&world.name).await.unwrap();
    let (code, report) = recover(&launch, &[], "600");
    assert_eq!((code, &report["open"]["needs_intervention"]), (1, &json!(1)), "{report:#}");
    let sidecar = world.start(&launch).await;
    let id = id_of(&world, &sidecar, &stuck).await;
    until(&world, &sidecar, &id, "needs_intervention").await;
    assert_eq!(world.get(&sidecar, &format!("/v1/transactions/name:{name}")).await.state(), "committed");
    // One log has one owner.
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.args(["recover", "--once", "--config"]).arg(&launch.config).envs(launch.env.iter().cloned());
    assert_eq!(command.output().unwrap().status.code(), Some(3));
}
