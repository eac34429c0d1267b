//! The part of a store that cannot promise: run again from the log when the verdict is to commit.

use std::sync::Arc;

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Ruled, rule};
use crate::crash;
use crate::journal::Undecided;
use crate::journal::prepared::Prepared;
use crate::metrics::StoreCall;
use crate::model::commit::{Decider, MarkerNote};
use crate::model::ids::StoreName;
use crate::model::powers::Role;
use crate::model::problem::{Code, Problem};
use crate::model::request::BoundOp;
use crate::model::state::{Event, Outcome};
use crate::store::{Decision, Session, TxnContext};
use crate::txn::atomic;
use crate::txn::core::Core;
use crate::txn::entry::{Entry, Results};
use crate::txn::in_doubt;
use crate::txn::retry::Backoff;

pub(super) struct Again<'a> {
    pub(super) core: &'a Arc<Core>,
    pub(super) entry: &'a Arc<Entry>,
    pub(super) prepared: &'a Prepared,
    /// Who decides.
    pub(super) store: &'a StoreName,
}

impl Again<'_> {
    /// Runs it and lets the store decide. What the store cannot do now leaves everything prepared (the error); what it
    /// refuses for good aborts everything.
    pub(super) async fn commit(&self) -> Result<Ruled, Problem> {
        let deadline = Instant::now() + self.prepared.terms.timeout();
        let mut backoff = Backoff::of_store();
        loop {
            let problem = match self.once(deadline).await {
                Ok(ruled) => return Ok(ruled),
                Err(problem) => problem,
            };
            if !problem.code.retryable() || problem.code == Code::Conflict {
                return rule(self.core, self.entry, Outcome::Aborted, Some(problem)).await;
            }
            let pause = backoff.next();
            let races = matches!(problem.code, Code::Deadlock | Code::Serialization | Code::LockTimeout);
            if !races || Instant::now() + pause >= deadline {
                return Err(problem);
            }
            self.entry.step("retried", Some(problem.detail));
            sleep(pause).await;
        }
    }

    /// One run. An error: the store has rolled it back, and decided nothing.
    async fn once(&self, deadline: Instant) -> Result<Ruled, Problem> {
        let site = self.core.site(self.store)?;
        site.admit(deadline).await?;
        let context = self.context(deadline);
        let mut session = site.call(StoreCall::Open, site.store.open(&context, Role::Decider)).await?;
        let worked = timeout_at(deadline, self.work(session.as_mut())).await.unwrap_or_else(|_| {
            Err(Problem::new(Code::Timeout, format!("{} did not run it again in time", self.store)))
        });
        let ready = match worked {
            Ok(results) => {
                self.entry.worked_again(results);
                self.put_to().await
            }
            Err(problem) => Err(problem),
        };
        match ready {
            Ok(true) => self.decide(session).await,
            Ok(false) => {
                session.rollback().await;
                Ok(Ruled::Unknown)
            }
            Err(problem) => {
                site.call(StoreCall::Rollback, session.rollback()).await;
                Err(problem)
            }
        }
    }

    fn context(&self, deadline: Instant) -> TxnContext {
        let intent = &self.prepared.intent;
        TxnContext {
            run: intent.run,
            owner: self.core.journal.owner(),
            durable: self.core.journal.durable_lsn(),
            decider: Some(Decider::Store(self.store.clone())),
            followers: intent.preparers.iter().map(|(store, _)| store.clone()).chain(intent.redoers()).collect(),
            key: intent.key.clone(),
            isolation: self.prepared.terms.isolation,
            deadline,
            lock_wait: self.core.settings.lock_wait,
        }
    }

    async fn work(&self, session: &mut dyn Session) -> Result<Results, Problem> {
        let again = &self.prepared.terms.again;
        let bound: Vec<BoundOp> = again
            .iter()
            .map(|op| BoundOp { op: Arc::new(op.clone()), values: op.action.template().raw().clone() })
            .collect();
        let site = self.core.site(self.store)?;
        let _flight = self.core.detector.in_flight(self.store, self.prepared.intent.run);
        let values = site.call(StoreCall::Work, session.work(&bound)).await?;
        let results: Results = again.iter().map(|op| op.id.clone()).zip(values).collect();
        for (operation, pointer, told) in &self.prepared.terms.told {
            let found = results.get(operation).and_then(|result| result.pointer(pointer)).unwrap_or(&Value::Null);
            if found != told {
                let detail = format!(
                    "others were told that the result of `{operation}` has {told} at `{pointer}`, and run again it has \
                     {found}: so nothing of it can be committed"
                );
                return Err(Problem::new(Code::Conflict, detail).in_operation(operation).in_store(self.store));
            }
        }
        Ok(results)
    }

    /// From here on a crash is settled by a fence. `false`: whether that stands is known at the next opening only.
    async fn put_to(&self) -> Result<bool, Problem> {
        match self.core.journal.put_to(&self.prepared.intent).await {
            Ok(()) => {
                crash::point("after_intent");
                Ok(true)
            }
            Err(Undecided::NotWritten(problem)) => Err(problem),
            Err(Undecided::Unknown(problem)) => {
                self.entry.step("in_doubt", Some(problem.detail));
                self.entry.take(Event::VerdictLost);
                Ok(false)
            }
        }
    }

    async fn decide(&self, session: Box<dyn Session>) -> Result<Ruled, Problem> {
        let run = self.prepared.intent.run;
        let note = MarkerNote { answer: self.entry.kept_answer(), redo: Vec::new() };
        let decision = atomic::commit(self.core, run, self.store.clone(), session, &note).await;
        crash::point("after_decide");
        match decision {
            Decision::Committed(verdict) => Ok(match self.core.journal.witness(&verdict) {
                Ok(decided) => Ruled::Decided(decided, None),
                Err(_) => Ruled::Unknown,
            }),
            Decision::Refused(problem) => Err(problem),
            Decision::Lost(why) => {
                tracing::warn!(transaction = %self.entry.id, store = %self.store, %why, "in doubt: the answer was lost");
                self.entry.step("in_doubt", Some(why));
                self.entry.take(Event::VerdictLost);
                let found = in_doubt::resolve(self.core, self.entry, run, self.store).await;
                Ok(found.map_or(Ruled::Unknown, |(decided, _)| Ruled::Decided(decided, None)))
            }
        }
    }
}
