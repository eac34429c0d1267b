//! The open log.

mod durable;
mod flush;
mod reader;
mod retain;
mod spares;
mod sync;
mod tail;
mod threads;
mod watermark;

use std::any::Any;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use durable::Durable;
pub use reader::{Reader, Record};

use crate::format::{SegmentHeader, max_payload};
use crate::options::Options;
use crate::payload::Coder;
use crate::recover::{self, Recovery};
use crate::storage::{Directory, Storage, unfit};
use crate::{LogId, Lsn, WalError};
use flush::Rounds;
use spares::{Claim, Spares};
use tail::{Segment, Tail};
use watermark::Watermark;

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its first byte.
    pub lsn: Lsn,
    /// The byte behind it: the record is durable once the durable Lsn is at or beyond here.
    pub end: Lsn,
}

/// A handle of an open log; cheap to clone, to be shared by any number of threads.
///
/// The log stays open until the last handle is gone. Dropping it without [`close`](Wal::close) is what a crash would do:
/// its threads are joined and its lock is freed, but nothing more is flushed, and the next opening will say that the
/// shutdown was not clean.
#[derive(Clone, Debug)]
pub struct Wal {
    shared: Arc<Shared>,
    owner: Arc<Owner>,
}

/// What the handles, the threads and the futures share. Holds neither lock nor threads, so that a forgotten future keeps
/// only memory.
#[derive(Debug)]
struct Shared {
    storage: Arc<dyn Storage>,
    options: Options,
    coder: Coder,
    log_id: LogId,
    /// Lock order: `tail` before `segments`; neither is held while the watermark's state is waited for.
    tail: Mutex<Tail>,
    /// Lsn behind the last record, readable without the tail's lock.
    next: AtomicU64,
    watermark: Watermark,
    rounds: Rounds,
    spares: Spares,
    /// Number of the last segment that the opening found.
    inherited: u64,
    /// Headers of all segments that are kept, oldest first.
    segments: Mutex<VecDeque<SegmentHeader>>,
    released: AtomicU64,
    /// Held while segments are removed, so that they go in order.
    releasing: Mutex<()>,
    /// Records appended, for telling whether anything happened.
    appends: AtomicU64,
    /// The value of `appends` that the last seal stands behind.
    sealed_at: AtomicU64,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    records: AtomicU64,
    bytes: AtomicU64,
}

/// Threads and lock; its drop ends both.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<Box<dyn Any + Send + Sync>>>,
}

/// What the log has done and what it holds; counts are since the opening.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Segments kept.
    pub segments: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// The caller's records appended.
    pub appended_records: u64,
    /// Bytes of the log's stream that they took: payload, record header and padding.
    pub appended_bytes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Bytes of the log's stream that they made durable.
    pub flushed_bytes: u64,
    /// Bytes of the pages that they wrote. This and `prepared_bytes`, divided by `appended_bytes`, is the write
    /// amplification.
    pub device_bytes: u64,
    /// Bytes written to prepare segments and to begin them.
    pub prepared_bytes: u64,
    /// How long the last flush took; zero before the first.
    pub last_flush: Duration,
    /// The first position that is still kept.
    pub oldest_lsn: Lsn,
    /// Everything below was released.
    pub released_lsn: Lsn,
    /// Everything below is durable.
    pub durable_lsn: Lsn,
    /// Where the next record will stand.
    pub next_lsn: Lsn,
    /// A flush failed; the log must be opened anew.
    pub poisoned: bool,
}

impl Wal {
    /// Opens the log in `dir`, which is made if need be, and recovers it: the chain of records is checked, a torn tail is
    /// cut, and all that was found is durable on return. Blocks for as long as reading the log takes.
    ///
    /// # Errors
    /// [`WalError::Locked`]: the log has an owner. [`WalError::Corrupt`]: acknowledged records are damaged; nothing was
    /// changed. [`WalError::Filesystem`], [`WalError::Unsupported`], [`WalError::Options`], [`WalError::Full`] (a new log
    /// only) and [`WalError::Io`].
    pub fn open(dir: &Path, options: Options) -> Result<(Wal, Recovery), WalError> {
        options.check()?;
        let filesystem = if options.force_filesystem { Ok(None) } else { unfit(dir) };
        if let Some(filesystem) = filesystem.map_err(WalError::io("look at", dir))? {
            return Err(WalError::Filesystem { dir: dir.display().to_string(), filesystem });
        }
        let directory = Directory::new(dir, options.backend);
        directory.make().map_err(WalError::io("make", dir))?;
        Wal::open_on(Arc::new(directory), options)
    }

