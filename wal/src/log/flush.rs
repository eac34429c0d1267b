//! Group commit: one watermark, one leader at a time, everybody else waits for the watermark.
//!
//! Whoever needs durability and finds no leader becomes it and flushes *everything* that is appended by then, so all who
//! appended in the meantime are served by one flush. Tasks wait by waker instead of by condition variable; for them the
//! flushing thread leads.
//!
//! A failed flush is final: of what it was to make durable nothing is known any more, and asking again would be answered
//! "yes" by a kernel that has meanwhile called the pages clean. The log is poisoned and says so to everybody.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::Shared;
use super::tail::Pending;
use crate::format::PAGE;
use crate::options::Flushed;
use crate::{Lsn, WalError};

/// How often a leader lets others run before it flushes, at most. A flush serves half of the writers otherwise: the other
/// half is just being woken by the flush before. Bounded and short: no writer waits for one that is not about to come.
const YIELDS: u32 = 16;

/// What waiting and leading share.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Somebody is flushing.
    pub(super) leading: bool,
    /// How far a task (not a thread) has asked; the flushing thread serves it.
    pub(super) requested: Lsn,
    /// Tasks by what they wait for. The second number tells those apart that wait for the same.
    pub(super) tasks: BTreeMap<(Lsn, u64), Waker>,
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
    /// Records that a leader may expect to find: those of the last flush, forgotten by quarters.
    cohort: AtomicU64,
    pub(super) counters: Counters,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) flushes: AtomicU64,
    pub(super) flushed_bytes: AtomicU64,
    pub(super) device_bytes: AtomicU64,
    pub(super) last_flush_nanos: AtomicU64,
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

    /// Stops leading, with everything below `durable` durable.
    fn step_down(&self, durable: Lsn) {
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
}

impl Shared {
    /// Returns once everything below `up_to` is durable, leading where nobody else does.
    pub(super) fn flush(&self, up_to: Lsn) -> Result<(), WalError> {
        let mark = &self.watermark;
        let up_to = up_to.min(self.next_lsn());
        if mark.durable() >= up_to {
            return Ok(());
        }
        let mut state = mark.state();
        loop {
            if mark.durable() >= up_to {
                return Ok(());
            }
            mark.sound()?;
            if !state.leading {
                state.leading = true;
                drop(state);
                self.lead()?;
                state = mark.state();
                continue;
            }
            state = mark.advanced.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets those come who are about to, so that one flush serves them all.
    fn wait_for_company(&self) {
        if self.options.inline {
            return;
        }
        if !self.options.flush_interval.is_zero() {
            // Sleeping is right here: who comes meanwhile is served by this very flush, and nothing makes it needless.
            std::thread::sleep(self.options.flush_interval);
            return;
        }
        let cohort = self.watermark.cohort.load(Ordering::Relaxed);
        for _ in 0..YIELDS {
            if self.tail().pending_records() >= cohort {
                break;
            }
            std::thread::yield_now();
        }
    }

    /// One round as the leader: flushes all that is appended.
    fn lead(&self) -> Result<(), WalError> {
        self.wait_for_company();
        let begun = Instant::now();
        let pending = self.tail().take_pending();
        let expected = self.watermark.cohort.load(Ordering::Relaxed);
        self.watermark.cohort.store(pending.records.max(expected * 3 / 4), Ordering::Relaxed);
        match flush_spans(&pending) {
            Ok(device_bytes) => {
                self.watermark.step_down(pending.up_to);
                let took = begun.elapsed();
                self.watermark.counters.count(&pending, device_bytes, took);
                if let Some(observer) = &self.options.observer {
                    let (records, bytes) = (pending.records, pending.bytes());
                    observer.flushed(&Flushed { took, records, bytes, device_bytes });
                }
                Ok(())
            }
            Err(error) => {
                let poisoned = self.watermark.poison(format!("a flush failed: {error}"));
                // Only now: nobody may lead between the failure and its being known.
                self.watermark.state().leading = false;
                self.watermark.release_all();
                Err(poisoned)
            }
        }
    }
}

/// Flushes in order of Lsn, so that what is durable is a prefix even if a later span fails. Gives the bytes of the pages
/// that were written.
fn flush_spans(pending: &Pending) -> std::io::Result<u64> {
    let mut device_bytes = 0;
    for span in &pending.spans {
        span.segment.file.flush(span.from..span.to)?;
        device_bytes += span.to.next_multiple_of(PAGE) - span.from / PAGE * PAGE;
    }
    Ok(device_bytes)
}

impl Counters {
    fn count(&self, pending: &Pending, device_bytes: u64, took: Duration) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.flushed_bytes.fetch_add(pending.bytes(), Ordering::Relaxed);
        self.device_bytes.fetch_add(device_bytes, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.last_flush_nanos.store(nanos, Ordering::Relaxed);
    }
}
