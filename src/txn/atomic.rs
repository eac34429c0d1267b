//! One run of an atomic transaction: protocol.md, section 4, top to bottom.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, timeout, timeout_at};

use super::core::Core;
use super::entry::{Entry, Results};
use super::work::{self, Part};
use super::{elsewhere, finish, in_doubt};
use crate::clock;
use crate::crash;
use crate::journal::record::{Ended, Intent};
use crate::journal::slip::Decided;
use crate::journal::{Journal, Undecided};
use crate::lock::Claim;
use crate::metrics::{Phase, StoreCall};
use crate::model::commit::{Decider, Gid, MarkerNote, RedoWrite};
use crate::model::ids::{Run, StoreName};
use crate::model::powers::Role;
use crate::model::problem::{Code, Problem};
use crate::model::request::{Isolation, Operation, TxnRequest};
use crate::model::state::{Event, Outcome};
use crate::plan::{self, Plan};
use crate::store::{Decision, Session, TxnContext};

/// How a run ended.
pub(super) enum End {
    /// Decided and finished everywhere (or being finished by somebody who waits for an operator).
    Committed,
    /// Nothing of it happened.
    Aborted(Problem),
    /// The log takes no more records, so nothing may be said before it is opened again.
    Stuck,
}

/// A rollback that nobody acknowledges in this time is left to the server: the connection is closed.
const ROLLBACK: Duration = Duration::from_secs(2);
/// A commit that is not answered in this time is in doubt.
const DECIDE: Duration = Duration::from_secs(15);

/// What one run has done so far: enough to undo it from wherever it stands.
pub(super) struct Attempt<'a> {
    pub(super) core: &'a Arc<Core>,
    pub(super) entry: &'a Arc<Entry>,
    pub(super) context: TxnContext,
    pub(super) plan: Plan,
    pub(super) parts: Vec<Part>,
    pub(super) claims: Vec<Claim>,
    pub(super) redo: Vec<RedoWrite>,
    /// The stores that were asked to prepare, from the moment of asking.
    pub(super) asked: Vec<(StoreName, Gid)>,
    /// Whether the log may hold an intent.
    intended: bool,
    /// Whether the log knows of it anyway, and must hear how it ended.
    noted: bool,
}

/// Runs it once. The caller releases the locks.
pub(super) async fn run(
    core: &Arc<Core>,
    entry: &Arc<Entry>,
    request: &TxnRequest,
    run: Run,
    deadline: Instant,
) -> End {
    let plan = match plan(core, &request.operations, request.isolation) {
        Ok(plan) => plan,
        Err(problem) => return End::Aborted(problem),
    };
    entry.planned(run, &plan);
    let decider = plan.decider.clone();
    let mut attempt = Attempt::new(core, entry, run, plan, request.isolation, deadline);
    let key_is_free = elsewhere::not_used(core, entry, decider.as_ref());
    let first_half = async { futures::try_join!(attempt.first_half(request), key_is_free).map(|_| ()) };
    let worked = tokio::select! {
        worked = timeout_at(deadline, first_half) => worked.unwrap_or_else(|_| {
            let waited = request.timeout.as_millis();
            Err(Problem::new(Code::Timeout, format!("not ready to decide after {waited} ms, so it was aborted")))
        }),
        why = entry.told_to_give_way() => Err(why),
    };
    // From here on nothing is dropped half-way: a PREPARE whose answer nobody awaits could land after its rollback.
    let ready = match worked.and_then(|()| entry.beyond_recall()) {
        Ok(()) => attempt.intend_and_prepare().await,
        refused => refused,
    };
    match ready {
        Ok(()) => attempt.second_half().await,
        Err(problem) => attempt.abort(problem).await,
    }
}

