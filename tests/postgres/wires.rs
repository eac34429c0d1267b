//! Over a wire that is slow, or that is cut at the worst moment.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use outrigger::journal::slip::Decided;
use outrigger::model::commit::MarkerNote;
use outrigger::model::ids::Lsn;
use outrigger::model::powers::Role;
use outrigger::model::problem::Code;
use outrigger::model::state::Outcome;
use outrigger::store::{Decision, Fenced, Setback, TxnContext};
use serde_json::json;

use super::{config, op, store, subject_of, url};
use crate::contract::proxy::{Cut, Proxy};
use crate::contract::{Subject, fresh_key, fresh_name, fresh_run, no_note, promises};

/// The server behind a proxy.
async fn behind_a_proxy() -> (Subject, Proxy) {
    let parsed: tokio_postgres::Config = url().parse().unwrap();
    let tokio_postgres::config::Host::Tcp(host) = &parsed.get_hosts()[0] else { panic!("a loopback address") };
    let port = parsed.get_ports()[0];
    let server: SocketAddr = tokio::net::lookup_host((host.as_str(), port)).await.unwrap().next().unwrap();
    let proxy = Proxy::to(server).await;
    let mut config = config();
    config.url = url().replacen(&format!("{host}:{port}"), &proxy.address.to_string(), 1);
    assert_ne!(config.url, url(), "the URL says host:port");
    (subject_of(store(config).await).await, proxy)
}

/// A whole transaction with five operations: one round trip for the work, one for the commit with its note.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_phase_is_one_round_trip() {
    let (subject, proxy) = behind_a_proxy().await;
    let owner = subject.registered().await;
    let round_trip = Duration::from_millis(200);
    let note = MarkerNote { answer: Some("{}".to_owned()), redo: Vec::new() };
    for warm in [false, true] {
        proxy.delay(if warm { round_trip / 2 } else { Duration::ZERO });
        let context = TxnContext { key: Some(fresh_key()), ..subject.context(owner, fresh_run()) };
        let begun = Instant::now();
        let mut session = subject.decider(&context).await;
        let mut ops: Vec<_> = (0..4).map(|_| (subject.put)(&fresh_name())).collect();
        ops.push(op("SELECT $1::int[] AS v", json!([[1, 2]]), false));
        session.work(&ops).await.unwrap();
        let worked = begun.elapsed();
        assert!(matches!(session.commit(&note).await, Decision::Committed(_)));
        let committed = begun.elapsed() - worked;
        let run = fresh_run();
        let begun = Instant::now();
        let mut session = subject.preparer(&subject.preparing(owner, run), &fresh_name()).await;
        let took_part = begun.elapsed();
        session.prepare(&promises::gid(owner, run, 1)).await.unwrap();
        let prepared = begun.elapsed() - took_part;
        session.rollback().await;
        let gid = promises::gid(owner, run, 1);
        let begun = Instant::now();
        let decided = Decided::for_tests(run, Outcome::Committed);
        subject.prepares().finish(&decided, &gid).await.unwrap();
        let finished = begun.elapsed();
        println!(
            "work {worked:?}, commit {committed:?}, take part {took_part:?}, prepare {prepared:?}, finish {finished:?}"
        );
        if warm {
            for (what, took) in [
                ("work", worked),
                ("commit", committed),
                ("take part", took_part),
                ("prepare", prepared),
                ("finish", finished),
            ] {
                assert!(took >= round_trip && took < round_trip * 19 / 10, "{what} took {took:?}");
            }
        }
    }
}

