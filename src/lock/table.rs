//! The lock table: every key's queue. Pure: it never waits, knows no time and nobody's books.
//!
//! The manager keeps several of these, each with its share of the keys.

use std::collections::hash_map::{Entry, HashMap};
use std::sync::Arc;

use super::queue::{Admitted, Place, Queue};
use super::{LockKey, Mode};
use crate::model::ids::TxnId;

/// The answer to the quick way in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// It holds the key now, and did not before.
    New,
    /// It held the key before, and holds it in the join of the modes now.
    Again,
    /// Somebody holds it, or waits for it: ask in full.
    Contended,
}

/// The answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    /// It holds the key now.
    Granted {
        /// And did not before.
        new: bool,
        /// Other waits of the same transaction became upgrades by that: [`Table::admit`] is owed.
        promoted: bool,
    },
    /// It stands in the queue.
    Waits(Place),
}

/// Who holds and who waits for one key, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Listed {
    /// The key.
    pub(super) key: Arc<LockKey>,
    /// Its holders.
    pub(super) holders: Vec<(TxnId, Mode)>,
    /// Its waiters, the next one first, with the mode they would come to hold.
    pub(super) waiters: Vec<(TxnId, Mode)>,
}

/// Keys with their queues. A key that nobody holds or waits for is not in it.
#[derive(Debug, Default)]
pub(super) struct Table {
    keys: HashMap<Arc<LockKey>, Queue>,
}

impl Table {
    /// Takes the key if nobody waits for it and all who hold it allow it; else changes nothing.
    pub(super) fn take(&mut self, txn: TxnId, key: &Arc<LockKey>, mode: Mode) -> Taken {
        let queue = match self.keys.entry(key.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(Queue::default()).hold(txn, mode);
                return Taken::New;
            }
            Entry::Occupied(queue) => queue.into_mut(),
        };
        let held = queue.holds(txn);
        let wanted = held.map_or(mode, |held| held.join(mode));
        if held == Some(wanted) {
            return Taken::Again;
        }
        if queue.has_waiters() || !queue.allows(txn, wanted) {
            return Taken::Contended;
        }
        if queue.hold(txn, wanted) { Taken::New } else { Taken::Again }
    }

    /// Grants the key, or queues under `number`.
    pub(super) fn request(&mut self, txn: TxnId, key: &Arc<LockKey>, mode: Mode, number: u64) -> Asked {
        let queue = self.keys.entry(key.clone()).or_default();
        let may = match queue.holds(txn) {
            Some(held) => held == held.join(mode) || queue.allows(txn, held.join(mode)),
            None => queue.lets_in(txn, mode),
        };
        if !may {
            return Asked::Waits(queue.wait(number, txn, mode));
        }
        let new = queue.hold(txn, mode);
        Asked::Granted { new, promoted: new && queue.promote(txn) }
    }

    /// Grants whatever anybody else holds: recovery gives back what was held before the crash. True: it is new.
    pub(super) fn retake(&mut self, txn: TxnId, key: &Arc<LockKey>, mode: Mode) -> bool {
        self.keys.entry(key.clone()).or_default().hold(txn, mode)
    }

    /// Lets go of a key that nobody waits for. False: somebody does, and nothing was changed.
    pub(super) fn give_back(&mut self, txn: TxnId, key: &LockKey) -> bool {
        let Some(queue) = self.keys.get_mut(key) else { return true };
        if queue.has_waiters() {
            return false;
        }
        queue.let_go(txn);
        if queue.is_idle() {
            self.keys.remove(key);
        }
        true
    }

    /// Lets go of a key and lets in who can go in now, as [`Self::admit`] does. A wait of `txn` for the same key must be
    /// gone before.
    pub(super) fn release(&mut self, txn: TxnId, key: &LockKey, admitted: &mut Vec<Admitted>) -> bool {
        if let Some(queue) = self.keys.get_mut(key) {
            queue.let_go(txn);
        }
        self.admit(key, admitted)
    }

    /// Takes a waiter out of the queue; nobody is let in before [`Self::admit`]. `None`: it does not wait.
    pub(super) fn withdraw(&mut self, key: &LockKey, number: u64) -> Option<Place> {
        self.keys.get_mut(key)?.withdraw(number)
    }

    /// Lets in everybody who can go in now, and forgets the key when it is idle. True: some newcomers became upgrades.
    pub(super) fn admit(&mut self, key: &LockKey, admitted: &mut Vec<Admitted>) -> bool {
        let Some(queue) = self.keys.get_mut(key) else { return false };
        let promoted = queue.has_waiters() && queue.admit(admitted);
        if queue.is_idle() {
            self.keys.remove(key);
        }
        promoted
    }

    pub(super) fn queue(&self, key: &LockKey) -> Option<&Queue> {
        self.keys.get(key)
    }

    pub(super) fn queue_mut(&mut self, key: &LockKey) -> Option<&mut Queue> {
        self.keys.get_mut(key)
    }

    /// The keys that somebody waits for, or those that nobody waits for, in no order.
    pub(super) fn list(&self, contended: bool) -> impl Iterator<Item = Listed> {
        let fitting = self.keys.iter().filter(move |(_, queue)| queue.has_waiters() == contended);
        fitting.map(|(key, queue)| Listed {
            key: key.clone(),
            holders: queue.holders().to_vec(),
            waiters: queue.waiters().map(|(waiter, wanted)| (waiter.txn, wanted)).collect(),
        })
    }
}
