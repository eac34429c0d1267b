//! Batch jobs at the door: opening one, sending its chunks, ending it.

use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::Value;

use super::access::Visitor;
use super::route::Door;
use super::{reply, wire};
use crate::model::job::{ChunkWish, JobWish};
use crate::model::problem::Problem;
use crate::model::state::Outcome;
use crate::model::trace::TraceId;
use crate::model::view::Answer;
use crate::txn::{Actor, Find};

/// `POST /v1/transactions` with `job`: 201 where it is new, 200 where the same request has opened it before.
pub(super) async fn open(
    door: &Door,
    visitor: &Visitor,
    key: Option<&str>,
    body: Value,
    trace: Option<&TraceId>,
) -> Result<Response<Body>, Problem> {
    if key.is_some() {
        let detail =
            "a job is opened once by its name: the same request answers the same job, so it takes no Idempotency-Key";
        return Err(Problem::invalid("", detail));
    }
    let digest = wire::digest(&body, &visitor.name);
    let wire::Opening { name, total } = wire::job(body)?;
    let trace = trace.copied().unwrap_or_else(TraceId::fresh);
    let wish = JobWish { name, total, principal: visitor.name.clone(), digest, trace };
    let (view, is_new) = door.api.open_job(wish).await?;
    if is_new {
        return Ok(reply::made(&format!("/v1/transactions/{}", view.id), &view));
    }
    Ok(reply::json(StatusCode::OK, &view))
}

/// `POST /v1/transactions` with `parent` and `chunk`; `None`: it is no chunk, and `body` is as it was.
pub(super) async fn chunk(
    door: &Door,
    visitor: &Visitor,
    key: Option<&str>,
    body: &mut Value,
    trace: Option<&TraceId>,
) -> Result<Option<Response<Body>>, Problem> {
    let store_kind = |store: &str| door.api.store_kind(store);
    // Before its members are taken out: they are part of what it stands for.
    let digest = wire::is_chunk(body).then(|| wire::digest(body, &visitor.name));
    let Some((chunk, digest)) = wire::chunk(body, &store_kind)?.zip(digest) else { return Ok(None) };
    if key.is_some() {
        let detail = "a chunk happens once by its number: it has a key of its own, and takes no Idempotency-Key";
        return Err(Problem::invalid("/chunk", detail));
    }
    let wire::Asked::OneShot(request) = wire::request(body.take(), &store_kind)?.of(trace) else {
        return Err(Problem::invalid("/interactive", "a chunk is one request: it is done, or it is not"));
    };
    wire::check_undo(&chunk, &request.operations)?;
    let wire::Chunk { parent, number, compensate } = chunk;
    let wish = ChunkWish { parent, number, principal: visitor.name.clone(), digest, compensate };
    Ok(Some(reply::answer(&door.api.submit_chunk(request, wish).await)))
}

/// `POST …/commit` and `…/rollback` of a job. 202 while it is being undone.
pub(super) async fn end(
    door: &Door,
    what: &Find,
    outcome: Outcome,
    body: Option<Value>,
    actor: &Actor,
) -> Result<Response<Body>, Problem> {
    let verdict = match outcome {
        Outcome::Committed => wire::commit_job(body)?,
        Outcome::Aborted => wire::roll_back_job(body)?,
    };
    let view = door.api.end_job(what, verdict, actor).await?;
    Ok(reply::answer(&Answer::View(Box::new(view))))
}
