//! Outcomes → HTTP. An answer is one of three: it happened, it did not, or it is not known yet and here is where to ask.

use axum::body::Body;
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::model::ids::TxnId;
use crate::model::problem::{Code, Problem};
use crate::model::state::TxnState;
use crate::model::view::{Answer, View};

/// RFC 9457.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";
const IN_DOUBT_RETRY_SECONDS: u32 = 1;

/// A body as JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(body) {
        Ok(bytes) => with_type(status, "application/json", bytes),
        // Only a float that is no number or a map with odd keys could do this; neither is in our shapes.
        Err(e) => problem(&Problem::new(Code::Internal, format!("the answer could not be written: {e}"))),
    }
}

pub(super) fn with_type(status: StatusCode, kind: &'static str, bytes: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(bytes.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// What a submission answers.
pub(super) fn answer(answer: &Answer) -> Response<Body> {
    match answer {
        Answer::View(outcome) => view(outcome),
        Answer::Replayed(outcome) => {
            let mut response = view(outcome);
            response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
            response
        }
        Answer::Problem(refusal) => problem(refusal),
    }
}

fn view(view: &View) -> Response<Body> {
    match view.state {
        // A job that is still being undone is not what was asked for yet.
        TxnState::InDoubt | TxnState::Compensating => {
            let mut response = json(StatusCode::ACCEPTED, view);
            locate(&mut response, &view.id);
            retry_after(&mut response, IN_DOUBT_RETRY_SECONDS);
            response
        }
        _ => json(StatusCode::OK, view),
    }
}

/// 202: it is on its way. `view` is the transaction as it stands, if it could be read.
pub(super) fn accepted(id: TxnId, view: Option<&View>) -> Response<Body> {
    let mut response = match view {
        Some(view) => json(StatusCode::ACCEPTED, view),
        None => json(StatusCode::ACCEPTED, &serde_json::json!({"id": id.to_string(), "state": "active"})),
    };
    locate(&mut response, &id.to_string());
    response.headers_mut().insert("preference-applied", HeaderValue::from_static("respond-async"));
    response
}

/// 201: it is there now, at `location`.
pub(super) fn made(location: &str, body: &impl Serialize) -> Response<Body> {
    let mut response = json(StatusCode::CREATED, body);
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// 204.
pub(super) fn nothing() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// A transaction that was looked up: 200 whatever its state.
pub(super) fn found(view: &View) -> Response<Body> {
    let mut response = json(StatusCode::OK, view);
    if view.state == TxnState::InDoubt {
        retry_after(&mut response, IN_DOUBT_RETRY_SECONDS);
    }
    response
}

fn locate(response: &mut Response<Body>, id: &str) {
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/transactions/{id}")) {
        response.headers_mut().insert(LOCATION, location);
    }
}

fn retry_after(response: &mut Response<Body>, seconds: u32) {
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
}

/// What came of a request.
pub(super) fn or_problem(result: Result<Response<Body>, Problem>) -> Response<Body> {
    result.unwrap_or_else(|refusal| problem(&refusal))
}

/// A refusal.
pub(super) fn problem(problem: &Problem) -> Response<Body> {
    with_members(problem, members(problem))
}

/// `not_found` of a transaction: silence never means "aborted".
pub(super) fn unknown(problem: &Problem, asked: Option<TxnId>) -> Response<Body> {
    let mut members = members(problem);
    if problem.code == Code::NotFound {
        members.insert("state".to_owned(), "unknown".into());
        if let Some(id) = asked {
            members.insert("transaction".to_owned(), id.to_string().into());
        }
    }
    with_members(problem, members)
}

fn with_members(problem: &Problem, members: Map<String, Value>) -> Response<Body> {
    let status = StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, &Value::Object(members));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    if let Some(seconds) = problem.retry_after {
        retry_after(&mut response, seconds);
    }
    if problem.code == Code::Unauthenticated {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn members(problem: &Problem) -> Map<String, Value> {
    let code = problem.code;
    let mut members = Map::new();
    let mut put = |name: &str, value: Value| drop(members.insert(name.to_owned(), value));
    put("type", format!("urn:outrigger:problem:{}", code.as_str()).into());
    put("title", code.title().into());
    put("status", code.status().into());
    put("detail", problem.detail.clone().into());
    put("code", code.as_str().into());
    put("retryable", code.retryable().into());
    let optional = [
        ("transaction", problem.transaction.map(|id| id.to_string())),
        ("state", problem.state.map(|state| state.as_str().to_owned())),
        ("operation", problem.operation.clone()),
        ("store", problem.store.as_ref().map(ToString::to_string)),
        ("store_code", problem.store_code.clone()),
        ("pointer", problem.pointer.clone()),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            put(name, value.into());
        }
    }
    if !problem.retried_for.is_empty() {
        put("attempts", (problem.retried_for.len() + 1).into());
        put("retried_for", problem.retried_for.clone().into());
    }
    if let Some(cause) = &problem.cause {
        put("cause", Value::clone(cause));
    }
    if !problem.cycle.is_empty() {
        put("cycle", serde_json::json!(problem.cycle));
    }
    members
}
