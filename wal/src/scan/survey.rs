//! The survey: what a log contains, where it ends, and whether its end is a torn write or a loss.
//!
//! *The danger.* A power cut may leave any subset of the sectors that were not flushed, so a log may rightly end in
//! rubble: who refuses it never starts again. A flipped bit in acknowledged records looks the same at the place where
//! the chain breaks: who cuts there drops commits that clients were told of.
//!
//! *The remedy.* Every record and every header carries the durable Lsn that was known when it was framed. The chain
//! breaks at L. If anything valid behind the break states a durable Lsn beyond L, then what stood at L had been
//! acknowledged: a loss, refused. If nothing does, nobody can have been told of it: a torn write, cut.

use super::walk::Witness;
use super::{Step, Walk, header, is_gone, list, strongest_witness};
use crate::format::{Class, Link, PAGE, RecordFault, RecordHeader, SegmentHeader};
use crate::storage::{Access, SegmentFile, Storage};
use crate::{LogId, Lsn, WalError};

/// A place where acknowledged data is damaged or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) segment: String,
    pub(crate) lsn: Lsn,
    pub(crate) lost: std::ops::Range<Lsn>,
    pub(crate) detail: String,
}

impl From<Fault> for WalError {
    fn from(fault: Fault) -> WalError {
        let Fault { segment, lsn, lost, detail } = fault;
        WalError::Corrupt { segment, lsn, lost, detail }
    }
}

/// One segment with a sound header.
#[derive(Clone, Debug)]
pub(crate) struct Surveyed {
    pub(crate) header: SegmentHeader,
    /// The caller's records in it.
    pub(crate) records: u64,
    /// Where its last record ends.
    pub(crate) used_to: Lsn,
}

/// Where the log ends.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    /// Index in [`Survey::segments`].
    pub(crate) segment: usize,
    /// The next record belongs here.
    pub(crate) lsn: Lsn,
    /// Where the rubble in this segment ends; `lsn` where there is none.
    pub(crate) rubble_to: Lsn,
    /// Later segments, all of them torn, in order.
    pub(crate) discard: Vec<String>,
    /// Bytes of rubble here and in the later segments.
    pub(crate) torn_bytes: u64,
}

/// What a log contains.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    pub(crate) segments: Vec<Surveyed>,
    /// The caller's records.
    pub(crate) records: u64,
    /// The caller's last record.
    pub(crate) last: Option<Lsn>,
    /// The strongest witness of what stands.
    pub(crate) durable: Lsn,
    /// The furthest release that is known of.
    pub(crate) released: Lsn,
    /// Nothing follows the close record.
    pub(crate) closed: bool,
    /// `None` where there is no sound segment, or where the end could not be found behind a fault.
    pub(crate) tail: Option<Tail>,
    /// In order of Lsn. Only the first one where the survey was told to stop there.
    pub(crate) faults: Vec<Fault>,
}

/// How to go about it.
pub(crate) struct How<'a> {
    /// Go on behind a fault; else stop there.
    pub(crate) thorough: bool,
    /// Ask the disk, not the page cache, for the segments that may hold what was never flushed: after a failed flush
    /// the cache shows what the disk never got, until it happens to drop it.
    pub(crate) evict: bool,
    /// Told of each segment done: its bytes, and bytes in all.
    pub(crate) progress: &'a mut dyn FnMut(u64, u64),
}

/// Surveys a log.
///
/// # Errors
/// What the disk says, and `Unsupported`; faults are part of the answer.
pub(crate) fn survey(storage: &dyn Storage, mut how: How<'_>) -> Result<Survey, WalError> {
    loop {
        let found = survey_once(storage, &mut how)?;
        // The owner may have released a segment meanwhile, and be using its file again: what was read in it then says
        // nothing. It has lost its name before.
        let in_question = match (found.faults.first(), &found.tail) {
            (Some(fault), _) => fault.segment.clone(),
            (None, Some(tail)) => found.segments[tail.segment].header.name(),
            (None, None) => return Ok(found),
        };
        if list(storage)?.iter().any(|(_, name)| *name == in_question) {
            return Ok(found);
        }
    }
}

