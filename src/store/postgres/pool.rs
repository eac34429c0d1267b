//! A bounded number of connections, reused while their owner stays the same.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::blockers::Backend;
use super::connect::{Conn, Connector, Purpose};
use crate::model::ids::{Run, StoreName};
use crate::model::problem::{Code, Problem};
use crate::store::seats::{Seat, Seats};

/// Connections for one purpose.
pub(super) struct Pool {
    store: StoreName,
    connector: Arc<Connector>,
    purpose: Purpose,
    permits: Arc<Semaphore>,
    /// The last one used is the first reused: what is not needed stays cold.
    idle: Mutex<Vec<Conn>>,
}

impl Pool {
    pub(super) fn new(store: StoreName, connector: Arc<Connector>, purpose: Purpose, max: usize) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS)));
        Arc::new(Self { store, connector, purpose, permits, idle: Mutex::default() })
    }

    /// A connection that has called itself `session_name` from its first byte; waits for one at most to `deadline`.
    pub(super) async fn get(self: &Arc<Self>, session_name: &str, deadline: Instant) -> Result<Pooled, Problem> {
        let too_late =
            |what: &str| Problem::new(Code::Timeout, format!("{}: {what}", self.store)).in_store(&self.store);
        let permit = timeout_at(deadline, self.permits.clone().acquire_owned())
            .await
            .map_err(|_| too_late("every connection was in use"))?
            .expect("the semaphore is never closed");
        let conn = match self.pop(session_name) {
            Some(conn) => conn,
            None => timeout_at(deadline, self.connector.connect(session_name, self.purpose))
                .await
                .map_err(|_| too_late("no connection in time"))??,
        };
        Ok(Pooled { conn: Some(conn), seat: None, pool: self.clone(), _permit: permit })
    }

    /// The most recently used idle connection of that name. Those of another name (an older incarnation's, or from
    /// before there was one) and closed ones are let go.
    fn pop(&self, session_name: &str) -> Option<Conn> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|conn| &*conn.session_name == session_name && !conn.is_closed());
        idle.pop()
    }

    /// Takes a connection that was opened elsewhere.
    pub(super) fn adopt(&self, conn: Conn) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if conn.at_rest && !conn.is_closed() && idle.len() < self.permits.available_permits() {
            idle.push(conn);
        }
    }
}

/// A connection on loan. It goes back only when it is at rest.
pub(super) struct Pooled {
    conn: Option<Conn>,
    /// Whom it serves.
    seat: Option<Seat<Backend>>,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

impl Pooled {
    /// Serves `run` until the loan ends.
    pub(super) fn sit(&mut self, seats: &Arc<Seats<Backend>>, run: Run) {
        let backend = Backend { pid: self.pid, session_name: self.session_name.clone() };
        self.seat = Some(seats.take(run, backend));
    }

    /// Ends the loan without a return: this connection has something that the next user must not meet.
    pub(super) fn discard(mut self) {
        drop(self.conn.take());
    }
}

impl std::ops::Deref for Pooled {
    type Target = Conn;
    fn deref(&self) -> &Conn {
        self.conn.as_ref().expect("taken only by discard and drop")
    }
}

impl std::ops::DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("taken only by discard and drop")
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        // A cancellation that is still on its way would hit the next transaction here.
        let interrupted = self.seat.take().is_some_and(Seat::leave);
        if let Some(conn) = self.conn.take()
            && conn.at_rest
            && !interrupted
            && !conn.is_closed()
        {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        }
    }
}
