//! Connections, each alone in a driver's pool of its own, so that dropping one really closes it.
//!
//! The driver's pool takes a dropped transaction back *with its locks*: they are kept until somebody happens to draw
//! that connection again. A connection that is the only one of its [`Graph`] dies with it, and the server then rolls
//! back at once. That is the whole trick: a [`Link`] goes back to our pool only after a clean end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use neo4rs::summary::{Counters, Type};
use neo4rs::{ConfigBuilder, Error, Graph, Query, Txn};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::Neo4jConfig;
use super::values::Row;

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

/// A bounded number of connections.
pub(super) struct Links {
    config: Neo4jConfig,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Graph>>,
}

impl Links {
    pub(super) fn new(config: &Neo4jConfig, most: usize) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(most.max(1)));
        Arc::new(Self { config: config.clone(), permits, idle: Mutex::new(Vec::new()) })
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
        let graph = match idle {
            Some(graph) => graph,
            None => self.config.graph()?,
        };
        Ok(Some(Link { graph, txn: None, home: self.clone(), _permit: permit }))
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
    graph: Graph,
    txn: Option<Txn>,
    home: Arc<Links>,
    _permit: OwnedSemaphorePermit,
}

impl Link {
    /// Begins a transaction; connects first where this is a fresh connection.
    pub(super) async fn begin(&mut self) -> Result<(), Error> {
        let connect = self.home.config.connect_timeout;
        let txn = timeout(connect, self.graph.start_txn()).await.map_err(|_| Error::ConnectionTimedOut)??;
        self.txn = Some(txn);
        Ok(())
    }

    /// Runs a statement whose rows nobody wants: RUN and DISCARD in one round trip.
    pub(super) async fn run(&mut self, query: Query) -> Result<Done, Error> {
        let txn = self.txn.as_mut().ok_or(Error::ConnectionError)?;
        let summary = txn.run(query).await?;
        Ok(Done { rows: Vec::new(), counters: *summary.stats(), kind: summary.query_type() })
    }

    /// Runs a statement and takes all its rows.
    pub(super) async fn pull(&mut self, query: Query) -> Result<Done, Error> {
        let txn = self.txn.as_mut().ok_or(Error::ConnectionError)?;
        let mut stream = txn.execute(query).await?;
        let mut rows = Vec::new();
        while let Some(row) = stream.next(&mut *txn).await? {
            rows.push(row.to_strict::<Row>()?);
        }
        let summary = stream.finish(&mut *txn).await?;
        Ok(Done { rows, counters: *summary.stats(), kind: summary.query_type() })
    }

    /// Runs a reading statement outside of any transaction, in two round trips instead of five. The server refuses
    /// writes. Neo4j reads committed data statement by statement, so a transaction would see nothing else.
    pub(super) async fn read(&mut self, query: Query) -> Result<Done, Error> {
        let mut stream = self.graph.execute_read(query).await?;
        let mut rows = Vec::new();
        while let Some(row) = stream.next().await? {
            rows.push(row.to_strict::<Row>()?);
        }
        let summary = stream.finish().await?;
        Ok(Done { rows, counters: *summary.stats(), kind: summary.query_type() })
    }

    /// Commits. An error may mean anything but "not sent".
    pub(super) async fn commit(&mut self) -> Result<(), Error> {
        let txn = self.txn.take().ok_or(Error::ConnectionError)?;
        txn.commit().await.map(|_bookmark| ())
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
            let txn = self.graph.start_txn().await?;
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
    pub(super) fn give_back(self) {
        if self.txn.is_none() {
            self.home.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.graph);
        }
    }
}
