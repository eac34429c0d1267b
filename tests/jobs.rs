//! Batch jobs on real stores, with a worker that remembers nothing and a sidecar that is killed: every chunk once in every
//! store, or every chunk undone.

#![allow(clippy::unwrap_used, clippy::cast_possible_wrap, reason = "a test that panics has failed")]

mod world;

use std::time::Duration;

use serde_json::{Value, json};
use world::{Audit, Reply, World};
use xtask::install::{self, Need};
use xtask::sidecar::Sidecar;

const ALL: [&str; 3] = ["pg", "graph", "vectors"];
const CHUNKS: i64 = 40;

/// Chunk `number` of `parent`: one document, and what undoes it by the id that the chunk itself gave.
fn chunk(world: &World, parent: &str, number: i64, stores: &[&str]) -> Value {
    let mut body = world.document(number + 1, stores);
    let id = if stores.contains(&"pg") { json!({"$ref": "row#/rows/0/id"}) } else { json!(number + 1) };
    let n = &world.name;
    let undo = stores.iter().map(|store| match *store {
        "pg" => json!({"store": "pg", "sql": format!("DELETE FROM {n} WHERE id = $1"), "params": [id], "expect": {"rows": 1}}),
        "graph" => json!({"store": "graph", "cypher": format!("MATCH (n:{n} {{id: $id}}) DELETE n"), "params": {"id": id}}),
        _ => json!({"store": "vectors", "collection": n, "delete": {"points": [id]}}),
    });
    body["compensate"] = json!({"operations": undo.collect::<Vec<_>>()});
    body["parent"] = json!(parent);
    body["chunk"] = json!(number);
    body
}

async fn open(world: &World, sidecar: &Sidecar, name: &str, chunks: Option<i64>) -> Reply {
    let job = chunks.map_or_else(|| json!({}), |chunks| json!({"chunks": chunks}));
    world.submit(sidecar, &json!({"name": name, "job": job})).await
}

async fn job(world: &World, sidecar: &Sidecar, name: &str) -> Value {
    world.get(sidecar, &format!("/v1/transactions/name:{name}")).await.body
}

/// A worker without a memory: opens the job (again), asks what comes next, does it, and so on. Answers whether the sidecar
/// lived to the end.
async fn work(world: &World, sidecar: &Sidecar, name: &str, stores: &[&str]) -> bool {
    let body = json!({"name": name, "job": {"chunks": CHUNKS}});
    let Ok(opened) = world.post(&sidecar.url(), &body, None).await else { return false };
    assert!([200, 201].contains(&opened.status), "{:#}", opened.body);
    while let Some(next) = job(world, sidecar, name).await["job"]["next"].as_i64() {
        match world.post(&sidecar.url(), &chunk(world, name, next, stores), None).await {
            Ok(reply) => reply.must_be(200, "committed"),
            Err(_) => return false,
        }
    }
    true
}

fn everything(stores: &[&str]) -> Audit {
    let ids = |store: &str| if stores.contains(&store) { (1..=CHUNKS).collect() } else { Default::default() };
    Audit { rows: ids("pg"), nodes: ids("graph"), points: ids("vectors") }
}

/// Waits until nothing of the past is open, jobs apart.
async fn at_rest(world: &World, sidecar: &Sidecar) {
    world
        .until(Duration::from_secs(30), "the past is over", async || {
            let status = world.get(sidecar, "/v1/status").await.body;
            let open = status["transactions"].as_object().unwrap().values().any(|count| *count != 0);
            !open && status["recovery"]["remaining"] == 0
        })
        .await;
}

async fn left_behind(world: &World, sidecar: &Sidecar) {
    assert_eq!(world.prepared(sidecar).await, 0, "a prepared transaction is left");
    let status = world.get(sidecar, "/v1/status").await.body;
    assert_eq!(status["locks"]["held"], 0, "a lock is left");
}

