//! After a crash: every transaction ends one way.
//!
//! The danger, as a story: the sidecar asked Neo4j to commit and died. PostgreSQL still holds its half as a prepared
//! transaction, Qdrant has nothing yet. Did Neo4j commit? Looking for the marker proves nothing, since the dead
//! sidecar's commit may still sit in a socket. So recovery *fences*: it inserts the marker itself. Either that goes in,
//! and the late commit can never succeed; or uniqueness refuses it, and the marker that stands there is the verdict.
//!
//! [`RecoveryPlan`] is pure and sorts every open run into exactly one bucket; `resume` then walks in at the second
//! half of the live path. There is no second copy of it.

use std::sync::{Arc, PoisonError};

use serde::Serialize;
use tokio::time::Instant;
use tracing::Instrument;

use super::core::Core;
use super::entry::{Entry, from_ended};
use super::hand::Word;
use super::keys::Keys;
use super::site::Site;
use super::{finish, held, in_doubt, job};
use crate::journal::record::Began;
use crate::journal::replay::{History, Replayed};
use crate::journal::slip::Decided;
use crate::metrics::{Reaped, RecoveryOutcome};
use crate::model::commit::{Decider, Gid, Marker};
use crate::model::ids::{Lsn, StoreName};
use crate::model::problem::{Code, Problem};
use crate::model::state::{Event, Outcome};

/// What is to be done with one open run.
#[derive(Clone, PartialEq, Debug)]
pub enum Bucket {
    /// The log knows the verdict: obey it.
    Obey(History),
    /// The log decides and holds no decision: nobody was told anything, so it is aborted.
    NeverDecided(History),
    /// A store decides: fence it there.
    Fence(History, StoreName),
    /// It is prepared: its verdict is awaited, or its expiry.
    Hold(History),
    /// It was open, and its client was still at it: fence it everywhere.
    Interrupted(History),
}

impl Bucket {
    /// What the log holds of it.
    #[must_use]
    pub fn history(&self) -> &History {
        match self {
            Self::Obey(history) | Self::NeverDecided(history) | Self::Fence(history, _) => history,
            Self::Hold(history) | Self::Interrupted(history) => history,
        }
    }
}

/// Every open run in exactly one bucket, in Lsn order.
#[derive(Clone, PartialEq, Debug)]
pub struct RecoveryPlan {
    /// The buckets.
    pub buckets: Vec<Bucket>,
}

impl RecoveryPlan {
    /// Sorts; decides nothing that the log does not say.
    #[must_use]
    pub fn new(open: Vec<History>, interrupted: &[(Lsn, Began)]) -> Self {
        let sort = |history: History| match (history.verdict, &history.intent.decider) {
            (Some(_), _) => Bucket::Obey(history),
            (None, _) if history.prepared.is_some() => Bucket::Hold(history),
            (None, Decider::Wal) => Bucket::NeverDecided(history),
            (None, Decider::Store(store)) => {
                let store = store.clone();
                Bucket::Fence(history, store)
            }
        };
        let interrupted = interrupted.iter();
        let interrupted = interrupted.map(|(first, began)| Bucket::Interrupted(History::of(*first, began.intent())));
        let mut buckets: Vec<Bucket> = open.into_iter().map(sort).chain(interrupted).collect();
        buckets.sort_by_key(|bucket| bucket.history().first);
        Self { buckets }
    }
}

/// What the last start found and did: `/v1/status` shows it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Records replayed.
    pub records: u64,
    /// Bytes of a torn tail that were cut.
    pub torn_bytes: u64,
    /// Whether the last stop was clean.
    pub clean_shutdown: bool,
    /// Seconds from the start of opening the log to the open door.
    pub ready_seconds: f64,
    /// Open transactions found.
    pub found: usize,
    /// Prepared ones found: they wait on for their verdict.
    pub held: usize,
    /// Of the open ones, not ended yet.
    pub remaining: usize,
    /// Ended as committed since.
    pub committed: usize,
    /// Ended as aborted since.
    pub aborted: usize,
    /// Prepared transactions of this log that it did not know, found in stores.
    pub orphans: usize,
    /// Seconds until the last of them had ended; null while some have not.
    pub done_seconds: Option<f64>,
}

