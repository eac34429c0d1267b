//! Repair: what can be done, offline, for a log that does not open.
//!
//! *What it can do.* Cut a torn tail, as the next opening would. Set aside whatever stands at or behind damage, whole
//! segments at a time, so that the log opens again with all that stands before it. Nothing is ever written into a
//! segment that was damaged: the whole files go to the folder `quarantine`, and where a segment's beginning is sound, a
//! copy of that beginning stands in its place.
//!
//! *What it cannot do.* Bring lost records back, or keep those behind the damage: a log with a hole in it would show a
//! later record without an earlier one on which it rests. And it will not declare missing segments at the front released.
//!
//! [`plan`] only looks; [`carry_out`] does what a plan says, if the log is still as the plan found it. It may be cut off
//! at any point: what is left gives the same plan again, or opens with the same records.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use crate::format::{Link, PAGE, SegmentHeader, segment_name};
use crate::inspect::Damage;
use crate::options::Backend;
use crate::recover::{self, UNFINISHED};
use crate::scan::{Fault, How, Step, Survey, Walk, list, survey};
use crate::storage::{Access, Directory, SegmentFile, Storage};
use crate::{LogId, Lsn, WalError};

/// What is to be done, and what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// `None` where there is no sound segment.
    pub log_id: Option<LogId>,
    /// What helps.
    pub remedy: Remedy,
    /// The caller's records that the log holds afterwards.
    pub kept_records: u64,
    /// Where the log ends afterwards; the next record stands here or later.
    pub kept_to: Lsn,
    /// What is given up by it, acknowledged or not: everything that is known to have been written behind `kept_to`. Empty
    /// where nothing is.
    pub lost: Range<Lsn>,
    /// Of that, everything below this had been acknowledged for certain; at most `kept_to` where nothing had.
    pub acknowledged_to: Lsn,
    /// The caller's records that are given up though they can still be read; they stay readable in the quarantine.
    pub set_aside_records: u64,
    /// All damage that was found, in order.
    pub damage: Vec<Damage>,
}

/// What helps a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Nothing is wrong.
    Nothing,
    /// The rubble behind the last record is made zeros, and segments of nothing but rubble go. The next opening would do
    /// the same; nothing that was acknowledged is lost.
    Cut {
        /// Bytes of rubble.
        torn_bytes: u64,
    },
    /// Whole segments go to the quarantine.
    Quarantine {
        /// Their file names, oldest first.
        segments: Vec<String>,
        /// The segment that is written anew in their place: a copy of the sound beginning, or an empty one, which the
        /// segment before promises. `None` where nothing of the log stays: the next opening begins a new one.
        anew: Option<String>,
    },
    /// Nothing that repair may do.
    Beyond {
        /// Why not, and what else helps.
        why: String,
    },
}

impl Plan {
    /// Whether carrying it out changes anything.
    #[must_use]
    pub fn acts(&self) -> bool {
        matches!(self.remedy, Remedy::Cut { .. } | Remedy::Quarantine { .. })
    }
}

impl fmt::Display for Plan {
    /// Whole sentences for people: what repair can do, what that costs, and what it cannot do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kept, end) = (self.kept_records, self.kept_to);
        match &self.remedy {
            Remedy::Nothing => write!(f, "nothing is wrong: {kept} records up to Lsn {end}"),
            Remedy::Cut { torn_bytes } => write!(
                f,
                "{torn_bytes} torn bytes behind Lsn {end} can be cut, as the next start does by itself; {kept} records \
                 stay and nothing that was acknowledged is lost"
            ),
            Remedy::Quarantine { segments, anew } => {
                let from = segments.first().map_or("-", String::as_str);
                write!(f, "repair can set {} segments aside, from {from} on, ", segments.len())?;
                match anew {
                    Some(_) => write!(f, "and keep {kept} records up to Lsn {end}; ")?,
                    None => write!(f, "which is the whole log: the next start begins a new one; ")?,
                }
                let Range { start, end } = self.lost;
                write!(f, "everything in {start}..{end} is given up")?;
                if self.acknowledged_to > self.kept_to {
                    write!(f, ", of which all below {} had been acknowledged", self.acknowledged_to)?;
                }
                let aside = self.set_aside_records;
                write!(
                    f,
                    "; {aside} records of it stay readable in the quarantine. Repair can neither bring damaged records \
                     back nor keep those behind the damage: a sound copy of the segments can"
                )
            }
            Remedy::Beyond { why } => write!(f, "repair cannot help: {why}"),
        }
    }
}

/// What [`carry_out`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// Where the segments that were set aside are now, below the log's folder, newest first.
    pub quarantined: Vec<String>,
}

