//! `outrigger locks` and `outrigger deadlocks`: who holds what, who waits, and which circles of waits were broken.

use std::path::Path;

use clap::Args;
use serde_json::Value;

use super::client::{Client, DoorArgs};
use super::output::{Output, Stop};
use super::runtime;
use super::txn::text;

#[derive(Args, Debug)]
pub(super) struct Locks {
    #[command(flatten)]
    door: DoorArgs,
    /// At most so many keys, contended ones first
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
    limit: u64,
}

#[derive(Args, Debug)]
pub(super) struct Deadlocks {
    #[command(flatten)]
    door: DoorArgs,
}

pub(super) fn locks(what: &Locks, config: Option<&Path>, output: &mut Output) -> Result<(), Stop> {
    let client = Client::new(&what.door, config)?;
    let answer = runtime::block_on(client.get(&format!("/v1/locks?limit={}", what.limit)))?;
    if output.is_json() {
        output.value(&answer);
        return Ok(());
    }
    let mut rows = Vec::new();
    for line in items(&answer["locks"]) {
        let parties = items(&line["holders"]).iter().map(|party| ("holds", party));
        let waiting = items(&line["waiters"]).iter().map(|party| ("waits", party));
        for (at, (does, party)) in parties.chain(waiting).enumerate() {
            let key = if at == 0 { text(&line["key"]) } else { String::new() };
            rows.push(vec![key, does.to_owned(), text(&party["mode"]), who(party)]);
        }
    }
    if rows.is_empty() {
        output.line("No locks.");
    } else {
        output.table(&["KEY", "DOES", "MODE", "WHO"], &rows);
    }
    Ok(())
}

fn who(party: &Value) -> String {
    match &party["lease"] {
        Value::Null => text(&party["transaction"]),
        lease => format!("lease {}", text(lease)),
    }
}

pub(super) fn deadlocks(what: &Deadlocks, config: Option<&Path>, output: &mut Output) -> Result<(), Stop> {
    let client = Client::new(&what.door, config)?;
    let answer = runtime::block_on(client.get("/v1/deadlocks"))?;
    if output.is_json() {
        output.value(&answer);
        return Ok(());
    }
    let past = items(&answer["deadlocks"]);
    if past.is_empty() {
        output.line("No deadlocks.");
    }
    for deadlock in past {
        let broken = match deadlock["broken_after_ms"].as_f64() {
            Some(ms) => format!("broken after {ms:.0} ms"),
            None => "not broken: nobody of ours could give way".to_owned(),
        };
        output.line(format_args!("{}  {}  {broken}", text(&deadlock["at"]), text(&deadlock["source"])));
        for edge in items(&deadlock["cycle"]) {
            let [waiter, holder, resource, source] = ["waiter", "holder", "resource", "source"].map(|m| text(&edge[m]));
            let mark = if edge["waiter"] == deadlock["victim"] { "  ◄ victim" } else { "" };
            output.line(format_args!("    {waiter} waits for {holder} at {resource} ({source}){mark}"));
        }
        let scores = items(&deadlock["scores"]).iter();
        let scores: Vec<_> =
            scores.map(|score| format!("{} {}", text(&score["transaction"]), text(&score["score"]))).collect();
        if !scores.is_empty() {
            output.line(format_args!("    scores, the lowest gives way: {}", scores.join(", ")));
        }
    }
    Ok(())
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}