/// Steps (d) of recovery: the past is in memory and its locks are held again. The door may open afterwards.
pub(super) fn take_over(core: &Arc<Core>, replayed: Replayed) -> RecoveryPlan {
    for (_, ended) in &replayed.ended {
        core.registry.end(&Arc::new(from_ended(ended)));
    }
    // After what has ended: a job that is open has its name, whoever had it before.
    job::take_over(core, replayed.jobs, replayed.ended_jobs);
    *core.keyed() = Keys::new(replayed.keyed.into_values());
    for history in &replayed.open {
        core.locks.retake(history.intent.run.txn, history.intent.claims.clone());
    }
    let plan = RecoveryPlan::new(replayed.open, &replayed.interrupted);
    let held = plan.buckets.iter().filter(|bucket| matches!(bucket, Bucket::Hold(_))).count();
    let mut report = core.report.lock().unwrap_or_else(PoisonError::into_inner);
    report.found += plan.buckets.len() - held;
    report.remaining = report.found;
    report.held = held;
    drop(report);
    plan
}

/// Where an open run of the past was found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The log knew it.
    Log,
    /// Prepared in a store, and unknown to the log.
    Store,
}

/// Starts a task for every bucket. They take turns at each store.
pub(super) fn resume_all(core: &Arc<Core>, plan: RecoveryPlan, origin: Origin, since: Instant) {
    if core.report.lock().unwrap_or_else(PoisonError::into_inner).remaining == 0 {
        core.report.lock().unwrap_or_else(PoisonError::into_inner).done_seconds = Some(since.elapsed().as_secs_f64());
    }
    for bucket in plan.buckets {
        if let Bucket::Hold(History { first, prepared: Some(prepared), .. }) = bucket {
            held::take_up(core, *prepared, first);
            continue;
        }
        let entry = adopt(core, &bucket);
        for site in to_fence(core, &bucket) {
            site.will_fence();
        }
        let span = entry.span();
        core.tasks.spawn(resume(core.clone(), entry, bucket, origin, since).instrument(span));
    }
}

/// The stores that must hear of it before they take new work.
fn to_fence<'a>(core: &'a Core, bucket: &'a Bucket) -> Vec<&'a Arc<Site>> {
    match bucket {
        Bucket::Obey(_) | Bucket::NeverDecided(_) | Bucket::Hold(_) => Vec::new(),
        Bucket::Fence(_, store) => core.site(store).into_iter().collect(),
        Bucket::Interrupted(_) => core.sites.values().filter(|site| site.store.marks().is_some()).collect(),
    }
}

fn adopt(core: &Arc<Core>, bucket: &Bucket) -> Arc<Entry> {
    let intent = &bucket.history().intent;
    let run = intent.run;
    let (name, key) = (intent.name.clone(), intent.key.clone());
    let entry = Entry::from_past(run.txn, name, key, intent.trace, intent.durable, intent.began_us);
    entry.tell_to(core.journal.feed());
    let preparers: Vec<_> = intent.preparers.iter().map(|(store, _)| store.clone()).collect();
    entry.replanned(run, &intent.decider, &preparers, &intent.redoers(), &intent.reason);
    bucket.history().skipped.iter().cloned().for_each(|skipped| entry.hand.give_up(skipped));
    if let Some(note) = &intent.chunk {
        entry.belongs(job::again(core, note));
    }
    // Where the log decided, nobody else has the answer that goes with the key.
    entry.remember(bucket.history().answer.as_deref());
    entry.take(Event::VerdictLost);
    entry.step("recovered", None);
    let entry = Arc::new(entry);
    // An orphan may be an early attempt of a transaction that is known by how a later one ended: that stays so.
    if core.registry.get(run.txn).is_none() {
        core.registry.adopt(&entry);
    }
    entry
}

