//! Prepared transactions: everybody who can has promised, and the verdict comes later, perhaps in another life of this
//! process.
//!
//! ```text
//!   every writer can promise     the verdict, forced into the log, decides; then everybody is told
//!   one writer cannot (Neo4j)    its part waits in the log. At the commit it is run again and compared with what others
//!                                were told of it; then an Intent is forced and that store's marked commit decides.
//!                                What it refuses aborts everything: the others' promises are rolled back
//! ```
//!
//! The danger: an abort that is answered, forgotten in a crash, and followed by a commit of the same name, which finds the
//! promises gone. So both verdicts are forced here, and a commit that a store is to decide leaves an Intent first: from
//! then on a crash is settled by a fence, like any other transaction's.

mod again;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use self::again::Again;
use super::atomic::{self, End};
use super::close;
use super::core::Core;
use super::entry::{Entry, Promise};
use super::interactive::{Call, Terms, rolled_back, wrong_state};
use crate::clock;
use crate::crash;
use crate::journal::Undecided;
use crate::journal::prepared::Prepared;
use crate::journal::slip::Decided;
use crate::metrics::Reaped;
use crate::model::commit::Decider;
use crate::model::ids::Lsn;
use crate::model::problem::{Code, Problem};
use crate::model::request::OnExpiry;
use crate::model::state::{Event, Outcome};

/// An expired one whose rollback the log does not take is tried again after this.
const EXPIRY_AGAIN: Duration = Duration::from_secs(1);

/// Goes on with one that a restart found.
pub(super) fn take_up(core: &Arc<Core>, prepared: Prepared, place: Lsn) {
    let intent = &prepared.intent;
    let (name, key) = (intent.name.clone(), intent.key.clone());
    let entry = Entry::from_past(intent.run.txn, name, key, intent.trace, intent.durable, intent.began_us);
    entry.tell_to(core.journal.feed());
    let preparers: Vec<_> = intent.preparers.iter().map(|(store, _)| store.clone()).collect();
    entry.replanned(intent.run, &intent.decider, &preparers, &intent.redoers(), &intent.reason);
    entry.remember(prepared.answer.as_deref());
    entry.promised(Promise { expires_us: prepared.expires_us, on_expiry: prepared.on_expiry });
    entry.pinned_at(place);
    entry.step("recovered", None);
    let entry = Arc::new(entry);
    core.registry.adopt(&entry);
    let terms = Terms {
        principal: prepared.principal.as_str().into(),
        isolation: prepared.terms.isolation,
        timeout: prepared.terms.timeout(),
        lease: Duration::ZERO,
        wait: prepared.terms.wait(),
    };
    let calls = core.conversations.begin(entry.id, terms);
    let span = entry.span();
    core.tasks.spawn(resume(core.clone(), entry, prepared, calls).instrument(span));
}

async fn resume(core: Arc<Core>, entry: Arc<Entry>, prepared: Prepared, calls: mpsc::Receiver<Call>) {
    let end = Held::new(&core, &entry, prepared).wait(calls).await;
    core.conversations.end(entry.id);
    close(&core, &entry, end);
}

/// One that waits.
pub(super) struct Held<'a> {
    core: &'a Arc<Core>,
    entry: &'a Arc<Entry>,
    prepared: Prepared,
    /// Its time is over, and it waits for an operator.
    expired: bool,
}

impl<'a> Held<'a> {
    pub(super) fn new(core: &'a Arc<Core>, entry: &'a Arc<Entry>, prepared: Prepared) -> Self {
        Self { core, entry, prepared, expired: false }
    }

    /// Until a verdict is carried out. [`End::Stuck`]: the program stops, or the log takes nothing: it waits on after the
    /// next start.
    pub(super) async fn wait(mut self, mut calls: mpsc::Receiver<Call>) -> End {
        let mut expiry = self.until_expiry();
        loop {
            let look = Instant::now() + self.core.settings.sweep_every;
            let call = tokio::select! {
                biased;
                Some(call) = calls.recv() => call,
                () = self.core.leaving.cancelled() => return End::Stuck,
                () = sleep_until(expiry), if !self.expired => {
                    if let Some(ruled) = self.expire().await {
                        return self.carry_out(ruled).await;
                    }
                    // The wall clock rules: it may have been set back meanwhile.
                    expiry = self.until_expiry().max(Instant::now() + EXPIRY_AGAIN);
                    continue;
                }
                () = sleep_until(look) => {
                    self.move_forward().await;
                    continue;
                }
            };
            match call {
                Call::Operate { reply, .. } => drop(reply.send(Err(wrong_state(self.entry, "operations")))),
                Call::Prepare { reply, .. } => drop(reply.send(Ok(()))),
                Call::End { outcome, cause, reply } => {
                    let cause = cause.or_else(|| (outcome == Outcome::Aborted).then(rolled_back));
                    match self.rule(outcome, cause).await {
                        Ok(ruled) => {
                            drop(reply.send(Ok(())));
                            return self.carry_out(ruled).await;
                        }
                        Err(problem) => {
                            drop(reply.send(Err(problem.of(self.entry.id, self.entry.state()))));
                        }
                    }
                }
            }
        }
    }

