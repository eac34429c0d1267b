//! Reading a request's body: bounded in bytes and in time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use serde_json::Value;

use super::{headers, reply, wire};
use crate::model::problem::{Code, Problem};

/// A body must be here within this.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// What is refused is still read for a while, as far as this: a client that is busy sending reads no answer, and
/// closing on it would lose the answer with the connection.
const DISCARD_BYTES: usize = 64 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// The whole body.
///
/// # Errors
/// `payload_too_large`; `invalid_request` where it breaks off or comes too slowly.
pub(super) async fn read(body: &mut Body, headers: &HeaderMap, most: usize) -> Result<Bytes, Problem> {
    if announced(headers).is_some_and(|length| length > most as u64) {
        return Err(too_large(most));
    }
    match tokio::time::timeout(BODY_TIMEOUT, collect(body, most)).await {
        Ok(read) => read,
        Err(_) => {
            let detail = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            Err(Problem::new(Code::InvalidRequest, detail))
        }
    }
}

async fn collect(body: &mut Body, most: usize) -> Result<Bytes, Problem> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Problem::new(Code::InvalidRequest, format!("the body broke off: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > most {
            return Err(too_large(most));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// The whole body as JSON.
///
/// # Errors
/// As [`read`]; `unsupported_media_type`; `invalid_request` where it is no JSON.
pub(super) async fn json(body: &mut Body, headers: &HeaderMap, most: usize) -> Result<Value, Problem> {
    headers::must_be_json(headers)?;
    wire::parse(&read(body, headers, most).await?)
}

/// The same where there may be none.
///
/// # Errors
/// As [`json`].
pub(super) async fn json_if_any(body: &mut Body, headers: &HeaderMap, most: usize) -> Result<Option<Value>, Problem> {
    let bytes = read(body, headers, most).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    headers::must_be_json(headers)?;
    wire::parse(&bytes).map(Some)
}

/// What came of a request with a body; where it was refused the body is read to its end first.
pub(super) async fn answered(
    result: Result<Response<Body>, Problem>,
    body: &mut Body,
    headers: &HeaderMap,
) -> Response<Body> {
    if result.is_err() {
        discard(body, headers).await;
    }
    reply::or_problem(result)
}

/// Reads on and throws away. A client that waits for `100 Continue` has sent nothing and needs none of it.
async fn discard(body: &mut Body, headers: &HeaderMap) {
    if headers.contains_key(EXPECT) {
        return;
    }
    let reading = async {
        let mut left = DISCARD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(less) => left = less,
                None => return,
            }
        }
    };
    // In vain or not: the answer is the same, and the connection ends with it where the body did not.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, reading).await;
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(most: usize) -> Problem {
    Problem::new(Code::PayloadTooLarge, format!("the body is larger than {most} bytes (server.max_body_bytes)"))
}
