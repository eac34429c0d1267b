//! Dense, sparse, multi and named vectors; updating and deleting them.

use std::collections::HashMap;

use qdrant_client::Qdrant;
use qdrant_client::qdrant::vector_output::Vector as Output;
use qdrant_client::qdrant::{
    CreateCollection, DeletePointVectors, Distance, MultiVectorComparator, MultiVectorConfigBuilder, NamedVectors,
    PointStruct, PointVectors, SparseVectorParamsBuilder, SparseVectorsConfigBuilder, UpdatePointVectors, Vector,
    VectorParamsBuilder, VectorsConfigBuilder, VectorsSelector,
};
use serde_json::json;
use tempfile::TempDir;
use tonic::Code;

use super::harness::{Server, completed, get, ids, payloads, refused, storage, upsert, upsert_of, with_collection};

/// Collection `c` with a dense, a sparse and a multi-vector, each by name.
async fn with_named() -> (TempDir, Server, Qdrant) {
    let (dir, storage) = storage();
    let server = Server::start(&storage);
    let client = server.client();
    let mut vectors = VectorsConfigBuilder::default();
    vectors.add_named_vector_params("text", VectorParamsBuilder::new(2, Distance::Dot));
    let multi = MultiVectorConfigBuilder::new(MultiVectorComparator::MaxSim);
    vectors.add_named_vector_params("rows", VectorParamsBuilder::new(2, Distance::Dot).multivector_config(multi));
    let mut sparse = SparseVectorsConfigBuilder::default();
    sparse.add_named_vector_params("words", SparseVectorParamsBuilder::default());
    let request = CreateCollection {
        collection_name: "c".to_owned(),
        vectors_config: Some(vectors.into()),
        sparse_vectors_config: Some(sparse.into()),
        ..CreateCollection::default()
    };
    client.create_collection(request).await.expect("a collection");
    (dir, server, client)
}

fn named<const N: usize>(vectors: [(&str, Vector); N]) -> NamedVectors {
    NamedVectors { vectors: vectors.into_iter().map(|(name, vector)| (name.to_owned(), vector)).collect() }
}

/// The vectors of point 1 by name.
async fn stored(client: &Qdrant) -> HashMap<String, Output> {
    use qdrant_client::qdrant::vectors_output::VectorsOptions;
    let found = get(client, &[1]).await;
    match found[0].vectors.clone().and_then(|vectors| vectors.vectors_options) {
        Some(VectorsOptions::Vectors(all)) => {
            all.vectors.into_iter().map(|(name, vector)| (name, vector.into_vector())).collect()
        }
        Some(VectorsOptions::Vector(one)) => [(String::new(), one.into_vector())].into(),
        None => HashMap::new(),
    }
}

fn full() -> NamedVectors {
    named([
        ("text", Vector::new_dense(vec![1.0, 2.0])),
        ("words", Vector::new_sparse(vec![7, 3], vec![0.7, 0.3])),
        ("rows", Vector::new_multi(vec![vec![1.0, 0.0], vec![0.0, 1.0]])),
    ])
}

#[tokio::test]
async fn every_kind_of_vector_comes_back_as_it_went() {
    let (_dir, _server, client) = with_named().await;
    upsert(&client, vec![PointStruct::new(1, full(), json!({}).as_object().expect("map").clone())]).await;
    let stored = stored(&client).await;
    assert_eq!(stored["text"], Output::Dense(vec![1.0, 2.0].into()));
    let Output::Sparse(sparse) = &stored["words"] else { panic!("sparse") };
    let mut entries: Vec<_> = sparse.indices.iter().zip(&sparse.values).collect();
    entries.sort_by_key(|(index, _)| **index);
    assert_eq!(entries, [(&3, &0.3), (&7, &0.7)]);
    let Output::MultiDense(rows) = &stored["rows"] else { panic!("a multi-vector") };
    assert_eq!(rows.vectors.iter().map(|row| row.data.clone()).collect::<Vec<_>>(), [[1.0, 0.0], [0.0, 1.0]]);
}

#[tokio::test]
async fn named_vectors_are_updated_and_deleted_one_by_one() {
    let (_dir, _server, client) = with_named().await;
    upsert(&client, vec![PointStruct::new(1, full(), json!({"keep": true}).as_object().expect("map").clone())]).await;
    let update = |id: u64, vectors: NamedVectors| UpdatePointVectors {
        collection_name: "c".to_owned(),
        wait: Some(true),
        points: vec![PointVectors { id: Some(id.into()), vectors: Some(vectors.into()) }],
        ..UpdatePointVectors::default()
    };
    completed(client.update_vectors(update(1, named([("text", Vector::new_dense(vec![5.0, 6.0]))]))).await);
    let delete = |names: &[&str], id: u64| DeletePointVectors {
        collection_name: "c".to_owned(),
        wait: Some(true),
        points_selector: ids([id]),
        vectors: Some(VectorsSelector { names: names.iter().map(|name| (*name).to_owned()).collect() }),
        ..DeletePointVectors::default()
    };
    completed(client.delete_vectors(delete(&["words"], 1)).await);
    let stored = stored(&client).await;
    assert_eq!(stored["text"], Output::Dense(vec![5.0, 6.0].into()));
    assert!(stored.contains_key("rows") && !stored.contains_key("words"));
    assert_eq!(payloads(&client, &[1]).await, [json!({"keep": true})], "the payload is not touched");

    let lost = refused(client.update_vectors(update(9, named([("text", Vector::new_dense(vec![5.0, 6.0]))]))).await);
    assert_eq!(lost.0, Code::NotFound);
    assert_eq!(refused(client.delete_vectors(delete(&["never"], 1)).await).0, Code::InvalidArgument);
    assert_eq!(refused(client.delete_vectors(delete(&[], 1)).await).0, Code::InvalidArgument);
}