/// Who does what, for these operations.
///
/// # Errors
/// `impossible_guarantee`.
pub(super) fn plan<'a>(
    core: &Core,
    operations: impl IntoIterator<Item = &'a Operation>,
    isolation: Isolation,
) -> Result<Plan, Problem> {
    let mut plan = Plan::new(&powers(core, operations)?)?;
    if isolation != Isolation::ReadCommitted {
        plan.reason
            .push_str("; the isolation level is PostgreSQL's own, across stores it is as strong as the locks declared");
    }
    Ok(plan)
}

/// What the stores of these operations can do, and whether any of them writes there.
pub(super) fn powers<'a>(
    core: &Core,
    operations: impl IntoIterator<Item = &'a Operation>,
) -> Result<Vec<plan::Part>, Problem> {
    let mut parts = Vec::new();
    for operation in operations {
        let powers = core.site(&operation.store)?.store.powers();
        parts.push((&operation.store, powers, operation.reads));
    }
    Ok(plan::parts(parts))
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        core: &'a Arc<Core>,
        entry: &'a Arc<Entry>,
        run: Run,
        plan: Plan,
        isolation: Isolation,
        deadline: Instant,
    ) -> Self {
        let context = TxnContext {
            run,
            owner: core.journal.owner(),
            durable: entry.durable,
            decider: plan.decider.clone(),
            followers: plan.followers(),
            key: entry.key.clone(),
            isolation,
            deadline,
            lock_wait: core.settings.lock_wait,
        };
        let (parts, claims, redo, asked) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { core, entry, context, plan, parts, claims, redo, asked, intended: false, noted: false }
    }

    /// The log knows of this transaction, whatever becomes of it.
    pub(super) fn noted(mut self) -> Self {
        self.noted = true;
        self
    }

    /// Steps 2 to 4: up to the point where nothing but promises and the decision is missing. May be dropped at any await.
    async fn first_half(&mut self, request: &TxnRequest) -> Result<(), Problem> {
        let start = Instant::now();
        let plan = &self.plan;
        self.parts = work::open(self.core, &request.operations, |store| plan.role(store), &self.context).await?;
        self.claims = work::known_claims(self.core, &request.locks, &Results::new(), &mut self.parts).await?;
        work::lock(self.core, self.entry, &self.context, self.claims.clone()).await?;
        self.done(Phase::Lock, "locked", start);

        let start = Instant::now();
        let (parts, claims) = (&mut self.parts, &mut self.claims);
        let results = work::run(self.core, self.entry, &self.context, parts, claims, Results::new()).await?;
        self.entry.worked(results, work::redone(&request.operations, &self.plan));
        self.entry.fill_undo()?;
        self.done(Phase::Work, "worked", start);

        let start = Instant::now();
        self.validate().await?;
        self.done(Phase::Validate, "validated", start);
        Ok(())
    }

    pub(super) fn done(&self, phase: Phase, step: &'static str, start: Instant) {
        self.core.metrics.phase(phase, start.elapsed());
        self.entry.step(step, None);
    }

    /// Step 4.
    pub(super) async fn validate(&mut self) -> Result<(), Problem> {
        for part in self.parts.iter_mut().filter(|part| part.role == Role::Redoer) {
            if let Some(session) = &mut part.session {
                let site = self.core.site(&part.store)?;
                self.redo.extend(site.call(StoreCall::Validate, session.validate()).await?);
            }
        }
        Ok(())
    }

    /// Step 5: both are answered before anybody decides.
    pub(super) async fn intend_and_prepare(&mut self) -> Result<(), Problem> {
        if self.plan.decider.is_some() {
            self.let_readers_go().await?;
        }
        if self.plan.decider.is_none() || self.is_told_by_its_end() || self.nothing_but_the_log_to_tell() {
            return Ok(());
        }
        crash::point("before_intent");
        let start = Instant::now();
        let decider = self.plan.decider.as_ref().expect("checked above");
        let gids = self.gids(decider);
        let intent = self.intent(gids.clone());
        self.intended = true;
        if matches!(decider, Decider::Wal) {
            // Nothing is prepared: the forced Decision makes the Intent durable with itself, in one flush.
            return self.core.journal.append_intent(&intent).map(|_| ());
        }
        self.asked = gids;
        let journal = &self.core.journal;
        let (intended, prepared) = futures::join!(journal.intend(&intent), self.prepare_all());
        intended?;
        crash::point("after_intent");
        prepared?;
        crash::point("after_prepare");
        self.done(Phase::Prepare, "prepared", start);
        Ok(())
    }

    /// The names that the promises get.
    pub(super) fn gids(&self, decider: &Decider) -> Vec<(StoreName, Gid)> {
        let gid = Gid {
            log: self.context.owner.log,
            run: self.context.run,
            durable: self.core.journal.durable_lsn(),
            decider: decider.clone(),
        };
        self.plan.preparers.iter().map(|store| (store.clone(), gid.clone())).collect()
    }

    /// Every preparer promises under the gid in `asked`. All are awaited even if one refuses: an unanswered PREPARE must
    /// not land after the rollback.
    pub(super) fn prepare_all(&mut self) -> impl Future<Output = Result<(), Problem>> {
        let mut preparing = Vec::new();
        let asked = &self.asked;
        for part in self.parts.iter_mut().filter(|part| part.role == Role::Preparer) {
            let gid = asked.iter().find(|(store, _)| *store == part.store).map(|(_, gid)| gid);
            if let (Some(session), Some(gid), Ok(site)) = (&mut part.session, gid, self.core.site(&part.store)) {
                let flight = self.core.detector.in_flight(&part.store, self.context.run);
                let asked = site.call(StoreCall::Prepare, session.prepare(gid));
                preparing.push(async move {
                    let _flight = flight;
                    asked.await
                });
            }
        }
        async { join_all(preparing).await.into_iter().collect() }
    }

    /// Whoever only read is done before anything is decided: what a serializable reader has seen may still be refused.
    pub(super) async fn let_readers_go(&mut self) -> Result<(), Problem> {
        let is_reader = |part: &&mut Part| part.role == Role::Reader;
        let note = MarkerNote { answer: None, redo: Vec::new() };
        let mut ending = Vec::new();
        for part in self.parts.iter_mut().filter(is_reader) {
            if let Some(session) = part.session.take() {
                ending.push(commit(self.core, self.context.run, part.store.clone(), session, &note));
            }
        }
        join_all(ending).await.into_iter().try_for_each(|ended| match ended {
            Decision::Committed(_) => Ok(()),
            Decision::Refused(problem) => Err(problem),
            Decision::Lost(why) => Err(Problem::new(Code::StoreUnavailable, why)),
        })
    }

    /// One store decides and nobody else has to be told. A chunk of a batch job is noted beforehand all the same: whoever
    /// goes on after a crash, or undoes the job, must know of every chunk that may be done.
    fn is_told_by_its_end(&self) -> bool {
        self.plan.is_one_phase() && self.entry.chunk().is_none()
    }

    /// Redo writers only, and all their writes came to nothing (a delete by a filter that nothing matches).
    fn nothing_but_the_log_to_tell(&self) -> bool {
        matches!(self.plan.decider, Some(Decider::Wal)) && self.redo.is_empty() && self.entry.key.is_none()
    }

    pub(super) fn intent(&self, preparers: Vec<(StoreName, Gid)>) -> Intent {
        Intent {
            run: self.context.run,
            name: self.entry.name.clone(),
            decider: self.plan.decider.clone().unwrap_or(Decider::Wal),
            preparers,
            redo: self.redo.clone(),
            claims: self.claims.clone(),
            key: self.entry.key.clone(),
            began_us: self.entry.began_us,
            reason: self.plan.reason.clone(),
            durable: self.entry.durable,
            trace: self.entry.trace(),
            chunk: self.entry.chunk_note(),
        }
    }

    /// Steps 6 to 8.
    pub(super) async fn second_half(mut self) -> End {
        let start = Instant::now();
        let decider = self.plan.decider.clone();
        let decided = match &decider {
            None => return self.end_reads().await,
            Some(Decider::Wal) if !self.intended => return self.nothing_happened(),
            Some(Decider::Wal) => self.decide_in_the_log().await,
            Some(Decider::Store(store)) => self.decide_in(store).await,
        };
        self.core.metrics.phase(Phase::Decide, start.elapsed());
        match decided {
            Ok(Some(decided)) => self.carry_out(decided, None).await,
            Ok(None) => End::Stuck,
            Err(problem) => self.abort(problem).await,
        }
    }

    /// Nothing was written: every store's answers stand, and nothing is to be decided.
    async fn end_reads(mut self) -> End {
        match self.let_readers_go().await {
            Ok(()) => self.nothing_happened(),
            Err(problem) => self.abort(problem).await,
        }
    }

    /// It is over, and nothing was to be decided.
    fn nothing_happened(&self) -> End {
        let chunk = self.entry.chunk_note();
        // A chunk that only read is done all the same, and its `Done` is all that says so.
        if chunk.is_none() && !self.noted {
            return End::Committed;
        }
        let key = self.entry.key.clone().filter(|_| chunk.is_some());
        let ended = Ended {
            name: self.entry.name.clone(),
            reason: self.plan.reason.clone(),
            key: key.map(|note| (note, self.entry.kept_answer())),
            trace: self.entry.trace(),
            chunk,
            ..Ended::of(self.context.run, Outcome::Committed, self.entry.began_us, clock::now_us())
        };
        match finish::append_end(self.core, self.entry, ended) {
            Ok(()) => End::Committed,
            Err(problem) => End::Aborted(problem),
        }
    }

    /// The forced record is the decision. `Ok(None)`: nobody knows before the log is opened again.
    async fn decide_in_the_log(&mut self) -> Result<Option<Decided>, Problem> {
        let answer = self.entry.kept_answer();
        match self.core.journal.decide(self.context.run, Outcome::Committed, answer).await {
            Ok(decided) => Ok(Some(decided)),
            Err(Undecided::NotWritten(problem)) => Err(problem),
            Err(Undecided::Unknown(problem)) => {
                self.entry.step("in_doubt", Some(problem.detail));
                self.entry.take(Event::VerdictLost);
                Ok(None)
            }
        }
    }

    async fn decide_in(&mut self, store: &StoreName) -> Result<Option<Decided>, Problem> {
        let note = MarkerNote { answer: self.entry.kept_answer(), redo: Vec::new() };
        let part = self.parts.iter_mut().find(|part| part.store == *store);
        let session = part.and_then(|part| part.session.take());
        let Some(session) = session else {
            return Err(Problem::new(Code::Internal, format!("the session in {store} is gone")));
        };
        let decision = commit(self.core, self.context.run, store.clone(), session, &note).await;
        crash::point("after_decide");
        match decision {
            // Nobody has to be told: the `Done` record alone says it.
            Decision::Committed(verdict) if self.plan.is_one_phase() => Ok(Some(Journal::witness_alone(&verdict))),
            Decision::Committed(verdict) => Ok(self.core.journal.witness(&verdict).ok()),
            Decision::Refused(problem) => Err(problem),
            Decision::Lost(why) => {
                tracing::warn!(transaction = %self.entry.id, %store, %why, "in doubt: the answer to the commit was lost");
                self.entry.step("in_doubt", Some(why));
                self.entry.take(Event::VerdictLost);
                let resolved = in_doubt::resolve(self.core, self.entry, self.context.run, store).await;
                Ok(resolved.map(|(decided, _)| decided))
            }
        }
    }

    /// Undoes whatever stands. Nobody was asked to decide, or the decider refused: so nobody can commit any more.
    pub(super) async fn abort(mut self, problem: Problem) -> End {
        if !matches!(problem.code, Code::Conflict) {
            tracing::debug!(transaction = %self.entry.id, %problem, "aborting");
        }
        self.roll_back().await;
        if !self.intended && !self.noted {
            return End::Aborted(problem);
        }
        match self.core.journal.abandon(self.context.run) {
            Ok(decided) => self.carry_out(decided, Some(problem)).await,
            Err(why) => {
                self.entry.step("in_doubt", Some(why.detail));
                self.entry.take(Event::VerdictLost);
                End::Stuck
            }
        }
    }

    /// The decider's session above all: once it is gone without a commit, nobody can decide to commit.
    async fn roll_back(&mut self) {
        let mut ending = Vec::new();
        for part in &mut self.parts {
            let Some(session) = part.session.take() else { continue };
            let Ok(site) = self.core.site(&part.store) else { continue };
            ending.push(timeout(ROLLBACK, site.call(StoreCall::Rollback, session.rollback())));
        }
        join_all(ending).await;
    }

    /// Steps 7 and 8, which recovery shares.
    async fn carry_out(self, decided: Decided, cause: Option<Problem>) -> End {
        let intent = self.intent(self.asked.clone());
        carry_out(self.core, self.entry, decided, intent, cause).await
    }
}

