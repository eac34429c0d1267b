//! What a store that sees its waits must keep: who waits for whom, by their runs, and how one wait is ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outrigger::clock;
use outrigger::model::ids::{LogOwner, Run, TxnId};
use outrigger::model::powers::Role;
use outrigger::model::problem::{Code, Problem};
use outrigger::model::wait::{Party, Source, WaitEdge};
use outrigger::store::{Blockers, Decision, Session, TxnContext};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{Subject, fresh_name, fresh_run, no_note};

/// A session with what its last work answered.
pub type Worked = (Box<dyn Session>, Result<Vec<Value>, Problem>);

/// Everything here happens within moments, if at all.
pub const SOON: Duration = Duration::from_secs(5);

impl Subject {
    /// The side that sees the waits.
    pub fn blockers(&self) -> &dyn Blockers {
        self.store.blockers().expect("this store sees its waits")
    }

    /// A session that wants to put `name`, in a task of its own.
    pub fn putting(&self, mut session: Box<dyn Session>, name: &str) -> JoinHandle<Worked> {
        let put = [(self.put)(name)];
        tokio::spawn(async move {
            let done = session.work(&put).await;
            (session, done)
        })
    }

    /// A fresh run of `owner` that has put something of its own and now wants to put `name`.
    pub async fn wanting(&self, owner: LogOwner, run: Run, name: &str) -> JoinHandle<Worked> {
        let session = self.having_put(&self.context(owner, run), &fresh_name()).await;
        self.putting(session, name)
    }

