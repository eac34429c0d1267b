//! Transactions that grow call by call: opened, given operations whose results their client looks at, and ended by its
//! verdict.
//!
//! ```text
//!   open ──► a task of its own (Talk) with a mailbox ◄── operations, prepare, commit, rollback: one after the other
//!              │ no call for `lease_ms`: aborted                      (a few may queue, more are refused)
//!              └ after a prepare it waits for the verdict, over restarts too (held)
//! ```
//!
//! A client that vanishes costs nothing but its lease: the sessions and locks that it held until then.

mod talk;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::Instrument;

use self::talk::Talk;
use super::entry::{Entry, Results, cause_view};
use super::{Actor, Coordinator, Core, Find, close, look_up};
use crate::metrics::AttemptReason;
use crate::model::commit::KeyNote;
use crate::model::ids::TxnId;
use crate::model::problem::{Code, Problem};
use crate::model::request::{DeclaredLock, Isolation, Opening, Operation, PrepareWish, WaitFor};
use crate::model::state::{Outcome, TxnState};
use crate::model::view::{Answer, View};

/// Calls that may wait for one transaction while another call is at work in it.
const QUEUE: usize = 16;

/// What is asked of an open transaction.
pub(super) enum Call {
    /// Run more operations, under these locks.
    Operate { operations: Vec<Operation>, locks: Vec<DeclaredLock>, reply: Reply<Results> },
    /// Make it outlive a crash.
    Prepare { wish: PrepareWish, reply: Reply<()> },
    /// The verdict. Replied to when it is taken up, not when it is carried out.
    /// `cause`: why it is rolled back, where that is not its client's doing.
    End { outcome: Outcome, cause: Option<Problem>, reply: Reply<()> },
}

type Reply<T> = oneshot::Sender<Result<T, Problem>>;

/// The mailboxes of all open ones.
#[derive(Default)]
pub(super) struct Conversations {
    lines: Mutex<HashMap<TxnId, Line>>,
}

/// How to reach one, and on what terms.
#[derive(Clone)]
pub(super) struct Line {
    calls: mpsc::Sender<Call>,
    terms: Terms,
}

/// What its opening said.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) principal: Arc<str>,
    pub(super) isolation: Isolation,
    /// Of each call.
    pub(super) timeout: Duration,
    pub(super) lease: Duration,
    pub(super) wait: WaitFor,
}

/// How an opening ended.
#[derive(Debug)]
pub enum Opened {
    /// It is open.
    New(Box<View>),
    /// Its key was used before, and this came of it.
    Replayed(Box<View>),
}

impl Conversations {
    fn lines(&self) -> MutexGuard<'_, HashMap<TxnId, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A mailbox for a transaction.
    pub(super) fn begin(&self, id: TxnId, terms: Terms) -> mpsc::Receiver<Call> {
        let (calls, received) = mpsc::channel(QUEUE);
        self.lines().insert(id, Line { calls, terms });
        received
    }

    pub(super) fn end(&self, id: TxnId) {
        self.lines().remove(&id);
    }

    pub(super) fn line(&self, id: TxnId) -> Option<Line> {
        self.lines().get(&id).cloned()
    }
}

impl Line {
    /// Asks, and waits for the reply. `None`: it has ended meanwhile.
    pub(super) async fn ask<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Option<Result<T, Problem>> {
        let (reply, answer) = oneshot::channel();
        match self.calls.try_send(call(reply)) {
            Ok(()) => answer.await.ok(),
            Err(mpsc::error::TrySendError::Closed(_)) => None,
            Err(mpsc::error::TrySendError::Full(_)) => {
                let detail = format!("{QUEUE} calls wait for this transaction already: it does one after the other");
                Some(Err(Problem::new(Code::Overloaded, detail)))
            }
        }
    }

    fn must_be_for(&self, actor: &Actor) -> Result<(), Problem> {
        actor.must_be(&self.terms.principal, "another principal opened this transaction")
    }
}

