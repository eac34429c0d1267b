//! Connections, each alone in a driver's pool of its own, so that dropping one really closes it.
//!
//! The driver's pool takes a dropped transaction back *with its locks*: they are kept until somebody happens to draw
//! that connection again. A connection that is the only one of its [`Graph`] dies with it, and the server then rolls
//! back at once. That is the whole trick: a [`Link`] goes back to our pool only after a clean end.
//!
//! A link that serves transactions also learns its [`Spot`], once, in its first transaction: the driver does not tell
//! what the server said at the greeting. When a connection breaks, the driver replaces it in silence, and a restarted
//! server counts its connections from the start; so whenever anything broke, every link learns its spot again. So does
//! one that was idle for long, since what sits between us and the server may have cut it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use neo4rs::summary::{Counters, Type};
use neo4rs::{ConfigBuilder, Error, Graph, Query, Txn, query};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use super::control::text;
use super::values::Row;
use super::{Neo4jConfig, TAG};

/// Rows that the server sends per PULL. The driver allocates room for so many for every statement.
const FETCH: usize = 256;
/// The driver's own bound on a read makes a connection useless when it strikes; our deadlines come long before.
const DRIVER_PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// How long a connection may take to forget a failed transaction before it is closed instead.
const MEND_PATIENCE: Duration = Duration::from_secs(2);

/// What one statement gave.
#[derive(Debug)]
pub(super) struct Done {
    /// The rows, where any were asked for.
    pub(super) rows: Vec<Row>,
    /// What it changed.
    pub(super) counters: Counters,
    /// Whether it only read.
    pub(super) kind: Type,
}

/// Whatever cuts idle connections waits longer than this first.
const LONG_IDLE: Duration = Duration::from_secs(30);

const LEARN: &str = "SHOW TRANSACTIONS YIELD parameters, connectionId, clientAddress \
     WHERE parameters.__ogr = $__ogr RETURN connectionId + ' ' + clientAddress AS spot";

/// Where a connection stands in the server's list: `bolt-12 127.0.0.1:57602`. Shared by the connection and whoever
/// knows better.
#[derive(Clone, Default, Debug)]
pub(super) struct Spot(Arc<Mutex<Option<String>>>);

impl Spot {
    /// `None` while it is not known.
    pub(super) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, spot: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(spot.to_owned());
    }

    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// How often a connection to this server has broken, as far as anybody noticed.
pub(super) type Breaks = Arc<AtomicU64>;

/// A connection without a transaction.
struct Idle {
    graph: Graph,
    spot: Spot,
    /// The count of breaks when it learnt its spot (or tried to).
    learnt_at: Option<u64>,
    /// When it was last in use.
    since: Instant,
}

/// A bounded number of connections.
pub(super) struct Links {
    config: Neo4jConfig,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    breaks: Breaks,
    /// Whether they are to know their spots.
    learns: bool,
}

impl Links {
    /// For our own statements.
    pub(super) fn new(config: &Neo4jConfig, most: usize, breaks: &Breaks) -> Arc<Self> {
        Self::which(config, most, breaks, false)
    }

    /// For transactions.
    pub(super) fn that_learn(config: &Neo4jConfig, most: usize, breaks: &Breaks) -> Arc<Self> {
        Self::which(config, most, breaks, true)
    }

    fn which(config: &Neo4jConfig, most: usize, breaks: &Breaks, learns: bool) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(most.max(1)));
        let (config, idle, breaks) = (config.clone(), Mutex::new(Vec::new()), breaks.clone());
        Arc::new(Self { config, permits, idle, breaks, learns })
    }

    /// An idle connection, or the promise of a fresh one (made at its first use). `None` when `deadline` passed first.
    ///
    /// # Errors
    /// The configuration's faults (a URL that is none).
    pub(super) async fn take(self: &Arc<Self>, deadline: Instant) -> Result<Option<Link>, Error> {
        let Ok(permit) = timeout_at(deadline, self.permits.clone().acquire_owned()).await else {
            return Ok(None);
        };
        let permit = permit.expect("the semaphore is never closed");
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let idle = match idle {
            Some(idle) => idle,
            None => Idle { graph: self.config.graph()?, spot: Spot::default(), learnt_at: None, since: Instant::now() },
        };
        Ok(Some(Link { idle, txn: None, home: self.clone(), _permit: permit }))
    }
}

impl Neo4jConfig {
    /// A driver with exactly one connection. Does no I/O.
    fn graph(&self) -> Result<Graph, Error> {
        let config = ConfigBuilder::default()
            .uri(self.bolt_url())
            .user(&self.user)
            .password(&self.password)
            .db(self.database.as_str())
            .max_connections(1)
            .fetch_size(FETCH)
            .connection_timeout(DRIVER_PATIENCE)
            .build()?;
        Graph::connect(config)
    }
}

/// One connection, ours until it is dropped (and closed) or given back.
pub(super) struct Link {
    idle: Idle,
    txn: Option<Txn>,
    home: Arc<Links>,
    _permit: OwnedSemaphorePermit,
}

