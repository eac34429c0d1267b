//! Events from the log itself: what its records say, for followers whom the ring does not reach any more.

use std::sync::Arc;

use outrigger_wal::{Record, Wal, WalError};
use prost::Message;

use super::event::{About, Happening};
use crate::journal::record::{OpenedRecord, RunRecord, Unreadable, decode, kind, outcome};
use crate::model::ids::{Incarnation, Lsn, Run, TxnId};
use crate::model::trace::TraceId;

/// Records from some place on. `None` means that there is nothing more for now.
pub type Records = Box<dyn Iterator<Item = Result<Record, WalError>> + Send>;

/// Where records are read back from.
pub trait Past: Send + Sync {
    /// The durable records at or behind `from`. Blocks while it is iterated.
    fn read(&self, from: Lsn) -> Records;

    /// Returns once everything appended so far is durable, and so to be read. Blocks.
    fn settle(&self) -> Result<(), WalError>;
}

impl Past for Wal {
    fn read(&self, from: Lsn) -> Records {
        Box::new(Wal::read(self, from))
    }

    fn settle(&self) -> Result<(), WalError> {
        self.flush(self.next_lsn())
    }
}

/// What an Intent says that is told: the writes stay undecoded.
#[derive(Clone, PartialEq, Message)]
struct IntentHead {
    #[prost(message, required, tag = "1")]
    run: RunRecord,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
    #[prost(int64, tag = "14")]
    at_us: i64,
    #[prost(bytes = "vec", optional, tag = "15")]
    trace: Option<Vec<u8>>,
    #[prost(bool, tag = "16")]
    held: bool,
}

/// What the record of a prepared transaction says that is told.
#[derive(Clone, PartialEq, Message)]
struct PreparedHead {
    #[prost(message, required, tag = "1")]
    intent: IntentHead,
    #[prost(bool, tag = "16")]
    copy: bool,
}

/// What a verdict says that is told.
#[derive(Clone, PartialEq, Message)]
struct VerdictHead {
    #[prost(message, required, tag = "1")]
    run: RunRecord,
    #[prost(bool, tag = "2")]
    committed: bool,
    #[prost(int64, tag = "14")]
    at_us: i64,
}

/// What an end says that is told.
#[derive(Clone, PartialEq, Message)]
struct DoneHead {
    #[prost(message, required, tag = "1")]
    run: RunRecord,
    #[prost(bool, tag = "2")]
    committed: bool,
    #[prost(string, optional, tag = "3")]
    name: Option<String>,
    #[prost(int64, tag = "5")]
    ended_us: i64,
    #[prost(string, repeated, tag = "12")]
    cause: Vec<String>,
    #[prost(bytes = "vec", optional, tag = "15")]
    trace: Option<Vec<u8>>,
    #[prost(bool, tag = "16")]
    copy: bool,
}

fn about(run: Run, name: Option<String>, trace: Option<&[u8]>) -> Arc<About> {
    Arc::new(About { transaction: run.txn, name, trace: trace.and_then(TraceId::from_bytes) })
}

/// The event that a record is, exactly as it was told when it was written; `None` for records that tell nothing of a
/// transaction's life and for kinds that this program does not know. `who` knows transactions by their id.
///
/// # Errors
/// [`Unreadable`] where a record of a known kind does not decode: a defect.
pub(super) fn happening(
    record: &Record,
    who: &mut dyn FnMut(TxnId) -> Option<Arc<About>>,
) -> Result<Option<Happening>, Unreadable> {
    let payload = record.payload.as_slice();
    Ok(match record.kind {
        kind::OPENED => {
            let opened: OpenedRecord = decode(payload)?;
            Some(Happening::opened(opened.at_us, Incarnation(opened.incarnation)))
        }
        kind::INTENT => {
            let head: IntentHead = decode(payload)?;
            let run = Run::try_from(&head.run)?;
            let about = about(run, head.name, head.trace.as_deref());
            Some(Happening::intended(about, run.attempt, head.at_us, head.held))
        }
        kind::PREPARED => {
            let PreparedHead { intent: head, copy } = decode(payload)?;
            if copy {
                return Ok(None);
            }
            let run = Run::try_from(&head.run)?;
            Some(Happening::promised(about(run, head.name, head.trace.as_deref()), run.attempt, head.at_us))
        }
        kind::DECISION | kind::LEARNT => {
            let head: VerdictHead = decode(payload)?;
            let run = Run::try_from(&head.run)?;
            let about = who(run.txn).unwrap_or_else(|| about(run, None, None));
            Some(Happening::decided(about, run.attempt, head.at_us, outcome(head.committed)))
        }
        kind::DONE => {
            let head: DoneHead = decode(payload)?;
            if head.copy {
                return Ok(None);
            }
            let run = Run::try_from(&head.run)?;
            let cause = match head.cause.as_slice() {
                [code, detail, ..] => Some((code.as_str(), detail.as_str())),
                _ => None,
            };
            let about = about(run, head.name, head.trace.as_deref());
            Some(Happening::ended(about, run.attempt, head.ended_us, outcome(head.committed), cause))
        }
        _ => None,
    })
}
