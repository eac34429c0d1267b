//! The reaper: whatever transactions leave behind in a store is ended or deleted, without an operator and without the
//! store noticing it much.
//!
//! | left over | why | goes when | bound |
//! |---|---|---|---|
//! | prepared transaction unknown to the log | a crash between a promise and its Intent; a PREPARE whose connection died | its decider, named in the gid, is fenced: never by age | [`TURNS`](super::site) at a time in each store |
//! | session of a dead life of ours | a crash, a cut network | at the start, before the store takes new work (`monitor`) | once a life |
//! | marker, participant row | every decision leaves one | its run has ended durably and its grace has passed on the store's clock | batches, a tenth of the time |
//! | marker with a key | the same | its key's time and that grace have passed | the same |
//! | lease | its holder went away | its time is over (`leases`) | one timer each, no store |
//!
//! A store is swept by a task of its own: one that is slow holds up no other. Each call is followed by a rest of nine
//! times as long, so that sweeping takes a tenth of one connection's time however much there is.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::core::Core;
use super::monitor;
use super::site::{Gate, Site};
use crate::metrics::{Reaped, StoreCall};
use crate::store::{Marks, Setback, Sweep};

/// The rest after a call, in times of what it took.
const REST: u32 = 9;
/// The least and the longest rest.
const RESTS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));
/// Batches of one sweep: then orphans are looked for again.
const BATCHES: usize = 100;

/// Runs until the coordinator stops.
pub(super) async fn reap(core: Arc<Core>, site: Arc<Site>) {
    let stop = core.stop.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        () = keep_reaping(&core, &site) => {}
    }
}

async fn keep_reaping(core: &Arc<Core>, site: &Site) {
    loop {
        tokio::time::sleep(core.settings.sweep_every).await;
        if site.gate() != Gate::Open {
            continue;
        }
        let start = Instant::now();
        let orphans = monitor::adopt_orphans(core, site).await;
        let swept = match site.store.marks() {
            Some(marks) => sweep(core, site, marks).await,
            None => Ok(()),
        };
        core.metrics.sweep_took(start.elapsed());
        for end in [orphans, swept] {
            if let Err(Setback::Again(why) | Setback::Final(why)) = end {
                tracing::debug!(store = %site.name(), why, "cannot reap now");
            }
        }
    }
}

/// Markers go when everything that noted an older durable Lsn has ended, durably, and they are old enough on the
/// store's own clock (protocol.md, "When a marker may go").
async fn sweep(core: &Core, site: &Site, marks: &dyn Marks) -> Result<(), Setback> {
    let below = core.registry.oldest_durable(|| core.journal.durable_lsn());
    // Every `Done` of what is no longer open was appended before this line; now they are durable.
    core.journal.settle().await.map_err(|problem| Setback::Again(problem.detail))?;
    let grace = core.settings.marker_grace;
    let sweep = Sweep { log: core.journal.owner().log, below, grace, key_ttl: core.settings.key_ttl + grace };
    for _ in 0..BATCHES {
        let start = Instant::now();
        let gone = site.call(StoreCall::Forget, marks.forget(&sweep)).await?;
        core.metrics.reaped(Reaped::Marker, gone.markers);
        core.metrics.reaped(Reaped::Key, gone.keys);
        tokio::time::sleep(rest(start.elapsed())).await;
        if !gone.more || site.gate() != Gate::Open {
            break;
        }
    }
    Ok(())
}

fn rest(took: Duration) -> Duration {
    (took * REST).clamp(RESTS.0, RESTS.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_takes_a_tenth_of_the_time_and_no_store_is_left_for_long() {
        let millis = Duration::from_millis;
        assert_eq!(rest(Duration::ZERO), millis(10));
        assert_eq!(rest(millis(20)), millis(180));
        assert_eq!(rest(Duration::from_secs(3600)), Duration::from_secs(60));
    }
}
