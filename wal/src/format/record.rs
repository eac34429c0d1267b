//! One record: 32 bytes of header, the payload, zeros up to the next multiple of eight.

use super::{ALIGN, RECORD_HEADER, record_bytes, u32_at, u64_at};
use crate::Lsn;

/// Whose record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    /// The caller's.
    User = 0,
    /// Written when the log is idle, on a page of its own: a witness for what stands before it.
    Seal = 1,
    /// The last record of a log that was closed in order; also a seal.
    Close = 2,
    /// The last record of a segment that has a successor, whose salt it carries.
    End = 3,
    /// Everything below its value was released.
    Release = 4,
}

impl Class {
    fn from_u8(byte: u8) -> Option<Class> {
        [Class::User, Class::Seal, Class::Close, Class::End, Class::Release]
            .into_iter()
            .find(|class| *class as u8 == byte)
    }

    /// Whether a record of this class begins a page and states where the record before it ended.
    pub(crate) fn seals(self) -> bool {
        matches!(self, Class::Seal | Class::Close)
    }
}

/// What a record's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) crc: u32,
    /// Bytes of payload.
    pub(crate) len: u32,
    pub(crate) lsn: Lsn,
    /// What was known to be durable when the record was framed.
    pub(crate) durable: Lsn,
    pub(crate) kind: u8,
    pub(crate) class: Class,
}

impl RecordHeader {
    /// Bytes of the whole record.
    pub(crate) fn bytes(&self) -> u64 {
        record_bytes(u64::from(self.len))
    }

    /// Where the record ends.
    pub(crate) fn end(&self) -> Lsn {
        self.lsn + self.bytes()
    }
}

/// Why the bytes at a position are not the record of that position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordFault {
    Empty,
    Position,
    Length,
    Checksum,
    Meaning,
}

impl std::fmt::Display for RecordFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            RecordFault::Empty => "there are zeros where a record was",
            RecordFault::Position => "the record there is not of this position",
            RecordFault::Length => "the record's length leads out of the segment",
            RecordFault::Checksum => "the record's checksum is wrong",
            RecordFault::Meaning => "the record's header contradicts itself",
        })
    }
}

/// The fields of a record to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) salt: u64,
    pub(crate) lsn: Lsn,
    pub(crate) durable: Lsn,
    pub(crate) kind: u8,
    pub(crate) class: Class,
}

/// Appends the record to `out` and gives its CRC. The payload is shorter than a segment, so its length fits a u32.
pub(crate) fn encode(out: &mut Vec<u8>, frame: Frame, payload: &[u8]) -> u32 {
    let start = out.len();
    let len = u32::try_from(payload.len()).expect("a payload is bounded by a segment, a segment by 1 GiB");
    out.reserve(record_bytes(u64::from(len)) as usize);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&frame.lsn.as_u64().to_le_bytes());
    out.extend_from_slice(&frame.durable.as_u64().to_le_bytes());
    // Kind, class, flags (2, zero), reserved (4, zero).
    out.extend_from_slice(&[frame.kind, frame.class as u8, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(payload);
    out.resize(start + record_bytes(u64::from(len)) as usize, 0);
    let crc = checksum(frame.salt, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// The same for an internal record, whose payload is one number.
pub(crate) fn encode_internal(out: &mut Vec<u8>, frame: Frame, value: u64) -> u32 {
    encode(out, frame, &value.to_le_bytes())
}

fn checksum(salt: u64, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(rest);
    hasher.finalize()
}

/// Looks at a header without its payload: whether a record of position `lsn` may stand here, with at most `room` bytes
/// up to the segment's end. `head` holds at least [`RECORD_HEADER`] bytes.
pub(crate) fn precheck(head: &[u8], lsn: Lsn, room: u64) -> Result<RecordHeader, RecordFault> {
    if u64_at(head, 8) != lsn.as_u64() {
        let empty = head[..RECORD_HEADER as usize].iter().all(|&byte| byte == 0);
        return Err(if empty { RecordFault::Empty } else { RecordFault::Position });
    }
    let len = u32_at(head, 4);
    if record_bytes(u64::from(len)) > room {
        return Err(RecordFault::Length);
    }
    let durable = Lsn::from_u64(u64_at(head, 16));
    let class = Class::from_u8(head[25]).ok_or(RecordFault::Meaning)?;
    let reserved = head[26..32].iter().any(|&byte| byte != 0);
    if durable > lsn || reserved || (class != Class::User && len != 8) {
        return Err(RecordFault::Meaning);
    }
    Ok(RecordHeader { crc: u32_at(head, 0), len, lsn, durable, kind: head[24], class })
}

/// Checks the CRC over the whole record (`bytes` is exactly the record).
pub(crate) fn verify(header: &RecordHeader, salt: u64, bytes: &[u8]) -> Result<(), RecordFault> {
    debug_assert!(bytes.len() as u64 == header.bytes() && bytes.len().is_multiple_of(ALIGN as usize));
    if checksum(salt, &bytes[4..]) == header.crc { Ok(()) } else { Err(RecordFault::Checksum) }
}