    /// The same on any [`Storage`], where segments may be as small as four pages; `options.backend` is not looked at.
    ///
    /// # Errors
    /// As [`open`](Wal::open).
    pub fn open_on(storage: Arc<dyn Storage>, options: Options) -> Result<(Wal, Recovery), WalError> {
        options.check_simulated()?;
        let lock = recover::lock(&*storage)?;
        let coder = Coder::new(&options, || storage.random());
        let (opened, recovery) = recover::open(&*storage, &options, coder.coding())?;
        let header = opened.segments.last().expect("an open log has a segment").clone();
        // What is stored in another way than this opening stores belongs into another segment; and behind the tail of a
        // recycled one are remains of records, which nothing may complete.
        let leave = header.coding != coder.coding() || header.recycled;
        let shared = Arc::new(Shared {
            log_id: header.log_id,
            next: AtomicU64::new(opened.tail.as_u64()),
            watermark: Watermark::new(opened.tail),
            rounds: Rounds::default(),
            spares: Spares::new(&options),
            inherited: header.number,
            tail: Mutex::new(Tail::new(Arc::new(Segment { header, file: opened.file }), opened.tail, leave)),
            coder,
            segments: Mutex::new(opened.segments.into()),
            released: AtomicU64::new(opened.released.as_u64()),
            releasing: Mutex::default(),
            appends: AtomicU64::new(u64::from(opened.unsealed)),
            sealed_at: AtomicU64::new(0),
            counters: Counters::default(),
            storage,
            options,
        });
        let threads = Mutex::new(threads::start(&shared)?);
        let owner = Arc::new(Owner { shared: Arc::clone(&shared), threads, lock: Mutex::new(Some(lock)) });
        Ok((Wal { shared, owner }, recovery))
    }

    /// Appends a record. It is **not durable yet**: see [`flush`](Wal::flush) and [`durable`](Wal::durable), to be given
    /// the answer's `end`. Readers see it once it is durable. Costs a copy, except where a segment is full: then the
    /// caller waits for the next one to be begun (some flushes), and for a spare where none is ready.
    ///
    /// # Errors
    /// [`WalError::TooLarge`], [`WalError::Full`], [`WalError::Poisoned`], [`WalError::Closed`]; nothing was appended.
    pub fn append(&self, kind: u8, payload: &[u8]) -> Result<Appended, WalError> {
        self.shared.append(Claim::Ordinary, kind, payload)
    }

    /// Like [`append`](Wal::append), and may use the reserve: for records that end something and so make room.
    ///
    /// # Errors
    /// As [`append`](Wal::append); [`WalError::Full`] only when the reserve is used up too.
    pub fn append_reserved(&self, kind: u8, payload: &[u8]) -> Result<Appended, WalError> {
        self.shared.append(Claim::Reserved, kind, payload)
    }

