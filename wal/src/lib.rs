//! Under construction: the names that everything carries.

use std::fmt;
use std::str::FromStr;

/// A position in the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// Before every record.
    pub const ZERO: Self = Self(0);
    /// From its number.
    #[must_use]
    pub const fn from_u64(n: u64) -> Self {
        Self(n)
    }
    /// As a number.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Random, made with the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LogId([u8; 16]);

impl LogId {
    /// From its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
    /// Its bytes.
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

impl FromStr for LogId {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let n = u128::from_str_radix(text, 16).map_err(|_| "a log id is 32 hex digits")?;
        if text.len() == 32 { Ok(Self(n.to_be_bytes())) } else { Err("a log id is 32 hex digits") }
    }
}
