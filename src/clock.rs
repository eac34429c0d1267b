//! Wall-clock times for people. Nothing is ever decided by them.

use jiff::Timestamp;

/// Microseconds since 1970.
#[must_use]
pub fn now_us() -> i64 {
    Timestamp::now().as_microsecond()
}

/// RFC 3339 UTC with microseconds.
#[must_use]
pub fn rfc3339(us: i64) -> String {
    Timestamp::from_microsecond(us).map_or_else(|_| "invalid".to_owned(), |at| format!("{at:.6}"))
}
