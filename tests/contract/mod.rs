//! What every store must keep, tested against its real server. A store's own test binary builds a [`Subject`] and calls
//! these checks one by one; each check makes its own log, so that they never meet.

// Every store's binary uses the checks that its powers call for; all of it is test code.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod late;
pub mod promises;
pub mod proxy;
pub mod records;
pub mod waits;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outrigger::model::commit::{Decider, KeyNote, LookUp, MarkerNote, RedoWrite};
use outrigger::model::ids::{Attempt, Incarnation, LogId, LogOwner, Lsn, Run, StoreName, TxnId};
use outrigger::model::powers::Role;
use outrigger::model::problem::Code;
use outrigger::model::request::{BoundOp, Isolation};
use outrigger::model::state::Outcome;
use outrigger::store::{Decision, Fenced, Marks, Session, Setback, Store, Sweep, TxnContext};
use serde_json::Value;
use tokio::time::{Instant, timeout};

/// A store under test, and how things are put into it and looked for.
pub struct Subject {
    /// The store, probed with `init`.
    pub store: Arc<dyn Store>,
    /// A write that makes the thing of this name, or counts it up where it is there: it locks the thing either way.
    pub put: fn(&str) -> BoundOp,
    /// A read of the thing of this name.
    pub get: fn(&str) -> BoundOp,
    /// Whether the read's result shows the thing.
    pub there: fn(&Value) -> bool,
}

/// An empty note.
pub fn no_note() -> MarkerNote {
    MarkerNote { answer: None, redo: Vec::new() }
}

/// A fresh log's owner in its first incarnation.
pub fn fresh_owner() -> LogOwner {
    LogOwner { log: LogId::from_bytes(*TxnId::fresh().0.as_bytes()), incarnation: Incarnation(1) }
}

/// The same log, opened once more.
pub fn reopened(owner: LogOwner) -> LogOwner {
    LogOwner { incarnation: Incarnation(owner.incarnation.0 + 1), ..owner }
}

/// The first run of a fresh transaction.
pub fn fresh_run() -> Run {
    Run { txn: TxnId::fresh(), attempt: Attempt::FIRST }
}

/// A name that nothing has yet.
pub fn fresh_name() -> String {
    TxnId::fresh().to_string()
}

/// A digest and a key that nobody has yet.
pub fn fresh_key() -> KeyNote {
    KeyNote { key: format!("tester/{}", TxnId::fresh()), digest: [7; 32] }
}

impl Subject {
    /// What a transaction of `owner` carries.
    pub fn context(&self, owner: LogOwner, run: Run) -> TxnContext {
        TxnContext {
            run,
            owner,
            durable: Lsn::from_u64(1000),
            decider: Some(Decider::Store(self.store.name().clone())),
            followers: Vec::new(),
            key: None,
            isolation: Isolation::ReadCommitted,
            deadline: Instant::now() + Duration::from_secs(20),
            lock_wait: Duration::from_secs(10),
        }
    }

    /// A log that may write here.
    pub async fn registered(&self) -> LogOwner {
        let owner = fresh_owner();
        self.marks().register(owner).await.expect("a fresh log registers");
        owner
    }

    /// The marking side.
    pub fn marks(&self) -> &dyn Marks {
        self.store.marks().expect("this store marks")
    }

    /// A decider's session.
    pub async fn decider(&self, context: &TxnContext) -> Box<dyn Session> {
        self.store.open(context, Role::Decider).await.expect("the store is up")
    }

    /// A decider's session in which `name` was put.
    pub async fn having_put(&self, context: &TxnContext, name: &str) -> Box<dyn Session> {
        let mut session = self.decider(context).await;
        session.work(&[(self.put)(name)]).await.expect("a put succeeds");
        session
    }

    /// Whether the thing of this name is there, committed.
    pub async fn has(&self, name: &str) -> bool {
        let mut context = self.context(fresh_owner(), fresh_run());
        context.decider = None;
        let mut session = self.store.open(&context, Role::Reader).await.expect("the store is up");
        let results = session.work(&[(self.get)(name)]).await.expect("a read succeeds");
        assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)), "a reader ends well");
        (self.there)(&results[0])
    }
}

