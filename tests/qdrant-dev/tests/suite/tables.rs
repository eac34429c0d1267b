//! Collections, aliases, payload indexes, and what is not offered.

use qdrant_client::qdrant::vectors_config::Config;
use qdrant_client::qdrant::{
    CollectionParamsDiffBuilder, CountPoints, CreateAlias, CreateCollection, CreateFieldIndexCollectionBuilder,
    DeleteFieldIndexCollectionBuilder, Distance, FacetCounts, FieldType, PayloadSchemaType, RenameAlias,
    SparseVectorParamsBuilder, SparseVectorsConfigBuilder, UpdateCollectionBuilder, VectorParamsBuilder,
    VectorsConfigBuilder,
};
use serde_json::json;
use tonic::Code;

use super::harness::{completed, create, point, refused, upsert, with_collection};

#[tokio::test]
async fn a_collection_is_made_told_and_ended() {
    let (_dir, _server, client) = with_collection().await;
    assert!(client.health_check().await.expect("health").version.starts_with("1.18."));
    create(&client, "d").await;
    let names: Vec<_> = client.list_collections().await.expect("names").collections;
    assert_eq!(names.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["c", "d"]);

    upsert(&client, vec![point(1, json!({})), point(2, json!({}))]).await;
    let info = client.collection_info("c").await.expect("info").result.expect("info");
    assert_eq!(info.points_count, Some(2));
    let params = info.config.and_then(|config| config.params).and_then(|params| params.vectors_config);
    let Some(Config::Params(params)) = params.and_then(|config| config.config) else { panic!("one unnamed vector") };
    assert_eq!((params.size, params.distance()), (4, Distance::Dot));

    assert!(client.collection_exists("d").await.expect("an answer"));
    assert!(client.delete_collection("d").await.expect("an answer").result);
    assert!(!client.collection_exists("d").await.expect("an answer"));
    assert!(!client.delete_collection("d").await.expect("no error").result, "nothing to delete");
    // The name is free again, and the new one is empty.
    client.delete_collection("c").await.expect("an answer");
    create(&client, "c").await;
    let info = client.collection_info("c").await.expect("info").result.expect("info");
    assert_eq!(info.points_count, Some(0));
}

#[tokio::test]
async fn refusals_carry_the_real_servers_codes_and_words() {
    let (_dir, _server, client) = with_collection().await;
    let (code, words) = refused(client.collection_info("x").await);
    assert_eq!(code, Code::NotFound);
    assert!(words.contains("Collection `x` doesn't exist!"), "{words}");
    let again = |size, name: &str| CreateCollection {
        collection_name: name.to_owned(),
        vectors_config: Some(VectorParamsBuilder::new(size, Distance::Cosine).into()),
        ..CreateCollection::default()
    };
    assert_eq!(refused(client.create_collection(again(4, "c")).await).0, Code::AlreadyExists);
    assert_eq!(refused(client.create_collection(again(0, "empty")).await).0, Code::InvalidArgument);
    assert_eq!(refused(client.create_collection(again(4, "a/b")).await).0, Code::InvalidArgument);
    let update = |name: &str| UpdateCollectionBuilder::new(name).params(CollectionParamsDiffBuilder::default());
    assert!(client.update_collection(update("c")).await.expect("accepted").result);
    assert_eq!(refused(client.update_collection(update("x")).await).0, Code::NotFound);
    let count = CountPoints { collection_name: "x".to_owned(), ..CountPoints::default() };
    assert_eq!(refused(client.count(count).await).0, Code::NotFound);
    let facet = FacetCounts { collection_name: "c".to_owned(), key: "k".to_owned(), ..FacetCounts::default() };
    assert_eq!(refused(client.facet(facet).await).0, Code::Unimplemented);
}

