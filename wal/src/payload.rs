//! From the caller's payload to the stored one and back: compression, then encryption. Both are off by default.

use std::borrow::Cow;

use crate::format::{Compression, Frame, RecordHeader, SegmentHeader, ZSTD, encode, encode_with};
use crate::keys::{self, KeyId, OVERHEAD, Place};
use crate::options::Options;
use crate::{Keys, WalError};

/// Fast, and most of the gain: a log is written far more often than it is read.
const LEVEL: i32 = 1;
/// In front of a compressed payload: how long it was.
const LENGTH: usize = 4;

/// How payloads of one opening are stored.
#[derive(Debug)]
pub(crate) struct Coder {
    keys: Option<Keys>,
    compress_above: Option<usize>,
    /// This opening's part of every nonce.
    opening: u64,
}

/// What a header says of how payloads are stored in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Coding {
    /// The key with whose name; `None`: in the clear.
    pub(crate) key: Option<KeyId>,
    pub(crate) compression: Compression,
}

impl Coding {
    #[cfg(test)]
    pub(crate) const PLAIN: Coding = Coding { key: None, compression: Compression::None };
}

impl Coder {
    /// `random` is asked only where something is encrypted.
    pub(crate) fn new(options: &Options, random: impl FnOnce() -> u64) -> Coder {
        let keys = options.keys.clone().filter(|_| options.encrypt);
        let opening = keys.as_ref().map_or(0, |_| random());
        Coder { keys, compress_above: options.compress_above, opening }
    }

    /// How new segments store payloads.
    pub(crate) fn coding(&self) -> Coding {
        let compression = if self.compress_above.is_some() { Compression::Zstd } else { Compression::None };
        Coding { key: self.keys.as_ref().map(Keys::first_id), compression }
    }

    /// Bytes that a payload may grow by.
    pub(crate) fn overhead(&self) -> usize {
        if self.keys.is_some() { OVERHEAD } else { 0 }
    }

    /// Compresses where that is wanted and gains anything. Gives the record's flags too.
    pub(crate) fn compress<'a>(&self, payload: &'a [u8]) -> (Cow<'a, [u8]>, u16) {
        let plain = (Cow::Borrowed(payload), 0);
        if self.compress_above.is_none_or(|above| payload.len() < above) {
            return plain;
        }
        let (Ok(len), Ok(packed)) = (u32::try_from(payload.len()), zstd::bulk::compress(payload, LEVEL)) else {
            return plain;
        };
        if packed.len() + LENGTH >= payload.len() {
            return plain;
        }
        let mut stored = Vec::with_capacity(LENGTH + packed.len());
        stored.extend_from_slice(&len.to_le_bytes());
        stored.extend_from_slice(&packed);
        (Cow::Owned(stored), ZSTD)
    }

    /// Frames a record of the caller's, encrypting its payload where that is wanted.
    pub(crate) fn frame(&self, out: &mut Vec<u8>, frame: Frame, payload: &[u8]) {
        let Some(keys) = &self.keys else {
            encode(out, frame, payload);
            return;
        };
        encode_with(out, frame, payload.len() + OVERHEAD, |out, aad| {
            let at = out.len();
            out.extend_from_slice(&[0; OVERHEAD - keys::TAG]);
            out.extend_from_slice(payload);
            let place = Place { salt: frame.salt, lsn: frame.lsn.as_u64(), opening: self.opening, aad };
            keys.seal(out, at, place);
        });
    }
}

/// The caller's payload from the stored one.
///
/// # Errors
/// [`WalError::Key`] where its key is not among `keys`; [`WalError::Corrupt`] where the record's checksum is right and
/// what it holds is not.
pub(crate) fn restore(
    keys: Option<&Keys>,
    segment: &SegmentHeader,
    record: &RecordHeader,
    stored: &[u8],
) -> Result<Vec<u8>, WalError> {
    let corrupt = |detail: &str| WalError::Corrupt {
        segment: segment.name(),
        lsn: record.lsn,
        lost: record.lsn..record.end(),
        detail: detail.to_owned(),
    };
    let clear = match segment.coding.key {
        None => Cow::Borrowed(stored),
        Some(id) => {
            let place = Place { salt: segment.salt, lsn: record.lsn.as_u64(), opening: 0, aad: record.aad() };
            let opened = keys.and_then(|keys| keys.open(&id, stored, place));
            let opened = opened.ok_or_else(|| WalError::Key { segment: segment.name(), key_id: keys::id_text(&id) })?;
            let detail = "its checksum is right and its seal is not: somebody changed the record";
            Cow::Owned(opened.ok_or_else(|| corrupt(detail))?)
        }
    };
    if record.flags & ZSTD == 0 {
        return Ok(clear.into_owned());
    }
    unpack(&clear).ok_or_else(|| corrupt("its checksum is right and it does not unpack"))
}

/// What a length field may claim is bounded by the largest segment, whatever stands there.
const LARGEST: usize = 1 << 30;

fn unpack(stored: &[u8]) -> Option<Vec<u8>> {
    let (length, packed) = stored.split_at_checked(LENGTH)?;
    let len = u32::from_le_bytes(length.try_into().ok()?) as usize;
    if len > LARGEST {
        return None;
    }
    zstd::bulk::decompress(packed, len).ok().filter(|payload| payload.len() == len)
}
