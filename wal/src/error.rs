//! What can go wrong, one variant for each thing that a caller does differently.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use crate::Lsn;

/// An answer other than success.
///
/// Terminal for this handle: [`Poisoned`](WalError::Poisoned), [`Closed`](WalError::Closed). Goes away when an operator or
/// time helps: [`Full`](WalError::Full), [`Locked`](WalError::Locked). The rest is a defect of the disk, of the
/// configuration or of the caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// Another process (or another handle of this one) owns the log.
    #[error("the log in {dir} is in use by another owner")]
    Locked {
        /// The log's directory.
        dir: String,
    },
    /// Acknowledged records are damaged or gone; nothing was changed on the disk. A torn tail never ends here.
    #[error(
        "segment {segment} is damaged at Lsn {lsn}: {detail}; acknowledged records in {}..{} are lost",
        lost.start, lost.end
    )]
    Corrupt {
        /// File name of the damaged segment.
        segment: String,
        /// Where the chain of records breaks.
        lsn: Lsn,
        /// What was durable and cannot be read: from the break to the highest Lsn that a surviving witness calls durable.
        lost: Range<Lsn>,
        /// What is wrong there.
        detail: String,
    },
    /// A segment was written by a later version of this crate; nothing was changed.
    #[error("segment {segment} has format version {found}; this program reads up to {supported}")]
    Unsupported {
        /// File name of the segment.
        segment: String,
        /// The version that it states.
        found: u32,
        /// The highest version known here.
        supported: u32,
    },
    /// The directory lies on a file system that keeps nothing over a power cut, or whose flushes mean nothing; nothing was
    /// made there. [`Options::force_filesystem`](crate::Options::force_filesystem) opens the log all the same.
    #[error(
        "{dir} lies on {filesystem}, which does not keep what a log needs kept; put it on a local disk, or force it"
    )]
    Filesystem {
        /// The log's directory.
        dir: String,
        /// The file system's name.
        filesystem: &'static str,
    },
    /// A segment is encrypted with a key that is not among those given; nothing was changed.
    #[error("segment {segment} is encrypted with the key {key_id}, which is not among the keys given")]
    Key {
        /// File name of the segment.
        segment: String,
        /// The key's name, as [`stat`](crate::inspect::stat) shows it: 32 hexadecimal digits.
        key_id: String,
    },
    /// The payload can never fit, however empty the log is.
    #[error("a payload of {len} bytes exceeds the {max} bytes that fit into one segment")]
    TooLarge {
        /// Bytes that were asked for.
        len: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// The disk has no room for another segment. Nothing was written; the reserve is kept for
    /// [`append_reserved`](crate::Wal::append_reserved). Comes to an end by itself once there is room.
    #[error("no room on the disk for another segment: {detail}")]
    Full {
        /// What the operating system said.
        detail: String,
    },
    /// A flush failed. What was not durable by then may or may not be on the disk, and asking again proves nothing:
    /// the log must be opened anew.
    #[error("the log is poisoned: {cause}")]
    Poisoned {
        /// The first failure.
        cause: String,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// These records were released and are gone.
    #[error("Lsn {asked} was released; the log begins at {first}")]
    Released {
        /// The position asked for.
        asked: Lsn,
        /// The first position that is still kept.
        first: Lsn,
    },
    /// An option is out of its bounds.
    #[error("{0}")]
    Options(String),
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

impl WalError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> WalError {
        let path = path.into();
        move |source| WalError::Io { action, path, source }
    }
}
