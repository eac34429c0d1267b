//! Assembly: who is built from whom, in which order everything starts, and in which it stops.
//!
//! ```text
//!   start   addresses bound ─► porch answers (alive, not ready) ─► log owned, replayed, locks retaken ─► door opens
//!   stop    not ready ─► door takes nobody new, finishes what is at work ─► open transactions end ─► log closed ─► porch
//! ```
//!
//! The addresses are bound first of all: a start that cannot serve must not touch the log. Clients that knock while
//! recovery runs wait in the kernel's queue.

pub mod stores;

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use outrigger_wal::{FlushObserver, Flushed, Options, WalError, repair};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::config::{Config, Listen};
use crate::http::{self, Access, Api, Door, Limits, Listener, RepairMode, porch};
use crate::journal::{Journal, OpenError, OpenReport};
use crate::lock::{self, LockManager};
use crate::metrics::{DeviceWrite, Metrics};
use crate::txn::{Coordinator, Makings, Retention, Settings};

/// How often the janitor sweeps markers and checkpoints the log.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
const LEAST_SWEEP: Duration = Duration::from_secs(1);
/// How long a predecessor that was told to stop is waited for, at its addresses and at its log.
const PREDECESSOR: Duration = Duration::from_secs(5);
const GLANCE: Duration = Duration::from_millis(50);
/// Probes and one Prometheus need no more.
const PORCH_IN_FLIGHT: usize = 16;
/// The porch outlives the door; nothing on it takes long.
const PORCH_DRAIN: Duration = Duration::from_secs(1);
/// What is left for closing the log, however long the door took.
const LEAST_DRAIN: Duration = Duration::from_millis(200);

/// Why a sidecar does not run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An address cannot be listened at.
    #[error("cannot listen at {address}: {error}")]
    Listen {
        /// Which.
        address: Listen,
        /// Why not.
        error: io::Error,
    },
    /// The log cannot be opened, and not because it is damaged.
    #[error("the journal in {dir} cannot be opened: {error}")]
    Journal {
        /// Where.
        dir: String,
        /// Why not.
        error: OpenError,
    },
}

/// Runs a sidecar until `shutdown`, and stops it in order: at most `server.drain_ms` and a moment.
///
/// # Errors
/// [`NodeError`], before anything is served. A damaged log is no error: then the door answers in repair mode.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), NodeError> {
    let since = Instant::now();
    let metrics = Metrics::new(config.stores.keys());
    let door = bind(&config.server.listen).await?;
    let porch = bind(&config.server.admin_listen).await?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let api: Arc<OnceLock<Arc<dyn Api>>> = Arc::default();
    let porch_ends = CancellationToken::new();
    let porch_task = tokio::spawn(http::run(
        porch::router(metrics.clone(), readiness(&api, &shutdown)),
        porch,
        Limits::new(PORCH_IN_FLIGHT, PORCH_DRAIN),
        porch_ends.clone(),
    ));
    let outcome = match open(&config, &metrics).await {
        Ok(opened) => {
            let coordinator = Coordinator::start(makings(&config, opened, metrics.clone(), since));
            let served: Arc<dyn Api> = Arc::new(coordinator.clone());
            let _ = api.set(Arc::clone(&served));
            let stopping = serve(&config, served, metrics, door, shutdown).await;
            let left = config.server.drain.saturating_sub(stopping.elapsed());
            coordinator.drain(left.max(LEAST_DRAIN)).await;
            Ok(())
        }
        Err(error) => match damage(&error) {
            Some(reason) => {
                let help = help(&config.journal.dir).await;
                tracing::error!(reason, help, "the log cannot be used: repair mode, nothing is run");
                metrics.set_journal_damaged();
                let reason = format!("{reason}. {help}");
                let stores =
                    config.stores.values().map(|store| (store.name.to_string(), store.settings.kind())).collect();
                let served: Arc<dyn Api> = Arc::new(RepairMode { reason, stores });
                serve(&config, served, metrics, door, shutdown).await;
                Ok(())
            }
            None => Err(NodeError::Journal { dir: config.journal.dir.display().to_string(), error }),
        },
    };
    porch_ends.cancel();
    // It ends by itself within its own drain; a panic in there has been logged.
    let _ = porch_task.await;
    outcome
}

async fn bind(address: &Listen) -> Result<Listener, NodeError> {
    let until = Instant::now() + PREDECESSOR;
    loop {
        match Listener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                tokio::time::sleep(GLANCE).await;
            }
            Err(error) => return Err(NodeError::Listen { address: address.clone(), error }),
        }
    }
}

/// Not ready before recovery has its locks back, nor from the moment on that a stop is asked for.
fn readiness(api: &Arc<OnceLock<Arc<dyn Api>>>, shutdown: &CancellationToken) -> Arc<dyn Fn() -> bool + Send + Sync> {
    let (api, shutdown) = (Arc::clone(api), shutdown.clone());
    Arc::new(move || !shutdown.is_cancelled() && api.get().is_some_and(|api| api.is_ready()))
}

