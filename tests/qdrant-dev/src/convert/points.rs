//! Points that the engine found, as answers.

use qdrant_client::qdrant as api;
use qdrant_edge::{OrderValue, Record, ScoredPoint};

use super::{ids, payload, vectors};

pub(crate) fn retrieved(record: Record) -> api::RetrievedPoint {
    api::RetrievedPoint {
        id: Some(ids::to_api(record.id)),
        payload: payload::to_api(record.payload),
        vectors: record.vector.map(vectors::to_api),
        shard_key: None,
        order_value: record.order_value.map(order_value),
    }
}

pub(crate) fn scored(point: ScoredPoint) -> api::ScoredPoint {
    api::ScoredPoint {
        id: Some(ids::to_api(point.id)),
        payload: payload::to_api(point.payload),
        score: point.score,
        version: point.version,
        vectors: point.vector.map(vectors::to_api),
        shard_key: None,
        order_value: point.order_value.map(order_value),
    }
}

fn order_value(value: OrderValue) -> api::OrderValue {
    use api::order_value::Variant;
    let variant = match value {
        OrderValue::Int(number) => Variant::Int(number),
        OrderValue::Float(number) => Variant::Float(number),
    };
    api::OrderValue { variant: Some(variant) }
}
