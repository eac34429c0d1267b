//! Collection parameters: what `create` asks for, and what `get` tells.

use std::collections::HashMap;

use qdrant_client::qdrant as api;
use qdrant_client::qdrant::vectors_config::Config;
use qdrant_edge::{
    Distance, EdgeConfig, EdgeSparseVectorParams, EdgeVectorParams, HnswIndexConfig, Modifier, MultiVectorComparator,
    MultiVectorConfig, ShardInfo, VectorStorageDatatype,
};
use tonic::Status;

use super::index;
use crate::errors;
use crate::store::schema::UNNAMED;

/// The largest vector that Qdrant takes.
const MAX_SIZE: u64 = 65_536;

/// Sharding, replication, quantization, strict mode and where things are kept (disk or memory) are accepted and have no
/// effect here.
///
/// # Errors
/// `InvalidArgument` for a size or distance that Qdrant refuses, `Unimplemented` for a datatype the engine lacks.
pub(crate) fn config(request: &api::CreateCollection) -> Result<EdgeConfig, Status> {
    let mut vectors = HashMap::new();
    match request.vectors_config.as_ref().and_then(|vectors| vectors.config.as_ref()) {
        Some(Config::Params(params)) => {
            vectors.insert(UNNAMED.to_owned(), dense(params)?);
        }
        Some(Config::ParamsMap(named)) => {
            for (name, params) in &named.map {
                vectors.insert(name.clone(), dense(params)?);
            }
        }
        None => {}
    }
    let sparse = request.sparse_vectors_config.iter().flat_map(|sparse| &sparse.map);
    let sparse_vectors: HashMap<_, _> = sparse.map(|(name, params)| (name.clone(), sparse_params(params))).collect();
    if let Some(both) = sparse_vectors.keys().find(|name| vectors.contains_key(*name)) {
        return Err(errors::wrong_input(format!("vector name {both} is used for a dense and a sparse vector")));
    }
    let mut config = EdgeConfig::builder().vectors(vectors).sparse_vectors(sparse_vectors).build();
    config.hnsw_config = hnsw(config.hnsw_config, request.hnsw_config.as_ref());
    Ok(config)
}

fn dense(params: &api::VectorParams) -> Result<EdgeVectorParams, Status> {
    if !(1..=MAX_SIZE).contains(&params.size) {
        return Err(errors::wrong_input(format!("vector size must be between 1 and {MAX_SIZE}, got {}", params.size)));
    }
    let size = usize::try_from(params.size).map_err(errors::wrong_input)?;
    let mut dense = EdgeVectorParams::builder(size, distance(params.distance)?).build();
    dense.datatype = params.datatype.map(datatype).transpose()?.flatten();
    dense.multivector_config =
        params.multivector_config.as_ref().map(|_| MultiVectorConfig { comparator: MultiVectorComparator::MaxSim });
    dense.hnsw_config = params.hnsw_config.as_ref().map(|diff| hnsw(HnswIndexConfig::default(), Some(diff)));
    Ok(dense)
}

fn sparse_params(params: &api::SparseVectorParams) -> EdgeSparseVectorParams {
    let idf = params.modifier == Some(api::Modifier::Idf as i32);
    EdgeSparseVectorParams { modifier: idf.then_some(Modifier::Idf), ..EdgeSparseVectorParams::default() }
}

fn distance(distance: i32) -> Result<Distance, Status> {
    match api::Distance::try_from(distance) {
        Ok(api::Distance::Cosine) => Ok(Distance::Cosine),
        Ok(api::Distance::Euclid) => Ok(Distance::Euclid),
        Ok(api::Distance::Dot) => Ok(Distance::Dot),
        Ok(api::Distance::Manhattan) => Ok(Distance::Manhattan),
        Ok(api::Distance::UnknownDistance) | Err(_) => Err(Status::invalid_argument("Unknown distance")),
    }
}

fn datatype(datatype: i32) -> Result<Option<VectorStorageDatatype>, Status> {
    match api::Datatype::try_from(datatype) {
        Ok(api::Datatype::Default) => Ok(None),
        Ok(api::Datatype::Float32) => Ok(Some(VectorStorageDatatype::Float32)),
        Ok(api::Datatype::Float16) => Ok(Some(VectorStorageDatatype::Float16)),
        Ok(api::Datatype::Uint8) => Ok(Some(VectorStorageDatatype::Uint8)),
        Ok(other) => Err(errors::unsupported(format!("datatype {}", other.as_str_name()))),
        Err(_) => Err(Status::invalid_argument("Unknown datatype")),
    }
}