/// The whole life of a job, without a crash: progress, repeats, refusals.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_done_chunk_by_chunk() {
    let world = World::new("job_life").await;
    let launch = world.launch();
    let sidecar = world.start(&launch).await;
    let name = &world.name;
    let early = world.submit(&sidecar, &chunk(&world, name, 0, &ALL)).await;
    early.must_be(404, "not_found");
    // A transaction that has ended had the same name: it is the job's now, over restarts too.
    world.submit(&sidecar, &json!({"name": name, "operations": [world.row(99)]})).await.must_be(200, "committed");
    world.submit(&sidecar, &chunk(&world, name, 0, &ALL)).await.must_be(409, "wrong_state");
    let opened = open(&world, &sidecar, name, Some(4)).await;
    opened.must_be(201, "active");
    assert_eq!(opened.headers["location"], format!("/v1/transactions/{}", opened.body["id"].as_str().unwrap()));
    let again = open(&world, &sidecar, name, Some(4)).await;
    again.must_be(200, "active");
    assert_eq!(again.body["id"], opened.body["id"]);
    open(&world, &sidecar, name, Some(5)).await.must_be(409, "name_in_use");
    world.submit(&sidecar, &json!({"name": name, "operations": [world.row(9)]})).await.must_be(409, "name_in_use");

    let first = world.submit(&sidecar, &chunk(&world, name, 1, &ALL)).await;
    first.must_be(200, "committed");
    assert_eq!((&first.body["parent"], &first.body["chunk"]), (&json!(name), &json!(1)));
    let twice = world.submit(&sidecar, &chunk(&world, name, 1, &ALL)).await;
    twice.must_be(200, "committed");
    assert_eq!(
        (&twice.headers["idempotency-replayed"], &twice.body["id"]),
        (&"true".parse().unwrap(), &first.body["id"])
    );
    let mut other = chunk(&world, name, 1, &ALL);
    other["operations"][0]["params"][1] = json!("another title");
    world.submit(&sidecar, &other).await.must_be(422, "idempotency_mismatch");
    let keyed = world.post(&sidecar.url(), &chunk(&world, name, 2, &ALL), Some("mine")).await.unwrap();
    keyed.must_be(400, "invalid_request");
    world.submit(&sidecar, &chunk(&world, name, 4, &ALL)).await.must_be(400, "invalid_request");

    // One that a store refuses is told until it is done.
    let mut refused = chunk(&world, name, 0, &ALL);
    refused["operations"][0]["params"][0] = json!(2);
    world.submit(&sidecar, &refused).await.must_be(422, "constraint_violation");
    let shown = job(&world, &sidecar, name).await;
    assert_eq!(shown["guarantee"], "chunks");
    let progress = &shown["job"];
    assert_eq!((&progress["done"], &progress["chunks"], &progress["next"]), (&json!(1), &json!(4), &json!(0)));
    assert_eq!((&progress["ranges"], &progress["failed"]["chunk"]), (&json!([[1, 1]]), &json!(0)));
    assert_eq!(progress["failed"]["code"], "constraint_violation");
    world.submit(&sidecar, &chunk(&world, name, 0, &ALL)).await.must_be(200, "committed");
    // A chunk may have nothing to write, and is done all the same.
    let reads = json!({"parent": name, "chunk": 2, "operations": [{"store": "pg", "sql": "SELECT 1 AS one"}]});
    world.submit(&sidecar, &reads).await.must_be(200, "committed");
    let progress = job(&world, &sidecar, name).await["job"].clone();
    assert_eq!(
        (&progress["ranges"], &progress["next"], &progress["failed"]),
        (&json!([[0, 2]]), &json!(3), &Value::Null)
    );
    assert_eq!(progress["without_compensation"], 1);

    let metrics = world.metrics(&sidecar).await;
    for line in [
        "outrigger_jobs_open 1",
        r#"outrigger_job_chunks_total{outcome="done"} 3"#,
        r#"outrigger_job_chunks_total{outcome="refused"} 1"#,
        r#"outrigger_job_chunks_total{outcome="replayed"} 1"#,
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is missing");
    }
    // After a restart memory holds no answer: the marker of the first time gives it.
    drop(sidecar);
    let sidecar = world.start(&launch).await;
    let progress = job(&world, &sidecar, name).await["job"].clone();
    assert_eq!((&progress["ranges"], &progress["next"]), (&json!([[0, 2]]), &json!(3)));
    let replayed = world.submit(&sidecar, &chunk(&world, name, 1, &ALL)).await;
    replayed.must_be(200, "committed");
    assert!(replayed.headers.contains_key("idempotency-replayed"));
    assert_eq!((&replayed.body["id"], &replayed.body["results"]), (&first.body["id"], &first.body["results"]));
    world.submit(&sidecar, &reads).await.must_be(200, "committed");
    world.submit(&sidecar, &other).await.must_be(422, "idempotency_mismatch");
    assert_eq!(world.audit().await.rows, [1, 2, 99].into());
    left_behind(&world, &sidecar).await;
}

