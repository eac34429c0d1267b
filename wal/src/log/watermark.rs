//! The watermark of group commit: how far everything is durable, who leads, and who waits.
//!
//! *The danger.* One who waits and is not woken waits for ever; two who lead at once flush out of order; one who leads on
//! after a failure is told "durable" by a kernel that has called the pages clean.
//!
//! *The remedy.* All three are decided under one lock, in an order that `wal/model` tries out in every interleaving, and
//! shows wrong wherever a step of it is changed. Hence the types of `sync`: the model puts loom's in their place.

use std::collections::BTreeMap;
use std::task::{Poll, Waker};

use super::sync::{AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, OnceLock, Ordering, PoisonError};
use crate::{Lsn, WalError};

/// What waiting and leading share.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Somebody is flushing.
    leading: bool,
    /// How far a task (not a thread) has asked; the flushing thread serves it.
    pub(super) requested: Lsn,
    /// Tasks by what they wait for. The second number tells those apart that wait for the same.
    tasks: BTreeMap<(Lsn, u64), Waker>,
    pub(super) stop: bool,
}

#[derive(Debug, Default)]
pub(super) struct Watermark {
    durable: AtomicU64,
    state: Mutex<State>,
    /// For threads that wait for the watermark.
    advanced: Condvar,
    /// For the flushing thread.
    pub(super) asked: Condvar,
    /// The flushing thread sleeps without a time limit, so an append must wake it to have its seal written.
    pub(super) asleep: AtomicBool,
    poison: OnceLock<String>,
}

impl Watermark {
    pub(super) fn new(durable: Lsn) -> Watermark {
        Watermark { durable: AtomicU64::new(durable.as_u64()), ..Watermark::default() }
    }

    pub(super) fn durable(&self) -> Lsn {
        Lsn::from_u64(self.durable.load(Ordering::Acquire))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // No critical section can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers `Poisoned` once the log is.
    pub(super) fn sound(&self) -> Result<(), WalError> {
        match self.poison.get() {
            Some(cause) => Err(WalError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Poisons the log; only the first cause is kept.
    pub(super) fn poison(&self, cause: String) -> WalError {
        let cause = self.poison.get_or_init(|| cause).clone();
        self.release_all();
        WalError::Poisoned { cause }
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poison.get().is_some()
    }

    /// Wakes everybody to look again.
    pub(super) fn release_all(&self) {
        let tasks = std::mem::take(&mut self.state().tasks);
        self.advanced.notify_all();
        self.asked.notify_all();
        tasks.into_values().for_each(Waker::wake);
    }

    /// Returns once everything below `up_to` is durable. Where nobody leads, leads: `lead` is one round, which ends with
    /// [`step_down`](Watermark::step_down) or [`fail`](Watermark::fail).
    pub(super) fn reach(&self, up_to: Lsn, mut lead: impl FnMut() -> Result<(), WalError>) -> Result<(), WalError> {
        if self.durable() >= up_to {
            return Ok(());
        }
        let mut state = self.state();
        loop {
            if self.durable() >= up_to {
                return Ok(());
            }
            self.sound()?;
            if !state.leading {
                state.leading = true;
                drop(state);
                lead()?;
                state = self.state();
                continue;
            }
            state = self.advanced.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Stops leading, with everything below `durable` durable.
    pub(super) fn step_down(&self, durable: Lsn) {
        let mut state = self.state();
        state.leading = false;
        // Published under the lock: a task that registers sees either the new watermark or is woken for it.
        self.durable.fetch_max(durable.as_u64(), Ordering::AcqRel);
        let waiting = state.tasks.split_off(&(durable, u64::MAX));
        let served = std::mem::replace(&mut state.tasks, waiting);
        drop(state);
        self.advanced.notify_all();
        served.into_values().for_each(Waker::wake);
    }

    /// Stops leading, after a round that failed: for good.
    pub(super) fn fail(&self, cause: String) -> WalError {
        let poisoned = self.poison(cause);
        // Only now: nobody may lead between the failure and its being known.
        self.state().leading = false;
        self.release_all();
        poisoned
    }

    /// What a task is told that asks whether everything below `up_to` is durable. Where that is still to come its waker is
    /// kept under `ticket`, and the flushing thread is asked for it.
    pub(super) fn register(&self, up_to: Lsn, ticket: u64, waker: &Waker) -> Poll<Result<(), WalError>> {
        let mut state = self.state();
        if self.durable() >= up_to {
            return Poll::Ready(Ok(()));
        }
        if let Err(poisoned) = self.sound() {
            return Poll::Ready(Err(poisoned));
        }
        if state.stop {
            return Poll::Ready(Err(WalError::Closed));
        }
        state.tasks.insert((up_to, ticket), waker.clone());
        if state.requested < up_to {
            state.requested = up_to;
            self.asked.notify_one();
        }
        Poll::Pending
    }

    /// Forgets the waker.
    pub(super) fn unregister(&self, up_to: Lsn, ticket: u64) {
        self.state().tasks.remove(&(up_to, ticket));
    }

    /// Ends the flushing thread's work and every task's wait.
    pub(super) fn stop(&self) {
        self.state().stop = true;
        self.release_all();
    }
}
