//! Positions in the log and the name of the log.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

/// A byte position in the log's logical stream.
///
/// The stream is the concatenation of all segments that were ever made, header pages included, so a position is turned
/// into a file offset by one subtraction (`lsn - segment.base`). Positions only grow; there are gaps between records
/// (header pages, the rest of a page before a seal, the rest of a segment that was left early), so two Lsns say *before*
/// and *after*, never *how many*.
///
/// The order of the log's named positions is `next ≥ durable ≥ released`: what is appended, what survives a power cut,
/// what nobody needs any more. Each of them is *exclusive*: a record is durable when its **end** is at or below the
/// durable Lsn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// Before every record of every log.
    pub const ZERO: Lsn = Lsn(0);
    /// After every record of every log; as an argument it means "everything there is".
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// The position as a number of bytes.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// A position from a number of bytes.
    #[must_use]
    pub const fn from_u64(bytes: u64) -> Lsn {
        Lsn(bytes)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The text is not an Lsn: an Lsn is written as a decimal number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no Lsn: expected a decimal number below 2^64")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Lsn, ParseLsnError> {
        // `u64::from_str` takes a sign; an Lsn has exactly one spelling of its digits.
        if text.starts_with('+') {
            return Err(ParseLsnError(text.to_owned()));
        }
        text.parse().map(Lsn).map_err(|_| ParseLsnError(text.to_owned()))
    }
}

impl Add<u64> for Lsn {
    type Output = Lsn;

    fn add(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_add(bytes))
    }
}

impl Sub for Lsn {
    type Output = u64;

    /// Bytes from `earlier` to `self`; 0 where `earlier` is the later one.
    fn sub(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The random name of a log, made once with it and carried by every segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId([u8; 16]);

impl LogId {
    /// The name from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> LogId {
        LogId(bytes)
    }

    /// The name's bytes, as they stand on the disk.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({self})")
    }
}

/// The text is not a log id: a log id is written as 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no log id: expected 32 hexadecimal digits")]
pub struct ParseLogIdError(String);

impl FromStr for LogId {
    type Err = ParseLogIdError;

    fn from_str(text: &str) -> Result<LogId, ParseLogIdError> {
        let wrong = || ParseLogIdError(text.to_owned());
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        u128::from_str_radix(text, 16).map(|number| LogId(number.to_be_bytes())).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_has_one_spelling() {
        for number in [0, 1, 4096, u64::MAX] {
            let lsn = Lsn::from_u64(number);
            assert_eq!(lsn.to_string().parse(), Ok(lsn));
        }
        for wrong in ["", "-1", "+1", "1 ", "0x10", "18446744073709551616"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_log_id_has_one_length() {
        let id = LogId::from_bytes(std::array::from_fn(|at| at as u8 * 17));
        assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "00", "+0112233445566778899aabbccddeeff", "00112233445566778899aabbccddeefg"] {
            assert!(wrong.parse::<LogId>().is_err(), "{wrong:?}");
        }
    }
}
