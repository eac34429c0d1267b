//! Filters. The engine reads Qdrant's REST form, so a gRPC filter is spelled out as that JSON and parsed by the engine.

use qdrant_client::qdrant as api;
use qdrant_client::qdrant::condition::ConditionOneOf;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_edge::Filter;
use serde_json::{Map, Value, json};
use tonic::Status;

use super::ids;
use crate::errors;

/// # Errors
/// `InvalidArgument` for a malformed filter, `Unimplemented` for conditions newer than the engine.
pub(crate) fn from_api(filter: api::Filter) -> Result<Filter, Status> {
    serde_json::from_value(spell(filter)?).map_err(errors::wrong_input)
}

pub(crate) fn optional(filter: Option<api::Filter>) -> Result<Option<Filter>, Status> {
    filter.map(from_api).transpose()
}

fn spell(filter: api::Filter) -> Result<Value, Status> {
    let mut clauses = Map::new();
    for (name, conditions) in [("should", filter.should), ("must", filter.must), ("must_not", filter.must_not)] {
        if !conditions.is_empty() {
            clauses.insert(name.to_owned(), spell_all(conditions)?);
        }
    }
    if let Some(some) = filter.min_should {
        let clause = json!({"conditions": spell_all(some.conditions)?, "min_count": some.min_count});
        clauses.insert("min_should".to_owned(), clause);
    }
    Ok(Value::Object(clauses))
}

fn spell_all(conditions: Vec<api::Condition>) -> Result<Value, Status> {
    conditions.into_iter().map(condition).collect::<Result<_, _>>().map(Value::Array)
}

fn condition(condition: api::Condition) -> Result<Value, Status> {
    Ok(match condition.condition_one_of {
        Some(ConditionOneOf::Field(field)) => field_condition(field)?,
        Some(ConditionOneOf::IsEmpty(is)) => json!({"is_empty": {"key": is.key}}),
        Some(ConditionOneOf::IsNull(is)) => json!({"is_null": {"key": is.key}}),
        Some(ConditionOneOf::HasId(has)) => json!({"has_id": ids::all_from_api(has.has_id)?}),
        Some(ConditionOneOf::HasVector(has)) => json!({"has_vector": has.has_vector}),
        Some(ConditionOneOf::Filter(filter)) => spell(filter)?,
        Some(ConditionOneOf::Nested(nested)) => {
            let filter = nested.filter.ok_or_else(|| malformed("nested"))?;
            json!({"nested": {"key": nested.key, "filter": spell(filter)?}})
        }
        Some(ConditionOneOf::Slice(_)) => return Err(errors::unsupported("the slice condition")),
        None => return Err(malformed("empty")),
    })
}

fn field_condition(field: api::FieldCondition) -> Result<Value, Status> {
    let mut parts = Map::new();
    let mut add = |name: &str, part: Value| parts.insert(name.to_owned(), part);
    if let Some(matches) = field.r#match {
        add("match", match_value(matches.match_value)?);
    }
    if let Some(range) = field.range {
        add("range", bounds([("lt", range.lt), ("gt", range.gt), ("gte", range.gte), ("lte", range.lte)]));
    }
    if let Some(range) = field.datetime_range {
        let text = |time: Option<_>| time.as_ref().map(ToString::to_string);
        let range =
            [("lt", text(range.lt)), ("gt", text(range.gt)), ("gte", text(range.gte)), ("lte", text(range.lte))];
        add("range", bounds(range));
    }
    if let Some(count) = field.values_count {
        add("values_count", bounds([("lt", count.lt), ("gt", count.gt), ("gte", count.gte), ("lte", count.lte)]));
    }
    if let Some(area) = field.geo_bounding_box {
        add("geo_bounding_box", json!({"top_left": place(area.top_left)?, "bottom_right": place(area.bottom_right)?}));
    }
    if let Some(area) = field.geo_radius {
        add("geo_radius", json!({"center": place(area.center)?, "radius": area.radius}));
    }
    if let Some(area) = field.geo_polygon {
        let exterior = line(area.exterior.ok_or_else(|| malformed("geo polygon"))?);
        let interiors: Vec<_> = area.interiors.into_iter().map(line).collect();
        add("geo_polygon", json!({"exterior": exterior, "interiors": interiors}));
    }
    if let Some(empty) = field.is_empty {
        add("is_empty", empty.into());
    }
    if let Some(null) = field.is_null {
        add("is_null", null.into());
    }
    if parts.is_empty() {
        return Err(malformed("field"));
    }
    parts.insert("key".to_owned(), field.key.into());
    Ok(Value::Object(parts))
}

fn match_value(value: Option<MatchValue>) -> Result<Value, Status> {
    Ok(match value {
        Some(MatchValue::Keyword(keyword)) => json!({"value": keyword}),
        Some(MatchValue::Integer(number)) => json!({"value": number}),
        Some(MatchValue::Boolean(truth)) => json!({"value": truth}),
        Some(MatchValue::Text(text)) => json!({"text": text}),
        Some(MatchValue::TextAny(text)) => json!({"text_any": text}),
        Some(MatchValue::Phrase(text)) => json!({"phrase": text}),
        Some(MatchValue::Keywords(these)) => json!({"any": these.strings}),
        Some(MatchValue::Integers(these)) => json!({"any": these.integers}),
        Some(MatchValue::ExceptKeywords(these)) => json!({"except": these.strings}),
        Some(MatchValue::ExceptIntegers(these)) => json!({"except": these.integers}),
        Some(MatchValue::Prefix(_)) => return Err(errors::unsupported("match by prefix")),
        Some(MatchValue::Substring(_)) => return Err(errors::unsupported("match by substring")),
        None => return Err(malformed("match")),
    })
}

/// Only the bounds that are set: the engine takes an explicit null, but the shorter form reads better in a log.
fn bounds<T: Into<Value>, const N: usize>(bounds: [(&str, Option<T>); N]) -> Value {
    bounds.into_iter().filter_map(|(name, bound)| Some((name.to_owned(), bound?.into()))).collect()
}

fn place(point: Option<api::GeoPoint>) -> Result<Value, Status> {
    point.map(|point| json!({"lon": point.lon, "lat": point.lat})).ok_or_else(|| malformed("geo"))
}

fn line(line: api::GeoLineString) -> Value {
    let points: Vec<_> = line.points.into_iter().map(|point| json!({"lon": point.lon, "lat": point.lat})).collect();
    json!({"points": points})
}

fn malformed(what: &str) -> Status {
    Status::invalid_argument(format!("Malformed {what} condition"))
}