/// Opens the door and keeps it open until `shutdown`; answers when that came.
async fn serve(
    config: &Config,
    api: Arc<dyn Api>,
    metrics: Metrics,
    listener: Listener,
    shutdown: CancellationToken,
) -> Instant {
    let mut access = Access::new(config.server.principals.as_ref());
    if let Err(error) = access.leave_operator_token(&config.journal.dir) {
        tracing::warn!(%error, "the command line of this machine gets no operator token");
    }
    tracing::info!(address = listener.address(), "the door is open");
    let router = Door::new(api, access, metrics, &config.server, shutdown.clone()).router();
    let limits = Limits::new(config.server.max_in_flight, config.server.drain);
    let noted = async {
        shutdown.cancelled().await;
        tracing::info!("stopping: nobody new comes in, what is at work is finished");
        Instant::now()
    };
    let ((), at) = tokio::join!(http::run(router, listener, limits, shutdown.clone()), noted);
    at
}

/// Owns and replays the log; one that a predecessor is just leaving is waited for.
///
/// # Errors
/// As [`Journal::open`].
pub async fn open(config: &Config, metrics: &Metrics) -> Result<(Journal, OpenReport), OpenError> {
    let until = Instant::now() + PREDECESSOR;
    loop {
        let (dir, keep, options) = (config.journal.dir.clone(), Retention::default().ended, options(config, metrics));
        // Blocking work, off the runtime's workers.
        match tokio::task::spawn_blocking(move || Journal::open(&dir, options, keep)).await {
            Ok(Err(OpenError::Wal(WalError::Locked { .. }))) if Instant::now() < until => {
                tokio::time::sleep(GLANCE).await;
            }
            Ok(opened) => return opened,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

/// What goes from the log to the disk, as the operator sees it.
struct Counted(Metrics);

impl FlushObserver for Counted {
    fn flushed(&self, flush: &Flushed) {
        self.0.journal_flushed(flush.took, flush.records);
        self.0.journal_appended(flush.bytes);
        self.0.journal_wrote(DeviceWrite::Flush, flush.device_bytes);
    }

    fn prepared(&self, device_bytes: u64) {
        self.0.journal_wrote(DeviceWrite::Prepare, device_bytes);
    }
}

fn options(config: &Config, metrics: &Metrics) -> Options {
    let observer: Arc<dyn FlushObserver> = Arc::new(Counted(metrics.clone()));
    Options {
        segment_bytes: config.journal.segment_bytes,
        flush_interval: config.journal.flush_interval,
        retain_bytes: config.journal.retain_bytes,
        recycle: config.journal.recycle,
        backend: config.journal.backend,
        keys: config.journal.keys.clone(),
        encrypt: config.journal.encrypt,
        compress_above: config.journal.compress_above,
        force_filesystem: config.journal.force_filesystem,
        observer: Some(observer),
        ..Options::default()
    }
}

/// What can be done for a log that does not open, in whole sentences.
async fn help(dir: &Path) -> String {
    let dir = dir.to_owned();
    let planned = tokio::task::spawn_blocking(move || repair::plan(&dir)).await;
    match planned {
        Ok(Ok(plan)) if plan.acts() => {
            format!("With the sidecar stopped, `outrigger wal repair` carries this out: {plan}")
        }
        Ok(Ok(plan)) => format!("`outrigger wal repair` does nothing here: {plan}"),
        Ok(Err(error)) => format!("`outrigger wal repair` cannot be planned: {error}"),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// What a coordinator of this configuration is built from.
#[must_use]
pub fn makings(config: &Config, (journal, opened): (Journal, OpenReport), metrics: Metrics, since: Instant) -> Makings {
    let limits =
        lock::Limits { max_keys: config.locks.max_keys, max_keys_per_txn: config.locks.max_keys_per_transaction };
    Makings {
        journal,
        opened,
        stores: stores::build(config),
        locks: LockManager::measured(limits, metrics.clone()),
        audit: Audit::new(&config.journal.dir, &config.audit, metrics.clone()),
        metrics,
        settings: Settings {
            lock_wait: config.locks.wait_timeout,
            deadlock_timeout: config.locks.deadlock_timeout,
            max_open: config.server.max_open,
            retention: Retention { age: config.journal.retain_ended, ..Retention::default() },
            marker_grace: config.journal.marker_grace,
            key_ttl: config.journal.key_ttl,
            sweep_every: SWEEP_EVERY.min(config.journal.marker_grace.max(LEAST_SWEEP)),
        },
        since,
    }
}

/// What stands in the way, where only people can help (damage, a later version's log); `None` where the log is merely
/// out of reach.
#[must_use]
pub fn damage(error: &OpenError) -> Option<String> {
    match error {
        OpenError::Wal(WalError::Corrupt { .. } | WalError::Unsupported { .. }) | OpenError::Unreadable { .. } => {
            Some(error.to_string())
        }
        OpenError::Wal(_) => None,
    }
}
