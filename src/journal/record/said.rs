//! What records say, as the rest of the program reads it; and both ways between that and their bytes.

use prost::Message;

use super::{BeganRecord, DoneRecord, IntentRecord, SkippedRecord, Unreadable, decode, outcome};
use crate::lock::Claim;
use crate::model::commit::{Decider, Gid, KeyNote, RedoWrite};
use crate::model::ids::{Run, StoreName};
use crate::model::job::ChunkNote;
use crate::model::operator::Skipped;
use crate::model::state::Outcome;
use crate::model::trace::TraceId;

/// Everything that the second half of a run needs, whatever is decided.
#[derive(Clone, PartialEq, Debug)]
pub struct Intent {
    /// Which run.
    pub run: Run,
    /// As given.
    pub name: Option<String>,
    /// Who decides.
    pub decider: Decider,
    /// Who promised, under which name.
    pub preparers: Vec<(StoreName, Gid)>,
    /// The absolute writes, in order.
    pub redo: Vec<RedoWrite>,
    /// The locks that it holds.
    pub claims: Vec<Claim>,
    /// The idempotency key.
    pub key: Option<KeyNote>,
    /// When the transaction first began: microseconds since 1970.
    pub began_us: i64,
    /// Why the plan is what it is.
    pub reason: String,
    /// The durable Lsn that its markers carry.
    pub durable: crate::model::ids::Lsn,
    /// The trace of the request; older logs know none.
    pub trace: Option<TraceId>,
    /// Of which job it is a chunk, and what would undo it.
    pub chunk: Option<ChunkNote>,
}

impl Intent {
    /// The stores that get absolute writes, each once, in order.
    #[must_use]
    pub fn redoers(&self) -> Vec<StoreName> {
        let mut stores: Vec<StoreName> = Vec::new();
        for write in &self.redo {
            if !stores.contains(&write.store) {
                stores.push(write.store.clone());
            }
        }
        stores
    }

    pub(in crate::journal) fn encode(&self, at_us: i64) -> Vec<u8> {
        self.to_record(at_us).encode_to_vec()
    }

    pub(in crate::journal) fn to_record(&self, at_us: i64) -> IntentRecord {
        IntentRecord {
            run: self.run.into(),
            name: self.name.clone(),
            decider: self.decider.to_string(),
            preparers: self.preparers.iter().map(|(store, _)| store.to_string()).collect(),
            gids: self.preparers.iter().map(|(_, gid)| gid.to_string()).collect(),
            redo: self.redo.iter().map(Into::into).collect(),
            claims: self.claims.iter().map(Into::into).collect(),
            key: self.key.as_ref().map(Into::into),
            began_us: self.began_us,
            reason: self.reason.clone(),
            durable: self.durable.as_u64(),
            at_us,
            trace: self.trace.map(TraceId::to_bytes),
            held: false,
            chunk: self.chunk.as_ref().map(Into::into),
        }
    }

    pub(in crate::journal) fn decode(payload: &[u8]) -> Result<Self, Unreadable> {
        Self::from_record(decode(payload)?)
    }

    pub(in crate::journal) fn from_record(record: IntentRecord) -> Result<Self, Unreadable> {
        let gids = record.gids.iter().map(|gid| gid.parse().map_err(|_| Unreadable(format!("a gid `{gid}`"))));
        let gids: Vec<Gid> = gids.collect::<Result<_, _>>()?;
        if gids.len() != record.preparers.len() {
            return Err(Unreadable("preparers and gids that do not pair".into()));
        }
        Ok(Self {
            run: (&record.run).try_into()?,
            name: record.name,
            decider: record.decider.as_str().into(),
            preparers: record.preparers.iter().map(|store| store.as_str().into()).zip(gids).collect(),
            redo: record.redo.into_iter().map(Into::into).collect(),
            claims: record.claims.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            key: record.key.map(TryInto::try_into).transpose()?,
            began_us: record.began_us,
            reason: record.reason,
            durable: crate::model::ids::Lsn::from_u64(record.durable),
            trace: record.trace.as_deref().and_then(TraceId::from_bytes),
            chunk: record.chunk.map(TryInto::try_into).transpose()?,
        })
    }
}

/// An interactive transaction is open: after a crash nobody can go on with it, but it may have decided by itself.
#[derive(Clone, PartialEq, Debug)]
pub struct Began {
    /// Which run.
    pub run: Run,
    /// As given.
    pub name: Option<String>,
    /// The idempotency key.
    pub key: Option<KeyNote>,
    /// Microseconds since 1970.
    pub began_us: i64,
    /// The durable Lsn that its markers carry.
    pub durable: crate::model::ids::Lsn,
    /// Who opened it.
    pub principal: String,
    /// The trace of the request; older logs know none.
    pub trace: Option<TraceId>,
}

impl Began {
    pub(in crate::journal) fn encode(&self) -> Vec<u8> {
        let record = BeganRecord {
            run: self.run.into(),
            name: self.name.clone(),
            key: self.key.as_ref().map(Into::into),
            began_us: self.began_us,
            durable: self.durable.as_u64(),
            principal: self.principal.clone(),
            trace: self.trace.map(TraceId::to_bytes),
        };
        record.encode_to_vec()
    }

