//! Reads: scroll, count and the universal query (nearest, fusion, order, sample, with prefetches).

use qdrant_client::qdrant as api;
use qdrant_client::qdrant::query::Variant;
use qdrant_client::qdrant::vector_input::Variant as Input;
use qdrant_edge::external::ordered_float::OrderedFloat;
use qdrant_edge::{
    Condition, CountRequest, Direction, EdgeShard, Filter, Fusion, HasIdCondition, NamedQuery, OrderBy,
    OrderByInterface, PointId, Prefetch, QueryEnum, QueryRequest, Sample, ScoringQuery, ScrollRequest, SearchParams,
    StartFrom, TypedMultiDenseVector, VectorInternal, WithPayloadInterface, WithVector,
};
use tonic::Status;

use super::{filter, ids, payload, vectors};
use crate::errors;
use crate::store::schema::{Kind, Schema};

const DEFAULT_LIMIT: u64 = 10;
/// The constant of reciprocal rank fusion where the request names none.
const DEFAULT_RRF_K: usize = 2;

/// What a query is resolved against: ids in it stand for the vectors of stored points.
pub(crate) struct Context<'a> {
    pub(crate) shard: &'a EdgeShard,
    pub(crate) schema: &'a Schema,
}

/// A scoring and, when it starts from a stored point, that point: it is never its own neighbour.
type Scoring = (ScoringQuery, Option<PointId>);

impl Context<'_> {
    /// # Errors
    /// `InvalidArgument` for vectors that do not fit, `NotFound` for a missing point, `Unimplemented` for the rest.
    pub(crate) fn query(&self, request: api::QueryPoints) -> Result<QueryRequest, Status> {
        refuse_lookup(request.lookup_from.as_ref())?;
        let using = request.using.unwrap_or_default();
        let limit = size(request.limit.unwrap_or(DEFAULT_LIMIT))?;
        let (query, itself) = self.scoring(request.query, &using)?.unzip();
        Ok(QueryRequest {
            prefetches: request.prefetch.into_iter().map(|inner| self.prefetch(inner)).collect::<Result<_, _>>()?,
            query,
            filter: without(filter::optional(request.filter)?, itself.flatten()),
            score_threshold: request.score_threshold.map(OrderedFloat),
            limit,
            offset: usize::try_from(request.offset.unwrap_or(0)).map_err(errors::wrong_input)?,
            params: request.params.map(params),
            with_vector: vectors::selector(request.with_vectors),
            with_payload: payload::selector(request.with_payload, false)?,
        })
    }

    /// The old `search`: nearest to a dense vector, or to a sparse one when indices stand beside its values.
    pub(crate) fn search(&self, request: api::SearchPoints) -> Result<QueryRequest, Status> {
        let nearest = match request.sparse_indices {
            Some(indices) => Input::Sparse(api::SparseVector { values: request.vector, indices: indices.data }),
            None => Input::Dense(api::DenseVector { data: request.vector }),
        };
        let nearest = api::VectorInput { variant: Some(nearest) };
        self.query(api::QueryPoints {
            query: Some(api::Query { variant: Some(Variant::Nearest(nearest)) }),
            using: request.vector_name,
            filter: request.filter,
            params: request.params,
            score_threshold: request.score_threshold,
            limit: Some(request.limit),
            offset: request.offset,
            with_vectors: request.with_vectors,
            with_payload: request.with_payload,
            ..api::QueryPoints::default()
        })
    }

    fn prefetch(&self, request: api::PrefetchQuery) -> Result<Prefetch, Status> {
        refuse_lookup(request.lookup_from.as_ref())?;
        let using = request.using.unwrap_or_default();
        let limit = size(request.limit.unwrap_or(DEFAULT_LIMIT))?;
        let (query, itself) = self.scoring(request.query, &using)?.unzip();
        Ok(Prefetch {
            prefetches: request.prefetch.into_iter().map(|inner| self.prefetch(inner)).collect::<Result<_, _>>()?,
            query,
            limit,
            params: request.params.map(params),
            filter: without(filter::optional(request.filter)?, itself.flatten()),
            score_threshold: request.score_threshold.map(OrderedFloat),
        })
    }

    fn scoring(&self, query: Option<api::Query>, using: &str) -> Result<Option<Scoring>, Status> {
        let plain = |scoring| Ok(Some((scoring, None)));
        match query.and_then(|query| query.variant) {
            None => Ok(None),
            Some(Variant::Nearest(input)) => {
                let (query, itself) = self.input(input, using)?;
                let using = Some(using.to_owned());
                Ok(Some((ScoringQuery::Vector(QueryEnum::Nearest(NamedQuery { query, using })), itself)))
            }
            Some(Variant::OrderBy(order)) => plain(ScoringQuery::OrderBy(order_by(order)?)),
            Some(Variant::Fusion(fusion)) => match api::Fusion::try_from(fusion) {
                Ok(api::Fusion::Rrf) => plain(ScoringQuery::Fusion(Fusion::Rrf { k: DEFAULT_RRF_K, weights: None })),
                Ok(api::Fusion::Dbsf) => plain(ScoringQuery::Fusion(Fusion::Dbsf)),
                Err(_) => Err(Status::invalid_argument(format!("Unknown fusion: {fusion}"))),
            },
            Some(Variant::Rrf(rrf)) => {
                let weights: Vec<_> = rrf.weights.into_iter().map(OrderedFloat).collect();
                let k = rrf.k.map_or(DEFAULT_RRF_K, |k| k as usize);
                plain(ScoringQuery::Fusion(Fusion::Rrf { k, weights: (!weights.is_empty()).then_some(weights) }))
            }
            Some(Variant::Sample(_)) => plain(ScoringQuery::Sample(Sample::Random)),
            Some(_) => Err(errors::unsupported("this kind of query")),
        }
    }

    /// The vector that the query names, and the stored point it is of.
    fn input(&self, input: api::VectorInput, using: &str) -> Result<(VectorInternal, Option<PointId>), Status> {
        match input.variant {
            Some(Input::Id(id)) => {
                let id = ids::from_api(id)?;
                Ok((self.stored(id, using)?, Some(id)))
            }
            Some(Input::Dense(dense)) => {
                self.schema.check_dense(using, &dense.data)?;
                Ok((VectorInternal::Dense(dense.data), None))
            }
            Some(Input::MultiDense(multi)) => {
                let rows = vectors::rows(multi)?;
                self.schema.check_multi(using, &rows)?;
                Ok((VectorInternal::MultiDense(TypedMultiDenseVector::new_unchecked(rows)), None))
            }
            Some(Input::Sparse(sparse)) => match self.schema.kind(using)? {
                Kind::Sparse => Ok((VectorInternal::Sparse(vectors::sparse(sparse.indices, sparse.values)?), None)),
                Kind::Dense { .. } | Kind::Multi { .. } => {
                    Err(errors::wrong_input(format!("vector {using:?} is not sparse")))
                }
            },
            Some(Input::Document(_) | Input::Image(_) | Input::Object(_)) => Err(errors::unsupported("inference")),
            None => Err(Status::invalid_argument("VectorInput is missing")),
        }
    }

    fn stored(&self, id: PointId, using: &str) -> Result<VectorInternal, Status> {
        self.schema.kind(using)?;
        let found = self
            .shard
            .retrieve(&[id], Some(WithPayloadInterface::Bool(false)), Some(WithVector::Bool(true)))
            .map_err(errors::status)?;
        let vectors = found.into_iter().next().and_then(|record| record.vector);
        vectors.and_then(|vectors| vectors::named(vectors, using)).ok_or_else(|| {
            Status::not_found(format!("Not found: No point with id {id} found, or without vector {using:?}"))
        })
    }
}