#[tokio::test]
async fn vectors_that_do_not_fit_are_refused_before_anything_is_written() {
    let (_dir, _server, client) = with_named().await;
    let wrong = [
        named([("text", Vector::new_dense(vec![1.0]))]),
        named([("never", Vector::new_dense(vec![1.0, 2.0]))]),
        named([("words", Vector::new_dense(vec![1.0, 2.0]))]),
        named([("text", Vector::new_sparse(vec![1], vec![1.0]))]),
        named([("text", Vector::new_multi(vec![vec![1.0, 2.0], vec![1.0, 2.0]]))]),
        named([("rows", Vector::new_multi(vec![vec![1.0, 2.0], vec![1.0]]))]),
        named([("words", Vector::new_sparse(vec![1, 1], vec![1.0, 2.0]))]),
    ];
    for vectors in wrong {
        let good = PointStruct::new(1, full(), json!({}).as_object().expect("map").clone());
        let bad = PointStruct::new(2, vectors.clone(), json!({}).as_object().expect("map").clone());
        let (code, words) = refused(client.upsert_points(upsert_of(vec![good, bad])).await);
        assert_eq!(code, Code::InvalidArgument, "{vectors:?}: {words}");
        assert!(get(&client, &[1, 2]).await.is_empty(), "{vectors:?} left something behind");
    }
    let unnamed = PointStruct::new(1, vec![1.0, 2.0], json!({}).as_object().expect("map").clone());
    assert_eq!(refused(client.upsert_points(upsert_of(vec![unnamed])).await).0, Code::InvalidArgument);
}

#[tokio::test]
async fn the_wrong_size_is_told_as_the_real_server_tells_it() {
    let (_dir, _server, client) = with_collection().await;
    let short = PointStruct::new(1, vec![1.0, 2.0, 3.0], json!({}).as_object().expect("map").clone());
    let (code, words) = refused(client.upsert_points(upsert_of(vec![short])).await);
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(words, "Wrong input: Vector dimension error: expected dim: 4, got 3");
}

#[tokio::test]
async fn cosine_normalizes_what_it_keeps() {
    let (_dir, _server, client) = with_collection().await;
    let request = CreateCollection {
        collection_name: "cos".to_owned(),
        vectors_config: Some(VectorParamsBuilder::new(2, Distance::Cosine).into()),
        ..CreateCollection::default()
    };
    client.create_collection(request).await.expect("a collection");
    let point = PointStruct::new(1, vec![3.0, 4.0], json!({}).as_object().expect("map").clone());
    let mut request = upsert_of(vec![point]);
    request.collection_name = "cos".to_owned();
    completed(client.upsert_points(request).await);
    let request = qdrant_client::qdrant::GetPoints {
        collection_name: "cos".to_owned(),
        ids: vec![1.into()],
        with_vectors: Some(true.into()),
        ..qdrant_client::qdrant::GetPoints::default()
    };
    let found = client.get_points(request).await.expect("a point").result.remove(0);
    assert!(found.payload.is_empty());
    let Some(Output::Dense(kept)) = found.vectors.and_then(|vectors| vectors.get_vector()) else { panic!("dense") };
    assert!((kept.data[0] - 0.6).abs() < 1e-6 && (kept.data[1] - 0.8).abs() < 1e-6, "{kept:?}");
}

/// The trap that a before-image has to know: a fresh point is replaced by an upsert, an optimized one is merged into.
#[tokio::test]
async fn an_upsert_replaces_a_fresh_point_and_merges_into_an_optimized_one() {
    let (_dir, server, client) = with_named().await;
    let payload = |value| json!({"v": value}).as_object().expect("map").clone();
    let points: Vec<_> = (1..200).map(|id| PointStruct::new(id, full(), payload(1))).collect();
    upsert(&client, points.clone()).await;
    let only_text = || named([("text", Vector::new_dense(vec![9.0, 9.0]))]);
    upsert(&client, vec![PointStruct::new(1, only_text(), serde_json::Map::new())]).await;
    assert_eq!(stored(&client).await.len(), 1, "fresh: the omitted vectors are gone");
    assert_eq!(payloads(&client, &[1]).await, [json!({})], "and so is the payload");

    upsert(&client, points).await;
    assert_eq!(server.order("optimize c"), "optimized");
    upsert(&client, vec![PointStruct::new(1, only_text(), serde_json::Map::new())]).await;
    let merged = stored(&client).await;
    assert_eq!(merged.len(), 3, "optimized: the omitted vectors stay");
    assert_eq!(merged["text"], Output::Dense(vec![9.0, 9.0].into()));
    assert_eq!(payloads(&client, &[1]).await, [json!({"v": 1})], "and so does the payload");
    assert_eq!(get(&client, &(1..200).collect::<Vec<_>>()).await.len(), 199);
}