impl Coordinator {
    /// Opens a transaction that its client goes on with by [`Self::operate`]; runs the operations that it may bring.
    /// Dropping this future leaves it open until its lease runs out.
    ///
    /// # Errors
    /// As a one-shot transaction's. Then it is not open.
    pub async fn open(&self, opening: Opening, key: Option<KeyNote>) -> Result<Opened, Problem> {
        let core = &self.core;
        let Opening { request, lease, principal } = opening;
        core.check_open()?;
        core.check_plan(&request, Instant::now() + request.timeout).await?;
        if let Some(note) = &key
            && let Some(known) = look_up::known_key(core, note, request.wait, true).await?
        {
            return Ok(Opened::Replayed(known));
        }
        core.check_room()?;
        let entry = core.begin(request.name, key, request.priority, request.trace)?;
        entry.step("begun", None);
        if let Err(problem) = core.journal.begin(&entry.began_record(&principal)) {
            close(core, &entry, super::End::Aborted(problem.clone()));
            return Err(problem);
        }
        core.metrics.attempt(AttemptReason::First);
        let (isolation, timeout, wait) = (request.isolation, request.timeout, request.wait);
        let terms = Terms { principal, isolation, timeout, lease, wait };
        let calls = core.conversations.begin(entry.id, terms.clone());
        core.tasks.spawn(converse(core.clone(), entry.clone(), terms, calls).instrument(entry.span()));
        let mut view = entry.view();
        if !request.operations.is_empty() || !request.locks.is_empty() {
            view = self.talk_to(&entry, request.operations, request.locks).await?;
        }
        Ok(Opened::New(Box::new(view)))
    }

    /// Runs more operations of an open transaction, and answers with the results of these.
    ///
    /// Dropping this future stops nothing.
    ///
    /// # Errors
    /// Where the state is still `active` nothing has run (a reference that leads nowhere, a plan that is impossible, a
    /// store that cannot be reached yet): the transaction can go on. Any other problem has aborted it.
    pub async fn operate(&self, what: &Find, operations: Vec<Operation>, actor: &Actor) -> Result<View, Problem> {
        let entry = self.open_entry(what, actor).await?;
        self.talk_to(&entry, operations, Vec::new()).await
    }

    async fn talk_to(
        &self,
        entry: &Arc<Entry>,
        operations: Vec<Operation>,
        locks: Vec<DeclaredLock>,
    ) -> Result<View, Problem> {
        let line = self.core.conversations.line(entry.id).ok_or_else(|| wrong_state(entry, "operations"))?;
        match line.ask(|reply| Call::Operate { operations, locks, reply }).await {
            Some(Ok(results)) => Ok(View { results: Some(results), ..entry.view() }),
            Some(Err(problem)) => Err(problem),
            None => Err(wrong_state(entry, "operations")),
        }
    }

    /// Makes an open transaction outlive crashes: it waits for its verdict. Asked again, it answers the same.
    ///
    /// Dropping this future stops nothing.
    ///
    /// # Errors
    /// The refusal of a store: the transaction has aborted. `wrong_state`.
    pub async fn prepare(&self, what: &Find, wish: PrepareWish, actor: &Actor) -> Result<View, Problem> {
        let entry = self.open_entry(what, actor).await?;
        let line = self.core.conversations.line(entry.id).ok_or_else(|| wrong_state(&entry, "prepare"))?;
        match line.ask(|reply| Call::Prepare { wish, reply }).await {
            Some(Ok(())) => Ok(entry.view()),
            Some(Err(problem)) => Err(problem),
            None => Err(wrong_state(&entry, "prepare")),
        }
    }

