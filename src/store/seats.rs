//! Which connection serves which run, right now: what turns a server's list of sessions into transactions of ours.
//!
//! A session takes a seat when it is opened and leaves it at its end; that costs no round trip. Who looks at the server
//! looks at the seats before and after: only a seat that was taken all the while names its run. And whoever interrupts
//! a run marks its seat first, so that a connection to which an interruption may still be on its way is not used again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::ids::{Attempt, Run, TxnId};
use crate::model::wait::Party;

/// The seats of one store. `K` is how the server knows a connection.
pub(super) struct Seats<K> {
    taken: Mutex<Taken<K>>,
}

struct Taken<K> {
    next: u64,
    places: BTreeMap<u64, Place<K>>,
}

struct Place<K> {
    run: Run,
    key: K,
    interrupted: bool,
}

/// A seat that is taken now.
#[derive(Clone, Debug)]
pub(super) struct Seated<K> {
    /// No two seats have the same, ever.
    pub(super) number: u64,
    pub(super) run: Run,
    pub(super) key: K,
}

impl<K: Clone> Seats<K> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { taken: Mutex::new(Taken { next: 0, places: BTreeMap::new() }) })
    }

    /// `run` is served by the connection `key` from now on, until the seat is left or dropped.
    pub(super) fn take(self: &Arc<Self>, run: Run, key: K) -> Seat<K> {
        let mut taken = self.taken();
        let number = taken.next;
        taken.next += 1;
        taken.places.insert(number, Place { run, key, interrupted: false });
        Seat { seats: self.clone(), number }
    }

    /// Every seat, those taken later behind.
    pub(super) fn all(&self) -> Vec<Seated<K>> {
        let seated =
            |(number, place): (&u64, &Place<K>)| Seated { number: *number, run: place.run, key: place.key.clone() };
        self.taken().places.iter().map(seated).collect()
    }

    /// Those of `before` that are still taken: who they say they are, they were all the while.
    pub(super) fn still(&self, mut before: Vec<Seated<K>>) -> Vec<Seated<K>> {
        let taken = self.taken();
        before.retain(|seated| taken.places.contains_key(&seated.number));
        before
    }

    /// The connections that serve `run`. They will not serve another.
    pub(super) fn interrupt(&self, run: Run) -> Vec<K> {
        let mut taken = self.taken();
        let of_run = taken.places.values_mut().filter(|place| place.run == run);
        let marked = of_run.map(|place| {
            place.interrupted = true;
            place.key.clone()
        });
        marked.collect()
    }
}

impl<K> Seats<K> {
    fn taken(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session's seat.
pub(super) struct Seat<K> {
    seats: Arc<Seats<K>>,
    number: u64,
}

impl<K> Seat<K> {
    /// Leaves it. True where an interruption may be on its way to the connection: it must be closed then.
    pub(super) fn leave(self) -> bool {
        // What follows is `drop`, which finds nothing more.
        self.seats.taken().places.remove(&self.number).is_some_and(|place| place.interrupted)
    }
}

impl<K> Drop for Seat<K> {
    fn drop(&mut self) {
        self.seats.taken().places.remove(&self.number);
    }
}

/// The runs that the detector asks about.
pub(super) struct Waiting {
    attempts: HashMap<TxnId, Attempt>,
}

impl Waiting {
    pub(super) fn new(waiting: &[Run]) -> Self {
        Self { attempts: waiting.iter().map(|run| (run.txn, run.attempt)).collect() }
    }

    /// Whether it is this run that waits.
    pub(super) fn has(&self, run: Run) -> bool {
        self.attempts.get(&run.txn) == Some(&run.attempt)
    }

    /// Who `run` is in the graph. `None` where another attempt of its transaction is the one that waits: then this is
    /// what is left of a run that has ended, about to be rolled back by somebody who waits for nothing.
    pub(super) fn party(&self, run: Run) -> Option<Party> {
        match self.attempts.get(&run.txn) {
            Some(attempt) if *attempt != run.attempt => None,
            _ => Some(Party::Ours(run.txn)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run { txn: TxnId::fresh(), attempt: Attempt::FIRST }
    }

    #[test]
    fn a_seat_names_its_run_while_it_is_taken() {
        let seats = Seats::new();
        let (a, b) = (run(), run());
        let first = seats.take(a, 7);
        let second = seats.take(b, 8);
        let before = seats.all();
        assert_eq!(before.iter().map(|seated| (seated.run, seated.key)).collect::<Vec<_>>(), [(a, 7), (b, 8)]);
        assert!(!first.leave(), "nobody interrupted it");
        // The same connection serves another run now: what was seen in between belongs to neither.
        let third = seats.take(run(), 7);
        assert_eq!(seats.still(before).iter().map(|seated| seated.key).collect::<Vec<_>>(), [8]);
        drop((second, third));
        assert!(seats.all().is_empty());
    }

    #[test]
    fn who_was_interrupted_is_told_so_at_the_end() {
        let seats = Seats::new();
        let (a, b) = (run(), run());
        let (first, second) = (seats.take(a, 1), seats.take(b, 2));
        let again = Run { attempt: a.attempt.next(), ..a };
        assert_eq!(seats.interrupt(again), Vec::<i32>::new(), "another attempt is another run");
        assert_eq!(seats.interrupt(a), [1]);
        assert!(first.leave());
        assert!(!second.leave());
        assert_eq!(seats.interrupt(a), Vec::<i32>::new(), "it has ended");
    }

    #[test]
    fn an_earlier_attempt_is_no_part_of_its_transaction() {
        let first = run();
        let second = Run { attempt: first.attempt.next(), ..first };
        let waiting = Waiting::new(&[second]);
        assert!(waiting.has(second) && !waiting.has(first));
        assert_eq!(waiting.party(second), Some(Party::Ours(first.txn)));
        assert_eq!(waiting.party(first), None);
        let other = run();
        assert_eq!(waiting.party(other), Some(Party::Ours(other.txn)), "it does not wait, as far as is known");
    }
}
