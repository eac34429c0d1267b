//! One open transaction at work: its mailbox is read, its sessions are kept, its lease runs.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Call, Last, Terms};
use crate::clock;
use crate::crash;
use crate::metrics::Phase;
use crate::model::ids::StoreName;
use crate::model::problem::{Code, Problem};
use crate::model::request::{DeclaredLock, Operation, link};
use crate::model::state::Outcome;
use crate::plan::Plan;
use crate::store::Settled;
use crate::txn::atomic::{self, Attempt, End};
use crate::txn::core::Core;
use crate::txn::entry::{Entry, Results};
use crate::txn::work;

/// Operations of one transaction, over all its calls.
const MOST_OPERATIONS: usize = 10_000;
/// Bytes of results, roughly, beyond which a transaction takes no more operations: it keeps them all, for references.
const MOST_RESULT_BYTES: usize = 64 << 20;

pub(super) struct Talk<'a> {
    core: &'a Arc<Core>,
    entry: &'a Arc<Entry>,
    terms: &'a Terms,
    attempt: Attempt<'a>,
    operations: Vec<Operation>,
    results: Results,
    result_bytes: usize,
}

/// Why a call was not carried out.
enum Refused {
    /// Nothing has run: the transaction stays as it was.
    Still(Problem),
    /// It can only be rolled back.
    Over(Problem),
}

impl<'a> Talk<'a> {
    pub(super) fn new(core: &'a Arc<Core>, entry: &'a Arc<Entry>, terms: &'a Terms) -> Self {
        let plan = Plan::of_nothing();
        let deadline = Instant::now() + terms.timeout;
        let attempt = Attempt::new(core, entry, entry.run(), plan, terms.isolation, deadline).noted();
        let (operations, results) = (Vec::new(), Results::new());
        Self { core, entry, terms, attempt, operations, results, result_bytes: 0 }
    }

    /// One call after the other, to the end.
    pub(super) async fn listen(mut self, mut calls: mpsc::Receiver<Call>) -> (End, Option<Last>) {
        loop {
            let lease = Instant::now() + self.terms.lease;
            let lease_us = i64::try_from(self.terms.lease.as_micros()).unwrap_or(i64::MAX);
            self.entry.leased_until(clock::now_us().saturating_add(lease_us));
            let call = tokio::select! {
                biased;
                Some(call) = calls.recv() => call,
                () = sleep_until(lease) => {
                    let waited = self.terms.lease.as_millis();
                    let detail = format!("no call came for {waited} ms, so its lease ran out");
                    return (self.attempt.abort(Problem::new(Code::Timeout, detail)).await, None);
                }
                () = self.core.leaving.cancelled() => {
                    let detail = "the sidecar stopped while it was open";
                    return (self.attempt.abort(Problem::new(Code::Overloaded, detail)).await, None);
                }
            };
            match call {
                Call::Operate { operations, locks, reply } => match self.operate(operations, &locks).await {
                    Ok(results) => drop(reply.send(Ok(results))),
                    Err(Refused::Still(problem)) => {
                        drop(reply.send(Err(problem.of(self.entry.id, self.entry.state()))));
                    }
                    Err(Refused::Over(problem)) => {
                        return (self.attempt.abort(problem).await, Some(Last::Operate(reply)));
                    }
                },
                Call::Prepare { reply, .. } => {
                    let detail = "prepare is not in this version";
                    drop(reply.send(Err(Problem::new(Code::Unsupported, detail))));
                }
                Call::End { outcome, reply } => {
                    drop(reply.send(Ok(())));
                    return (self.end(outcome).await, None);
                }
            }
        }
    }

