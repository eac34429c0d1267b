//! The async shell of the lock table.
//!
//! A wait is a one-shot channel; whoever lets go of a key sends to those whom the table admits, under the same mutex
//! that the table is changed under: a wake-up cannot be lost. A dropped wait takes itself out of its queue.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::table::{Asked, Table, Ticket};
use super::{Claim, LockKey, Mode};
use crate::model::ids::TxnId;

/// The bounds of the table.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most holdings and waits together (`locks.max_keys`). Recovery may exceed it.
    pub max_keys: usize,
}

/// A lock was not to be had. What was taken before stays held until [`LockManager::release_all`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{key}` was not to be had in {waited:?}")]
pub struct LockRefused {
    /// Which.
    pub key: LockKey,
    /// How long it was waited for.
    pub waited: Duration,
    /// Nobody was waited for: the table is full.
    pub too_many: bool,
}

/// One line of `GET /v1/locks`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LockView {
    /// The key as text.
    pub key: String,
    /// The strongest mode it is held in.
    pub mode: Mode,
    /// Who holds it.
    pub holders: Vec<LockParty>,
    /// Who waits, the next one first.
    pub waiters: Vec<LockParty>,
}

/// A transaction at a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LockParty {
    /// Its id.
    pub transaction: TxnId,
    /// What it holds, or would hold.
    pub mode: Mode,
}

/// Takes and releases locks. Cheap to clone; all clones share one table.
#[derive(Clone, Debug)]
pub struct LockManager {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    table: Table,
    wakers: HashMap<u64, oneshot::Sender<()>>,
}

impl LockManager {
    /// An empty table.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { shared: Arc::new(Shared { limits, state: Mutex::default() }) }
    }

    /// Takes all of `claims` for `txn`, in the order of their keys, waiting for each at most to `until`. A key that is
    /// claimed twice, or held already, is held in the join of the modes.
    ///
    /// Dropping the future gives up the wait; what was taken stays held until [`Self::release_all`], which must come
    /// after the last call for this transaction.
    ///
    /// # Errors
    /// [`LockRefused`]: time ran out, the table is full, or `release_all` came while it waited.
    pub async fn acquire_all(&self, txn: TxnId, claims: Vec<Claim>, until: Instant) -> Result<(), LockRefused> {
        let mut claims = merged(claims).into_iter();
        while let Some((ticket, mut waker)) = self.take_until_blocked(txn, &mut claims)? {
            let since = Instant::now();
            let mut wait = Wait { shared: &self.shared, ticket: Some(ticket) };
            let granted = match timeout_at(until, &mut waker).await {
                Ok(answer) => wait.is_over(answer.is_ok()),
                // Out of the queue first: a grant that came before that counts.
                Err(_) => {
                    wait.leave();
                    wait.is_over(waker.try_recv().is_ok())
                }
            };
            if let Err(key) = granted {
                return Err(LockRefused { key, waited: since.elapsed(), too_many: false });
            }
        }
        Ok(())
    }

    /// Takes claims one by one under one hold of the mutex; answers the first wait.
    fn take_until_blocked(
        &self,
        txn: TxnId,
        claims: &mut impl Iterator<Item = Claim>,
    ) -> Result<Option<(Ticket, oneshot::Receiver<()>)>, LockRefused> {
        let mut state = self.shared.lock();
        for claim in claims {
            if state.table.held() + state.table.waiting() >= self.shared.limits.max_keys {
                return Err(LockRefused { key: claim.key, waited: Duration::ZERO, too_many: true });
            }
            if let Asked::Waits(ticket) = state.table.request(txn, Arc::new(claim.key), claim.mode) {
                let (sender, receiver) = oneshot::channel();
                state.wakers.insert(ticket.number, sender);
                return Ok(Some((ticket, receiver)));
            }
        }
        Ok(None)
    }

    /// Gives `txn` its locks whatever else is held: for recovery, before anybody else may ask.
    pub fn retake(&self, txn: TxnId, claims: Vec<Claim>) {
        let mut state = self.shared.lock();
        for claim in merged(claims) {
            state.table.retake(txn, Arc::new(claim.key), claim.mode);
        }
    }

    /// Lets go of everything that `txn` holds. A wait of its own that still stands is refused.
    pub fn release_all(&self, txn: TxnId) {
        let (mut granted, mut ended) = (Vec::new(), Vec::new());
        let mut state = self.shared.lock();
        state.table.release_all(txn, &mut granted, &mut ended);
        for number in ended {
            state.wakers.remove(&number);
        }
        state.wake(&granted);
    }

    /// How many (transaction, key) pairs are held: `locks_held`.
    #[must_use]
    pub fn held(&self) -> usize {
        self.shared.lock().table.held()
    }

    /// How many waits stand: `locks_waiting`.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.lock().table.waiting()
    }

    /// At most `limit` keys with their holders and waiters, contended ones first.
    #[must_use]
    pub fn snapshot(&self, limit: usize) -> Vec<LockView> {
        let parties = |list: Vec<(TxnId, Mode)>| -> Vec<LockParty> {
            list.into_iter().map(|(transaction, mode)| LockParty { transaction, mode }).collect()
        };
        let listed = self.shared.lock().table.list(limit);
        let views = listed.into_iter().filter_map(|row| {
            let mode = row.holders.iter().map(|(_, mode)| *mode).reduce(Mode::join)?;
            let (holders, waiters) = (parties(row.holders), parties(row.waiters));
            Some(LockView { key: row.key.to_string(), mode, holders, waiters })
        });
        views.collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The table is changed by code that does not panic half way; a poisoned mutex must not leave locks held for good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self, granted: &[u64]) {
        for number in granted {
            if let Some(waker) = self.wakers.remove(number) {
                // A receiver that is gone gave up after it was granted: its transaction holds the key and releases it.
                let _ = waker.send(());
            }
        }
    }
}

/// A wait that takes itself out of the queue when it is dropped.
struct Wait<'a> {
    shared: &'a Shared,
    ticket: Option<Ticket>,
}

impl Wait<'_> {
    /// Ends it. `Err` with the key unless it was granted.
    fn is_over(&mut self, granted: bool) -> Result<(), LockKey> {
        match self.ticket.take() {
            Some(ticket) if !granted => Err((*ticket.key).clone()),
            _ => Ok(()),
        }
    }

    fn leave(&self) {
        let Some(ticket) = &self.ticket else { return };
        let mut granted = Vec::new();
        let mut state = self.shared.lock();
        if state.table.cancel(ticket, &mut granted) {
            state.wakers.remove(&ticket.number);
            state.wake(&granted);
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Sorted by key, each key once.
fn merged(mut claims: Vec<Claim>) -> Vec<Claim> {
    claims.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    claims.dedup_by(|later, kept| {
        let same = later.key == kept.key;
        if same {
            kept.mode = kept.mode.join(later.mode);
        }
        same
    });
    claims
}
