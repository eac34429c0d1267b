//! The lock table: who holds, who waits, who is next. Pure: it never waits and knows no time.
//!
//! Each key has holders and two queues. A transaction that already holds the key and wants more of it (an *upgrade*)
//! goes in as soon as the *other* holders allow it, whoever else waits: made to stand behind another waiter it would
//! wait for somebody who waits for it. While an upgrade waits nobody new comes in. Everybody else is served first come
//! first served: a reader never overtakes a waiting writer, so nobody starves.

use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{LockKey, Mode};
use crate::model::ids::TxnId;

/// One wait. Never reused, so it is also the epoch of that wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// Unique in this table.
    pub number: u64,
    /// What is waited for.
    pub key: Arc<LockKey>,
}

/// The answer to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// It holds the key now (perhaps it did before).
    Granted,
    /// It stands in the queue.
    Waits(Ticket),
}

/// Who holds and who waits for one key, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The key.
    pub key: Arc<LockKey>,
    /// Its holders.
    pub holders: Vec<(TxnId, Mode)>,
    /// Its waiters, the next one first, with the mode they would come to hold.
    pub waiters: Vec<(TxnId, Mode)>,
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    keys: HashMap<Arc<LockKey>, Queue>,
    books: Books,
    next_ticket: u64,
}

#[derive(Debug, Default)]
struct Queue {
    holders: Vec<(TxnId, Mode)>,
    /// Waiters who hold the key already.
    upgrades: VecDeque<Waiter>,
    /// Waiters who do not.
    newcomers: VecDeque<Waiter>,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    number: u64,
    txn: TxnId,
    mode: Mode,
}

/// The same facts by transaction.
#[derive(Debug, Default)]
struct Books {
    txns: HashMap<TxnId, Owned>,
    held: usize,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Owned {
    holds: Vec<Arc<LockKey>>,
    waits: Vec<Ticket>,
}

impl Table {
    /// How many (transaction, key) pairs are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.books.held
    }

    /// How many waits stand.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.books.waiting
    }

    /// Grants the key, or queues.
    pub fn request(&mut self, txn: TxnId, key: Arc<LockKey>, mode: Mode) -> Asked {
        let queue = self.keys.entry(key.clone()).or_default();
        let place = queue.holders.iter().position(|(holder, _)| *holder == txn);
        let wanted = place.map_or(mode, |at| queue.holders[at].1.join(mode));
        let may = match place {
            Some(at) => queue.holders[at].1 == wanted || queue.allows(txn, wanted),
            None => queue.upgrades.is_empty() && queue.newcomers.is_empty() && queue.allows(txn, wanted),
        };
        if may {
            queue.hold(txn, wanted, &key, &mut self.books);
            return Asked::Granted;
        }
        self.next_ticket += 1;
        let waiter = Waiter { number: self.next_ticket, txn, mode };
        if place.is_some() { &mut queue.upgrades } else { &mut queue.newcomers }.push_back(waiter);
        let ticket = Ticket { number: waiter.number, key };
        self.books.waiting += 1;
        self.books.txns.entry(txn).or_default().waits.push(ticket.clone());
        Asked::Waits(ticket)
    }

    /// Grants whatever anybody else holds: recovery gives back what was held before the crash.
    pub fn retake(&mut self, txn: TxnId, key: Arc<LockKey>, mode: Mode) {
        let queue = self.keys.entry(key.clone()).or_default();
        let held = queue.holders.iter().find(|(holder, _)| *holder == txn);
        let wanted = held.map_or(mode, |(_, held)| held.join(mode));
        queue.hold(txn, wanted, &key, &mut self.books);
    }

    /// Takes a waiter out of the queue and pushes the numbers of those who can go in now. False: it does not wait (it
    /// was granted, or its transaction released everything).
    pub fn cancel(&mut self, ticket: &Ticket, granted: &mut Vec<u64>) -> bool {
        let Entry::Occupied(mut entry) = self.keys.entry(ticket.key.clone()) else { return false };
        let queue = entry.get_mut();
        let Some(waiter) = queue.remove(ticket.number) else { return false };
        self.books.waits_no_more(waiter);
        queue.admit(&ticket.key, &mut self.books, granted);
        if queue.is_idle() {
            entry.remove();
        }
        true
    }

    /// Lets go of everything of `txn`, its waits too, and pushes the numbers of those who can go in now, and the
    /// numbers of its own ended waits into `ended`.
    pub fn release_all(&mut self, txn: TxnId, granted: &mut Vec<u64>, ended: &mut Vec<u64>) {
        let Some(owned) = self.books.txns.remove(&txn) else { return };
        self.books.held -= owned.holds.len();
        self.books.waiting -= owned.waits.len();
        // All its waits go before anybody is admitted: else one of them could be.
        for ticket in &owned.waits {
            ended.push(ticket.number);
            if let Some(queue) = self.keys.get_mut(&ticket.key) {
                queue.remove(ticket.number);
            }
        }
        for key in owned.holds {
            self.leave(key, granted, |queue| queue.holders.retain(|(holder, _)| *holder != txn));
        }
        for ticket in owned.waits {
            self.leave(ticket.key, granted, |_| ());
        }
    }

    fn leave(&mut self, key: Arc<LockKey>, granted: &mut Vec<u64>, go: impl FnOnce(&mut Queue)) {
        let Entry::Occupied(mut entry) = self.keys.entry(key) else { return };
        go(entry.get_mut());
        if entry.get().has_waiters() {
            let key = entry.key().clone();
            entry.get_mut().admit(&key, &mut self.books, granted);
        }
        if entry.get().is_idle() {
            entry.remove();
        }
    }

    /// At most `limit` keys, contended ones first, then in the order of keys.
    #[must_use]
    pub fn list(&self, limit: usize) -> Vec<Listed> {
        let mut found = BTreeMap::new();
        let contended = self.keys.iter().filter(|(_, queue)| queue.has_waiters());
        let calm = self.keys.iter().filter(|(_, queue)| !queue.has_waiters());
        for (key, queue) in contended.chain(calm).take(limit) {
            found.insert((!queue.has_waiters(), key), queue);
        }
        found.into_iter().map(|((_, key), queue)| queue.listed(key)).collect()
    }
}