/// A commit leaves its marker, everything that the marker says, and its effect.
pub async fn commit_leaves_marker_and_effect(subject: &Subject) {
    let owner = subject.registered().await;
    let run = Run { attempt: Attempt(3), ..fresh_run() };
    let (name, key) = (fresh_name(), fresh_key());
    let mut context = subject.context(owner, run);
    context.followers = vec!["pg".into(), "vectors".into()];
    context.key = Some(key.clone());
    context.durable = Lsn::from_u64(4242);
    let session = subject.having_put(&context, &name).await;
    assert!(!subject.has(&name).await, "nothing is seen before the commit");
    let redo = RedoWrite {
        store: "vectors".into(),
        resource: "docs".to_owned(),
        keys: vec!["1".to_owned(), "2".to_owned()],
        body: vec![0, 159, 255, 10],
    };
    let answer = "{\"title\": \"Möby ' \\\" $x\"}".to_owned();
    let note = MarkerNote { answer: Some(answer.clone()), redo: vec![redo.clone()] };
    let Decision::Committed(verdict) = session.commit(&note).await else { panic!("the commit went through") };
    assert_eq!((verdict.run, &verdict.store, verdict.outcome), (run, subject.store.name(), Outcome::Committed));
    assert!(subject.has(&name).await);
    for what in [LookUp::Txn(run.txn), LookUp::Key(key.key.clone())] {
        let marker = subject.marks().look_up(&what).await.unwrap().expect("the marker is there");
        assert_eq!((marker.run, marker.outcome, marker.log), (run, Outcome::Committed, owner.log));
        assert_eq!(marker.durable, Lsn::from_u64(4242));
        assert_eq!(marker.followers, [StoreName::from("pg"), "vectors".into()]);
        assert_eq!(marker.key.as_ref(), Some(&key));
        assert_eq!(marker.answer.as_ref(), Some(&answer));
        assert_eq!(marker.redo, std::slice::from_ref(&redo));
    }
    assert_eq!(subject.marks().latest_durable(owner.log).await.unwrap(), Lsn::from_u64(4242));
}

/// A decider that was given no operation still leaves its marker.
pub async fn an_empty_decider_leaves_its_marker(subject: &Subject) {
    let owner = subject.registered().await;
    let run = fresh_run();
    let session = subject.decider(&subject.context(owner, run)).await;
    assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)));
    let marker = subject.marks().look_up(&LookUp::Txn(run.txn)).await.unwrap().expect("the marker is there");
    assert_eq!((marker.key, marker.answer, marker.redo), (None, None, Vec::new()));
}

/// A rollback leaves nothing; what was never there is not found.
pub async fn rollback_leaves_nothing(subject: &Subject) {
    let owner = subject.registered().await;
    let (run, name) = (fresh_run(), fresh_name());
    let session = subject.having_put(&subject.context(owner, run), &name).await;
    session.rollback().await;
    assert!(!subject.has(&name).await);
    assert!(subject.marks().look_up(&LookUp::Txn(run.txn)).await.unwrap().is_none());
    assert!(subject.marks().look_up(&LookUp::Key(fresh_key().key)).await.unwrap().is_none());
    assert_eq!(subject.marks().latest_durable(owner.log).await.unwrap(), Lsn::from_u64(0));
}

/// A session dropped without an end leaves nothing, and its locks go promptly.
pub async fn drop_leaves_nothing(subject: &Subject) {
    let owner = subject.registered().await;
    let name = fresh_name();
    let settled = subject.having_put(&subject.context(owner, fresh_run()), &name).await;
    assert!(matches!(settled.commit(&no_note()).await, Decision::Committed(_)));
    for _ in 0..3 {
        let run = fresh_run();
        drop(subject.having_put(&subject.context(owner, run), &name).await);
        let begun = Instant::now();
        let context = subject.context(owner, fresh_run());
        let next = timeout(Duration::from_secs(2), subject.having_put(&context, &name)).await;
        let next = next.expect("the dropped session's locks were freed within 2 s");
        assert!(begun.elapsed() < Duration::from_secs(1), "it took {:?}", begun.elapsed());
        next.rollback().await;
        assert!(subject.marks().look_up(&LookUp::Txn(run.txn)).await.unwrap().is_none());
    }
}

