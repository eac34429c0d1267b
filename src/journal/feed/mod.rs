//! The feed: every step of every transaction, one after the other, for whoever wants to follow.
//!
//! The danger, as a story: a program follows what becomes of its transactions, the sidecar is killed, and the program
//! asks the next one to go on from the last event that it has heard. If ids were only counted, the new process could not
//! know what the old one had said. So an event's id is a place in the log: every event that a record says has that
//! record's Lsn, steps that no record says are counted from the last record that was told, and records are told in the
//! order of the log. Whoever has heard an id has heard exactly the records up to its Lsn, and the rest can be read back.
//!
//! ```text
//!   Entry::step ──────────────────────► ring (the last 4,096) ──► Follower: live
//!   Journal: append, then the event ──►  │
//!                    └──► log ───────────┴─ what the ring has let go: Intent, Decision, Learnt, Done ──► Follower
//! ```
//!
//! Telling costs a mutex and a slot of the ring, whether anybody follows or not; text is made by who reads. Followers
//! pull at their own pace, so a slow one holds up nobody: it falls out of the ring, is told so, and goes on from the log.

mod event;
mod follow;
mod past;
mod ring;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};

pub use self::event::{About, EventId, Happening, NoEventId, Place, Told};
pub use self::follow::{Batch, Follower, Gap, Item, Lost, Only, Who};
pub use self::past::{Past, Records};
pub use self::ring::Bounds;

use self::ring::{Look, Ring, Ticket};
use crate::model::ids::{Incarnation, Lsn, TxnId};

/// Followers that read the log at the same time: the disk is there for the transactions first.
const READERS: usize = 2;

/// The feed of one open log. Cheap to clone.
#[derive(Clone)]
pub struct Feed(Arc<Inner>);

struct Inner {
    incarnation: Incarnation,
    /// Where each opening of the log stands, this one included, as far as the log reaches back.
    openings: BTreeMap<Incarnation, Lsn>,
    ring: Mutex<Ring>,
    heard: watch::Sender<()>,
    readers: Arc<Semaphore>,
}

impl Feed {
    /// The feed of the opening whose record is the last of `openings`, made at `at_us`.
    ///
    /// # Panics
    /// Where there is no opening.
    #[must_use]
    pub fn new(openings: BTreeMap<Incarnation, Lsn>, at_us: i64, bounds: Bounds) -> Self {
        let (incarnation, first) = openings.last_key_value().map(|(i, lsn)| (*i, *lsn)).expect("this opening is one");
        let ring = Mutex::new(Ring::new(bounds, first, Happening::opened(at_us, incarnation)));
        let (heard, _) = watch::channel(());
        Self(Arc::new(Inner { incarnation, openings, ring, heard, readers: Arc::new(Semaphore::new(READERS)) }))
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing is awaited or allocated by size under this lock but the slot itself.
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Whoever subscribes after this look reads the ring after it, too, and finds what was just told.
        if self.0.heard.receiver_count() > 0 {
            self.0.heard.send_replace(());
        }
    }

    /// A transaction is there: its records' events will carry its name and trace.
    pub fn introduce(&self, about: &Arc<About>) {
        self.ring().introduce(about);
    }

    /// No record of it will follow.
    pub fn dismiss(&self, id: TxnId) {
        self.ring().dismiss(id);
    }

    /// Tells a step that no record says. Never waits for a follower.
    pub fn step(&self, what: Happening) {
        self.ring().step(what);
        self.wake();
    }

    /// Events told since the opening.
    #[must_use]
    pub fn told(&self) -> u64 {
        self.ring().told()
    }

    pub(super) fn about(&self, id: TxnId) -> Option<Arc<About>> {
        self.ring().about(id)
    }

    /// A record is about to be appended, at `next` or behind it. Whoever never says what became of it (its force failed,
    /// so nobody knows) holds up all records behind it, which is right: a log whose force failed takes no more.
    pub(super) fn expect(&self, next: Lsn) -> Telling<'_> {
        Telling { feed: self, ticket: self.ring().expect(next) }
    }

    fn look(&self, place: Place, limit: usize) -> Look {
        self.ring().look(place, limit)
    }
}

/// A record on its way into the log and the feed.
pub(super) struct Telling<'a> {
    feed: &'a Feed,
    ticket: Ticket,
}

impl Telling<'_> {
    /// It stands at `lsn` and is told once [`Telling::tell`] says so.
    pub(super) fn written(self, lsn: Lsn) -> Self {
        let ticket = self.feed.ring().written(self.ticket, lsn);
        Self { ticket, ..self }
    }

    /// What it says may be told.
    pub(super) fn tell(self, what: Happening) {
        self.feed.ring().ready(self.ticket, what);
        self.feed.wake();
    }

    /// It was not appended.
    pub(super) fn withdraw(self) {
        self.feed.ring().withdraw(self.ticket);
        self.feed.wake();
    }
}
