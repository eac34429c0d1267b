//! Trace ids and the header that carries them: [W3C Trace Context](https://www.w3.org/TR/trace-context/), level 1.
//!
//! A request's trace id becomes the correlation id of its transaction. We take part in the trace with a span of our own;
//! we keep no spans, so nothing is decided by the `sampled` flag but that it is passed on.

use std::fmt;
use std::num::NonZero;
use std::str::FromStr;

/// Which trace: 16 bytes, never all zero, written as 32 small hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceId(NonZero<u128>);

impl TraceId {
    /// A random one.
    #[must_use]
    pub fn fresh() -> Self {
        Self(NonZero::new(rand::random()).unwrap_or(NonZero::<u128>::MAX))
    }

    /// From the bytes that a record keeps; `None` where they are none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        NonZero::new(u128::from_be_bytes(bytes.try_into().ok()?)).map(Self)
    }

    /// The bytes for a record.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        self.0.get().to_be_bytes().to_vec()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for TraceId {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        hex(text, 32).and_then(NonZero::new).map(Self).ok_or(Malformed)
    }
}

/// A `traceparent`: which trace, whose span, and whether somebody keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceParent {
    /// The trace.
    pub trace: TraceId,
    /// The span of whoever sends this: 8 bytes, never all zero.
    span: NonZero<u64>,
    /// Whether the sender may keep it.
    sampled: bool,
}

/// No `traceparent` of the specification: to be ignored, as if none had come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this is no traceparent of W3C Trace Context")]
pub struct Malformed;

impl TraceParent {
    /// The first of a new trace, which nobody keeps.
    #[must_use]
    pub fn fresh() -> Self {
        Self { trace: TraceId::fresh(), span: fresh_span(), sampled: false }
    }

    /// The same trace with a fresh span of ours: what an answer carries.
    #[must_use]
    pub fn ours(self) -> Self {
        Self { span: fresh_span(), ..self }
    }
}

fn fresh_span() -> NonZero<u64> {
    NonZero::new(rand::random()).unwrap_or(NonZero::<u64>::MAX)
}

impl fmt::Display for TraceParent {
    /// Version 00; of the flags only `sampled` is known to level 1, and unknown ones are not passed on.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

impl FromStr for TraceParent {
    type Err = Malformed;

    /// Strict where version 00 is, and for later versions as section 3.2.4 of the specification asks: their first four
    /// fields are read as version 00's, and what follows must begin with a dash.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let read = || {
            let (version, rest) = (hex(text.get(..2)?, 2)?, text.get(2..)?.strip_prefix('-')?);
            let (trace, rest) = (rest.get(..32)?.parse().ok()?, rest.get(32..)?.strip_prefix('-')?);
            let (span, rest) = (hex(rest.get(..16)?, 16)?, rest.get(16..)?.strip_prefix('-')?);
            let (flags, rest) = (hex(rest.get(..2)?, 2)?, rest.get(2..)?);
            let ends = rest.is_empty() || (version > 0 && rest.starts_with('-'));
            let span = NonZero::new(u64::try_from(span).ok()?)?;
            (version != 0xff && ends).then_some(Self { trace, span, sampled: flags & 1 == 1 })
        };
        read().ok_or(Malformed)
    }
}

/// Exactly `digits` hexadecimal digits, small ones.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let small = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (text.len() == digits && text.bytes().all(small)).then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn what_the_specification_allows_is_read() {
        for (text, sampled) in [
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", false),
            // Unknown flags are no fault.
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe", false),
            // Later versions, with and without more.
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes-later", true),
        ] {
            let parent: TraceParent = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((parent.trace.to_string().as_str(), parent.sampled), (TRACE, sampled), "{text}");
            let ours = parent.ours();
            assert!(ours.span != parent.span && ours.trace == parent.trace);
            assert_eq!(ours.to_string().parse(), Ok(ours), "what we send is what we read");
        }
    }

    #[test]
    fn what_it_forbids_is_not() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00F067AA0BA902B7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "+0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(Malformed), "{text}");
        }
    }

    #[test]
    fn a_trace_id_keeps_its_bytes() {
        let trace = TraceId::fresh();
        assert_eq!(TraceId::from_bytes(&trace.to_bytes()), Some(trace));
        assert_eq!(trace.to_string().parse(), Ok(trace));
        assert_eq!((TraceId::from_bytes(&[0; 16]), TraceId::from_bytes(&[1; 15])), (None, None));
    }
}
