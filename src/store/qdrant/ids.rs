//! Point ids: whole numbers and UUIDs. Locks stand on their text, so each id has exactly one spelling.

use ::qdrant_client::qdrant::PointId;
use ::qdrant_client::qdrant::point_id::PointIdOptions;
use serde_json::Value;
use uuid::Uuid;

use super::json::Bad;

/// Reads an id: a whole number, or a UUID as text in any of its usual forms.
pub(super) fn read(value: &Value) -> Result<PointId, Bad> {
    let options = match value {
        Value::Number(number) => number.as_u64().map(PointIdOptions::Num),
        Value::String(text) => {
            Uuid::parse_str(text).ok().map(|uuid| PointIdOptions::Uuid(uuid.hyphenated().to_string()))
        }
        _ => None,
    };
    match options {
        Some(options) => Ok(PointId { point_id_options: Some(options) }),
        None => Err(Bad::new("a point's id is a whole number (64 bits, unsigned) or a UUID as text")),
    }
}

/// The one spelling of a point's id: numbers in decimal, UUIDs in lower case with hyphens. `None`: not an id.
#[must_use]
pub fn point_key(value: &Value) -> Option<String> {
    read(value).ok().map(|id| spell(&id))
}

/// The one spelling of an id that was read here or that the server sent (it writes UUIDs in this form).
pub(super) fn spell(id: &PointId) -> String {
    match &id.point_id_options {
        Some(PointIdOptions::Num(number)) => number.to_string(),
        Some(PointIdOptions::Uuid(uuid)) => uuid.clone(),
        None => String::new(),
    }
}

/// As Qdrant's REST API shows it.
pub(super) fn show(id: Option<&PointId>) -> Value {
    match id.and_then(|id| id.point_id_options.as_ref()) {
        Some(PointIdOptions::Num(number)) => Value::from(*number),
        Some(PointIdOptions::Uuid(uuid)) => Value::from(uuid.as_str()),
        None => Value::Null,
    }
}
