//! The universal query: Qdrant's REST form → its gRPC form.

use ::qdrant_client::qdrant::query::Variant;
use ::qdrant_client::qdrant::vector_input::Variant as Input;
use ::qdrant_client::qdrant::{
    ContextInput, ContextInputPair, Direction, DiscoverInput, Fusion, LookupLocation, Mmr, NearestInputWithMmr,
    OrderBy, PrefetchQuery, QuantizationSearchParams, Query, QueryPoints, RecommendInput, RecommendStrategy, Rrf,
    Sample, SearchParams, StartFrom, VectorInput, start_from,
};
use serde_json::Value;

use super::json::{Bad, Members, count, flag, float, number, one_or_many, small_count, text};
use super::reads::limit;
use super::values::{self, AnyVector};
use super::{filters, ids, paths};

/// How deep prefetches may nest.
const DEEPEST: usize = 8;

/// Reads everything of a query but what it shows of each point.
pub(super) fn query(members: &mut Members<'_>, collection_name: String) -> Result<QueryPoints, Bad> {
    Ok(QueryPoints {
        collection_name,
        prefetch: prefetches(members, DEEPEST)?,
        query: members.read("query", variant)?,
        using: members.read("using", text)?,
        filter: members.read("filter", filters::filter)?,
        params: members.read("params", params)?,
        score_threshold: members.read("score_threshold", float)?,
        limit: Some(limit(members, "limit")?.unwrap_or(10)),
        offset: limit(members, "offset")?,
        lookup_from: members.read("lookup_from", lookup)?,
        ..QueryPoints::default()
    })
}

fn prefetches(members: &mut Members<'_>, levels: usize) -> Result<Vec<PrefetchQuery>, Bad> {
    let found = members.read("prefetch", |value| {
        let below = levels.checked_sub(1).ok_or_else(|| Bad::new(format!("is nested deeper than {DEEPEST}")))?;
        one_or_many(value, |value| prefetch(value, below))
    });
    Ok(found?.unwrap_or_default())
}

fn prefetch(value: &Value, levels: usize) -> Result<PrefetchQuery, Bad> {
    let mut members = Members::of(value)?;
    let prefetch = PrefetchQuery {
        prefetch: prefetches(&mut members, levels)?,
        query: members.read("query", variant)?,
        using: members.read("using", text)?,
        filter: members.read("filter", filters::filter)?,
        params: members.read("params", params)?,
        score_threshold: members.read("score_threshold", float)?,
        limit: limit(&mut members, "limit")?,
        lookup_from: members.read("lookup_from", lookup)?,
    };
    members.done()?;
    Ok(prefetch)
}

fn variant(value: &Value) -> Result<Query, Bad> {
    let is_query = |map: &serde_json::Map<String, Value>| !map.contains_key("indices");
    let variant = match value {
        Value::Object(map) if is_query(map) => named_variant(value)?,
        plain => Variant::Nearest(input(plain)?),
    };
    Ok(Query { variant: Some(variant) })
}

fn named_variant(value: &Value) -> Result<Variant, Bad> {
    let mut members = Members::of(value)?;
    let mut found = Vec::new();
    if let Some(nearest) = members.read("nearest", input)? {
        found.push(match members.read("mmr", mmr)? {
            None => Variant::Nearest(nearest),
            Some(mmr) => Variant::NearestWithMmr(NearestInputWithMmr { nearest: Some(nearest), mmr: Some(mmr) }),
        });
    }
    found.extend(members.read("recommend", recommend)?.map(Variant::Recommend));
    found.extend(members.read("discover", discover)?.map(Variant::Discover));
    found.extend(members.read("context", context)?.map(Variant::Context));
    found.extend(members.read("order_by", order_by)?.map(Variant::OrderBy));
    found.extend(members.read("fusion", fusion)?.map(|fusion| Variant::Fusion(fusion.into())));
    found.extend(members.read("rrf", rrf)?.map(Variant::Rrf));
    found.extend(members.read("sample", sample)?.map(|sample| Variant::Sample(sample.into())));
    if ["formula", "relevance_feedback"].iter().any(|name| value.get(name).is_some()) {
        return Err(Bad::unsupported("formulas and relevance feedback are not in this version"));
    }
    members.done()?;
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(Bad::new(
            "takes exactly one of `nearest`, `recommend`, `discover`, `context`, `order_by`, `fusion`, `rrf`, `sample`",
        )),
    }
}

/// A vector, or the id of a point whose vector is meant.
fn input(value: &Value) -> Result<VectorInput, Bad> {
    let variant = match value {
        Value::Number(_) | Value::String(_) => Input::Id(ids::read(value)?),
        _ => match values::any_vector(value)? {
            AnyVector::Dense(dense) => Input::Dense(dense),
            AnyVector::Sparse(sparse) => Input::Sparse(sparse),
            AnyVector::MultiDense(multi) => Input::MultiDense(multi),
            _ => return Err(Bad::unsupported("inference is not in this version")),
        },
    };
    Ok(VectorInput { variant: Some(variant) })
}

