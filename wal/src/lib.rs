//! A segmented, checksummed write-ahead log with group commit.
//!
//! **The promise.** A record for which [`Wal::flush`] returned `Ok` is there after any crash, in its place, unchanged;
//! or [`Wal::open`] refuses and says what is lost. A record that was never acknowledged may be there or not, but if it
//! is, everything before it is too. No legal crash is ever refused.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! use outrigger_wal::{Lsn, Options, Wal};
//!
//! let (wal, recovery) = Wal::open(dir, Options { segment_bytes: 1 << 20, ..Options::default() })?;
//! for record in wal.read(recovery.first_lsn) {
//!     println!("{:?}", record?);
//! }
//! let appended = wal.append(7, b"so it was decided")?;
//! wal.flush(appended.end)?; // or: wal.durable(appended.end).await
//! wal.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! The bytes are drawn in the crate's `README.md`, with the invariants and what is assumed of the disk.
//!
//! | our word | means | the literature's word |
//! |---|---|---|
//! | Lsn | byte position in the log's stream | log sequence number |
//! | segment | one file of the log | extent, log file |
//! | append | frame a record at the tail, not durable yet | log insert |
//! | flush | make everything up to a position durable | force, sync |
//! | durable Lsn | what survives a power cut, exclusive | flushed LSN, stable point |
//! | witness | a valid record whose stated durable Lsn lies beyond a break | – |
//! | seal | a record on a page of its own, written when idle, as a witness for the last group | – |
//! | torn | unacknowledged rubble behind the last whole record | torn write, partial tail |
//! | corrupt | acknowledged records damaged or gone | media failure |
//! | release | declare that records are not needed any more | truncate, checkpoint |
//! | spare | a segment prepared ahead; the last one is the reserve | preallocated log file |
//!
//! Inside: `format` (bytes) ← `storage` (files) ← `scan` (reading) ← `recover` (opening) ← `log` (the open log), and
//! `inspect` and `repair` beside it for the offline tools. Each names only those before it.
//!
//! Linux only. No async runtime, no knowledge of what the records mean.

mod error;
mod format;
pub mod inspect;
mod keys;
mod log;
mod lsn;
mod options;
mod payload;
mod recover;
pub mod repair;
mod scan;
mod storage;

pub use error::WalError;
pub use keys::Keys;
pub use log::{Appended, Durable, Reader, Record, Stats, Wal};
pub use lsn::{LogId, Lsn, ParseLogIdError, ParseLsnError};
pub use options::{Backend, FlushObserver, Flushed, Options};
pub use recover::Recovery;
pub use storage::{Access, Directory, SegmentFile, Storage, sim};