    /// The verdict over an open or prepared transaction; over one that has ended, how it ended. `wait`: when to answer,
    /// where that is to be other than at the opening.
    ///
    /// Dropping this future stops nothing.
    ///
    /// # Errors
    /// `wrong_state`: it has ended the other way, or is not for a client to end. `not_found`. Where the state is still
    /// `prepared` the verdict was not taken up (a store that has to decide is away): it can be repeated.
    pub async fn end(
        &self,
        what: &Find,
        outcome: Outcome,
        wait: Option<WaitFor>,
        actor: &Actor,
    ) -> Result<Answer, Problem> {
        let core = &self.core;
        let Some(entry) = core.registry.find(what) else {
            return ended_elsewhere(look_up::find(core, what).await?, outcome);
        };
        let mut taken = false;
        let mut limit = Duration::ZERO;
        let mut wait_for = wait.unwrap_or_default();
        if let Some(line) = core.conversations.line(entry.id) {
            line.must_be_for(actor)?;
            limit = line.terms.timeout;
            wait_for = wait.unwrap_or(line.terms.wait);
            match line.ask(|reply| Call::End { outcome, cause: None, reply }).await {
                Some(Ok(())) => taken = true,
                Some(Err(problem)) => return Err(problem),
                None => {}
            }
        } else if entry.state() == TxnState::Active {
            return Err(wrong_state(&entry, "a verdict: it is not interactive"));
        }
        Core::until_answered(&entry, wait_for, Instant::now() + limit).await;
        match (entry.state(), outcome) {
            (TxnState::Aborted | TxnState::Aborting, Outcome::Aborted) => Ok(Answer::View(Box::new(entry.view()))),
            (TxnState::Aborted | TxnState::Aborting, Outcome::Committed) if !taken => {
                Err(wrong_state(&entry, "commit"))
            }
            (TxnState::Committing | TxnState::Committed | TxnState::NeedsIntervention, Outcome::Aborted) => {
                Err(wrong_state(&entry, "rollback"))
            }
            // Only now: for one that aborted and has a key, the answer asks the stores.
            _ => Ok(look_up::answer(core, &entry).await),
        }
    }

    async fn open_entry(&self, what: &Find, actor: &Actor) -> Result<Arc<Entry>, Problem> {
        let Some(entry) = self.core.registry.find(what) else {
            let view = look_up::find(&self.core, what).await?;
            let detail = format!("transaction {} is {}", view.id, view.state.as_str());
            return Err(Problem { state: Some(view.state), ..Problem::new(Code::WrongState, detail) });
        };
        if let Some(line) = self.core.conversations.line(entry.id) {
            line.must_be_for(actor)?;
        }
        Ok(entry)
    }
}

/// What only a store's marker remembers.
fn ended_elsewhere(view: View, outcome: Outcome) -> Result<Answer, Problem> {
    let is_so = match outcome {
        Outcome::Committed => view.state == TxnState::Committed,
        Outcome::Aborted => view.state == TxnState::Aborted,
    };
    if is_so {
        return Ok(Answer::View(Box::new(view)));
    }
    let detail = format!("transaction {} is {} already", view.id, view.state.as_str());
    Err(Problem { state: Some(view.state), ..Problem::new(Code::WrongState, detail) })
}

/// What its client did.
pub(super) fn rolled_back() -> Problem {
    Problem::new(Code::RolledBack, "its client rolled it back")
}

/// The transaction cannot take that, as it stands.
pub(super) fn wrong_state(entry: &Entry, what: &str) -> Problem {
    let state = entry.state();
    let detail = format!("a transaction that is {} takes no {what}", state.as_str());
    let cause = entry.cause().filter(|_| matches!(state, TxnState::Aborted | TxnState::Aborting));
    let problem = Problem::new(Code::WrongState, detail).of(entry.id, state);
    Problem { cause: cause.as_ref().map(|cause| Box::new(cause_view(cause))), ..problem }
}

/// One of them, from its opening to its end.
async fn converse(core: Arc<Core>, entry: Arc<Entry>, terms: Terms, calls: mpsc::Receiver<Call>) {
    let (end, last) = Talk::new(&core, &entry, &terms).listen(calls).await;
    core.locks.release_all(entry.id);
    let end = super::deadlock::settle(&core, &entry, end);
    core.conversations.end(entry.id);
    close(&core, &entry, end);
    if let Some(last) = last {
        last.tell(&entry);
    }
}

/// Whose call has ended it.
pub(super) enum Last {
    Operate(Reply<Results>),
    Prepare(Reply<()>),
}

impl Last {
    fn tell(self, entry: &Entry) {
        let cause = entry.cause().unwrap_or_else(|| Problem::new(Code::Internal, "it ended without a cause"));
        let problem = cause.of(entry.id, entry.state());
        // In vain where the client has gone.
        match self {
            Self::Operate(reply) => drop(reply.send(Err(problem))),
            Self::Prepare(reply) => drop(reply.send(Err(problem))),
        }
    }
}