/// A session whose `work` future is dropped in the middle of a lock wait lets go of everything.
pub async fn drop_in_a_wait_leaves_nothing(subject: &Subject) {
    let owner = subject.registered().await;
    let (held, wanted) = (fresh_name(), fresh_name());
    for name in [&held, &wanted] {
        let session = subject.having_put(&subject.context(owner, fresh_run()), name).await;
        assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)));
    }
    let holder = subject.having_put(&subject.context(owner, fresh_run()), &held).await;
    let context = subject.context(owner, fresh_run());
    let mut waiter = subject.having_put(&context, &wanted).await;
    let put = [(subject.put)(&held)];
    assert!(timeout(Duration::from_millis(300), waiter.work(&put)).await.is_err(), "it waits for the holder");
    drop(waiter);
    let context = subject.context(owner, fresh_run());
    let next = timeout(Duration::from_secs(3), subject.having_put(&context, &wanted)).await;
    next.expect("what the dropped waiter held was freed").rollback().await;
    holder.rollback().await;
}

/// Fence first: the run's marker is refused, and nothing of it happens.
pub async fn fenced_before_it_began(subject: &Subject) {
    let owner = subject.registered().await;
    let (run, name) = (fresh_run(), fresh_name());
    let fenced = subject.marks().fence(run, owner, Lsn::from_u64(5)).await.unwrap();
    let Fenced::Aborted(verdict) = fenced else { panic!("nothing stood in the fence's way") };
    assert_eq!((verdict.run, verdict.outcome), (run, Outcome::Aborted));
    let mut session = subject.decider(&subject.context(owner, run)).await;
    if session.work(&[(subject.put)(&name)]).await.is_ok() {
        assert!(matches!(session.commit(&no_note()).await, Decision::Refused(_)));
    } else {
        session.rollback().await;
    }
    assert!(!subject.has(&name).await);
    let marker = subject.marks().look_up(&LookUp::Txn(run.txn)).await.unwrap().expect("the fence is there");
    assert_eq!((marker.outcome, marker.key), (Outcome::Aborted, None));
    // Another attempt of the same transaction is another marker.
    let again = Run { attempt: run.attempt.next(), ..run };
    let session = subject.having_put(&subject.context(owner, again), &name).await;
    assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)));
    let marker = subject.marks().look_up(&LookUp::Txn(run.txn)).await.unwrap().expect("a marker is there");
    assert_eq!((marker.run, marker.outcome), (again, Outcome::Committed), "committed ones come first");
}

/// Commit first: the fence finds it. Fencing twice changes nothing, either way.
pub async fn a_fence_finds_the_commit(subject: &Subject) {
    let owner = subject.registered().await;
    let run = fresh_run();
    let session = subject.having_put(&subject.context(owner, run), &fresh_name()).await;
    assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)));
    let never = fresh_run();
    for _ in 0..2 {
        let fenced = subject.marks().fence(run, owner, Lsn::from_u64(5)).await.unwrap();
        let Fenced::Committed(verdict, marker) = fenced else { panic!("it had committed") };
        assert_eq!((verdict.run, verdict.outcome, marker.run), (run, Outcome::Committed, run));
        let fenced = subject.marks().fence(never, owner, Lsn::from_u64(5)).await.unwrap();
        assert!(matches!(fenced, Fenced::Aborted(_)));
    }
}

/// A fence that an open session blocks ends exactly that session.
pub async fn a_fence_ends_its_blocker(subject: &Subject) {
    let owner = subject.registered().await;
    let (run, name, bystander_name) = (fresh_run(), fresh_name(), fresh_name());
    let bystander = subject.having_put(&subject.context(owner, fresh_run()), &bystander_name).await;
    let session = subject.having_put(&subject.context(owner, run), &name).await;
    let fenced = timeout(Duration::from_secs(5), subject.marks().fence(run, owner, Lsn::from_u64(5))).await;
    let fenced = fenced.expect("the fence does not wait for ever").unwrap();
    assert!(matches!(fenced, Fenced::Aborted(_)));
    let late = session.commit(&no_note()).await;
    assert!(!matches!(late, Decision::Committed(_)), "{late:?}");
    assert!(!subject.has(&name).await);
    assert!(matches!(bystander.commit(&no_note()).await, Decision::Committed(_)), "a bystander was hurt");
    assert!(subject.has(&bystander_name).await);
}