/// Ends one run of the past.
async fn resume(core: Arc<Core>, entry: Arc<Entry>, bucket: Bucket, origin: Origin, since: Instant) {
    let Some((decided, history, marker)) = verdict(&core, &entry, &bucket).await else { return };
    entry.remember(marker.as_ref().and_then(|marker| marker.answer.as_deref()));
    if matches!(bucket, Bucket::Interrupted(_)) && decided.outcome() == Outcome::Aborted {
        entry.refused_for(Problem::new(Code::Overloaded, "the sidecar stopped while it was open"));
    }
    let lost = marker.map(|marker| lost_parts(&history, &marker)).unwrap_or_default();
    if lost.is_empty() {
        end(&core, &entry, &decided, &history, origin, since).await;
        return;
    }
    needs_operator(&entry, &lost);
    // In a task of its own: a stop does not wait for an operator.
    tokio::spawn(async move {
        if until_given_up(&core, &entry, &decided, &history, &lost).await {
            entry.take(Event::Retried);
            end(&core, &entry, &decided, &history, origin, since).await;
        }
    });
}

/// The second half of the live path.
async fn end(
    core: &Arc<Core>,
    entry: &Arc<Entry>,
    decided: &Decided,
    history: &History,
    origin: Origin,
    since: Instant,
) {
    finish::note_owed(entry, decided, &history.intent);
    entry.take(decided.outcome().event());
    entry.decided(decided);
    // What the log knows goes at full speed: redo writes of many travel in one call. An orphan has no redo writes.
    let site = history.intent.preparers.first().and_then(|(store, _)| core.site(store).ok());
    let turn = match site.filter(|_| origin == Origin::Store) {
        Some(site) => site.turn().await,
        None => None,
    };
    if !finish::tell_everybody(core, entry, decided, &history.intent).await {
        return;
    }
    drop(turn);
    outlive_late_writes(core, history, decided, since).await;
    if !finish::write_end(core, entry, decided, &history.intent).await {
        return;
    }
    entry.take(Event::Finished);
    entry.closed(crate::clock::now_us());
    job::over(core, entry);
    if core.registry.get(entry.id).is_some_and(|known| Arc::ptr_eq(&known, entry)) {
        core.registry.end(entry);
    }
    entry.settle();
    core.metrics.recovered(match decided.outcome() {
        Outcome::Committed => RecoveryOutcome::Committed,
        Outcome::Aborted => RecoveryOutcome::Aborted,
    });
    if origin == Origin::Store {
        core.metrics.reaped(Reaped::PreparedOrphan, 1);
    }
    note(core, decided.outcome(), since);
}

async fn verdict(core: &Arc<Core>, entry: &Entry, bucket: &Bucket) -> Option<(Decided, History, Option<Marker>)> {
    let mut history = bucket.history().clone();
    let (decided, marker) = match bucket {
        Bucket::Obey(_) => (core.journal.recall(&history)?, None),
        Bucket::Hold(_) => return None,
        Bucket::NeverDecided(_) => (core.journal.abandon(history.intent.run).ok()?, None),
        Bucket::Fence(_, store) => {
            let found = in_doubt::resolve_past(core, entry, history.intent.run, store).await;
            if let Ok(site) = core.site(store) {
                site.fenced();
            }
            found?
        }
        Bucket::Interrupted(_) => {
            let (decided, marker, store) = in_doubt::resolve_everywhere(core, entry, history.intent.run).await?;
            history.intent.decider = store.map_or(Decider::Wal, Decider::Store);
            (decided, marker)
        }
    };
    Some((decided, history, marker))
}

/// A redo write that the dead process sent may still land: its points stay locked until none can.
async fn outlive_late_writes(core: &Core, history: &History, decided: &Decided, since: Instant) {
    if decided.outcome() == Outcome::Aborted {
        return;
    }
    let grace = |store: &StoreName| Some(core.site(store).ok()?.store.redoes()?.late_write_grace());
    let longest = history.intent.redoers().iter().filter_map(grace).max();
    if let Some(grace) = longest {
        tokio::select! {
            () = tokio::time::sleep_until(since + grace) => {}
            () = core.stop.cancelled() => {}
        }
    }
}

