//! The async shell of the lock table.
//!
//! A wait is a one-shot channel; whoever lets go of a key sends to those whom the table admits, in the critical section
//! that the table is changed in: a wake-up cannot be lost. A dropped wait takes itself out of its queue.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::cycle::Deadlock;
use super::shards::{Pending, Shards, Verdict};
use super::table::Listed;
use super::victim::Standing;
use super::{Claim, LockKey, Mode};
use crate::metrics::Metrics;
use crate::model::ids::TxnId;
use crate::model::wait::WaitEdge;

/// The bounds of the table.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most holdings and waits together (`locks.max_keys`). Recovery may exceed it.
    pub max_keys: usize,
    /// Most of one transaction (`locks.max_keys_per_transaction`). Recovery may exceed it.
    pub max_keys_per_txn: usize,
}

/// A lock was not to be had. What was taken before stays held until [`LockManager::release_all`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{key}` was not to be had in {waited:?}: {why}")]
pub struct LockRefused {
    /// Which.
    pub key: LockKey,
    /// How long it was waited for.
    pub waited: Duration,
    /// Why not.
    pub why: WhyRefused,
}

/// Why a lock was not to be had.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WhyRefused {
    /// Time ran out.
    #[error("somebody else held it for too long")]
    Timeout,
    /// The table is full; nobody was waited for.
    #[error("the lock table is full")]
    TableFull,
    /// The transaction would hold more keys than one may; nobody was waited for.
    #[error("a transaction may hold {0} keys at most")]
    TooMany(usize),
    /// Its transaction released everything while it waited.
    #[error("its transaction let go of everything")]
    Released,
    /// It would have waited for ever, and its transaction gives way.
    #[error("its transaction gives way in a deadlock")]
    Deadlock(Arc<Deadlock>),
}

/// One line of `GET /v1/locks`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct LockView {
    /// The key as text.
    pub key: String,
    /// The strongest mode it is held in.
    #[schema(value_type = String)]
    pub mode: Mode,
    /// Who holds it.
    pub holders: Vec<LockParty>,
    /// Who waits, the next one first.
    pub waiters: Vec<LockParty>,
}

/// A transaction at a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct LockParty {
    /// Its id.
    #[schema(value_type = String)]
    pub transaction: TxnId,
    /// What it holds, or would hold.
    #[schema(value_type = String)]
    pub mode: Mode,
}

/// Takes and releases locks. Cheap to clone; all clones share one table.
#[derive(Clone)]
pub struct LockManager {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    shards: Shards,
}