    /// The largest payload that [`append`](Wal::append) takes.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.shared.max_payload()
    }

    /// Returns once everything below `up_to` (at most what is appended now; [`Lsn::MAX`] for all) is durable. Blocks
    /// the thread; calls that overlap share flushes.
    ///
    /// # Errors
    /// [`WalError::Poisoned`]: whether the records survive a crash is not known.
    pub fn flush(&self, up_to: Lsn) -> Result<(), WalError> {
        self.shared.flush(up_to)
    }

    /// The same for tasks: a future of any runtime, served by the log's flushing thread.
    pub fn durable(&self, up_to: Lsn) -> Durable {
        Durable::new(Arc::clone(&self.shared), up_to)
    }

    /// Everything below is durable.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.shared.watermark.durable()
    }

    /// Where the next record will stand, or somewhat before: gaps are not foreseen.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.shared.next_lsn()
    }

    /// The log's name.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.shared.log_id
    }

    /// Whether a flush failed, which ends this opening.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.shared.watermark.is_poisoned()
    }

    /// Reads the records from the first one at or after `from` up to what is durable at the time. Reading starts at the
    /// first call of the iterator.
    #[must_use]
    pub fn read(&self, from: Lsn) -> Reader {
        Reader::new(Arc::clone(&self.shared), from)
    }

    /// Declares that nobody needs the records below `below` any more. Segments that lie wholly below it go, oldest
    /// first, once they exceed `retain_bytes`; gives how many went. Blocks for a few flushes for each.
    ///
    /// # Errors
    /// [`WalError::Io`]: some may have gone; the log is sound and the rest goes with the next call.
    /// [`WalError::Poisoned`], [`WalError::Closed`], [`WalError::Full`] (not even the reserve has room for the note).
    pub fn release(&self, below: Lsn) -> Result<u64, WalError> {
        self.shared.release(below)
    }

    /// Begins a new segment now, unless the last one is empty; for tests and for settings that new segments follow.
    ///
    /// # Errors
    /// [`WalError::Full`], [`WalError::Poisoned`], [`WalError::Closed`].
    pub fn rotate(&self) -> Result<(), WalError> {
        self.shared.rotate()
    }

    /// Flushes everything and stands a seal behind it, so that damage to the last group will be told from a torn write.
    /// The flushing thread does the same when the log is idle.
    ///
    /// # Errors
    /// As [`flush`](Wal::flush), and [`WalError::Closed`].
    pub fn seal(&self) -> Result<(), WalError> {
        self.shared.flush(Lsn::MAX)?;
        self.shared.seal(None)?;
        self.shared.flush(Lsn::MAX)
    }

    /// Flushes everything, writes the record of a clean shutdown, ends the threads and frees the lock. Other handles
    /// answer [`WalError::Closed`] from then on, except for reading.
    ///
    /// # Errors
    /// [`WalError::Poisoned`]; [`WalError::Closed`] where another handle was faster. Threads and lock are gone in any
    /// case.
    pub fn close(self) -> Result<(), WalError> {
        // Flushed before it is framed, the close record calls everything durable and so is a witness for all of it.
        let closed = self.shared.flush(Lsn::MAX).and_then(|()| self.shared.close_tail());
        let flushed = closed.and_then(|()| self.shared.flush(Lsn::MAX));
        self.owner.end();
        flushed
    }

    /// Counts and positions.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }
}

impl Owner {
    fn end(&self) {
        self.shared.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A thread that panicked has said so; there is nothing to add.
            let _ = thread.join();
        }
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_some() {
            self.shared.spares.discard(&*self.shared.storage);
        }
        // Last: from here on another owner may write.
        *lock = None;
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn tail(&self) -> MutexGuard<'_, Tail> {
        // A panic under this lock could only come from running out of memory while framing, before anything is written.
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments(&self) -> MutexGuard<'_, VecDeque<SegmentHeader>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The largest payload, before it is stored.
    fn max_payload(&self) -> usize {
        max_payload(self.options.segment_bytes) as usize - self.coder.overhead()
    }

    fn next_lsn(&self) -> Lsn {
        Lsn::from_u64(self.next.load(Ordering::Acquire))
    }

    fn released(&self) -> Lsn {
        Lsn::from_u64(self.released.load(Ordering::Acquire))
    }

    /// Ends the threads' work and every wait. Appending ends too: nothing may be written once the lock is free.
    fn stop(&self) {
        self.tail().closed = true;
        self.watermark.stop();
        self.spares.stop();
    }

    fn stats(&self) -> Stats {
        let (segments, bytes, oldest_lsn) = {
            let segments = self.segments();
            let oldest = segments.front().map_or(Lsn::ZERO, |first| first.base + crate::format::PAGE);
            (segments.len() as u64, segments.iter().map(|header| header.bytes).sum(), oldest)
        };
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let flushed = &self.rounds;
        Stats {
            segments,
            bytes,
            appended_records: read(&self.counters.records),
            appended_bytes: read(&self.counters.bytes),
            flushes: read(&flushed.flushes),
            flushed_bytes: read(&flushed.flushed_bytes),
            device_bytes: read(&flushed.device_bytes),
            prepared_bytes: self.spares.written(),
            last_flush: Duration::from_nanos(read(&flushed.last_flush_nanos)),
            oldest_lsn,
            released_lsn: self.released(),
            durable_lsn: self.watermark.durable(),
            next_lsn: self.next_lsn(),
            poisoned: self.watermark.is_poisoned(),
        }
    }
}
