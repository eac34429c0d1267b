//! What a key means beyond its first sidecar, its first body and its first day.

use std::time::Duration;

use serde_json::{Value, json};
use xtask::sidecar::{Launch, Sidecar};

use crate::once::{Decides, effects, prepare, request};
use crate::world::{Reply, World};

/// The environment's name of a setting of the journal.
fn journal(launch: &Launch, settings: &[(&str, &str)]) -> Launch {
    settings.iter().fold(launch.clone(), |launch, (name, value)| {
        launch.with(&format!("OUTRIGGER__JOURNAL__{}", name.to_uppercase()), value)
    })
}

async fn send(world: &World, sidecar: &Sidecar, body: &Value, key: &str) -> Reply {
    world.post(&sidecar.url(), body, Some(key)).await.unwrap()
}

#[track_caller]
fn is_replay(reply: &Reply, first: &Reply) {
    reply.must_be(200, "committed");
    assert_eq!(reply.headers.get("idempotency-replayed").map(|v| v.to_str().unwrap()), Some("true"));
    for member in ["id", "results", "state", "name", "guarantee"] {
        assert_eq!(reply.body[member], first.body[member], "{member}");
    }
    assert_eq!(reply.body["plan"]["decider"], first.body["plan"]["decider"]);
}

/// Where a store decides, every sidecar over it knows the key: with the same body it gives the same answer, with
/// another one it refuses, whoever would have decided that one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_sidecar_gives_the_same_answer_and_refuses_another_body() {
    let world = World::new("beside").await;
    prepare(&world);
    let one = world.start(&world.launch()).await;
    let two = world.start(&world.launch_beside("two")).await;
    for (mark, decides) in [(1, Decides::Postgres), (2, Decides::Neo4j)] {
        // A key may hold whatever is visible.
        let (body, key) = (request(&world, decides, mark), format!("{}/{mark}?a=b%20#c", world.name));
        let first = send(&world, &one, &body, &key).await;
        first.must_be(200, "committed");
        is_replay(&send(&world, &two, &body, &key).await, &first);
        for other in Decides::ALL {
            let reply = send(&world, &two, &request(&world, other, mark + 100), &key).await;
            reply.must_be(422, "idempotency_mismatch");
            assert_eq!(effects(&world, mark + 100).await.rows, 0, "{decides:?}, then {other:?}");
            assert_eq!(effects(&world, mark + 100).await.puts, 0, "{decides:?}, then {other:?}");
        }
        let encoded: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for sidecar in [&one, &two] {
            let found = world.get(sidecar, &format!("/v1/idempotency/{encoded}")).await;
            found.must_be(200, "committed");
            assert_eq!((&found.body["id"], &found.body["results"]), (&first.body["id"], &first.body["results"]));
            let none = world.get(sidecar, &format!("/v1/idempotency/{encoded}x")).await;
            none.must_be(404, "not_found");
            assert_eq!(none.body["state"], "unknown");
            not_waiting_replays_too(&world, sidecar, (&body, &key), &first).await;
        }
        assert_eq!(effects(&world, mark).await, decides.once());
    }
}

/// A sidecar that forgets what has ended at once, and one that starts again, know it from the log and the stores.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_body_is_refused_after_a_restart_too() {
    let world = World::new("again").await;
    prepare(&world);
    let launch = journal(&world.launch(), &[("retain_ended_ms", "0")]);
    let mut sidecar = world.start(&launch).await;
    let mut firsts = Vec::new();
    for (mark, decides) in (1..).zip(Decides::ALL) {
        let first = send(&world, &sidecar, &request(&world, decides, mark), &format!("{}-{mark}", world.name)).await;
        first.must_be(200, "committed");
        firsts.push(first);
    }
    for restart in [false, true] {
        if restart {
            sidecar.kill().unwrap();
            sidecar = world.start(&launch).await;
        }
        for ((mark, decides), first) in (1..).zip(Decides::ALL).zip(&firsts) {
            let key = format!("{}-{mark}", world.name);
            is_replay(&send(&world, &sidecar, &request(&world, decides, mark), &key).await, first);
            for other in Decides::ALL {
                let reply = send(&world, &sidecar, &request(&world, other, mark + 100), &key).await;
                assert_eq!(reply.code(), "idempotency_mismatch", "{decides:?}, then {other:?}: {:#}", reply.body);
            }
            assert_eq!(effects(&world, mark).await, decides.once());
        }
    }
}

