//! Writes after the decision on a server's bad days: nothing is lost, nothing lands late, only the guilty are refused.

use std::io::Read as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use ::qdrant_client::qdrant::{DeletePointsBuilder, PointsIdsList};
use outrigger::journal::slip::Decided;
use outrigger::model::commit::RedoWrite;
use outrigger::model::problem::Code;
use outrigger::model::state::Outcome;
use outrigger::store::qdrant::Qdrant;
use outrigger::store::{Redoes, Setback, Store};
use serde_json::{Value, json};
use xtask::stack::{Login, Stack, Store as Kind, Wanted};

use crate::help::{Bed, DEADLINE, config, decided, fresh_run};

fn put(id: u64, n: u64) -> Value {
    json!({"points": [{"id": id, "vector": [1, 1], "payload": {"n": n}}]})
}

async fn planned(bed: &Bed, id: u64, n: u64) -> Vec<RedoWrite> {
    bed.plan(&[bed.op("w", "upsert", put(id, n))]).await.expect("nothing to refuse")
}

async fn counted(bed: &Bed, id: u64) -> Option<u64> {
    bed.points(json!([id])).await[0]["payload"]["n"].as_u64()
}

fn is_again(answer: &Result<(), Setback>) -> bool {
    matches!(answer, Err(Setback::Again(_)))
}

#[tokio::test]
async fn an_unknown_fate_is_answered_only_when_a_repeat_is_safe() {
    for (rule, applied) in [
        ("fail_after", Some(1)),
        ("fail_before code=unavailable", None),
        ("fail_after code=internal", Some(1)),
        ("drop_reply", Some(1)),
        ("drop_request code=cancelled", None),
    ] {
        let bed = Bed::plain().await;
        let writes = planned(&bed, 1, 1).await;
        bed.fault(rule);
        let since = Instant::now();
        let answer = bed.apply(&writes).await;
        assert!(is_again(&answer), "{rule}: {answer:?}");
        assert!(since.elapsed() >= DEADLINE, "{rule}: a copy may still be on its way after {:?}", since.elapsed());
        assert_eq!(counted(&bed, 1).await, applied, "{rule}");
        bed.apply(&writes).await.unwrap_or_else(|setback| panic!("{rule}: {setback:?}"));
        assert_eq!(counted(&bed, 1).await, Some(1), "{rule}");
    }
}

#[tokio::test]
async fn a_late_copy_lands_before_the_lock_could_be_gone() {
    let bed = Bed::plain().await;
    let (first, second) = (planned(&bed, 1, 1).await, planned(&bed, 1, 2).await);
    bed.fault("late ms=300");
    assert!(is_again(&bed.apply(&first).await));
    bed.apply(&first).await.expect("repeated");
    // The first transaction is done: its lock goes, and the next one writes the same point.
    bed.apply(&second).await.expect("applied");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(counted(&bed, 1).await, Some(2), "the earlier write overtook the later one");
}

#[tokio::test]
async fn an_ok_that_is_not_completed_is_no_ok() {
    let bed = Bed::plain().await;
    let writes = planned(&bed, 1, 1).await;
    bed.fault("wait_timeout ms=200");
    let answer = bed.apply(&writes).await;
    assert!(matches!(&answer, Err(Setback::Again(why)) if why.contains("WaitTimeout")), "{answer:?}");
    bed.apply(&writes).await.expect("repeated: it stands behind the first in the server's queue");
    assert_eq!(counted(&bed, 1).await, Some(1));
}

#[tokio::test]
async fn a_busy_server_is_left_alone_for_as_long_as_it_asks() {
    let bed = Bed::plain().await;
    let writes = planned(&bed, 1, 1).await;
    bed.fault("exhausted retry_after=1");
    let since = Instant::now();
    assert!(is_again(&bed.apply(&writes).await));
    assert!(since.elapsed() >= Duration::from_secs(1), "{:?}", since.elapsed());
    bed.apply(&writes).await.expect("repeated");
}

#[tokio::test]
async fn half_a_batch_is_made_whole() {
    let bed = Bed::plain().await;
    bed.one("upsert", put(1, 1)).await;
    let ops =
        [bed.op("a", "set_payload", json!({"payload": {"n": 5}, "points": [1]})), bed.op("b", "upsert", put(2, 2))];
    let writes = bed.plan(&ops).await.expect("fine");
    bed.fault("half");
    assert!(is_again(&bed.apply(&writes).await));
    assert_eq!((counted(&bed, 1).await, counted(&bed, 2).await), (Some(5), None), "half of it");
    bed.apply(&writes).await.expect("repeated");
    assert_eq!((counted(&bed, 1).await, counted(&bed, 2).await), (Some(5), Some(2)));
}

