//! Parts that a store refuses for good: mended and retried, or given up on record.

use super::*;

/// Makes the table's commit last long enough to drop a collection between the check of a write and the decision.
fn slow_commit(world: &World) {
    let n = &world.name;
    world.sql(&format!(
        "CREATE FUNCTION {n}_slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
         CREATE CONSTRAINT TRIGGER {n}_slow AFTER INSERT ON {n} DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION {n}_slow();"
    ));
}

async fn drop_collection(world: &World) {
    world.qdrant().delete_collection(&world.name).await.unwrap();
}

async fn make_collection(world: &World) {
    use qdrant_client::qdrant::{CreateCollectionBuilder, Distance, VectorParamsBuilder};
    let vectors = VectorParamsBuilder::new(4, Distance::Dot);
    world.qdrant().create_collection(CreateCollectionBuilder::new(&world.name).vectors_config(vectors)).await.unwrap();
}

/// Submits a document whose collection is gone by the time that it is decided; answers its id.
async fn refused(world: &World, sidecar: &Sidecar, id: i64) -> String {
    let name = format!("{}:{id}", world.name);
    let mut body = world.document(id, &["pg", "vectors"]);
    body["name"] = json!(name);
    let dropping = async {
        world
            .until(Duration::from_secs(10), "its writes are checked", async || {
                let view = world.get(sidecar, &format!("/v1/transactions/name:{name}")).await.body;
                view["timeline"].as_array().is_some_and(|steps| steps.iter().any(|step| step["step"] == "validated"))
            })
            .await;
        drop_collection(world).await;
    };
    let (reply, ()) = futures::join!(world.submit(sidecar, &body), dropping);
    reply.must_be(200, "needs_intervention");
    assert_eq!(reply.body["pending"], json!(["vectors"]), "{:#}", reply.body);
    reply.body["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_part_is_mended_or_given_up() {
    let world = World::new("hand_refused").await;
    slow_commit(&world);
    let launch = world.launch();
    let mut sidecar = world.start(&launch).await;
    // Mended: retried at once, by the command line.
    let mended = refused(&world, &sidecar, 1).await;
    let told = world.get(&sidecar, &format!("/v1/transactions/{mended}/explain")).await.body;
    let summary = told["summary"].to_string();
    assert!(summary.contains("vectors refuses its part") && summary.contains("or by `skip`"), "{told:#}");
    let allowed: Vec<_> = told["operator"].as_array().unwrap().iter().filter(|verb| verb["allowed"] == true).collect();
    assert_eq!(allowed.len(), 3, "{told:#}");
    resolve(&world, &sidecar, &mended, "rollback").await.must_be(409, "wrong_state");
    make_collection(&world).await;
    let (code, shown) = outrigger(&world, &sidecar, &["txn", "resolve", &mended, "retry", "--reason", "it is back"]);
    assert!(code == Some(0) && shown.contains("committed"), "{code:?} {shown}");
    // Given up: the store will never have it, and everybody can see that.
    let skipped = refused(&world, &sidecar, 2).await;
    let reply = resolve(&world, &sidecar, &skipped, "skip").await;
    reply.must_be(200, "committed");
    let part = &reply.body["skipped"][0];
    assert_eq!((&part["store"], &part["by"]), (&json!("vectors"), &json!("local-operator")), "{:#}", reply.body);
    assert_eq!((&part["reason"], &reply.body["pending"]), (&json!("a test says skip"), &json!([])));
    assert_eq!(reply.body["results"]["point"]["applied"], false, "{:#}", reply.body);
    resolve(&world, &sidecar, &skipped, "skip").await.must_be(409, "wrong_state");
    resolve(&world, &sidecar, &skipped, "commit").await.must_be(200, "committed");
    let lines = audit(&world);
    let of_skip: Vec<_> =
        lines.iter().filter(|line| line["action"] == "skip" && line["outcome"] != "refused").collect();
    assert_eq!(of_skip.len(), 2, "{lines:#?}");
    assert_eq!((&of_skip[0]["act"], &of_skip[1]["after"]), (&of_skip[1]["act"], &json!("committed")));
    assert_eq!(world.get(&sidecar, "/v1/status").await.body["locks"]["held"], 0);
    // After a restart the log still says so, and the collection does not get what was given up.
    sidecar.kill().unwrap();
    make_collection(&world).await;
    let sidecar = world.start(&launch).await;
    let view = world.get(&sidecar, &format!("/v1/transactions/{skipped}")).await.body;
    assert_eq!((&view["state"], &view["skipped"][0]["reason"]), (&json!("committed"), &json!("a test says skip")));
    let held = world.audit().await;
    assert_eq!((held.rows.len(), held.points.len()), (2, 0), "{held:?}");
}

/// Dies in the middle of giving up, after `point`, with the collection mended before the next start: what the log says
/// decides whether the part is tried again.
async fn dies_giving_up(point: &str, tried_again: bool) {
    let world = World::new(&format!("hand_{point}")).await;
    let launch = world.launch();
    let name = leave(&world, &launch, "after_decide", 7).await;
    drop_collection(&world).await;
    let mut sidecar = world.start(&launch.with("OUTRIGGER_CRASH_AT", point)).await;
    let id = id_of(&world, &sidecar, &name).await;
    until(&world, &sidecar, &id, "needs_intervention").await;
    assert!(try_resolve(&world, &sidecar, &id, "skip").await.is_none(), "{point}: it answered instead of dying");
    sidecar.wait_end(Duration::from_secs(5)).unwrap();
    make_collection(&world).await;
    let sidecar = world.start(&launch).await;
    let view = until(&world, &sidecar, &id, "committed").await;
    assert_eq!(view["skipped"].as_array().is_none(), tried_again, "{point}: {view:#}");
    let held = world.audit().await;
    assert_eq!((held.rows.len(), held.nodes.len(), held.points.len()), (1, 1, usize::from(tried_again)), "{point}");
    assert_eq!(world.prepared(&sidecar).await, 0);
    assert_eq!(world.get(&sidecar, "/v1/status").await.body["locks"]["held"], 0);
    // Whatever came of it, that it was asked for is on record.
    let asked = audit(&world).into_iter().find(|line| line["action"] == "skip").unwrap();
    assert_eq!((&asked["step"], &asked["reason"]), (&json!("asked"), &json!("a test says skip")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dies_before_it_is_written_down() {
    dies_giving_up("before_skip", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dies_once_it_is_written_down() {
    dies_giving_up("after_skip", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dies_between_giving_up_and_the_end() {
    dies_giving_up("before_done", false).await;
}

/// Where it cannot be written down, nothing is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_audit_log_no_hand_acts() {
    let world = World::new("hand_deaf").await;
    let launch = world.launch();
    let name = leave(&world, &launch, "after_decide", 7).await;
    drop_collection(&world).await;
    let path = world.dir().join("journal/audit.jsonl");
    std::fs::create_dir(&path).unwrap();
    let sidecar = world.start(&launch).await;
    let id = id_of(&world, &sidecar, &name).await;
    until(&world, &sidecar, &id, "needs_intervention").await;
    let reply = resolve(&world, &sidecar, &id, "skip").await;
    reply.must_be(503, "journal_unavailable");
    assert!(reply.body["detail"].as_str().unwrap().contains("nothing is done by hand unrecorded"), "{:#}", reply.body);
    let view = until(&world, &sidecar, &id, "needs_intervention").await;
    assert!(view["skipped"].is_null(), "{view:#}");
    std::fs::remove_dir(&path).unwrap();
    resolve(&world, &sidecar, &id, "skip").await.must_be(200, "committed");
}

/// A committed marker names a store of which the log holds nothing: nobody can carry that part out, and only a hand ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_log_has_lost_is_given_up() {
    let world = World::new("hand_lost").await;
    let launch = world.launch();
    let mut sidecar = world.start(&launch).await;
    let log = world.get(&sidecar, "/v1/status").await.body["log"]["id"].as_str().unwrap().to_owned();
    sidecar.kill().unwrap();
    let (n, txn) = (&world.name, uuid::Uuid::now_v7().to_string());
    world.sql(&format!(
        "INSERT INTO outrigger.decision (txn, attempt, outcome, log_id, durable_lsn, followers)
         VALUES ('{txn}', 1, 'committed', '{log}', 0, '{{pg,vectors}}');
         BEGIN;
         INSERT INTO outrigger.participant (txn, attempt, log_id, durable_lsn) VALUES ('{txn}', 1, '{log}', 0);
         INSERT INTO {n} VALUES (1, 't');
         PREPARE TRANSACTION 'ogr1:{log}:{txn}:1:0:pg';"
    ));
    let mut sidecar = world.start(&launch.with("OUTRIGGER_CRASH_AT", "after_skip")).await;
    let view = until(&world, &sidecar, &txn, "needs_intervention").await;
    assert_eq!(view["pending"], json!(["vectors"]), "{view:#}");
    let told = world.get(&sidecar, &format!("/v1/transactions/{txn}/explain")).await.body["summary"].to_string();
    assert!(told.contains("the log holds nothing of what it owes to vectors"), "{told}");
    resolve(&world, &sidecar, &txn, "retry").await.must_be(200, "needs_intervention");
    assert_eq!(world.prepared(&sidecar).await, 1, "what is not lost waits too");
    assert!(try_resolve(&world, &sidecar, &txn, "skip").await.is_none());
    sidecar.wait_end(Duration::from_secs(5)).unwrap();
    // It is written down: the next start needs no hand, and carries out what was not lost.
    let sidecar = world.start(&launch).await;
    let view = until(&world, &sidecar, &txn, "committed").await;
    assert_eq!(view["skipped"][0]["store"], "vectors", "{view:#}");
    assert_eq!((world.prepared(&sidecar).await, world.audit().await.rows.len()), (0, 1));
}
