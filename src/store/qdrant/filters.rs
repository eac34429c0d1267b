//! Filters: Qdrant's REST form → its gRPC form.

use ::qdrant_client::qdrant::condition::ConditionOneOf;
use ::qdrant_client::qdrant::r#match::MatchValue;
use ::qdrant_client::qdrant::{
    Condition, DatetimeRange, FieldCondition, Filter, GeoBoundingBox, GeoLineString, GeoPoint, GeoPolygon, GeoRadius,
    HasIdCondition, HasVectorCondition, IsEmptyCondition, IsNullCondition, Match, MinShould, NestedCondition, Range,
    RepeatedIntegers, RepeatedStrings, Timestamp, ValuesCount,
};
use serde_json::Value;

use super::json::{Bad, Inside, Members, count, flag, float, list, number, one_or_many, text};
use super::{ids, paths};

/// How deep filters may nest: as for payloads, a server could not read much deeper ones.
const DEEPEST: usize = 12;

/// Reads a filter.
pub(super) fn filter(value: &Value) -> Result<Filter, Bad> {
    nested_filter(value, DEEPEST)
}

fn nested_filter(value: &Value, levels: usize) -> Result<Filter, Bad> {
    let below = levels.checked_sub(1).ok_or_else(|| Bad::new(format!("is nested deeper than {DEEPEST} filters")))?;
    let mut members = Members::of(value)?;
    let conditions = |value| one_or_many(value, |value| condition(value, below));
    let filter = Filter {
        should: members.read("should", conditions)?.unwrap_or_default(),
        must: members.read("must", conditions)?.unwrap_or_default(),
        must_not: members.read("must_not", conditions)?.unwrap_or_default(),
        min_should: members.read("min_should", |value| {
            let mut members = Members::of(value)?;
            let conditions = members.need("conditions", conditions)?;
            let min_count = members.need("min_count", count)?;
            members.done()?;
            Ok(MinShould { conditions, min_count })
        })?,
    };
    members.done()?;
    Ok(filter)
}

fn condition(value: &Value, levels: usize) -> Result<Condition, Bad> {
    let mut members = Members::of(value)?;
    let key_of = |value| {
        let mut members = Members::of(value)?;
        let key = members.need("key", paths::read)?;
        members.done()?;
        Ok(key)
    };
    let has = |name: &str| value.get(name).is_some_and(|value| !value.is_null());
    let one = if has("has_id") {
        let has_id = members.need("has_id", |value| list(value, ids::read))?;
        ConditionOneOf::HasId(HasIdCondition { has_id })
    } else if has("has_vector") {
        ConditionOneOf::HasVector(HasVectorCondition { has_vector: members.need("has_vector", text)? })
    } else if has("nested") {
        ConditionOneOf::Nested(members.need("nested", |value| {
            let mut members = Members::of(value)?;
            let key = members.need("key", paths::read)?;
            let filter = members.need("filter", |value| nested_filter(value, levels))?;
            members.done()?;
            Ok(NestedCondition { key, filter: Some(filter) })
        })?)
    } else if has("is_empty") && !has("key") {
        ConditionOneOf::IsEmpty(IsEmptyCondition { key: members.need("is_empty", key_of)? })
    } else if has("is_null") && !has("key") {
        ConditionOneOf::IsNull(IsNullCondition { key: members.need("is_null", key_of)? })
    } else if has("key") {
        return field(members);
    } else if ["must", "should", "must_not", "min_should"].iter().any(|name| has(name)) {
        let filter = nested_filter(value, levels)?;
        return Ok(Condition { condition_one_of: Some(ConditionOneOf::Filter(filter)) });
    } else {
        members.done()?;
        return Err(Bad::new("is no condition: it has none of `key`, `has_id`, `has_vector`, `nested`, `must`, …"));
    };
    members.done()?;
    Ok(Condition { condition_one_of: Some(one) })
}

fn field(mut members: Members<'_>) -> Result<Condition, Bad> {
    let mut field = FieldCondition {
        key: members.need("key", paths::read)?,
        r#match: members.read("match", matching)?,
        geo_bounding_box: members.read("geo_bounding_box", bounding_box)?,
        geo_radius: members.read("geo_radius", radius)?,
        geo_polygon: members.read("geo_polygon", polygon)?,
        values_count: members.read("values_count", values_count)?,
        is_empty: members.read("is_empty", flag)?,
        is_null: members.read("is_null", flag)?,
        ..FieldCondition::default()
    };
    if let Some(range) = members.take("range") {
        match range_of(range).inside("range")? {
            Bounds::Numbers(range) => field.range = Some(range),
            Bounds::Times(range) => field.datetime_range = Some(range),
        }
    }
    members.done()?;
    if (FieldCondition { key: String::new(), ..field.clone() }) == FieldCondition::default() {
        return Err(Bad::new("names a key and asks nothing of it"));
    }
    Ok(Condition { condition_one_of: Some(ConditionOneOf::Field(field)) })
}

