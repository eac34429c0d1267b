//! The whole table in step with itself: keys in shards, the books by transaction, and the wait-for graph.
//!
//! ```text
//!   contended   one mutex: graph, waits, wakers        taken only where somebody waits, and first
//!     └─ shard  one mutex each: a share of the keys
//!          └─ home   one mutex each: what a share of the transactions holds and waits for
//! ```
//!
//! *A key that somebody waits for is changed only under `contended`.* So all queues and the graph change in one critical
//! section: no edge is ever out of date, no wake-up is lost, and a cycle is found the moment that it closes. A key that
//! nobody waits for needs its shard alone, and nobody pays for the graph. Nothing here waits for anything but a mutex.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::cycle::Deadlock;
use super::queue::{Admitted, Changed, Place};
use super::table::{Asked, Table, Taken};
use super::victim::Standing;
use super::wait_for::WaitFor;
use super::{LockKey, Mode};
use crate::clock;
use crate::metrics::Metrics;
use crate::model::ids::TxnId;
use crate::model::wait::{Party, Source, WaitEdge};

/// A power of two: a key's shard is some bits of its hash.
const SHARDS: usize = 16;

/// How a wait ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The key is held now.
    Granted,
    /// It would never have been: its transaction is the victim.
    Refused(Arc<Deadlock>),
}

/// A wait that stands. Its number is never reused, so it is also the epoch of that wait.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) number: u64,
    pub(super) key: Arc<LockKey>,
    /// Dropped without a word: its transaction released everything.
    pub(super) verdict: oneshot::Receiver<Verdict>,
}

/// See the module.
pub(super) struct Shards {
    shards: [Mutex<Table>; SHARDS],
    homes: [Mutex<HashMap<TxnId, Owned>>; SHARDS],
    contended: Mutex<Contended>,
    hasher: RandomState,
    held: AtomicUsize,
    waiting: AtomicUsize,
    /// Some search ran out of its budget, and nobody has swept since.
    owes_sweep: AtomicBool,
    /// Where to tell how long searches take.
    pub(super) metrics: Option<Metrics>,
}

/// One transaction's side of the table.
#[derive(Debug, Default)]
struct Owned {
    holds: Vec<Arc<LockKey>>,
    waits: Vec<u64>,
}

/// Everything about those who wait.
#[derive(Debug, Default)]
pub(super) struct Contended {
    pub(super) graph: WaitFor,
    pub(super) waits: HashMap<u64, Waiting>,
    /// Waiters whom somebody new stands in the way of, not looked at yet.
    pub(super) gained: Vec<TxnId>,
    /// Waiters whose search ran out of its budget.
    pub(super) owed: Vec<TxnId>,
    last: u64,
}

/// One wait.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) txn: TxnId,
    pub(super) key: Arc<LockKey>,
    pub(super) standing: Standing,
    pub(super) since_us: i64,
    waker: oneshot::Sender<Verdict>,
}

