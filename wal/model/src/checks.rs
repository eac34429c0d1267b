//! What must hold in every interleaving. A module of each variant of the watermark, which is its neighbour.

use std::future::poll_fn;
use std::task::Poll;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::sync::{AtomicBool, AtomicU64, Mutex, Ordering, PoisonError};
use super::watermark::Watermark;
use crate::{Lsn, WalError};

/// A switch of threads at any point, so often in one run. Two find every mutant; one more costs seconds.
const PREEMPTIONS: usize = 3;

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

/// The log without its bytes: a tail that grows, a disk that has what was flushed.
struct Log {
    mark: Watermark,
    /// Lsn behind the last record.
    tail: Mutex<u64>,
    /// What the disk has. Relaxed: only the watermark may make it seen.
    disk: AtomicU64,
    /// Touched by who leads, and by nobody else: loom says when two do at once.
    leader: UnsafeCell<()>,
    /// The disk fails, from the first flush on.
    fails: bool,
    failed: AtomicBool,
}

impl Log {
    fn new(fails: bool) -> Arc<Log> {
        Arc::new(Log {
            mark: Watermark::new(Lsn::ZERO),
            tail: Mutex::new(0),
            disk: AtomicU64::new(0),
            leader: UnsafeCell::new(()),
            fails,
            failed: AtomicBool::new(false),
        })
    }

    fn append(&self) -> Lsn {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        *tail += 1;
        Lsn::from_u64(*tail)
    }

    /// `Shared::lead`.
    fn lead(&self) -> Result<(), WalError> {
        let up_to = *self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        self.leader.with_mut(|_| {
            assert!(!self.failed.swap(self.fails, Ordering::Relaxed), "flushed after a failure");
            if !self.fails {
                self.disk.store(up_to, Ordering::Relaxed);
            }
        });
        if self.fails {
            return Err(self.mark.fail("the disk fails".to_owned()));
        }
        self.mark.step_down(Lsn::from_u64(up_to));
        Ok(())
    }

    /// `Shared::flush`.
    fn flush(&self, up_to: Lsn) -> Result<(), WalError> {
        self.mark.reach(up_to, || self.lead())
    }

    /// `Durable`, to its end.
    fn durable(&self, up_to: Lsn, ticket: u64) -> Result<(), WalError> {
        let answer = loom::future::block_on(poll_fn(|context| {
            if self.mark.durable() >= up_to {
                return Poll::Ready(Ok(()));
            }
            self.mark.register(up_to, ticket, context.waker())
        }));
        self.mark.unregister(up_to, ticket);
        answer
    }

    /// The flushing thread, without seals.
    fn serve(&self) {
        loop {
            let state = self.mark.state();
            if state.stop {
                return;
            }
            if !self.mark.is_poisoned() && state.requested > self.mark.durable() {
                let requested = state.requested;
                drop(state);
                let _ = self.flush(requested);
                continue;
            }
            drop(self.mark.asked.wait(state).unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn check_disk(&self, up_to: Lsn) {
        assert!(self.disk.load(Ordering::Relaxed) >= up_to.as_u64(), "called durable and not on the disk");
    }
}

/// Whoever is told that its record is durable finds it on the disk; nobody waits for ever; one leads at a time.
pub(crate) fn threads_share_flushes() {
    explore(|| {
        let log = Log::new(false);
        let writer = |log: Arc<Log>| {
            move || {
                let end = log.append();
                log.flush(end).expect("the disk is sound");
                log.check_disk(end);
            }
        };
        let others = [thread::spawn(writer(Arc::clone(&log))), thread::spawn(writer(Arc::clone(&log)))];
        writer(log)();
        for other in others {
            other.join().expect("a writer ends");
        }
    });
}

/// The watermark alone, read without the lock, makes what it covers seen.
pub(crate) fn what_is_called_durable_is_seen() {
    explore(|| {
        let log = Log::new(false);
        let reader = Arc::clone(&log);
        let reader = thread::spawn(move || {
            let durable = reader.mark.durable();
            reader.check_disk(durable);
        });
        for _ in 0..2 {
            let end = log.append();
            log.flush(end).expect("the disk is sound");
        }
        reader.join().expect("the reader ends");
    });
}

/// A task is woken, by the flushing thread or by another's flush that covers it.
pub(crate) fn a_task_is_served_beside_a_leader() {
    explore(|| {
        let log = Log::new(false);
        let (flusher, writer) = (Arc::clone(&log), Arc::clone(&log));
        let flusher = thread::spawn(move || flusher.serve());
        let end = log.append();
        let writer = thread::spawn(move || writer.flush(end).expect("the disk is sound"));
        log.durable(end, 1).expect("the disk is sound");
        log.check_disk(end);
        writer.join().expect("the writer ends");
        log.mark.stop();
        flusher.join().expect("the flushing thread ends");
    });
}

/// After a flush that failed nobody flushes again, and everybody is told.
pub(crate) fn a_failure_is_final() {
    explore(|| {
        let log = Log::new(true);
        let writer = |log: Arc<Log>| {
            move || {
                let end = log.append();
                assert!(matches!(log.flush(end), Err(WalError::Poisoned { .. })), "told of a failure");
            }
        };
        let other = thread::spawn(writer(Arc::clone(&log)));
        writer(Arc::clone(&log))();
        other.join().expect("the other writer ends");
        assert_eq!(log.mark.durable(), Lsn::ZERO);
    });
}

/// A task that waits while a thread's flush fails is told, though the flushing thread does nothing any more.
pub(crate) fn a_failure_is_told_to_a_task() {
    explore(|| {
        let log = Log::new(true);
        let writer = Arc::clone(&log);
        let end = log.append();
        let writer = thread::spawn(move || drop(writer.flush(end)));
        assert!(matches!(log.durable(end, 1), Err(WalError::Poisoned { .. })), "told of a failure");
        writer.join().expect("the writer ends");
    });
}