impl Queue {
    /// Whether every *other* holder bears `txn` holding `mode`.
    fn allows(&self, txn: TxnId, mode: Mode) -> bool {
        self.holders.iter().all(|(holder, held)| *holder == txn || held.is_compatible(mode))
    }

    fn holds(&self, txn: TxnId) -> Option<Mode> {
        self.holders.iter().find(|(holder, _)| *holder == txn).map(|(_, mode)| *mode)
    }

    fn has_waiters(&self) -> bool {
        !self.upgrades.is_empty() || !self.newcomers.is_empty()
    }

    fn is_idle(&self) -> bool {
        self.holders.is_empty() && !self.has_waiters()
    }

    fn hold(&mut self, txn: TxnId, mode: Mode, key: &Arc<LockKey>, books: &mut Books) {
        match self.holders.iter_mut().find(|(holder, _)| *holder == txn) {
            Some(place) => place.1 = mode,
            None => {
                self.holders.push((txn, mode));
                books.held += 1;
                books.txns.entry(txn).or_default().holds.push(key.clone());
            }
        }
    }

    fn remove(&mut self, number: u64) -> Option<Waiter> {
        [&mut self.upgrades, &mut self.newcomers].into_iter().find_map(|waiters| {
            let at = waiters.iter().position(|waiter| waiter.number == number)?;
            waiters.remove(at)
        })
    }

    /// Lets in everybody who can go in now.
    fn admit(&mut self, key: &Arc<LockKey>, books: &mut Books, granted: &mut Vec<u64>) {
        loop {
            let upgrade = self.upgrades.iter().position(|waiter| self.allows(waiter.txn, self.wanted(waiter)));
            let next = match upgrade {
                Some(at) => self.upgrades.remove(at),
                None if !self.upgrades.is_empty() => None,
                None => match self.newcomers.front() {
                    Some(first) if self.allows(first.txn, first.mode) => self.newcomers.pop_front(),
                    _ => None,
                },
            };
            let Some(waiter) = next else { return };
            let wanted = self.wanted(&waiter);
            self.hold(waiter.txn, wanted, key, books);
            granted.push(waiter.number);
            if books.waits_no_more(waiter) {
                self.promote(waiter.txn);
            }
        }
    }

    /// What a waiter would come to hold.
    fn wanted(&self, waiter: &Waiter) -> Mode {
        self.holds(waiter.txn).map_or(waiter.mode, |held| held.join(waiter.mode))
    }

    /// A transaction that waits more than once came to hold the key: its other waits are upgrades from now on.
    fn promote(&mut self, txn: TxnId) {
        let (mine, others) = self.newcomers.drain(..).partition(|waiter| waiter.txn == txn);
        self.newcomers = others;
        let mut mine: VecDeque<_> = mine;
        self.upgrades.append(&mut mine);
    }

    fn listed(&self, key: &Arc<LockKey>) -> Listed {
        let waiters = self.upgrades.iter().chain(&self.newcomers);
        Listed {
            key: key.clone(),
            holders: self.holders.clone(),
            waiters: waiters.map(|waiter| (waiter.txn, self.wanted(waiter))).collect(),
        }
    }
}

impl Books {
    /// Strikes one wait; true if its transaction waits elsewhere too.
    fn waits_no_more(&mut self, waiter: Waiter) -> bool {
        self.waiting -= 1;
        let Entry::Occupied(mut entry) = self.txns.entry(waiter.txn) else { return false };
        let owned = entry.get_mut();
        owned.waits.retain(|ticket| ticket.number != waiter.number);
        let waits = !owned.waits.is_empty();
        if !waits && owned.holds.is_empty() {
            entry.remove();
        }
        waits
    }
}
