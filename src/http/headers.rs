//! What a request says outside its body.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Uri};

use crate::model::problem::{Code, Problem};
use crate::model::trace::TraceParent;

/// The key of `Idempotency-Key`: 1 to 255 visible ASCII characters.
///
/// # Errors
/// `invalid_request`.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::new(Code::InvalidRequest, "there is more than one Idempotency-Key header"));
    }
    value.to_str().ok().filter(|key| is_key(key)).map(Some).ok_or_else(bad_key)
}

/// Whether `text` can be an idempotency key.
pub(super) fn is_key(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

pub(super) fn bad_key() -> Problem {
    Problem::new(Code::InvalidRequest, "an idempotency key is 1 to 255 visible ASCII characters")
}

/// Whether `Prefer: respond-async` is among the preferences (RFC 7240).
pub(super) fn prefers_async(headers: &HeaderMap) -> bool {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|preference| {
        let token = preference.split([';', '=']).next().unwrap_or_default();
        token.trim().eq_ignore_ascii_case("respond-async")
    })
}

/// # Errors
/// `unsupported_media_type` where the body is not declared as JSON.
pub(super) fn must_be_json(headers: &HeaderMap) -> Result<(), Problem> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (essence, parameters) = kind.split_once(';').unwrap_or((kind, ""));
    let charset =
        parameters.split(';').filter_map(|p| p.split_once('=')).find(|(k, _)| k.trim().eq_ignore_ascii_case("charset"));
    let is_utf8 = charset.is_none_or(|(_, v)| v.trim().trim_matches('"').eq_ignore_ascii_case("utf-8"));
    if essence.trim().eq_ignore_ascii_case("application/json") && is_utf8 {
        Ok(())
    } else {
        Err(Problem::new(Code::UnsupportedMediaType, "send the body as Content-Type: application/json (UTF-8)"))
    }
}

/// The query's parameters, each known and each once.
///
/// # Errors
/// `invalid_request`, naming the parameter.
pub(super) fn query(uri: &Uri, known: &[&str]) -> Result<Vec<(String, String)>, Problem> {
    let fault = |detail: String| Problem::new(Code::InvalidRequest, detail);
    let parsed = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
    let axum::extract::Query(pairs) = parsed.map_err(|e| fault(format!("the query cannot be read: {e}")))?;
    for (index, (name, _)) in pairs.iter().enumerate() {
        if !known.contains(&name.as_str()) {
            let knows = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(fault(format!("`{name}` is not a query parameter here; known: {knows}")));
        }
        if pairs[..index].iter().any(|(earlier, _)| earlier == name) {
            return Err(fault(format!("the query parameter `{name}` stands there twice")));
        }
    }
    Ok(pairs)
}

/// W3C Trace Context.
pub(super) const TRACE_PARENT: &str = "traceparent";

/// The trace that a request belongs to: its `traceparent`'s, else a fresh one. One that is malformed, or that stands
/// there twice, counts as none, as the specification says.
pub(super) fn trace_parent(headers: &HeaderMap) -> TraceParent {
    let mut values = headers.get_all(TRACE_PARENT).iter();
    let only = values.next().filter(|_| values.next().is_none());
    let sent = only.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    sent.unwrap_or_else(TraceParent::fresh)
}

/// The same as text, of a request that came through the door: that has put the trace there, whatever was sent.
pub(super) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(TRACE_PARENT)?.to_str().ok()?.split('-').nth(1)
}
