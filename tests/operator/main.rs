//! The operator's hand on real stores: every verb on every state, parts given up and crashes in the middle of it, the
//! audit log, orphans, and the recovery of a log whose sidecar is gone.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

#[path = "../world/mod.rs"]
mod world;

mod hand;
mod orphans;
mod states;

use std::process::Command;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use world::{Reply, World};
use xtask::sidecar::{Launch, Sidecar};

/// The token that the sidecar leaves beside its journal.
fn token(world: &World) -> String {
    std::fs::read_to_string(world.dir().join("journal/operator.token")).unwrap()
}

async fn send(sidecar: &Sidecar, method: Method, path: &str, token: &str, body: Option<Value>) -> Option<Reply> {
    let mut request = reqwest::Client::new().request(method, format!("{}{path}", sidecar.url())).bearer_auth(token);
    if let Some(body) = body {
        request = request.json(&body).header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    }
    let answer = request.send().await.ok()?;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Some(Reply { status, headers, body: answer.json().await.unwrap_or(Value::Null) })
}

/// One verb. `None`: the sidecar died of it.
async fn try_resolve(world: &World, sidecar: &Sidecar, id: &str, verb: &str) -> Option<Reply> {
    let body = json!({"action": verb, "reason": format!("a test says {verb}")});
    send(sidecar, Method::POST, &format!("/v1/transactions/{id}/resolve"), &token(world), Some(body)).await
}

async fn resolve(world: &World, sidecar: &Sidecar, id: &str, verb: &str) -> Reply {
    try_resolve(world, sidecar, id, verb).await.expect("the sidecar answers")
}

/// Every line of the audit log so far.
fn audit(world: &World) -> Vec<Value> {
    let text = std::fs::read_to_string(world.dir().join("journal/audit.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the program prints for an operator on this machine, and its exit code.
fn outrigger(world: &World, sidecar: &Sidecar, args: &[&str]) -> (Option<i32>, String) {
    let token = world.dir().join("journal/operator.token");
    let door = ["--door", &sidecar.launch().door, "--token-file", token.to_str().unwrap()].map(str::to_owned);
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger")).args(args).args(door).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// The id of the transaction of that name.
async fn id_of(world: &World, sidecar: &Sidecar, name: &str) -> String {
    world.get(sidecar, &format!("/v1/transactions/name:{name}")).await.body["id"].as_str().unwrap().to_owned()
}

/// Waits until it is in `state`; answers its view.
async fn until(world: &World, sidecar: &Sidecar, id: &str, state: &str) -> Value {
    let mut view = Value::Null;
    world
        .until(Duration::from_secs(20), state, async || {
            view = world.get(sidecar, &format!("/v1/transactions/{id}")).await.body;
            view["state"] == state
        })
        .await;
    view
}

/// A sidecar of which some stores need not be there.
fn start(launch: &Launch) -> Sidecar {
    let mut sidecar = launch.start().unwrap();
    sidecar.wait_ready(Duration::from_secs(20)).unwrap();
    sidecar
}

/// Leaves a named document over all stores behind that died at `point`; answers its name.
async fn leave(world: &World, launch: &Launch, point: &str, id: i64) -> String {
    let mut sidecar = world.start(&launch.with("OUTRIGGER_CRASH_AT", point)).await;
    let name = format!("{}:{id}", world.name);
    let mut body = world.document(id, &["pg", "graph", "vectors"]);
    body["name"] = json!(name);
    assert!(world.post(&sidecar.url(), &body, None).await.is_err(), "{point}: it answered instead of dying");
    sidecar.wait_end(Duration::from_secs(5)).unwrap();
    name
}
