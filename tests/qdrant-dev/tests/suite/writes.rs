//! Upserts, deletes, conditions, batches, and what an answer's status means.

use qdrant_client::Payload;
use qdrant_client::qdrant::points_update_operation::{
    DeletePoints as BatchDelete, Operation, PointStructList, SetPayload,
};
use qdrant_client::qdrant::{
    Condition, DeletePoints, Filter, PointStruct, PointsUpdateOperation, UpdateBatchPoints, UpdateMode, UpdateStatus,
    UpsertPoints,
};
use serde_json::json;
use tonic::Code;

use super::harness::{
    all_ids, completed, get, ids, payloads, point, refused, status, upsert, upsert_of, with_collection,
};

fn batch(operations: Vec<Operation>) -> UpdateBatchPoints {
    let operations = operations.into_iter().map(|operation| PointsUpdateOperation { operation: Some(operation) });
    UpdateBatchPoints {
        collection_name: "c".to_owned(),
        wait: Some(true),
        operations: operations.collect(),
        ..UpdateBatchPoints::default()
    }
}

fn add(points: Vec<PointStruct>) -> Operation {
    Operation::Upsert(PointStructList { points, ..PointStructList::default() })
}

#[tokio::test]
async fn numbers_and_uuids_are_ids() {
    let (_dir, _server, client) = with_collection().await;
    let uuid = "936da01f-9abd-4d9d-80c7-02af85c822a8";
    let by_uuid = PointStruct::new(uuid, vec![0.5; 4], Payload::new());
    upsert(&client, vec![point(0, json!({})), point(u64::MAX, json!({})), by_uuid]).await;
    let request = qdrant_client::qdrant::GetPoints {
        collection_name: "c".to_owned(),
        ids: vec!["936DA01F9ABD4D9D80C702AF85C822A8".into(), u64::MAX.into(), 5.into(), 0.into()],
        ..qdrant_client::qdrant::GetPoints::default()
    };
    let found = client.get_points(request).await.expect("points").result;
    let told: Vec<_> = found.into_iter().filter_map(|point| point.id).collect();
    assert_eq!(told, [uuid.into(), u64::MAX.into(), 0.into()], "in the order asked, without the missing one");
    let wrong = PointStruct::new("no-uuid", vec![0.5; 4], Payload::new());
    assert_eq!(refused(client.upsert_points(upsert_of(vec![wrong])).await).0, Code::InvalidArgument);
}

#[tokio::test]
async fn an_empty_upsert_is_refused() {
    let (_dir, _server, client) = with_collection().await;
    let (code, words) = refused(client.upsert_points(upsert_of(vec![])).await);
    assert_eq!((code, words.as_str()), (Code::InvalidArgument, "Bad request: Empty update request"));
}

#[tokio::test]
async fn points_are_deleted_by_ids_and_by_filter() {
    let (_dir, _server, client) = with_collection().await;
    upsert(&client, (1..=9).map(|id| point(id, json!({"even": id % 2 == 0}))).collect()).await;
    let delete =
        |points| DeletePoints { collection_name: "c".to_owned(), wait: Some(true), points, ..DeletePoints::default() };
    completed(client.delete_points(delete(ids([1_u64, 3, 77]))).await);
    assert_eq!(all_ids(&client).await, [2, 4, 5, 6, 7, 8, 9], "a missing id is nothing to complain of");
    let even = Filter::must([Condition::matches("even", true)]);
    completed(client.delete_points(delete(Some(even.into()))).await);
    assert_eq!(all_ids(&client).await, [5, 7, 9]);
}

#[tokio::test]
async fn waiting_is_completed_and_not_waiting_is_acknowledged() {
    let (_dir, _server, client) = with_collection().await;
    let silent = |wait| UpsertPoints { wait, ..upsert_of(vec![point(1, json!({}))]) };
    assert_eq!(status(client.upsert_points(silent(Some(true))).await), UpdateStatus::Completed);
    assert_eq!(status(client.upsert_points(silent(Some(false))).await), UpdateStatus::Acknowledged);
    assert_eq!(status(client.upsert_points(silent(None)).await), UpdateStatus::Acknowledged);
    // Who does not wait does not hear what became of it.
    let request = qdrant_client::qdrant::SetPayloadPoints {
        collection_name: "c".to_owned(),
        wait: Some(false),
        points_selector: ids([99_u64]),
        ..qdrant_client::qdrant::SetPayloadPoints::default()
    };
    assert_eq!(status(client.set_payload(request).await), UpdateStatus::Acknowledged);
}

