//! Following a log from outside, beside its running owner: `tail --follow`.
//!
//! *The danger.* The page cache shows what the owner has written, not what is durable. Who hands on a record that a power
//! cut then takes back has told of something that never was.
//!
//! *The remedy.* Every record and every header states what was durable when it was framed. A record is handed on once
//! something behind it states a durable Lsn at or beyond its end. The owner's own seal states it for the last group a few
//! milliseconds after the log falls idle.

use std::path::Path;

use super::directory;
use crate::format::{Class, PAGE, SegmentHeader};
use crate::payload::restore;
use crate::scan::{self, Step, Walk, is_gone, is_still, strongest_witness};
use crate::storage::{Access, SegmentFile, Storage};
use crate::{Keys, Lsn, Record, WalError};

/// Polls in vain at one position after which the bytes behind it are looked at: a break may be damage, and a log that
/// merely has nothing new must not cost a reading of its rest at each poll.
const SUSPICIOUS: u32 = 5;

/// Follows the caller's records of the log in `dir` from the first one at or after `from`: only what is durable, without
/// the log's lock. `dir` need not hold a log yet.
#[must_use]
pub fn follow(dir: &Path, from: Lsn) -> Follow {
    follow_on(Box::new(directory(dir)), from)
}

/// The same on any storage.
#[must_use]
pub fn follow_on(storage: Box<dyn Storage>, from: Lsn) -> Follow {
    Follow { storage, keys: None, from, at: Lsn::ZERO, open: None, witnessed: Lsn::ZERO, idle: (Lsn::ZERO, 0) }
}

/// See [`follow`].
#[derive(Debug)]
pub struct Follow {
    storage: Box<dyn Storage>,
    keys: Option<Keys>,
    /// Records below are passed over.
    from: Lsn,
    /// Everything below is done with; zero before the first segment.
    at: Lsn,
    open: Option<Open>,
    /// Everything below is stated to be durable.
    witnessed: Lsn,
    /// The position at which the last polls were in vain, and how many.
    idle: (Lsn, u32),
}

#[derive(Debug)]
struct Open {
    header: SegmentHeader,
    file: Box<dyn SegmentFile>,
    walk: Walk,
}

impl Follow {
    /// With keys for what is encrypted; without the right one a record answers [`WalError::Key`].
    #[must_use]
    pub fn with_keys(self, keys: Keys) -> Follow {
        Follow { keys: Some(keys), ..self }
    }

    /// The next record; `None` where nothing more is durable *for now*. Call again after a moment: the choice of the
    /// pause is the caller's, a tenth of a second suits people. Blocks for the reading.
    ///
    /// What an owner that crashed left behind its last witness comes only once the next owner has opened the log and
    /// written: until then nobody can say whether it stays.
    ///
    /// # Errors
    /// [`WalError::Released`]: what came next was released meanwhile; a new follower may begin at `first`.
    /// [`WalError::Corrupt`]: acknowledged records are damaged. [`WalError::Io`], [`WalError::Unsupported`].
    pub fn poll(&mut self) -> Result<Option<Record>, WalError> {
        while self.enter()? {
            let Some(open) = &mut self.open else { return Ok(None) };
            let here = open.walk.lsn();
            let name = open.header.name();
            match open.walk.step_surely(&*open.file).map_err(WalError::io("read", &name))? {
                Step::Record(record) => {
                    if record.end() > self.witnessed && !self.is_witnessed(here, record.end())? {
                        self.go_back(here);
                        return Ok(None);
                    }
                    let Some(open) = &mut self.open else { return Ok(None) };
                    self.at = record.end();
                    if record.class == Class::User && record.lsn >= self.from {
                        let stored = open.walk.payload(&*open.file).map_err(WalError::io("read", name))?;
                        let payload = restore(self.keys.as_ref(), &open.header, &record, stored)?;
                        let (lsn, kind, durable_lsn) = (record.lsn, record.kind, record.durable);
                        return Ok(Some(Record { lsn, kind, durable_lsn, payload }));
                    }
                }
                Step::End(_) => {
                    self.at = open.header.end();
                    self.open = None;
                }
                // Released, and the file used again: what comes next stands in another one, if it is still there.
                Step::Break(_) if !is_still(&*self.storage, &*open.file, &open.header)? => self.open = None,
                Step::Break(_) => return self.judge_break(here).map(|()| None),
            }
        }
        Ok(None)
    }