/// Dies at every place of a chunk in the middle, and once right after the opening; the worker goes on each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_chunks_over_all_stores_and_a_kill_at_every_place() {
    let world = World::new("job_kills").await;
    let launch = world.launch();
    let name = &world.name;
    let places = [
        "after_job",
        "before_intent:3",
        "after_intent:4",
        "after_prepare:3",
        "after_decide:5",
        "after_verdict:4",
        "mid_finish:5",
        "before_done:4",
        "after_done:4",
    ];
    for place in places {
        let mut sidecar = world.start(&launch.with("OUTRIGGER_CRASH_AT", place)).await;
        at_rest(&world, &sidecar).await;
        assert!(!work(&world, &sidecar, name, &ALL).await, "{place}: nothing killed it");
        assert!(sidecar.wait_end(Duration::from_secs(5)).unwrap().is_some(), "{place}: it still lives");
    }
    let sidecar = world.start(&launch).await;
    at_rest(&world, &sidecar).await;
    assert!(work(&world, &sidecar, name, &ALL).await);
    let audit = world.audit().await;
    assert_eq!(audit, everything(&ALL));
    let progress = job(&world, &sidecar, name).await["job"].clone();
    assert_eq!((&progress["ranges"], &progress["next"]), (&json!([[0, CHUNKS - 1]]), &Value::Null));
    left_behind(&world, &sidecar).await;
}

/// One store decides and nobody else has to be told: no record but the chunk's own Intent tells of it after a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_in_one_store_are_known_after_a_crash() {
    for stores in [["pg"], ["graph"], ["vectors"]] {
        let world = World::new("job_one").await;
        let launch = world.launch();
        let name = &world.name;
        // Qdrant decides nothing: there the log does, and this is the place behind that.
        let place = if stores == ["vectors"] { "after_verdict:3" } else { "after_decide:3" };
        let mut sidecar = world.start(&launch.with("OUTRIGGER_CRASH_AT", place)).await;
        assert!(!work(&world, &sidecar, name, &stores).await);
        sidecar.wait_end(Duration::from_secs(5)).unwrap();
        let sidecar = world.start(&launch).await;
        at_rest(&world, &sidecar).await;
        let progress = job(&world, &sidecar, name).await["job"].clone();
        assert_eq!(progress["ranges"], json!([[0, 2]]), "{stores:?}: the chunk that was decided is known to be done");
        let again = world.submit(&sidecar, &chunk(&world, name, 2, &stores)).await;
        again.must_be(200, "committed");
        assert!(again.headers.contains_key("idempotency-replayed"), "{stores:?}");
        assert!(work(&world, &sidecar, name, &stores).await);
        assert_eq!(world.audit().await, everything(&stores), "{stores:?}");
    }
}

async fn roll_back(world: &World, sidecar: &Sidecar, name: &str, body: Value) -> Result<Reply, reqwest::Error> {
    world.call(&sidecar.url(), &format!("name:{name}"), "rollback", &body).await
}

async fn commit(world: &World, sidecar: &Sidecar, name: &str) -> Reply {
    world.call(&sidecar.url(), &format!("name:{name}"), "commit", &json!({})).await.unwrap()
}

