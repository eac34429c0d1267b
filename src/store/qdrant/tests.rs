//! The pure halves: bodies, spellings, paths, the log's form, batches, and what failures mean.

use std::time::Duration;

use ::qdrant_client::qdrant::points_update_operation::Operation;
use ::qdrant_client::qdrant::{UpdateBatchPoints, UpdateResult, UpdateStatus};
use proptest::prelude::*;
use prost::Message;
use serde_json::{Map, Value, json};
use tonic::{Code, Status};

use super::absolute::{self, Absolute, decode};
use super::batch::{Batch, confirmed};
use super::catalog::{Kind, Shape};
use super::errors::{Verdict, judge};
use super::paths::{self, Path};
use super::writes::{self, Targets};
use super::{errors, point_key, reads, values};
use crate::model::request::Verb;

fn shape(names: &[&str]) -> Shape {
    let vectors = names.iter().map(|name| ((*name).to_owned(), Kind::Dense(2))).collect();
    Shape { collection: "c".to_owned(), vectors, ..Shape::default() }
}

fn absolute(verb: Verb, body: Value) -> Absolute {
    let write = writes::read(verb, &body).unwrap_or_else(|bad| panic!("{body}: {bad:?}"));
    let Targets::Points(points) = write.targets else { panic!("{body} names no points") };
    Absolute::new(write.change, points)
}

fn operations(names: &[&str], writes: Vec<Absolute>) -> Vec<Operation> {
    let encoded = absolute::encode(&"vectors".into(), &shape(names), writes);
    encoded.iter().map(|write| decode(&write.body).unwrap()).collect()
}

