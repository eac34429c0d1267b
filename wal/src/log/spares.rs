//! Segments prepared ahead, so that an append never waits for a disk to be filled with zeros.
//!
//! A spare is a file of zeros, or a segment of this opening that was released (see `retain`). That is used again only where
//! all of it is in the page cache and it has no other name: pages that had to be read back one by one would cost more than
//! zeros do, and a second name is somebody's copy.
//!
//! The last spare is the reserve: an ordinary append may not take it, one that ends something may. So a full disk is
//! noticed one segment before it would tear anything.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::WalError;
use crate::options::{FlushObserver, Options};
use crate::recover::{UNFINISHED, creation_error};
use crate::storage::{Access, SegmentFile, Storage};

/// How often making a spare is tried again while it fails; a release tries at once.
const RETRY: Duration = Duration::from_millis(500);

/// A file under a name of its own.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Box<dyn SegmentFile>,
    /// It was a segment; else it is all zeros.
    pub(crate) recycled: bool,
}

/// Who asks for a spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Leaves the reserve alone.
    Ordinary,
    /// May take the reserve.
    Reserved,
}

/// Why there is none.
#[derive(Clone, Debug)]
enum Shortage {
    Full(String),
    Other(std::io::ErrorKind, String),
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Spare>,
    /// Released segments to make spares of, by the names that they have now.
    released: VecDeque<String>,
    /// More than the target, because somebody waits for it.
    wanted: usize,
    shortage: Option<Shortage>,
    retry_at: Option<Instant>,
    made: u64,
    stop: bool,
}

/// The spares of one log.
pub(crate) struct Spares {
    state: Mutex<State>,
    changed: Condvar,
    /// There is a shortage: saves every append the lock in good times.
    short: AtomicBool,
    target: usize,
    /// Released segments to keep at most.
    keep: usize,
    bytes: u64,
    /// No thread prepares: who needs a spare makes it.
    inline: bool,
    observer: Option<Arc<dyn FlushObserver>>,
    /// Bytes written for segments before their first record.
    written: AtomicU64,
}

impl std::fmt::Debug for Spares {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spares").field("state", &self.state).field("target", &self.target).finish_non_exhaustive()
    }
}

impl Spares {
    pub(crate) fn new(options: &Options) -> Spares {
        Spares {
            state: Mutex::default(),
            changed: Condvar::new(),
            short: AtomicBool::new(false),
            target: options.spare_segments,
            keep: if options.recycle { options.spare_segments } else { 0 },
            bytes: options.segment_bytes,
            inline: options.inline,
            observer: options.observer.clone(),
            written: AtomicU64::new(0),
        }
    }

    /// Counts bytes that went to the device for a segment before its first record.
    pub(crate) fn count(&self, device_bytes: u64) {
        self.written.fetch_add(device_bytes, Ordering::Relaxed);
        if let Some(observer) = &self.observer {
            observer.prepared(device_bytes);
        }
    }

