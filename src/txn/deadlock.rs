//! Deadlocks that no single place can see: a circle of waits that runs through PostgreSQL, Neo4j and our own table.
//!
//! ```text
//!   a call that may wait in a store ─► in_flight (noted, nothing else)
//!                                          │ one has been on its way for deadlock_timeout
//!                                          ▼
//!   look: ask those stores who blocks whom, add our table's edges ─► a circle? ─► look again at once
//!                                          │ every edge is there again, in the same epoch
//!                                          ▼
//!   condemn the member with the least to lose ─► end its waits ─► its run aborts ─► settle: `deadlock`, or a re-run
//! ```
//!
//! While nothing waits for long, nothing is asked and no timer runs: a call costs one entry in a list. The second look
//! is against phantoms: answers of different stores are not of the same moment, but two edges that stood unbroken
//! from the first look to the second did stand together in between (after Ho & Ramamoorthy 1982, "Protocols for Deadlock
//! Detection in Distributed Database Systems", with epochs for the re-used names that break the two-phase version).
//! A run that has begun to ask for promises is never a victim, nor is anybody else's session.

mod cycles;
mod flights;
mod past;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep_until, timeout};

use self::flights::{Due, Flights, InFlight};
use self::past::Past;
pub use self::past::{DeadlockView, NodeView, WaitForView};
use super::atomic::End;
use super::core::Core;
use super::entry::Entry;
use super::site::Gate;
use crate::clock;
use crate::lock::{Deadlock, Score, rank};
use crate::metrics::DeadlockSource;
use crate::model::ids::{Run, StoreName, TxnId};
use crate::model::problem::{Code, Problem};
use crate::model::wait::{Party, Source, WaitEdge};
use crate::store::Setback;

/// A store that does not say in this time who blocks whom is left out of this look.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the detector knows between its looks.
#[derive(Default)]
pub(super) struct Detector {
    flights: Flights,
    past: Past,
    /// Circles in which nobody of ours can give way, by their edges: said once.
    hopeless: Mutex<BTreeSet<Vec<(String, u64)>>>,
}

impl Detector {
    /// Notes a call that may wait inside a store, until the answer is dropped.
    pub(super) fn in_flight(&self, store: &StoreName, run: Run) -> InFlight<'_> {
        self.flights.begin(store, run)
    }

    /// The last deadlocks, newest first.
    pub(super) fn past(&self) -> Vec<DeadlockView> {
        self.past.list()
    }
}

/// Runs until the coordinator stops.
pub(super) async fn watch(core: Arc<Core>) {
    let stop = core.stop.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        () = keep(&core) => {}
    }
}

async fn keep(core: &Arc<Core>) {
    let timeout = core.settings.deadlock_timeout;
    // Many calls that grow old one after the other must not make a look each.
    let gap = (timeout / 4).min(Duration::from_millis(50));
    let mut last = None;
    loop {
        match core.detector.flights.due(timeout, last) {
            Due::Never => core.detector.flights.begun().await,
            Due::At(at) => {
                sleep_until(last.map_or(at, |(last, _)| at.max(last + gap))).await;
                let (old, latest) = core.detector.flights.old(timeout);
                if let Some(latest) = latest {
                    look(core, &old).await;
                    last = Some((Instant::now(), latest));
                }
            }
        }
    }
}

/// Looks once, and breaks what it finds.
async fn look(core: &Arc<Core>, old: &BTreeMap<StoreName, Vec<Run>>) {
    let edges = gather(core, old).await;
    let start = Instant::now();
    let suspected = !cycles::find(&edges).is_empty();
    core.metrics.deadlock_checked(DeadlockSource::Cross, start.elapsed());
    if !suspected {
        core.detector.hopeless.lock().unwrap_or_else(PoisonError::into_inner).clear();
        return;
    }
    let again = gather(core, old).await;
    let mut certain = cycles::seen_twice(&edges, again);
    // A knot may hold many circles. One that does not run through the victim stands, whether that gives way or not: it
    // need not wait for the next look.
    loop {
        let circles = cycles::find(&certain);
        if circles.is_empty() {
            return;
        }
        for cycle in circles {
            match break_cycle(core, &certain, &cycle).await {
                Some(victim) => certain.retain(|edge| edge.waiter != Party::Ours(victim)),
                None => certain.retain(|edge| *edge != cycle[0]),
            }
        }
    }
}