pub(crate) fn scroll(request: api::ScrollPoints) -> Result<ScrollRequest, Status> {
    let limit = size(request.limit.map_or(DEFAULT_LIMIT, u64::from))?;
    Ok(ScrollRequest {
        offset: request.offset.map(ids::from_api).transpose()?,
        limit: Some(limit),
        filter: filter::optional(request.filter)?,
        with_payload: Some(payload::selector(request.with_payload, true)?),
        with_vector: vectors::selector(request.with_vectors),
        order_by: request.order_by.map(order_by).transpose()?.map(OrderByInterface::Struct),
    })
}

pub(crate) fn count(request: api::CountPoints) -> Result<CountRequest, Status> {
    Ok(CountRequest { filter: filter::optional(request.filter)?, exact: request.exact.unwrap_or(true) })
}

fn order_by(order: api::OrderBy) -> Result<OrderBy, Status> {
    use api::start_from::Value;
    let direction = match order.direction.map(api::Direction::try_from) {
        Some(Ok(api::Direction::Desc)) => Direction::Desc,
        None | Some(Ok(api::Direction::Asc)) => Direction::Asc,
        Some(Err(_)) => return Err(Status::invalid_argument("Unknown direction")),
    };
    let time = |text: String| serde_json::from_value(text.into()).map(StartFrom::Datetime).map_err(errors::wrong_input);
    let start_from = match order.start_from.and_then(|start| start.value) {
        None => None,
        Some(Value::Float(number)) => Some(StartFrom::Float(number)),
        Some(Value::Integer(number)) => Some(StartFrom::Integer(number)),
        Some(Value::Timestamp(stamp)) => Some(time(stamp.to_string())?),
        Some(Value::Datetime(text)) => Some(time(text)?),
    };
    Ok(OrderBy { key: payload::path(&order.key)?, direction: Some(direction), start_from })
}

fn params(params: api::SearchParams) -> SearchParams {
    SearchParams {
        hnsw_ef: params.hnsw_ef.and_then(|ef| usize::try_from(ef).ok()),
        exact: params.exact.unwrap_or(false),
        indexed_only: params.indexed_only.unwrap_or(false),
        ..SearchParams::default()
    }
}

/// Leaves out the point that the query started from.
fn without(filter: Option<Filter>, itself: Option<PointId>) -> Option<Filter> {
    let Some(id) = itself else {
        return filter;
    };
    let mut filter = filter.unwrap_or_default();
    let not_itself = Condition::HasId(HasIdCondition::from_iter([id]));
    filter.must_not.get_or_insert_default().push(not_itself);
    Some(filter)
}

fn size(limit: u64) -> Result<usize, Status> {
    match usize::try_from(limit) {
        Ok(0) | Err(_) => Err(Status::invalid_argument(format!("limit: value {limit} invalid, must be 1 or larger"))),
        Ok(limit) => Ok(limit),
    }
}

fn refuse_lookup(lookup: Option<&api::LookupLocation>) -> Result<(), Status> {
    if lookup.is_some() { Err(errors::unsupported("lookup in another collection")) } else { Ok(()) }
}
