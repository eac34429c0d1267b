//! Group commit: one watermark, one leader at a time, everybody else waits for the watermark.
//!
//! Whoever needs durability and finds no leader becomes it and flushes *everything* that is appended by then, so all who
//! appended in the meantime are served by one flush. Tasks wait by waker instead of by condition variable; for them the
//! flushing thread leads.
//!
//! A failed flush is final: of what it was to make durable nothing is known any more, and asking again would be answered
//! "yes" by a kernel that has meanwhile called the pages clean. The log is poisoned and says so to everybody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Shared;
use super::tail::Pending;
use crate::format::PAGE;
use crate::options::Flushed;
use crate::{Lsn, WalError};

/// How often a leader lets others run before it flushes, at most. A flush serves half of the writers otherwise: the other
/// half is just being woken by the flush before. Bounded and short: no writer waits for one that is not about to come.
const YIELDS: u32 = 16;

/// What the leaders' rounds have done.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    pub(super) flushes: AtomicU64,
    pub(super) flushed_bytes: AtomicU64,
    pub(super) device_bytes: AtomicU64,
    pub(super) last_flush_nanos: AtomicU64,
    /// Records that a leader may expect to find: those of the last flush, forgotten by quarters.
    cohort: AtomicU64,
}

impl Shared {
    /// Returns once everything below `up_to` is durable, leading where nobody else does.
    pub(super) fn flush(&self, up_to: Lsn) -> Result<(), WalError> {
        self.watermark.reach(up_to.min(self.next_lsn()), || self.lead())
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
        let cohort = self.rounds.cohort.load(Ordering::Relaxed);
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
        let expected = self.rounds.cohort.load(Ordering::Relaxed);
        self.rounds.cohort.store(pending.records.max(expected * 3 / 4), Ordering::Relaxed);
        match flush_spans(&pending) {
            Ok(device_bytes) => {
                self.watermark.step_down(pending.up_to);
                let took = begun.elapsed();
                self.rounds.count(&pending, device_bytes, took);
                if let Some(observer) = &self.options.observer {
                    let (records, bytes) = (pending.records, pending.bytes());
                    observer.flushed(&Flushed { took, records, bytes, device_bytes });
                }
                Ok(())
            }
            Err(error) => Err(self.watermark.fail(format!("a flush failed: {error}"))),
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

impl Rounds {
    fn count(&self, pending: &Pending, device_bytes: u64, took: Duration) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.flushed_bytes.fetch_add(pending.bytes(), Ordering::Relaxed);
        self.device_bytes.fetch_add(device_bytes, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.last_flush_nanos.store(nanos, Ordering::Relaxed);
    }
}
