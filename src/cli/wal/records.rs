//! Records of the log in words.
//!
//! A log holds what applications wrote. Whoever may look at it need not be somebody who may know that, so without
//! `--values` a record is shown with its ids, names of stores and counts, and everything else as how long it is. What is
//! shown is listed here one by one: a member that nobody thought of is not shown.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use outrigger_wal::Record;
use prost::Message;
use serde_json::{Map, Value, json};

use crate::clock;
use crate::journal::prepared::PreparedRecord;
use crate::journal::record::{BeganRecord, DoneRecord, IntentRecord, OpenedRecord, RunRecord, VerdictRecord, kind};
use crate::model::ids::Run;
use crate::model::trace::TraceId;

/// A record as JSON: its place, its kind and what it says; with `values` also what applications wrote.
pub(super) fn describe(record: &Record, values: bool) -> Value {
    let mut members = Map::new();
    members.insert("lsn".into(), record.lsn.as_u64().into());
    members.insert("kind".into(), kind::name(record.kind).into());
    members.insert("durable_lsn".into(), record.durable_lsn.as_u64().into());
    members.insert("bytes".into(), record.payload.len().into());
    match contents(record.kind, &record.payload, Values(values)) {
        Ok(Value::Object(contents)) => members.extend(contents),
        Ok(_) => {}
        Err(why) => drop(members.insert("unreadable".into(), why.to_string().into())),
    }
    if values {
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

/// Whether values are shown.
#[derive(Clone, Copy)]
struct Values(bool);

impl Values {
    fn text(self, text: String) -> String {
        if self.0 { text } else { format!("[{} bytes]", text.len()) }
    }

    fn bytes(self, bytes: &[u8]) -> Value {
        if self.0 { BASE64_STANDARD.encode(bytes).into() } else { bytes.len().into() }
    }

    /// A lock: store and resource are configuration, a free key or a point is not.
    fn lock(self, mut parts: Vec<String>) -> String {
        if parts.len() != 2
            && let Some(last) = parts.pop()
        {
            parts.push(self.text(last));
        }
        parts.join("/")
    }

    /// The problem's code, and its sentence, which may quote a row.
    fn cause(self, cause: Vec<String>) -> Vec<String> {
        cause.into_iter().enumerate().map(|(at, text)| if at == 0 { text } else { self.text(text) }).collect()
    }
}

fn contents(record_kind: u8, payload: &[u8], values: Values) -> Result<Value, prost::DecodeError> {
    Ok(match record_kind {
        kind::OPENED | kind::CHECKPOINT => {
            let opened = OpenedRecord::decode(payload)?;
            json!({"incarnation": opened.incarnation, "version": opened.version, "at": clock::rfc3339(opened.at_us)})
        }
        kind::INTENT => intent(IntentRecord::decode(payload)?, values),
        kind::PREPARED => {
            let prepared = PreparedRecord::decode(payload)?;
            let mut shown = intent(prepared.intent, values);
            shown["principal"] = prepared.principal.into();
            shown["expires_at"] = clock::rfc3339(prepared.expires_us).into();
            shown["on_expiry"] = if prepared.hold { "hold" } else { "rollback" }.into();
            shown["terms"] = values.text(prepared.terms).into();
            shown["answer"] = prepared.answer.map(|answer| values.text(answer)).into();
            shown
        }
        kind::BEGAN => {
            let began = BeganRecord::decode(payload)?;
            json!({
                "run": run(&began.run), "name": began.name, "principal": began.principal,
                "key": began.key.map(|key| values.text(key.key)), "began_at": clock::rfc3339(began.began_us),
            })
        }
        kind::DECISION | kind::LEARNT => {
            let verdict = VerdictRecord::decode(payload)?;
            let answer = verdict.answer.map(|answer| values.text(answer));
            let at = clock::rfc3339(verdict.at_us);
            json!({"run": run(&verdict.run), "outcome": outcome(verdict.committed), "at": at, "answer": answer})
        }
        kind::DONE => {
            let done = DoneRecord::decode(payload)?;
            json!({
                "run": run(&done.run), "outcome": outcome(done.committed), "name": done.name, "decider": done.decider,
                "prepared": done.preparers, "redo": done.redoers, "key": done.key.map(|key| values.text(key.key)),
                "began_at": clock::rfc3339(done.began_us), "ended_at": clock::rfc3339(done.ended_us),
                "cause": values.cause(done.cause), "answer": done.answer.map(|answer| values.text(answer)),
            })
        }
        _ => Value::Null,
    })
}

fn intent(intent: IntentRecord, values: Values) -> Value {
    let redo = intent.redo.into_iter().map(|write| {
        let points = if values.0 { json!(write.keys) } else { write.keys.len().into() };
        let body = values.bytes(&write.body);
        json!({"store": write.store, "resource": write.resource, "points": points, "body": body})
    });
    let locks: Vec<_> = intent.claims.into_iter().map(|claim| values.lock(claim.parts)).collect();
    json!({
        "run": run(&intent.run), "name": intent.name, "decider": intent.decider, "gids": intent.gids,
        "redo": redo.collect::<Vec<_>>(), "locks": locks, "key": intent.key.map(|key| values.text(key.key)),
        "began_at": clock::rfc3339(intent.began_us), "at": clock::rfc3339(intent.at_us), "reason": intent.reason,
        "trace_id": intent.trace.as_deref().and_then(TraceId::from_bytes).map(|trace| trace.to_string()),
    })
}

fn run(record: &RunRecord) -> Option<String> {
    Run::try_from(record).ok().map(|run| run.to_string())
}

fn outcome(committed: bool) -> &'static str {
    if committed { "committed" } else { "aborted" }
}