    /// All that [`count`](Spares::count) was told.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No critical section can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a spare, waiting while one is being made.
    pub(crate) fn take(&self, storage: &dyn Storage, claim: Claim) -> Result<Spare, WalError> {
        let need = match claim {
            Claim::Ordinary => 2,
            Claim::Reserved => 1,
        };
        let mut state = self.state();
        loop {
            if state.ready.len() >= need {
                state.wanted = 0;
                let spare = state.ready.pop_front().expect("it has at least `need` members");
                self.changed.notify_all();
                return Ok(spare);
            }
            if state.stop {
                return Err(WalError::Closed);
            }
            if let (Some(shortage), false) = (&state.shortage, self.inline) {
                return Err(shortage.error());
            }
            state.wanted = state.wanted.max(need);
            if self.inline {
                state = self.make(storage, state);
                if let Some(shortage) = state.shortage.take() {
                    state.shortage = Some(shortage.clone());
                    return Err(shortage.error());
                }
            } else {
                self.changed.notify_all();
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Takes a spare back that turned out not to be needed.
    pub(crate) fn put_back(&self, spare: Spare) {
        self.state().ready.push_front(spare);
        self.changed.notify_all();
    }

    /// Whether the reserve itself is in use: there is no spare and none can be made. Then what is left of the last
    /// segment belongs to those who may use the reserve.
    pub(crate) fn exhausted(&self, storage: &dyn Storage) -> Option<WalError> {
        if !self.short.load(Ordering::Relaxed) {
            return None;
        }
        if self.inline {
            self.retry(storage);
        }
        let state = self.state();
        let shortage = state.shortage.as_ref()?;
        state.ready.is_empty().then(|| shortage.error())
    }

    /// Tries again now: room may have come.
    pub(crate) fn retry(&self, storage: &dyn Storage) {
        let mut state = self.state();
        state.retry_at = None;
        if self.inline && state.shortage.is_some() {
            drop(self.make(storage, state));
        } else {
            self.changed.notify_all();
        }
    }

    /// Prepares until told to stop; the preparing thread's whole life.
    pub(crate) fn keep_ready(&self, storage: &dyn Storage) {
        let mut state = self.state();
        while !state.stop {
            if state.ready.len() >= self.target.max(state.wanted) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let now = Instant::now();
            match state.retry_at.filter(|at| *at > now) {
                Some(at) => {
                    let (held, _) = self.changed.wait_timeout(state, at - now).unwrap_or_else(PoisonError::into_inner);
                    state = held;
                }
                None => state = self.make(storage, state),
            }
        }
    }

    /// Makes one, with the lock let go meanwhile.
    fn make<'a>(&'a self, storage: &dyn Storage, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let (name, released) = (state.new_name(), state.released.pop_front());
        drop(state);
        let recycled = released.and_then(|released| self.recycle(storage, released));
        let made = match recycled {
            Some(spare) => Ok(spare),
            None => storage.create(&name, self.bytes).map(|file| {
                self.count(self.bytes);
                Spare { name, file, recycled: false }
            }),
        };
        let mut state = self.state();
        match made {
            Ok(spare) => {
                state.ready.push_back(spare);
                state.shortage = None;
                state.retry_at = None;
            }
            Err(error) => {
                state.shortage = Some(Shortage::from(error));
                state.retry_at = Some(Instant::now() + RETRY);
            }
        }
        self.short.store(state.shortage.is_some(), Ordering::Relaxed);
        self.changed.notify_all();
        state
    }

    /// The name that a released segment is to have until it is used again; `None` where there are enough.
    pub(crate) fn name_for_released(&self) -> Option<String> {
        let mut state = self.state();
        (state.released.len() < self.keep && !state.stop).then(|| state.new_name())
    }

    /// Takes a released segment, whose new name is durable.
    pub(crate) fn take_released(&self, name: String) {
        self.state().released.push_back(name);
        self.changed.notify_all();
    }

    /// Makes a spare of a released segment, or removes it where that would not pay.
    fn recycle(&self, storage: &dyn Storage, name: String) -> Option<Spare> {
        let file = storage.open(&name, Access::Write).ok();
        let file = file.filter(|file| file.bytes() == self.bytes && file.is_at_hand());
        if file.is_none() {
            // What stays is swept by the next opening.
            let _ = storage.remove(&name);
        }
        file.map(|file| Spare { name, file, recycled: true })
    }

    /// Ends [`keep_ready`](Spares::keep_ready) and every wait.
    pub(crate) fn stop(&self) {
        self.state().stop = true;
        self.changed.notify_all();
    }

    /// Removes what was prepared in vain; best effort, the next opening sweeps what stays.
    pub(crate) fn discard(&self, storage: &dyn Storage) {
        let mut state = self.state();
        let ready: Vec<String> = state.ready.drain(..).map(|spare| spare.name).collect();
        for name in ready.into_iter().chain(state.released.drain(..)) {
            let _ = storage.remove(&name);
        }
    }
}

impl State {
    fn new_name(&mut self) -> String {
        self.made += 1;
        format!("spare-{}{UNFINISHED}", self.made)
    }
}

impl From<std::io::Error> for Shortage {
    fn from(error: std::io::Error) -> Shortage {
        match creation_error(error, "") {
            WalError::Io { source, .. } => Shortage::Other(source.kind(), source.to_string()),
            other => Shortage::Full(other.to_string()),
        }
    }
}

impl Shortage {
    fn error(&self) -> WalError {
        match self {
            Shortage::Full(detail) => WalError::Full { detail: detail.clone() },
            Shortage::Other(kind, text) => WalError::Io {
                action: "prepare",
                path: "the next segment".into(),
                source: std::io::Error::new(*kind, text.clone()),
            },
        }
    }
}