fn hnsw(mut base: HnswIndexConfig, diff: Option<&api::HnswConfigDiff>) -> HnswIndexConfig {
    let number = |given: Option<u64>, default: usize| given.and_then(|n| usize::try_from(n).ok()).unwrap_or(default);
    if let Some(diff) = diff {
        base.m = number(diff.m, base.m);
        base.ef_construct = number(diff.ef_construct, base.ef_construct);
        base.full_scan_threshold = number(diff.full_scan_threshold, base.full_scan_threshold);
        base.max_indexing_threads = number(diff.max_indexing_threads, base.max_indexing_threads);
    }
    base
}

/// The answer of `get`.
pub(crate) fn info(config: &EdgeConfig, shard: &ShardInfo) -> api::CollectionInfo {
    let params = api::CollectionParams {
        shard_number: 1,
        replication_factor: Some(1),
        write_consistency_factor: Some(1),
        vectors_config: Some(api::VectorsConfig { config: Some(told_vectors(config)) }),
        sparse_vectors_config: (!config.sparse_vectors.is_empty()).then(|| told_sparse(config)),
        ..api::CollectionParams::default()
    };
    let schema = shard.payload_schema.iter().map(|(key, info)| (key.to_string(), index::told(info))).collect();
    api::CollectionInfo {
        status: api::CollectionStatus::Green as i32,
        optimizer_status: Some(api::OptimizerStatus { ok: true, error: String::new() }),
        segments_count: shard.segments_count as u64,
        points_count: Some(shard.points_count as u64),
        indexed_vectors_count: Some(shard.indexed_vectors_count as u64),
        config: Some(api::CollectionConfig {
            params: Some(params),
            hnsw_config: Some(told_hnsw(&config.hnsw_config)),
            optimizer_config: Some(api::OptimizersConfigDiff::default()),
            ..api::CollectionConfig::default()
        }),
        payload_schema: schema,
        ..api::CollectionInfo::default()
    }
}

fn told_vectors(config: &EdgeConfig) -> Config {
    match config.vectors.get(UNNAMED) {
        Some(only) if config.vectors.len() == 1 => Config::Params(told_dense(only)),
        _ => Config::ParamsMap(api::VectorParamsMap {
            map: config.vectors.iter().map(|(name, params)| (name.clone(), told_dense(params))).collect(),
        }),
    }
}

fn told_dense(params: &EdgeVectorParams) -> api::VectorParams {
    let distance = match params.distance {
        Distance::Cosine => api::Distance::Cosine,
        Distance::Euclid => api::Distance::Euclid,
        Distance::Dot => api::Distance::Dot,
        Distance::Manhattan => api::Distance::Manhattan,
    };
    let datatype = params.datatype.and_then(|datatype| match datatype {
        VectorStorageDatatype::Float32 => Some(api::Datatype::Float32),
        VectorStorageDatatype::Float16 => Some(api::Datatype::Float16),
        VectorStorageDatatype::Uint8 => Some(api::Datatype::Uint8),
        // `create` takes none of these.
        _ => None,
    });
    api::VectorParams {
        size: params.size as u64,
        distance: distance as i32,
        datatype: datatype.map(|datatype| datatype as i32),
        multivector_config: params
            .multivector_config
            .map(|_| api::MultiVectorConfig { comparator: api::MultiVectorComparator::MaxSim as i32 }),
        hnsw_config: params.hnsw_config.as_ref().map(told_hnsw),
        ..api::VectorParams::default()
    }
}

fn told_sparse(config: &EdgeConfig) -> api::SparseVectorConfig {
    let told = |params: &EdgeSparseVectorParams| api::SparseVectorParams {
        modifier: (params.modifier == Some(Modifier::Idf)).then_some(api::Modifier::Idf as i32),
        ..api::SparseVectorParams::default()
    };
    api::SparseVectorConfig {
        map: config.sparse_vectors.iter().map(|(name, params)| (name.clone(), told(params))).collect(),
    }
}

fn told_hnsw(hnsw: &HnswIndexConfig) -> api::HnswConfigDiff {
    api::HnswConfigDiff {
        m: Some(hnsw.m as u64),
        ef_construct: Some(hnsw.ef_construct as u64),
        full_scan_threshold: Some(hnsw.full_scan_threshold as u64),
        max_indexing_threads: Some(hnsw.max_indexing_threads as u64),
        ..api::HnswConfigDiff::default()
    }
}
