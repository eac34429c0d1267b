//! What stands in the log: numbered prost fields, unknown ones skipped, so that an older program reads a newer log and
//! the other way round. A record's kind is the log's own type byte.
//!
//! ```text
//!  kind  record      forced?                says
//!     1  Opened      yes                    this log was opened, in this incarnation
//!     2  Intent      yes (before deciding)  everything that the second half needs, whatever is decided
//!     3  Decision    yes                    the log itself decides
//!     4  Learnt      no                     a store decided, or nobody was asked: this is how
//!     5  Done        no                     every store has it; nothing more can happen
//!     6  Checkpoint  no                     stands for the Opened before it, so that old segments may go
//!     7  Prepared    yes                    everybody who can has promised, and the verdict is awaited over restarts
//!     8  Began       no                     an interactive transaction is open: should nothing follow, it is fenced
//!     9  Skipped     yes (before skipping)  an operator gave up what a store refuses for good
//!    10  Job         yes (copies: no)       a batch job: opened, rolled back, ended, or all of it so far (see `job`)
//! ```

mod said;

use prost::Message;

use super::job::ChunkRecord;
use crate::lock::{Claim, LockKey, Mode};
use crate::model::commit::{KeyNote, RedoWrite};
use crate::model::ids::{Attempt, Run, TxnId};
use crate::model::operator::Skipped;
use crate::model::state::Outcome;

pub use self::said::{Began, Ended, Intent};

/// The log's type bytes.
pub mod kind {
    /// [`super::OpenedRecord`]
    pub const OPENED: u8 = 1;
    /// [`super::IntentRecord`]
    pub const INTENT: u8 = 2;
    /// [`super::VerdictRecord`], forced
    pub const DECISION: u8 = 3;
    /// [`super::VerdictRecord`], not forced
    pub const LEARNT: u8 = 4;
    /// [`super::DoneRecord`]
    pub const DONE: u8 = 5;
    /// [`super::OpenedRecord`]
    pub const CHECKPOINT: u8 = 6;
    /// [`crate::journal::prepared::PreparedRecord`]
    pub const PREPARED: u8 = 7;
    /// [`super::BeganRecord`]
    pub const BEGAN: u8 = 8;
    /// [`super::SkippedRecord`], forced
    pub const SKIPPED: u8 = 9;
    /// [`super::super::job::JobRecord`]
    pub const JOB: u8 = 10;

    /// The name of a type byte, for people.
    #[must_use]
    pub fn name(kind: u8) -> &'static str {
        match kind {
            OPENED => "opened",
            INTENT => "intent",
            DECISION => "decision",
            LEARNT => "learnt",
            DONE => "done",
            CHECKPOINT => "checkpoint",
            PREPARED => "prepared",
            BEGAN => "began",
            SKIPPED => "skipped",
            JOB => "job",
            _ => "unknown",
        }
    }
}

/// A record's bytes are not what its kind promises.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

/// Opened, and Checkpoint.
#[derive(Clone, PartialEq, Message)]
pub struct OpenedRecord {
    /// Counted up at every open.
    #[prost(uint64, tag = "1")]
    pub incarnation: u64,
    /// The program's version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Microseconds since 1970, for people.
    #[prost(int64, tag = "3")]
    pub at_us: i64,
}

/// Which run.
#[derive(Clone, PartialEq, Message)]
pub struct RunRecord {
    /// The transaction's 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub txn: Vec<u8>,
    /// Which run of it.
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
}

/// Everything that the second half needs.
#[derive(Clone, PartialEq, Message)]
pub struct IntentRecord {
    /// Which run.
    #[prost(message, required, tag = "1")]
    pub run: RunRecord,
    /// As given.
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    /// A store's name, or `wal`.
    #[prost(string, tag = "3")]
    pub decider: String,
    /// `StoreName`s of the preparers, each with its gid in the next field.
    #[prost(string, repeated, tag = "4")]
    pub preparers: Vec<String>,
    /// The gids, byte for byte.
    #[prost(string, repeated, tag = "5")]
    pub gids: Vec<String>,
    /// The absolute writes.
    #[prost(message, repeated, tag = "6")]
    pub redo: Vec<RedoRecord>,
    /// The locks that it holds.
    #[prost(message, repeated, tag = "7")]
    pub claims: Vec<ClaimRecord>,
    /// The idempotency key.
    #[prost(message, optional, tag = "8")]
    pub key: Option<KeyRecord>,
    /// When the transaction first began: microseconds since 1970.
    #[prost(int64, tag = "9")]
    pub began_us: i64,
    /// Why the plan is what it is, for people.
    #[prost(string, tag = "10")]
    pub reason: String,
    /// The durable Lsn that its markers carry: nothing older than this may be swept while it lives.
    #[prost(uint64, tag = "11")]
    pub durable: u64,
    /// When this was written: microseconds since 1970, for people.
    #[prost(int64, tag = "14")]
    pub at_us: i64,
    /// The trace id of the request: 16 bytes.
    #[prost(bytes = "vec", optional, tag = "15")]
    pub trace: Option<Vec<u8>>,
    /// It was prepared before, and is put to its decider now.
    #[prost(bool, tag = "16")]
    pub held: bool,
    /// Of which job it is a chunk.
    #[prost(message, optional, tag = "20")]
    pub chunk: Option<ChunkRecord>,
}