/// A key is taken by whoever commits with it, and by nobody else.
pub async fn a_key_is_taken_once(subject: &Subject) {
    let owner = subject.registered().await;
    let key = fresh_key();
    let with_key = |run| TxnContext { key: Some(key.clone()), ..subject.context(owner, run) };
    let aborted = subject.having_put(&with_key(fresh_run()), &fresh_name()).await;
    aborted.rollback().await;
    let fenced = fresh_run();
    subject.marks().fence(fenced, owner, Lsn::from_u64(5)).await.unwrap();
    let first = fresh_run();
    let session = subject.having_put(&with_key(first), &fresh_name()).await;
    assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)), "an abort consumes no key");
    let name = fresh_name();
    let mut second = subject.decider(&with_key(fresh_run())).await;
    let problem = second.work(&[(subject.put)(&name)]).await.expect_err("the key is taken");
    assert_eq!((problem.code, problem.store_code.as_deref()), (Code::InFlight, Some("outrigger:key_taken")));
    second.rollback().await;
    assert!(!subject.has(&name).await);
    let asked = [fresh_key().key, key.key.clone()];
    assert_eq!(subject.marks().held_keys(&asked).await.unwrap(), asked[1..], "of two, the one that is held");
    let marker = subject.marks().look_up(&LookUp::Key(key.key.clone())).await.unwrap().expect("the first one's marker");
    assert_eq!(marker.run, first);
}

/// While a key's transaction is open, another with the same key waits for its end, and then is told.
pub async fn a_key_in_use_is_waited_for(subject: &Subject) {
    let owner = subject.registered().await;
    for commits in [true, false] {
        let key = fresh_key();
        let with_key = |run| TxnContext { key: Some(key.clone()), ..subject.context(owner, run) };
        let first = subject.having_put(&with_key(fresh_run()), &fresh_name()).await;
        let context = with_key(fresh_run());
        let mut second = subject.decider(&context).await;
        let put = [(subject.put)(&fresh_name())];
        let end = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if commits {
                assert!(matches!(first.commit(&no_note()).await, Decision::Committed(_)));
            } else {
                first.rollback().await;
            }
        };
        let begun = Instant::now();
        let (told, ()) = tokio::join!(second.work(&put), end);
        assert!(begun.elapsed() >= Duration::from_millis(150), "it did not wait: {told:?}");
        if commits {
            let problem = told.expect_err("the key is taken");
            assert_eq!((problem.code, problem.store_code.as_deref()), (Code::InFlight, Some("outrigger:key_taken")));
            second.rollback().await;
        } else {
            told.expect("the key was given up");
            assert!(matches!(second.commit(&no_note()).await, Decision::Committed(_)));
        }
    }
}

/// From the registration of a newer incarnation on, an older one writes nothing more; the ghost is told.
pub async fn a_newer_incarnation_shuts_the_older_out(subject: &Subject) {
    let old = subject.registered().await;
    subject.marks().register(old).await.expect("registering again changes nothing");
    subject.marks().heartbeat(old).await.expect("it is the registered one");
    let new = reopened(old);
    subject.marks().register(new).await.unwrap();
    let name = fresh_name();
    let mut ghost = subject.decider(&subject.context(old, fresh_run())).await;
    let problem = ghost.work(&[(subject.put)(&name)]).await.expect_err("an older incarnation may not mark");
    assert_eq!(problem.code, Code::JournalUnavailable, "{problem}");
    ghost.rollback().await;
    assert!(!subject.has(&name).await);
    assert!(matches!(subject.marks().register(old).await, Err(Setback::Final(_))));
    let session = subject.having_put(&subject.context(new, fresh_run()), &name).await;
    assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)));
    // A log that never registered is nobody.
    let mut stranger = subject.decider(&subject.context(fresh_owner(), fresh_run())).await;
    assert!(stranger.work(&[(subject.put)(&fresh_name())]).await.is_err());
    stranger.rollback().await;
}

/// Sessions of older incarnations are ended and waited for; one of the present incarnation and another log's are not.
pub async fn old_sessions_are_ended(subject: &Subject) {
    let old = subject.registered().await;
    let (run, name) = (fresh_run(), fresh_name());
    let ghost = subject.having_put(&subject.context(old, run), &name).await;
    let new = reopened(old);
    subject.marks().register(new).await.unwrap();
    let (mine, mine_name) = (fresh_run(), fresh_name());
    let session = subject.having_put(&subject.context(new, mine), &mine_name).await;
    let ended =
        timeout(Duration::from_secs(10), subject.marks().end_old_sessions(new)).await.expect("bounded").unwrap();
    assert!(ended >= 1, "the ghost was one");
    let late = ghost.commit(&no_note()).await;
    assert!(!matches!(late, Decision::Committed(_)), "{late:?}");
    assert!(!subject.has(&name).await);
    assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)), "the present incarnation was hurt");
    assert!(subject.has(&mine_name).await);
}

