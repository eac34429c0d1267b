//! Each fault does what the README says, once, and only where it was ordered.
//!
//! The client repeats a call silently over `Unavailable`, `Internal`, `Cancelled` and `Unknown`: a single fault of these
//! codes would not be seen here.

use std::time::{Duration, Instant};

use qdrant_client::QdrantError;
use qdrant_client::qdrant::points_update_operation::{Operation, PointStructList};
use qdrant_client::qdrant::{PointsUpdateOperation, UpdateBatchPoints, UpdateStatus, UpsertPoints};
use serde_json::json;
use tonic::Code;

use super::harness::{Server, all_ids, get, payloads, point, refused, status, upsert, upsert_of, with_collection};

/// Long enough for a write on a busy machine.
const PATIENCE: Duration = Duration::from_millis(1500);

fn one(id: u64) -> UpsertPoints {
    upsert_of(vec![point(id, json!({}))])
}

fn fired(server: &Server, fault: &str) -> u64 {
    server.counts()["fired"][fault].as_u64().unwrap_or(0)
}

#[tokio::test]
async fn fail_before_applies_nothing_and_ends_after_n() {
    let (_dir, server, client) = with_collection().await;
    assert_eq!(server.order("inject fail_before code=failed_precondition n=2"), "armed");
    for _ in 0..2 {
        assert_eq!(refused(client.upsert_points(one(1)).await).0, Code::FailedPrecondition);
    }
    assert!(get(&client, &[1]).await.is_empty());
    upsert(&client, vec![point(1, json!({}))]).await;
    assert_eq!(fired(&server, "fail_before"), 2);
}

#[tokio::test]
async fn the_client_repeats_over_unavailable_without_a_word() {
    let (_dir, server, client) = with_collection().await;
    server.order("inject fail_before code=unavailable");
    upsert(&client, vec![point(1, json!({}))]).await;
    assert_eq!(fired(&server, "fail_before"), 1);
    server.order("inject fail_before code=unavailable n=2");
    assert_eq!(refused(client.upsert_points(one(2)).await).0, Code::Unavailable);
}

#[tokio::test]
async fn fail_after_has_applied_it() {
    let (_dir, server, client) = with_collection().await;
    server.order("inject fail_after");
    assert_eq!(refused(client.upsert_points(one(1)).await).0, Code::DeadlineExceeded);
    assert_eq!(all_ids(&client).await, [1]);
}

#[tokio::test]
async fn dropped_requests_and_replies_hang_until_the_client_gives_up() {
    let (_dir, server, client) = with_collection().await;
    let impatient = server.client_within(PATIENCE);
    server.order("inject drop_request");
    let begun = Instant::now();
    // The client knows a deadline as a cancellation, and would repeat it; the second try goes through.
    impatient.upsert_points(one(1)).await.expect("the repetition");
    assert!(begun.elapsed() >= PATIENCE);
    server.order("inject drop_reply n=2");
    refused(impatient.upsert_points(one(2)).await);
    assert_eq!(all_ids(&client).await, [1, 2], "applied, though nobody was told");
    assert_eq!((fired(&server, "drop_request"), fired(&server, "drop_reply")), (1, 2));
    assert!(server.stop(), "calls that hang do not keep it from ending");
}