impl Link {
    /// Where it stands, once it knows.
    pub(super) fn spot(&self) -> Spot {
        self.idle.spot.clone()
    }

    /// Begins a transaction; connects first where this is a fresh connection.
    pub(super) async fn begin(&mut self) -> Result<(), Error> {
        self.start().await?;
        let breaks = self.home.breaks.load(Ordering::Relaxed);
        let known = self.idle.learnt_at == Some(breaks) && self.idle.since.elapsed() < LONG_IDLE;
        self.idle.since = Instant::now();
        if self.home.learns && !known {
            self.idle.learnt_at = Some(breaks);
            self.learn().await?;
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<(), Error> {
        let connect = self.home.config.connect_timeout;
        let txn = timeout(connect, self.idle.graph.start_txn()).await;
        let txn = self.noting(txn.map_err(|_| Error::ConnectionTimedOut).flatten())?;
        self.txn = Some(txn);
        Ok(())
    }

    /// Asks where this very transaction stands. Whoever may not ask goes without: idle, it then looks like a stranger
    /// to the deadlock detector.
    async fn learn(&mut self) -> Result<(), Error> {
        self.idle.spot.forget();
        let ask = query(LEARN).param(TAG, Uuid::now_v7().to_string());
        match self.pull(ask).await {
            Ok(done) => {
                if let Some(spot) = done.rows.first().and_then(|row| text(row, "spot")) {
                    self.idle.spot.set(&spot);
                }
                Ok(())
            }
            Err(Error::Neo4j(_)) => {
                self.txn = None;
                self.start().await
            }
            Err(error) => Err(error),
        }
    }

    /// Takes note of a broken connection.
    fn noting<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &answer
            && !matches!(error, Error::Neo4j(_))
        {
            self.home.breaks.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    /// Runs a statement whose rows nobody wants: RUN and DISCARD in one round trip.
    pub(super) async fn run(&mut self, query: Query) -> Result<Done, Error> {
        let txn = self.txn.as_mut().ok_or(Error::ConnectionError)?;
        let summary = txn.run(query).await;
        let summary = self.noting(summary)?;
        Ok(Done { rows: Vec::new(), counters: *summary.stats(), kind: summary.query_type() })
    }

    /// Runs a statement and takes all its rows.
    pub(super) async fn pull(&mut self, query: Query) -> Result<Done, Error> {
        let txn = self.txn.as_mut().ok_or(Error::ConnectionError)?;
        let pulled = async {
            let mut stream = txn.execute(query).await?;
            let mut rows = Vec::new();
            while let Some(row) = stream.next(&mut *txn).await? {
                rows.push(row.to_strict::<Row>()?);
            }
            let summary = stream.finish(&mut *txn).await?;
            Ok(Done { rows, counters: *summary.stats(), kind: summary.query_type() })
        };
        let pulled = pulled.await;
        self.noting(pulled)
    }

    /// Runs a reading statement outside of any transaction, in two round trips instead of five. The server refuses
    /// writes. Neo4j reads committed data statement by statement, so a transaction would see nothing else.
    pub(super) async fn read(&mut self, query: Query) -> Result<Done, Error> {
        let read = async {
            let mut stream = self.idle.graph.execute_read(query).await?;
            let mut rows = Vec::new();
            while let Some(row) = stream.next().await? {
                rows.push(row.to_strict::<Row>()?);
            }
            let summary = stream.finish().await?;
            Ok(Done { rows, counters: *summary.stats(), kind: summary.query_type() })
        };
        self.noting(read.await)
    }

    /// Commits. An error may mean anything but "not sent".
    pub(super) async fn commit(&mut self) -> Result<(), Error> {
        let txn = self.txn.take().ok_or(Error::ConnectionError)?;
        self.noting(txn.commit().await.map(|_bookmark| ()))
    }

    /// Rolls back a transaction in which nothing failed, and gives the connection back; closes it where no answer comes.
    pub(super) async fn rollback(mut self) {
        if let Some(txn) = self.txn.take()
            && !matches!(timeout(MEND_PATIENCE, txn.rollback()).await, Ok(Ok(())))
        {
            return;
        }
        self.give_back();
    }

    /// Makes a connection fit again whose transaction the server refused (it then ignores everything, ROLLBACK too):
    /// drawing it from the driver's pool of one sends RESET. Waits for that, so that the locks are gone. False where it
    /// must be closed instead.
    pub(super) async fn reset(&mut self) -> bool {
        self.txn = None;
        let again = async {
            let txn = self.idle.graph.start_txn().await?;
            txn.rollback().await
        };
        matches!(timeout(MEND_PATIENCE, again).await, Ok(Ok(())))
    }

    /// The same, and back to the pool.
    pub(super) async fn mend(mut self) {
        if self.reset().await {
            self.give_back();
        }
    }

    /// Back to the pool. Only for a connection without a transaction.
    pub(super) fn give_back(mut self) {
        if self.txn.is_none() {
            self.idle.since = Instant::now();
            self.home.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.idle);
        }
    }
}