/// Another log's busy session over the same store, from the same host, is not mistaken for an old one of ours.
pub async fn a_busy_sibling_is_spared(subject: &Subject) {
    let (old, sibling) = (subject.registered().await, subject.registered().await);
    let name = fresh_name();
    let mut busy = subject.having_put(&subject.context(sibling, fresh_run()), &name).await;
    let new = reopened(old);
    subject.marks().register(new).await.unwrap();
    let ended = AtomicBool::new(false);
    let work = async {
        while !ended.load(Ordering::SeqCst) {
            busy.work(&[(subject.put)(&name)]).await.expect("the sibling was hurt");
        }
        busy.commit(&no_note()).await
    };
    let end = async {
        let done = subject.marks().end_old_sessions(new).await;
        ended.store(true, Ordering::SeqCst);
        done
    };
    let (decision, ended) = tokio::join!(work, end);
    ended.expect("there was nobody to end");
    assert!(matches!(decision, Decision::Committed(_)), "{decision:?}");
}

/// The heartbeat shows the other logs that live over this store.
pub async fn other_logs_are_shown(subject: &Subject) {
    let (one, other) = (subject.registered().await, subject.registered().await);
    subject.marks().heartbeat(other).await.unwrap();
    let others = subject.marks().heartbeat(one).await.unwrap();
    let seen = others.iter().find(|o| o.log == other.log.to_string()).expect("the other log is seen");
    assert!(seen.silent_seconds < 10 && !seen.host.is_empty(), "{seen:?}");
    assert!(others.iter().all(|o| o.log != one.log.to_string()), "one's own log is no other");
}

/// Markers go when all that `Sweep` asks for holds, and not before.
pub async fn forgetting_respects_its_bounds(subject: &Subject) {
    let (owner, neighbour) = (subject.registered().await, subject.registered().await);
    let mark = async |owner: LogOwner, durable: u64, key: Option<KeyNote>| {
        let run = fresh_run();
        let context = TxnContext { durable: Lsn::from_u64(durable), key, ..subject.context(owner, run) };
        assert!(matches!(subject.decider(&context).await.commit(&no_note()).await, Decision::Committed(_)));
        run
    };
    let early = mark(owner, 10, None).await;
    let keyed = mark(owner, 11, Some(fresh_key())).await;
    let fence = fresh_run();
    subject.marks().fence(fence, owner, Lsn::from_u64(12)).await.unwrap();
    let late = mark(owner, 20, None).await;
    let foreign = mark(neighbour, 10, None).await;
    let hour = Duration::from_secs(3600);
    let sweep = Sweep { log: owner.log, below: Lsn::from_u64(20), grace: Duration::ZERO, key_ttl: hour };
    tokio::time::sleep(Duration::from_millis(20)).await;
    let forget = async |sweep: Sweep| {
        let gone = subject.marks().forget(&sweep).await.unwrap();
        assert!(!gone.more, "far from its bound");
        (gone.markers, gone.keys)
    };
    assert_eq!(forget(Sweep { grace: hour, ..sweep }).await, (0, 0), "young ones stay");
    assert_eq!(forget(Sweep { below: Lsn::from_u64(10), ..sweep }).await, (0, 0), "the bound itself stays");
    assert_eq!(forget(sweep).await, (2, 0), "the early one and the fence go");
    assert_eq!(forget(sweep).await, (0, 0));
    let there = async |run: Run| subject.marks().look_up(&LookUp::Txn(run.txn)).await.unwrap().is_some();
    assert!(!there(early).await && !there(fence).await);
    assert!(there(keyed).await && there(late).await && there(foreign).await);
    assert_eq!(forget(Sweep { key_ttl: Duration::ZERO, ..sweep }).await, (0, 1), "the keyed one's time has come");
    assert!(!there(keyed).await);
}

