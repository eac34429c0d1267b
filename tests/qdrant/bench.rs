//! How well redo writes coalesce. Not a check: run it with `--ignored --nocapture`.

use std::time::Instant;

use ::qdrant_client::qdrant::{PointStruct, UpsertPointsBuilder};
use futures::future::join_all;
use serde_json::json;

use crate::help::Bed;

const ROUNDS: u64 = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, checks nothing"]
async fn coalescing() {
    for clients in [1, 8, 32] {
        let bed = &Bed::plain().await;
        let one = |id: u64| json!({"points": [{"id": id, "vector": [1, 1], "payload": {"n": id}}]});
        let since = Instant::now();
        let direct = (0..clients).map(|client| async move {
            for round in 0..ROUNDS {
                let payload = ::qdrant_client::Payload::try_from(json!({"n": round})).expect("a payload");
                let point = PointStruct::new(client * ROUNDS + round, vec![1.0, 1.0], payload);
                let request = UpsertPointsBuilder::new(&bed.collection, vec![point]).wait(true);
                bed.client.upsert_points(request).await.expect("applied");
            }
        });
        join_all(direct).await;
        let direct = since.elapsed();
        let (since, before) = (Instant::now(), bed.store.redo_counts());
        let ours = (0..clients).map(|client| async move {
            for round in 0..ROUNDS {
                bed.one("upsert", one(client * ROUNDS + round)).await;
            }
        });
        join_all(ours).await;
        let (ours, after) = (since.elapsed(), bed.store.redo_counts());
        let (calls, carried) = (after.0 - before.0, after.1 - before.1);
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let rate = |time: std::time::Duration| (clients * ROUNDS) as f64 / time.as_secs_f64();
        println!(
            "{clients} clients: direct {:.0}/s, through the session {:.0}/s, {carried} transactions in {calls} calls",
            rate(direct),
            rate(ours)
        );
    }
}
