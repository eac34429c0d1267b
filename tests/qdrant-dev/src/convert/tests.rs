use qdrant_client::Payload;
use qdrant_client::qdrant as api;
use qdrant_client::qdrant::{Condition, Range};
use qdrant_edge::{PointId, PointOperations, UpdateOperation};
use serde_json::json;
use tonic::Code;

use super::{filter, ids, payload, updates, vectors};

/// The engine's own words for a filter that came over gRPC.
fn spelled(filter: api::Filter) -> serde_json::Value {
    serde_json::to_value(filter::from_api(filter).expect("a filter")).expect("JSON")
}

#[test]
fn a_filter_keeps_its_meaning() {
    let filter = api::Filter {
        must: vec![
            Condition::matches("city", "Berlin".to_owned()),
            Condition::range("price", Range { gte: Some(1.5), lt: Some(9.0), ..Range::default() }),
            Condition::has_id([42]),
        ],
        must_not: vec![Condition::is_null("gone"), Condition::is_empty("tags")],
        should: vec![Condition::matches("n", vec![1_i64, 2]), Condition::matches("on", true)],
        min_should: Some(api::MinShould { conditions: vec![Condition::has_vector("text")], min_count: 1 }),
    };
    assert_eq!(
        spelled(filter),
        json!({
            "must": [
                {"key": "city", "match": {"value": "Berlin"}},
                {"key": "price", "range": {"gte": 1.5, "lt": 9.0, "gt": null, "lte": null}},
                {"has_id": [42]},
            ],
            "must_not": [{"is_null": {"key": "gone"}}, {"is_empty": {"key": "tags"}}],
            "should": [{"key": "n", "match": {"any": [1, 2]}}, {"key": "on", "match": {"value": true}}],
            "min_should": {"conditions": [{"has_vector": "text"}], "min_count": 1},
        })
    );
}

#[test]
fn nested_filters_and_places_arrive() {
    let inner = api::Filter::must([Condition::matches("diet", "meat".to_owned())]);
    let center = api::GeoPoint { lon: 13.4, lat: 52.5 };
    let near = Condition::geo_radius("place", api::GeoRadius { center: Some(center), radius: 100.0 });
    let filter = api::Filter::must([Condition::nested("eats", inner.clone()), inner.into(), near]);
    let told = spelled(filter);
    assert_eq!(told["must"][0]["nested"]["key"], "eats");
    assert_eq!(told["must"][1]["must"][0]["match"]["value"], "meat");
    assert_eq!(told["must"][2]["geo_radius"]["center"]["lat"], 52.5);
}

#[test]
fn what_the_engine_lacks_is_said_and_malformed_filters_are_refused() {
    use api::condition::ConditionOneOf;
    let of = |one| api::Filter::must([Condition { condition_one_of: one }]);
    let slice = of(Some(ConditionOneOf::Slice(api::SliceCondition { total: 2, index: 1 })));
    assert_eq!(filter::from_api(slice).expect_err("no slices").code(), Code::Unimplemented);
    assert_eq!(filter::from_api(of(None)).expect_err("empty").code(), Code::InvalidArgument);
    let bare = api::FieldCondition { key: "k".to_owned(), ..api::FieldCondition::default() };
    let bare = of(Some(ConditionOneOf::Field(bare)));
    assert_eq!(filter::from_api(bare).expect_err("bare").code(), Code::InvalidArgument);
}

#[test]
fn payloads_come_back_as_they_went() {
    let fields = json!({
        "null": null, "yes": true, "big": i64::MAX, "small": i64::MIN, "float": 1.25, "text": "ünï",
        "list": [1, "two", [3.5]], "object": {"deep": {"er": []}},
    });
    let sent = Payload::try_from(fields.clone()).expect("an object");
    let kept = payload::from_api(sent.into()).expect("a payload");
    assert_eq!(serde_json::Value::Object(kept.0.clone()), fields);
    let back: serde_json::Value = payload::to_api(Some(kept)).into_iter().map(|(k, v)| (k, v.into_json())).collect();
    assert_eq!(back, fields);
}

#[test]
fn numbers_that_json_lacks_are_refused() {
    let nan = [("x".to_owned(), api::Value::from(f64::NAN))].into();
    assert_eq!(payload::from_api(nan).expect_err("NaN").code(), Code::InvalidArgument);
}

#[test]
fn a_uuid_comes_back_in_its_canonical_spelling() {
    let id = ids::from_api("936DA01F9ABD4D9D80C702AF85C822A8".into()).expect("a UUID");
    assert_eq!(ids::to_api(id), "936da01f-9abd-4d9d-80c7-02af85c822a8".into());
    assert_eq!(ids::from_api(u64::MAX.into()).expect("a number"), PointId::NumId(u64::MAX));
    assert_eq!(ids::from_api("seven".into()).expect_err("no UUID").code(), Code::InvalidArgument);
}

#[test]
#[expect(deprecated, reason = "clients before 1.16 send it")]
fn the_old_spelling_of_vectors_is_taken() {
    let flat = |indices: Option<Vec<u32>>, vectors_count| api::Vector {
        data: vec![1.0, 2.0, 3.0, 4.0],
        indices: indices.map(|data| api::SparseIndices { data }),
        vectors_count,
        vector: None,
    };
    let names = ["dense", "sparse", "multi"];
    let old = [flat(None, None), flat(Some(vec![1, 5, 7, 9]), None), flat(None, Some(2))];
    let named = names.into_iter().map(str::to_owned).zip(old).collect();
    let given = api::Vectors {
        vectors_options: Some(api::vectors::VectorsOptions::Vectors(api::NamedVectors { vectors: named })),
    };
    let taken = serde_json::to_value(vectors::from_api(Some(given)).expect("vectors")).expect("JSON");
    assert_eq!(taken["dense"], json!([1.0, 2.0, 3.0, 4.0]));
    assert_eq!(taken["sparse"], json!({"indices": [1, 5, 7, 9], "values": [1.0, 2.0, 3.0, 4.0]}));
    assert_eq!(taken["multi"], json!([[1.0, 2.0], [3.0, 4.0]]));
}

#[test]
fn half_of_an_update_is_its_first_points() {
    let ids = |list: &[u64]| Some(api::PointsSelector::from(list.iter().map(|id| (*id).into()).collect::<Vec<_>>()));
    let of = |list: &[u64]| updates::half(updates::delete(ids(list)).expect("a delete"));
    let Some(UpdateOperation::PointOperation(PointOperations::DeletePoints { ids: kept })) = of(&[7, 8, 9, 10, 11])
    else {
        panic!("a delete by ids");
    };
    assert_eq!(kept, [PointId::NumId(7), PointId::NumId(8)]);
    assert_eq!(of(&[7]), None);
    let all = Some(api::PointsSelector::from(api::Filter::default()));
    assert_eq!(updates::half(updates::delete(all).expect("a delete")), None);
}

#[test]
fn an_update_of_nothing_is_refused() {
    let nothing = Some(api::PointsSelector::from(Vec::<api::PointId>::new()));
    for outcome in [updates::upsert(vec![], None, None), updates::delete(nothing), updates::delete(None)] {
        assert_eq!(outcome.expect_err("nothing to do").code(), Code::InvalidArgument);
    }
}
