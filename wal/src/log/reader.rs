//! Reading records back, while the log goes on growing.

use std::sync::Arc;

use super::Shared;
use crate::format::{Class, PAGE, SegmentHeader};
use crate::payload::restore;
use crate::scan::{Step, Walk, is_gone};
use crate::storage::{Access, SegmentFile};
use crate::{Lsn, WalError};

/// A record as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its first byte.
    pub lsn: Lsn,
    /// The caller's kind.
    pub kind: u8,
    /// What was known to be durable when it was framed.
    pub durable_lsn: Lsn,
    /// The caller's bytes.
    pub payload: Vec<u8>,
}

/// Iterates over the caller's records; made by [`Wal::read`](crate::Wal::read).
///
/// Sees only what is durable. `None` means that there is nothing more *for now*: a later call goes on where this one
/// ended. Memory is bounded by the largest record. An error is repeated by nothing: after one the reader is at its end,
/// except after [`WalError::Released`], which names where to begin instead.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    /// The next record begins here or later.
    at: Lsn,
    /// Records below are passed over.
    from: Lsn,
    open: Option<Open>,
    failed: bool,
}

#[derive(Debug)]
struct Open {
    header: SegmentHeader,
    file: Box<dyn SegmentFile>,
    walk: Walk,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, from: Lsn) -> Reader {
        Reader { shared, at: from, from, open: None, failed: false }
    }

    /// Opens the segment in which `at` lies; false where there is none.
    fn enter(&mut self) -> Result<bool, WalError> {
        if self.open.is_none() {
            let Some(header) = self.segment_of_position()? else { return Ok(false) };
            let name = header.name();
            let file = match self.shared.storage.open(&name, Access::Read).map_err(WalError::io("open", name)) {
                Ok(file) => file,
                Err(error) if is_gone(&error) => {
                    return Err(WalError::Released { asked: self.at, first: self.shared.stats().oldest_lsn });
                }
                Err(error) => return Err(error),
            };
            let mut walk = Walk::new(&header);
            walk.shortcut(&*file, self.at).map_err(WalError::io("read", header.name()))?;
            self.open = Some(Open { header, file, walk });
        }
        Ok(true)
    }

    fn segment_of_position(&self) -> Result<Option<SegmentHeader>, WalError> {
        let segments = self.shared.segments();
        let Some(oldest) = segments.front() else { return Ok(None) };
        // The very beginning of the stream means "from what there is"; any other position was known from somewhere.
        if self.at < oldest.base && self.at != Lsn::ZERO {
            return Err(WalError::Released { asked: self.at, first: oldest.base + PAGE });
        }
        let index = segments.partition_point(|header| header.end() <= self.at);
        Ok(segments.get(index).cloned())
    }

    fn advance(&mut self) -> Result<Option<Record>, WalError> {
        loop {
            let durable = self.shared.watermark.durable();
            let from = self.from;
            if !self.enter()? {
                return Ok(None);
            }
            let Some(open) = &mut self.open else { return Ok(None) };
            // Behind the durable Lsn there may be anything, also half a record.
            if open.walk.lsn() >= durable {
                return Ok(None);
            }
            let name = open.header.name();
            match open.walk.step_surely(&*open.file).map_err(WalError::io("read", &name))? {
                Step::Record(record) => {
                    self.at = record.end();
                    if record.class == Class::User && record.lsn >= from {
                        let payload = open.walk.payload(&*open.file).map_err(WalError::io("read", name))?;
                        return Ok(Some(Record {
                            lsn: record.lsn,
                            kind: record.kind,
                            durable_lsn: record.durable,
                            payload: restore(self.shared.options.keys.as_ref(), &open.header, &record, payload)?,
                        }));
                    }
                }
                Step::End(_) => {
                    self.at = open.header.end();
                    self.open = None;
                }
                // A file that is used again holds nothing of what was asked for.
                Step::Break(_) if !self.shared.is_kept(&open.header) => {
                    return Err(WalError::Released { asked: self.at, first: self.shared.stats().oldest_lsn });
                }
                Step::Break(why) => {
                    let lsn = open.walk.lsn();
                    let detail = format!("{why}, though it was read when the log was opened or written since");
                    return Err(WalError::Corrupt { segment: name, lsn, lost: lsn..durable, detail });
                }
            }
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Record, WalError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance();
        self.failed = next.is_err();
        next.transpose()
    }
}