/// An interactive transaction is open.
#[derive(Clone, PartialEq, Message)]
pub struct BeganRecord {
    /// Which run.
    #[prost(message, required, tag = "1")]
    pub run: RunRecord,
    /// As given.
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    /// The idempotency key.
    #[prost(message, optional, tag = "3")]
    pub key: Option<KeyRecord>,
    /// Microseconds since 1970.
    #[prost(int64, tag = "4")]
    pub began_us: i64,
    /// The durable Lsn that its markers carry.
    #[prost(uint64, tag = "5")]
    pub durable: u64,
    /// Who opened it.
    #[prost(string, tag = "6")]
    pub principal: String,
    /// The trace id of the request: 16 bytes.
    #[prost(bytes = "vec", optional, tag = "15")]
    pub trace: Option<Vec<u8>>,
}

/// One absolute write.
#[derive(Clone, PartialEq, Message)]
pub struct RedoRecord {
    /// Where.
    #[prost(string, tag = "1")]
    pub store: String,
    /// The collection.
    #[prost(string, tag = "2")]
    pub resource: String,
    /// The points.
    #[prost(string, repeated, tag = "3")]
    pub keys: Vec<String>,
    /// The adapter's encoding.
    #[prost(bytes = "vec", tag = "4")]
    pub body: Vec<u8>,
}

/// One lock.
#[derive(Clone, PartialEq, Message)]
pub struct ClaimRecord {
    /// Free key: one part. Resource: store, resource. Point: store, resource, point.
    #[prost(string, repeated, tag = "1")]
    pub parts: Vec<String>,
    /// 0 IS, 1 IX, 2 S, 3 U, 4 X.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
}

/// An idempotency key.
#[derive(Clone, PartialEq, Message)]
pub struct KeyRecord {
    /// `principal/key`.
    #[prost(string, tag = "1")]
    pub key: String,
    /// SHA-256.
    #[prost(bytes = "vec", tag = "2")]
    pub digest: Vec<u8>,
}

/// Decision, and Learnt.
#[derive(Clone, PartialEq, Message)]
pub struct VerdictRecord {
    /// Which run.
    #[prost(message, required, tag = "1")]
    pub run: RunRecord,
    /// Committed, or aborted.
    #[prost(bool, tag = "2")]
    pub committed: bool,
    /// The answer, where the log decides and there is a key.
    #[prost(string, optional, tag = "3")]
    pub answer: Option<String>,
    /// When this was written: microseconds since 1970, for people.
    #[prost(int64, tag = "14")]
    pub at_us: i64,
}

/// The end of a run, complete in itself.
#[derive(Clone, PartialEq, Message)]
pub struct DoneRecord {
    /// Which run.
    #[prost(message, required, tag = "1")]
    pub run: RunRecord,
    /// Committed, or aborted.
    #[prost(bool, tag = "2")]
    pub committed: bool,
    /// As given.
    #[prost(string, optional, tag = "3")]
    pub name: Option<String>,
    /// When the transaction first began: microseconds since 1970.
    #[prost(int64, tag = "4")]
    pub began_us: i64,
    /// When it ended.
    #[prost(int64, tag = "5")]
    pub ended_us: i64,
    /// A store's name, or `wal`.
    #[prost(string, tag = "6")]
    pub decider: String,
    /// The stores that promised.
    #[prost(string, repeated, tag = "7")]
    pub preparers: Vec<String>,
    /// The stores that got absolute writes.
    #[prost(string, repeated, tag = "8")]
    pub redoers: Vec<String>,
    /// Why the plan was what it was.
    #[prost(string, tag = "9")]
    pub reason: String,
    /// The key, where the log decided: then this record is its only memory.
    #[prost(message, optional, tag = "10")]
    pub key: Option<KeyRecord>,
    /// The answer that goes with it.
    #[prost(string, optional, tag = "11")]
    pub answer: Option<String>,
    /// Why it aborted: the problem's code and its sentence.
    #[prost(string, repeated, tag = "12")]
    pub cause: Vec<String>,
    /// The trace id of the request: 16 bytes.
    #[prost(bytes = "vec", optional, tag = "15")]
    pub trace: Option<Vec<u8>>,
    /// A checkpoint wrote an older record of the same end again: nothing has happened.
    #[prost(bool, tag = "16")]
    pub copy: bool,
    /// Of which job it was a chunk.
    #[prost(message, optional, tag = "20")]
    pub chunk: Option<ChunkRecord>,
    /// What an operator gave up.
    #[prost(message, repeated, tag = "21")]
    pub skipped: Vec<SkippedRecord>,
}

