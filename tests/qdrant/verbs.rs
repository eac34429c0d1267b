//! Every write verb: applied as asked, and harmless when it is repeated.

use serde_json::json;

use crate::help::Bed;

const U: &str = "0199aa00-0000-7000-8000-00000000000a";

#[tokio::test]
async fn points_are_put_and_deleted() {
    let bed = Bed::plain().await;
    bed.one(
        "upsert",
        json!({"points": [
            {"id": 1, "vector": [0.1, 0.2], "payload": {"t": "one", "n": [1, 2.5, null, {"x": true}]}},
            {"id": U.to_uppercase(), "vector": [1, 2]},
        ]}),
    )
    .await;
    assert_eq!(
        bed.points(json!([U, 1, 99])).await,
        json!([
            {"id": U, "payload": {}, "vector": [1.0, 2.0]},
            {"id": 1, "payload": {"n": [1, 2.5, null, {"x": true}], "t": "one"}, "vector": [0.1, 0.2]},
        ])
    );
    let batch = json!({"ids": [1, 3], "vectors": [[3, 3], [4, 4]], "payloads": [null, {"k": "three"}]});
    bed.one("upsert", json!({"batch": batch})).await;
    let points = bed.points(json!([1, 3])).await;
    assert_eq!(points[0]["vector"], json!([3.0, 3.0]));
    assert_eq!(points[1]["payload"], json!({"k": "three"}));
    bed.one("delete", json!({"points": [1, U.replace('-', "")]})).await;
    assert_eq!(bed.points(json!([1, 3, U])).await.as_array().map(Vec::len), Some(1));
    bed.one("delete", json!({"filter": {"must": {"key": "k", "match": {"value": "three"}}}})).await;
    assert_eq!(bed.read("count", json!({})).await, json!({"count": 0}));
}

#[tokio::test]
async fn payloads_are_changed() {
    let bed = Bed::plain().await;
    let points: Vec<_> =
        (1..=3).map(|id| json!({"id": id, "vector": [1, 1], "payload": {"a": {"b": id}, "c": 1}})).collect();
    bed.one("upsert", json!({"points": points})).await;
    bed.one("set_payload", json!({"payload": {"c": null, "d": 2}, "points": [1, 2]})).await;
    bed.one("set_payload", json!({"payload": {"e": 5}, "key": "a", "filter": {"must": [{"has_id": [1, 3]}]}})).await;
    let payloads = |points: serde_json::Value| -> Vec<_> {
        points.as_array().expect("points").iter().map(|point| point["payload"].clone()).collect()
    };
    assert_eq!(
        payloads(bed.points(json!([1, 2, 3])).await),
        [
            json!({"a": {"b": 1, "e": 5}, "d": 2}),
            json!({"a": {"b": 2}, "d": 2}),
            json!({"a": {"b": 3, "e": 5}, "c": 1})
        ]
    );
    bed.one("overwrite_payload", json!({"payload": {"z": 1}, "points": [1]})).await;
    bed.one("delete_payload", json!({"keys": ["a.b", "d"], "points": [2]})).await;
    bed.one("clear_payload", json!({"points": [3]})).await;
    assert_eq!(payloads(bed.points(json!([1, 2, 3])).await), [json!({"z": 1}), json!({"a": {}}), json!({})]);
}

#[tokio::test]
async fn vectors_of_every_kind_are_changed() {
    let bed = Bed::named().await;
    bed.one("upsert", json!({"points": [
        {"id": 1, "vector": {"a": [1, 2, 3], "rows": [[1, 2], [3, 4]], "words": {"indices": [7, 3], "values": [0.5, 0.25]}}},
        {"id": 2, "vector": {"a": [1, 1, 1]}},
    ]}))
    .await;
    let batch = json!({"ids": [3, 4], "vectors": {"a": [[3, 3, 3], [4, 4, 4]]}});
    bed.one("upsert", json!({"batch": batch})).await;
    let points = bed.points(json!([1, 2, 3])).await;
    assert_eq!(points[0]["vector"]["rows"], json!([[1.0, 2.0], [3.0, 4.0]]));
    assert_eq!(points[0]["vector"]["words"], json!({"indices": [3, 7], "values": [0.25, 0.5]}));
    assert_eq!(points[1]["vector"], json!({"a": [1.0, 1.0, 1.0]}));
    assert_eq!(points[2]["vector"], json!({"a": [3.0, 3.0, 3.0]}));
    bed.one("update_vectors", json!({"points": [{"id": 2, "vector": {"rows": [[5, 6]]}}]})).await;
    bed.one("delete_vectors", json!({"vector": ["words", "rows"], "filter": {"must": [{"has_id": [1]}]}})).await;
    bed.one("delete_vectors", json!({"vector": ["a"], "points": [2]})).await;
    let points = bed.points(json!([1, 2])).await;
    assert_eq!(points[0]["vector"], json!({"a": [1.0, 2.0, 3.0]}));
    assert_eq!(points[1]["vector"], json!({"rows": [[5.0, 6.0]]}));
}

#[tokio::test]
async fn every_write_can_be_repeated() {
    let bed = Bed::plain().await;
    bed.one(
        "upsert",
        json!({"points": [{"id": 1, "vector": [1, 1], "payload": {"n": 1}}, {"id": 2, "vector": [1, 1]}]}),
    )
    .await;
    let ops = [
        bed.op("0", "upsert", json!({"points": [{"id": 3, "vector": [3, 3], "payload": {"k": 3}}]})),
        bed.op("1", "set_payload", json!({"payload": {"m": 2}, "points": [1, 2, 3]})),
        bed.op("2", "delete_payload", json!({"keys": ["k"], "points": [3]})),
        bed.op("3", "update_vectors", json!({"points": [{"id": 1, "vector": [9, 9]}, {"id": 2, "vector": [8, 8]}]})),
        bed.op("4", "overwrite_payload", json!({"payload": {"o": 1}, "points": [2]})),
        bed.op("5", "delete", json!({"points": [2]})),
        bed.op("6", "clear_payload", json!({"points": [3]})),
    ];
    let writes = bed.plan(&ops).await.expect("nothing to refuse");
    for round in 0..3 {
        bed.apply(&writes).await.unwrap_or_else(|setback| panic!("round {round}: {setback:?}"));
        assert_eq!(
            bed.points(json!([1, 2, 3])).await,
            json!([
                {"id": 1, "payload": {"m": 2, "n": 1}, "vector": [9.0, 9.0]},
                {"id": 3, "payload": {}, "vector": [3.0, 3.0]},
            ]),
            "round {round}"
        );
    }
}