/// A read-only part refuses writes, and leaves nothing.
pub async fn a_reader_cannot_write(subject: &Subject) {
    let name = fresh_name();
    let context = subject.context(fresh_owner(), fresh_run());
    let mut session = subject.store.open(&context, Role::Reader).await.unwrap();
    let problem = session.work(&[(subject.put)(&name)]).await.expect_err("a reader may not write");
    assert_eq!(problem.code, Code::RejectedByStore, "{problem}");
    session.rollback().await;
    assert!(!subject.has(&name).await);
}

/// After a refusal the first problem stays the answer, and nothing can be committed any more.
pub async fn the_first_refusal_stays(subject: &Subject, bad: BoundOp, code: Code) {
    let owner = subject.registered().await;
    let (run, name) = (fresh_run(), fresh_name());
    let mut session = subject.having_put(&subject.context(owner, run), &name).await;
    let first = session.work(std::slice::from_ref(&bad)).await.expect_err("the store refuses it");
    assert_eq!((first.code, first.operation.as_deref()), (code, Some(bad.op.id.as_str())), "{first}");
    let second = session.work(&[(subject.put)(&fresh_name())]).await.expect_err("it is spoilt");
    assert_eq!(second, first);
    let Decision::Refused(last) = session.commit(&no_note()).await else { panic!("a spoilt session cannot commit") };
    assert_eq!(last, first);
    assert!(!subject.has(&name).await);
    assert!(subject.marks().look_up(&LookUp::Txn(run.txn)).await.unwrap().is_none());
}

/// A wait for a lock inside the store ends at the context's bound, and what is slow ends at the deadline.
pub async fn waits_are_bounded(subject: &Subject) {
    let owner = subject.registered().await;
    let name = fresh_name();
    let settled = subject.having_put(&subject.context(owner, fresh_run()), &name).await;
    assert!(matches!(settled.commit(&no_note()).await, Decision::Committed(_)));
    let holder = subject.having_put(&subject.context(owner, fresh_run()), &name).await;
    let second = Duration::from_secs(1);
    let short = |deadline, lock_wait| TxnContext {
        deadline: Instant::now() + deadline,
        lock_wait,
        ..subject.context(owner, fresh_run())
    };
    for (deadline, lock_wait, code) in [(second * 10, second, Code::LockTimeout), (second, second * 10, Code::Timeout)]
    {
        let begun = Instant::now();
        let context = short(deadline, lock_wait);
        let mut waiter = subject.decider(&context).await;
        let problem = waiter.work(&[(subject.put)(&name)]).await.expect_err("the lock is held");
        assert_eq!(problem.code, code, "{problem}");
        let took = begun.elapsed();
        assert!(took >= second * 9 / 10 && took < second * 3, "{code:?} after {took:?}");
        waiter.rollback().await;
    }
    assert!(matches!(holder.commit(&no_note()).await, Decision::Committed(_)), "the holder was hurt");
}

/// Commit and fence of the same run at the same time: exactly one wins, and both tell the same story.
pub async fn commit_races_fence(subject: &Subject, rounds: u32) {
    let owner = subject.registered().await;
    let (mut committed, mut aborted) = (0, 0);
    for round in 0..rounds {
        let (run, name) = (fresh_run(), fresh_name());
        let session = subject.having_put(&subject.context(owner, run), &name).await;
        let note = no_note();
        let fence = async {
            // The head start moves through the window in which the commit is on its way.
            tokio::time::sleep(Duration::from_micros(u64::from(round % 20) * 100)).await;
            subject.marks().fence(run, owner, Lsn::from_u64(5)).await
        };
        let commit = async {
            tokio::time::sleep(Duration::from_millis(u64::from(round % 5) * 20)).await;
            session.commit(&note).await
        };
        let (decision, fenced) = tokio::join!(commit, fence);
        let stands = match fenced.unwrap() {
            Fenced::Committed(..) => true,
            Fenced::Aborted(_) => false,
        };
        match decision {
            Decision::Committed(_) => assert!(stands, "round {round}: committed and fenced"),
            Decision::Refused(problem) => assert!(!stands, "round {round}: refused ({problem}) and yet committed"),
            Decision::Lost(_) => {}
        }
        assert_eq!(subject.has(&name).await, stands, "round {round}: the effect contradicts the verdict");
        if stands { committed += 1 } else { aborted += 1 }
    }
    println!("{rounds} rounds: {committed} committed, {aborted} aborted");
    assert!(committed > 0 && aborted > 0, "the race was no race: {committed} committed, {aborted} aborted");
}
