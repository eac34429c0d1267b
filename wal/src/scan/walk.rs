//! The walk along one segment's records, and the search for witnesses behind a break.

use std::io;

use super::window::Window;
use crate::Lsn;
use crate::format::{ALIGN, Class, PAGE, RECORD_HEADER, RecordFault, RecordHeader, SegmentHeader, precheck, verify};
use crate::storage::SegmentFile;

/// What stands at the walk's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A record; the walk stands behind it now. Its payload is [`Walk::payload`].
    Record(RecordHeader),
    /// The end record: the segment has a successor. The walk stays.
    End(RecordHeader),
    /// No record of this position. The walk stays.
    Break(RecordFault),
}

/// A position in one segment. Holds no file, so that its owner decides how long the file stays open.
#[derive(Debug)]
pub(crate) struct Walk {
    base: Lsn,
    bytes: u64,
    salt: u64,
    offset: u64,
    window: Window,
    /// Where the payload of the last record stands.
    payload: (u64, u64),
}

impl Walk {
    /// A walk from the first record.
    pub(crate) fn new(header: &SegmentHeader) -> Walk {
        Walk {
            base: header.base,
            bytes: header.bytes,
            salt: header.salt,
            offset: PAGE,
            window: Window::default(),
            payload: (0, 0),
        }
    }

    /// A walk from `lsn` on, where a record of this segment begins or the chain ends.
    pub(crate) fn at(header: &SegmentHeader, lsn: Lsn) -> Walk {
        Walk { offset: lsn - header.base, ..Walk::new(header) }
    }

    /// Goes back to where a record began: it is to be met again.
    pub(crate) fn back_to(&mut self, lsn: Lsn) {
        self.offset = lsn - self.base;
    }

    /// Where the walk stands.
    pub(crate) fn lsn(&self) -> Lsn {
        self.base + self.offset
    }

    /// Goes on behind a break with the record at `lsn`, whatever it says of what stood before it.
    pub(crate) fn resume(&mut self, file: &dyn SegmentFile, lsn: Lsn) -> io::Result<Step> {
        self.offset = lsn - self.base;
        Ok(match self.look(file, self.offset)? {
            Ok(header) => self.take(header),
            Err(fault) => Step::Break(fault),
        })
    }

    /// Takes the next step.
    pub(crate) fn step(&mut self, file: &dyn SegmentFile) -> io::Result<Step> {
        let here = self.lsn();
        let found = match self.look(file, self.offset)? {
            // A seal must follow what it says it follows: else records between are missing.
            Ok(header) if header.class.seals() && self.value(file)? != here.as_u64() => Err(RecordFault::Meaning),
            found => found,
        };
        let fault = match found {
            Ok(header) => return Ok(self.take(header)),
            Err(fault) => fault,
        };
        // A seal stands at the start of the next page and says that nothing stands between.
        let page = self.offset.next_multiple_of(PAGE);
        if page != self.offset
            && let Ok(header) = self.look(file, page)?
            && header.class.seals()
            && self.value(file)? == here.as_u64()
        {
            return Ok(self.take(header));
        }
        Ok(Step::Break(fault))
    }

    /// The same step again with fresh eyes: a writer may have been in the middle of it.
    pub(crate) fn look_again(&mut self, file: &dyn SegmentFile) -> io::Result<Step> {
        self.window.drop_held();
        self.step(file)
    }

    /// Reads anew at the next step.
    pub(crate) fn forget_ahead(&mut self) {
        self.window.drop_held();
    }

    /// A step that does not trust what was read ahead of the writer.
    pub(crate) fn step_surely(&mut self, file: &dyn SegmentFile) -> io::Result<Step> {
        match self.step(file)? {
            Step::Break(_) => self.look_again(file),
            step => Ok(step),
        }
    }

    /// Goes to `lsn` if a record begins there; else stays, for where records begin is only known from the first one on.
    pub(crate) fn shortcut(&mut self, file: &dyn SegmentFile, lsn: Lsn) -> io::Result<()> {
        let offset = lsn - self.base;
        if offset > self.offset && offset.is_multiple_of(ALIGN) && self.look(file, offset)?.is_ok() {
            self.offset = offset;
        }
        Ok(())
    }

