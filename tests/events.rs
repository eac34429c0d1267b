//! Following what happens, on real stores: live, from where one left off, and over `kill -9`.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use world::World;

const SOON: Duration = Duration::from_secs(20);
/// What the records of the log say: these are told over a restart, too.
const OF_THE_LOG: [&str; 3] = ["intended", "decided", "ended"];

/// A follower's connection, and what it has heard.
struct Ear {
    response: reqwest::Response,
    text: String,
    last: String,
    heard: Vec<Value>,
}

impl Ear {
    async fn open(url: &str, query: &str, last: Option<&str>) -> Self {
        let mut request = reqwest::Client::new().get(format!("{url}/v1/events{query}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        Self { response, text: String::new(), last: String::new(), heard: Vec::new() }
    }

    /// Hears on until `enough` or the end of the connection; whether it was enough.
    async fn until(&mut self, enough: impl Fn(&[Value]) -> bool) -> bool {
        while !enough(&self.heard) {
            let chunk = tokio::time::timeout(SOON, self.response.chunk()).await;
            let chunk = chunk.unwrap_or_else(|_| panic!("still waiting after {:#?}", self.heard));
            let Ok(Some(chunk)) = chunk else { return false };
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (mut data, mut gap) = (None, false);
                for line in block.lines() {
                    match line.split_once(": ") {
                        Some(("id", id)) => id.clone_into(&mut self.last),
                        Some(("event", event)) => gap = event == "gap",
                        Some(("data", text)) => data = Some(serde_json::from_str::<Value>(text).unwrap()),
                        _ => {}
                    }
                }
                if let Some(mut data) = data.filter(|_| !gap) {
                    data["id"] = self.last.clone().into();
                    self.heard.push(data);
                }
                self.text = rest.to_owned();
            }
        }
        true
    }

    async fn until_ended(&mut self, count: usize) -> bool {
        self.until(|heard| heard.iter().filter(|event| event["kind"] == "ended").count() >= count).await
    }

    fn kinds(&self) -> Vec<&str> {
        self.heard.iter().map(|event| event["kind"].as_str().unwrap()).collect()
    }
}

async fn post(url: &str, body: &Value, trace: Option<&str>) -> reqwest::Result<(HeaderMap, Value)> {
    let mut request = reqwest::Client::new().post(format!("{url}/v1/transactions")).json(body);
    if let Some(trace) = trace {
        request = request.header("traceparent", trace);
    }
    let answer = request.send().await?;
    Ok((answer.headers().clone(), answer.json().await?))
}

/// Order, in words: ids of one follower only grow.
fn grow(events: &[Value]) {
    let id = |event: &Value| {
        let numbers: Vec<u64> = event["id"].as_str().unwrap().split('-').map(|n| n.parse().unwrap()).collect();
        (numbers[0], numbers[2])
    };
    assert!(events.windows(2).all(|pair| id(&pair[0]) < id(&pair[1])), "{events:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_is_told_with_its_trace_and_again_to_who_missed_it() {
    let world = World::new("events_live").await;
    let sidecar = world.start(&world.launch()).await;
    let url = sidecar.url();
    let mut ear = Ear::open(&url, "", None).await;
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let mut body = world.document(1, &["pg", "graph", "vectors"]);
    body["name"] = "one".into();
    let (headers, view) = post(&url, &body, Some(&format!("00-{trace}-{parent}-01"))).await.unwrap();
    assert_eq!((&view["state"], &view["trace_id"]), (&json!("committed"), &json!(trace)));
    let ours = headers["traceparent"].to_str().unwrap();
    assert!(ours.starts_with(&format!("00-{trace}-")) && ours.ends_with("-01") && !ours.contains(parent), "{ours}");
    assert!(ear.until_ended(1).await);
    assert_eq!(ear.kinds(), ["begun", "locked", "worked", "validated", "intended", "prepared", "decided", "ended"]);
    let states: Vec<_> = ear.heard.iter().map(|event| event["state"].as_str().unwrap()).collect();
    assert_eq!(states[..6], ["active"; 6]);
    assert_eq!(states[6..], ["committing", "committed"]);
    for event in &ear.heard {
        let who = (&event["transaction"], &event["name"], &event["trace_id"], &event["attempt"]);
        assert_eq!(who, (&view["id"], &json!("one"), &json!(trace), &json!(1)), "{event:#}");
    }
    grow(&ear.heard);

    // What aborts before anything is promised, and what only reads, has no record and is told all the same. Without a
    // trace of its own each gets one.
    let (headers, problem) = post(&url, &body, None).await.unwrap();
    assert_eq!(problem["code"], "constraint_violation");
    let fresh = headers["traceparent"].to_str().unwrap()[3..35].to_owned();
    let read = json!({"operations": [{"store": "pg", "sql": "SELECT 1"}]});
    assert_eq!(post(&url, &read, None).await.unwrap().1["state"], "committed");
    assert!(ear.until_ended(3).await);
    let aborted = ear.heard.iter().find(|event| event["state"] == "aborted").unwrap();
    assert_eq!((&aborted["trace_id"], &aborted["transaction"]), (&json!(fresh), &problem["transaction"]));
    assert!(aborted["detail"].as_str().unwrap().starts_with("constraint_violation: "), "{aborted:#}");

    // From any event on, the same again.
    for (at, event) in ear.heard.iter().enumerate() {
        let mut again = Ear::open(&url, "", event["id"].as_str()).await;
        let rest = &ear.heard[at + 1..];
        assert!(again.until(|heard| heard.len() >= rest.len()).await);
        assert_eq!(again.heard, rest);
    }
    let mut named = Ear::open(&url, "?name=one&after=0", None).await;
    assert!(named.until_ended(2).await);
    assert!(named.heard.iter().skip(1).all(|event| event["name"] == "one"), "{:#?}", named.heard);
    let metrics = world.metrics(&sidecar).await;
    assert!(metrics.contains("outrigger_event_followers "), "{metrics}");
    assert!(!metrics.contains("outrigger_events_total 0\n"), "they are counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_kill_a_follower_hears_how_everything_ended() {
    const AT_ONCE: i64 = 6;
    let world = World::new("events_kill").await;
    let launch = world.launch();
    let mut first = world.start(&launch.with("OUTRIGGER_CRASH_AT", "after_decide")).await;
    let url = first.url();
    let mut ear = Ear::open(&url, "", None).await;
    let posts: Vec<_> = (0..AT_ONCE)
        .map(|id| {
            let (url, body) = (url.clone(), world.document(id + 1, &["pg", "graph", "vectors"]));
            tokio::spawn(async move { post(&url, &body, None).await.map(|(_, view)| view) })
        })
        .collect();
    assert!(!ear.until(|_| false).await, "the sidecar dies, and the connection with it");
    first.wait_end(Duration::from_secs(5)).unwrap().expect("it is dead");
    for post in posts {
        assert!(post.await.unwrap().is_err(), "nobody was answered");
    }
    let (before, last) = (ear.heard, ear.last);

    let second = world.start(&launch).await;
    world.recovered(&second).await;
    let mut ear = Ear::open(&second.url(), "", Some(&last)).await;
    // Something more, so that it is known where to stop.
    let more = post(&second.url(), &world.document(99, &["pg"]), None).await.unwrap().1;
    assert!(ear.until(|heard| heard.iter().any(|e| e["transaction"] == more["id"] && e["kind"] == "ended")).await);
    assert_eq!(ear.kinds().iter().filter(|kind| **kind == "opened").count(), 1, "{:#?}", ear.heard);

    let mut told: BTreeMap<(String, &str), usize> = BTreeMap::new();
    let all: Vec<&Value> = before.iter().chain(&ear.heard).collect();
    for event in &all {
        if let Some(kind) = OF_THE_LOG.iter().find(|kind| event["kind"] == **kind) {
            *told.entry((event["transaction"].to_string(), kind)).or_default() += 1;
        }
    }
    assert!(told.values().all(|count| *count == 1), "told twice: {told:#?}");
    let of = |kind: &str| -> BTreeSet<String> {
        all.iter().filter(|e| e["kind"] == kind).map(|e| e["transaction"].as_str().unwrap().to_owned()).collect()
    };
    let (begun, intended, ended) = (of("begun"), of("intended"), of("ended"));
    assert_eq!(begun.len(), usize::try_from(AT_ONCE).unwrap() + 1);
    assert!(!intended.is_empty() && intended.is_subset(&ended), "open ones without an end: {intended:?} {ended:?}");
    let mut committed = 0;
    for id in &begun {
        let known = world.get(&second, &format!("/v1/transactions/{id}")).await;
        let end = all.iter().find(|event| event["kind"] == "ended" && event["transaction"] == **id);
        match end {
            Some(end) => {
                assert_eq!(end["state"], known.body["state"], "{id}");
                assert_eq!(end["trace_id"], known.body["trace_id"], "the trace outlives the kill");
                let begun = all.iter().find(|e| e["kind"] == "begun" && e["transaction"] == **id).unwrap();
                assert_eq!(end["trace_id"], begun["trace_id"]);
                committed += usize::from(end["state"] == "committed");
            }
            // It had promised nothing, and nothing of it is left: `opened` says so.
            None => known.must_be(404, "not_found"),
        }
    }
    assert_eq!(world.audit().await.rows.len(), committed, "what was told is what the stores hold");
    assert!(committed >= 2, "the one that the crash came after, and the last one");
}

/// The command line hears the same, and ends when the transaction has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_watches_over_a_kill() {
    let world = World::new("events_watch").await;
    let launch = world.launch();
    let mut first = world.start(&launch.with("OUTRIGGER_CRASH_AT", "after_decide")).await;
    let watch = |target: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command.args(["--json", "txn", "watch", target, "--door", &launch.door]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let child = watch("name:job").spawn().unwrap();
    world
        .until(SOON, "it follows", async || world.metrics(&first).await.contains("outrigger_event_followers 1\n"))
        .await;
    let mut body = world.document(1, &["pg", "vectors"]);
    body["name"] = "job".into();
    assert!(post(&first.url(), &body, None).await.is_err());
    first.wait_end(Duration::from_secs(5)).unwrap().expect("it is dead");
    let second = world.start(&launch).await;
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = lines.iter().filter_map(|line| line["kind"].as_str()).collect();
    assert_eq!(kinds.first().copied(), Some("begun"));
    assert!(kinds.contains(&"intended") && kinds.contains(&"opened"), "{kinds:?}");
    let last = lines.last().unwrap();
    assert_eq!((&last["kind"], &last["state"], &last["name"]), (&json!("ended"), &json!("committed"), &json!("job")));
    // Once it has ended there is nothing to wait for; of what nobody knows there never is.
    let again = watch("name:job").output().unwrap();
    assert_eq!(again.status.code(), Some(0));
    assert_eq!(serde_json::from_slice::<Value>(&again.stdout).unwrap()["state"], "committed");
    let unknown = watch("0199b000-0000-7000-8000-000000000001").output().unwrap();
    assert_eq!(unknown.status.code(), Some(1), "{}", String::from_utf8_lossy(&unknown.stdout));
    drop(second);
}
