//! What has to be done now and then: sweep markers, let segments go, look for orphans, feed the gauges.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::core::Core;
use super::monitor;
use super::site::Gate;
use crate::journal::record::Ended;
use crate::metrics::{Metrics, StoreCall};
use crate::model::ids::{Lsn, StoreName};
use crate::model::powers::Role;
use crate::model::state::TxnState;
use crate::store::{Setback, Sweep};

/// Runs until the coordinator stops.
pub(super) async fn tidy(core: Arc<Core>) {
    let stop = core.stop.clone();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(core.settings.sweep_every) => {}
        }
        core.registry.trim();
        sweep(&core).await;
        checkpoint(&core).await;
        for site in core.sites.values().filter(|site| site.gate() == Gate::Open) {
            if let Err(Setback::Again(why) | Setback::Final(why)) = monitor::adopt_orphans(&core, site).await {
                tracing::debug!(store = %site.name(), why, "cannot look for orphans now");
            }
        }
    }
}

/// Markers go when everything that noted an older durable Lsn has ended, durably, and they are old enough on the
/// store's own clock (protocol.md, "When a marker may go").
async fn sweep(core: &Core) {
    let below = core.registry.oldest_durable(|| core.journal.durable_lsn());
    // Every `Done` of what is no longer open was appended before this line; now they are durable.
    if core.journal.settle().await.is_err() {
        return;
    }
    let owner = core.journal.owner();
    let lifetime = core.settings.marker_grace;
    let sweep = Sweep { log: owner.log, below, grace: lifetime, key_ttl: core.settings.key_ttl + lifetime };
    for site in core.sites.values().filter(|site| site.gate() == Gate::Open) {
        let Some(marks) = site.store.marks() else { continue };
        loop {
            match site.call(StoreCall::Forget, marks.forget(&sweep)).await {
                Ok(0) => break,
                Ok(gone) => tracing::debug!(store = %site.name(), gone, "markers swept"),
                Err(Setback::Again(why) | Setback::Final(why)) => {
                    tracing::debug!(store = %site.name(), why, "cannot sweep now");
                    break;
                }
            }
        }
    }
}

/// Lets segments go that nothing open needs. Runs whose key only the log remembers are copied forward while their key
/// lives.
async fn checkpoint(core: &Core) {
    let stats = core.journal.stats();
    if stats.segments < 2 {
        return;
    }
    let needed = core.registry.oldest_pin(|| core.journal.next_lsn());
    let expired = crate::clock::now_us() - i64::try_from(core.settings.key_ttl.as_micros()).unwrap_or(i64::MAX);
    let copy: Vec<Ended> = {
        let mut keyed = core.keyed.lock().unwrap_or_else(PoisonError::into_inner);
        keyed.retain(|_, (_, ended)| ended.ended_us > expired);
        let below = |(lsn, _): &&(Lsn, Ended)| *lsn < needed;
        keyed.values().filter(below).map(|(_, ended)| ended.clone()).collect()
    };
    match core.journal.checkpoint(needed, &copy).await {
        Ok(places) => {
            let mut keyed = core.keyed.lock().unwrap_or_else(PoisonError::into_inner);
            for (ended, place) in copy.into_iter().zip(places) {
                if let Some((note, _)) = &ended.key {
                    keyed.insert(note.key.clone(), (place, ended.clone()));
                }
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
    for entry in core.registry.open() {
        let age = entry.began().elapsed();
        let slot = open.entry(entry.state().as_str()).or_default();
        slot.0 += 1;
        slot.1 = slot.1.max(age);
        oldest_live = oldest_live.max(age);
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
    metrics.set_locks(core.locks.held(), core.locks.waiting());
    metrics.set_events(core.journal.feed().told());
    let stats = core.journal.stats();
    metrics.set_journal(stats.segments as usize, stats.bytes, oldest_live, stats.poisoned);
}
