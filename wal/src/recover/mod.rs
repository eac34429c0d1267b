//! Opening: what the survey found is made true on the disk, before anybody acts on it.
//!
//! 1. What no witness calls durable is **written again**, not only flushed: after a failed flush the page cache calls
//!    pages clean that the disk never got, and a flush of a clean page does nothing. First, since it reads: where the disk
//!    cannot, nothing has changed yet.
//! 2. Torn segments behind the tail's go, newest first, each removal durable before the next: no gap can arise.
//! 3. The rubble behind the tail becomes zeros: its records carry this segment's salt, and must never be seen again.
//! 4. All of it is flushed, and the directory with it. Only then is the log open.
//!
//! Each step may be cut off at any point and found again by the next opening, which comes to the same verdict.

use std::any::Any;
use std::time::{Duration, Instant};

use crate::format::{Link, PAGE, SegmentHeader};
use crate::keys::id_text;
use crate::options::Options;
use crate::payload::Coding;
use crate::scan::{How, Survey, list, survey};
use crate::storage::{Access, SegmentFile, Storage};
use crate::{LogId, Lsn, WalError};

/// What opening the log found and did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recovery {
    /// The log's name; a new one where the log was made just now.
    pub log_id: LogId,
    /// The first position that is still kept: read from here to read everything.
    pub first_lsn: Lsn,
    /// Where the next record will stand.
    pub next_lsn: Lsn,
    /// Everything below is durable, which is all that was found.
    pub durable_at_open: Lsn,
    /// Bytes of rubble behind the tail that were cut; 0 after a clean shutdown.
    pub torn_bytes: u64,
    /// Segments kept.
    pub segments: u64,
    /// The caller's records kept.
    pub records: u64,
    /// The log was closed in order, or made just now.
    pub clean_shutdown: bool,
    /// How long opening took.
    pub took: Duration,
}

/// An opened log, before there is a handle of it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) segments: Vec<SegmentHeader>,
    /// The last segment's file, open for writing.
    pub(crate) file: Box<dyn SegmentFile>,
    pub(crate) tail: Lsn,
    pub(crate) released: Lsn,
    /// Records that no seal stands behind.
    pub(crate) unsealed: bool,
}

/// Names of files that are being made; what is left of them after a crash is nobody's.
pub(crate) const UNFINISHED: &str = ".wal.tmp";

/// Becomes the log's owner, until the guard is dropped.
pub(crate) fn lock(storage: &dyn Storage) -> Result<Box<dyn Any + Send + Sync>, WalError> {
    storage.lock().map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => WalError::Locked { dir: storage.place() },
        _ => WalError::io("lock", storage.place())(error),
    })
}

/// Opens the log, whose lock is held, or makes a new one in an empty place.
pub(crate) fn open(storage: &dyn Storage, options: &Options, coding: Coding) -> Result<(Opened, Recovery), WalError> {
    let begun = Instant::now();
    let mut progress = |_, _| {};
    let found = survey(storage, How { thorough: false, evict: true, progress: &mut progress })?;
    if let Some(fault) = found.faults.first() {
        return Err(fault.clone().into());
    }
    let readable = |key: &_| options.keys.as_ref().is_some_and(|keys| keys.has(key));
    if let Some((header, key)) = (found.segments.iter())
        .filter_map(|segment| Some((&segment.header, segment.header.coding.key?)))
        .find(|(_, key)| !readable(key))
    {
        return Err(WalError::Key { segment: header.name(), key_id: id_text(&key) });
    }
    // Only now: a log that is refused is left as it is.
    sweep(storage)?;
    let fresh = found.tail.is_none();
    let records = found.records;
    let clean = fresh || found.closed;
    let (opened, torn_bytes) = if fresh { (create(storage, options, coding)?, 0) } else { mend(storage, found)? };
    let first = &opened.segments[0];
    let recovery = Recovery {
        log_id: first.log_id,
        first_lsn: first.base + PAGE,
        next_lsn: opened.tail,
        durable_at_open: opened.tail,
        torn_bytes,
        segments: opened.segments.len() as u64,
        records,
        clean_shutdown: clean && torn_bytes == 0,
        took: begun.elapsed(),
    };
    Ok((opened, recovery))
}

fn sweep(storage: &dyn Storage) -> Result<(), WalError> {
    let names = storage.list().map_err(WalError::io("list", storage.place()))?;
    for name in names.iter().filter(|name| name.ends_with(UNFINISHED)) {
        storage.remove(name).map_err(WalError::io("remove", name))?;
    }
    Ok(())
}