#[tokio::test]
async fn named_and_sparse_vectors_are_told_as_they_were_ordered() {
    let (_dir, _server, client) = with_collection().await;
    let mut dense = VectorsConfigBuilder::default();
    dense.add_named_vector_params("text", VectorParamsBuilder::new(3, Distance::Euclid));
    dense.add_named_vector_params("image", VectorParamsBuilder::new(2, Distance::Manhattan));
    let mut sparse = SparseVectorsConfigBuilder::default();
    sparse.add_named_vector_params("words", SparseVectorParamsBuilder::default());
    let request = CreateCollection {
        collection_name: "named".to_owned(),
        vectors_config: Some(dense.into()),
        sparse_vectors_config: Some(sparse.into()),
        ..CreateCollection::default()
    };
    client.create_collection(request).await.expect("a collection");
    let info = client.collection_info("named").await.expect("info").result.expect("info");
    let params = info.config.and_then(|config| config.params).expect("params");
    assert!(params.sparse_vectors_config.expect("sparse").map.contains_key("words"));
    let Some(Config::ParamsMap(named)) = params.vectors_config.and_then(|config| config.config) else {
        panic!("named vectors")
    };
    assert_eq!((named.map["text"].size, named.map["text"].distance()), (3, Distance::Euclid));
    assert_eq!((named.map["image"].size, named.map["image"].distance()), (2, Distance::Manhattan));
}

#[tokio::test]
async fn an_alias_stands_for_its_collection() {
    let (_dir, _server, client) = with_collection().await;
    upsert(&client, vec![point(1, json!({}))]).await;
    let alias = |alias: &str, of: &str| CreateAlias { collection_name: of.to_owned(), alias_name: alias.to_owned() };
    assert_eq!(refused(client.create_alias(alias("a", "x")).await).0, Code::NotFound);
    assert_eq!(refused(client.create_alias(alias("c", "c")).await).0, Code::AlreadyExists);
    client.create_alias(alias("a", "c")).await.expect("an alias");
    assert!(client.collection_exists("a").await.expect("an answer"));
    let count = |name: &str| CountPoints { collection_name: name.to_owned(), ..CountPoints::default() };
    assert_eq!(client.count(count("a")).await.expect("a count").result.expect("a count").count, 1);

    let rename = RenameAlias { old_alias_name: "a".to_owned(), new_alias_name: "b".to_owned() };
    client.rename_alias(rename.clone()).await.expect("a new name");
    assert_eq!(refused(client.rename_alias(rename).await).0, Code::NotFound);
    let told = client.list_collection_aliases("c").await.expect("aliases").aliases;
    assert_eq!(told.iter().map(|one| one.alias_name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(client.list_aliases().await.expect("aliases").aliases, told);
    assert_eq!(refused(client.count(count("a")).await).0, Code::NotFound);

    client.delete_alias("b").await.expect("gone");
    assert!(client.list_aliases().await.expect("aliases").aliases.is_empty());
    // A collection takes its aliases along.
    client.create_alias(alias("a", "c")).await.expect("an alias");
    client.delete_collection("c").await.expect("gone");
    assert!(client.list_aliases().await.expect("aliases").aliases.is_empty());
}

#[tokio::test]
async fn a_payload_index_comes_and_goes() {
    let (_dir, _server, client) = with_collection().await;
    upsert(&client, vec![point(1, json!({"n": 7})), point(2, json!({"n": "seven"}))]).await;
    completed(
        client
            .create_field_index(CreateFieldIndexCollectionBuilder::new("c", "n", FieldType::Integer).wait(true))
            .await,
    );
    let info = client.collection_info("c").await.expect("info").result.expect("info");
    let index = &info.payload_schema["n"];
    assert_eq!((index.data_type(), index.points), (PayloadSchemaType::Integer, Some(1)));
    completed(client.delete_field_index(DeleteFieldIndexCollectionBuilder::new("c", "n").wait(true)).await);
    let info = client.collection_info("c").await.expect("info").result.expect("info");
    assert!(info.payload_schema.is_empty());
}
