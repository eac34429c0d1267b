//! In doubt: the decider may or may not have committed. A look-up proves nothing, since the commit may still be on its
//! way; so the run is fenced, and what the fence finds is the verdict.

use std::sync::Arc;

use futures::future::join_all;

use super::core::Core;
use super::entry::Entry;
use super::retry::Backoff;
use crate::journal::slip::Decided;
use crate::metrics::StoreCall;
use crate::model::commit::{Marker, Verdict};
use crate::model::ids::{Run, StoreName};
use crate::model::state::Outcome;
use crate::store::{Fenced, Setback};

/// Fences `run` of `entry` in the store that decides, however long that store stays away, and brings the verdict to the
/// log. `None`: the program is stopping, or the log takes no records; the run stays in doubt for the next start.
///
/// Cancellation is harmless: a fence is repeated without harm.
pub(super) async fn resolve(
    core: &Arc<Core>,
    entry: &Entry,
    run: Run,
    store: &StoreName,
) -> Option<(Decided, Option<Marker>)> {
    let (verdict, marker) = fence(core, entry, run, store).await?;
    Some((learn(core, &verdict)?, marker))
}

/// The same for a `run` of the past: those take turns at a store, however many a crash has left.
///
/// As [`resolve`].
pub(super) async fn resolve_past(
    core: &Arc<Core>,
    entry: &Entry,
    run: Run,
    store: &StoreName,
) -> Option<(Decided, Option<Marker>)> {
    let turn = core.site(store).ok()?.turn().await;
    let found = fence(core, entry, run, store).await;
    drop(turn);
    let (verdict, marker) = found?;
    Some((learn(core, &verdict)?, marker))
}

/// Fences a `run` of the past in every store that can mark, since nobody knows which one it would have let decide. Where
/// it committed in one of them, it committed, and that one is answered too; else nobody can commit it any more.
///
/// As [`resolve`].
pub(super) async fn resolve_everywhere(
    core: &Arc<Core>,
    entry: &Entry,
    run: Run,
) -> Option<(Decided, Option<Marker>, Option<StoreName>)> {
    let marking = core.sites.values().filter(|site| site.store.marks().is_some());
    let fencing = marking.map(|site| async move {
        let turn = site.turn().await;
        let found = fence(core, entry, run, site.name()).await;
        drop(turn);
        // A store that is down holds up only itself.
        site.fenced();
        found
    });
    let found: Vec<_> = join_all(fencing).await.into_iter().collect::<Option<_>>()?;
    match found.into_iter().find(|(verdict, _)| verdict.outcome == Outcome::Committed) {
        Some((verdict, marker)) => Some((learn(core, &verdict)?, marker, Some(verdict.store))),
        None => Some((core.journal.abandon(run).ok()?, None, None)),
    }
}

fn learn(core: &Core, verdict: &Verdict) -> Option<Decided> {
    let decided = core.journal.witness(verdict);
    decided.inspect_err(|why| tracing::error!(run = %verdict.run, %why, "the verdict cannot be logged")).ok()
}

async fn fence(core: &Arc<Core>, entry: &Entry, run: Run, store: &StoreName) -> Option<(Verdict, Option<Marker>)> {
    let site = core.site(store).ok()?;
    let mut backoff = Backoff::of_store();
    let mut ear = entry.hand.ear();
    loop {
        tokio::select! {
            () = site.reached() => {}
            () = core.stop.cancelled() => return None,
        }
        ear.heed();
        let Some(marks) = site.store.marks() else {
            tracing::error!(%run, %store, "in doubt, and the store that decides cannot be asked any more");
            return None;
        };
        let fence = marks.fence(run, core.journal.owner(), core.journal.durable_lsn());
        let flight = core.detector.in_flight(store, run);
        let answer = site.call(StoreCall::Fence, fence).await;
        drop(flight);
        let (verdict, marker) = match answer {
            Ok(Fenced::Aborted(verdict)) => (verdict, None),
            Ok(Fenced::Committed(verdict, marker)) => (verdict, Some(*marker)),
            Err(Setback::Again(why) | Setback::Final(why)) => {
                tracing::warn!(%run, %store, why, "still in doubt");
                entry.set_back(store, &why);
                tokio::select! {
                    () = tokio::time::sleep(backoff.next()) => continue,
                    _ = ear.word(store, false) => continue,
                    () = core.stop.cancelled() => return None,
                }
            }
        };
        tracing::info!(%run, %store, outcome = verdict.outcome.as_str(), "no longer in doubt");
        return Some((verdict, marker));
    }
}
