//! Payloads: JSON in the engine, `Value` messages on the wire.

use std::collections::HashMap;

use qdrant_client::qdrant as api;
use qdrant_client::qdrant::value::Kind;
use qdrant_edge::{
    JsonPath, Payload, PayloadSelector, PayloadSelectorExclude, PayloadSelectorInclude, WithPayloadInterface,
};
use serde_json::{Map, Number, Value};
use tonic::Status;

/// # Errors
/// `InvalidArgument` for NaN or an infinity, which JSON has no words for.
pub(crate) fn from_api(fields: HashMap<String, api::Value>) -> Result<Payload, Status> {
    Ok(Payload(object(fields)?))
}

fn object(fields: HashMap<String, api::Value>) -> Result<Map<String, Value>, Status> {
    fields.into_iter().map(|(key, value)| Ok((key, json(value)?))).collect()
}

fn json(value: api::Value) -> Result<Value, Status> {
    Ok(match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(truth)) => Value::Bool(truth),
        Some(Kind::IntegerValue(number)) => Value::from(number),
        Some(Kind::DoubleValue(number)) => Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| Status::invalid_argument("cannot convert to json number"))?,
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::StructValue(fields)) => Value::Object(object(fields.fields)?),
        Some(Kind::ListValue(list)) => Value::Array(list.values.into_iter().map(json).collect::<Result<_, _>>()?),
    })
}

pub(crate) fn to_api(payload: Option<Payload>) -> HashMap<String, api::Value> {
    payload.map(|fields| fields.0.into_iter().map(|(key, value)| (key, value.into())).collect()).unwrap_or_default()
}

/// A payload key such as `a.b[].c`.
///
/// # Errors
/// `InvalidArgument` when it does not parse.
pub(crate) fn path(key: &str) -> Result<JsonPath, Status> {
    key.parse().map_err(|()| Status::invalid_argument(format!("Invalid json path: '{key}'")))
}

pub(crate) fn paths(keys: &[String]) -> Result<Vec<JsonPath>, Status> {
    keys.iter().map(|key| path(key)).collect()
}

/// Which payload an answer carries. Where the request doesn't say, it depends on the call: a scroll brings it, nothing else does.
pub(crate) fn selector(
    wanted: Option<api::WithPayloadSelector>,
    unasked: bool,
) -> Result<WithPayloadInterface, Status> {
    use api::with_payload_selector::SelectorOptions;
    Ok(match wanted.and_then(|wanted| wanted.selector_options) {
        None => WithPayloadInterface::Bool(unasked),
        Some(SelectorOptions::Enable(all)) => WithPayloadInterface::Bool(all),
        Some(SelectorOptions::Include(these)) => {
            WithPayloadInterface::Selector(PayloadSelector::Include(PayloadSelectorInclude {
                include: paths(&these.fields)?,
            }))
        }
        Some(SelectorOptions::Exclude(these)) => {
            WithPayloadInterface::Selector(PayloadSelector::Exclude(PayloadSelectorExclude {
                exclude: paths(&these.fields)?,
            }))
        }
    })
}
