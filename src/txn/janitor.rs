//! What has to be done now and then within this process: forget what is old, let segments go, feed the gauges. What
//! transactions leave in the stores is the reaper's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::job;
use crate::metrics::{Metrics, Reaped};
use crate::model::ids::StoreName;
use crate::model::powers::Role;
use crate::model::state::TxnState;

/// How long the answer of a chunk that the log decided is kept for whoever sends it again.
const CHUNK_ANSWERS_US: i64 = 600_000_000;

/// Runs until the coordinator stops.
pub(super) async fn tidy(core: Arc<Core>) {
    let stop = core.stop.clone();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(core.settings.sweep_every) => {}
        }
        core.registry.trim();
        forget_keys(&core);
        checkpoint(&core).await;
    }
}

/// Keys whose time has passed are free again; those in markers are the reaper's.
fn forget_keys(core: &Core) {
    let ttl = i64::try_from(core.settings.key_ttl.as_micros()).unwrap_or(i64::MAX);
    let expired = crate::clock::now_us().saturating_sub(ttl);
    core.registry.expire_keys(expired);
    let gone = core.keyed().expire(expired);
    core.keyed().let_chunks_go(crate::clock::now_us() - CHUNK_ANSWERS_US);
    core.metrics.reaped(Reaped::Key, gone);
}

/// Lets segments go that nothing open needs. Runs whose key only the log remembers are carried forward where that pays.
async fn checkpoint(core: &Core) {
    let stats = core.journal.stats();
    if stats.segments < 2 {
        return;
    }
    let needed = job::carry(core, core.registry.oldest_pin(|| core.journal.next_lsn()));
    let (below, copies) = core.keyed().carry(stats.released_lsn, needed, stats.bytes / stats.segments);
    if copies.is_empty() && below <= stats.released_lsn {
        return;
    }
    match core.journal.checkpoint(below, &copies).await {
        Ok(places) => {
            let mut keyed = core.keyed();
            // One that has expired meanwhile stays forgotten.
            for (place, ended) in places.into_iter().zip(copies) {
                keyed.moved(place, ended);
            }
        }
        Err(problem) => tracing::warn!(%problem, "cannot checkpoint now"),
    }
}

/// Sets the gauges that are looked up rather than kept; called before each scrape.
pub(super) fn gauges(core: &Core, metrics: &Metrics) {
    let mut open: BTreeMap<&str, (usize, Duration)> = BTreeMap::new();
    let mut redo: BTreeMap<StoreName, usize> = BTreeMap::new();
    let mut oldest_live = Duration::ZERO;
    metrics.set_jobs_open(job::count(core).0);
    for entry in core.registry.open() {
        // An open job may be old, and is no transaction that hangs; one that is being undone may hang.
        if entry.job().is_some() && entry.state() == TxnState::Active {
            continue;
        }
        let age = entry.began().elapsed();
        let slot = open.entry(entry.state().as_str()).or_default();
        slot.0 += 1;
        slot.1 = slot.1.max(age);
        // The record of one that waits for its verdict moves on in the log, and so does a job's: they hold no segments.
        if entry.state() != TxnState::Prepared && entry.job().is_none() {
            oldest_live = oldest_live.max(age);
        }
        if entry.state() != TxnState::Active {
            entry.pending_as(Role::Redoer).into_iter().for_each(|store| *redo.entry(store).or_default() += 1);
        }
    }
    for state in TxnState::ALL.into_iter().filter(|state| !state.has_ended()) {
        let (count, oldest) = open.get(state.as_str()).copied().unwrap_or_default();
        metrics.set_open(state, count, oldest);
    }
    for store in core.sites.keys() {
        metrics.set_redo_pending(store, redo.get(store).copied().unwrap_or(0));
    }
    metrics.set_journal_keys(core.keyed().len());
    metrics.set_locks(core.locks.held(), core.locks.waiting());
    metrics.set_events(core.journal.feed().told());
    let stats = core.journal.stats();
    metrics.set_journal(stats.segments as usize, stats.bytes, oldest_live, stats.poisoned);
}