fn matching(value: &Value) -> Result<Match, Bad> {
    let mut members = Members::of(value)?;
    let mut found = Vec::new();
    found.extend(members.read("value", |value| match value {
        Value::String(text) => Ok(MatchValue::Keyword(text.clone())),
        Value::Bool(flag) => Ok(MatchValue::Boolean(*flag)),
        other => Ok(MatchValue::Integer(integer(other)?)),
    })?);
    found.extend(members.read("text", text)?.map(MatchValue::Text));
    found.extend(members.read("text_any", text)?.map(MatchValue::TextAny));
    found.extend(members.read("phrase", text)?.map(MatchValue::Phrase));
    found.extend(members.read("any", |value| {
        Ok(match any_of(value)? {
            AnyOf::Words(words) => MatchValue::Keywords(words),
            AnyOf::Numbers(numbers) => MatchValue::Integers(numbers),
        })
    })?);
    found.extend(members.read("except", |value| {
        Ok(match any_of(value)? {
            AnyOf::Words(words) => MatchValue::ExceptKeywords(words),
            AnyOf::Numbers(numbers) => MatchValue::ExceptIntegers(numbers),
        })
    })?);
    members.done()?;
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(Match { match_value: Some(one) }),
        _ => Err(Bad::new("takes exactly one of `value`, `text`, `text_any`, `phrase`, `any`, `except`")),
    }
}

enum AnyOf {
    Words(RepeatedStrings),
    Numbers(RepeatedIntegers),
}

fn any_of(value: &Value) -> Result<AnyOf, Bad> {
    let first_is_number = value.as_array().and_then(|items| items.first()).is_some_and(Value::is_number);
    Ok(if first_is_number {
        AnyOf::Numbers(RepeatedIntegers { integers: list(value, integer)? })
    } else {
        AnyOf::Words(RepeatedStrings { strings: list(value, text)? })
    })
}

fn integer(value: &Value) -> Result<i64, Bad> {
    value.as_i64().ok_or_else(|| Bad::new("must be text, true, false or a whole number of 64 bits"))
}

enum Bounds {
    Numbers(Range),
    Times(DatetimeRange),
}

fn range_of(value: &Value) -> Result<Bounds, Bad> {
    let mut members = Members::of(value)?;
    let bounds = ["lt", "gt", "gte", "lte"].map(|name| (name, members.take(name)));
    members.done()?;
    let with_text = bounds.iter().any(|(_, bound)| bound.is_some_and(Value::is_string));
    if with_text {
        let [lt, gt, gte, lte] = read_bounds(&bounds, time)?;
        return Ok(Bounds::Times(DatetimeRange { lt, gt, gte, lte }));
    }
    let [lt, gt, gte, lte] = read_bounds(&bounds, number)?;
    Ok(Bounds::Numbers(Range { lt, gt, gte, lte }))
}

fn read_bounds<T: Copy>(
    bounds: &[(&'static str, Option<&Value>); 4],
    read: impl Fn(&Value) -> Result<T, Bad>,
) -> Result<[Option<T>; 4], Bad> {
    let mut found = [None; 4];
    for (place, (name, bound)) in found.iter_mut().zip(bounds) {
        *place = bound.map(|value| read(value).inside(name)).transpose()?;
    }
    Ok(found)
}

/// RFC 3339, or a date and time without a zone (UTC), or a date: as Qdrant reads them.
pub(super) fn time(value: &Value) -> Result<Timestamp, Bad> {
    let bad = || Bad::new("must be a time as RFC 3339 has it");
    let text = value.as_str().ok_or_else(bad)?;
    let utc = jiff::tz::TimeZone::UTC;
    let without_zone = || text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(utc).ok().map(|t| t.timestamp());
    let time = text.parse::<jiff::Timestamp>().ok().or_else(without_zone).ok_or_else(bad)?;
    // Protobuf counts nanoseconds forward, also before 1970.
    let nanos = time.as_nanosecond().rem_euclid(1_000_000_000);
    let seconds = time.as_nanosecond().div_euclid(1_000_000_000);
    match (i64::try_from(seconds), i32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) => Ok(Timestamp { seconds, nanos }),
        _ => Err(bad()),
    }
}

fn values_count(value: &Value) -> Result<ValuesCount, Bad> {
    let mut members = Members::of(value)?;
    let found = ValuesCount {
        lt: members.read("lt", count)?,
        gt: members.read("gt", count)?,
        gte: members.read("gte", count)?,
        lte: members.read("lte", count)?,
    };
    members.done()?;
    Ok(found)
}

fn point(value: &Value) -> Result<GeoPoint, Bad> {
    let mut members = Members::of(value)?;
    let point = GeoPoint { lon: members.need("lon", number)?, lat: members.need("lat", number)? };
    members.done()?;
    Ok(point)
}

fn bounding_box(value: &Value) -> Result<GeoBoundingBox, Bad> {
    let mut members = Members::of(value)?;
    let (top_left, bottom_right) = (members.need("top_left", point)?, members.need("bottom_right", point)?);
    members.done()?;
    Ok(GeoBoundingBox { top_left: Some(top_left), bottom_right: Some(bottom_right) })
}

fn radius(value: &Value) -> Result<GeoRadius, Bad> {
    let mut members = Members::of(value)?;
    let (center, radius) = (members.need("center", point)?, members.need("radius", float)?);
    members.done()?;
    Ok(GeoRadius { center: Some(center), radius })
}

fn line(value: &Value) -> Result<GeoLineString, Bad> {
    let mut members = Members::of(value)?;
    let points = members.need("points", |value| list(value, point))?;
    members.done()?;
    Ok(GeoLineString { points })
}

fn polygon(value: &Value) -> Result<GeoPolygon, Bad> {
    let mut members = Members::of(value)?;
    let exterior = members.need("exterior", line)?;
    let interiors = members.read("interiors", |value| list(value, line))?.unwrap_or_default();
    members.done()?;
    Ok(GeoPolygon { exterior: Some(exterior), interiors })
}
