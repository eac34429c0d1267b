//! Sessions that get their part only when all is done: as safe as those that had it from the beginning.

use outrigger::model::ids::{LogOwner, Lsn, Run, StoreName};
use outrigger::model::powers::Role;
use outrigger::model::problem::Code;
use outrigger::model::state::Outcome;
use outrigger::store::{Decision, Fenced, Session, Settled};

use super::{Subject, fresh_name, fresh_run, no_note};

impl Subject {
    /// An undecided session in which `name` was put.
    async fn undecided(&self, owner: LogOwner, run: Run, name: &str) -> Box<dyn Session> {
        let mut context = self.context(owner, run);
        context.decider = None;
        let mut session = self.store.open(&context, Role::Undecided).await.expect("the store is up");
        session.work(&[(self.put)(name)]).await.expect("a put succeeds");
        session
    }
}

/// What the log had durable by then.
fn durable() -> Lsn {
    Lsn::from_u64(2000)
}

fn decider(followers: &[&str]) -> Settled {
    Settled { role: Role::Decider, followers: followers.iter().map(|name| StoreName::from(*name)).collect() }
}

/// A decider that learns late that it is one leaves the same marker, with the followers that were known last.
pub async fn a_late_decider_leaves_its_marker(subject: &Subject) {
    let owner = subject.registered().await;
    let (run, name) = (fresh_run(), fresh_name());
    let mut session = subject.undecided(owner, run, &name).await;
    session.renew(tokio::time::Instant::now() + std::time::Duration::from_secs(5));
    session.work(&[(subject.put)(&fresh_name())]).await.expect("it goes on");
    session.settle(&decider(&["vectors"])).await.expect("it is settled");
    assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_)));
    assert!(subject.has(&name).await);
    let Fenced::Committed(_, marker) = subject.marks().fence(run, owner, durable()).await.unwrap() else {
        panic!("its marker stands in the fence's way")
    };
    assert_eq!((marker.outcome, marker.followers), (Outcome::Committed, vec![StoreName::from("vectors")]));
}

/// A fence that came first: nobody can commit any more, though the session had done all its work by then.
pub async fn a_fence_refuses_a_late_decider(subject: &Subject) {
    let owner = subject.registered().await;
    let (run, name) = (fresh_run(), fresh_name());
    // A store whose marker is the session's first statement lets the fence wait for it instead.
    let fence = subject.marks().fence(run, owner, durable());
    if subject.store.prepares().is_some() {
        let mut session = subject.undecided(owner, run, &name).await;
        assert!(matches!(fence.await.unwrap(), Fenced::Aborted(_)));
        let settled = session.settle(&decider(&[])).await;
        assert!(settled.is_err(), "its marker met the fence");
        assert!(matches!(session.commit(&no_note()).await, Decision::Refused(_)));
    } else {
        assert!(matches!(fence.await.unwrap(), Fenced::Aborted(_)));
        let mut context = subject.context(owner, run);
        context.decider = None;
        let mut session = subject.store.open(&context, Role::Undecided).await.expect("the store is up");
        assert!(session.work(&[(subject.put)(&name)]).await.is_err(), "its marker met the fence");
        session.rollback().await;
    }
    assert!(!subject.has(&name).await);
}

/// What becomes a reader leaves nothing behind; where it has written after all it is refused, or its write goes.
pub async fn a_late_reader_leaves_nothing(subject: &Subject) {
    let owner = subject.registered().await;
    let (run, name) = (fresh_run(), fresh_name());
    let mut session = subject.undecided(owner, run, &name).await;
    match session.settle(&Settled { role: Role::Reader, followers: Vec::new() }).await {
        Ok(()) => assert!(matches!(session.commit(&no_note()).await, Decision::Committed(_))),
        Err(problem) => {
            assert_eq!(problem.code, Code::RejectedByStore, "{problem}");
            session.rollback().await;
        }
    }
    assert!(!subject.has(&name).await);
    assert!(matches!(subject.marks().fence(run, owner, durable()).await.unwrap(), Fenced::Aborted(_)));
}