/// The marker names stores that this log knows nothing of: the log lost what it had promised them. Those that an
/// operator has given up are not lost any more.
fn lost_parts(history: &History, marker: &Marker) -> Vec<StoreName> {
    if marker.outcome == Outcome::Aborted {
        return Vec::new();
    }
    let redoers = history.intent.redoers();
    let known = |store: &StoreName| {
        redoers.contains(store)
            || history.intent.preparers.iter().any(|(preparer, _)| preparer == store)
            || history.skipped.iter().any(|skipped| skipped.store == *store)
    };
    marker.followers.iter().filter(|store| !known(store)).cloned().collect()
}

fn needs_operator(entry: &Entry, lost: &[StoreName]) {
    let names: Vec<_> = lost.iter().map(StoreName::as_str).collect();
    let detail = format!("it committed, and the log holds nothing of what it owes to {}", names.join(", "));
    tracing::error!(transaction = %entry.id, detail, "an operator is needed");
    entry.owes(lost.iter().cloned());
    for store in lost {
        entry.hand.refuse(store);
        entry.set_back(store, &detail);
    }
    entry.refused_for(Problem::new(Code::JournalUnavailable, detail.clone()));
    entry.take(Event::DecidedCommit);
    entry.take(Event::Refused);
    entry.step("refused", Some(detail));
}

/// What the log has lost can be neither carried out nor tried again: an operator gives it up. `false`: the program is
/// stopping.
async fn until_given_up(core: &Core, entry: &Entry, decided: &Decided, history: &History, lost: &[StoreName]) -> bool {
    let mut logged = false;
    for store in lost {
        let mut ear = entry.hand.ear();
        loop {
            let word = tokio::select! {
                word = ear.word(store, true) => word,
                () = core.stop.cancelled() => return false,
            };
            let Word::Skip(skip) = word else {
                entry.set_back(store, "what the log has lost cannot be tried again: only `skip` ends it");
                continue;
            };
            // From here on the log knows the run, so that a restart finds what was given up of it.
            if !logged && let Err(problem) = core.journal.append_intent(&history.intent) {
                skip.answer(Err(problem));
                continue;
            }
            logged = true;
            if finish::give_up(core, entry, decided, store, &skip).await {
                entry.hand.settle(store);
                break;
            }
        }
    }
    true
}

fn note(core: &Core, outcome: Outcome, since: Instant) {
    let mut report = core.report.lock().unwrap_or_else(PoisonError::into_inner);
    report.remaining = report.remaining.saturating_sub(1);
    match outcome {
        Outcome::Committed => report.committed += 1,
        Outcome::Aborted => report.aborted += 1,
    }
    if report.remaining == 0 && report.done_seconds.is_none() {
        report.done_seconds = Some(since.elapsed().as_secs_f64());
        tracing::info!(
            found = report.found,
            committed = report.committed,
            aborted = report.aborted,
            seconds = report.done_seconds,
            "recovery is done"
        );
    }
}

/// A prepared transaction of this log that nothing open answers for: its decider, named in the gid, is fenced, and it is
/// finished accordingly. Legal after a crash (an Intent that overlapped its prepare may be missing), and after a PREPARE
/// whose connection died.
pub(super) fn adopt_orphan(core: &Arc<Core>, store: &StoreName, gid: Gid) {
    tracing::warn!(%store, %gid, "a prepared transaction of ours that the log does not know: fencing its decider");
    let intent = crate::journal::record::Intent {
        run: gid.run,
        name: None,
        decider: gid.decider.clone(),
        preparers: vec![(store.clone(), gid.clone())],
        redo: Vec::new(),
        claims: Vec::new(),
        key: None,
        began_us: crate::clock::now_us(),
        reason: "found prepared in a store, unknown to the log".to_owned(),
        durable: gid.durable,
        trace: None,
        chunk: None,
    };
    let history = History::of(core.journal.next_lsn(), intent);
    {
        let mut report = core.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.orphans += 1;
        report.found += 1;
        report.remaining += 1;
        report.done_seconds = None;
    }
    resume_all(core, RecoveryPlan::new(vec![history], &[]), Origin::Store, Instant::now());
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