/// An operator gave up one store's part, which it refuses for good.
#[derive(Clone, PartialEq, Message)]
pub struct SkippedRecord {
    /// Which run.
    #[prost(message, required, tag = "1")]
    pub run: RunRecord,
    /// Whose part.
    #[prost(string, tag = "2")]
    pub store: String,
    /// Why, in the operator's words.
    #[prost(string, tag = "3")]
    pub reason: String,
    /// The operator.
    #[prost(string, tag = "4")]
    pub principal: String,
    /// Microseconds since 1970.
    #[prost(int64, tag = "5")]
    pub at_us: i64,
}

impl SkippedRecord {
    pub(super) fn of(run: Run, skipped: &Skipped) -> Self {
        let Skipped { store, reason, by, at_us } = skipped.clone();
        Self { run: run.into(), store: store.to_string(), reason, principal: by, at_us }
    }
}

impl From<SkippedRecord> for Skipped {
    fn from(record: SkippedRecord) -> Self {
        let SkippedRecord { store, reason, principal, at_us, .. } = record;
        Self { store: store.as_str().into(), reason, by: principal, at_us }
    }
}

impl From<Run> for RunRecord {
    fn from(run: Run) -> Self {
        Self { txn: run.txn.0.as_bytes().to_vec(), attempt: run.attempt.0 }
    }
}

impl TryFrom<&RunRecord> for Run {
    type Error = Unreadable;
    fn try_from(record: &RunRecord) -> Result<Self, Unreadable> {
        let id = uuid::Uuid::from_slice(&record.txn);
        let id = id.map_err(|_| Unreadable("a transaction id that is not 16 bytes".into()))?;
        Ok(Self { txn: TxnId(id), attempt: Attempt(record.attempt) })
    }
}

impl From<&RedoWrite> for RedoRecord {
    fn from(write: &RedoWrite) -> Self {
        let RedoWrite { store, resource, keys, body } = write;
        Self { store: store.to_string(), resource: resource.clone(), keys: keys.clone(), body: body.clone() }
    }
}

impl From<RedoRecord> for RedoWrite {
    fn from(record: RedoRecord) -> Self {
        let RedoRecord { store, resource, keys, body } = record;
        Self { store: store.as_str().into(), resource, keys, body }
    }
}

const MODES: [Mode; 5] = [Mode::IntentShared, Mode::IntentExclusive, Mode::Shared, Mode::Update, Mode::Exclusive];

impl From<&Claim> for ClaimRecord {
    fn from(claim: &Claim) -> Self {
        let parts = match &claim.key {
            LockKey::Free(key) => vec![key.clone()],
            LockKey::Resource(store, resource) => vec![store.to_string(), resource.clone()],
            LockKey::Point(store, resource, point) => vec![store.to_string(), resource.clone(), point.clone()],
        };
        let mode = MODES.iter().position(|mode| *mode == claim.mode).unwrap_or(4);
        Self { parts, mode: u32::try_from(mode).unwrap_or(4) }
    }
}

impl TryFrom<ClaimRecord> for Claim {
    type Error = Unreadable;
    fn try_from(record: ClaimRecord) -> Result<Self, Unreadable> {
        let mode = MODES.get(record.mode as usize).copied();
        let mode = mode.ok_or_else(|| Unreadable(format!("a lock mode {}", record.mode)))?;
        let mut parts = record.parts.into_iter();
        let key = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(key), None, ..) => LockKey::Free(key),
            (Some(store), Some(resource), None, _) => LockKey::Resource(store.as_str().into(), resource),
            (Some(store), Some(resource), Some(point), None) => LockKey::Point(store.as_str().into(), resource, point),
            _ => return Err(Unreadable("a lock key of no or more than three parts".into())),
        };
        Ok(Self { key, mode })
    }
}

impl From<&KeyNote> for KeyRecord {
    fn from(note: &KeyNote) -> Self {
        Self { key: note.key.clone(), digest: note.digest.to_vec() }
    }
}

impl TryFrom<KeyRecord> for KeyNote {
    type Error = Unreadable;
    fn try_from(record: KeyRecord) -> Result<Self, Unreadable> {
        let digest = record.digest.try_into();
        Ok(Self { key: record.key, digest: digest.map_err(|_| Unreadable("a digest that is not 32 bytes".into()))? })
    }
}

pub(super) fn outcome(committed: bool) -> Outcome {
    if committed { Outcome::Committed } else { Outcome::Aborted }
}

pub(super) fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, Unreadable> {
    M::decode(payload).map_err(|error| Unreadable(error.to_string()))
}
