//! What was acknowledged is there: after a restart, after a `kill -9`, and for one process at a time.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qdrant_client::Qdrant;
use qdrant_client::qdrant::{CreateAlias, CreateFieldIndexCollectionBuilder, DeletePoints, FieldType};
use serde_json::json;

use super::harness::{
    Server, all_ids, command, completed, create, get, ids, payloads, point, storage, upsert, upsert_of, with_collection,
};

#[tokio::test]
async fn a_restart_keeps_everything() {
    let (_dir, storage) = storage();
    let server = Server::start(&storage);
    let client = server.client();
    create(&client, "c").await;
    create(&client, "gone").await;
    upsert(&client, (1..=50).map(|id| point(id, json!({"n": id}))).collect()).await;
    let alias = CreateAlias { collection_name: "c".to_owned(), alias_name: "a".to_owned() };
    client.create_alias(alias).await.expect("an alias");
    let index = CreateFieldIndexCollectionBuilder::new("c", "n", FieldType::Integer).wait(true);
    completed(client.create_field_index(index).await);
    client.delete_collection("gone").await.expect("an end");
    let before = get(&client, &[7]).await;
    assert!(server.stop(), "SIGTERM ends it with success");

    let server = Server::start(&storage);
    let client = server.client();
    assert_eq!(get(&client, &[7]).await, before);
    assert_eq!(all_ids(&client).await, (1..=50).collect::<Vec<_>>());
    assert_eq!(client.list_aliases().await.expect("aliases").aliases[0].collection_name, "c");
    assert!(!client.collection_exists("gone").await.expect("an answer"));
    let info = client.collection_info("c").await.expect("info").result.expect("info");
    assert!(info.payload_schema.contains_key("n"));
    // It goes on where it stood: the engine skips what it takes for older than what it has.
    upsert(&client, vec![point(7, json!({"n": 700})), point(51, json!({}))]).await;
    assert_eq!(payloads(&client, &[7, 51]).await, [json!({"n": 700}), json!({})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_nothing_that_was_acknowledged() {
    let (_dir, storage) = storage();
    let mut acknowledged: HashMap<u64, i64> = HashMap::new();
    let mut version = 0;
    for round in 0..4 {
        let server = Server::start(&storage);
        if round == 0 {
            create(&server.client(), "c").await;
        }
        let killed = Arc::new(AtomicBool::new(false));
        version += 1_000_000;
        let writers: Vec<_> =
            (0..6).map(|who| tokio::spawn(write_until(server.client(), who, version, Arc::clone(&killed)))).collect();
        tokio::time::sleep(Duration::from_millis(400 + 150 * round)).await;
        killed.store(true, Ordering::Relaxed);
        server.kill();
        for writer in writers {
            acknowledged.extend(writer.await.expect("no panic"));
        }
        let server = Server::start(&storage);
        check(&server.client(), &acknowledged).await;
        assert!(server.stop());
    }
    assert!(acknowledged.len() > 20, "only {} points were written", acknowledged.len());
}

/// Writes new points and overwrites old ones with growing versions, until the server dies: the last acknowledged
/// version of each point.
async fn write_until(client: Qdrant, who: u64, first: i64, killed: Arc<AtomicBool>) -> HashMap<u64, i64> {
    let mut acknowledged = HashMap::new();
    for version in first.. {
        // Every third write goes to one of ten old points, so that overwrites in place are under way when it dies.
        let step = u64::try_from(version - first).expect("it grows");
        let id = who * 100_000 + if step.is_multiple_of(3) { step % 10 } else { step };
        match client.upsert_points(upsert_of(vec![point(id, json!({"v": version}))])).await {
            Ok(_) => acknowledged.insert(id, version),
            Err(error) => {
                assert!(killed.load(Ordering::Relaxed), "{error} before the kill");
                break;
            }
        };
    }
    acknowledged
}

/// Every acknowledged point is there, whole, in that version or in a later one that was never acknowledged.
async fn check(client: &Qdrant, acknowledged: &HashMap<u64, i64>) {
    let wanted: Vec<_> = acknowledged.keys().copied().collect();
    let found = get(client, &wanted).await;
    assert_eq!(found.len(), wanted.len(), "points are missing");
    for point in found {
        let id = super::harness::number(&point).expect("a number");
        let version = point.payload["v"].as_integer().expect("a version");
        assert!(version >= acknowledged[&id], "point {id} is at {version}, {} was acknowledged", acknowledged[&id]);
        assert!(point.vectors.is_some(), "point {id} has no vector");
    }
}

#[tokio::test]
async fn a_deleted_point_stays_deleted_after_a_kill() {
    let (dir, server, client) = with_collection().await;
    upsert(&client, (1..=5).map(|id| point(id, json!({}))).collect()).await;
    let delete = DeletePoints {
        collection_name: "c".to_owned(),
        wait: Some(true),
        points: ids([2_u64, 4]),
        ..DeletePoints::default()
    };
    completed(client.delete_points(delete).await);
    server.kill();
    let server = Server::start(&dir.path().join("storage"));
    assert_eq!(all_ids(&server.client()).await, [1, 3, 5]);
}

#[tokio::test]
async fn a_collection_that_a_crash_left_half_made_is_swept_out() {
    let (dir, server, _client) = with_collection().await;
    server.kill();
    let rubbish = dir.path().join("storage/collections/half-made");
    std::fs::create_dir_all(rubbish.join("shard")).expect("a folder");
    let server = Server::start(&dir.path().join("storage"));
    assert!(!rubbish.exists());
    let names = server.client().list_collections().await.expect("names").collections;
    assert_eq!(names.len(), 1);
}

#[test]
fn two_processes_do_not_share_a_folder() {
    let (_dir, storage) = storage();
    let _first = Server::start(&storage);
    let second = command(&storage).stderr(Stdio::piped()).output().expect("an end");
    assert!(!second.status.success());
    let words = String::from_utf8_lossy(&second.stderr);
    assert!(words.contains("served by another process"), "{words}");
}

#[test]
fn only_this_machine_is_served() {
    let (_dir, storage) = storage();
    let open = command(&storage).args(["--faults-listen", "0.0.0.0:0"]).stderr(Stdio::piped()).output();
    let open = open.expect("an end");
    assert!(!open.status.success());
    let words = String::from_utf8_lossy(&open.stderr);
    assert!(words.contains("not a loopback address"), "{words}");
}
