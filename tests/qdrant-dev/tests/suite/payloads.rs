//! The four payload verbs, by ids and by filter.

use qdrant_client::qdrant::{
    ClearPayloadPoints, Condition, DeletePayloadPoints, Filter, PointsSelector, SetPayloadPoints,
};
use qdrant_client::{Payload, Qdrant};
use serde_json::{Value, json};
use tonic::Code;

use super::harness::{completed, ids, payloads, point, refused, upsert, with_collection};

fn set(payload: Value, points: Option<PointsSelector>) -> SetPayloadPoints {
    SetPayloadPoints {
        collection_name: "c".to_owned(),
        wait: Some(true),
        payload: Payload::try_from(payload).expect("an object").into(),
        points_selector: points,
        ..SetPayloadPoints::default()
    }
}

fn red() -> Option<PointsSelector> {
    Some(Filter::must([Condition::matches("color", "red".to_owned())]).into())
}

async fn three_points(client: &Qdrant) {
    let payload = |color: &str| json!({"color": color, "n": 1});
    upsert(client, vec![point(1, payload("red")), point(2, payload("red")), point(3, payload("blue"))]).await;
}

#[tokio::test]
async fn set_merges_and_overwrite_replaces() {
    let (_dir, _server, client) = with_collection().await;
    three_points(&client).await;
    completed(client.set_payload(set(json!({"n": 2, "deep": {"a": 1}}), ids([1_u64]))).await);
    completed(client.overwrite_payload(set(json!({"only": [1, null]}), ids([3_u64]))).await);
    completed(client.set_payload(set(json!({"was": "red"}), red())).await);
    let nested = SetPayloadPoints { key: Some("deep".to_owned()), ..set(json!({"b": 2}), ids([1_u64])) };
    completed(client.set_payload(nested).await);
    assert_eq!(
        payloads(&client, &[1, 2, 3]).await,
        [
            json!({"color": "red", "n": 2, "deep": {"a": 1, "b": 2}, "was": "red"}),
            json!({"color": "red", "n": 1, "was": "red"}),
            json!({"only": [1, null]}),
        ]
    );
}

#[tokio::test]
async fn keys_are_deleted_and_payloads_cleared() {
    let (_dir, _server, client) = with_collection().await;
    three_points(&client).await;
    let delete = |keys: &[&str], points| DeletePayloadPoints {
        collection_name: "c".to_owned(),
        wait: Some(true),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        points_selector: points,
        ..DeletePayloadPoints::default()
    };
    completed(client.delete_payload(delete(&["n", "never"], red())).await);
    completed(client.delete_payload(delete(&["color"], ids([3_u64]))).await);
    assert_eq!(
        payloads(&client, &[1, 2, 3]).await,
        [json!({"color": "red"}), json!({"color": "red"}), json!({"n": 1})]
    );
    let clear = |points| ClearPayloadPoints {
        collection_name: "c".to_owned(),
        wait: Some(true),
        points,
        ..ClearPayloadPoints::default()
    };
    completed(client.clear_payload(clear(ids([3_u64]))).await);
    completed(client.clear_payload(clear(red())).await);
    assert_eq!(payloads(&client, &[1, 2, 3]).await, [json!({}), json!({}), json!({})]);
}

#[tokio::test]
async fn a_missing_id_is_not_found_after_the_others_were_written() {
    let (_dir, _server, client) = with_collection().await;
    three_points(&client).await;
    let (code, words) = refused(client.set_payload(set(json!({"n": 9}), ids([1_u64, 77, 2]))).await);
    assert_eq!((code, words.as_str()), (Code::NotFound, "Not found: No point with id 77"));
    let after = payloads(&client, &[1, 2]).await;
    assert_eq!((&after[0]["n"], &after[1]["n"]), (&json!(9), &json!(9)));
    // By filter nobody is missed.
    let none = Filter::must([Condition::matches("color", "green".to_owned())]);
    completed(client.set_payload(set(json!({"n": 0}), Some(none.into()))).await);
}

#[tokio::test]
async fn nothing_selected_is_a_bad_request() {
    let (_dir, _server, client) = with_collection().await;
    for points in [None, ids(Vec::<u64>::new())] {
        let (code, _) = refused(client.set_payload(set(json!({"n": 9}), points)).await);
        assert_eq!(code, Code::InvalidArgument);
    }
}

#[tokio::test]
async fn all_of_json_survives() {
    let (_dir, _server, client) = with_collection().await;
    let everything = json!({
        "null": null, "bool": false, "max": i64::MAX, "min": i64::MIN, "float": 0.1, "text": "\u{1F980} \"quoted\" \n",
        "empty": {"list": [], "object": {}}, "a.b": {"c d": [[1], [[2]]]},
    });
    upsert(&client, vec![point(1, everything.clone())]).await;
    assert_eq!(payloads(&client, &[1]).await, [everything]);
}
