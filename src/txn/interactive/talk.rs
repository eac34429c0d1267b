//! One open transaction at work: its mailbox is read, its sessions are kept, its lease runs.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Call, Last, Terms, rolled_back};
use crate::clock;
use crate::crash;
use crate::journal::Undecided;
use crate::journal::prepared::{self, Prepared};
use crate::metrics::{Phase, Reaped, StoreCall};
use crate::model::commit::Decider;
use crate::model::ids::StoreName;
use crate::model::powers::Role;
use crate::model::problem::{Code, Problem};
use crate::model::request::{DeclaredLock, Operation, PrepareWish, WaitFor, link};
use crate::model::state::Outcome;
use crate::plan::Plan;
use crate::store::Settled;
use crate::txn::atomic::{self, Attempt, End};
use crate::txn::core::Core;
use crate::txn::entry::{Entry, Promise, Results};
use crate::txn::held::Held;
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

/// Operation, JSON pointer into its result, and what stood there.
type Told = Vec<(String, String, serde_json::Value)>;

/// Why it is not prepared.
enum Unpromised {
    /// It can only be rolled back.
    Refused(Problem),
    /// The flush failed: the next opening of the log will know.
    Unknown(Problem),
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
                why = self.entry.told_to_give_way() => return (self.attempt.abort(why).await, None),
                Some(call) = calls.recv() => call,
                () = sleep_until(lease) => {
                    let waited = self.terms.lease.as_millis();
                    let detail = format!("no call came for {waited} ms, so its lease ran out");
                    self.core.metrics.reaped(Reaped::Interactive, 1);
                    return (self.attempt.abort(Problem::new(Code::Timeout, detail)).await, None);
                }
                () = self.core.leaving.cancelled() => {
                    let detail = "the sidecar stopped while it was open";
                    return (self.attempt.abort(Problem::new(Code::Overloaded, detail)).await, None);
                }
            };
            match call {
                Call::Operate { operations, locks, reply } => {
                    match self.operate_or_give_way(operations, &locks).await {
                        Ok(results) => drop(reply.send(Ok(results))),
                        Err(Refused::Still(problem)) => {
                            drop(reply.send(Err(problem.of(self.entry.id, self.entry.state()))));
                        }
                        Err(Refused::Over(problem)) => {
                            return (self.attempt.abort(problem).await, Some(Last::Operate(reply)));
                        }
                    }
                }
                Call::Prepare { wish, reply } => match self.promise(wish).await {
                    Ok(prepared) => {
                        drop(reply.send(Ok(())));
                        return (Held::new(self.core, self.entry, prepared).wait(calls).await, None);
                    }
                    Err(Unpromised::Refused(problem)) => {
                        return (self.attempt.abort(problem).await, Some(Last::Prepare(reply)));
                    }
                    Err(Unpromised::Unknown(problem)) => {
                        drop(reply.send(Err(problem.of(self.entry.id, self.entry.state()))));
                        return (End::Stuck, None);
                    }
                },
                Call::End { outcome, cause, reply } => {
                    drop(reply.send(Ok(())));
                    return (self.end(outcome, cause).await, None);
                }
            }
        }
    }

    /// Runs them, unless an operator tells it to give way meanwhile: what was at work is dropped then, as at a deadline.
    async fn operate_or_give_way(
        &mut self,
        operations: Vec<Operation>,
        locks: &[DeclaredLock],
    ) -> Result<Results, Refused> {
        let entry = self.entry;
        tokio::select! {
            done = self.operate(operations, locks) => done,
            why = entry.told_to_give_way() => Err(Refused::Over(why)),
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
    async fn end(mut self, outcome: Outcome, cause: Option<Problem>) -> End {
        if outcome == Outcome::Aborted {
            return self.attempt.abort(cause.unwrap_or_else(rolled_back)).await;
        }
        crash::point("before_settle");
        let ready = match self.settle().await.and_then(|()| self.entry.beyond_recall()) {
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
        Ok(())
    }

    /// Makes it durable: everybody who can promises, and what the rest needs goes into the log.
    async fn promise(&mut self, wish: PrepareWish) -> Result<Prepared, Unpromised> {
        let start = Instant::now();
        let (again, told) = self.promise_all().await.map_err(Unpromised::Refused)?;
        let ttl_us = i64::try_from(wish.ttl.as_micros()).unwrap_or(i64::MAX);
        let expires_us = clock::now_us().saturating_add(ttl_us);
        let prepared = Prepared {
            intent: self.attempt.intent(self.attempt.asked.clone()),
            principal: self.terms.principal.to_string(),
            expires_us,
            on_expiry: wish.on_expiry,
            terms: prepared::Terms {
                timeout_ms: u64::try_from(self.terms.timeout.as_millis()).unwrap_or(u64::MAX),
                wait_decided: self.terms.wait == WaitFor::Decided,
                isolation: self.terms.isolation,
                again,
                told,
            },
            answer: self.entry.shown_answer(),
        };
        crash::point("before_promise");
        let place = self.core.journal.promise(&prepared).await.map_err(|undecided| match undecided {
            Undecided::NotWritten(problem) => Unpromised::Refused(problem),
            Undecided::Unknown(problem) => Unpromised::Unknown(problem),
        })?;
        crash::point("after_promise");
        self.entry.pinned_at(place);
        self.entry.promised(Promise { expires_us, on_expiry: wish.on_expiry });
        self.core.metrics.phase(Phase::Prepare, start.elapsed());
        // Its record has told it already.
        self.entry.noted("prepared");
        // Their sessions are spent: the promises live without them.
        self.attempt.parts.clear();
        Ok(prepared)
    }

    /// Every session gets its part and promises. Answers what has to be run again at the commit, and what others were
    /// told of its results.
    async fn promise_all(&mut self) -> Result<(Vec<Operation>, Told), Problem> {
        self.attempt.plan = Plan::to_hold(&atomic::powers(self.core, &self.operations)?)?;
        self.entry.planned(self.attempt.context.run, &self.attempt.plan);
        let last = self.last_part()?;
        self.settle().await?;
        self.entry.beyond_recall()?;
        self.attempt.let_readers_go().await?;
        let decider = self.attempt.plan.decider.clone().unwrap_or(Decider::Wal);
        // The part that cannot promise is let go: it is run again when the verdict comes.
        let unpromised = |part: &&mut work::Part| part.role == Role::Decider;
        if let Some(part) = self.attempt.parts.iter_mut().find(unpromised)
            && let Some(session) = part.session.take()
        {
            let site = self.core.site(&part.store)?;
            site.call(StoreCall::Rollback, session.rollback()).await;
        }
        self.attempt.asked = self.attempt.gids(&decider);
        // Not forced: should it be lost with the machine, the scan for promises that nobody answers for finds them.
        self.core.journal.append_intent(&self.attempt.intent(self.attempt.asked.clone()))?;
        self.attempt.prepare_all().await?;
        Ok(last)
    }

    /// The operations of a decider that cannot promise, with real values, and what others were told of their results.
    fn last_part(&self) -> Result<(Vec<Operation>, Told), Problem> {
        let Some(Decider::Store(store)) = &self.attempt.plan.decider else { return Ok((Vec::new(), Vec::new())) };
        let mine = |operation: &&Operation| operation.store == *store;
        let bind = |operation: &Operation| {
            let bound = work::bind(&Arc::new(operation.clone()), &self.results)?;
            Ok(Operation { action: operation.action.clone().with(bound.values), ..operation.clone() })
        };
        let again = self.operations.iter().filter(mine).map(bind).collect::<Result<Vec<_>, Problem>>()?;
        let references = self.operations.iter().flat_map(|operation| operation.action.template().references());
        let told = references
            .filter(|reference| again.iter().any(|operation| operation.id == reference.operation))
            .filter_map(|reference| {
                let value = self.results.get(&reference.operation)?.pointer(&reference.path)?;
                Some((reference.operation.clone(), reference.path.clone(), value.clone()))
            })
            .collect();
        Ok((again, told))
    }
}
