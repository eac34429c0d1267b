//! Circles among our own transactions.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::bank::{Bank, MUCH_SOONER};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_over_two_stores() {
    let bank = Bank::open("two").await;
    // The one holds the row and will want the node, the other the other way round.
    let one = bank.send(json!([bank.row("r", 1, 1, 600, None), bank.node("n", 1, 1, Some("r"))]));
    bank.held(&[1]).await;
    let other = bank.send(json!([bank.node("n", 1, 1, None), bank.row("r", 1, 1, 0, Some("n"))]));
    bank.one_victim(vec![one, other], &["graph", "pg"]).await;
    assert_eq!(bank.balances(1), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_over_two_stores() {
    let bank = Bank::open("three").await;
    let first = bank.send(json!([bank.row("r", 1, 1, 900, None), bank.node("n", 1, 1, Some("r"))]));
    let third = bank.send(json!([bank.row("r", 2, 1, 900, None), bank.row("s", 1, 1, 0, None)]));
    bank.held(&[1, 2]).await;
    let second = bank.send(json!([bank.node("n", 1, 1, None), bank.row("r", 2, 1, 0, Some("n"))]));
    let record = bank.one_victim(vec![first, second, third], &["graph", "pg"]).await;
    assert_eq!(record["cycle"].as_array().unwrap().len(), 3);
    let (row, node) = bank.balances(1);
    let row_2 = bank.balances(2).0;
    // Each wrote two of the three, and one of them nothing.
    assert_eq!(row + node + row_2, 4, "{row} {node} {row_2}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_our_lock_table_and_a_store() {
    let bank = Bank::open("point").await;
    let point = |after: &Value| {
        let points = json!([{"id": 1, "vector": [0.1, 0.2, 0.3, 0.4], "payload": {"by": after}}]);
        json!({"id": "p", "store": "vectors", "collection": bank.world.name, "upsert": {"points": points}})
    };
    // A point whose operation waits for a result is locked only then.
    let one = bank.send(json!([bank.row("r", 1, 1, 600, None), point(&json!({"$ref": "r#/rows/0/id"}))]));
    bank.held(&[1]).await;
    let other = bank.send(json!([point(&json!(0)), bank.row("r", 1, 1, 0, None)]));
    bank.one_victim(vec![one, other], &["locks", "pg"]).await;
    assert_eq!(bank.balances(1).0, 1);
    assert_eq!(bank.world.audit().await.points.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_want_more_of_what_both_share() {
    let bank = Bank::open("upgrade").await;
    let name = &bank.world.name;
    let both = |account: i64| {
        let points = json!([{"id": account, "vector": [0.1, 0.2, 0.3, 0.4], "payload": {"of": account}}]);
        let filter = json!({"must": [{"key": "of", "match": {"value": {"$ref": "r#/rows/0/id"}}}]});
        // The point's lock comes with the collection's IX, before any work; the delete by filter then wants it X.
        json!([bank.row("r", account, 1, 600, None),
               {"id": "d", "store": "vectors", "collection": name, "delete": {"filter": filter}},
               {"id": "p", "store": "vectors", "collection": name, "upsert": {"points": points}}])
    };
    let sent = vec![bank.send(both(1)), bank.send(both(2))];
    bank.one_victim(sent, &["locks"]).await;
    assert_eq!(bank.balances(1).0 + bank.balances(2).0, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_victim_that_may_is_run_again_and_commits() {
    let bank = Bank::open("again").await;
    let again = |operations: Value| {
        let retry = json!({"max_attempts": 5, "base_delay_ms": 10, "max_delay_ms": 100});
        bank.send_all_of(json!({"operations": operations, "timeout_ms": 20000, "retry": retry}))
    };
    let one = again(json!([bank.row("r", 1, 1, 600, None), bank.node("n", 1, 1, Some("r"))]));
    bank.held(&[1]).await;
    let other = again(json!([bank.node("n", 1, 1, None), bank.row("r", 1, 1, 0, Some("n"))]));
    let mut attempts = Vec::new();
    for sent in [one, other] {
        let reply = timeout(MUCH_SOONER, sent).await.expect("the circle is broken").unwrap();
        reply.must_be(200, "committed");
        attempts.push(reply.body["attempts"].as_u64().unwrap());
    }
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 2], "one ran twice");
    assert_eq!(bank.balances(1), (2, 2));
    assert_eq!(bank.deadlocks().await.len(), 1);
}

/// Waiting alone is no reason to give way, however long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_waits_is_left_alone() {
    let bank = Bank::open("queue").await;
    let holder = bank.send(json!([bank.row("r", 1, 1, 1500, None), bank.node("n", 1, 1, Some("r"))]));
    bank.held(&[1]).await;
    let mut queue: Vec<_> =
        (0..4).map(|_| bank.send(json!([bank.row("r", 1, 1, 0, None), bank.node("n", 1, 1, Some("r"))]))).collect();
    queue.push(holder);
    for sent in queue {
        timeout(Duration::from_secs(8), sent).await.expect("its turn").unwrap().must_be(200, "committed");
    }
    assert_eq!(bank.balances(1), (5, 5));
    assert_eq!(bank.deadlocks().await, Vec::<Value>::new());
}