#[tokio::test]
async fn many_transactions_travel_together_and_only_the_guilty_one_is_refused() {
    let bed = Bed::plain().await;
    bed.one("upsert", put(1000, 0)).await;
    let guilty = bed.op("w", "set_payload", json!({"payload": {"n": 1}, "points": [1000]}));
    let guilty = bed.plan(&[guilty]).await.expect("the point is there");
    let gone = PointsIdsList { ids: vec![1000.into()] };
    bed.client.delete_points(DeletePointsBuilder::new(&bed.collection).points(gone).wait(true)).await.expect("deleted");
    let mut all = Vec::new();
    for id in 0..40 {
        all.push(planned(&bed, id, id).await);
    }
    all.insert(20, guilty);
    // The first call takes a while, so that the rest gather behind it.
    bed.fault("delay ms=300");
    let before = bed.store.redo_counts();
    let answers = futures::future::join_all(all.iter().map(|writes| bed.apply(writes))).await;
    for (index, answer) in answers.iter().enumerate() {
        match index {
            20 => assert!(matches!(answer, Err(Setback::Final(why)) if why.starts_with("NotFound")), "{answer:?}"),
            _ => assert_eq!(*answer, Ok(()), "{index}"),
        }
    }
    // All together, or the first before the rest; then each of those alone that travelled with the guilty one.
    let calls = bed.store.redo_counts().0 - before.0;
    assert!(calls <= 42, "{calls} calls");
    let before = bed.store.redo_counts();
    all.remove(20);
    bed.fault("delay ms=300");
    let answers = futures::future::join_all(all.iter().map(|writes| bed.apply(writes))).await;
    assert!(answers.iter().all(Result::is_ok));
    let after = bed.store.redo_counts();
    let (calls, carried) = (after.0 - before.0, after.1 - before.1);
    assert!(calls <= 2 && carried == 40, "{carried} transactions in {calls} calls");
    assert_eq!(bed.read("count", json!({})).await["count"], 40);
}

#[tokio::test]
async fn what_cannot_ever_be_applied_is_final() {
    let bed = Bed::plain().await;
    let good = planned(&bed, 1, 1).await;
    let elsewhere = RedoWrite { resource: "no-such-collection".to_owned(), ..good[0].clone() };
    let answer = bed.apply(&[elsewhere.clone(), good[0].clone()]).await;
    assert!(matches!(&answer, Err(Setback::Final(why)) if why.contains("doesn't exist")), "{answer:?}");
    assert_eq!(counted(&bed, 1).await, Some(1), "the other collection has its part");
    let newer = RedoWrite { body: vec![9, 1, 2], ..elsewhere };
    assert!(matches!(bed.apply(&[newer]).await, Err(Setback::Final(why)) if why.contains("version 9")));
    let aborted = Decided::for_tests(fresh_run(), Outcome::Aborted);
    assert!(matches!(bed.store.apply(&aborted, &good).await, Err(Setback::Final(_))));
}

#[tokio::test]
async fn a_connection_with_an_unanswered_write_is_closed_before_the_repeat() {
    let bed = Bed::plain().await;
    let writes = planned(&bed, 1, 1).await;
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", mute.local_addr().expect("its address"));
    let store = Qdrant::new("vectors".into(), &config(&url));
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = mute.accept().expect("a connection");
        // Reads to the end: it comes only when the other side lets go.
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return (all, Instant::now()),
                Ok(n) => all.extend_from_slice(&buffer[..n]),
            }
        }
    });
    let since = Instant::now();
    let answer = store.apply(&decided(), &writes).await;
    let answered = Instant::now();
    assert!(is_again(&answer), "{answer:?}");
    assert!(since.elapsed() >= 2 * DEADLINE, "{:?}", since.elapsed());
    let (bytes, closed) = heard.join().expect("it ended");
    assert!(bytes.starts_with(b"PRI * HTTP/2.0"), "the write was on its way");
    assert!(closed + DEADLINE <= answered + Duration::from_millis(50), "closed a deadline before the answer");
}

#[tokio::test]
async fn a_server_that_dies_and_comes_back_is_met_again() {
    let stack = Stack::fresh("store-qdrant-kill", Wanted::only(&[Kind::Qdrant])).expect("the server starts");
    let login: Login = stack.login(Kind::Qdrant).expect("it has one");
    let bed = Bed::on(&login).await;
    let writes = planned(&bed, 1, 1).await;
    bed.apply(&writes).await.expect("applied");
    stack.kill(Kind::Qdrant).expect("killed");
    let problem = bed.plan(&[bed.op("w", "delete", json!({"points": [1]}))]).await;
    // The collection may still be known for a moment: nothing is asked of the server then.
    if let Err(problem) = problem {
        assert_eq!(problem.code, Code::StoreUnavailable, "{problem}");
    }
    let mut session = bed.session().await;
    let problem = session.work(&[bed.op("r", "retrieve", json!({"ids": [1]}))]).await.expect_err("nobody is there");
    assert_eq!(
        (problem.code, problem.store_code.as_deref()),
        (Code::StoreUnavailable, Some("Unavailable")),
        "{problem}"
    );
    assert_eq!(bed.store.probe(false).await.expect_err("nobody is there").code, Code::StoreUnavailable);
    for _ in 0..3 {
        assert!(is_again(&bed.apply(&writes).await));
    }
    let since = Instant::now();
    assert!(is_again(&bed.apply(&writes).await));
    assert!(since.elapsed() < DEADLINE, "nothing was sent, so nothing has to be waited for: {:?}", since.elapsed());
    stack.start(Kind::Qdrant).expect("it comes back");
    bed.store.probe(false).await.expect("there again");
    assert_eq!(counted(&bed, 1).await, Some(1), "what was acknowledged is there");
    bed.apply(&planned(&bed, 1, 2).await).await.expect("applied");
    assert_eq!(counted(&bed, 1).await, Some(2));
}