impl Default for Shards {
    fn default() -> Self {
        Self {
            shards: Default::default(),
            homes: Default::default(),
            contended: Mutex::default(),
            hasher: RandomState::new(),
            held: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            owes_sweep: AtomicBool::new(false),
            metrics: None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in there is changed by code that does not panic half way; a poisoned mutex must not leave locks held for good.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shards {
    pub(super) fn measured(metrics: Metrics) -> Self {
        Self { metrics: Some(metrics), ..Self::default() }
    }

    pub(super) fn shard(&self, key: &LockKey) -> MutexGuard<'_, Table> {
        let hash = usize::try_from(self.hasher.hash_one(key) >> 32).unwrap_or(0);
        lock(&self.shards[hash % SHARDS])
    }

    fn home(&self, txn: TxnId) -> MutexGuard<'_, HashMap<TxnId, Owned>> {
        // The last bytes of a UUIDv7 are random.
        lock(&self.homes[usize::from(txn.0.as_bytes()[15]) % SHARDS])
    }

    pub(super) fn contended(&self) -> MutexGuard<'_, Contended> {
        lock(&self.contended)
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many keys `txn` holds or waits for.
    pub(super) fn owned_by(&self, txn: TxnId) -> usize {
        self.home(txn).get(&txn).map_or(0, |owned| owned.holds.len() + owned.waits.len())
    }

    /// Holds the key now, or waits.
    pub(super) fn ask(&self, txn: TxnId, standing: Standing, key: LockKey, mode: Mode) -> Option<Pending> {
        let key = Arc::new(key);
        let taken = self.shard(&key).take(txn, &key, mode);
        match taken {
            Taken::New => {
                self.note_hold(txn, key);
                None
            }
            Taken::Again => None,
            Taken::Contended => self.ask_in_full(txn, standing, key, mode),
        }
    }

    fn ask_in_full(&self, txn: TxnId, standing: Standing, key: Arc<LockKey>, mode: Mode) -> Option<Pending> {
        let mut contended = self.contended();
        contended.last += 1;
        let number = contended.last;
        let mut shard = self.shard(&key);
        match shard.request(txn, &key, mode, number) {
            Asked::Granted { new, promoted } => {
                contended.point(&shard, &key, if promoted { Changed::ALL } else { Changed::HOLDERS });
                drop(shard);
                if new {
                    self.note_hold(txn, key.clone());
                }
                if promoted {
                    self.admit(&mut contended, &key, Place::Upgrade);
                }
                self.settle(&mut contended);
                None
            }
            Asked::Waits(place) => {
                let (waker, verdict) = oneshot::channel();
                let wait = Waiting { txn, key: key.clone(), standing, since_us: clock::now_us(), waker };
                contended.waits.insert(number, wait);
                contended.point(&shard, &key, Changed::at(place));
                drop(shard);
                self.home(txn).entry(txn).or_default().waits.push(number);
                self.waiting.fetch_add(1, Ordering::Relaxed);
                self.settle(&mut contended);
                Some(Pending { number, key, verdict })
            }
        }
    }

    fn note_hold(&self, txn: TxnId, key: Arc<LockKey>) {
        self.home(txn).entry(txn).or_default().holds.push(key);
        self.held.fetch_add(1, Ordering::Relaxed);
    }

    /// Holds the key whoever else does.
    pub(super) fn retake(&self, txn: TxnId, key: LockKey, mode: Mode) {
        let key = Arc::new(key);
        let mut contended = self.contended();
        let mut shard = self.shard(&key);
        let new = shard.retake(txn, &key, mode);
        contended.point(&shard, &key, Changed::HOLDERS);
        drop(shard);
        if new {
            self.note_hold(txn, key);
        }
        self.settle(&mut contended);
    }

    /// Gives up a wait. False: it does not stand any more.
    pub(super) fn give_up(&self, number: u64) -> bool {
        let mut contended = self.contended();
        let stood = self.end_wait(&mut contended, number, None);
        self.settle(&mut contended);
        stood
    }

    /// Ends a wait that stands, and lets in whoever stood behind it.
    pub(super) fn end_wait(&self, contended: &mut Contended, number: u64, refusal: Option<&Arc<Deadlock>>) -> bool {
        let Some((key, place)) = self.withdraw(contended, number, refusal) else { return false };
        self.admit(contended, &key, place);
        true
    }

    /// Strikes a wait everywhere. Nobody is let in by that alone.
    fn withdraw(
        &self,
        contended: &mut Contended,
        number: u64,
        refusal: Option<&Arc<Deadlock>>,
    ) -> Option<(Arc<LockKey>, Place)> {
        let wait = contended.waits.remove(&number)?;
        let place = self.shard(&wait.key).withdraw(&wait.key, number).unwrap_or(Place::Upgrade);
        contended.graph.forget(number);
        self.waits_no_more(wait.txn, number, None);
        if let Some(deadlock) = refusal {
            // A receiver that is gone gave up by itself.
            let _ = wait.waker.send(Verdict::Refused(deadlock.clone()));
        }
        Some((wait.key, place))
    }

    /// Lets in who can go in now that somebody has left `place`, and points the others anew.
    fn admit(&self, contended: &mut Contended, key: &LockKey, place: Place) {
        let mut admitted = Vec::new();
        let mut shard = self.shard(key);
        let changed = match shard.admit(key, &mut admitted) {
            true => Changed::ALL,
            false if admitted.is_empty() => Changed::at(place),
            false => Changed::at(place).and_holders(),
        };
        contended.point(&shard, key, changed);
        drop(shard);
        self.tell(contended, &admitted);
    }

    /// Those who were let in hold the key from now on, and hear of it.
    pub(super) fn tell(&self, contended: &mut Contended, admitted: &[Admitted]) {
        // The latest first: petgraph finds the youngest edge of a node at once, and a holder may have had thousands.
        for Admitted { waiter, .. } in admitted.iter().rev() {
            contended.graph.forget(waiter.number);
        }
        for Admitted { waiter, new } in admitted {
            let Some(wait) = contended.waits.remove(&waiter.number) else { continue };
            self.waits_no_more(waiter.txn, waiter.number, new.then(|| wait.key.clone()));
            // A receiver that is gone gave up after it was granted: its transaction holds the key and releases it.
            let _ = wait.waker.send(Verdict::Granted);
        }
    }

    /// Strikes a wait from its transaction's books, and writes down what it brought.
    fn waits_no_more(&self, txn: TxnId, number: u64, brought: Option<Arc<LockKey>>) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut home = self.home(txn);
        let owned = home.entry(txn).or_default();
        owned.waits.retain(|wait| *wait != number);
        if let Some(key) = brought {
            owned.holds.push(key);
            self.held.fetch_add(1, Ordering::Relaxed);
        }
        if owned.waits.is_empty() && owned.holds.is_empty() {
            home.remove(&txn);
        }
    }