    fn until_expiry(&self) -> Instant {
        let left = self.prepared.expires_us.saturating_sub(clock::now_us());
        Instant::now() + Duration::from_micros(u64::try_from(left).unwrap_or(0))
    }

    /// Its time may be over.
    async fn expire(&mut self) -> Option<Ruled> {
        if clock::now_us() < self.prepared.expires_us {
            return None;
        }
        if self.prepared.on_expiry == OnExpiry::Hold {
            self.expired = true;
            tracing::warn!(transaction = %self.entry.id, "prepared, and its time is over: it is held for an operator");
            self.entry.step("expired", Some("held for an operator".to_owned()));
            return None;
        }
        let cause = Problem::new(Code::Timeout, "it was prepared, and no verdict came in its time");
        self.entry.step("expired", None);
        match self.rule(Outcome::Aborted, Some(cause)).await {
            Ok(ruled) => {
                self.core.metrics.reaped(Reaped::PreparedExpired, 1);
                Some(ruled)
            }
            Err(problem) => {
                tracing::warn!(transaction = %self.entry.id, %problem, "expired, and it cannot be rolled back yet");
                None
            }
        }
    }

    /// Brings the verdict about. An error leaves it prepared.
    async fn rule(&mut self, outcome: Outcome, cause: Option<Problem>) -> Result<Ruled, Problem> {
        crash::point("before_verdict");
        match (outcome, &self.prepared.intent.decider) {
            (Outcome::Committed, Decider::Store(store)) => {
                let store = store.clone();
                Again { core: self.core, entry: self.entry, prepared: &self.prepared, store: &store }.commit().await
            }
            (outcome, _) => rule(self.core, self.entry, outcome, cause).await,
        }
    }

    async fn carry_out(self, ruled: Ruled) -> End {
        match ruled {
            Ruled::Decided(decided, cause) => {
                let cause = cause.map(|cause| *cause);
                atomic::carry_out(self.core, self.entry, decided, self.prepared.intent, cause).await
            }
            Ruled::Unknown => End::Stuck,
        }
    }

    /// Writes its record again when a segment's worth stands behind it: else it would hold the segments before it for as
    /// long as it waits. Here and not by the janitor, so that it can never come after the Intent that a verdict leaves.
    async fn move_forward(&self) {
        let stats = self.core.journal.stats();
        let segment = stats.bytes / stats.segments.max(1);
        let behind = self.core.journal.next_lsn().as_u64().saturating_sub(self.entry.pin().as_u64());
        if behind < segment {
            return;
        }
        match self.core.journal.promise_again(&self.prepared).await {
            Ok(place) => self.entry.pinned_at(place),
            Err(Undecided::NotWritten(why) | Undecided::Unknown(why)) => {
                tracing::debug!(transaction = %self.entry.id, %why, "its record stays where it is for now");
            }
        }
    }
}

/// A verdict that is durable, or of which only the next opening of the log will know.
pub(super) enum Ruled {
    /// With its cause, where it is an abort.
    Decided(Decided, Option<Box<Problem>>),
    /// The flush failed, or the program stops in doubt.
    Unknown,
}

/// The log's own verdict.
pub(super) async fn rule(
    core: &Core,
    entry: &Entry,
    outcome: Outcome,
    cause: Option<Problem>,
) -> Result<Ruled, Problem> {
    match core.journal.rule(entry.run(), outcome, entry.kept_answer()).await {
        Ok(decided) => {
            crash::point("after_decide");
            Ok(Ruled::Decided(decided, cause.map(Box::new)))
        }
        Err(Undecided::NotWritten(problem)) => Err(problem),
        Err(Undecided::Unknown(problem)) => {
            entry.step("in_doubt", Some(problem.detail));
            entry.take(Event::VerdictLost);
            Ok(Ruled::Unknown)
        }
    }
}
