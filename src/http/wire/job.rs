//! Batch jobs: `job` opens one, `parent` and `chunk` make a request a part of one.

use std::collections::HashSet;

use serde_json::Value;

use super::members::{Members, shown, wrong};
use super::{MAX_OPERATIONS, is_name, operation};
use crate::model::job::{CHUNKS_BELOW, JobVerdict};
use crate::model::problem::Problem;
use crate::model::request::Operation;

/// What is read of an opening; who asks is the door's business.
#[derive(PartialEq, Eq, Debug)]
pub(in crate::http) struct Opening {
    pub(in crate::http) name: String,
    pub(in crate::http) total: Option<u64>,
}

/// What is read of a chunk besides its operations.
#[derive(Debug)]
pub(in crate::http) struct Chunk {
    pub(in crate::http) parent: String,
    pub(in crate::http) number: u64,
    pub(in crate::http) compensate: Option<Vec<Operation>>,
}

/// Whether the body of `POST /v1/transactions` opens a job.
pub(in crate::http) fn opens_job(body: &Value) -> bool {
    body.as_object().is_some_and(|body| body.contains_key("job"))
}

const OF_CHUNKS: [&str; 3] = ["parent", "chunk", "compensate"];

/// Whether the body of `POST /v1/transactions` is a chunk, or means to be one.
pub(in crate::http) fn is_chunk(body: &Value) -> bool {
    body.as_object().is_some_and(|body| OF_CHUNKS.iter().any(|name| body.contains_key(*name)))
}

/// Reads an opening: a name, `job`, and nothing else.
///
/// # Errors
/// `invalid_request` with a pointer.
pub(in crate::http) fn job(body: Value) -> Result<Opening, Problem> {
    let mut members = Members::of(body, "")?;
    if members.has("operations") {
        let detail =
            "a job is opened without operations: they come with its chunks, each a request with `parent` and `chunk`";
        return Err(Problem::invalid("/operations", detail));
    }
    let name = members.required_text("name")?;
    named("/name", &name)?;
    let mut job = Members::of(members.take("job").unwrap_or_default(), "/job")?;
    let total = whole(&mut job, "chunks", 1, CHUNKS_BELOW)?;
    job.finish()?;
    members.finish()?;
    Ok(Opening { name, total })
}

/// Takes the members of a chunk out of a request; `None`: it is none.
///
/// # Errors
/// `invalid_request` with a pointer.
pub(in crate::http) fn chunk(
    body: &mut Value,
    store_kind: &dyn Fn(&str) -> Option<&'static str>,
) -> Result<Option<Chunk>, Problem> {
    if !is_chunk(body) {
        return Ok(None);
    }
    let Value::Object(body) = body else { return Ok(None) };
    let taken = OF_CHUNKS.into_iter().filter_map(|name| Some((name.to_owned(), body.shift_remove(name)?)));
    let mut members = Members::of(Value::Object(taken.collect()), "")?;
    let parent = members.required_text("parent")?;
    named("/parent", &parent)?;
    members.require("chunk")?;
    let number = whole(&mut members, "chunk", 0, CHUNKS_BELOW - 1)?.unwrap_or_default();
    let compensate = match members.object("compensate")? {
        None => None,
        Some(mut undo) => {
            undo.require("operations")?;
            let items = undo.list("operations", MAX_OPERATIONS)?.unwrap_or_default();
            undo.finish()?;
            Some(operations(items, store_kind)?)
        }
    };
    Ok(Some(Chunk { parent, number, compensate }))
}

/// The references of a compensation reach to the chunk's own operations: those are what it undoes.
///
/// # Errors
/// `invalid_request` at the `$ref`.
pub(in crate::http) fn check_undo(chunk: &Chunk, operations: &[Operation]) -> Result<(), Problem> {
    let known: HashSet<&str> = operations.iter().map(|operation| operation.id.as_str()).collect();
    for undo in chunk.compensate.iter().flatten() {
        for reference in undo.action.template().references() {
            if !known.contains(reference.operation.as_str()) {
                let detail = format!("the chunk has no operation `{}`", shown(&reference.operation));
                return Err(Problem::invalid(&reference.pointer, detail).in_operation(&undo.id));
            }
        }
    }
    Ok(())
}

