//! Records of the log in words.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use outrigger_wal::Record;
use prost::Message;
use serde_json::{Map, Value, json};

use crate::clock;
use crate::journal::record::{DoneRecord, IntentRecord, OpenedRecord, RunRecord, VerdictRecord, kind};
use crate::model::ids::Run;

/// A record as JSON: its place, its kind and what it says. Bodies of redo writes are counted, not shown.
pub(super) fn describe(record: &Record, payload: bool) -> Value {
    let mut members = Map::new();
    members.insert("lsn".into(), record.lsn.as_u64().into());
    members.insert("kind".into(), kind::name(record.kind).into());
    members.insert("durable_lsn".into(), record.durable_lsn.as_u64().into());
    members.insert("bytes".into(), record.payload.len().into());
    match contents(record.kind, &record.payload) {
        Ok(Value::Object(contents)) => members.extend(contents),
        Ok(_) => {}
        Err(why) => drop(members.insert("unreadable".into(), why.to_string().into())),
    }
    if payload {
        members.insert("payload".into(), BASE64_STANDARD.encode(&record.payload).into());
    }
    Value::Object(members)
}

/// The same as a line: place, kind, run, and the rest as it comes.
pub(super) fn line(record: &Record, described: &Value) -> String {
    let known = ["lsn", "kind", "durable_lsn", "bytes", "run"];
    let rest = described.as_object().into_iter().flatten().filter(|(name, value)| {
        !known.contains(&name.as_str()) && !value.is_null() && !matches!(value, Value::Array(list) if list.is_empty())
    });
    let rest: Vec<_> = rest
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name}={text}"),
            other => format!("{name}={other}"),
        })
        .collect();
    let run = described["run"].as_str().unwrap_or("-");
    format!("{:>12}  {:10}  {run}  {}", record.lsn, kind::name(record.kind), rest.join(" ")).trim_end().to_owned()
}

fn contents(record_kind: u8, payload: &[u8]) -> Result<Value, prost::DecodeError> {
    Ok(match record_kind {
        kind::OPENED | kind::CHECKPOINT => {
            let opened = OpenedRecord::decode(payload)?;
            json!({"incarnation": opened.incarnation, "version": opened.version, "at": clock::rfc3339(opened.at_us)})
        }
        kind::INTENT => {
            let intent = IntentRecord::decode(payload)?;
            let redo = intent.redo.iter();
            let redo = redo.map(
                |w| json!({"store": w.store, "resource": w.resource, "points": w.keys.len(), "bytes": w.body.len()}),
            );
            let locks: Vec<_> = intent.claims.iter().map(|claim| claim.parts.join("/")).collect();
            json!({
                "run": run(&intent.run), "name": intent.name, "decider": intent.decider, "gids": intent.gids,
                "redo": redo.collect::<Vec<_>>(), "locks": locks, "key": intent.key.map(|key| key.key),
                "began_at": clock::rfc3339(intent.began_us), "reason": intent.reason,
            })
        }
        kind::DECISION | kind::LEARNT => {
            let verdict = VerdictRecord::decode(payload)?;
            json!({"run": run(&verdict.run), "outcome": outcome(verdict.committed)})
        }
        kind::DONE => {
            let done = DoneRecord::decode(payload)?;
            json!({
                "run": run(&done.run), "outcome": outcome(done.committed), "name": done.name, "decider": done.decider,
                "prepared": done.preparers, "redo": done.redoers, "key": done.key.map(|key| key.key),
                "began_at": clock::rfc3339(done.began_us), "ended_at": clock::rfc3339(done.ended_us),
                "cause": done.cause,
            })
        }
        _ => Value::Null,
    })
}

fn run(record: &RunRecord) -> Option<String> {
    Run::try_from(record).ok().map(|run| run.to_string())
}

fn outcome(committed: bool) -> &'static str {
    if committed { "committed" } else { "aborted" }
}