    /// Lets go of everything of `txn`, its waits too.
    pub(super) fn release_all(&self, txn: TxnId) {
        let calm = {
            let mut home = self.home(txn);
            match home.get(&txn) {
                None => return,
                Some(owned) if owned.waits.is_empty() => home.remove(&txn),
                Some(_) => None,
            }
        };
        let Some(owned) = calm else { return self.release_waiter(txn) };
        self.held.fetch_sub(owned.holds.len(), Ordering::Relaxed);
        let waited_for: Vec<_> = owned.holds.into_iter().filter(|key| !self.shard(key).give_back(txn, key)).collect();
        if !waited_for.is_empty() {
            let mut contended = self.contended();
            self.release_keys(&mut contended, txn, &waited_for);
            self.settle(&mut contended);
        }
    }

    /// The same for one who waits. All its waits go before anybody is let in: else one of them could be.
    fn release_waiter(&self, txn: TxnId) {
        let mut contended = self.contended();
        let waits = self.home(txn).get(&txn).map(|owned| owned.waits.clone()).unwrap_or_default();
        let left: Vec<_> = waits.into_iter().filter_map(|number| self.withdraw(&mut contended, number, None)).collect();
        let holds = self.home(txn).remove(&txn).map(|owned| owned.holds).unwrap_or_default();
        self.held.fetch_sub(holds.len(), Ordering::Relaxed);
        self.release_keys(&mut contended, txn, &holds);
        for (key, place) in left {
            self.admit(&mut contended, &key, place);
        }
        self.settle(&mut contended);
    }

    fn release_keys(&self, contended: &mut Contended, txn: TxnId, keys: &[Arc<LockKey>]) {
        for key in keys {
            let mut admitted = Vec::new();
            let mut shard = self.shard(key);
            let promoted = shard.release(txn, key, &mut admitted);
            contended.point(&shard, key, if promoted { Changed::ALL } else { Changed::HOLDERS });
            drop(shard);
            self.tell(contended, &admitted);
        }
    }

    /// Whether a sweep is owed; from then on it is the caller's to make.
    pub(super) fn take_owed_sweep(&self) -> bool {
        self.owes_sweep.swap(false, Ordering::Relaxed)
    }

    pub(super) fn owe_sweep(&self) {
        self.owes_sweep.store(true, Ordering::Relaxed);
    }

    /// Every edge of the graph, for people and for the detector that looks across stores.
    pub(super) fn edges(&self) -> Vec<WaitEdge> {
        let contended = self.contended();
        contended.graph.edges().filter_map(|hop| contended.edge(&hop)).collect()
    }

    /// Calls `each` with every shard in turn, for people.
    pub(super) fn for_each_shard(&self, mut each: impl FnMut(&Table)) {
        self.shards.iter().for_each(|shard| each(&lock(shard)));
    }
}

impl Contended {
    /// Points the waiters of a key at those who are in their way now.
    pub(super) fn point(&mut self, table: &Table, key: &LockKey, changed: Changed) {
        let Self { graph, gained, .. } = self;
        let Some(queue) = table.queue(key) else { return };
        queue.tell_blockers(&changed, |waiter, blockers| {
            if graph.point(waiter.number, waiter.txn, blockers) {
                gained.push(waiter.txn);
            }
        });
    }

    /// A hop as everybody else reads it.
    pub(super) fn edge(&self, hop: &super::wait_for::Hop) -> Option<WaitEdge> {
        let wait = self.waits.get(&hop.wait)?;
        Some(WaitEdge {
            waiter: Party::Ours(hop.waiter),
            holder: Party::Ours(hop.holder),
            source: Source::Locks,
            resource: wait.key.to_string(),
            epoch: hop.wait,
            since_us: wait.since_us,
        })
    }
}
