//! The seam between the log and what keeps its bytes.
//!
//! The log is written against [`Storage`] and [`SegmentFile`]; behind them stands a directory of a real file system
//! (memory map or plain writes, the same bytes) or the simulated disk of [`sim`](crate::sim). What the log assumes of
//! an implementation is the contract below and nothing more; `README.md` says the same of a real disk.

mod directory;
mod filesystem;
mod mmap;
mod pwrite;
pub mod sim;

use std::any::Any;
use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

pub use directory::Directory;
pub(crate) use filesystem::unfit;

/// How a file is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read; never through a map, so that reading leaves nothing behind in the page cache.
    Read,
    /// Read and written in place.
    Write,
}

/// A directory of segment files, and the world around it: randomness and time.
///
/// Names are plain file names. Every method may block.
pub trait Storage: Send + Sync + Debug {
    /// Takes the exclusive right to write here, until the guard is dropped or the process dies.
    ///
    /// # Errors
    /// `WouldBlock` where somebody else has it.
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>>;

    /// All file names, in no order.
    ///
    /// # Errors
    /// What the operating system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes (or replaces) a file of `bytes` zeros, every block of it allocated and durable; its *name* is not durable.
    ///
    /// # Errors
    /// `StorageFull` (or `QuotaExceeded`) where there is no room; nothing is left behind then.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn SegmentFile>>;

    /// Opens a file that exists.
    ///
    /// # Errors
    /// `NotFound`, and what the operating system says.
    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn SegmentFile>>;

    /// Renames; durable after [`sync_dir`](Storage::sync_dir).
    ///
    /// # Errors
    /// What the operating system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes; durable after [`sync_dir`](Storage::sync_dir).
    ///
    /// # Errors
    /// What the operating system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives the file a second name in the folder `quarantine`, where no opening looks, and makes that name durable. The
    /// first name stays. Gives the name there; a second call for the same file changes nothing.
    ///
    /// # Errors
    /// `Unsupported` where there is no such folder; what the operating system says.
    fn set_aside(&self, name: &str) -> io::Result<String> {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("{name} cannot be set aside here")))
    }

    /// Makes all creations, renames and removals so far durable.
    ///
    /// # Errors
    /// What the operating system says; the directory's state is unknown then.
    fn sync_dir(&self) -> io::Result<()>;

    /// Text that names the place to a person.
    fn place(&self) -> String;

    /// A random number; salts and log ids are made of it.
    fn random(&self) -> u64 {
        rand::random()
    }

    /// Microseconds since 1970; only ever shown to people.
    fn now_micros(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}

/// One file of fixed length.
///
/// Written by one thread at a time, flushed by one thread at a time; the two may overlap as long as their ranges do not.
pub trait SegmentFile: Send + Sync + Debug {
    /// Length in bytes.
    fn bytes(&self) -> u64;

    /// Fills `out` from `offset`. Sees every write that was flushed; may or may not see others.
    ///
    /// # Errors
    /// What the operating system says; `UnexpectedEof` beyond the end.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// Writes; durable after [`flush`](SegmentFile::flush), and until then any subset of its sectors may be.
    ///
    /// # Errors
    /// What the operating system says; beyond the end is an error and writes nothing.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes every earlier write in `range` durable.
    ///
    /// # Errors
    /// What the operating system says. Final: nothing is known of those writes any more, and a repetition that succeeds
    /// proves nothing.
    fn flush(&self, range: Range<u64>) -> io::Result<()>;

    /// Says that `range` will not be read again soon. Only a hint.
    fn forget(&self, range: Range<u64>);

    /// Whether all of it can be written in place without anything being read before, and it has no other name. May say no
    /// where it is so, never yes where it has another name.
    fn is_at_hand(&self) -> bool {
        true
    }
}

/// Whether an error says that the disk (or the quota on it) has no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// The offset of `range` within a file of `bytes`, or an error before anything is touched.
pub(crate) fn within(bytes: u64, offset: u64, len: usize) -> io::Result<()> {
    let end = offset.checked_add(len as u64);
    if end.is_some_and(|end| end <= bytes) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{len} bytes at {offset} exceed the file's {bytes}")))
}

#[cfg(test)]
mod tests;
