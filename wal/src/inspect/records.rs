//! Reading a log once, from outside.

use std::collections::VecDeque;
use std::path::Path;

use super::directory;
use crate::format::{Class, SegmentHeader};
use crate::payload::restore;
use crate::scan::{self, How, Step, Walk, is_gone, is_still, survey};
use crate::storage::{Access, SegmentFile, Storage};
use crate::{Keys, Lsn, Record, WalError};

/// Iterates over the caller's records from the first one at or after `from`: all that an opening would keep, durable or
/// not. Ends at a torn tail; at damage to acknowledged records its last item is [`WalError::Corrupt`].
///
/// # Errors
/// [`WalError::Io`].
pub fn records(dir: &Path, from: Lsn) -> Result<Records, WalError> {
    records_on(Box::new(directory(dir)), from)
}

/// The same on any storage.
///
/// # Errors
/// As [`records`].
pub fn records_on(storage: Box<dyn Storage>, from: Lsn) -> Result<Records, WalError> {
    let names: VecDeque<_> = scan::list(&*storage)?.into();
    Ok(Records { storage, keys: None, names, from, open: None, last_number: 0, passed: 0, ended: false })
}

/// See [`records`].
#[derive(Debug)]
pub struct Records {
    storage: Box<dyn Storage>,
    keys: Option<Keys>,
    /// Segments still to be read.
    names: VecDeque<(u64, String)>,
    from: Lsn,
    open: Option<(SegmentHeader, Box<dyn SegmentFile>, Walk)>,
    last_number: u64,
    /// Bytes of the segments that are done.
    passed: u64,
    ended: bool,
}

impl Records {
    /// With keys for what is encrypted; without the right one a record's place answers [`WalError::Key`].
    #[must_use]
    pub fn with_keys(self, keys: Keys) -> Records {
        Records { keys: Some(keys), ..self }
    }

    /// Bytes read so far, and bytes in all as far as is known, for a progress bar. The last segment's unused rest counts
    /// as unread.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let (here, size) = match &self.open {
            Some((header, _, walk)) => (walk.lsn() - header.base, header.bytes),
            None => (0, 0),
        };
        (self.passed + here, self.passed + size.max(1) * (self.names.len() as u64 + u64::from(self.open.is_some())))
    }

    fn enter(&mut self) -> Result<bool, WalError> {
        while self.open.is_none() {
            if self.names.is_empty() {
                // The owner may have gone over to another one since.
                let seen = self.last_number;
                self.names = scan::list(&*self.storage)?.into_iter().filter(|(number, _)| *number > seen).collect();
            }
            let Some((number, name)) = self.names.pop_front() else { return Ok(false) };
            self.last_number = number;
            let file = match self.storage.open(&name, Access::Read).map_err(WalError::io("open", &*name)) {
                Ok(file) => file,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            let Ok(header) = scan::header(&*file, &name, number)? else {
                self.fail_if_corrupt()?;
                return Ok(false);
            };
            if header.end() <= self.from {
                self.passed += header.bytes;
                continue;
            }
            let mut walk = Walk::new(&header);
            walk.shortcut(&*file, self.from).map_err(WalError::io("read", &name))?;
            self.open = Some((header, file, walk));
        }
        Ok(true)
    }

    /// Where a chain ends, only the whole log can tell whether it is torn or broken.
    fn fail_if_corrupt(&self) -> Result<(), WalError> {
        let found = survey(&*self.storage, How { thorough: false, evict: false, progress: &mut |_, _| {} })?;
        match found.faults.into_iter().next() {
            Some(fault) => Err(fault.into()),
            None => Ok(()),
        }
    }

    fn advance(&mut self) -> Result<Option<Record>, WalError> {
        loop {
            if !self.enter()? {
                return Ok(None);
            }
            let Some((header, file, walk)) = &mut self.open else { return Ok(None) };
            match walk.step_surely(&**file).map_err(WalError::io("read", header.name()))? {
                Step::Record(record) if record.class == Class::User && record.lsn >= self.from => {
                    let stored = walk.payload(&**file).map_err(WalError::io("read", header.name()))?;
                    let payload = restore(self.keys.as_ref(), header, &record, stored)?;
                    return Ok(Some(Record {
                        lsn: record.lsn,
                        kind: record.kind,
                        durable_lsn: record.durable,
                        payload,
                    }));
                }
                Step::Record(_) => {}
                Step::End(_) => {
                    self.passed += header.bytes;
                    self.open = None;
                }
                Step::Break(_) if !is_still(&*self.storage, &**file, header)? => {
                    let asked = walk.lsn();
                    return Err(WalError::Released { asked, first: super::stat_on(&*self.storage)?.first_lsn });
                }
                Step::Break(_) => {
                    self.fail_if_corrupt()?;
                    return Ok(None);
                }
            }
        }
    }
}

impl Iterator for Records {
    type Item = Result<Record, WalError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.advance();
        self.ended = !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}
