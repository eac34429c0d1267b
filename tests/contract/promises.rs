//! What every store that can prepare must keep.

use std::time::Duration;

use outrigger::journal::slip::Decided;
use outrigger::model::commit::{Decider, Gid};
use outrigger::model::ids::{LogOwner, Lsn, Run};
use outrigger::model::powers::Role;
use outrigger::model::state::Outcome;
use outrigger::store::{Prepares, Session, Setback, Sweep, TxnContext};
use tokio::time::Instant;

use super::{Subject, fresh_name, fresh_run};

impl Subject {
    /// The promising side.
    pub fn prepares(&self) -> &dyn Prepares {
        self.store.prepares().expect("this store prepares")
    }

    /// What a preparer's session of `owner` carries: another store decides.
    pub fn preparing(&self, owner: LogOwner, run: Run) -> TxnContext {
        TxnContext { decider: Some(Decider::Wal), ..self.context(owner, run) }
    }

    /// A preparer's session in which `name` was put.
    pub async fn preparer(&self, context: &TxnContext, name: &str) -> Box<dyn Session> {
        let mut session = self.store.open(context, Role::Preparer).await.expect("the store is up");
        session.work(&[(self.put)(name)]).await.expect("a put succeeds");
        session
    }

    /// A promise to put `name`, its session ended.
    pub async fn promised(&self, owner: LogOwner, run: Run, name: &str) -> Gid {
        let gid = gid(owner, run, 1000);
        let mut session = self.preparer(&self.preparing(owner, run), name).await;
        session.prepare(&gid).await.expect("it can be promised");
        session.rollback().await;
        gid
    }
}

/// The gid of a run that the log decides.
pub fn gid(owner: LogOwner, run: Run, durable: u64) -> Gid {
    Gid { log: owner.log, run, durable: Lsn::from_u64(durable), decider: Decider::Wal }
}

fn decided(gid: &Gid, outcome: Outcome) -> Decided {
    Decided::for_tests(gid.run, outcome)
}

/// A promise outlives its session, whose rollback does not touch it; finishing it is idempotent, either way.
pub async fn a_promise_is_kept_either_way(subject: &Subject) {
    let owner = subject.registered().await;
    for outcome in [Outcome::Committed, Outcome::Aborted] {
        let (run, name) = (fresh_run(), fresh_name());
        let gid = subject.promised(owner, run, &name).await;
        assert!(!subject.has(&name).await, "a promise is not yet seen");
        let listed = subject.prepares().prepared(owner.log).await.unwrap();
        assert!(matches!(listed.as_slice(), [(one, age)] if *one == gid && *age < 10), "{listed:?}");
        for _ in 0..3 {
            subject.prepares().finish(&decided(&gid, outcome), &gid).await.unwrap();
            assert_eq!(subject.has(&name).await, outcome == Outcome::Committed);
        }
        assert!(subject.prepares().prepared(owner.log).await.unwrap().is_empty());
    }
}

/// A promise that is gone without a trace was lost: only an operator can help. An abort finds that as it should be.
pub async fn a_lost_promise_is_told(subject: &Subject) {
    let owner = subject.registered().await;
    let never = gid(owner, fresh_run(), 1);
    let finished = subject.prepares().finish(&decided(&never, Outcome::Committed), &never).await;
    assert!(matches!(finished, Err(Setback::Final(_))), "{finished:?}");
    subject.prepares().finish(&decided(&never, Outcome::Aborted), &never).await.unwrap();
    // Rolled back behind our back, then committed by us: as lost as it gets.
    let (run, name) = (fresh_run(), fresh_name());
    let gid = subject.promised(owner, run, &name).await;
    subject.prepares().finish(&decided(&gid, Outcome::Aborted), &gid).await.unwrap();
    let finished = subject.prepares().finish(&decided(&gid, Outcome::Committed), &gid).await;
    assert!(matches!(finished, Err(Setback::Final(_))), "{finished:?}");
    assert!(!subject.has(&name).await);
    // A decision about another run says nothing of this gid.
    let finished = subject.prepares().finish(&Decided::for_tests(fresh_run(), Outcome::Committed), &gid).await;
    assert!(matches!(finished, Err(Setback::Final(_))), "{finished:?}");
}

/// Only this log's gids are listed, and the latest Lsn that any of them names is a witness.
pub async fn gids_are_of_one_log(subject: &Subject) {
    let (owner, neighbour) = (subject.registered().await, subject.registered().await);
    let (run, name) = (fresh_run(), fresh_name());
    let mine = gid(owner, run, 777_777);
    let mut session = subject.preparer(&subject.preparing(owner, run), &name).await;
    session.prepare(&mine).await.unwrap();
    session.rollback().await;
    assert!(subject.prepares().prepared(neighbour.log).await.unwrap().is_empty());
    assert_eq!(subject.marks().latest_durable(neighbour.log).await.unwrap(), Lsn::ZERO);
    assert_eq!(subject.marks().latest_durable(owner.log).await.unwrap(), Lsn::from_u64(777_777));
    subject.prepares().finish(&decided(&mine, Outcome::Aborted), &mine).await.unwrap();
}