/// Looks what can be done for the log in `dir`, and changes nothing. Takes no lock; beside a running owner the answer is
/// a snapshot. Blocks for reading the log twice.
///
/// # Errors
/// [`WalError::Io`]; [`WalError::Unsupported`]. Damage is part of the answer.
pub fn plan(dir: &Path) -> Result<Plan, WalError> {
    plan_on(&Directory::new(dir, Backend::Pwrite))
}

/// The same on any storage.
///
/// # Errors
/// As [`plan`].
pub fn plan_on(storage: &dyn Storage) -> Result<Plan, WalError> {
    Ok(examine(storage)?.0)
}

/// Does what `plan` says, as the log's owner. Blocks.
///
/// # Errors
/// [`WalError::Locked`]: the log is in use. [`WalError::Options`]: the log is not any more as the plan found it, or the
/// plan says that repair cannot help; nothing was changed. [`WalError::Io`]: it may be half done; plan again.
pub fn carry_out(dir: &Path, plan: &Plan) -> Result<Repaired, WalError> {
    carry_out_on(&Directory::new(dir, Backend::Pwrite), plan)
}

/// The same on any storage that can set files aside.
///
/// # Errors
/// As [`carry_out`].
pub fn carry_out_on(storage: &dyn Storage, plan: &Plan) -> Result<Repaired, WalError> {
    let _lock = recover::lock(storage)?;
    let (found, work) = examine(storage)?;
    if found != *plan {
        return Err(WalError::Options("the log is not as the plan found it: plan again".to_owned()));
    }
    let mut quarantined = Vec::new();
    match work {
        Work::Nothing => {}
        Work::Beyond => return Err(WalError::Options(plan.to_string())),
        Work::Cut => cut(storage)?,
        Work::Quarantine { segments, anew } => quarantine(storage, &segments, anew.as_ref(), &mut quarantined)?,
    }
    match look(storage, false)?.faults.into_iter().next() {
        None => Ok(Repaired { quarantined }),
        Some(fault) => Err(fault.into()),
    }
}

/// Opens the log and leaves it at that.
fn cut(storage: &dyn Storage) -> Result<(), WalError> {
    recover::mend(storage, look(storage, false)?).map(drop)
}

/// The plan in terms of files.
enum Work {
    Nothing,
    Cut,
    Quarantine { segments: Vec<String>, anew: Option<Anew> },
    Beyond,
}

/// The segment that takes the place of what is set aside.
struct Anew {
    header: SegmentHeader,
    /// Whether a file of its name stands there, and is set aside with the rest.
    replaces: bool,
    /// What is copied from there: up to this place.
    to: Lsn,
}

fn look(storage: &dyn Storage, thorough: bool) -> Result<Survey, WalError> {
    survey(storage, How { thorough, evict: true, progress: &mut |_, _| {} })
}

fn examine(storage: &dyn Storage) -> Result<(Plan, Work), WalError> {
    let first = look(storage, false)?;
    let log_id = first.segments.first().map(|segment| segment.header.log_id);
    let kept_to = first.tail.as_ref().map_or(Lsn::ZERO, |tail| tail.lsn);
    let mut plan = Plan {
        log_id,
        remedy: Remedy::Nothing,
        kept_records: first.records,
        kept_to,
        lost: kept_to..kept_to,
        acknowledged_to: kept_to,
        set_aside_records: 0,
        damage: Vec::new(),
    };
    let Some(fault) = first.faults.first() else {
        let torn = first.tail.as_ref().filter(|tail| tail.torn_bytes > 0 || !tail.discard.is_empty());
        let Some(tail) = torn else { return Ok((plan, Work::Nothing)) };
        plan.remedy = Remedy::Cut { torn_bytes: tail.torn_bytes };
        return Ok((plan, Work::Cut));
    };
    let all = look(storage, true)?;
    let names = list(storage)?;
    let released = all.released;
    plan.damage = all.faults.iter().cloned().map(Damage::from).collect();
    if first.segments.first().is_some_and(|segment| segment.header.base > released) {
        let why =
            "segments are missing at the front that were never released, and repair does not declare them released. \
                   Put them back from a copy; or move the folder away, and the next start begins a new log"
                .to_owned();
        plan.remedy = Remedy::Beyond { why };
        return Ok((plan, Work::Beyond));
    }
    let (anew, from) = match first.segments.last() {
        None => (None, 0),
        Some(last) => {
            let anew = anew(storage, &last.header, fault, released)?;
            let from = anew.header.number;
            (Some(anew), from)
        }
    };
    let segments: Vec<String> = names.into_iter().filter(|(number, _)| *number >= from).map(|(_, name)| name).collect();
    plan.kept_to = anew.as_ref().map_or(Lsn::ZERO, |anew| anew.to);
    let written = all.segments.iter().map(|segment| segment.used_to).chain(all.faults.iter().map(|f| f.lost.end));
    plan.lost = plan.kept_to..written.max().unwrap_or(Lsn::ZERO).max(plan.kept_to);
    // A break names a witness; an unsound header only says how much stood there.
    let broken = anew.as_ref().is_some_and(|anew| anew.replaces && anew.header.name() == fault.segment);
    let stated = if broken { fault.lost.end } else { Lsn::ZERO };
    plan.acknowledged_to = all.durable.max(stated).min(plan.lost.end);
    plan.set_aside_records = all.records.saturating_sub(first.records);
    plan.remedy = Remedy::Quarantine { segments: segments.clone(), anew: anew.as_ref().map(|anew| anew.header.name()) };
    Ok((plan, Work::Quarantine { segments, anew }))
}

