//! What every part of the coordinator shares.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::deadlock::Detector;
use super::interactive::Conversations;
use super::keys::Keys;
use super::leases::Leases;
use super::recovery::Report;
use super::registry::{Registry, Retention};
use super::site::Site;
use crate::audit::Audit;
use crate::journal::Journal;
use crate::lock::LockManager;
use crate::metrics::Metrics;
use crate::model::ids::StoreName;
use crate::model::problem::Problem;

/// How the coordinator is set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The longest wait for one lock.
    pub lock_wait: Duration,
    /// Whoever has waited this long makes us look for a deadlock.
    pub deadlock_timeout: Duration,
    /// Transactions that may be open at the same time.
    pub max_open: usize,
    /// What is kept of the past.
    pub retention: Retention,
    /// Least age of a marker without a key.
    pub marker_grace: Duration,
    /// How long a key is remembered.
    pub key_ttl: Duration,
    /// How often the janitor sweeps and checkpoints.
    pub sweep_every: Duration,
}

pub(super) struct Core {
    pub(super) journal: Journal,
    pub(super) sites: BTreeMap<StoreName, Arc<Site>>,
    pub(super) locks: LockManager,
    /// What is done by hand.
    pub(super) audit: Audit,
    pub(super) detector: Detector,
    pub(super) leases: Leases,
    pub(super) registry: Registry,
    pub(super) metrics: Metrics,
    pub(super) settings: Settings,
    /// Transactions at work: a drain waits for them.
    pub(super) tasks: TaskTracker,
    /// Ends the monitors, the janitor and whatever waits for a store that does not come back.
    pub(super) stop: CancellationToken,
    /// It is stopping: the door is shut, so nothing new comes in and no call can reach an open transaction any more.
    pub(super) leaving: CancellationToken,
    /// Transactions that grow call by call, and those that wait for their verdict.
    pub(super) conversations: Conversations,
    /// The log lost acknowledged records, as a store witnesses: nothing may be served.
    pub(super) lost_log: Mutex<Option<String>>,
    /// Committed runs whose key only the log remembers.
    pub(super) keyed: Mutex<Keys>,
    pub(super) report: Mutex<Report>,
    /// Opening and ending batch jobs, one at a time.
    pub(super) jobs: tokio::sync::Mutex<()>,
}

impl Core {
    /// The site of a store that the request's check has found configured.
    ///
    /// # Errors
    /// `invalid_request`: a store that is no longer configured (a past transaction's).
    pub(super) fn site(&self, store: &StoreName) -> Result<&Arc<Site>, Problem> {
        let unknown =
            || Problem::invalid("", format!("there is no store `{store}` in the configuration")).in_store(store);
        self.sites.get(store).ok_or_else(unknown)
    }

    pub(super) fn keyed(&self) -> MutexGuard<'_, Keys> {
        self.keyed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lost_log(&self) -> Option<String> {
        self.lost_log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