    /// The payload of the record of the last [`Step::Record`].
    pub(crate) fn payload(&mut self, file: &dyn SegmentFile) -> io::Result<&[u8]> {
        let (offset, len) = self.payload;
        self.window.get(file, offset, len)
    }

    /// The number that an internal record carries.
    pub(crate) fn value(&mut self, file: &dyn SegmentFile) -> io::Result<u64> {
        let mut number = [0; 8];
        number.copy_from_slice(self.payload(file)?);
        Ok(u64::from_le_bytes(number))
    }

    fn take(&mut self, header: RecordHeader) -> Step {
        if header.class == Class::End {
            return Step::End(header);
        }
        self.offset = header.end() - self.base;
        Step::Record(header)
    }

    /// The valid record at `offset`, whatever stands before it.
    fn look(&mut self, file: &dyn SegmentFile, offset: u64) -> io::Result<Result<RecordHeader, RecordFault>> {
        let room = self.bytes.saturating_sub(offset);
        if room < RECORD_HEADER {
            return Ok(Err(RecordFault::Length));
        }
        let head = self.window.get(file, offset, RECORD_HEADER)?;
        let header = match precheck(head, self.base + offset, room) {
            Ok(header) => header,
            Err(fault) => return Ok(Err(fault)),
        };
        let bytes = self.window.get(file, offset, header.bytes())?;
        self.payload = (offset + RECORD_HEADER, u64::from(header.len));
        Ok(verify(&header, self.salt, bytes).map(|()| header))
    }
}

/// What stands behind a break.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Witness {
    /// The highest durable Lsn that a valid record behind the break states; zero where there is none.
    pub(crate) durable: Lsn,
    /// The first valid record behind the break.
    pub(crate) next: Option<Lsn>,
    /// Where the last byte that is not zero ends; the position searched from where all are. In a recycled segment, where
    /// the remains of another life are no zeros either: where the last valid record ends.
    pub(crate) written_to: Lsn,
}

/// Searches a segment for valid records from `from` to its end, at every place where one may begin. Where the chain is
/// broken nothing says where the next record is, so each place is asked whether it names itself.
pub(crate) fn strongest_witness(file: &dyn SegmentFile, header: &SegmentHeader, from: Lsn) -> io::Result<Witness> {
    const PIECE: u64 = 64 << 10;
    let mut outlook = Window::default();
    // Candidates are read through a window of their own: a long one must not throw the outlook away.
    let mut walk = Walk::new(header);
    let mut witness = Witness { written_to: from, ..Witness::default() };
    let mut offset = from - header.base;
    while offset < header.bytes {
        let piece = outlook.get(file, offset, PIECE.min(header.bytes - offset))?;
        let len = piece.len() as u64;
        if let Some(last) = piece.iter().rposition(|&byte| byte != 0) {
            if !header.recycled {
                witness.written_to = header.base + offset + last as u64 + 1;
            }
            let candidates: Vec<u64> = (offset..offset + len)
                .step_by(ALIGN as usize)
                .filter(|&place| names_itself(piece, place - offset, header.base + place))
                .collect();
            for place in candidates {
                if let Ok(record) = walk.look(file, place)? {
                    witness.durable = witness.durable.max(record.durable);
                    witness.next = witness.next.or(Some(record.lsn));
                    if header.recycled {
                        witness.written_to = witness.written_to.max(record.end());
                    }
                }
            }
        }
        offset += len;
    }
    Ok(witness)
}

/// Whether the record field `lsn` of a record at `place` holds its own position. Where that field lies beyond the
/// piece, the place stays a candidate: looking is cheap, missing is not.
fn names_itself(piece: &[u8], place: u64, lsn: Lsn) -> bool {
    let at = place as usize + 8;
    piece.get(at..at + 8).is_none_or(|field| field == lsn.as_u64().to_le_bytes())
}