/// Reads the body of `/commit` of a job: nothing can be said there.
///
/// # Errors
/// `invalid_request`.
pub(in crate::http) fn commit(body: Option<Value>) -> Result<JobVerdict, Problem> {
    Members::of(body.unwrap_or_else(|| serde_json::json!({})), "")?.finish()?;
    Ok(JobVerdict::Commit)
}

/// Reads the body of `/rollback` of a job.
///
/// # Errors
/// `invalid_request`.
pub(in crate::http) fn roll_back(body: Option<Value>) -> Result<JobVerdict, Problem> {
    let mut members = Members::of(body.unwrap_or_else(|| serde_json::json!({})), "")?;
    let gives_up = members.flag("mark_failed")?.unwrap_or(false);
    members.finish()?;
    Ok(if gives_up { JobVerdict::MarkFailed } else { JobVerdict::RollBack })
}

fn named(pointer: &str, name: &str) -> Result<(), Problem> {
    if is_name(name) {
        return Ok(());
    }
    Err(Problem::invalid(pointer, format!("`{}` is no name: 1 to 128 of [A-Za-z0-9._:@-]", shown(name))))
}

fn whole(members: &mut Members, name: &str, least: u64, most: u64) -> Result<Option<u64>, Problem> {
    let Some(value) = members.take(name) else { return Ok(None) };
    match value.as_u64().filter(|number| (least..=most).contains(number)) {
        Some(number) => Ok(Some(number)),
        None => Err(wrong(members.pointer(name), &format!("a whole number from {least} to {most}"), &value)),
    }
}

