//! Assembly: who is built from whom, in which order the program starts, and in which it stops.
//!
//! ```text
//!   start   metrics → journal (own it, replay it) → stores → coordinator (locks of the past) → porch and door
//!   stop    door (no new requests, those at work end) → coordinator (open transactions end) → journal → porch
//! ```

use std::sync::Arc;
use std::time::Duration;

use outrigger_wal::{Options, WalError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, StoreSettings};
use crate::http::{Access, Api, Door, Limits, Listener, RepairMode, porch, run as serve};
use crate::journal::{Journal, OpenError, OpenReport};
use crate::lock::{self, LockManager};
use crate::metrics::Metrics;
use crate::model::ids::StoreName;
use crate::store::Store;
use crate::store::neo4j::{Neo4j, Neo4jConfig};
use crate::store::postgres::{Postgres, PostgresConfig};
use crate::store::qdrant::{Qdrant, QdrantConfig};
use crate::txn::{Configured, Coordinator, Makings, Retention, Settings};

/// Why the program cannot run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The journal cannot be opened, and not because it is corrupt.
    #[error("the journal in {dir} cannot be opened: {why}")]
    Journal {
        /// Its directory.
        dir: String,
        /// The log's own words.
        why: OpenError,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// Which, as configured.
        address: String,
        /// The system's answer.
        why: std::io::Error,
    },
    /// The operator's token cannot be left beside the journal.
    #[error("cannot write the operator's token: {0}")]
    Token(std::io::Error),
}

/// How long a predecessor that was told to stop is waited for at the journal's lock.
const PREDECESSOR: Duration = Duration::from_secs(5);
/// How often the janitor comes by.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Serves until `shutdown`, then drains.
///
/// # Errors
/// [`NodeError`], before anything was served.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), NodeError> {
    let since = Instant::now();
    let metrics = Metrics::new(config.stores.keys());
    let mut access = Access::new(config.server.principals.as_ref());
    let coordinator = match open_journal(&config, &metrics).await {
        Ok((journal, opened)) => Ok(coordinate(&config, journal, opened, &metrics, since)),
        Err(OpenError::Wal(corrupt @ (WalError::Corrupt { .. } | WalError::Unsupported { .. }))) => {
            Err(corrupt.to_string())
        }
        Err(unreadable @ OpenError::Unreadable { .. }) => Err(unreadable.to_string()),
        Err(why) => return Err(NodeError::Journal { dir: config.journal.dir.display().to_string(), why }),
    };
    access.leave_operator_token(&config.journal.dir).map_err(NodeError::Token)?;
    let api: Arc<dyn Api> = match &coordinator {
        Ok(coordinator) => Arc::new(coordinator.clone()),
        Err(reason) => Arc::new(repair_mode(&config, reason)),
    };
    let door = bind(&config.server.listen).await?;
    let side = bind(&config.server.admin_listen).await?;
    tracing::info!(door = door.address(), porch = side.address(), "listening");

    let probe = api.clone();
    let porch_router = porch::router(metrics.clone(), Arc::new(move || probe.is_ready()));
    let porch_down = CancellationToken::new();
    let porch_limits = Limits::new(64, Duration::from_secs(1));
    let porch = tokio::spawn(serve(porch_router, side, porch_limits, porch_down.clone()));

    let limits = Limits::new(config.server.max_in_flight, config.server.drain);
    let stop_by = {
        let router = Door::new(api, access, metrics, &config.server).router();
        let asked = shutdown.clone();
        let door = tokio::spawn(serve(router, door, limits, shutdown));
        asked.cancelled().await;
        let stop_by = Instant::now() + config.server.drain;
        let _ = door.await;
        stop_by
    };
    if let Ok(coordinator) = &coordinator {
        let left = stop_by.saturating_duration_since(Instant::now());
        coordinator.drain(left.max(Duration::from_millis(200))).await;
    }
    porch_down.cancel();
    let _ = porch.await;
    Ok(())
}

async fn bind(address: &crate::config::Listen) -> Result<Listener, NodeError> {
    let failed = |why| NodeError::Listen { address: format!("{address:?}"), why };
    Listener::bind(address).await.map_err(failed)
}