/// The wire is cut around COMMIT: the answer is "lost", never a guess, and the fence tells which it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_commit_is_told_by_the_fence() {
    let (subject, proxy) = behind_a_proxy().await;
    let owner = subject.registered().await;
    for (cut, happened) in [(Cut::BeforeArrival, false), (Cut::BeforeAnswer, true)] {
        let (run, name) = (fresh_run(), fresh_name());
        let session = subject.having_put(&subject.context(owner, run), &name).await;
        proxy.cut(cut, b"; COMMIT\0");
        let decision = session.commit(&no_note()).await;
        assert!(matches!(decision, Decision::Lost(_)), "{decision:?}");
        // Where the COMMIT arrived, the server may still be at it: the fence waits for its end, or ends it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let fenced = subject.marks().fence(run, owner, Lsn::from_u64(5)).await.unwrap();
        assert_eq!(matches!(fenced, Fenced::Committed(..)), happened, "{cut:?}: {fenced:?}");
        assert_eq!(subject.has(&name).await, happened);
    }
    assert_eq!(proxy.cuts(), 2);
}

/// The wire is cut around PREPARE TRANSACTION: the store says "unavailable", and whatever became of it can be finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_promise_can_be_finished() {
    let (subject, proxy) = behind_a_proxy().await;
    let owner = subject.registered().await;
    for (cut, stands) in [(Cut::BeforeArrival, 0), (Cut::BeforeAnswer, 1)] {
        let (run, name) = (fresh_run(), fresh_name());
        let gid = promises::gid(owner, run, 1);
        let mut session = subject.preparer(&subject.preparing(owner, run), &name).await;
        proxy.cut(cut, b"PREPARE TRANSACTION");
        let problem = session.prepare(&gid).await.unwrap_err();
        assert_eq!(problem.code, Code::StoreUnavailable, "{problem}");
        session.rollback().await;
        // The adapter has seen the session off: nobody can make that promise any more.
        let listed = subject.prepares().prepared(owner.log).await.unwrap();
        assert_eq!(listed.len(), stands, "{cut:?}");
        subject.prepares().finish(&Decided::for_tests(run, Outcome::Aborted), &gid).await.unwrap();
        assert!(!subject.has(&name).await && subject.prepares().prepared(owner.log).await.unwrap().is_empty());
    }
}

/// The answer to COMMIT PREPARED is lost: again, and then it is found done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_finish_is_repeated() {
    let (subject, proxy) = behind_a_proxy().await;
    let owner = subject.registered().await;
    for cut in [Cut::BeforeArrival, Cut::BeforeAnswer] {
        let (run, name) = (fresh_run(), fresh_name());
        let gid = subject.promised(owner, run, &name).await;
        let decided = Decided::for_tests(run, Outcome::Committed);
        proxy.cut(cut, b"COMMIT PREPARED");
        let lost = subject.prepares().finish(&decided, &gid).await;
        assert!(matches!(lost, Err(Setback::Again(_))), "{lost:?}");
        // The session that was cut may be at it still ("busy"): then again, and again.
        let until = Instant::now() + Duration::from_secs(5);
        while let Err(setback) = subject.prepares().finish(&decided, &gid).await {
            assert!(matches!(setback, Setback::Again(_)) && Instant::now() < until, "{setback:?}");
        }
        assert!(subject.has(&name).await);
    }
}

/// The wire is cut in the middle of work: the transaction is refused, and the store serves the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_in_the_work_hurts_only_itself() {
    let (subject, proxy) = behind_a_proxy().await;
    let owner = subject.registered().await;
    for cut in [Cut::BeforeArrival, Cut::BeforeAnswer] {
        let name = fresh_name();
        let mut session = subject.store.open(&subject.context(owner, fresh_run()), Role::Decider).await.unwrap();
        proxy.cut(cut, name.as_bytes());
        let problem = session.work(&[(subject.put)(&name)]).await.unwrap_err();
        assert_eq!(problem.code, Code::StoreUnavailable, "{problem}");
        assert!(matches!(session.commit(&no_note()).await, Decision::Refused(_)));
        let next = subject.having_put(&subject.context(owner, fresh_run()), &name).await;
        assert!(matches!(next.commit(&no_note()).await, Decision::Committed(_)));
    }
}