/// While the first runs, the second is told so and when to come again; one that did not happen leaves its key free, here
/// and at another sidecar.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_in_flight_is_said_and_an_aborted_one_is_free() {
    let world = World::new("flight").await;
    prepare(&world);
    let one = world.start(&world.launch()).await;
    let impatient = world.launch_beside("two").with("OUTRIGGER__LOCKS__WAIT_TIMEOUT_MS", "300");
    let two = world.start(&impatient).await;
    let mut slow = request(&world, Decides::Postgres, 1);
    let wait = json!({"id": "wait", "store": "pg", "write": true, "sql": "SELECT pg_sleep(1.5)::text"});
    slow["operations"].as_array_mut().unwrap().push(wait);
    let key = format!("{}-1", world.name);
    let first = async { send(&world, &one, &slow, &key).await };
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        for sidecar in [&one, &two] {
            let reply = send(&world, sidecar, &slow, &key).await;
            reply.must_be(409, "in_flight");
            assert_eq!((reply.headers["retry-after"].to_str().unwrap(), &reply.body["retryable"]), ("1", &json!(true)));
        }
        world.get(&one, &format!("/v1/idempotency/{key}")).await.must_be(200, "active");
        let other = send(&world, &one, &request(&world, Decides::Log, 2), &key).await;
        other.must_be(422, "idempotency_mismatch");
    };
    let (first, ()) = futures::join!(first, meanwhile);
    first.must_be(200, "committed");
    assert_eq!(effects(&world, 1).await, Decides::Postgres.once());

    for (mark, decides) in (10..).zip(Decides::ALL) {
        let key = format!("{}-{mark}", world.name);
        let mut fails = request(&world, decides, mark);
        fails["operations"][0]["expect"] = match decides {
            Decides::Log => json!({"if": [{"id": mark, "exists": true}]}),
            _ => json!({"rows": 7}),
        };
        if decides == Decides::Log {
            fails["operations"][0]["record"]["if_version"] = json!(7);
            fails["operations"][0].as_object_mut().unwrap().remove("expect");
        }
        send(&world, &one, &fails, &key).await.must_be(409, "conflict");
        world.get(&one, &format!("/v1/idempotency/{key}")).await.must_be(404, "not_found");
        send(&world, &two, &request(&world, decides, mark), &key).await.must_be(200, "committed");
        assert_eq!(effects(&world, mark).await, decides.once());
    }
}

/// Who does not wait is told of the first time all the same.
async fn not_waiting_replays_too(world: &World, sidecar: &Sidecar, (body, key): (&Value, &str), first: &Reply) {
    let url = format!("{}/v1/transactions", sidecar.url());
    let asked = |body: &Value| {
        let request = reqwest::Client::new().post(&url).json(body).header("Idempotency-Key", key);
        request.header("Prefer", "respond-async").send()
    };
    let answer = asked(body).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["idempotency-replayed"].to_str().unwrap()), (200, "true"));
    let seen: Value = answer.json().await.unwrap();
    assert_eq!((&seen["id"], &seen["results"]), (&first.body["id"], &first.body["results"]));
    assert_eq!(asked(&request(world, Decides::Postgres, 300)).await.unwrap().status().as_u16(), 422);
    assert_eq!(effects(world, 300).await.rows, 0);
}