/// Opens the journal; one that a predecessor is just leaving is waited for.
///
/// # Errors
/// As [`Journal::open`].
pub async fn open_journal(config: &Config, metrics: &Metrics) -> Result<(Journal, OpenReport), OpenError> {
    let until = Instant::now() + PREDECESSOR;
    loop {
        let (dir, options) = (config.journal.dir.clone(), journal_options(config, metrics.clone()));
        let keep = Retention::default().ended;
        let opened = tokio::task::spawn_blocking(move || Journal::open(&dir, options, keep)).await;
        match opened.expect("opening does not panic") {
            Err(OpenError::Wal(WalError::Locked { .. })) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            answer => return answer,
        }
    }
}

fn journal_options(config: &Config, metrics: Metrics) -> Options {
    let journal = &config.journal;
    Options {
        segment_bytes: journal.segment_bytes,
        flush_interval: journal.flush_interval,
        retain_bytes: journal.retain_bytes,
        observer: Some(Arc::new(move |took, records, bytes| {
            metrics.journal_flushed(took, records);
            metrics.journal_appended(bytes);
        })),
        ..Options::default()
    }
}

fn coordinate(config: &Config, journal: Journal, opened: OpenReport, metrics: &Metrics, since: Instant) -> Coordinator {
    let settings = Settings {
        lock_wait: config.locks.wait_timeout,
        max_open: config.server.max_open,
        retention: Retention { age: config.journal.retain_ended, ..Retention::default() },
        marker_grace: config.journal.marker_grace,
        key_ttl: config.journal.key_ttl,
        sweep_every: SWEEP_EVERY.min(config.journal.marker_grace.max(Duration::from_secs(1))),
    };
    let configured = config
        .stores
        .values()
        .map(|store| Configured { store: build_store(&store.name, &store.settings), init: store.init });
    Coordinator::start(Makings {
        journal,
        opened,
        stores: configured.collect(),
        locks: LockManager::new(lock::Limits { max_keys: config.locks.max_keys }),
        metrics: metrics.clone(),
        settings,
        since,
    })
}

/// The participant that a configuration describes. Does no I/O.
#[must_use]
pub fn build_store(name: &StoreName, settings: &StoreSettings) -> Arc<dyn Store> {
    let exposed = |secret: &Option<crate::config::Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
    match settings {
        StoreSettings::Postgres(pg) => Postgres::new(
            name.clone(),
            PostgresConfig {
                user: Some(pg.user.clone()),
                password: exposed(&pg.password),
                tls: pg.tls,
                pool_max: pg.pool_max,
                connect_timeout: pg.connect_timeout,
                ..PostgresConfig::new(&pg.url)
            },
        ),
        StoreSettings::Neo4j(neo) => Neo4j::new(
            name.clone(),
            Neo4jConfig {
                url: neo.url.clone(),
                database: neo.database.clone(),
                user: neo.user.clone(),
                password: exposed(&neo.password).unwrap_or_default(),
                tls: neo.tls,
                pool_max: neo.pool_max,
                connect_timeout: neo.connect_timeout,
                session_grace: neo.session_grace,
            },
        ),
        StoreSettings::Qdrant(qdrant) => Qdrant::new(
            name.clone(),
            &QdrantConfig {
                url: qdrant.url.clone(),
                api_key: exposed(&qdrant.api_key),
                tls: qdrant.tls,
                pool_max: qdrant.pool_max,
                connect_timeout: qdrant.connect_timeout,
                redo_deadline: qdrant.redo_deadline,
            },
        ),
    }
}

fn repair_mode(config: &Config, reason: &str) -> RepairMode {
    tracing::error!(
        reason,
        "repair mode: the journal is damaged, so nothing is served. Look with `outrigger wal verify` and \
         `outrigger wal dump`; restore the volume, or start with an empty journal directory once you have decided by \
         hand what the prepared transactions named ogr1:… in PostgreSQL should become"
    );
    let stores = config.stores.values().map(|store| (store.name.to_string(), store.settings.kind()));
    RepairMode { reason: reason.to_owned(), stores: stores.collect() }
}
