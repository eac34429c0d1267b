//! The calls that are on their way to stores and may wait there.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::ids::{Run, StoreName};

/// All of them, in the order in which they began.
#[derive(Default)]
pub(super) struct Flights {
    list: Mutex<List>,
    begun: Notify,
}

#[derive(Default)]
struct List {
    live: BTreeMap<u64, Flight>,
    last: u64,
    /// The detector waits for the first one.
    asleep: bool,
}

struct Flight {
    store: StoreName,
    run: Run,
    since: Instant,
}

/// One call; it is over when this is dropped.
pub(in crate::txn) struct InFlight<'a> {
    flights: &'a Flights,
    number: u64,
}

/// When to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// Not before something has begun.
    Never,
    /// Then, if what makes it due is still on its way.
    At(Instant),
}

impl Flights {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, store: &StoreName, run: Run) -> InFlight<'_> {
        let flight = Flight { store: store.clone(), run, since: Instant::now() };
        let mut list = self.list();
        list.last += 1;
        let number = list.last;
        list.live.insert(number, flight);
        if std::mem::take(&mut list.asleep) {
            self.begun.notify_one();
        }
        InFlight { flights: self, number }
    }

    /// Ends when something has begun since [`Self::due`] said `Never`.
    pub(super) async fn begun(&self) {
        self.begun.notified().await;
    }

    /// When the next look is due: when the first call that no look has met grows old, and as long as an old one is on its
    /// way (what it waits for may change) every `timeout`. `last`: when the last look ended, and the latest call that it
    /// met.
    pub(super) fn due(&self, timeout: Duration, last: Option<(Instant, u64)>) -> Due {
        let mut list = self.list();
        let Some((first, oldest)) = list.live.first_key_value() else {
            list.asleep = true;
            return Due::Never;
        };
        let Some((looked, met)) = last.filter(|(_, met)| first <= met) else {
            return Due::At(oldest.since + timeout);
        };
        let unmet = list.live.range(met + 1..).next().map(|(_, flight)| flight.since + timeout);
        let again = looked + timeout;
        Due::At(unmet.map_or(again, |unmet| unmet.min(again)))
    }

    /// The calls that have been on their way for `timeout`, by store, and the number of the latest of them.
    pub(super) fn old(&self, timeout: Duration) -> (BTreeMap<StoreName, Vec<Run>>, Option<u64>) {
        let list = self.list();
        let mut old: BTreeMap<StoreName, Vec<Run>> = BTreeMap::new();
        let mut latest = None;
        for (number, flight) in list.live.iter().take_while(|(_, flight)| flight.since.elapsed() >= timeout) {
            let runs = old.entry(flight.store.clone()).or_default();
            if !runs.contains(&flight.run) {
                runs.push(flight.run);
            }
            latest = Some(*number);
        }
        (old, latest)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.flights.list().live.remove(&self.number);
    }
}