#[test]
fn ids_have_one_spelling() {
    let uuid = "0199aa00-0000-7000-8000-00000000000a";
    for (id, key) in [
        (json!(7), Some("7")),
        (json!(u64::MAX), Some("18446744073709551615")),
        (json!(uuid), Some(uuid)),
        (json!(uuid.to_uppercase()), Some(uuid)),
        (json!(uuid.replace('-', "")), Some(uuid)),
        (json!(format!("urn:uuid:{uuid}")), Some(uuid)),
        (json!("7"), None),
        (json!(-1), None),
        (json!(1.5), None),
        (json!(null), None),
    ] {
        assert_eq!(point_key(&id).as_deref(), key, "{id}");
    }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn paths_do_what_the_engine_does() {
    let before = json!({"a": {"b": 1, "c": [{"d": 1}, {"d": 2}]}, "odd key": 5});
    for (path, after) in [
        ("x", json!({"a": {"b": 1, "c": [{"d": 1}, {"d": 2}]}, "odd key": 5, "x": {"n": 9}})),
        ("a.b", json!({"a": {"b": {"n": 9}, "c": [{"d": 1}, {"d": 2}]}, "odd key": 5})),
        ("a.c[1]", json!({"a": {"b": 1, "c": [{"d": 1}, {"d": 2, "n": 9}]}, "odd key": 5})),
        ("a.c[].e", json!({"a": {"b": 1, "c": [{"d": 1, "e": {"n": 9}}, {"d": 2, "e": {"n": 9}}]}, "odd key": 5})),
        ("a.c[7]", before.clone()),
        ("\"odd key\".x", json!({"a": {"b": 1, "c": [{"d": 1}, {"d": 2}]}, "odd key": {"x": {"n": 9}}})),
    ] {
        let mut payload = object(before.clone());
        Path::merge(Some(&Path::parse(path).unwrap()), &mut payload, &object(json!({"n": 9, "gone": null})));
        assert_eq!(Value::Object(payload), after, "{path}");
    }
    for (path, after) in [
        ("a.b", json!({"a": {"c": [{"d": 1}, {"d": 2}]}, "odd key": 5})),
        ("a.c[].d", json!({"a": {"b": 1, "c": [{}, {}]}, "odd key": 5})),
        ("a.c[0].d", json!({"a": {"b": 1, "c": [{}, {"d": 2}]}, "odd key": 5})),
        ("a.c[]", json!({"a": {"b": 1, "c": []}, "odd key": 5})),
        ("a.c[0]", before.clone()),
        ("\"odd key\"", json!({"a": {"b": 1, "c": [{"d": 1}, {"d": 2}]}})),
    ] {
        let mut payload = object(before.clone());
        Path::parse(path).unwrap().remove(&mut payload);
        assert_eq!(Value::Object(payload), after, "{path}");
    }
    let wanted = [Path::parse("a.c[].d").unwrap(), Path::parse("\"odd key\"").unwrap()];
    let kept = paths::include(&wanted, &object(before.clone()));
    assert_eq!(Value::Object(kept), json!({"a": {"c": [{"d": 1}, {"d": 2}]}, "odd key": 5}));
    let kept = paths::exclude(&wanted, &object(before));
    assert_eq!(Value::Object(kept), json!({"a": {"b": 1, "c": [{}, {}]}}));
    for bad in ["", ".", "a.", "a..b", "a[", "a[x]", "a b", "[0]", "\"open", "a[-1]"] {
        assert!(Path::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_deepest_payload_can_be_read_by_a_server_and_no_deeper_one_gets_through() {
    let nested = |levels: usize, list: bool| {
        let wrap = |inner: Value| if list { json!([inner]) } else { json!({"k": inner}) };
        let inner = (0..levels).fold(json!(1), |inner, _| wrap(inner));
        json!({"points": [{"id": 1, "vector": [1, 2], "payload": {"p": inner}}]})
    };
    for list in [false, true] {
        let deepest = (1..).take_while(|levels| writes::read(Verb::Upsert, &nested(*levels, list)).is_ok()).last();
        let operations = operations(&[""], vec![absolute(Verb::Upsert, nested(deepest.unwrap(), list))]);
        let mut batch = Batch::default();
        batch.add(operations);
        let call = UpdateBatchPoints { operations: batch.split().0, ..UpdateBatchPoints::default() };
        assert!(UpdateBatchPoints::decode(call.encode_to_vec().as_slice()).is_ok(), "{deepest:?} levels");
    }
    let pointer = writes::read(Verb::Upsert, &nested(60, false)).unwrap_err().pointer;
    assert!(pointer.starts_with("/points/0/payload/p/k/k"), "{pointer}");
}

#[test]
fn what_happens_before_a_deletion_is_left_out() {
    let writes = vec![
        absolute(Verb::SetPayload, json!({"payload": {"a": 1}, "points": [1, 2]})),
        absolute(Verb::Upsert, json!({"points": [{"id": 3, "vector": [1, 2], "payload": {"a": 1}}]})),
        absolute(Verb::Delete, json!({"points": [1, 3]})),
        absolute(Verb::Upsert, json!({"points": [{"id": 1, "vector": [5, 6], "payload": {"b": 1}}]})),
    ];
    let encoded = absolute::encode(&"vectors".into(), &shape(&[""]), writes);
    let keys: Vec<_> = encoded.iter().map(|write| write.keys.join(",")).collect();
    assert_eq!(keys, ["2", "1,3", "1"]);
    assert!(matches!(decode(&encoded[1].body), Ok(Operation::DeletePoints(_))));
}

#[test]
fn an_upsert_says_what_it_omits() {
    let body = json!({"points": [
        {"id": 1, "vector": {"a": [1, 2], "b": [1, 2]}, "payload": {"x": 1}},
        {"id": 2, "vector": {"a": [1, 2]}, "payload": {"x": 1}},
        {"id": 3, "vector": {"b": [1, 2]}},
        {"id": 4, "vector": {}, "payload": {}},
        {"id": 4, "vector": {"a": [1, 2], "b": [1, 2]}, "payload": {"x": 1}},
    ]});
    let operations = operations(&["a", "b"], vec![absolute(Verb::Upsert, body)]);
    let [
        Operation::Upsert(all),
        Operation::ClearPayload(bare),
        Operation::DeleteVectors(one),
        Operation::DeleteVectors(two),
    ] = operations.as_slice()
    else {
        panic!("{operations:?}")
    };
    assert_eq!(all.points.len(), 5);
    let ids = |selector: &Option<_>| format!("{selector:?}").matches("Num").count();
    assert_eq!((ids(&bare.points), ids(&one.points_selector), ids(&two.points_selector)), (1, 1, 1));
    assert_eq!(one.vectors.as_ref().unwrap().names, ["a"]);
    assert_eq!(two.vectors.as_ref().unwrap().names, ["b"]);
}

#[test]
fn what_cannot_be_read_from_the_log_is_an_error() {
    for body in [&[][..], &[2, 0], &[1], &[1, 0xff, 0xff]] {
        assert!(decode(body).is_err(), "{body:?}");
    }
}

fn put(id: u64) -> Operation {
    let body = json!({"points": [{"id": id, "vector": [1, 2], "payload": {"x": 1}}]});
    operations(&[""], vec![absolute(Verb::Upsert, body)]).remove(0)
}

fn delete(id: u64) -> Operation {
    operations(&[""], vec![absolute(Verb::Delete, json!({"points": [id]}))]).remove(0)
}

fn set(id: u64) -> Operation {
    operations(&[""], vec![absolute(Verb::SetPayload, json!({"payload": {"y": 1}, "points": [id]}))]).remove(0)
}

#[test]
fn transactions_share_operations_and_keep_their_own_order() {
    let mut batch = Batch::default();
    batch.add(vec![put(1), delete(2)]);
    batch.add(vec![put(3), put(3), delete(4)]);
    batch.add(vec![delete(5), put(5), set(5), put(6)]);
    batch.add(vec![]);
    let (operations, parts) = batch.split();
    let points = |place: usize| format!("{:?}", operations[place]).matches("PointId {").count();
    // 1 and 3 share the first upsert, 2 and 5 the first deletion; 3's second upsert may not join its first.
    assert_eq!(parts[0], [0, 1]);
    assert_eq!(parts[1], [0, 2, 3]);
    assert_eq!(parts[2], [3, 4, 5, 6]);
    assert_eq!(parts[3], [0; 0]);
    assert_eq!((points(0), points(1), points(3)), (2, 1, 2));
    for part in &parts {
        assert!(part.windows(2).all(|pair| pair[0] < pair[1]), "{part:?}");
    }
}

#[test]
fn only_completed_counts() {
    let result = |status: UpdateStatus| UpdateResult { operation_id: None, status: status.into() };
    let results = [result(UpdateStatus::Completed), result(UpdateStatus::WaitTimeout), result(UpdateStatus::Completed)];
    assert!(confirmed(&[0, 2], &results).is_ok());
    assert!(confirmed(&[0, 1], &results).unwrap_err().contains("WaitTimeout"));
    assert!(confirmed(&[3], &results).is_err(), "a short answer confirms nothing");
    for status in [UpdateStatus::Acknowledged, UpdateStatus::ClockRejected, UpdateStatus::UnknownUpdateStatus] {
        assert!(confirmed(&[0], &[result(status)]).is_err(), "{status:?}");
    }
}

#[test]
fn failures_are_sorted_as_the_server_means_them() {
    let all: Vec<_> = (0..17).map(Code::from_i32).collect();
    let of =
        |verdict| all.iter().filter(|code| judge(&Status::new(**code, "")) == verdict).copied().collect::<Vec<_>>();
    assert_eq!(
        of(Verdict::Refused),
        [
            Code::InvalidArgument,
            Code::NotFound,
            Code::AlreadyExists,
            Code::PermissionDenied,
            Code::OutOfRange,
            Code::Unimplemented,
            Code::Unauthenticated
        ]
    );
    assert_eq!(of(Verdict::Later(Duration::ZERO)), [Code::FailedPrecondition, Code::Aborted]);
    let mut busy = Status::resource_exhausted("");
    assert_eq!(judge(&busy), Verdict::Later(Duration::from_secs(1)));
    busy.metadata_mut().insert("retry-after", "3".parse().unwrap());
    assert_eq!(judge(&busy), Verdict::Later(Duration::from_secs(3)));
    busy.metadata_mut().insert("retry-after", "99999".parse().unwrap());
    assert_eq!(judge(&busy), Verdict::Later(Duration::from_secs(10)), "bounded");
    let problem = errors::problem(&"vectors".into(), &busy);
    assert_eq!((problem.code.as_str(), problem.retry_after), ("overloaded", Some(99999)));
    for (code, expected) in [
        (Code::FailedPrecondition, "store_unavailable"),
        (Code::Aborted, "store_unavailable"),
        (Code::Unavailable, "store_unavailable"),
        (Code::Internal, "store_unavailable"),
        (Code::DeadlineExceeded, "timeout"),
        (Code::InvalidArgument, "rejected_by_store"),
        (Code::NotFound, "rejected_by_store"),
        (Code::Unimplemented, "unsupported"),
    ] {
        assert_eq!(errors::problem(&"vectors".into(), &Status::new(code, "")).code.as_str(), expected, "{code:?}");
    }
}

#[test]
fn floats_are_shown_as_they_were_written() {
    for text in ["0.1", "1.0", "-3.4028235e38", "1e-45", "16777216.0"] {
        let number: f32 = text.parse().unwrap();
        let shown = super::json::of_float(number);
        assert_eq!(shown.as_f64(), text.parse().ok(), "{text}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let words =
        ["points", "id", "vector", "payload", "filter", "must", "key", "match", "any", "query", "nearest", "ids"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(prop::sample::select(words.to_vec()), inner, 0..5)
                .prop_map(|map| map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_body_and_no_bytes_panic(body in any_json(), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for (verb, _) in Verb::ALL {
            if verb.reads() {
                let _ = reads::read(verb, &body, "c");
            } else if let Ok(write) = writes::read(verb, &body)
                && let Targets::Points(points) = write.targets
            {
                operations(&["", "a"], vec![Absolute::new(write.change, points)]);
            }
        }
        let _ = decode(&bytes);
    }

    #[test]
    fn payloads_come_back_as_they_went(payload in any_json()) {
        let payload = json!({"p": payload});
        let back = values::show_payload(values::payload(&payload).unwrap());
        prop_assert_eq!(Value::Object(back).to_string(), sorted(payload).to_string());
    }
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(pairs.into_iter().collect())
        }
        plain => plain,
    }
}
