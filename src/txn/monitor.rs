//! Keeps one store's gate: looks for the store, clears up its past before new work is let in, and watches it.

use std::sync::Arc;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::core::Core;
use super::recovery;
use super::retry::Backoff;
use super::site::{Gate, Site};
use crate::metrics::{Reaped, StoreCall};
use crate::model::commit::{GID_PREFIX, Gid};
use crate::model::problem::{Code, Problem};
use crate::model::state::TxnState;
use crate::store::{Marks, Probe, Setback};

/// How often a healthy store is greeted.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The longest pause between looks at a store that is down: it bounds how long its return goes unnoticed.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Runs until the coordinator stops.
pub(super) async fn watch(core: Arc<Core>, site: Arc<Site>) {
    let stop = core.stop.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        () = keep(&core, &site) => {}
    }
}

async fn keep(core: &Arc<Core>, site: &Arc<Site>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), LOOK_AGAIN);
    let mut said = String::new();
    loop {
        match reach(core, site).await {
            Ok(()) => {
                backoff = Backoff::new(Duration::from_millis(50), LOOK_AGAIN);
                said.clear();
                let why = while_well(core, site).await;
                tracing::warn!(store = %site.name(), why, "the store is out of reach");
                site.set_gate(Gate::Down(why));
            }
            Err(why) => {
                if why != said {
                    tracing::warn!(store = %site.name(), why, "the store cannot be used");
                    said.clone_from(&why);
                }
                site.set_gate(Gate::Down(why));
                site.mark_tried();
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}

/// From nowhere to an open gate: protocol.md, section 5, steps (f) and (g).
async fn reach(core: &Arc<Core>, site: &Arc<Site>) -> Result<(), String> {
    let probe = probe(site).await.map_err(|problem| problem.detail)?;
    for warning in &probe.warnings {
        tracing::warn!(store = %site.name(), warning, "a power is missing or a setting is risky");
    }
    tracing::info!(store = %site.name(), version = probe.version, powers = ?probe.powers, "reached");
    site.saw_probe(probe);
    site.set_gate(Gate::Starting);
    site.mark_tried();
    if let Some(marks) = site.store.marks() {
        clear_the_past(core, site, marks).await.map_err(|setback| match setback {
            Setback::Again(why) | Setback::Final(why) => why,
        })?;
    }
    site.set_gate(Gate::Reached);
    adopt_orphans(core, site).await.map_err(|setback| match setback {
        Setback::Again(why) | Setback::Final(why) => why,
    })?;
    tokio::select! {
        () = site.all_fenced() => {}
        () = site.suspected() => return Err("it went away again while its past was being cleared up".to_owned()),
    }
    site.set_gate(Gate::Open);
    Ok(())
}

/// Tables and constraints are made at the first look only, or when they have gone since: making sure of them costs a
/// store that has just come back dearly.
async fn probe(site: &Site) -> Result<Probe, Problem> {
    if site.was_cleared() {
        let looked = site.call(StoreCall::Probe, site.store.probe(false)).await;
        if !matches!(&looked, Err(problem) if problem.code == Code::RejectedByStore) {
            return looked;
        }
    }
    site.call(StoreCall::Probe, site.store.probe(site.init)).await
}

/// Old sessions are gone before anything is fenced, and a log that lost acknowledged records is found out.
async fn clear_the_past(core: &Arc<Core>, site: &Site, marks: &dyn Marks) -> Result<(), Setback> {
    let owner = core.journal.owner();
    let start = Instant::now();
    marks.register(owner).await?;
    let registered = start.elapsed();
    // Sessions of dead incarnations that are gone once stay gone, and what the markers witness of this log's past was
    // compared then: a store that comes back while we live has nothing new to say.
    if site.was_cleared() {
        site.saw_others(marks.heartbeat(owner).await?);
        return Ok(());
    }
    core.metrics.reaped(Reaped::Session, marks.end_old_sessions(owner).await?);
    let ended = start.elapsed();
    let witnessed = marks.latest_durable(owner.log).await?;
    tracing::debug!(store = %site.name(), ?registered, ?ended, witnessed = ?start.elapsed(), "its past is cleared up");
    if witnessed > core.journal.durable_lsn() {
        let why = format!(
            "{} holds a marker or prepared transaction that names Lsn {witnessed} as durable, and this log ends at {}: \
             it lost acknowledged records or is an old copy, so nothing is served",
            site.name(),
            core.journal.durable_lsn()
        );
        tracing::error!(why, "the journal lost acknowledged records");
        *core.lost_log.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
        return Err(Setback::Final(why));
    }
    site.saw_others(marks.heartbeat(owner).await?);
    site.mark_cleared();
    Ok(())
}

/// Prepared transactions of our log that nothing open answers for.
///
/// # Errors
/// The scan's setback; what was found before it is being cleared up all the same.
pub(super) async fn adopt_orphans(core: &Arc<Core>, site: &Site) -> Result<(), Setback> {
    let Some(prepares) = site.store.prepares() else { return Ok(()) };
    let prepared = prepares.prepared(core.journal.owner().log).await?;
    // One that waits for its client's verdict is as it should be: `transaction_oldest_seconds` shows those.
    let waits = |gid: &Gid| core.registry.get(gid.run.txn).is_some_and(|entry| entry.state() == TxnState::Prepared);
    let oldest = prepared.iter().filter(|(gid, _)| !waits(gid)).map(|(_, age)| *age).max().unwrap_or(0);
    core.metrics.set_prepared_oldest(site.name(), Duration::from_secs(oldest));
    let nobodys = |gid: &Gid| core.registry.get(gid.run.txn).is_none_or(|entry| entry.state().has_ended());
    let suspects: Vec<Gid> = prepared.into_iter().map(|(gid, _)| gid).filter(nobodys).collect();
    if suspects.is_empty() {
        return Ok(());
    }
    // Seen once more: what the scan saw and has ended since then is known as ended, and its gid is gone.
    let still = prepares.prepared(core.journal.owner().log).await?;
    for gid in suspects.into_iter().filter(|gid| still.iter().any(|(again, _)| again == gid)) {
        debug_assert!(gid.to_string().starts_with(GID_PREFIX));
        recovery::adopt_orphan(core, site.name(), gid);
    }
    Ok(())
}

/// Returns why the store is no longer well.
async fn while_well(core: &Core, site: &Site) -> String {
    loop {
        tokio::select! {
            () = tokio::time::sleep(HEARTBEAT) => {}
            () = site.suspected() => {}
        }
        let greeting = async {
            if let Some(marks) = site.store.marks() {
                match marks.heartbeat(core.journal.owner()).await {
                    Ok(others) => {
                        warn_of(site, &others);
                        site.saw_others(others);
                        Ok(())
                    }
                    Err(Setback::Again(why) | Setback::Final(why)) => Err(why),
                }
            } else {
                site.store.probe(false).await.map(|probe| site.saw_probe(probe)).map_err(|problem| problem.detail)
            }
        };
        let limit = tokio::time::timeout(HEARTBEAT, greeting).await;
        match limit {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return why,
            Err(_) => return format!("no answer in {} s", HEARTBEAT.as_secs()),
        }
    }
}

fn warn_of(site: &Site, others: &[crate::store::OtherLog]) {
    let (_, known) = site.seen();
    for other in others.iter().filter(|other| !known.iter().any(|seen| seen.log == other.log)) {
        tracing::warn!(
            store = %site.name(), log = other.log, host = other.host,
            "another live log works over this store: two lock tables do not protect the same points from each other"
        );
    }
}