/// Sends these chunks of `name`, which are done.
async fn send(world: &World, sidecar: &Sidecar, name: &str, numbers: std::ops::Range<i64>) {
    for number in numbers {
        world.submit(sidecar, &chunk(world, name, number, &ALL)).await.must_be(200, "committed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_ends_when_nothing_is_missing() {
    let world = World::new("job_end").await;
    let launch = world.launch();
    let sidecar = world.start(&launch).await;
    let name = &world.name;
    let opened = open(&world, &sidecar, name, Some(3)).await;
    send(&world, &sidecar, name, 0..2).await;
    let early = commit(&world, &sidecar, name).await;
    early.must_be(409, "wrong_state");
    assert!(
        early.body["detail"].as_str().unwrap().contains("lacks 1 of its 3 chunks: the first is 2"),
        "{:#}",
        early.body
    );
    send(&world, &sidecar, name, 2..3).await;
    for _ in 0..2 {
        let ended = commit(&world, &sidecar, name).await;
        ended.must_be(200, "committed");
        assert_eq!((&ended.body["id"], &ended.body["job"]["done"]), (&opened.body["id"], &json!(3)));
    }
    roll_back(&world, &sidecar, name, json!({})).await.unwrap().must_be(409, "wrong_state");
    // A chunk that is done answers as ever; another one comes too late.
    world.submit(&sidecar, &chunk(&world, name, 2, &ALL)).await.must_be(200, "committed");
    drop(sidecar);
    let sidecar = world.start(&launch).await;
    let shown = job(&world, &sidecar, name).await;
    assert_eq!(
        (&shown["state"], &shown["job"]["done"], &shown["job"]["next"]),
        (&json!("committed"), &json!(3), &Value::Null)
    );
    commit(&world, &sidecar, name).await.must_be(200, "committed");
    // The name is free again, for a job of any size.
    let next = open(&world, &sidecar, name, None).await;
    next.must_be(201, "active");
    assert_ne!(next.body["id"], opened.body["id"]);
    world.submit(&sidecar, &chunk(&world, name, 1 << 40, &ALL)).await.must_be(200, "committed");
    commit(&world, &sidecar, name).await.must_be(200, "committed");
    world.submit(&sidecar, &chunk(&world, name, 5, &ALL)).await.must_be(409, "wrong_state");
    assert_eq!(world.audit().await.rows.len(), 4);
    left_behind(&world, &sidecar).await;
}

/// Rolled back, and killed again and again on the way: afterwards nothing is left, and it ended by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_undone_through_kills() {
    let world = World::new("job_undo").await;
    let launch = world.launch();
    let name = &world.name;
    let sidecar = world.start(&launch).await;
    open(&world, &sidecar, name, Some(CHUNKS)).await.must_be(201, "active");
    send(&world, &sidecar, name, 0..12).await;
    assert_eq!(world.audit().await.rows.len(), 12);
    drop(sidecar);
    // The second time that a job's record is forced in a life: it has been rolled back, and nobody was told.
    let mut sidecar = world.start(&launch.with("OUTRIGGER_CRASH_AT", "after_job")).await;
    at_rest(&world, &sidecar).await;
    assert!(roll_back(&world, &sidecar, name, json!({})).await.is_err());
    sidecar.wait_end(Duration::from_secs(5)).unwrap();
    // It goes on by itself from here, life after life.
    for place in ["after_intent:2", "after_prepare:2", "after_decide:2", "mid_finish:3", "before_done:2", "after_job"] {
        let mut sidecar = launch.with("OUTRIGGER_CRASH_AT", place).start().unwrap();
        assert_eq!(sidecar.wait_end(Duration::from_secs(30)).unwrap(), Some(false), "{place}: {}", sidecar.log_tail());
    }
    let sidecar = world.start(&launch).await;
    at_rest(&world, &sidecar).await;
    let shown = job(&world, &sidecar, name).await;
    assert_eq!((&shown["state"], &shown["job"]["undone"]), (&json!("compensated"), &json!(12)), "{shown:#}");
    assert_eq!(world.audit().await, Audit::default());
    roll_back(&world, &sidecar, name, json!({})).await.unwrap().must_be(200, "compensated");
    commit(&world, &sidecar, name).await.must_be(409, "wrong_state");
    world.submit(&sidecar, &chunk(&world, name, 12, &ALL)).await.must_be(409, "wrong_state");
    left_behind(&world, &sidecar).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nothing_undoes_stays_and_is_named() {
    let world = World::new("job_failed").await;
    let launch = world.launch();
    let sidecar = world.start(&launch).await;
    let name = &world.name;
    open(&world, &sidecar, name, None).await.must_be(201, "active");
    send(&world, &sidecar, name, 0..2).await;
    let mut bare = chunk(&world, name, 2, &ALL);
    bare.as_object_mut().unwrap().remove("compensate");
    world.submit(&sidecar, &bare).await.must_be(200, "committed");
    let refused = roll_back(&world, &sidecar, name, json!({})).await.unwrap();
    refused.must_be(409, "wrong_state");
    assert!(refused.body["detail"].as_str().unwrap().contains("no `compensate`: 2."), "{:#}", refused.body);
    send(&world, &sidecar, name, 3..4).await;
    let given_up = roll_back(&world, &sidecar, name, json!({"mark_failed": true})).await.unwrap();
    given_up.must_be(200, "aborted");
    assert_eq!(given_up.body["guarantee"], "chunks");
    let why = given_up.body["cause"]["detail"].as_str().unwrap();
    assert!(why.contains("these chunks stay as they are: 0-3"), "{why}");
    drop(sidecar);
    let sidecar = world.start(&launch).await;
    let shown = job(&world, &sidecar, name).await;
    assert_eq!((&shown["state"], &shown["cause"]), (&json!("aborted"), &given_up.body["cause"]));
    roll_back(&world, &sidecar, name, json!({"mark_failed": true})).await.unwrap().must_be(200, "aborted");
    let late = commit(&world, &sidecar, name).await;
    late.must_be(409, "wrong_state");
    assert_eq!(late.body["cause"], given_up.body["cause"]);
    assert_eq!(world.audit().await.rows.len(), 4);
    left_behind(&world, &sidecar).await;
}

/// A compensation that a store refuses is tried again until it goes, or until its job is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_compensation_is_tried_again_or_given_up() {
    let world = World::new("job_stuck").await;
    let sidecar = world.start(&world.launch()).await;
    let n = &world.name;
    let (mended, given_up) = (format!("{n}.a"), format!("{n}.b"));
    for (name, numbers) in [(&mended, 0..3), (&given_up, 3..6)] {
        open(&world, &sidecar, name, None).await.must_be(201, "active");
        send(&world, &sidecar, name, numbers.clone()).await;
        // Somebody else took the row of the middle one: its compensation expects one to delete.
        world.sql(&format!("DELETE FROM {n} WHERE id = {}", numbers.start + 2));
        let answer = {
            let (world, sidecar) = (&world, &sidecar);
            let rolling = roll_back(world, sidecar, name, json!({}));
            let refused = world.until(Duration::from_secs(10), "a compensation is refused", async || {
                let shown = job(world, sidecar, name).await;
                shown["state"] == "compensating" && shown["job"]["failed"]["chunk"] == json!(numbers.start + 1)
            });
            let acting = async {
                refused.await;
                let shown = job(world, sidecar, name).await;
                assert_eq!((&shown["job"]["undone"], &shown["job"]["failed"]["code"]), (&json!(1), &json!("conflict")));
                if *name == mended {
                    world.sql(&format!("INSERT INTO {n}(id, title) VALUES ({}, 'again')", numbers.start + 2));
                } else {
                    let answer = roll_back(world, sidecar, name, json!({"mark_failed": true})).await.unwrap();
                    answer.must_be(200, "aborted");
                    let why = answer.body["cause"]["detail"].as_str().unwrap();
                    assert!(why.contains("stay as they are: 3-4"), "{why}");
                }
            };
            tokio::join!(rolling, acting).0.unwrap()
        };
        if *name == mended {
            answer.must_be(200, "compensated");
        } else {
            answer.must_be(200, "aborted");
        }
    }
    let audit = world.audit().await;
    assert_eq!(
        (audit.rows, audit.nodes),
        ([4].into(), [4, 5].into()),
        "of the one that was given up, two chunks are left"
    );
    left_behind(&world, &sidecar).await;
}

/// The loop that the README shows, word for word: a worker dies in the middle, and the same worker again ends the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loop_of_the_readme_goes_on_where_it_was() {
    let readme = include_str!("../README.md");
    let section = &readme[readme.find("### A long job in chunks").unwrap()..];
    let program = section.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(program.contains("http://127.0.0.1:7117/"), "the README names another door");
    tokio::task::spawn_blocking(|| install::ensure(&[Need::Python])).await.unwrap().expect("python3 is there");
    let world = World::new("job_readme").await;
    let sidecar = world.start(&world.launch()).await;
    let program = program.replace("http://127.0.0.1:7117", &sidecar.url());
    for (dies_at, lives) in [(70, false), (-1, true)] {
        let yours = format!(
            "def operations_of(chunk):\n    if chunk == {dies_at}: raise SystemExit(3)\n    return {{\"operations\": [{{\"store\": \"pg\", \
             \"sql\": \"INSERT INTO {}(id, title) VALUES ($1, 't')\", \"params\": [chunk]}}]}}\n",
            world.name
        );
        let script = format!("{yours}{program}");
        let run =
            tokio::task::spawn_blocking(move || std::process::Command::new("python3").arg("-c").arg(script).output());
        let output = run.await.unwrap().unwrap();
        assert_eq!(output.status.success(), lives, "{}", String::from_utf8_lossy(&output.stderr));
        let shown = job(&world, &sidecar, "import-7").await;
        let expected = if lives { (json!("committed"), json!(120)) } else { (json!("active"), json!(70)) };
        assert_eq!((shown["state"].clone(), shown["job"]["done"].clone()), expected, "{shown:#}");
    }
    assert_eq!(world.audit().await.rows, (0..120).collect());
}