    pub(in crate::journal) fn decode(payload: &[u8]) -> Result<Self, Unreadable> {
        let record: BeganRecord = decode(payload)?;
        Ok(Self {
            run: (&record.run).try_into()?,
            name: record.name,
            key: record.key.map(TryInto::try_into).transpose()?,
            began_us: record.began_us,
            durable: crate::model::ids::Lsn::from_u64(record.durable),
            principal: record.principal,
            trace: record.trace.as_deref().and_then(TraceId::from_bytes),
        })
    }

    /// What it owes as far as the log knows: nothing. Had it asked anybody to follow, its Intent would be here.
    #[must_use]
    pub fn intent(&self) -> Intent {
        Intent {
            run: self.run,
            name: self.name.clone(),
            decider: Decider::Wal,
            preparers: Vec::new(),
            redo: Vec::new(),
            claims: Vec::new(),
            key: self.key.clone(),
            began_us: self.began_us,
            reason: "it was open when the sidecar stopped".to_owned(),
            durable: self.durable,
            trace: self.trace,
            chunk: None,
        }
    }
}

/// The end of a run, complete in itself.
#[derive(Clone, PartialEq, Debug)]
pub struct Ended {
    /// Which run.
    pub run: Run,
    /// Which way.
    pub outcome: Outcome,
    /// As given.
    pub name: Option<String>,
    /// Microseconds since 1970.
    pub began_us: i64,
    /// Microseconds since 1970.
    pub ended_us: i64,
    /// Who decided.
    pub decider: Decider,
    /// Who promised.
    pub preparers: Vec<StoreName>,
    /// Who got absolute writes.
    pub redoers: Vec<StoreName>,
    /// Why the plan was what it was.
    pub reason: String,
    /// The key with its answer, where the log decided.
    pub key: Option<(KeyNote, Option<String>)>,
    /// Why it aborted: the problem's code and its sentence.
    pub cause: Option<(String, String)>,
    /// The trace of the request; older logs know none.
    pub trace: Option<TraceId>,
    /// What an operator gave up.
    pub skipped: Vec<Skipped>,
    /// Of which job it was a chunk, and what would undo it.
    pub chunk: Option<ChunkNote>,
}

impl Ended {
    /// The end of a run in which the log decided, and nobody had to follow.
    #[must_use]
    pub fn of(run: Run, outcome: Outcome, began_us: i64, ended_us: i64) -> Self {
        Self {
            run,
            outcome,
            name: None,
            began_us,
            ended_us,
            decider: Decider::Wal,
            preparers: Vec::new(),
            redoers: Vec::new(),
            reason: String::new(),
            key: None,
            cause: None,
            trace: None,
            skipped: Vec::new(),
            chunk: None,
        }
    }

    pub(in crate::journal) fn encode(&self) -> Vec<u8> {
        self.record(false).encode_to_vec()
    }

    /// For a checkpoint, which writes it again.
    pub(in crate::journal) fn encode_copy(&self) -> Vec<u8> {
        self.record(true).encode_to_vec()
    }

    fn record(&self, copy: bool) -> DoneRecord {
        let names = |stores: &[StoreName]| stores.iter().map(ToString::to_string).collect();
        DoneRecord {
            run: self.run.into(),
            committed: self.outcome == Outcome::Committed,
            name: self.name.clone(),
            began_us: self.began_us,
            ended_us: self.ended_us,
            decider: self.decider.to_string(),
            preparers: names(&self.preparers),
            redoers: names(&self.redoers),
            reason: self.reason.clone(),
            key: self.key.as_ref().map(|(note, _)| note.into()),
            answer: self.key.as_ref().and_then(|(_, answer)| answer.clone()),
            cause: self.cause.as_ref().map(|(code, text)| vec![code.clone(), text.clone()]).unwrap_or_default(),
            skipped: self.skipped.iter().map(|skipped| SkippedRecord::of(self.run, skipped)).collect(),
            chunk: self.chunk.as_ref().map(Into::into),
            trace: self.trace.map(TraceId::to_bytes),
            copy,
        }
    }

    pub(in crate::journal) fn decode(payload: &[u8]) -> Result<Self, Unreadable> {
        let record: DoneRecord = decode(payload)?;
        let names = |stores: &[String]| stores.iter().map(|store| store.as_str().into()).collect();
        let mut cause = record.cause.into_iter();
        let answer = record.answer;
        Ok(Self {
            run: (&record.run).try_into()?,
            outcome: outcome(record.committed),
            name: record.name,
            began_us: record.began_us,
            ended_us: record.ended_us,
            decider: record.decider.as_str().into(),
            preparers: names(&record.preparers),
            redoers: names(&record.redoers),
            reason: record.reason,
            key: record.key.map(|key| Ok::<_, Unreadable>((key.try_into()?, answer))).transpose()?,
            cause: cause.next().zip(cause.next()),
            trace: record.trace.as_deref().and_then(TraceId::from_bytes),
            skipped: record.skipped.into_iter().map(Into::into).collect(),
            chunk: record.chunk.map(TryInto::try_into).transpose()?,
        })
    }
}
