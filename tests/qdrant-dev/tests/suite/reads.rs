//! Scroll, count, query and search.

use qdrant_client::Qdrant;
use qdrant_client::qdrant::{
    Condition, CountPoints, CreateFieldIndexCollectionBuilder, Direction, FieldType, Filter, Fusion, OrderBy,
    PrefetchQuery, Query, QueryBatchPoints, QueryPoints, ScoredPoint, ScrollPoints, SearchPoints,
};
use serde_json::json;
use tonic::Code;

use super::harness::{completed, number, point, refused, upsert, with_collection};

async fn ten_points(client: &Qdrant) {
    let points = (1..=10).map(|id| point(id, json!({"n": 100 - id, "odd": id % 2 == 1})));
    upsert(client, points.collect()).await;
}

fn query(query: Query) -> QueryPoints {
    QueryPoints { collection_name: "c".to_owned(), query: Some(query), limit: Some(3), ..QueryPoints::default() }
}

fn found(points: &[ScoredPoint]) -> Vec<u64> {
    use qdrant_client::qdrant::point_id::PointIdOptions;
    let number = |point: &ScoredPoint| match point.id.as_ref()?.point_id_options.as_ref()? {
        PointIdOptions::Num(number) => Some(*number),
        PointIdOptions::Uuid(_) => None,
    };
    points.iter().filter_map(number).collect()
}

fn odd() -> Option<Filter> {
    Some(Filter::must([Condition::matches("odd", true)]))
}

#[tokio::test]
async fn scrolling_pages_through_all_that_match() {
    let (_dir, _server, client) = with_collection().await;
    ten_points(&client).await;
    let mut offset = None;
    let mut pages = Vec::new();
    loop {
        let request = ScrollPoints {
            collection_name: "c".to_owned(),
            filter: odd(),
            limit: Some(2),
            offset,
            ..ScrollPoints::default()
        };
        let page = client.scroll(request).await.expect("a page");
        assert!(page.result[0].payload.contains_key("n"), "a scroll brings the payload unasked");
        pages.push(page.result.iter().filter_map(number).collect::<Vec<_>>());
        offset = page.next_page_offset;
        if offset.is_none() {
            break;
        }
    }
    assert_eq!(pages, [vec![1, 3], vec![5, 7], vec![9]]);
    let none = ScrollPoints { collection_name: "c".to_owned(), limit: Some(0), ..ScrollPoints::default() };
    assert_eq!(refused(client.scroll(none).await).0, Code::InvalidArgument);
}

#[tokio::test]
async fn scrolling_follows_a_payload_field_that_has_an_index() {
    let (_dir, _server, client) = with_collection().await;
    ten_points(&client).await;
    let order = OrderBy { key: "n".to_owned(), direction: Some(Direction::Asc.into()), start_from: None };
    let request = || ScrollPoints {
        collection_name: "c".to_owned(),
        limit: Some(3),
        order_by: Some(order.clone()),
        ..ScrollPoints::default()
    };
    assert_eq!(refused(client.scroll(request()).await).0, Code::InvalidArgument, "no index yet");
    completed(
        client
            .create_field_index(CreateFieldIndexCollectionBuilder::new("c", "n", FieldType::Integer).wait(true))
            .await,
    );
    let page = client.scroll(request()).await.expect("a page").result;
    assert_eq!(page.iter().filter_map(number).collect::<Vec<_>>(), [10, 9, 8]);
    assert!(page[0].order_value.is_some());
}

#[tokio::test]
async fn counting_counts() {
    let (_dir, _server, client) = with_collection().await;
    ten_points(&client).await;
    let count = |filter| CountPoints { collection_name: "c".to_owned(), filter, ..CountPoints::default() };
    assert_eq!(client.count(count(None)).await.expect("a count").result.expect("a count").count, 10);
    assert_eq!(client.count(count(odd())).await.expect("a count").result.expect("a count").count, 5);
}

#[tokio::test]
async fn the_nearest_come_first() {
    let (_dir, _server, client) = with_collection().await;
    ten_points(&client).await;
    let near = Query::new_nearest(vec![1.0, 0.0, 0.0, 0.0]);
    let whole = QueryPoints {
        with_payload: Some(true.into()),
        with_vectors: Some(true.into()),
        offset: Some(1),
        ..query(near.clone())
    };
    let answer = client.query(whole).await.expect("an answer").result;
    assert_eq!(found(&answer), [9, 8, 7]);
    assert_eq!((answer[0].score, answer[0].payload["n"].as_integer()), (9.0, Some(91)));
    assert!(answer[0].vectors.is_some());
    let filtered = QueryPoints { filter: odd(), score_threshold: Some(6.0), ..query(near.clone()) };
    let answer = client.query(filtered).await.expect("an answer").result;
    assert_eq!(found(&answer), [9, 7]);
    assert!(answer[0].payload.is_empty() && answer[0].vectors.is_none(), "only what was asked for");

    let both = QueryBatchPoints {
        collection_name: "c".to_owned(),
        query_points: vec![query(near.clone()), QueryPoints { limit: Some(1), ..query(near) }],
        ..QueryBatchPoints::default()
    };
    let answers = client.query_batch(both).await.expect("answers").result;
    assert_eq!(answers.iter().map(|one| found(&one.result)).collect::<Vec<_>>(), [vec![10, 9, 8], vec![10]]);
    let search = SearchPoints {
        collection_name: "c".to_owned(),
        vector: vec![1.0, 0.0, 0.0, 0.0],
        limit: 2,
        ..SearchPoints::default()
    };
    assert_eq!(found(&client.search_points(search).await.expect("an answer").result), [10, 9]);
}

#[tokio::test]
async fn a_stored_point_is_a_question_but_never_its_own_answer() {
    let (_dir, _server, client) = with_collection().await;
    ten_points(&client).await;
    let answer = client.query(query(Query::new_nearest(10))).await.expect("an answer").result;
    assert_eq!(found(&answer), [9, 8, 7]);
    assert_eq!(refused(client.query(query(Query::new_nearest(77))).await).0, Code::NotFound);
    let short = refused(client.query(query(Query::new_nearest(vec![1.0]))).await);
    assert_eq!(short.0, Code::InvalidArgument);
}

#[tokio::test]
async fn prefetches_are_fused_and_queries_without_vectors_answered() {
    let (_dir, _server, client) = with_collection().await;
    ten_points(&client).await;
    let prefetch = |vector: Vec<f32>| PrefetchQuery {
        query: Some(Query::new_nearest(vector)),
        limit: Some(3),
        ..PrefetchQuery::default()
    };
    let fused = QueryPoints {
        prefetch: vec![prefetch(vec![1.0, 0.0, 0.0, 0.0]), prefetch(vec![-1.0, 0.0, 0.0, 0.0])],
        limit: Some(10),
        ..query(Query::new_fusion(Fusion::Rrf))
    };
    let mut answer = found(&client.query(fused).await.expect("an answer").result);
    answer.sort_unstable();
    assert_eq!(answer, [1, 2, 3, 8, 9, 10]);
    let plain = QueryPoints { query: None, ..query(Query::new_nearest(1)) };
    assert_eq!(found(&client.query(plain).await.expect("an answer").result), [1, 2, 3]);
    let sample = query(Query::new_sample(qdrant_client::qdrant::Sample::Random));
    assert_eq!(found(&client.query(sample).await.expect("an answer").result).len(), 3);
    let recommend = qdrant_client::qdrant::RecommendInput::default();
    assert_eq!(refused(client.query(query(Query::new_recommend(recommend))).await).0, Code::Unimplemented);
}