fn survey_once<'a, 'b>(storage: &'a dyn Storage, how: &'a mut How<'b>) -> Result<Survey, WalError> {
    let mut surveyor = Surveyor {
        storage,
        names: list(storage)?,
        how,
        found: Survey::default(),
        expected: None,
        done_bytes: 0,
        flushed: Lsn::ZERO,
    };
    surveyor.flushed = surveyor.flushed_by_headers()?;
    let mut index = 0;
    while index < surveyor.names.len() {
        if surveyor.segment(index)? == Go::Stop {
            break;
        }
        index += 1;
    }
    surveyor.check_release();
    Ok(surveyor.found)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

/// What the next segment must be.
#[derive(Clone, Copy, Debug)]
struct Expected {
    log_id: LogId,
    number: u64,
    base: Lsn,
    /// Its salt and its link; `None` behind a fault, where the end record was not seen.
    link: Option<(u64, Link)>,
}

struct Surveyor<'a, 'b> {
    storage: &'a dyn Storage,
    names: Vec<(u64, String)>,
    how: &'a mut How<'b>,
    found: Survey,
    expected: Option<Expected>,
    done_bytes: u64,
    /// What the headers alone call durable: segments up to here were flushed for certain.
    flushed: Lsn,
}

impl Surveyor<'_, '_> {
    fn flushed_by_headers(&self) -> Result<Lsn, WalError> {
        let mut flushed = Lsn::ZERO;
        for (number, name) in self.names.iter().filter(|_| self.how.evict) {
            let file = self.storage.open(name, Access::Read).map_err(WalError::io("open", name))?;
            if let Ok(header) = header(&*file, name, *number)? {
                flushed = flushed.max(header.durable);
            }
        }
        Ok(flushed)
    }

    fn segment(&mut self, index: usize) -> Result<Go, WalError> {
        let (number, name) = self.names[index].clone();
        let file = match self.storage.open(&name, Access::Read).map_err(WalError::io("open", &*name)) {
            Ok(file) => file,
            // Released between the listing and now.
            Err(error) if is_gone(&error) && self.found.segments.is_empty() => return Ok(Go::On),
            Err(error) => return Err(error),
        };
        let header = match self.sound_header(&*file, number, &name)? {
            Ok(header) => header,
            Err(fault) => {
                // What the next one must be is still known, save for the link.
                self.expected = self.expected.map(|was| Expected {
                    number: number + 1,
                    base: was.base + file.bytes(),
                    link: None,
                    ..was
                });
                return Ok(self.fault(fault));
            }
        };
        if self.how.evict && header.end() > self.flushed {
            file.forget(0..file.bytes());
        }
        self.found.durable = self.found.durable.max(header.durable);
        self.found.released = self.found.released.max(header.released);
        let next = Expected { log_id: header.log_id, number: number + 1, base: header.end(), link: None };
        self.expected = Some(next);
        self.found.segments.push(Surveyed { used_to: header.base + PAGE, header: header.clone(), records: 0 });
        let go = self.walk(index, &name, &*file, &header)?;
        self.done_bytes += header.bytes;
        let remaining = (self.names.len() - index - 1) as u64 * header.bytes;
        (self.how.progress)(self.done_bytes, self.done_bytes + remaining);
        Ok(go)
    }

    /// The header, if it is sound and the right one at this place of the chain.
    fn sound_header(
        &self,
        file: &dyn SegmentFile,
        number: u64,
        name: &str,
    ) -> Result<Result<SegmentHeader, Fault>, WalError> {
        let at = self.expected.map_or(Lsn::ZERO, |expected| expected.base);
        let fault = |lost_to: Lsn, detail: &str| {
            Ok(Err(Fault { segment: name.to_owned(), lsn: at, lost: at..lost_to, detail: detail.to_owned() }))
        };
        let header = match header(file, name, number)? {
            Ok(header) => header,
            Err(detail) => return fault(at + file.bytes(), detail),
        };
        let Some(expected) = self.expected else { return Ok(Ok(header)) };
        if header.log_id != expected.log_id {
            return fault(at + header.bytes, "the segment belongs to another log");
        }
        if number != expected.number || header.base != expected.base {
            return fault(header.base, "segments before this one are missing");
        }
        if expected.link.is_some_and(|link| link != (header.salt, header.previous)) {
            return fault(header.end(), "the segment does not continue the one before it");
        }
        Ok(Ok(header))
    }

    fn walk(
        &mut self,
        index: usize,
        name: &str,
        file: &dyn SegmentFile,
        header: &SegmentHeader,
    ) -> Result<Go, WalError> {
        let read = || WalError::io("read", name);
        let mut walk = Walk::new(header);
        let mut step = walk.step(file).map_err(read())?;
        // Asked for at the first break; the segments behind do not change their story.
        let mut later: Option<Later> = None;
        loop {
            match step {
                Step::Record(record) => {
                    let value = if record.class == Class::User { 0 } else { walk.value(file).map_err(read())? };
                    self.count(&record, value);
                }
                Step::End(record) => {
                    let successor = walk.value(file).map_err(read())?;
                    return self.end(index, name, header, &record, successor);
                }
                Step::Break(why) => {
                    let here = walk.lsn();
                    let witness = strongest_witness(file, header, here).map_err(read())?;
                    let later = match &later {
                        Some(known) => known,
                        None => later.insert(self.later_witness(index + 1)?),
                    };
                    // The log may be in use by its owner: what was half written a moment ago may stand now.
                    step = walk.look_again(file).map_err(read())?;
                    if !matches!(step, Step::Break(_)) {
                        continue;
                    }
                    match self.judge(index, name, here, why, witness, later) {
                        Judgement::Torn => return Ok(Go::Stop),
                        Judgement::Lost(Go::Stop) => return Ok(Go::Stop),
                        Judgement::Lost(Go::On) => {
                            let Some(next) = witness.next else { return Ok(Go::On) };
                            step = walk.resume(file, next).map_err(read())?;
                            continue;
                        }
                    }
                }
            }
            step = walk.step(file).map_err(read())?;
        }
    }

    fn count(&mut self, record: &RecordHeader, value: u64) {
        let found = &mut self.found;
        found.durable = found.durable.max(record.durable);
        found.closed = record.class == Class::Close;
        if record.class == Class::Release {
            found.released = found.released.max(Lsn::from_u64(value));
        }
        let segment = found.segments.last_mut().expect("a record is counted in the segment that was pushed before");
        segment.used_to = record.end();
        if record.class == Class::User {
            segment.records += 1;
            found.records += 1;
            found.last = Some(record.lsn);
        }
    }

    /// The end record promises a successor: its name was durable before the end record was written.
    fn end(
        &mut self,
        index: usize,
        name: &str,
        header: &SegmentHeader,
        record: &RecordHeader,
        successor: u64,
    ) -> Result<Go, WalError> {
        self.found.durable = self.found.durable.max(record.durable);
        self.found.closed = false;
        if let Some(segment) = self.found.segments.last_mut() {
            segment.used_to = record.end();
        }
        if let Some(expected) = &mut self.expected {
            let link = Link { salt: header.salt, last: record.lsn, crc: record.crc };
            expected.link = Some((successor, link));
        }
        if index + 1 == self.names.len() {
            // The owner may have begun it after the listing.
            let newer = list(self.storage)?.into_iter().filter(|(number, _)| *number > header.number);
            self.names.extend(newer);
        }
        if index + 1 < self.names.len() {
            return Ok(Go::On);
        }
        let lost = header.end()..header.end() + header.bytes;
        let detail = "the segment after this one is missing".to_owned();
        Ok(self.fault(Fault { segment: name.to_owned(), lsn: header.end(), lost, detail }))
    }

    /// Torn or lost?
    fn judge(
        &mut self,
        index: usize,
        name: &str,
        here: Lsn,
        why: RecordFault,
        witness: Witness,
        later: &Later,
    ) -> Judgement {
        let durable = witness.durable.max(later.durable).max(self.found.durable);
        if durable > here {
            let detail = format!("{why}, and a later record states that everything below {durable} was durable");
            let lost = here..witness.next.map_or(durable, |next| next.min(durable));
            let lost = if self.how.thorough { lost } else { here..durable };
            return Judgement::Lost(self.fault(Fault { segment: name.to_owned(), lsn: here, lost, detail }));
        }
        if let Some(fault) = later.fault.clone() {
            return Judgement::Lost(self.fault(Fault { lsn: here, lost: here..fault.lost.end, ..fault }));
        }
        self.found.tail = Some(Tail {
            segment: self.found.segments.len() - 1,
            lsn: here,
            rubble_to: witness.written_to,
            discard: self.names[index + 1..].iter().map(|(_, name)| name.clone()).collect(),
            torn_bytes: (witness.written_to - here) + later.written,
        });
        Judgement::Torn
    }

    /// What the segments from `index` on have to say about an earlier break.
    fn later_witness(&self, index: usize) -> Result<Later, WalError> {
        let mut later = Later::default();
        for (number, name) in &self.names[index..] {
            let file = self.storage.open(name, Access::Read).map_err(WalError::io("open", name))?;
            match header(&*file, name, *number)? {
                Ok(header) => {
                    let from = header.base + PAGE;
                    let witness = strongest_witness(&*file, &header, from).map_err(WalError::io("read", name))?;
                    later.durable = later.durable.max(header.durable).max(witness.durable);
                    later.written += witness.written_to - from;
                }
                // A segment gets its name only once its header is durable: no crash leaves one without.
                Err(detail) => {
                    let base = self.expected.map_or(Lsn::ZERO, |expected| expected.base);
                    let lost = base..base + file.bytes();
                    let fault = Fault { segment: name.clone(), lsn: base, lost, detail: detail.to_owned() };
                    later.fault = later.fault.or(Some(fault));
                }
            }
        }
        Ok(later)
    }

    /// What is missing at the front must have been released.
    fn check_release(&mut self) {
        let Some(first) = self.found.segments.first() else { return };
        if self.found.released < first.header.base && (self.how.thorough || self.found.faults.is_empty()) {
            let fault = Fault {
                segment: first.header.name(),
                lsn: self.found.released,
                lost: self.found.released..first.header.base,
                detail: "segments before this one are missing and were never released".to_owned(),
            };
            self.found.faults.insert(0, fault);
        }
    }

    fn fault(&mut self, fault: Fault) -> Go {
        self.found.faults.push(fault);
        if self.how.thorough { Go::On } else { Go::Stop }
    }
}

enum Judgement {
    Torn,
    Lost(Go),
}

#[derive(Clone, Debug, Default)]
struct Later {
    durable: Lsn,
    written: u64,
    fault: Option<Fault>,
}