/// Steps 7 and 8 of a run that is decided.
pub(super) async fn carry_out(
    core: &Arc<Core>,
    entry: &Entry,
    decided: Decided,
    intent: Intent,
    cause: Option<Problem>,
) -> End {
    if let Some(problem) = &cause {
        entry.refused_for(problem.clone());
    }
    finish::note_owed(entry, &decided, &intent);
    entry.take(decided.outcome().event());
    entry.decided(&decided);
    crash::point("after_verdict");
    let start = Instant::now();
    if !finish::tell_everybody(core, entry, &decided, &intent).await {
        return End::Stuck;
    }
    core.metrics.phase(Phase::Finish, start.elapsed());
    if !finish::write_end(core, entry, &decided, &intent).await {
        return End::Stuck;
    }
    match (decided.outcome(), cause) {
        (Outcome::Committed, _) => End::Committed,
        (Outcome::Aborted, Some(problem)) => End::Aborted(problem),
        (Outcome::Aborted, None) => {
            let detail = "the answer of the deciding store was lost, and it turned out not to have committed";
            End::Aborted(Problem::new(Code::StoreUnavailable, detail))
        }
    }
}

pub(super) async fn commit(
    core: &Core,
    run: Run,
    store: StoreName,
    session: Box<dyn Session>,
    note: &MarkerNote,
) -> Decision {
    let site = match core.site(&store) {
        Ok(site) => site,
        Err(problem) => return Decision::Refused(problem),
    };
    let _flight = core.detector.in_flight(&store, run);
    let asked = site.call(StoreCall::Commit, session.commit(note));
    timeout(DECIDE, asked).await.unwrap_or_else(|_| Decision::Lost(format!("{store} did not answer the commit")))
}

/// The record of how a run ended.
pub(super) fn ended(entry: &Entry, decided: &Decided, intent: &Intent) -> Ended {
    let by_log = intent.decider == Decider::Wal;
    let key = intent.key.clone().filter(|_| by_log && decided.outcome() == Outcome::Committed);
    Ended {
        run: decided.run(),
        outcome: decided.outcome(),
        name: intent.name.clone(),
        began_us: intent.began_us,
        ended_us: clock::now_us(),
        decider: intent.decider.clone(),
        preparers: intent.preparers.iter().map(|(store, _)| store.clone()).collect(),
        redoers: intent.redoers(),
        reason: intent.reason.clone(),
        key: key.map(|note| (note, entry.kept_answer())),
        cause: entry.cause().map(|problem| (problem.code.as_str().to_owned(), problem.detail)),
        trace: intent.trace,
        skipped: entry.hand.skipped(),
        chunk: intent.chunk.clone(),
    }
}
