//! Every read verb, in Qdrant's own shapes.

use outrigger::model::problem::Code;
use serde_json::{Value, json};

use crate::help::Bed;

async fn filled() -> Bed {
    let bed = Bed::plain().await;
    let day = |n: u32| format!("2024-01-{n:02}T00:00:00Z");
    let points: Vec<_> = (1..=5)
        .map(|id| json!({"id": id, "vector": [id, 0], "payload": {"n": id, "tag": if id % 2 == 0 { "even" } else { "odd" }, "at": day(id)}}))
        .collect();
    bed.one("upsert", json!({"points": points})).await;
    bed
}

fn ids(answer: &Value) -> Vec<u64> {
    answer["points"].as_array().expect("points").iter().filter_map(|point| point["id"].as_u64()).collect()
}

#[tokio::test]
async fn a_scroll_goes_page_by_page() {
    let bed = filled().await;
    let first = bed.read("scroll", json!({"limit": 2, "with_payload": ["n"]})).await;
    assert_eq!(
        first,
        json!({"points": [{"id": 1, "payload": {"n": 1}}, {"id": 2, "payload": {"n": 2}}], "next_page_offset": 3})
    );
    let rest = bed.read("scroll", json!({"offset": first["next_page_offset"], "with_payload": false})).await;
    assert_eq!(rest, json!({"points": [{"id": 3}, {"id": 4}, {"id": 5}], "next_page_offset": null}));
}

#[tokio::test]
async fn filters_mean_what_they_mean_in_qdrant() {
    let bed = filled().await;
    for (filter, expected) in [
        (json!({"must": [{"key": "tag", "match": {"value": "even"}}]}), vec![2, 4]),
        (json!({"must_not": {"key": "tag", "match": {"any": ["even"]}}}), vec![1, 3, 5]),
        (json!({"must": {"key": "tag", "match": {"except": ["even"]}}}), vec![1, 3, 5]),
        (json!({"should": [{"key": "n", "match": {"value": 1}}, {"key": "n", "range": {"gte": 4.5}}]}), vec![1, 5]),
        (json!({"must": {"key": "at", "range": {"gt": "2024-01-03", "lte": "2024-01-04T00:00:00Z"}}}), vec![4]),
        (json!({"must": {"should": [{"has_id": [2]}, {"must": [{"has_id": [3]}]}]}}), vec![2, 3]),
        (
            json!({"min_should": {"conditions": [{"has_id": [1, 2]}, {"key": "tag", "match": {"value": "odd"}}], "min_count": 2}}),
            vec![1],
        ),
        (json!({"must": {"is_empty": {"key": "nothing"}}, "must_not": {"is_null": {"key": "n"}}}), vec![1, 2, 3, 4, 5]),
        (json!({"must": {"key": "n", "values_count": {"gt": 1}}}), vec![]),
    ] {
        let found = bed.read("scroll", json!({"filter": filter})).await;
        assert_eq!(ids(&found), expected, "{filter}");
        let counted = bed.read("count", json!({"filter": filter, "exact": true})).await;
        assert_eq!(counted["count"], expected.len(), "{filter}");
    }
}

#[tokio::test]
async fn queries_score_and_show_what_is_asked_for() {
    let bed = filled().await;
    let nearest = bed.read("query", json!({"query": [1.0, 0.0], "limit": 2, "params": {"exact": true}})).await;
    assert_eq!(ids(&nearest), [5, 4]);
    assert_eq!(nearest["points"][0]["score"], json!(5.0));
    assert!(nearest["points"][0].get("payload").is_none() && nearest["points"][0]["version"].is_u64());
    let like = bed
        .read("query", json!({"query": {"nearest": 1}, "limit": 1, "with_payload": true, "with_vector": true}))
        .await;
    assert_eq!(ids(&like), [5]);
    assert_eq!((&like["points"][0]["payload"]["n"], &like["points"][0]["vector"]), (&json!(5), &json!([5.0, 0.0])));
    let fused = json!({"prefetch": [{"query": [1.0, 0.0], "limit": 3}, {"query": [-1.0, 0.0], "limit": 3}], "query": {"fusion": "rrf"}, "limit": 5});
    assert_eq!(ids(&bed.read("query", fused).await).len(), 5);
    let filtered =
        json!({"query": [1.0, 0.0], "filter": {"must": {"key": "tag", "match": {"value": "even"}}}, "offset": 1});
    assert_eq!(ids(&bed.read("query", filtered).await), [2]);
}

#[tokio::test]
async fn what_the_server_refuses_is_a_refusal_and_not_an_outage() {
    let bed = filled().await;
    let mut session = bed.session().await;
    let wrong = bed.op("q", "query", json!({"query": [1.0]}));
    let problem = session.work(&[wrong]).await.expect_err("one dimension of two");
    assert_eq!((problem.code, problem.operation.as_deref()), (Code::RejectedByStore, Some("q")), "{problem}");
    assert_eq!(problem.store_code.as_deref(), Some("InvalidArgument"));
    let nowhere = crate::help::op("n", "no-such-collection", "count", json!({}), Vec::new());
    let problem = session.work(&[nowhere]).await.expect_err("no such collection");
    assert_eq!((problem.code, problem.store_code.as_deref()), (Code::RejectedByStore, Some("NotFound")), "{problem}");
}
