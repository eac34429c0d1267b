//! What each path of the door does.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode, Uri};

use super::access::Visitor;
use super::route::Door;
use super::{body, headers, interactive, jobs, openapi, reply, wire};
use crate::model::commit::KeyNote;
use crate::model::ids::TxnId;
use crate::model::problem::{Code, Problem};
use crate::model::request::Opening;
use crate::model::state::TxnState;
use crate::model::view::Answer;
use crate::txn::{Accepted, Find, ListFilter, Page};

type Reply = Response<Body>;
const DEFAULT_LIMIT: usize = 100;
const MOST_LISTED: usize = 1000;

/// Run a transaction: all operations, one answer.
#[utoipa::path(
    post, path = "/v1/transactions", operation_id = "submitTransaction", tag = "transactions",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters. The same key with the same request answers the same outcome and runs nothing twice; an aborted transaction does not consume its key."),
        ("Prefer" = Option<String>, Header, description = "`respond-async`: answer 202 at once, with `Location`; 200 where the key had been used. Chunks of batch jobs are answered when they have ended all the same."),
        ("traceparent" = Option<String>, Header, description = "W3C Trace Context. Its trace id becomes the transaction's `trace_id`; every answer has a `traceparent` of the same trace with a span of ours."),
    ),
    request_body(content = openapi::TransactionRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "It happened: `committed`, `committing` or `needs_intervention` (decided, irrevocable; `pending` names the stores that lack it).", body = crate::model::view::View, headers(("Idempotency-Replayed" = String, description = "`true` where the key had been used: this is the recorded outcome."))),
        (status = 201, description = "`interactive`: it is open, at `Location`; `results` of the operations that it brought. `job`: the batch job is open.", body = crate::model::view::View, headers(("Location" = String))),
        (status = 202, description = "`in_doubt` (not known yet: ask at `Location`), or accepted for `Prefer: respond-async`.", body = crate::model::view::View, headers(("Location" = String), ("Retry-After" = u32))),
    ),
)]
pub(super) async fn submit(State(door): State<Arc<Door>>, request: Request) -> Reply {
    let (parts, mut body) = request.into_parts();
    let submitted = submit_inner(&door, &parts, &mut body).await;
    body::answered(submitted, &mut body, &parts.headers).await
}

async fn submit_inner(door: &Door, parts: &Parts, body: &mut Body) -> Result<Reply, Problem> {
    let Parts { uri, headers: head, extensions, .. } = parts;
    let visitor = door.access.visitor(head)?;
    headers::query(uri, &[])?;
    headers::must_be_json(head)?;
    let key = headers::idempotency_key(head)?;
    let bytes = body::read(body, head, door.max_body_bytes).await?;
    let mut json = wire::parse(&bytes)?;
    drop(bytes);
    if wire::opens_job(&json) {
        return jobs::open(door, &visitor, key, json, extensions.get()).await;
    }
    if let Some(reply) = jobs::chunk(door, &visitor, key, &mut json, extensions.get()).await? {
        return Ok(reply);
    }
    let note = key.map(|key| KeyNote { key: key_of(&visitor, key), digest: wire::digest(&json, &visitor.name) });
    let asked = wire::request(json, &|store| door.api.store_kind(store))?.of(extensions.get());
    let request = match asked {
        wire::Asked::OneShot(request) => request,
        wire::Asked::Interactive(request, lease) => {
            let opening = Opening { request, lease, principal: visitor.name };
            return interactive::open(door, opening, note).await;
        }
    };
    if headers::prefers_async(head) {
        return Ok(match door.api.submit_async(request, note).await? {
            Accepted::Running(id) => reply::accepted(id, door.api.find(&Find::Id(id)).await.ok().as_ref()),
            Accepted::Replayed(view) => reply::answer(&Answer::Replayed(view)),
        });
    }
    Ok(reply::answer(&door.api.submit(request, note).await))
}

/// `principal/key`: keys of different principals never meet.
fn key_of(visitor: &Visitor, key: &str) -> String {
    format!("{}/{key}", visitor.name)
}

/// Transactions that this sidecar remembers, newest first.
#[utoipa::path(
    get, path = "/v1/transactions", operation_id = "listTransactions", tag = "transactions",
    params(
        ("state" = Option<String>, Query, description = "Only this state."),
        ("name" = Option<String>, Query, description = "Only this name."),
        ("store" = Option<String>, Query, description = "Only those in which this store takes part."),
        ("older_than_ms" = Option<u64>, Query, description = "Only those begun longer ago than this."),
        ("limit" = Option<u64>, Query, description = "At most so many: 1 to 1000, 100 by default.", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
    ),
    responses((status = 200, description = "One page.", body = Page)),
)]
pub(super) async fn list(State(door): State<Arc<Door>>, head: HeaderMap, uri: Uri) -> Reply {
    reply::or_problem(list_inner(&door, &head, &uri).await)
}

async fn list_inner(door: &Door, head: &HeaderMap, uri: &Uri) -> Result<Reply, Problem> {
    door.access.visitor(head)?;
    let filter = filter(door, uri)?;
    Ok(reply::json(StatusCode::OK, &door.api.list(&filter).await?))
}