impl LockManager {
    /// An empty table.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { shared: Arc::new(Shared { limits, shards: Shards::default() }) }
    }

    /// The same, which tells `metrics` how long its searches for deadlocks take.
    #[must_use]
    pub fn measured(limits: Limits, metrics: Metrics) -> Self {
        Self { shared: Arc::new(Shared { limits, shards: Shards::measured(metrics) }) }
    }

    /// Takes all of `claims` for `txn`, in the order of their keys, waiting for each at most to `until`. A key that is
    /// claimed twice, or held already, is held in the join of the modes. `standing` is what `txn` has to lose: should it
    /// close a circle of waits, somebody in the circle gives way at once, perhaps `txn` itself.
    ///
    /// Dropping the future gives up the wait; what was taken stays held until [`Self::release_all`], which must come
    /// after the last call for this transaction. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`LockRefused`], which says why.
    pub async fn acquire_all(
        &self,
        txn: TxnId,
        standing: Standing,
        claims: Vec<Claim>,
        until: Instant,
    ) -> Result<(), LockRefused> {
        let claims = merged(claims);
        let most = self.shared.limits.max_keys_per_txn;
        if self.shared.shards.owned_by(txn) + claims.len() > most {
            return Err(at_once(claims, WhyRefused::TooMany(most)));
        }
        let mut claims = claims.into_iter();
        while let Some(pending) = self.take_until_blocked(txn, standing, &mut claims)? {
            self.sweep_if_owed();
            let since = Instant::now();
            let mut wait = Wait { shared: &self.shared, pending, over: false };
            let verdict = wait.verdict(until).await;
            if let Some(why) = verdict {
                return Err(LockRefused { key: (*wait.pending.key).clone(), waited: since.elapsed(), why });
            }
        }
        Ok(())
    }

    /// Takes claims one by one; answers the first wait.
    fn take_until_blocked(
        &self,
        txn: TxnId,
        standing: Standing,
        claims: &mut impl Iterator<Item = Claim>,
    ) -> Result<Option<Pending>, LockRefused> {
        let shards = &self.shared.shards;
        for claim in claims {
            if shards.held() + shards.waiting() >= self.shared.limits.max_keys {
                return Err(LockRefused { key: claim.key, waited: Duration::ZERO, why: WhyRefused::TableFull });
            }
            if let Some(pending) = shards.ask(txn, standing, claim.key, claim.mode) {
                return Ok(Some(pending));
            }
        }
        Ok(None)
    }

    /// A search that ran out of its budget is made again without one, in nobody's way but the mutex's.
    fn sweep_if_owed(&self) {
        if self.shared.shards.take_owed_sweep() {
            let shared = self.shared.clone();
            tokio::spawn(async move { shared.shards.sweep() });
        }
    }

    /// Gives `txn` its locks whatever else is held: for recovery, before anybody else may ask.
    pub fn retake(&self, txn: TxnId, claims: Vec<Claim>) {
        for claim in merged(claims) {
            self.shared.shards.retake(txn, claim.key, claim.mode);
        }
    }

    /// Lets go of everything that `txn` holds. A wait of its own that still stands is refused.
    pub fn release_all(&self, txn: TxnId) {
        self.shared.shards.release_all(txn);
    }

    /// Refuses all waits of `victim`, if its wait with this epoch ([`WaitEdge::epoch`]) still stands: it gives way in a
    /// cycle that this table alone could not see. False: it does not wait there any more, and nothing was done.
    #[must_use]
    pub fn refuse(&self, victim: TxnId, epoch: u64, deadlock: &Arc<Deadlock>) -> bool {
        self.shared.shards.refuse(victim, epoch, deadlock)
    }

    /// Who waits for whom in this table now: to a conflicting holder or an earlier conflicting waiter. Behind a waiter
    /// who stands for others too, one edge says it.
    #[must_use]
    pub fn edges(&self) -> Vec<WaitEdge> {
        self.shared.shards.edges()
    }

    /// How many (transaction, key) pairs are held: `locks_held`.
    #[must_use]
    pub fn held(&self) -> usize {
        self.shared.shards.held()
    }

    /// How many waits stand: `locks_waiting`.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.shards.waiting()
    }

    /// At most `limit` keys with their holders and waiters, contended ones first, then in the order of keys.
    #[must_use]
    pub fn snapshot(&self, limit: usize) -> Vec<LockView> {
        let mut listed: Vec<(bool, Listed)> = Vec::new();
        for contended in [true, false] {
            self.shared.shards.for_each_shard(|shard| {
                let room = limit - listed.len();
                listed.extend(shard.list(contended).take(room).map(|row| (!contended, row)));
            });
        }
        listed.sort_unstable_by(|(a, one), (b, other)| (a, &one.key).cmp(&(b, &other.key)));
        listed.into_iter().filter_map(|(_, row)| view(row)).collect()
    }
}

fn view(row: Listed) -> Option<LockView> {
    let parties = |list: Vec<(TxnId, Mode)>| -> Vec<LockParty> {
        list.into_iter().map(|(transaction, mode)| LockParty { transaction, mode }).collect()
    };
    let mode = row.holders.iter().map(|(_, mode)| *mode).reduce(Mode::join)?;
    Some(LockView { key: row.key.to_string(), mode, holders: parties(row.holders), waiters: parties(row.waiters) })
}

fn at_once(claims: Vec<Claim>, why: WhyRefused) -> LockRefused {
    let key = claims.into_iter().next().map_or_else(|| LockKey::Free(String::new()), |claim| claim.key);
    LockRefused { key, waited: Duration::ZERO, why }
}

/// A wait that takes itself out of the queue when it is dropped.
struct Wait<'a> {
    shared: &'a Shared,
    pending: Pending,
    over: bool,
}

impl Wait<'_> {
    /// `None`: granted.
    async fn verdict(&mut self, until: Instant) -> Option<WhyRefused> {
        let heard = match timeout_at(until, &mut self.pending.verdict).await {
            Ok(heard) => heard.ok(),
            Err(_) => {
                // Out of the queue first: a verdict that came before that counts.
                if self.shared.shards.give_up(self.pending.number) {
                    self.over = true;
                    return Some(WhyRefused::Timeout);
                }
                self.pending.verdict.try_recv().ok()
            }
        };
        self.over = true;
        match heard {
            Some(Verdict::Granted) => None,
            Some(Verdict::Refused(deadlock)) => Some(WhyRefused::Deadlock(deadlock)),
            None => Some(WhyRefused::Released),
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.shared.shards.give_up(self.pending.number);
        }
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
