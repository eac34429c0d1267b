//! One event: what happened to which transaction, at which place of the log.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use crate::clock;
use crate::model::ids::{Attempt, Incarnation, Lsn, TxnId};
use crate::model::state::{Outcome, TxnState};
use crate::model::trace::TraceId;

/// Longer details are cut: an event is a line, not a report.
const LONGEST_DETAIL: usize = 1024;

/// Where in the feed: behind the event of the record at `lsn`, and so many steps further that no record says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Place {
    /// The last record that was told.
    pub lsn: Lsn,
    /// Steps told since.
    pub step: u64,
}

/// The name of a place that outlives the process: `LSN-INCARNATION-STEP`.
///
/// The incarnation is there because a crash may take the log's unflushed tail: what is written afterwards stands at
/// positions that were used before, and whoever heard of the old ones must not take the new ones for heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventId {
    /// The place.
    pub place: Place,
    /// Which opening of the log told it; `None` in what a client wrote by hand: an Lsn alone.
    pub incarnation: Option<Incarnation>,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.incarnation {
            Some(incarnation) => write!(f, "{}-{}-{}", self.place.lsn, incarnation.0, self.place.step),
            None => self.place.lsn.fmt(f),
        }
    }
}

/// The text is no event id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an event id is LSN-INCARNATION-STEP, or an Lsn alone")]
pub struct NoEventId;

impl FromStr for EventId {
    type Err = NoEventId;

    fn from_str(text: &str) -> Result<Self, NoEventId> {
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let numbers: Option<Vec<u64>> = text.split('-').map(digits).collect();
        let (lsn, incarnation, step) = match numbers.as_deref() {
            Some([lsn]) => (*lsn, None, 0),
            Some([lsn, incarnation, step]) => (*lsn, Some(Incarnation(*incarnation)), *step),
            _ => return Err(NoEventId),
        };
        Ok(Self { place: Place { lsn: Lsn::from_u64(lsn), step }, incarnation })
    }
}

/// Whom an event is about; shared by all events of one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct About {
    /// The transaction.
    pub transaction: TxnId,
    /// Its name, where it has one and it is known.
    pub name: Option<String>,
    /// Its correlation id, where it is known.
    pub trace: Option<TraceId>,
}

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Happening {
    /// Microseconds since 1970.
    pub at_us: i64,
    /// Nobody in particular: the log was opened.
    pub about: Option<Arc<About>>,
    /// Which run of the transaction.
    pub attempt: Option<Attempt>,
    /// `begun`, `locked`, …
    pub kind: &'static str,
    /// Where the transaction stands now.
    pub state: Option<TxnState>,
    /// More, where there is more.
    pub detail: Option<Arc<str>>,
}

impl Happening {
    /// A step of a transaction.
    #[must_use]
    pub fn step(
        about: Arc<About>,
        attempt: Attempt,
        at_us: i64,
        kind: &'static str,
        state: TxnState,
        detail: Option<&str>,
    ) -> Self {
        let detail = detail.map(|text| Arc::from(&text[..text.floor_char_boundary(LONGEST_DETAIL)]));
        Self { at_us, about: Some(about), attempt: Some(attempt), kind, state: Some(state), detail }
    }

    pub(super) fn opened(at_us: i64, incarnation: Incarnation) -> Self {
        let detail = Some(format!("incarnation {}", incarnation.0).into());
        Self { at_us, about: None, attempt: None, kind: "opened", state: None, detail }
    }

    pub(in crate::journal) fn intended(about: Arc<About>, attempt: Attempt, at_us: i64, held: bool) -> Self {
        let state = if held { TxnState::Prepared } else { TxnState::Active };
        Self::step(about, attempt, at_us, "intended", state, None)
    }

    pub(in crate::journal) fn promised(about: Arc<About>, attempt: Attempt, at_us: i64) -> Self {
        Self::step(about, attempt, at_us, "prepared", TxnState::Prepared, None)
    }

    pub(in crate::journal) fn decided(about: Arc<About>, attempt: Attempt, at_us: i64, outcome: Outcome) -> Self {
        let state = match outcome {
            Outcome::Committed => TxnState::Committing,
            Outcome::Aborted => TxnState::Aborting,
        };
        Self::step(about, attempt, at_us, "decided", state, Some(outcome.as_str()))
    }

    pub(in crate::journal) fn ended(
        about: Arc<About>,
        attempt: Attempt,
        at_us: i64,
        outcome: Outcome,
        cause: Option<(&str, &str)>,
    ) -> Self {
        let state = match outcome {
            Outcome::Committed => TxnState::Committed,
            Outcome::Aborted => TxnState::Aborted,
        };
        let cause = cause.filter(|_| outcome == Outcome::Aborted).map(|(code, detail)| format!("{code}: {detail}"));
        Self::step(about, attempt, at_us, "ended", state, cause.as_deref())
    }

    /// Bytes that it keeps, roughly: what it shares with others is counted each time.
    pub(super) fn weight(&self) -> usize {
        let name = self.about.as_ref().and_then(|about| about.name.as_ref()).map_or(0, String::len);
        size_of::<Told>() + self.detail.as_ref().map_or(0, |detail| detail.len()) + name
    }
}

impl Serialize for Happening {
    /// Every member each time, null where there is nothing.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let about = self.about.as_deref();
        let mut data = serializer.serialize_struct("Event", 8)?;
        data.serialize_field("at", &clock::rfc3339(self.at_us))?;
        data.serialize_field("transaction", &about.map(|about| about.transaction.to_string()))?;
        data.serialize_field("name", &about.and_then(|about| about.name.as_deref()))?;
        data.serialize_field("kind", self.kind)?;
        data.serialize_field("state", &self.state)?;
        data.serialize_field("attempt", &self.attempt)?;
        data.serialize_field("trace_id", &about.and_then(|about| about.trace).map(|trace| trace.to_string()))?;
        data.serialize_field("detail", &self.detail)?;
        data.end()
    }
}

/// An event with its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// Where.
    pub place: Place,
    /// What.
    pub what: Happening,
}