/// Our table's edges and those of the stores in which something has waited for long, all asked at the same time.
async fn gather(core: &Core, old: &BTreeMap<StoreName, Vec<Run>>) -> Vec<WaitEdge> {
    let asking = old.iter().map(|(store, runs)| async move {
        let site = core.site(store).ok().filter(|site| !matches!(site.gate(), Gate::Down(_)))?;
        let blockers = site.store.blockers()?;
        let start = Instant::now();
        let answer = timeout(PATIENCE, blockers.waits(runs)).await;
        core.metrics.deadlock_checked(source_of(core, store), start.elapsed());
        match answer {
            Ok(Ok(edges)) => return Some(edges),
            Ok(Err(Setback::Again(why) | Setback::Final(why))) => {
                tracing::debug!(%store, why, "it does not say who blocks whom");
            }
            Err(_) => tracing::debug!(%store, "it did not say in time who blocks whom"),
        }
        None
    });
    let told = join_all(asking).await;
    let mut edges = core.locks.edges();
    edges.extend(told.into_iter().flatten().flatten());
    edges
}

/// One circle that stood: somebody gives way. `None` where nobody can.
async fn break_cycle(core: &Arc<Core>, edges: &[WaitEdge], cycle: &[WaitEdge]) -> Option<TxnId> {
    let entries: Vec<Arc<Entry>> = cycle.iter().filter_map(|edge| entry(core, &edge.waiter)).collect();
    if let Some(sentence) = entries.iter().find_map(|entry| entry.condemned()) {
        // It was told and still waits: its wait is ended once more.
        end_waits(core, edges, sentence.run, &sentence.deadlock).await;
        return Some(sentence.run.txn);
    }
    let able = entries.iter().filter(|entry| entry.may_give_way());
    let scores = rank(able.map(|entry| (entry.id, entry.standing())), clock::now_us());
    for Score { transaction, .. } in &scores {
        let Some(victim) = entries.iter().find(|entry| entry.id == *transaction) else { continue };
        let deadlock = Deadlock { cycle: cycle.to_vec(), scores: scores.clone(), victim: *transaction };
        let deadlock = Arc::new(deadlock);
        if let Some(run) = victim.condemn(&deadlock) {
            end_waits(core, edges, run, &deadlock).await;
            return Some(*transaction);
        }
    }
    leave(core, cycle);
    None
}

/// Ends everything that the victim waits for, wherever that is.
async fn end_waits(core: &Core, edges: &[WaitEdge], run: Run, deadlock: &Arc<Deadlock>) {
    let mine = edges.iter().filter(|edge| edge.waiter == Party::Ours(run.txn));
    let mut stores = BTreeSet::new();
    for edge in mine {
        match &edge.source {
            // False: it does not wait there any more.
            Source::Locks => drop(core.locks.refuse(run.txn, edge.epoch, deadlock)),
            Source::Store(store) => drop(stores.insert(store)),
        }
    }
    let ending = stores.into_iter().map(|store| async move {
        let blockers = core.site(store).ok().and_then(|site| site.store.blockers());
        let Some(blockers) = blockers else { return };
        match timeout(PATIENCE, blockers.interrupt(run)).await {
            Ok(Ok(())) => {}
            Ok(Err(Setback::Again(why) | Setback::Final(why))) => {
                tracing::warn!(%run, %store, why, "the victim's wait could not be ended; the next look tries again");
            }
            Err(_) => {
                tracing::warn!(%run, %store, "the victim's wait was not ended in time; the next look tries again")
            }
        }
    });
    join_all(ending).await;
}