fn create(storage: &dyn Storage, options: &Options, coding: Coding) -> Result<Opened, WalError> {
    // A segment file that the survey did not see would be overwritten by the rename.
    debug_assert!(list(storage).is_ok_and(|found| found.is_empty()));
    let mut id = [0; 16];
    id[..8].copy_from_slice(&storage.random().to_le_bytes());
    id[8..].copy_from_slice(&storage.random().to_le_bytes());
    let header = SegmentHeader {
        log_id: LogId::from_bytes(id),
        number: 1,
        base: Lsn::ZERO,
        bytes: options.segment_bytes,
        salt: storage.random(),
        previous: Link::default(),
        durable: Lsn::ZERO,
        released: Lsn::ZERO,
        coding,
        recycled: false,
        created_at: storage.now_micros(),
    };
    let name = format!("first{UNFINISHED}");
    let file = storage.create(&name, header.bytes).map_err(|error| creation_error(error, &name))?;
    begin(storage, &*file, &name, &header)?;
    Ok(Opened { tail: header.base + PAGE, segments: vec![header], file, released: Lsn::ZERO, unsealed: false })
}

/// What a failed creation means.
pub(crate) fn creation_error(error: std::io::Error, name: &str) -> WalError {
    full_or("make", name, error)
}

fn full_or(action: &'static str, name: &str, error: std::io::Error) -> WalError {
    if crate::storage::is_full(&error) {
        return WalError::Full { detail: error.to_string() };
    }
    WalError::io(action, name)(error)
}

/// Makes a prepared file the segment of `header`. In this order: a file that has a segment's name has a sound header,
/// and a segment that gets records has a durable name. `Full` where the directory has no room for the name: then nothing
/// has changed but the prepared file's first page.
pub(crate) fn begin(
    storage: &dyn Storage,
    file: &dyn SegmentFile,
    prepared: &str,
    header: &SegmentHeader,
) -> Result<(), WalError> {
    let name = header.name();
    file.write_at(0, &header.encode()).map_err(WalError::io("write", prepared))?;
    file.flush(0..PAGE).map_err(WalError::io("flush", prepared))?;
    storage.rename(prepared, &name).map_err(|error| full_or("rename", prepared, error))?;
    storage.sync_dir().map_err(WalError::io("flush the directory of", name))
}

/// Makes what the survey found true on the disk, and what is behind its tail zeros: in a recycled segment as far as
/// records of its own stand there. Behind them may be a record of which sectors are missing, so such a tail is left.
pub(crate) fn mend(storage: &dyn Storage, found: Survey) -> Result<(Opened, u64), WalError> {
    let tail = found.tail.expect("only called where the survey found the tail");
    // A name that is seen may still be only in memory.
    storage.sync_dir().map_err(WalError::io("flush", storage.place()))?;
    for segment in &found.segments[..tail.segment] {
        if segment.used_to > found.durable {
            let name = segment.header.name();
            let file = storage.open(&name, Access::Write).map_err(WalError::io("open", &name))?;
            rewrite(&*file, &segment.header, found.durable..segment.used_to).map_err(WalError::io("rewrite", name))?;
        }
    }
    let header = found.segments[tail.segment].header.clone();
    let name = header.name();
    let file = storage.open(&name, Access::Write).map_err(WalError::io("open", &name))?;
    rewrite(&*file, &header, found.durable..tail.lsn).map_err(WalError::io("rewrite", &name))?;
    for name in tail.discard.iter().rev() {
        storage.remove(name).map_err(WalError::io("remove", name))?;
        storage.sync_dir().map_err(WalError::io("flush", storage.place()))?;
    }
    clear(&*file, &header, tail.lsn..tail.rubble_to).map_err(WalError::io("clear", &name))?;
    // The map that will be written through must find small folios only, not what reading has left.
    file.forget(0..header.bytes);
    let segments: Vec<SegmentHeader> = found.segments.into_iter().map(|segment| segment.header).collect();
    debug_assert_eq!(segments.len(), tail.segment + 1);
    let unsealed = found.records > 0 && !found.closed;
    Ok((Opened { segments, file, tail: tail.lsn, released: found.released, unsealed }, tail.torn_bytes))
}

/// Writes what stands in the range again, as it is, whole pages, and makes it durable.
fn rewrite(file: &dyn SegmentFile, header: &SegmentHeader, range: std::ops::Range<Lsn>) -> std::io::Result<()> {
    let start = (range.start - header.base) / PAGE * PAGE;
    let end = (range.end - header.base).next_multiple_of(PAGE).min(header.bytes);
    let mut page = vec![0; PAGE as usize];
    for at in (start..end).step_by(PAGE as usize) {
        file.read_at(at, &mut page)?;
        file.write_at(at, &page)?;
    }
    if start < end { file.flush(start..end) } else { Ok(()) }
}

/// Makes the range zeros and them durable.
fn clear(file: &dyn SegmentFile, header: &SegmentHeader, range: std::ops::Range<Lsn>) -> std::io::Result<()> {
    let (start, end) = (range.start - header.base, (range.end - header.base).next_multiple_of(PAGE));
    let zeros = [0; PAGE as usize];
    let mut at = start;
    while at < end {
        let piece = (PAGE - at % PAGE).min(end - at);
        file.write_at(at, &zeros[..piece as usize])?;
        at += piece;
    }
    if start < end { file.flush(start..end) } else { Ok(()) }
}