/// What stands in `/metrics` under this name and these labels.
async fn metric(world: &World, sidecar: &Sidecar, series: &str) -> f64 {
    let text = world.metrics(sidecar).await;
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')).map(str::to_owned);
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

/// A key that only the log remembers outlives the segment that it was written to, over a restart too; and carrying it
/// forward costs the log nothing while nothing else happens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_the_log_outlives_its_segment() {
    let world = World::new("segment").await;
    prepare(&world);
    let settings = [("segment_bytes", "1048576"), ("retain_bytes", "0"), ("marker_grace_ms", "1000")];
    let launch = journal(&world.launch(), &settings);
    let mut sidecar = world.start(&launch).await;
    let key = format!("{}-1", world.name);
    let first = send(&world, &sidecar, &request(&world, Decides::Log, 1), &key).await;
    first.must_be(200, "committed");
    let began = metric(&world, &sidecar, "outrigger_journal_append_bytes_total").await;
    // Most of a segment of other keys with their answers, and three segments of what nobody remembers.
    let text = "x".repeat(200_000);
    for id in 1000..1020 {
        let mut other = request(&world, Decides::Log, id);
        other["operations"][0]["record"]["set"]["text"] = json!(&text[..40_000]);
        send(&world, &sidecar, &other, &format!("{}-{id}", world.name)).await.must_be(200, "committed");
        let points = json!([{"id": id + 1000, "vector": [1, 2, 3, 4], "payload": {"text": text}}]);
        let filler =
            json!({"operations": [{"store": "vectors", "collection": world.name, "upsert": {"points": points}}]});
        world.submit(&sidecar, &filler).await.must_be(200, "committed");
    }
    assert!(metric(&world, &sidecar, "outrigger_journal_append_bytes_total").await - began > 4e6);
    assert_eq!(metric(&world, &sidecar, "outrigger_journal_keys").await, 21.0);
    world
        .until(Duration::from_secs(20), "segments are let go", async || {
            metric(&world, &sidecar, "outrigger_journal_segments").await <= 3.0
        })
        .await;
    let settled = metric(&world, &sidecar, "outrigger_journal_append_bytes_total").await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let idle = metric(&world, &sidecar, "outrigger_journal_append_bytes_total").await - settled;
    assert!(idle < 10_000.0, "an idle log took {idle} bytes in two sweeps");
    for restart in [false, true] {
        if restart {
            sidecar.kill().unwrap();
            sidecar = world.start(&launch).await;
        }
        is_replay(&send(&world, &sidecar, &request(&world, Decides::Log, 1), &key).await, &first);
        let other = send(&world, &sidecar, &request(&world, Decides::Log, 2), &key).await;
        other.must_be(422, "idempotency_mismatch");
    }
    assert_eq!(effects(&world, 1).await, Decides::Log.once());
}

/// After its time a key is forgotten everywhere, and is free for something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_go_when_their_time_has_passed() {
    let world = World::new("ttl").await;
    prepare(&world);
    let launch = journal(&world.launch(), &[("key_ttl_ms", "1500"), ("marker_grace_ms", "1000")]);
    let sidecar = world.start(&launch).await;
    let reaped = r#"outrigger_reaped_total{what="key"}"#;
    assert_eq!(metric(&world, &sidecar, reaped).await, 0.0);
    let key = |mark: i64| format!("{}-{mark}", world.name);
    for (mark, decides) in (1..).zip(Decides::ALL) {
        send(&world, &sidecar, &request(&world, decides, mark), &key(mark)).await.must_be(200, "committed");
    }
    // The log has to move on: what noted its latest position may still be needed.
    world.submit(&sidecar, &request(&world, Decides::Neo4j, 9)).await.must_be(200, "committed");
    world
        .until(Duration::from_secs(30), "all three keys are gone", async || {
            metric(&world, &sidecar, reaped).await >= 3.0
        })
        .await;
    for (mark, other) in (1..).zip([Decides::Neo4j, Decides::Log, Decides::Postgres]) {
        world.get(&sidecar, &format!("/v1/idempotency/{}", key(mark))).await.must_be(404, "not_found");
        let reply = send(&world, &sidecar, &request(&world, other, mark + 100), &key(mark)).await;
        reply.must_be(200, "committed");
        assert!(!reply.headers.contains_key("idempotency-replayed"));
        assert_eq!(effects(&world, mark + 100).await, other.once());
    }
}