    /// Everything below is handed on or passed over.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.at
    }

    /// Opens the segment in which `at` lies; false where there is none yet.
    fn enter(&mut self) -> Result<bool, WalError> {
        if self.open.is_some() {
            return Ok(true);
        }
        for (number, name) in scan::list(&*self.storage)? {
            let Some((header, file)) = read_header(&*self.storage, number, &name)? else { continue };
            if self.at != Lsn::ZERO && header.base > self.at {
                return Err(WalError::Released { asked: self.at, first: header.base + PAGE });
            }
            if header.end() <= self.at.max(self.from) {
                continue;
            }
            self.witnessed = self.witnessed.max(header.durable);
            let mut walk = Walk::new(&header);
            walk.shortcut(&*file, self.at.max(self.from)).map_err(WalError::io("read", name))?;
            self.open = Some(Open { header, file, walk });
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether anything from `here` on states that everything below `end` is durable. Looks from where the follower
    /// stands at each call: what it looked at before was not durable, and may have been cut and written anew.
    fn is_witnessed(&mut self, here: Lsn, end: Lsn) -> Result<bool, WalError> {
        let Some(open) = &self.open else { return Ok(false) };
        let mut walk = Walk::at(&open.header, here);
        let mut further: Option<Found> = None;
        loop {
            let (header, file) = match &further {
                Some((header, file)) => (header, &**file),
                None => (&open.header, &*open.file),
            };
            let (number, step) = (header.number + 1, walk.step(file).map_err(WalError::io("read", header.name()))?);
            match step {
                Step::Record(record) => self.witnessed = self.witnessed.max(record.durable),
                Step::End(record) => {
                    self.witnessed = self.witnessed.max(record.durable);
                    let name = crate::format::segment_name(number);
                    let Some((header, file)) = read_header(&*self.storage, number, &name)? else {
                        // The end record was written once the successor's name was durable. Where it is gone, it was
                        // released, and only what is durable is released.
                        let gone = !scan::list(&*self.storage)?.iter().any(|(listed, _)| *listed == number);
                        return Ok(gone);
                    };
                    self.witnessed = self.witnessed.max(header.durable);
                    walk = Walk::new(&header);
                    further = Some((header, file));
                }
                Step::Break(_) => return Ok(self.witnessed >= end),
            }
            if self.witnessed >= end {
                return Ok(true);
            }
        }
    }

    fn go_back(&mut self, lsn: Lsn) {
        if let Some(open) = &mut self.open {
            open.walk.back_to(lsn);
            open.walk.forget_ahead();
        }
    }

    /// The chain ends here: nothing new, or damage?
    fn judge_break(&mut self, here: Lsn) -> Result<(), WalError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        self.idle = if self.idle.0 == here { (here, self.idle.1 + 1) } else { (here, 1) };
        if self.idle.1 != SUSPICIOUS {
            return Ok(());
        }
        let name = open.header.name();
        let read = || WalError::io("read", &name);
        let witness = strongest_witness(&*open.file, &open.header, here).map_err(read())?;
        if witness.durable <= here || !matches!(open.walk.look_again(&*open.file).map_err(read())?, Step::Break(_)) {
            self.go_back(here);
            return Ok(());
        }
        if !is_still(&*self.storage, &*open.file, &open.header)? {
            self.open = None;
            return Ok(());
        }
        let detail = format!("a later record states that everything below {} was durable", witness.durable);
        Err(WalError::Corrupt { segment: name, lsn: here, lost: here..witness.durable, detail })
    }
}

/// A segment's header and its file.
type Found = (SegmentHeader, Box<dyn SegmentFile>);

/// `None` where the file has gone, or is not whole: then it is not a segment yet, or not any more.
fn read_header(storage: &dyn Storage, number: u64, name: &str) -> Result<Option<Found>, WalError> {
    match storage.open(name, Access::Read).map_err(WalError::io("open", name)) {
        Ok(file) => Ok(scan::header(&*file, name, number)?.ok().map(|header| (header, file))),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
