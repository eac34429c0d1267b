//! How a log is to be kept.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::format::PAGE;
use crate::{Keys, WalError};

/// One flush that succeeded.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Flushed {
    /// How long it took.
    pub took: Duration,
    /// The caller's records that it made durable.
    pub records: u64,
    /// Bytes of the log's stream that it made durable.
    pub bytes: u64,
    /// Bytes of the pages that it sent to the device.
    pub device_bytes: u64,
}

/// Told of what goes to the device; for histograms and counters. Called on the thread that did it, so it must be quick
/// and must not call the log.
pub trait FlushObserver: Send + Sync {
    /// One flush.
    fn flushed(&self, flush: &Flushed);

    /// So many bytes went to the device to prepare a segment or to begin it. Nothing by default.
    fn prepared(&self, device_bytes: u64) {
        let _ = device_bytes;
    }
}

impl<F: Fn(&Flushed) + Send + Sync> FlushObserver for F {
    fn flushed(&self, flush: &Flushed) {
        self(flush);
    }
}

/// Which way the bytes go to the disk. Both write the same bytes, so a log may be opened with either at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// Shared memory map, made durable by ranged `msync`. An append is visible in the page cache at once, so it
    /// survives the death of the process (not of the machine) even before it is flushed.
    #[default]
    Mmap,
    /// A buffer, made durable by one synchronous `pwritev2`. An append that was not flushed dies with the process.
    Pwrite,
}

/// Settings of one opening; none of them is remembered by the log except the segment size of segments already made.
#[derive(Clone)]
pub struct Options {
    /// Size of a new segment in bytes, header included: 1 MiB to 1 GiB, a multiple of 4096. Default 64 MiB. It bounds the
    /// largest payload.
    pub segment_bytes: u64,
    /// How long the one who flushes waits for company. 0 (default): at once; those who come meanwhile share the next one.
    pub flush_interval: Duration,
    /// Released segments are kept to look at until they exceed this many bytes. Default 0.
    pub retain_bytes: u64,
    /// Segments prepared ahead, at least 1; the last one is the reserve of
    /// [`append_reserved`](crate::Wal::append_reserved). Default 2.
    pub spare_segments: usize,
    /// Make spares of segments that were released, instead of filling new files with zeros: up to `spare_segments` are
    /// kept for it. What was released stays in them until it is overwritten. Default true.
    pub recycle: bool,
    /// Idle time after which a seal record is written, so that damage to the last group is told from a torn write.
    /// Default 3 ms; 0 turns it off (and the last group before a crash has no witness).
    pub seal_after: Duration,
    /// Which way the bytes go to the disk.
    pub backend: Backend,
    /// Open the log also where it cannot be kept: on tmpfs, overlayfs or a network file system. For tests, and for those
    /// who know better. Default false.
    pub force_filesystem: bool,
    /// Keys to read encrypted segments with; the first one to encrypt with. Default none.
    pub keys: Option<Keys>,
    /// Encrypt new segments, where there are keys. `false` with keys: read what is encrypted, write in the clear. Default
    /// true.
    pub encrypt: bool,
    /// Compress payloads of at least this many bytes, where that makes them shorter. Default `None`: nothing is.
    pub compress_above: Option<usize>,
    /// Start no threads: flushing, preparing and the [`Durable`](crate::Durable) future do their work on the caller's
    /// thread, and nothing is sealed unless asked. For simulators, where every run must repeat exactly.
    pub inline: bool,
    /// Told of every flush.
    pub observer: Option<Arc<dyn FlushObserver>>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 << 20,
            flush_interval: Duration::ZERO,
            retain_bytes: 0,
            spare_segments: 2,
            recycle: true,
            seal_after: Duration::from_millis(3),
            backend: Backend::default(),
            force_filesystem: false,
            keys: None,
            encrypt: true,
            compress_above: None,
            inline: false,
            observer: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("segment_bytes", &self.segment_bytes)
            .field("flush_interval", &self.flush_interval)
            .field("retain_bytes", &self.retain_bytes)
            .field("spare_segments", &self.spare_segments)
            .field("recycle", &self.recycle)
            .field("seal_after", &self.seal_after)
            .field("backend", &self.backend)
            .field("force_filesystem", &self.force_filesystem)
            .field("keys", &self.keys)
            .field("encrypt", &self.encrypt)
            .field("compress_above", &self.compress_above)
            .field("inline", &self.inline)
            .field("observer", &self.observer.is_some())
            .finish()
    }
}

/// Bounds of `segment_bytes` on a real disk.
const SEGMENT_BOUNDS: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;
/// A segment of the simulated disk may be small, so that a short history crosses many of them.
const SMALLEST_SIMULATED: u64 = 4 * PAGE;

impl Options {
    pub(crate) fn check(&self) -> Result<(), WalError> {
        if !SEGMENT_BOUNDS.contains(&self.segment_bytes) {
            return Err(WalError::Options(format!(
                "segment_bytes = {} is not between 1 MiB and 1 GiB",
                self.segment_bytes
            )));
        }
        self.check_simulated()
    }

    pub(crate) fn check_simulated(&self) -> Result<(), WalError> {
        if !self.segment_bytes.is_multiple_of(PAGE) || !(SMALLEST_SIMULATED..=1 << 30).contains(&self.segment_bytes) {
            return Err(WalError::Options(format!("segment_bytes = {} is not a multiple of 4096", self.segment_bytes)));
        }
        if self.spare_segments == 0 || self.spare_segments > 64 {
            return Err(WalError::Options(format!("spare_segments = {} is not 1 to 64", self.spare_segments)));
        }
        Ok(())
    }
}