#[tokio::test]
async fn delay_delays() {
    let (_dir, server, client) = with_collection().await;
    server.order("inject delay ms=300");
    let begun = Instant::now();
    upsert(&client, vec![point(1, json!({}))]).await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn wait_timeout_is_an_ok_that_is_not_completed() {
    let (_dir, server, client) = with_collection().await;
    server.order("inject wait_timeout ms=4000");
    let begun = Instant::now();
    let first = upsert_of(vec![point(1, json!({"v": "first"}))]);
    assert_eq!(status(client.upsert_points(first).await), UpdateStatus::WaitTimeout);
    assert!(begun.elapsed() < Duration::from_millis(4000), "answered at once");
    assert!(get(&client, &[1]).await.is_empty(), "not yet");
    // The next write stands behind it in the queue.
    upsert(&client, vec![point(1, json!({"v": "second"}))]).await;
    assert!(begun.elapsed() >= Duration::from_millis(4000));
    assert_eq!(payloads(&client, &[1]).await, [json!({"v": "second"})]);
}

#[tokio::test]
async fn a_timeout_in_the_request_gives_wait_timeout_too() {
    let (_dir, server, client) = with_collection().await;
    server.order("inject wait_timeout ms=5000");
    status(client.upsert_points(one(1)).await);
    let impatient = UpsertPoints { timeout: Some(1), ..one(2) };
    assert_eq!(status(client.upsert_points(impatient).await), UpdateStatus::WaitTimeout);
    upsert(&client, vec![point(3, json!({}))]).await;
    assert_eq!(all_ids(&client).await, [1, 2, 3], "it happened all the same");
}

#[tokio::test]
async fn late_overtakes_what_was_written_meanwhile() {
    let (_dir, server, client) = with_collection().await;
    server.order("inject late ms=4000");
    let old = upsert_of(vec![point(1, json!({"v": "old"}))]);
    assert_eq!(refused(client.upsert_points(old).await).0, Code::DeadlineExceeded);
    upsert(&client, vec![point(1, json!({"v": "new"}))]).await;
    assert_eq!(payloads(&client, &[1]).await, [json!({"v": "new"})]);
    let until = Instant::now() + Duration::from_secs(20);
    while payloads(&client, &[1]).await != [json!({"v": "old"})] {
        assert!(Instant::now() < until, "the late copy never came");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn exhausted_names_its_retry_after() {
    let (_dir, server, client) = with_collection().await;
    server.order("inject exhausted retry_after=7");
    let error = client.upsert_points(one(1)).await.expect_err("a refusal");
    assert!(matches!(error, QdrantError::ResourceExhaustedError { retry_after_seconds: 7, .. }), "{error:?}");
    assert!(get(&client, &[1]).await.is_empty());
}

#[tokio::test]
async fn half_applies_half() {
    let (_dir, server, client) = with_collection().await;
    server.order("inject half n=2");
    let five = upsert_of((1..=5).map(|id| point(id, json!({}))).collect());
    assert_eq!(refused(client.upsert_points(five).await).0, Code::DeadlineExceeded);
    assert_eq!(all_ids(&client).await, [1, 2]);
    let add = |id| Operation::Upsert(PointStructList { points: vec![point(id, json!({}))], ..Default::default() });
    let batch = UpdateBatchPoints {
        collection_name: "c".to_owned(),
        wait: Some(true),
        operations: (11..=14).map(|id| PointsUpdateOperation { operation: Some(add(id)) }).collect(),
        ..UpdateBatchPoints::default()
    };
    assert_eq!(refused(client.update_points_batch(batch).await).0, Code::DeadlineExceeded);
    assert_eq!(all_ids(&client).await, [1, 2, 11, 12]);
}

#[tokio::test]
async fn faults_hit_the_verb_and_collection_that_were_named_and_reads_when_asked() {
    let (_dir, server, client) = with_collection().await;
    server.order("inject fail_before verbs=delete,set_payload n=5");
    server.order("inject fail_before collection=other n=5");
    server.order("inject fail_before verbs=scroll code=aborted skip=1");
    upsert(&client, vec![point(1, json!({}))]).await;
    assert_eq!(all_ids(&client).await, [1], "the first scroll is let pass");
    let scroll = qdrant_client::qdrant::ScrollPoints { collection_name: "c".to_owned(), ..Default::default() };
    assert_eq!(refused(client.scroll(scroll).await).0, Code::Aborted);
    assert_eq!(all_ids(&client).await, [1]);
    server.order("reset");
    let counts = server.counts();
    assert_eq!((&counts["armed"], &counts["fired"]), (&json!([]), &json!({})));
}

#[tokio::test]
async fn the_control_port_says_what_it_did_not_understand() {
    let (_dir, server, client) = with_collection().await;
    assert_eq!(server.try_order("inject fail"), "error no fault `fail`");
    assert!(server.try_order("dance").starts_with("error "));
    assert!(server.try_order("optimize nothing").starts_with("error "));
    upsert(&client, vec![point(1, json!({}))]).await;
}