#[tokio::test]
async fn a_batch_is_sequential_and_not_atomic() {
    let (_dir, _server, client) = with_collection().await;
    let set = |id: u64, n: i64| {
        Operation::SetPayload(SetPayload {
            payload: Payload::try_from(json!({"n": n})).expect("an object").into(),
            points_selector: ids([id]),
            ..SetPayload::default()
        })
    };
    let remove = |id: u64| Operation::DeletePoints(BatchDelete { points: ids([id]), ..BatchDelete::default() });
    let good = batch(vec![add(vec![point(1, json!({})), point(2, json!({}))]), set(1, 5), remove(2), set(1, 6)]);
    let answers = client.update_points_batch(good).await.expect("an answer").result;
    assert_eq!(answers.iter().map(|one| one.status()).collect::<Vec<_>>(), [UpdateStatus::Completed; 4]);
    assert_eq!(payloads(&client, &[1, 2]).await, [json!({"n": 6}), json!(null)]);

    let half = batch(vec![add(vec![point(3, json!({}))]), set(77, 1), add(vec![point(4, json!({}))])]);
    assert_eq!(refused(client.update_points_batch(half).await).0, Code::NotFound);
    assert_eq!(all_ids(&client).await, [1, 3], "the first stays, the third never happens");

    let mut wrong = point(6, json!({}));
    wrong.vectors = Some(vec![1.0].into());
    let malformed = batch(vec![add(vec![point(5, json!({}))]), add(vec![wrong])]);
    assert_eq!(refused(client.update_points_batch(malformed).await).0, Code::InvalidArgument);
    assert!(get(&client, &[5]).await.is_empty(), "what can be refused up front is");
    assert!(client.update_points_batch(batch(vec![])).await.expect("an answer").result.is_empty());
}

#[tokio::test]
async fn a_condition_keeps_an_old_write_from_overwriting_a_new_one() {
    let (_dir, _server, client) = with_collection().await;
    upsert(&client, vec![point(1, json!({"lsn": 10})), point(2, json!({"lsn": 30}))]).await;
    let older = |lsn: f64| {
        let range = qdrant_client::qdrant::Range { lt: Some(lsn), ..qdrant_client::qdrant::Range::default() };
        Some(Filter::must([Condition::range("lsn", range)]))
    };
    let write = |mode: Option<UpdateMode>| UpsertPoints {
        update_filter: older(20.0),
        update_mode: mode.map(i32::from),
        ..upsert_of((1..=3).map(|id| point(id, json!({"lsn": 20}))).collect())
    };
    completed(client.upsert_points(write(Some(UpdateMode::UpdateOnly))).await);
    let after = payloads(&client, &[1, 2, 3]).await;
    assert_eq!(after, [json!({"lsn": 20}), json!({"lsn": 30}), json!(null)], "Completed, whatever matched");
    completed(client.upsert_points(write(None)).await);
    assert_eq!(payloads(&client, &[3]).await, [json!({"lsn": 20})], "absent ones are inserted all the same");

    let insert = UpsertPoints {
        update_mode: Some(UpdateMode::InsertOnly.into()),
        ..upsert_of(vec![point(1, json!({"lsn": 99})), point(4, json!({"lsn": 99}))])
    };
    completed(client.upsert_points(insert).await);
    assert_eq!(payloads(&client, &[1, 4]).await, [json!({"lsn": 20}), json!({"lsn": 99})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_share_their_flushes() {
    let (_dir, server, client) = with_collection().await;
    server.order("reset");
    let before = server.counts();
    let clients: Vec<_> = (0..16_u64).map(|_| server.client()).collect();
    let tasks = clients.into_iter().zip(0_u64..).map(|(client, who)| {
        tokio::spawn(async move {
            for n in 0..25 {
                upsert(&client, vec![point(who * 1000 + n, json!({"who": who}))]).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("no panic");
    }
    assert_eq!(all_ids(&client).await.len(), 400);
    let count = |counts: &serde_json::Value, what: &str| counts[what].as_u64().expect("a count");
    let after = server.counts();
    let (jobs, flushes) =
        (count(&after, "jobs") - count(&before, "jobs"), count(&after, "flushes") - count(&before, "flushes"));
    assert_eq!(jobs, 400);
    assert!(flushes * 2 <= jobs, "{jobs} jobs took {flushes} flushes");
}
