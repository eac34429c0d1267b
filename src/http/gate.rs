//! How many may be at work at once. Beyond that a few wait a moment; the rest is told to come back, at once and
//! cheaply, because a queue that grows only turns an overload into timeouts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::problem::{Code, Problem};

/// At most so many wait: enough for a burst, short enough to be served within [`LONGEST_WAIT`].
const QUEUE: usize = 64;
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Admits requests.
#[derive(Debug)]
pub(super) struct Gate {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    in_flight: usize,
    queue: usize,
}

impl Gate {
    pub(super) fn new(in_flight: usize) -> Self {
        let places = Arc::new(Semaphore::new(in_flight));
        Self { places, waiting: AtomicUsize::new(0), in_flight, queue: QUEUE.min(in_flight) }
    }

    /// A place to work, given back when it is dropped.
    ///
    /// # Errors
    /// `overloaded`.
    pub(super) async fn enter(&self) -> Result<OwnedSemaphorePermit, Problem> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let waiter = Waiter::new(&self.waiting);
        if waiter.before >= self.queue {
            return Err(self.overloaded());
        }
        match tokio::time::timeout(LONGEST_WAIT, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            // The semaphore is never closed, so this is a wait that took too long.
            _ => Err(self.overloaded()),
        }
    }

    fn overloaded(&self) -> Problem {
        Problem::new(Code::Overloaded, format!("{} requests are at work and more wait already", self.in_flight))
    }
}

/// Counts itself for as long as it lives, however its wait ends.
struct Waiter<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> Waiter<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        Self { before: count.fetch_add(1, Ordering::Relaxed), count }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
