//! The bytes on the disk, and nothing else: no files, no state. `README.md` draws them.
//!
//! All integers are little-endian. A field that this version does not use is zero, and a reader of this version refuses
//! a segment that sets one of the *must-understand* fields (cipher, compression, flags of a header).

mod header;
mod record;

pub(crate) use header::{Compression, HeaderFault, Link, SALT_AT, SegmentHeader, VERSION, segment_name};
pub(crate) use record::{
    Class, Frame, RecordFault, RecordHeader, ZSTD, encode, encode_internal, encode_with, precheck, verify,
};

/// The page: unit of the header, of zero-filling and of the distance between a group and its seal.
pub(crate) const PAGE: u64 = 4096;
/// Bytes before a record's payload.
pub(crate) const RECORD_HEADER: u64 = 32;
/// Every record begins at a multiple of this.
pub(crate) const ALIGN: u64 = 8;
/// Bytes of an internal record: header and one u64.
pub(crate) const INTERNAL_BYTES: u64 = RECORD_HEADER + 8;

/// Bytes that a record with this payload takes.
pub(crate) const fn record_bytes(payload: u64) -> u64 {
    (RECORD_HEADER + payload).next_multiple_of(ALIGN)
}

/// The largest payload for a segment of this size: one record alone, and the end record behind it.
pub(crate) const fn max_payload(segment_bytes: u64) -> u64 {
    (segment_bytes - PAGE - INTERNAL_BYTES - RECORD_HEADER) / ALIGN * ALIGN
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests;