fn mmr(value: &Value) -> Result<Mmr, Bad> {
    let mut members = Members::of(value)?;
    let mmr = Mmr {
        diversity: members.read("diversity", float)?,
        candidates_limit: members.read("candidates_limit", small_count)?,
    };
    members.done()?;
    Ok(mmr)
}

fn recommend(value: &Value) -> Result<RecommendInput, Bad> {
    let mut members = Members::of(value)?;
    let inputs = |value| one_or_many(value, input);
    let recommend = RecommendInput {
        positive: members.read("positive", inputs)?.unwrap_or_default(),
        negative: members.read("negative", inputs)?.unwrap_or_default(),
        strategy: members.read("strategy", |value| match value.as_str() {
            Some("average_vector") => Ok(RecommendStrategy::AverageVector.into()),
            Some("best_score") => Ok(RecommendStrategy::BestScore.into()),
            Some("sum_scores") => Ok(RecommendStrategy::SumScores.into()),
            _ => Err(Bad::new("must be average_vector, best_score or sum_scores")),
        })?,
    };
    members.done()?;
    Ok(recommend)
}

fn pair(value: &Value) -> Result<ContextInputPair, Bad> {
    let mut members = Members::of(value)?;
    let (positive, negative) = (members.need("positive", input)?, members.need("negative", input)?);
    members.done()?;
    Ok(ContextInputPair { positive: Some(positive), negative: Some(negative) })
}

fn context(value: &Value) -> Result<ContextInput, Bad> {
    Ok(ContextInput { pairs: one_or_many(value, pair)? })
}

fn discover(value: &Value) -> Result<DiscoverInput, Bad> {
    let mut members = Members::of(value)?;
    let (target, context) = (members.need("target", input)?, members.read("context", context)?);
    members.done()?;
    Ok(DiscoverInput { target: Some(target), context: Some(context.unwrap_or_default()) })
}

fn fusion(value: &Value) -> Result<Fusion, Bad> {
    match value.as_str() {
        Some("rrf") => Ok(Fusion::Rrf),
        Some("dbsf") => Ok(Fusion::Dbsf),
        _ => Err(Bad::new("must be rrf or dbsf")),
    }
}

fn rrf(value: &Value) -> Result<Rrf, Bad> {
    let mut members = Members::of(value)?;
    let weights = members.read("weights", |value| super::json::list(value, float))?.unwrap_or_default();
    let rrf = Rrf { k: members.read("k", small_count)?, weights };
    members.done()?;
    Ok(rrf)
}

fn sample(value: &Value) -> Result<Sample, Bad> {
    if value.as_str() == Some("random") { Ok(Sample::Random) } else { Err(Bad::new("must be random")) }
}

/// `"key"`, or `{"key", "direction", "start_from"}`.
pub(super) fn order_by(value: &Value) -> Result<OrderBy, Bad> {
    if value.is_string() {
        return Ok(OrderBy { key: paths::read(value)?, ..OrderBy::default() });
    }
    let mut members = Members::of(value)?;
    let order = OrderBy {
        key: members.need("key", paths::read)?,
        direction: members.read("direction", |value| match value.as_str() {
            Some("asc") => Ok(Direction::Asc.into()),
            Some("desc") => Ok(Direction::Desc.into()),
            _ => Err(Bad::new("must be asc or desc")),
        })?,
        start_from: members.read("start_from", |value| {
            let value = match value {
                Value::String(_) => start_from::Value::Timestamp(filters::time(value)?),
                Value::Number(n) if n.is_i64() => start_from::Value::Integer(n.as_i64().unwrap_or_default()),
                other => start_from::Value::Float(number(other)?),
            };
            Ok(StartFrom { value: Some(value) })
        })?,
    };
    members.done()?;
    Ok(order)
}

fn params(value: &Value) -> Result<SearchParams, Bad> {
    let mut members = Members::of(value)?;
    let params = SearchParams {
        hnsw_ef: members.read("hnsw_ef", count)?,
        exact: members.read("exact", flag)?,
        indexed_only: members.read("indexed_only", flag)?,
        quantization: members.read("quantization", |value| {
            let mut members = Members::of(value)?;
            let found = QuantizationSearchParams {
                ignore: members.read("ignore", flag)?,
                rescore: members.read("rescore", flag)?,
                oversampling: members.read("oversampling", number)?,
            };
            members.done()?;
            Ok(found)
        })?,
        ..SearchParams::default()
    };
    members.done()?;
    Ok(params)
}

fn lookup(value: &Value) -> Result<LookupLocation, Bad> {
    let mut members = Members::of(value)?;
    let lookup = LookupLocation {
        collection_name: members.need("collection", text)?,
        vector_name: members.read("vector", text)?,
        shard_key_selector: None,
    };
    members.done()?;
    Ok(lookup)
}