fn filter(door: &Door, uri: &Uri) -> Result<ListFilter, Problem> {
    let known = ["state", "name", "store", "older_than_ms", "limit", "cursor"];
    let fault = |detail: String| Problem::new(Code::InvalidRequest, detail);
    let mut filter = ListFilter { limit: DEFAULT_LIMIT, ..ListFilter::default() };
    for (name, value) in headers::query(uri, &known)? {
        match name.as_str() {
            "state" => {
                let state = TxnState::ALL.into_iter().find(|state| state.as_str() == value);
                let words = || TxnState::ALL.map(TxnState::as_str).join(", ");
                filter.state =
                    Some(state.ok_or_else(|| fault(format!("`state` is `{value}`, which is none of {}", words())))?);
            }
            "name" => filter.name = Some(value),
            "store" => {
                let is_known = door.api.store_kind(&value).is_some();
                filter.store =
                    Some(value).filter(|_| is_known).map(Some).ok_or_else(|| fault("`store` names no store".into()))?;
            }
            "older_than_ms" => {
                let ms = value.parse().map_err(|_| fault("`older_than_ms` must be a whole number".into()))?;
                filter.older_than_ms = Some(ms);
            }
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=MOST_LISTED).contains(limit));
                filter.limit = limit.ok_or_else(|| fault(format!("`limit` must be from 1 to {MOST_LISTED}")))?;
            }
            _ => {
                let cursor = value.parse().map_err(|_| fault("`cursor` is not one that a page gave".into()))?;
                filter.cursor = Some(cursor);
            }
        }
    }
    Ok(filter)
}

/// One transaction: state, plan, participants, timeline, results while kept.
#[utoipa::path(
    get, path = "/v1/transactions/{id}", operation_id = "getTransaction", tag = "transactions",
    params(("id" = String, Path, description = "A UUID, or `name:THE-NAME`: the open one of that name, else the latest that ended.")),
    responses((status = 200, description = "The transaction.", body = crate::model::view::View)),
)]
pub(super) async fn show(
    State(door): State<Arc<Door>>,
    id: Result<Path<String>, PathRejection>,
    head: HeaderMap,
    uri: Uri,
) -> Reply {
    reply::or_problem(show_inner(&door, id, &head, &uri).await)
}

async fn show_inner(
    door: &Door,
    id: Result<Path<String>, PathRejection>,
    head: &HeaderMap,
    uri: &Uri,
) -> Result<Reply, Problem> {
    door.access.visitor(head)?;
    headers::query(uri, &[])?;
    let what = which(id)?;
    let asked = if let Find::Id(id) = &what { Some(*id) } else { None };
    Ok(look_up(door, &what, asked).await)
}

/// Which transaction a path means.
pub(super) fn which(id: Result<Path<String>, PathRejection>) -> Result<Find, Problem> {
    let id = id.map(|Path(id)| id).unwrap_or_default();
    let fault = || Problem::new(Code::InvalidRequest, "a transaction is asked for by its UUID or as name:THE-NAME");
    match id.strip_prefix("name:") {
        Some(name) if wire::is_name(name) => Ok(Find::Name(name.to_owned())),
        Some(_) => Err(fault()),
        None => Ok(Find::Id(id.parse().map_err(|_| fault())?)),
    }
}

async fn look_up(door: &Door, what: &Find, asked: Option<TxnId>) -> Reply {
    match door.api.find(what).await {
        Ok(view) => reply::found(&view),
        Err(problem) => reply::unknown(&problem, asked),
    }
}

/// The recorded outcome of an idempotency key. Runs nothing.
#[utoipa::path(
    get, path = "/v1/idempotency/{key}", operation_id = "getIdempotencyKey", tag = "transactions",
    params(("key" = String, Path, description = "The key as it was sent, percent-encoded where needed.")),
    responses((status = 200, description = "The transaction that the key stands for.", body = crate::model::view::View)),
)]
pub(super) async fn key(
    State(door): State<Arc<Door>>,
    key: Result<Path<String>, PathRejection>,
    head: HeaderMap,
    uri: Uri,
) -> Reply {
    let found = async {
        let visitor = door.access.visitor(&head)?;
        headers::query(&uri, &[])?;
        let key = key.map(|Path(key)| key).unwrap_or_default();
        if !headers::is_key(&key) {
            return Err(headers::bad_key());
        }
        Ok(look_up(&door, &Find::Key(key_of(&visitor, &key)), None).await)
    };
    reply::or_problem(found.await)
}

/// Version, uptime, stores with their powers and what is lost, journal, open transactions, the last recovery.
#[utoipa::path(
    get, path = "/v1/status", operation_id = "getStatus", tag = "status",
    responses((status = 200, description = "The status.", body = openapi::Status)),
)]
pub(super) async fn status(State(door): State<Arc<Door>>, head: HeaderMap, uri: Uri) -> Reply {
    let status = door.access.visitor(&head).and_then(|_| headers::query(&uri, &[])).map(|_| {
        let mut status = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": door.started.elapsed().as_secs(),
            "ready": door.api.is_ready(),
        });
        if let (Some(members), serde_json::Value::Object(more)) = (status.as_object_mut(), door.api.status()) {
            members.extend(more);
        }
        reply::json(StatusCode::OK, &status)
    });
    reply::or_problem(status)
}

/// This contract.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "getOpenApi", tag = "status", security(()),
    responses((status = 200, description = "OpenAPI 3.1.", body = serde_json::Value)),
)]
pub(super) async fn open_api(uri: Uri) -> Reply {
    reply::or_problem(headers::query(&uri, &[]).map(|_| reply::json(StatusCode::OK, &openapi::document())))
}
