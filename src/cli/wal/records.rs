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
use crate::journal::job::{ChunkRecord, JobRecord};
use crate::journal::prepared::PreparedRecord;
use crate::journal::record::{
    BeganRecord, DoneRecord, IntentRecord, OpenedRecord, RunRecord, SkippedRecord, VerdictRecord, kind,
};
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
                "chunk": done.chunk.map(|chunk| self::chunk(chunk, values)),
                "skipped": done.skipped.into_iter().map(|skipped| skipped.store).collect::<Vec<_>>(),
            })
        }
        kind::SKIPPED => {
            let skipped = SkippedRecord::decode(payload)?;
            json!({
                "run": run(&skipped.run), "store": skipped.store, "by": skipped.principal,
                "reason": values.text(skipped.reason), "at": clock::rfc3339(skipped.at_us),
            })
        }
        kind::JOB => job(JobRecord::decode(payload)?, values),
        _ => Value::Null,
    })
}

/// Whose chunk it is, and how long its compensation is.
fn chunk(chunk: ChunkRecord, values: Values) -> Value {
    let what = if chunk.undoes { "undoes" } else { "number" };
    json!({"job": uuid(&chunk.job), "parent": chunk.parent, what: chunk.number,
        "compensation": chunk.undo.map(|text| values.text(text))})
}

fn job(record: JobRecord, values: Values) -> Value {
    let pairs = |flat: &[u64]| flat.chunks(2).map(<[u64]>::to_vec).collect::<Vec<_>>();
    let undos = record.undos.into_iter().map(|undo| json!({"chunk": undo.chunk, "operations": values.text(undo.text)}));
    let phase = ["open", "compensating", "committed", "compensated", "aborted"].get(record.phase as usize);
    json!({
        "job": uuid(&record.id), "name": record.head.as_ref().map(|head| &head.name),
        "chunks": record.head.as_ref().and_then(|head| head.total), "phase": phase,
        "at": clock::rfc3339(record.at_us), "done": pairs(&record.done), "without_compensation": pairs(&record.bare),
        "undone": pairs(&record.undone), "compensations": undos.collect::<Vec<_>>(),
        "failed": record.failed.map(|failed| json!({"chunk": failed.chunk, "code": failed.code, "detail": values.text(failed.detail)})),
        "cause": values.cause(record.cause),
    })
}

fn uuid(bytes: &[u8]) -> Option<String> {
    uuid::Uuid::from_slice(bytes).ok().map(|id| id.to_string())
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
        "chunk": intent.chunk.map(|chunk| self::chunk(chunk, values)),
    })
}

fn run(record: &RunRecord) -> Option<String> {
    Run::try_from(record).ok().map(|run| run.to_string())
}

fn outcome(committed: bool) -> &'static str {
    if committed { "committed" } else { "aborted" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::job::JobLog;
    use crate::model::ids::{Lsn, TxnId};
    use crate::model::job::ChunkNote;

    #[test]
    fn a_job_is_shown_without_what_would_undo_it() {
        let id = TxnId::fresh();
        let mut log = JobLog::default();
        let undo = Some("DELETE secret".to_owned());
        log.ended(Lsn::ZERO, &ChunkNote { job: id, parent: "n".into(), number: 3, undoes: false, undo });
        let payload = log.encode(id, 1000).remove(0);
        let record = Record { lsn: Lsn::ZERO, kind: kind::JOB, durable_lsn: Lsn::ZERO, payload };
        let shown = describe(&record, false);
        assert_eq!(
            (&shown["kind"], &shown["job"], &shown["phase"]),
            (&json!("job"), &json!(id.to_string()), &json!("open"))
        );
        assert_eq!(
            (&shown["done"], &shown["compensations"][0]["operations"]),
            (&json!([[3, 3]]), &json!("[13 bytes]"))
        );
        assert_eq!(describe(&record, true)["compensations"][0]["operations"], "DELETE secret");
    }
}
