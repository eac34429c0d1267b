//! Looking at a log from outside: read-only, without its lock, also while its owner writes.
//!
//! | function | reads | for |
//! |---|---|---|
//! | [`stat`] | the headers | what there is |
//! | [`verify`] | every record | whether it would open |
//! | [`records`] | what an opening would keep, once | dump, replay |
//! | [`follow`] | what is durable, as it comes | `tail --follow` |
//!
//! Beside a running owner the end of the log is a snapshot: what is being written at the moment shows as torn bytes.
//! Nothing here changes a byte, and every file is read with `pread` through a small window, so a log of any length costs
//! the same memory.

mod follow;
mod records;

use std::path::Path;

use crate::format::{Compression, PAGE, SegmentHeader, VERSION};
use crate::keys::id_text;
use crate::options::Backend;
use crate::scan::{self, Fault, How, is_gone, survey};
use crate::storage::{Access, Directory, Storage};
use crate::{LogId, Lsn, WalError};

pub use follow::{Follow, follow, follow_on};
pub use records::{Records, records, records_on};

/// One segment, as its header states it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentStat {
    /// File name.
    pub name: String,
    /// 1 for the first of the log.
    pub number: u64,
    /// Lsn of the file's byte 0.
    pub base_lsn: Lsn,
    /// Length of the file.
    pub bytes: u64,
    /// Microseconds since 1970, as the writer's clock had it.
    pub created_at_micros: u64,
    /// What was durable when the segment was begun.
    pub durable_lsn: Lsn,
    /// Name of the key that payloads are encrypted with; `None` where they are not.
    pub key_id: Option<String>,
    /// Whether payloads may be compressed.
    pub compressed: bool,
    /// Whether the file was a segment before: behind its last record are remains of that one.
    pub recycled: bool,
}

/// What the headers alone say; nothing else is read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// `None` where there is no segment.
    pub log_id: Option<LogId>,
    /// The highest format version that this program reads.
    pub version: u32,
    /// Segments with a sound header, oldest first.
    pub segments: Vec<SegmentStat>,
    /// Names of segments whose header is not sound; [`verify`] says more.
    pub unsound: Vec<String>,
    /// Bytes of all segment files.
    pub bytes: u64,
    /// The first position that is kept.
    pub first_lsn: Lsn,
}

/// A place where acknowledged records are damaged or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// File name of the segment.
    pub segment: String,
    /// Where the chain of records breaks.
    pub lsn: Lsn,
    /// What is lost by it.
    pub lost: std::ops::Range<Lsn>,
    /// What is wrong.
    pub detail: String,
}

impl From<Fault> for Damage {
    fn from(fault: Fault) -> Damage {
        let Fault { segment, lsn, lost, detail } = fault;
        Damage { segment, lsn, lost, detail }
    }
}

/// What reading every record found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verify {
    /// `None` where there is no sound segment.
    pub log_id: Option<LogId>,
    /// Segments with a sound header.
    pub segments: u64,
    /// The caller's records that are whole.
    pub records: u64,
    /// The first position that is kept.
    pub first_lsn: Lsn,
    /// The last of the caller's records.
    pub last_lsn: Option<Lsn>,
    /// Everything below is stated to be durable by a record that is whole.
    pub witnessed_lsn: Lsn,
    /// Rubble behind the last whole record: a legal leftover of a crash, which the next opening cuts.
    pub torn_bytes: u64,
    /// The last thing in the log is the record of a clean shutdown.
    pub clean_shutdown: bool,
    /// Damage to acknowledged records, in order; empty for a log that opens.
    pub corrupt: Vec<Damage>,
}

fn directory(dir: &Path) -> Directory {
    // The backend matters to writers only.
    Directory::new(dir, Backend::default())
}

/// Reads the headers.
///
/// # Errors
/// [`WalError::Io`]; [`WalError::Unsupported`].
pub fn stat(dir: &Path) -> Result<Stat, WalError> {
    stat_on(&directory(dir))
}

/// The same on any storage.
///
/// # Errors
/// As [`stat`].
pub fn stat_on(storage: &dyn Storage) -> Result<Stat, WalError> {
    let mut stat = Stat {
        log_id: None,
        version: VERSION,
        segments: Vec::new(),
        unsound: Vec::new(),
        bytes: 0,
        first_lsn: Lsn::ZERO,
    };
    for (number, name) in scan::list(storage)? {
        let Some((header, bytes)) = peek(storage, number, &name)? else { continue };
        stat.bytes += bytes;
        let Some(header) = header else {
            stat.unsound.push(name);
            continue;
        };
        stat.log_id = stat.log_id.or(Some(header.log_id));
        stat.segments.push(SegmentStat {
            name,
            number,
            base_lsn: header.base,
            bytes,
            created_at_micros: header.created_at,
            durable_lsn: header.durable,
            key_id: header.coding.key.as_ref().map(id_text),
            compressed: header.coding.compression != Compression::None,
            recycled: header.recycled,
        });
    }
    stat.first_lsn = stat.segments.first().map_or(Lsn::ZERO, |first| first.base_lsn + PAGE);
    Ok(stat)
}

/// Header and length; `None` where the file has gone since it was listed.
fn peek(storage: &dyn Storage, number: u64, name: &str) -> Result<Option<(Option<SegmentHeader>, u64)>, WalError> {
    match storage.open(name, Access::Read).map_err(WalError::io("open", name)) {
        Ok(file) => Ok(Some((scan::header(&*file, name, number)?.ok(), file.bytes()))),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads and checks every record.
///
/// # Errors
/// [`WalError::Io`]; [`WalError::Unsupported`]. Damage is part of the answer.
pub fn verify(dir: &Path) -> Result<Verify, WalError> {
    verify_with(dir, &mut |_, _| {})
}

/// The same, and tells `progress` after each segment how many bytes are done, of how many.
///
/// # Errors
/// As [`verify`].
pub fn verify_with(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Verify, WalError> {
    verify_on(&directory(dir), progress)
}

/// The same on any storage.
///
/// # Errors
/// As [`verify`].
pub fn verify_on(storage: &dyn Storage, progress: &mut dyn FnMut(u64, u64)) -> Result<Verify, WalError> {
    let found = survey(storage, How { thorough: true, evict: false, progress })?;
    let first = found.segments.first().map(|segment| &segment.header);
    let torn_bytes = found.tail.as_ref().map_or(0, |tail| tail.torn_bytes);
    Ok(Verify {
        log_id: first.map(|header| header.log_id),
        segments: found.segments.len() as u64,
        records: found.records,
        first_lsn: first.map_or(Lsn::ZERO, |header| header.base + PAGE),
        last_lsn: found.last,
        witnessed_lsn: found.durable,
        torn_bytes,
        clean_shutdown: found.closed && torn_bytes == 0,
        corrupt: found.faults.into_iter().map(Damage::from).collect(),
    })
}