    /// Runs the operations of one call, and answers their results.
    async fn operate(&mut self, mut operations: Vec<Operation>, locks: &[DeclaredLock]) -> Result<Results, Refused> {
        let plan = self.check(&mut operations).map_err(Refused::Still)?;
        let deadline = Instant::now() + self.terms.timeout;
        let attempt = &mut self.attempt;
        attempt.context.deadline = deadline;
        let late = || {
            let waited = self.terms.timeout.as_millis();
            Problem::new(Code::Timeout, format!("not done after {waited} ms, so the transaction was aborted"))
        };
        let joined = work::join(self.core, &operations, &mut attempt.parts, &attempt.context);
        timeout_at(deadline, joined).await.unwrap_or_else(|_| Err(late())).map_err(Refused::Still)?;
        let start = Instant::now();
        let (parts, claims, context) = (&mut attempt.parts, &mut attempt.claims, &attempt.context);
        let before = std::mem::take(&mut self.results);
        let worked = async {
            let known = work::known_claims(self.core, locks, &before, parts).await?;
            work::lock(self.core, self.entry, context, known.clone()).await?;
            claims.extend(known);
            work::run(self.core, self.entry, context, parts, claims, before).await
        };
        let worked = timeout_at(deadline, worked).await.unwrap_or_else(|_| Err(late()));
        self.results = worked.map_err(Refused::Over)?;
        self.entry.planned(self.attempt.context.run, &plan);
        self.attempt.plan = plan;
        self.attempt.done(Phase::Work, "worked", start);
        let result = |operation: &Operation| Some((operation.id.clone(), self.results.get(&operation.id)?.clone()));
        let own: Results = operations.iter().filter_map(result).collect();
        self.result_bytes += own.values().map(crate::txn::entry::weight).sum::<usize>();
        self.operations.append(&mut operations);
        Ok(own)
    }

    /// What can be refused before anything runs; the plan with these operations.
    fn check(&self, operations: &mut [Operation]) -> Result<Plan, Problem> {
        self.core.check_open()?;
        link(operations, self.operations.len(), |id| self.results.contains_key(id))?;
        if self.operations.len() + operations.len() > MOST_OPERATIONS || self.result_bytes > MOST_RESULT_BYTES {
            let detail = format!(
                "a transaction has at most {MOST_OPERATIONS} operations, and none more once their results fill \
                 {MOST_RESULT_BYTES} bytes"
            );
            return Err(Problem::new(Code::PayloadTooLarge, detail));
        }
        atomic::plan(self.core, self.operations.iter().chain(&*operations), self.terms.isolation)
    }

    /// The verdict.
    async fn end(mut self, outcome: Outcome) -> End {
        if outcome == Outcome::Aborted {
            let problem = Problem::new(Code::RolledBack, "its client rolled it back");
            return self.attempt.abort(problem).await;
        }
        crash::point("before_settle");
        let ready = match self.settle().await {
            Ok(()) => self.attempt.intend_and_prepare().await,
            refused => refused,
        };
        match ready {
            Ok(()) => self.attempt.second_half().await,
            Err(problem) => self.attempt.abort(problem).await,
        }
    }

    /// Step 4: it is known now who decides, so every session gets its part; and the redo writes are made absolute.
    async fn settle(&mut self) -> Result<(), Problem> {
        self.core.check_open()?;
        let start = Instant::now();
        let deadline = start + self.terms.timeout;
        let attempt = &mut self.attempt;
        attempt.context.deadline = deadline;
        attempt.context.decider.clone_from(&attempt.plan.decider);
        attempt.context.followers = attempt.plan.followers();
        let redone = work::redone(&self.operations, &attempt.plan);
        self.entry.worked(std::mem::take(&mut self.results), redone);
        let settling = async {
            let (plan, followers) = (&attempt.plan, &attempt.context.followers);
            let role = |store: &StoreName| plan.role(store);
            let each = attempt.parts.iter_mut().map(|part| async {
                part.role = role(&part.store);
                let Some(session) = &mut part.session else { return Ok(()) };
                session.renew(deadline);
                session.settle(&Settled { role: part.role, followers: followers.clone() }).await
            });
            futures::future::try_join_all(each).await?;
            attempt.validate().await
        };
        let late = |_| Err(Problem::new(Code::Timeout, "not ready to decide in time, so it was aborted"));
        timeout_at(deadline, settling).await.unwrap_or_else(late)?;
        attempt.done(Phase::Validate, "validated", start);
        self.entry.beyond_recall()
    }
}