/// Nobody of ours can give way. It is said once, and looked at again as long as it stands.
fn leave(core: &Core, cycle: &[WaitEdge]) {
    let mut name: Vec<_> = cycle.iter().map(|edge| (edge.waiter.to_string(), edge.epoch)).collect();
    name.sort_unstable();
    if core.detector.hopeless.lock().unwrap_or_else(PoisonError::into_inner).insert(name) {
        let source = source(core, cycle);
        tracing::warn!(
            source = source.as_str(),
            cycle = past::sentence(cycle),
            "deadlock: nobody of ours can give way"
        );
        core.detector.past.add(DeadlockView::new(cycle, &[], None, source, None));
    }
}

/// What came of a run that was, or may have been, a victim: it aborts with `deadlock` and the circle, and the deadlock is
/// written down now that it is over. The caller has released its locks.
pub(super) fn settle(core: &Core, entry: &Entry, end: End) -> End {
    let End::Aborted(problem) = end else { return end };
    let Some(sentence) = entry.condemned() else {
        if let (Code::Deadlock, Some(store)) = (problem.code, &problem.store) {
            // The store has found it by itself, and keeps to itself who waited for whom.
            let source = source_of(core, store);
            core.metrics.deadlock_broken(source);
            tracing::warn!(source = source.as_str(), victim = %entry.id, %problem, "deadlock: found by the store itself");
        }
        return End::Aborted(problem);
    };
    let Deadlock { cycle, scores, victim } = &*sentence.deadlock;
    let source = source(core, cycle);
    let closed_us = cycle.iter().map(|edge| edge.since_us).max().unwrap_or_default();
    let took = Duration::from_micros(u64::try_from(clock::now_us() - closed_us).unwrap_or(0));
    core.metrics.deadlock_broken(source);
    tracing::warn!(
        source = source.as_str(), %victim, broken_after_ms = took.as_millis(), cycle = past::sentence(cycle),
        scores = ?scores.iter().map(|score| (score.transaction, score.score)).collect::<Vec<_>>(),
        "deadlock: the victim gave way"
    );
    core.detector.past.add(DeadlockView::new(cycle, scores, Some(*victim), source, Some(took)));
    End::Aborted(Problem { operation: problem.operation, ..Problem::deadlock(cycle) })
}

/// Who waits for whom now, with everybody's name and state.
pub(super) async fn wait_for(core: &Arc<Core>) -> WaitForView {
    let (old, _) = core.detector.flights.old(core.settings.deadlock_timeout);
    let edges = gather(core, &old).await;
    let parties: BTreeSet<&Party> = edges.iter().flat_map(|edge| [&edge.waiter, &edge.holder]).collect();
    let node = |party: &Party| {
        let (name, state) = match (entry(core, party), party) {
            (Some(entry), _) => (entry.name.clone(), entry.state().as_str()),
            (None, Party::Ours(id)) => match core.leases.key_of(*id) {
                Some(key) => (Some(key), "lease"),
                None => (None, "unknown"),
            },
            (None, Party::Foreign(_)) => (None, "foreign"),
        };
        NodeView { id: party.to_string(), name, state }
    };
    let nodes = parties.into_iter().map(node).collect();
    WaitForView { nodes, edges }
}

fn entry(core: &Core, party: &Party) -> Option<Arc<Entry>> {
    match party {
        Party::Ours(id) => core.registry.get(*id),
        Party::Foreign(_) => None,
    }
}

/// Where a circle runs.
fn source(core: &Core, cycle: &[WaitEdge]) -> DeadlockSource {
    let places: BTreeSet<&Source> = cycle.iter().map(|edge| &edge.source).collect();
    match places.first() {
        Some(Source::Locks) if places.len() == 1 => DeadlockSource::Locks,
        Some(Source::Store(store)) if places.len() == 1 => source_of(core, store),
        _ => DeadlockSource::Cross,
    }
}

fn source_of(core: &Core, store: &StoreName) -> DeadlockSource {
    match core.sites.get(store).map(|site| site.store.kind()) {
        Some("postgres") => DeadlockSource::Postgres,
        Some("neo4j") => DeadlockSource::Neo4j,
        _ => DeadlockSource::Cross,
    }
}
