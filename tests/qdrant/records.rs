//! `record` operations as points: the locks they need, vectors where a point is made, and writes that can be repeated.

use outrigger::lock::{LockKey, Mode};
use outrigger::model::problem::{Code, Problem};
use outrigger::model::record::{Act, IfVersion};
use outrigger::model::request::BoundOp;
use serde_json::{Value, json};

use crate::help::Bed;
use crate::records_contract::{self as records, Place};

const U: &str = "0199aa00-0000-7000-8000-00000000000a";

fn place(bed: &Bed) -> Place {
    Place { store: "vectors", name: bed.collection.clone(), vector: Some(json!([1, 1])) }
}

/// One whole transaction. What it has to write is written twice: a repeat changes nothing.
async fn run(bed: &Bed, ops: Vec<BoundOp>) -> Result<Vec<Value>, Problem> {
    let mut session = bed.session().await;
    session.footprint(&ops).await?;
    let results = session.work(&ops).await?;
    let writes = session.validate().await?;
    for _ in 0..2 {
        bed.apply(&writes).await.expect("applied");
    }
    Ok(results)
}

#[tokio::test]
async fn every_act_under_every_condition() {
    let bed = Bed::plain().await;
    let place = place(&bed);
    records::every_act_under_every_condition(&place, async |ops| run(&bed, ops).await).await;
    records::one_transaction_is_one(&place, async |ops| run(&bed, ops).await).await;
    bed.one("upsert", json!({"points": [{"id": 77, "vector": [1, 1], "payload": {"balance": 0}}]})).await;
    records::without_a_version_it_is_at_0(&place, 77, async |ops| run(&bed, ops).await).await;
}

#[tokio::test]
async fn a_get_means_to_write() {
    let bed = Bed::plain().await;
    let place = place(&bed);
    let mut session = bed.session().await;
    let by_uuid = json!({"key": {"id": U.to_uppercase()}});
    let ops = [
        place.op(Act::Get, 7, IfVersion::Any, json!({})),
        place.with(Act::Delete, &bed.collection, "version", IfVersion::Any, by_uuid),
        place.op(Act::Put, 8, IfVersion::Any, json!({})),
    ];
    let claims = session.footprint(&ops).await.expect("claims");
    let whole = (LockKey::Resource("vectors".into(), bed.collection.clone()), Mode::IntentExclusive);
    let point = |id: &str| LockKey::Point("vectors".into(), bed.collection.clone(), id.to_owned());
    let found: Vec<_> = claims.into_iter().map(|claim| (claim.key, claim.mode)).collect();
    let expected = [
        whole.clone(),
        (point("7"), Mode::Update),
        whole.clone(),
        (point(U), Mode::Exclusive),
        whole,
        (point("8"), Mode::Exclusive),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn vectors_are_needed_where_a_point_is_made() {
    let (plain, named) = (Bed::plain().await, Bed::named().await);
    let put = |bed: &Bed, vector: Option<Value>, id: Value| {
        let place = Place { vector, ..place(bed) };
        let body = json!({"key": {"id": id}, "set": {"a": 1, "gone": null}});
        place.with(Act::Put, &bed.collection, "v", IfVersion::Any, body)
    };
    for (bed, vector, code, pointer) in [
        (&plain, None, Code::RejectedByStore, ""),
        (&named, None, Code::RejectedByStore, ""),
        (&plain, Some(json!(["x", 1])), Code::InvalidRequest, "/vector/0"),
    ] {
        let problem = run(bed, vec![put(bed, vector, json!(1))]).await.expect_err("refused");
        let expected = format!("/operations/0/record{pointer}");
        assert_eq!((problem.code, problem.pointer.as_deref()), (code, Some(expected.as_str())), "{problem}");
    }
    for (bed, vector) in [(&plain, json!([1, 2, 3])), (&named, json!({"nobody": [1]}))] {
        let problem = run(bed, vec![put(bed, Some(vector), json!(1))]).await.expect_err("it does not fit");
        assert_eq!((problem.code, problem.operation.as_deref()), (Code::RejectedByStore, Some("r")), "{problem}");
    }
    let bad_key = run(&plain, vec![put(&plain, None, json!("no uuid"))]).await.expect_err("no id");
    assert_eq!(bad_key.pointer.as_deref(), Some("/operations/0/record/key/id"), "{bad_key}");
    run(&named, vec![put(&named, Some(json!({"a": [1, 2, 3]})), json!(1))]).await.expect("made");
    run(&named, vec![put(&named, Some(json!({})), json!(2))]).await.expect("made without a vector");
    run(&named, vec![put(&named, Some(json!({"rows": [[1, 2]]})), json!(1))]).await.expect("a vector more");
    run(&named, vec![put(&named, None, json!(1))]).await.expect("its payload alone");
    let points = named.points(json!([1, 2])).await;
    assert_eq!(
        points,
        json!([
            {"id": 1, "payload": {"a": 1, "v": 3}, "vector": {"a": [1.0, 2.0, 3.0], "rows": [[1.0, 2.0]]}},
            {"id": 2, "payload": {"a": 1, "v": 1}},
        ])
    );
    // What stands where the version should is no version.
    plain.one("upsert", json!({"points": [{"id": 9, "vector": [1, 1], "payload": {"v": "x"}}]})).await;
    let problem = run(&plain, vec![put(&plain, None, json!(9))]).await.expect_err("text is no version");
    assert_eq!(problem.pointer.as_deref(), Some("/operations/0/record/version"), "{problem}");
}
