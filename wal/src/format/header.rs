//! The first page of a segment.

use super::{PAGE, u32_at, u64_at};
use crate::keys::KeyId;
use crate::payload::Coding;
use crate::{LogId, Lsn};

/// The format version that is written; every version up to it is read.
pub(crate) const VERSION: u32 = 1;

/// CR, LF and a byte above 127 show a file that went through a text-mode transfer.
const MAGIC: [u8; 8] = *b"OGR\x89WAL\n";
const CRC_AT: usize = PAGE as usize - 4;

/// How a segment hangs on the one before it. All zero in the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Salt of the previous segment.
    pub(crate) salt: u64,
    /// Lsn of the previous segment's end record.
    pub(crate) last: Lsn,
    /// CRC of that record.
    pub(crate) crc: u32,
}

/// Whether payloads in a segment may be compressed; each record's flag says whether it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Compression {
    #[default]
    None = 0,
    /// Zstandard (RFC 8878).
    Zstd = 1,
}

/// Offset of the salt.
pub(crate) const SALT_AT: u64 = 56;

/// The bit of the header's flags that says that the file was a segment before.
const RECYCLED: u32 = 1;

/// The one cipher: XChaCha20-Poly1305. 0 stands for none.
const CIPHER: u32 = 1;

/// What the header page says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: LogId,
    /// 1 for the first, without gaps.
    pub(crate) number: u64,
    /// Lsn of the segment's byte 0.
    pub(crate) base: Lsn,
    /// Length of the file.
    pub(crate) bytes: u64,
    /// Random; part of every CRC in the segment, so that remains of another life of the file are never taken for records.
    pub(crate) salt: u64,
    pub(crate) previous: Link,
    /// Durable Lsn when the segment was begun: a witness like that of a record.
    pub(crate) durable: Lsn,
    /// Everything below was released when the segment was begun: older segments may rightly be missing.
    pub(crate) released: Lsn,
    /// How payloads are stored.
    pub(crate) coding: Coding,
    /// The file was a segment before: behind the last record are remains of that life, not zeros.
    pub(crate) recycled: bool,
    /// Microseconds since 1970, for people only.
    pub(crate) created_at: u64,
}

/// Why a header page is not one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    Damaged(&'static str),
    Version(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE as usize];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &(PAGE as u32).to_le_bytes());
        put(16, &self.log_id.to_bytes());
        put(32, &self.number.to_le_bytes());
        put(40, &self.base.as_u64().to_le_bytes());
        put(48, &self.bytes.to_le_bytes());
        put(SALT_AT as usize, &self.salt.to_le_bytes());
        put(64, &self.previous.salt.to_le_bytes());
        put(72, &self.previous.last.as_u64().to_le_bytes());
        put(80, &self.previous.crc.to_le_bytes());
        // 88: checksum kind, 100: reserved: zero in version 1.
        put(84, &(if self.recycled { RECYCLED } else { 0 }).to_le_bytes());
        if let Some(key) = self.coding.key {
            put(92, &CIPHER.to_le_bytes());
            put(128, &key);
        }
        put(96, &(self.coding.compression as u32).to_le_bytes());
        put(104, &self.durable.as_u64().to_le_bytes());
        put(112, &self.released.as_u64().to_le_bytes());
        put(120, &self.created_at.to_le_bytes());
        let crc = crc32fast::hash(&page[..CRC_AT]);
        page[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        page
    }

    /// `page` is the first [`PAGE`] bytes of a file; a shorter one is damaged.
    pub(crate) fn decode(page: &[u8]) -> Result<SegmentHeader, HeaderFault> {
        if page.len() < PAGE as usize {
            return Err(HeaderFault::Damaged("the file is shorter than a header page"));
        }
        if page[..8] != MAGIC {
            return Err(HeaderFault::Damaged("the magic number is wrong"));
        }
        if crc32fast::hash(&page[..CRC_AT]) != u32_at(page, CRC_AT) {
            return Err(HeaderFault::Damaged("the header's checksum is wrong"));
        }
        let version = u32_at(page, 8);
        // A feature bit that this version does not know changes the meaning of the records: the same as a new version.
        let unknown = u32_at(page, 84) & !RECYCLED != 0 || u32_at(page, 88) != 0;
        let key = match u32_at(page, 92) {
            0 => Some(None),
            CIPHER => Some(Some(key_id(page))),
            _ => None,
        };
        let compression = [Compression::None, Compression::Zstd].into_iter().find(|c| *c as u32 == u32_at(page, 96));
        let (Some(key), Some(compression), false) = (key, compression, version == 0 || version > VERSION || unknown)
        else {
            return Err(HeaderFault::Version(version));
        };
        let mut id = [0; 16];
        id.copy_from_slice(&page[16..32]);
        let header = SegmentHeader {
            log_id: LogId::from_bytes(id),
            number: u64_at(page, 32),
            base: Lsn::from_u64(u64_at(page, 40)),
            bytes: u64_at(page, 48),
            salt: u64_at(page, SALT_AT as usize),
            previous: Link { salt: u64_at(page, 64), last: Lsn::from_u64(u64_at(page, 72)), crc: u32_at(page, 80) },
            durable: Lsn::from_u64(u64_at(page, 104)),
            released: Lsn::from_u64(u64_at(page, 112)),
            coding: Coding { key, compression },
            recycled: u32_at(page, 84) & RECYCLED != 0,
            created_at: u64_at(page, 120),
        };
        if u32_at(page, 12) != PAGE as u32
            || header.bytes < 2 * PAGE
            || !header.bytes.is_multiple_of(PAGE)
            || header.number == 0
        {
            return Err(HeaderFault::Damaged("the header contradicts itself"));
        }
        Ok(header)
    }

    /// Lsn of the byte after the segment, where the next one begins.
    pub(crate) fn end(&self) -> Lsn {
        self.base + self.bytes
    }

    /// The file's name.
    pub(crate) fn name(&self) -> String {
        segment_name(self.number)
    }
}

fn key_id(page: &[u8]) -> KeyId {
    let mut id = KeyId::default();
    id.copy_from_slice(&page[128..144]);
    id
}

/// File name of the segment with this number.
pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:020}.wal")
}

impl SegmentHeader {
    /// The number in a segment's file name; `None` for every other file.
    pub(crate) fn number_of(name: &str) -> Option<u64> {
        let number: u64 = name.strip_suffix(".wal")?.parse().ok()?;
        (segment_name(number) == name).then_some(number)
    }
}
