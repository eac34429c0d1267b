//! One record: 32 bytes of header, the payload, zeros up to the next multiple of eight.

use super::{ALIGN, RECORD_HEADER, record_bytes, u32_at, u64_at};
use crate::Lsn;
use crate::keys::AAD;

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
    /// How the payload is stored: [`ZSTD`] or nothing.
    pub(crate) flags: u16,
}

/// The payload is four bytes of length (before) and a Zstandard frame.
pub(crate) const ZSTD: u16 = 1;

impl RecordHeader {
    /// The header's bytes without the CRC: what encryption authenticates.
    pub(crate) fn aad(&self) -> [u8; AAD] {
        let RecordHeader { len, lsn, durable, kind, class, flags, .. } = *self;
        aad(len, &Frame { salt: 0, lsn, durable, kind, class, flags })
    }

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
    pub(crate) flags: u16,
}

/// Bytes 4 to 31 of a record.
fn aad(len: u32, frame: &Frame) -> [u8; AAD] {
    let mut bytes = [0; AAD];
    let mut put = |at: usize, field: &[u8]| bytes[at - 4..at - 4 + field.len()].copy_from_slice(field);
    put(4, &len.to_le_bytes());
    put(8, &frame.lsn.as_u64().to_le_bytes());
    put(16, &frame.durable.as_u64().to_le_bytes());
    put(24, &[frame.kind, frame.class as u8]);
    put(26, &frame.flags.to_le_bytes());
    // 28: reserved.
    bytes
}

/// Appends the record to `out` and gives its CRC. The payload is shorter than a segment, so its length fits a u32.
pub(crate) fn encode(out: &mut Vec<u8>, frame: Frame, payload: &[u8]) -> u32 {
    encode_with(out, frame, payload.len(), |out, _| out.extend_from_slice(payload))
}

/// The same for a payload of `len` bytes that `write` appends; it is told the header's bytes without the CRC.
pub(crate) fn encode_with(
    out: &mut Vec<u8>,
    frame: Frame,
    len: usize,
    write: impl FnOnce(&mut Vec<u8>, [u8; AAD]),
) -> u32 {
    let start = out.len();
    let len = u32::try_from(len).expect("a payload is bounded by a segment, a segment by 1 GiB");
    let head = aad(len, &frame);
    out.reserve(record_bytes(u64::from(len)) as usize);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&head);
    write(out, head);
    debug_assert_eq!(out.len() - start, RECORD_HEADER as usize + len as usize);
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
    let flags = u16::from_le_bytes([head[26], head[27]]);
    let unknown = flags & !ZSTD != 0 || (flags != 0 && class != Class::User);
    let reserved = head[28..32].iter().any(|&byte| byte != 0);
    if durable > lsn || unknown || reserved || (class != Class::User && len != 8) {
        return Err(RecordFault::Meaning);
    }
    Ok(RecordHeader { crc: u32_at(head, 0), len, lsn, durable, kind: head[24], class, flags })
}

/// Checks the CRC over the whole record (`bytes` is exactly the record).
pub(crate) fn verify(header: &RecordHeader, salt: u64, bytes: &[u8]) -> Result<(), RecordFault> {
    debug_assert!(bytes.len() as u64 == header.bytes() && bytes.len().is_multiple_of(ALIGN as usize));
    if checksum(salt, &bytes[4..]) == header.crc { Ok(()) } else { Err(RecordFault::Checksum) }
}
