//! The last events in memory, in the order in which they are told. Pure: nothing here waits.
//!
//! Records are told in the order in which they stand in the log, or an id could not say which of them were told. A
//! record that is still being forced therefore holds up the ones behind it; steps without a record overtake it freely,
//! since their ids name the last record that *was* told.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::event::{About, Happening, Place, Told};
use crate::model::ids::{Lsn, TxnId};

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Events.
    pub events: usize,
    /// Their bytes, roughly.
    pub bytes: usize,
}

impl Default for Bounds {
    /// A few seconds of full load, or the whole of a quiet day.
    fn default() -> Self {
        Self { events: 4096, bytes: 2 << 20 }
    }
}

/// A record that is being written and told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    key: (Lsn, u64),
}

enum Due {
    /// It stands at the key's Lsn or behind it.
    Expected,
    /// It stands at the key's Lsn and may not be told yet.
    Written,
    /// It may be told once everything before it was.
    Ready(Happening),
}

/// What a follower at some place is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// These come next; none: wait.
    Next(Vec<Told>),
    /// What comes next is here no more, up to and including this place.
    Behind(Place),
}

pub(super) struct Ring {
    bounds: Bounds,
    kept: VecDeque<Told>,
    bytes: usize,
    /// The last that was told.
    last: Place,
    /// Whatever was told up to here is not kept any more.
    lost: Place,
    due: BTreeMap<(Lsn, u64), Due>,
    tickets: u64,
    /// Who the open transactions are: a verdict's record only has the id.
    open: HashMap<TxnId, Arc<About>>,
    told: u64,
}

impl Ring {
    /// A ring that begins with the record at `first`.
    pub(super) fn new(bounds: Bounds, first: Lsn, opened: Happening) -> Self {
        let before = Place { lsn: Lsn::from_u64(first.as_u64().saturating_sub(1)), step: u64::MAX };
        let mut ring = Self {
            bounds,
            kept: VecDeque::new(),
            bytes: 0,
            last: before,
            lost: before,
            due: BTreeMap::new(),
            tickets: 0,
            open: HashMap::new(),
            told: 0,
        };
        ring.push(Place { lsn: first, step: 0 }, opened);
        ring
    }

    /// The last place that was told.
    pub(super) fn last(&self) -> Place {
        self.last
    }

    /// Events told so far.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    pub(super) fn introduce(&mut self, about: &Arc<About>) {
        self.open.entry(about.transaction).or_insert_with(|| about.clone());
    }

    pub(super) fn dismiss(&mut self, id: TxnId) {
        self.open.remove(&id);
    }

    pub(super) fn about(&self, id: TxnId) -> Option<Arc<About>> {
        self.open.get(&id).cloned()
    }

    /// Tells a step that no record says.
    pub(super) fn step(&mut self, what: Happening) {
        self.push(Place { step: self.last.step + 1, ..self.last }, what);
    }

    /// A record is about to be appended; it will stand at `next` or behind it.
    pub(super) fn expect(&mut self, next: Lsn) -> Ticket {
        self.tickets += 1;
        let key = (next, self.tickets);
        self.due.insert(key, Due::Expected);
        Ticket { key }
    }

    /// It was appended, and stands at `lsn`.
    pub(super) fn written(&mut self, ticket: Ticket, lsn: Lsn) -> Ticket {
        self.due.remove(&ticket.key);
        let key = (lsn, ticket.key.1);
        self.due.insert(key, Due::Written);
        Ticket { key }
    }

    /// It may be told.
    pub(super) fn ready(&mut self, ticket: Ticket, what: Happening) {
        self.due.insert(ticket.key, Due::Ready(what));
        self.drain();
    }

    /// It was not appended after all.
    pub(super) fn withdraw(&mut self, ticket: Ticket) {
        self.due.remove(&ticket.key);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(first) = self.due.first_entry() {
            let (lsn, _) = *first.key();
            if !matches!(first.get(), Due::Ready(_)) {
                return;
            }
            if let Due::Ready(what) = first.remove() {
                debug_assert!(lsn > self.last.lsn, "{lsn} is told after {:?}", self.last);
                self.push(Place { lsn, step: 0 }, what);
            }
        }
    }

    fn push(&mut self, place: Place, what: Happening) {
        self.bytes += what.weight();
        self.kept.push_back(Told { place, what });
        (self.last, self.told) = (place, self.told + 1);
        while self.kept.len() > self.bounds.events || (self.bytes > self.bounds.bytes && self.kept.len() > 1) {
            let Some(oldest) = self.kept.pop_front() else { return };
            self.bytes -= oldest.what.weight();
            self.lost = oldest.place;
        }
    }

    /// What comes behind `place`, at most `limit` events of it.
    pub(super) fn look(&self, place: Place, limit: usize) -> Look {
        if place < self.lost {
            return Look::Behind(self.lost);
        }
        let from = self.kept.partition_point(|told| told.place <= place);
        Look::Next(self.kept.range(from..).take(limit).cloned().collect())
    }
}