/// The participant row of a finished promise is swept by the same rule as a marker.
pub async fn participant_rows_are_swept(subject: &Subject) {
    let owner = subject.registered().await;
    let gid = subject.promised(owner, fresh_run(), &fresh_name()).await;
    subject.prepares().finish(&decided(&gid, Outcome::Committed), &gid).await.unwrap();
    let hour = Duration::from_secs(3600);
    let sweep = Sweep { log: owner.log, below: Lsn::from_u64(1001), grace: hour, key_ttl: hour };
    let forget = async |sweep: Sweep| subject.marks().forget(&sweep).await.unwrap().markers;
    assert_eq!(forget(sweep).await, 0);
    let sweep = Sweep { grace: Duration::ZERO, ..sweep };
    assert_eq!(forget(Sweep { below: Lsn::from_u64(1000), ..sweep }).await, 0);
    assert_eq!(forget(sweep).await, 1);
    assert_eq!(forget(sweep).await, 0);
}

/// An incarnation that was superseded makes no more promises; a failed session promises nothing.
pub async fn ghosts_and_failures_promise_nothing(subject: &Subject) {
    let old = subject.registered().await;
    subject.marks().register(super::reopened(old)).await.unwrap();
    let mut ghost = subject.store.open(&subject.preparing(old, fresh_run()), Role::Preparer).await.unwrap();
    let problem =
        ghost.work(&[(subject.put)(&fresh_name())]).await.expect_err("an older incarnation may not take part");
    assert!(ghost.prepare(&gid(old, fresh_run(), 1)).await.is_err());
    ghost.rollback().await;
    assert_eq!(problem.code, outrigger::model::problem::Code::JournalUnavailable);
    assert!(subject.prepares().prepared(old.log).await.unwrap().is_empty());
}

/// Promises by several sessions at once, some of them dropped at every moment of their life: what was acknowledged
/// stands, nothing else comes to be, and everything can be finished.
pub async fn promises_survive_dropped_sessions(subject: &Subject, rounds: u32) {
    let owner = subject.registered().await;
    let (mut promised, mut given_up) = (0, 0);
    for round in 0..rounds {
        let lives = (0..8_u32).map(|life| async move {
            let (run, name) = (fresh_run(), fresh_name());
            // From "dropped at once" to "never dropped": the moment moves over the rounds.
            let patience = Duration::from_micros(u64::from((round * 8 + life) % 40) * 1500 + 1);
            let patience = if life == 7 { Duration::from_secs(20) } else { patience };
            let gid = gid(owner, run, 1000);
            let living = async {
                let mut session = subject.preparer(&subject.preparing(owner, run), &name).await;
                session.prepare(&gid).await.expect("it can be promised");
            };
            (tokio::time::timeout(patience, living).await.is_ok(), gid, name)
        });
        let ended = futures::future::join_all(lives).await;
        let outcome = |life: usize| if life.is_multiple_of(3) { Outcome::Aborted } else { Outcome::Committed };
        for (life, (acknowledged, gid, name)) in ended.iter().enumerate() {
            if *acknowledged {
                promised += 1;
                subject.prepares().finish(&decided(gid, outcome(life)), gid).await.unwrap();
                assert_eq!(subject.has(name).await, outcome(life) == Outcome::Committed);
            } else {
                given_up += 1;
            }
        }
        // Those given up may have been promised all the same: finish what the store lists, as recovery would.
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            for (gid, _) in subject.prepares().prepared(owner.log).await.unwrap() {
                subject.prepares().finish(&decided(&gid, Outcome::Aborted), &gid).await.unwrap();
            }
            let mut all_gone = true;
            for (_, _, name) in ended.iter().filter(|(acknowledged, ..)| !acknowledged) {
                all_gone &= !subject.has(name).await;
            }
            assert!(all_gone, "round {round}: what nobody committed is there");
            if subject.prepares().prepared(owner.log).await.unwrap().is_empty() {
                break;
            }
            assert!(Instant::now() < until, "round {round}: promises that cannot be finished");
        }
    }
    let next = super::reopened(owner);
    subject.marks().register(next).await.unwrap();
    subject.marks().end_old_sessions(next).await.unwrap();
    for (gid, _) in subject.prepares().prepared(owner.log).await.unwrap() {
        subject.prepares().finish(&decided(&gid, Outcome::Aborted), &gid).await.unwrap();
    }
    assert!(subject.prepares().prepared(owner.log).await.unwrap().is_empty(), "a promise that nobody can finish");
    println!("{rounds} rounds of 8: {promised} promised, {given_up} given up");
    assert!(promised > 0 && given_up > 0, "{promised} promised, {given_up} given up: that tries nothing");
}
