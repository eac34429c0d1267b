//! The log's two threads. Each sleeps while it has nothing to do and ends when the last handle is gone.
//!
//! | thread | does | ends |
//! |---|---|---|
//! | `wal-flush` | flushes for tasks that wait; seals when the log is idle | on stop |
//! | `wal-spare` | fills spare segments with zeros | on stop, after the one at hand |

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::{Shared, WalError};

pub(super) fn start(shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>, WalError> {
    if shared.options.inline {
        return Ok(Vec::new());
    }
    let spawn = |name: &str, body: fn(&Shared)| {
        let shared = Arc::clone(shared);
        Builder::new()
            .name(name.to_owned())
            .spawn(move || body(&shared))
            .map_err(WalError::io("start the thread", name))
    };
    let flusher = spawn("wal-flush", Shared::serve)?;
    match spawn("wal-spare", |shared| shared.spares.keep_ready(&*shared.storage)) {
        Ok(preparer) => Ok(vec![flusher, preparer]),
        Err(error) => {
            shared.stop();
            // It was told to stop and cannot panic while it waits.
            let _ = flusher.join();
            Err(error)
        }
    }
}

impl Shared {
    /// The flushing thread's whole life.
    fn serve(&self) {
        let mark = &self.watermark;
        let seal_after = self.options.seal_after;
        let mut seen = self.appends.load(Ordering::SeqCst);
        loop {
            let mut state = mark.state();
            if state.stop {
                return;
            }
            if mark.is_poisoned() {
                // Nothing will be flushed any more; only the end is worth waiting for.
                drop(mark.asked.wait(state).unwrap_or_else(PoisonError::into_inner));
                continue;
            }
            if state.requested > mark.durable() {
                let requested = state.requested;
                drop(state);
                // A failure poisons, which wakes everybody who waits: there is nobody else to tell.
                let _ = self.flush(requested);
                continue;
            }
            mark.asleep.store(true, Ordering::SeqCst);
            let appends = self.appends.load(Ordering::SeqCst);
            if seal_after.is_zero() || appends == self.sealed_at.load(Ordering::SeqCst) {
                state = mark.asked.wait(state).unwrap_or_else(PoisonError::into_inner);
                mark.asleep.store(false, Ordering::SeqCst);
                drop(state);
                seen = self.appends.load(Ordering::SeqCst);
                continue;
            }
            mark.asleep.store(false, Ordering::SeqCst);
            let (state, slept) = mark.asked.wait_timeout(state, seal_after).unwrap_or_else(PoisonError::into_inner);
            drop(state);
            if slept.timed_out() {
                if appends == seen {
                    self.seal_idle(appends);
                }
                seen = appends;
            }
        }
    }

    fn seal_idle(&self, appends: u64) {
        // First what is to be sealed: nobody may have asked for it yet. Closed and poisoned need no seal; a failed flush
        // poisons by itself.
        if self.flush(self.next_lsn()).is_ok() && self.seal(Some(appends)).unwrap_or(false) {
            let _ = self.flush(self.next_lsn());
        }
    }
}