fn operations(items: Vec<Value>, store_kind: &dyn Fn(&str) -> Option<&'static str>) -> Result<Vec<Operation>, Problem> {
    let at = "/compensate/operations";
    if items.is_empty() {
        return Err(Problem::invalid(
            at,
            "there is no operation: leave `compensate` out where nothing undoes the chunk",
        ));
    }
    let mut operations: Vec<Operation> = Vec::with_capacity(items.len());
    let mut ids: HashSet<String> = HashSet::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let mut operation = operation::operation_at(at, item, index, store_kind)?;
        if operation.id.is_empty() {
            operation.id = index.to_string();
        }
        if !ids.insert(operation.id.clone()) {
            let detail = format!("`{}` is the id of an earlier operation too", operation.id);
            return Err(Problem::invalid(format!("{}/id", operation.pointer), detail).in_operation(&operation.id));
        }
        operations.push(operation);
    }
    Ok(operations)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Asked, request};
    use super::*;
    use crate::model::request::Action;

    fn kinds(name: &str) -> Option<&'static str> {
        match name {
            "pg" => Some("postgres"),
            "vec" => Some("qdrant"),
            _ => None,
        }
    }

    fn pointer<T: std::fmt::Debug>(read: Result<T, Problem>) -> Option<String> {
        read.unwrap_err().pointer
    }

    #[test]
    fn an_opening_has_a_name_and_perhaps_a_total() {
        let read = job(json!({"name": "import-7", "job": {"chunks": 120}})).unwrap();
        assert_eq!(read, Opening { name: "import-7".into(), total: Some(120) });
        assert_eq!(job(json!({"name": "n", "job": {}})).unwrap().total, None);
        assert!(job(json!({"name": "n", "job": {"chunks": CHUNKS_BELOW}})).is_ok());
        assert!(opens_job(&json!({"job": null})) && !opens_job(&json!({"name": "job"})) && !opens_job(&json!([])));
        for (body, at) in [
            (json!({"job": {}}), ""),
            (json!({"name": "", "job": {}}), "/name"),
            (json!({"name": "n", "job": {}, "operations": []}), "/operations"),
            (json!({"name": "n", "job": 7}), "/job"),
            (json!({"name": "n", "job": {"chunks": 0}}), "/job/chunks"),
            (json!({"name": "n", "job": {"chunks": 1.5}}), "/job/chunks"),
            (json!({"name": "n", "job": {"chunks": CHUNKS_BELOW + 1}}), "/job/chunks"),
            (json!({"name": "n", "job": {"total": 1}}), "/job/total"),
            (json!({"name": "n", "job": {}, "interactive": true}), "/interactive"),
            (json!({"name": "n", "job": {}, "parent": "m"}), "/parent"),
        ] {
            assert_eq!(pointer(job(body.clone())).as_deref(), Some(at), "{body}");
        }
    }

    #[test]
    fn a_chunk_is_taken_out_of_its_request() {
        let mut body = json!({
            "parent": "import-7", "chunk": 17,
            "compensate": {"operations": [
                {"store": "pg", "sql": "DELETE FROM t WHERE id = $1", "params": [{"$ref": "row#/rows/0/id"}]},
                {"store": "vec", "collection": "c", "delete": {"points": [{"$ref": "row#/rows/0/id"}]}},
            ]},
            "operations": [{"id": "row", "store": "pg", "sql": "INSERT"}],
        });
        let read = chunk(&mut body, &kinds).unwrap().unwrap();
        assert_eq!((read.parent.as_str(), read.number), ("import-7", 17));
        let undo = read.compensate.as_ref().unwrap();
        assert_eq!((undo[0].id.as_str(), undo[1].id.as_str()), ("0", "1"));
        assert_eq!(undo[0].pointer, "/compensate/operations/0");
        assert!(matches!(&undo[1].action, Action::Points { .. }));
        let Asked::OneShot(request) = request(body, &kinds).unwrap() else { panic!("one shot") };
        assert!(check_undo(&read, &request.operations).is_ok());
        assert!(chunk(&mut json!({"operations": []}), &kinds).unwrap().is_none());
    }

    #[test]
    fn what_is_wrong_with_a_chunk_is_pointed_at() {
        let undo = |operations: Value| json!({"parent": "n", "chunk": 0, "compensate": {"operations": operations}});
        for (mut body, at) in [
            (json!({"chunk": 0}), ""),
            (json!({"parent": "n"}), ""),
            (json!({"compensate": {}}), ""),
            (json!({"parent": "a b", "chunk": 0}), "/parent"),
            (json!({"parent": "n", "chunk": -1}), "/chunk"),
            (json!({"parent": "n", "chunk": "0"}), "/chunk"),
            (json!({"parent": "n", "chunk": CHUNKS_BELOW}), "/chunk"),
            (json!({"parent": "n", "chunk": 0, "compensate": "auto"}), "/compensate"),
            (json!({"parent": "n", "chunk": 0, "compensate": {}}), "/compensate"),
            (undo(json!([])), "/compensate/operations"),
            (undo(json!([{"store": "x", "sql": "DELETE"}])), "/compensate/operations/0/store"),
            (undo(json!([{"store": "pg", "sql": "COMMIT"}])), "/compensate/operations/0/sql"),
            (
                undo(json!([{"id": "a", "store": "pg", "sql": "DELETE"}, {"id": "a", "store": "pg", "sql": "DELETE"}])),
                "/compensate/operations/1/id",
            ),
        ] {
            let read = chunk(&mut body, &kinds);
            assert_eq!(pointer(read).as_deref(), Some(at), "{body}");
        }
        let lost = json!([{"store": "pg", "sql": "DELETE", "params": [{"$ref": "other#/rows"}]}]);
        let read = chunk(&mut undo(lost), &kinds).unwrap().unwrap();
        let at = pointer(check_undo(&read, &[])).unwrap();
        assert_eq!(at, "/compensate/operations/0/params/0/$ref");
    }

    #[test]
    fn a_verdict_says_how() {
        assert_eq!(commit(None).unwrap(), JobVerdict::Commit);
        assert_eq!(roll_back(Some(json!({}))).unwrap(), JobVerdict::RollBack);
        assert_eq!(roll_back(Some(json!({"mark_failed": true}))).unwrap(), JobVerdict::MarkFailed);
        assert_eq!(pointer(roll_back(Some(json!({"mark_failed": 1})))).as_deref(), Some("/mark_failed"));
        assert_eq!(pointer(commit(Some(json!({"mark_failed": true})))).as_deref(), Some("/mark_failed"));
    }
}