/// What takes the place of the damage at `fault`, which the sound part up to the segment of `last` leads to.
fn anew(storage: &dyn Storage, last: &SegmentHeader, fault: &Fault, released: Lsn) -> Result<Anew, WalError> {
    if fault.lsn < last.end() {
        // The note of the last release may stand in what is set aside: the header carries it on.
        let released = last.released.max(released.min(fault.lsn));
        return Ok(Anew {
            header: SegmentHeader { released, recycled: false, ..last.clone() },
            replaces: true,
            to: fault.lsn,
        });
    }
    let name = last.name();
    let file = storage.open(&name, Access::Read).map_err(WalError::io("open", &name))?;
    let mut walk = Walk::new(last);
    let (end, salt) = loop {
        match walk.step(&*file).map_err(WalError::io("read", &name))? {
            Step::Record(_) => {}
            Step::End(end) => break (end, walk.value(&*file).map_err(WalError::io("read", &name))?),
            // It was there a moment ago.
            Step::Break(_) => return Err(fault.clone().into()),
        }
    };
    let header = SegmentHeader {
        number: last.number + 1,
        base: last.end(),
        salt,
        previous: Link { salt: last.salt, last: end.lsn, crc: end.crc },
        durable: end.durable,
        released: last.released.max(released.min(last.end())),
        recycled: false,
        created_at: storage.now_micros(),
        ..last.clone()
    };
    Ok(Anew { to: header.base + PAGE, header, replaces: false })
}

/// In this order: the new file is whole before anything moves; later segments go first, so that no gap arises; the file
/// that is replaced has its second name before it loses the first.
fn quarantine(
    storage: &dyn Storage,
    segments: &[String],
    anew: Option<&Anew>,
    moved: &mut Vec<String>,
) -> Result<(), WalError> {
    let prepared = format!("repair{UNFINISHED}");
    if let Some(anew) = anew {
        let file = storage.create(&prepared, anew.header.bytes).map_err(|e| recover::creation_error(e, &prepared))?;
        if anew.replaces {
            copy(storage, anew, &*file)?;
        }
        file.write_at(0, &anew.header.encode()).map_err(WalError::io("write", &prepared))?;
        file.flush(0..anew.header.bytes).map_err(WalError::io("flush", &prepared))?;
    }
    let flush_dir = || storage.sync_dir().map_err(WalError::io("flush", storage.place()));
    for name in segments.iter().rev() {
        moved.push(storage.set_aside(name).map_err(WalError::io("set aside", name))?);
        let replaced = anew.is_some_and(|anew| anew.replaces && anew.header.name() == *name);
        if !replaced {
            storage.remove(name).map_err(WalError::io("remove", name))?;
            flush_dir()?;
        }
    }
    if let Some(anew) = anew {
        let name = segment_name(anew.header.number);
        storage.rename(&prepared, &name).map_err(WalError::io("rename", &prepared))?;
        flush_dir()?;
    }
    Ok(())
}

/// The sound records, byte by byte, behind the place of the header.
fn copy(storage: &dyn Storage, anew: &Anew, to: &dyn SegmentFile) -> Result<(), WalError> {
    let name = anew.header.name();
    let from = storage.open(&name, Access::Read).map_err(WalError::io("open", &name))?;
    let end = anew.to - anew.header.base;
    let mut page = vec![0; PAGE as usize];
    let mut at = PAGE;
    while at < end {
        let piece = PAGE.min(end - at) as usize;
        from.read_at(at, &mut page[..piece]).map_err(WalError::io("read", &name))?;
        to.write_at(at, &page[..piece]).map_err(WalError::io("write", &name))?;
        at += piece as u64;
    }
    Ok(())
}