    /// What is there for the next to lock.
    pub async fn standing(&self, owner: LogOwner) -> String {
        let name = fresh_name();
        let session = self.having_put(&self.context(owner, fresh_run()), &name).await;
        assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)));
        name
    }

    /// The edges of these runs, once there are `number` of them.
    pub async fn edges(&self, waiting: &[Run], number: usize) -> Vec<WaitEdge> {
        self.edges_where(waiting, |edges| edges.len() == number).await
    }

    /// The edges of these runs, once they are as wanted.
    pub async fn edges_where(&self, waiting: &[Run], wanted: impl Fn(&[WaitEdge]) -> bool) -> Vec<WaitEdge> {
        let until = Instant::now() + SOON;
        loop {
            let edges = self.blockers().waits(waiting).await.expect("the store answers");
            if wanted(&edges) {
                return edges;
            }
            assert!(Instant::now() < until, "not as wanted: {edges:#?}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Who waits for whom, without the rest.
pub fn pairs(edges: &[WaitEdge]) -> Vec<(Party, Party)> {
    edges.iter().map(|edge| (edge.waiter.clone(), edge.holder.clone())).collect()
}

pub fn ours(run: Run) -> Party {
    Party::Ours(run.txn)
}

/// A wait shows both runs, in the same epoch for as long as it lasts; what does not wait shows nothing.
pub async fn a_wait_names_both(subject: &Subject) {
    let owner = subject.registered().await;
    let name = subject.standing(owner).await;
    let (first, second) = (fresh_run(), fresh_run());
    let holder = subject.having_put(&subject.context(owner, first), &name).await;
    let began = clock::now_us();
    let waiter = subject.wanting(owner, second, &name).await;
    let seen = subject.edges(&[second], 1).await.remove(0);
    assert_eq!((&seen.waiter, &seen.holder), (&ours(second), &ours(first)));
    assert_eq!(seen.source, Source::Store(subject.store.name().clone()));
    assert!(!seen.resource.is_empty());
    assert!((began - 5_000_000..=clock::now_us() + 5_000_000).contains(&seen.since_us), "{seen:?}, began {began}");
    sleep(Duration::from_millis(50)).await;
    let again = subject.edges(&[second], 1).await.remove(0);
    assert_eq!((again.epoch, again.holder), (seen.epoch, seen.holder), "it is the same wait");
    for nobody in [&[][..], &[first], &[fresh_run()], &[Run { attempt: second.attempt.next(), ..second }]] {
        assert_eq!(subject.blockers().waits(nobody).await.unwrap(), [], "{nobody:?}");
    }
    holder.rollback().await;
    let (waiter, done) = timeout(SOON, waiter).await.expect("the lock is free").unwrap();
    done.expect("it had its turn");
    assert_eq!(subject.blockers().waits(&[second]).await.unwrap(), []);
    waiter.rollback().await;
}

/// Whoever is in the way of one that is asked about may wait too: that edge is in the answer.
pub async fn a_chain_is_followed(subject: &Subject) {
    let owner = subject.registered().await;
    let (one, two) = (subject.standing(owner).await, subject.standing(owner).await);
    let runs: [Run; 3] = std::array::from_fn(|_| fresh_run());
    let holder = subject.having_put(&subject.context(owner, runs[0]), &one).await;
    let middle = subject.having_put(&subject.context(owner, runs[1]), &two).await;
    let middle = subject.putting(middle, &one);
    let last = subject.wanting(owner, runs[2], &two).await;
    let mut seen = pairs(&subject.edges(&[runs[2]], 2).await);
    seen.sort();
    let mut expected = vec![(ours(runs[2]), ours(runs[1])), (ours(runs[1]), ours(runs[0]))];
    expected.sort();
    assert_eq!(seen, expected);
    assert_eq!(pairs(&subject.edges(&[runs[1]], 1).await), [(ours(runs[1]), ours(runs[0]))]);
    holder.rollback().await;
    timeout(SOON, middle).await.expect("its turn").unwrap().0.rollback().await;
    timeout(SOON, last).await.expect("its turn").unwrap().0.rollback().await;
}

/// The next wait is another one, and the next attempt another run: neither is taken for the last.
pub async fn waits_and_attempts_are_told_apart(subject: &Subject) {
    let owner = subject.registered().await;
    let name = subject.standing(owner).await;
    let (first, second) = (fresh_run(), fresh_run());
    let again = Run { attempt: second.attempt.next(), ..second };
    let holder = subject.having_put(&subject.context(owner, first), &name).await;
    let waiter = subject.wanting(owner, second, &name).await;
    let before = subject.edges(&[second], 1).await.remove(0);
    // The first attempt is still waiting while the second one is what the detector knows: it is no part of it.
    let rerun = subject.wanting(owner, again, &name).await;
    let waits = |edge: &WaitEdge| edge.waiter == ours(again);
    let edges = subject.edges_where(&[again], |edges| edges.iter().any(waits)).await;
    assert_eq!(edges.iter().filter(|edge| waits(edge)).count(), 1, "{edges:#?}");
    assert!(edges.iter().all(|edge| edge.holder != ours(again)), "nobody waits for the new attempt: {edges:#?}");
    subject.blockers().interrupt(again).await.unwrap();
    let (session, done) = timeout(SOON, rerun).await.expect("it was interrupted").unwrap();
    done.unwrap_err();
    session.rollback().await;
    assert_eq!(subject.edges(&[second], 1).await[0].epoch, before.epoch, "the other attempt waits on");
    subject.blockers().interrupt(second).await.unwrap();
    timeout(SOON, waiter).await.expect("it was interrupted").unwrap().0.rollback().await;
    let rerun = subject.wanting(owner, again, &name).await;
    let after = subject.edges(&[again], 1).await.remove(0);
    assert_ne!(after.epoch, before.epoch, "it is another wait");
    holder.rollback().await;
    timeout(SOON, rerun).await.expect("its turn").unwrap().0.rollback().await;
}

/// An interrupted wait fails at once, its session rolls back at once, and everybody else goes on.
pub async fn an_interrupt_ends_one_wait(subject: &Subject) {
    let owner = subject.registered().await;
    let name = subject.standing(owner).await;
    let runs: [Run; 3] = std::array::from_fn(|_| fresh_run());
    let holder = subject.having_put(&subject.context(owner, runs[0]), &name).await;
    let victim = subject.wanting(owner, runs[1], &name).await;
    subject.edges(&[runs[1]], 1).await;
    let third = subject.wanting(owner, runs[2], &name).await;
    subject.blockers().waits(&[runs[2]]).await.expect("the store answers");
    let began = Instant::now();
    for who in [runs[0], fresh_run(), Run { attempt: runs[1].attempt.next(), ..runs[1] }] {
        subject.blockers().interrupt(who).await.expect("harmless: it does not wait");
    }
    assert!(!victim.is_finished() && !third.is_finished());
    subject.blockers().interrupt(runs[1]).await.unwrap();
    let (session, done) = timeout(Duration::from_secs(1), victim).await.expect("it fails at once").unwrap();
    let problem = done.unwrap_err();
    assert!(matches!(problem.code, Code::Timeout | Code::LockTimeout), "{problem}");
    timeout(Duration::from_secs(1), session.rollback()).await.expect("it rolls back at once");
    println!("interrupted and rolled back after {:?}", began.elapsed());
    assert!(matches!(holder.commit(&no_note()).await, Decision::Committed(_)), "the holder was not hit");
    let (third, done) = timeout(SOON, third).await.expect("its turn").unwrap();
    done.expect("the third was not hit");
    assert!(matches!(third.commit(&no_note()).await, Decision::Committed(_)));
}

/// An interrupt that comes too late hits nobody else: not the next statement, not the connection's next transaction.
pub async fn late_interrupts_hit_nobody(subject: &Subject, rounds: u32) {
    let owner = subject.registered().await;
    let name = subject.standing(owner).await;
    let mut refused = 0;
    for _ in 0..rounds {
        let run = fresh_run();
        let holder = subject.having_put(&subject.context(owner, fresh_run()), &name).await;
        let waiter = subject.wanting(owner, run, &name).await;
        subject.edges(&[run], 1).await;
        let (note, blockers) = (no_note(), subject.blockers());
        let (ended, interrupted) = tokio::join!(holder.commit(&note), blockers.interrupt(run));
        assert!(matches!(ended, Decision::Committed(_)));
        interrupted.unwrap();
        let (session, done) = timeout(SOON, waiter).await.expect("either way it goes on").unwrap();
        if done.is_ok() {
            // It had its turn, and was told to end all the same: it may be, but then all of it.
            assert!(!matches!(session.commit(&note).await, Decision::Lost(_)), "there is no doubt either way");
        } else {
            refused += 1;
            session.rollback().await;
        }
        // Whoever uses the connections next, and waits there, is not met by anything that is left over.
        let holder = subject.having_put(&subject.context(owner, fresh_run()), &name).await;
        let next = subject.wanting(owner, fresh_run(), &name).await;
        sleep(Duration::from_millis(5)).await;
        holder.rollback().await;
        let (next, done) = timeout(SOON, next).await.expect("its turn").unwrap();
        done.expect("nobody interrupted this one");
        next.rollback().await;
    }
    println!("{refused} of {rounds} were refused in their wait");
}

/// An idle holder is named among a dozen busy sessions of the same kind, every time.
pub async fn idle_holders_are_named_in_a_crowd(subject: &Subject, rounds: u32) {
    let owner = subject.registered().await;
    let name = subject.standing(owner).await;
    let churned = Arc::new(AtomicUsize::new(0));
    let crowd: Vec<_> = (0..12)
        .map(|_| {
            let (store, put, count) = (subject.store.clone(), subject.put, churned.clone());
            let context = subject.context(owner, fresh_run());
            tokio::spawn(async move {
                let mine = TxnId::fresh().to_string();
                loop {
                    let deadline = Instant::now() + 4 * SOON;
                    let context = TxnContext { run: fresh_run(), deadline, ..context.clone() };
                    let opened = store.open(&context, Role::Decider).await;
                    let mut session = opened.expect("a session");
                    session.work(&[put(&mine)]).await.expect("nobody else wants it");
                    assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)));
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..rounds {
        let (first, second) = (fresh_run(), fresh_run());
        let holder = subject.having_put(&subject.context(owner, first), &name).await;
        let waiter = subject.wanting(owner, second, &name).await;
        let seen = pairs(&subject.edges(&[second], 1).await);
        assert_eq!(seen, [(ours(second), ours(first))], "round {round}");
        holder.rollback().await;
        let (waiter, done) = timeout(SOON, waiter).await.expect("its turn").unwrap();
        done.expect("it had its turn");
        waiter.rollback().await;
    }
    for one in crowd {
        assert!(!one.is_finished(), "the crowd worked to the end");
        one.abort();
    }
    println!("{rounds} of {rounds} named, while the crowd committed {}", churned.load(Ordering::Relaxed));
}
