//! What the log holds of batch jobs. A job is opened by a forced record; each chunk's `Done` says that it is done; and
//! now and then the whole job is written again, so that the segments of its youth may go.
//!
//! ```text
//!   Job(open) … Done(chunk 0) … Done(chunk 1) … Job(all of it so far) … Done(chunk 2) … Job(compensating) … Job(ended)
//! ```
//!
//! Everything said of a job only adds to what was said before (chunks become done, phases go on, never back), so records
//! are merged and their order does not matter: a `Done` may stand before or after a copy that holds it already.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;

use super::record::{Unreadable, decode};
use crate::model::ids::{Lsn, TxnId};
use crate::model::job::{ChunkNote, FailedChunk, JobPhase};
use crate::model::ranges::Ranges;

/// What a job is, said when it is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobHead {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub principal: Arc<str>,
    /// SHA-256 of the request that opened it.
    pub digest: [u8; 32],
    /// How many chunks it will have.
    pub total: Option<u64>,
    /// Microseconds since 1970.
    pub began_us: i64,
}

/// What would undo a chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Undo {
    /// Which chunk.
    pub chunk: u64,
    /// Operations as text ([`crate::model::job::read_undo`]).
    pub text: Arc<str>,
}

/// A job as far as the log (or a part of it) tells.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct JobLog {
    /// What it is; `None` where only `Done` records of its chunks were met so far.
    pub head: Option<JobHead>,
    /// How far it is.
    pub phase: JobPhase,
    /// When it entered that phase.
    pub at_us: i64,
    /// Chunks that are done.
    pub done: Ranges,
    /// Those of them without a compensation.
    pub bare: Ranges,
    /// Those of them that are undone again.
    pub undone: Ranges,
    /// Compensations that are still to be kept, by the place of the chunk's `Done`: in the order of completion.
    pub undos: BTreeMap<Lsn, Undo>,
    /// The last refusal.
    pub failed: Option<FailedChunk>,
    /// Why it was given up.
    pub cause: Option<(String, String)>,
}

impl JobLog {
    /// A chunk (or a compensation) of it committed: its `Done` stands at `lsn`. `false`: that was known.
    pub fn ended(&mut self, lsn: Lsn, note: &ChunkNote) -> bool {
        if self.failed.as_ref().is_some_and(|failed| failed.chunk == note.number) {
            self.failed = None;
        }
        if note.undoes {
            self.drop_undo(note.number);
            return self.undone.insert(note.number);
        }
        if !self.done.insert(note.number) {
            return false;
        }
        match &note.undo {
            Some(text) => drop(self.undos.insert(lsn, Undo { chunk: note.number, text: text.as_str().into() })),
            None => drop(self.bare.insert(note.number)),
        }
        true
    }

    /// What would undo this chunk is not needed any more.
    fn drop_undo(&mut self, chunk: u64) {
        // Nearly always the last one: that is the order in which they run.
        if self.undos.last_key_value().is_some_and(|(_, undo)| undo.chunk == chunk) {
            self.undos.pop_last();
        } else {
            self.undos.retain(|_, undo| undo.chunk != chunk);
        }
    }

    /// A chunk (or a compensation) of it was refused.
    pub fn refused(&mut self, note: &ChunkNote, (code, detail): (String, String)) {
        let is_done = if note.undoes { &self.undone } else { &self.done };
        if !is_done.contains(note.number) {
            self.failed = Some(FailedChunk { chunk: note.number, code, detail });
        }
    }

    /// Adds what another record says of the same job.
    pub fn absorb(&mut self, other: Self) {
        self.head = self.head.take().or(other.head);
        if other.phase > self.phase || self.at_us == 0 {
            (self.phase, self.at_us) = (other.phase, other.at_us);
        }
        self.done.extend(&other.done);
        self.bare.extend(&other.bare);
        self.undone.extend(&other.undone);
        // The same one may have been met under another place: a `Done` that was copied forward.
        let known: BTreeSet<u64> = self.undos.values().map(|undo| undo.chunk).collect();
        self.undos.extend(other.undos.into_iter().filter(|(_, undo)| !known.contains(&undo.chunk)));
        let undone = &self.undone;
        self.undos.retain(|_, undo| !undone.contains(undo.chunk));
        if !self.bare.is_empty() {
            for undo in self.undos.values() {
                self.bare.remove(undo.chunk);
            }
        }
        let settled = if self.phase >= JobPhase::Compensating { &self.undone } else { &self.done };
        self.failed = other.failed.or(self.failed.take()).filter(|failed| !settled.contains(failed.chunk));
        self.cause = other.cause.or(self.cause.take());
    }

    /// The same with nothing that would undo it: what is left to be said of a job that has ended.
    #[must_use]
    pub fn without_undos(&self) -> Self {
        Self {
            head: self.head.clone(),
            phase: self.phase,
            at_us: self.at_us,
            done: self.done.clone(),
            bare: self.bare.clone(),
            undone: self.undone.clone(),
            undos: BTreeMap::new(),
            failed: self.failed.clone(),
            cause: self.cause.clone(),
        }
    }

    /// Bytes of the compensations that it keeps.
    #[must_use]
    pub fn undo_bytes(&self) -> usize {
        self.undos.values().map(|undo| undo.text.len()).sum()
    }

    /// The records that say all of this, each no longer than about `most` bytes (one compensation at least).
    #[must_use]
    pub fn encode(&self, id: TxnId, most: usize) -> Vec<Vec<u8>> {
        let first = self.record(id);
        let mut size = first.encoded_len();
        let mut records = vec![first];
        for (lsn, undo) in &self.undos {
            let undo = UndoRecord { done_at: lsn.as_u64(), chunk: undo.chunk, text: undo.text.to_string() };
            let more = undo.encoded_len() + 8;
            if size + more > most && records.last().is_some_and(|record| !record.undos.is_empty()) {
                records.push(JobRecord { id: id.0.as_bytes().to_vec(), ..JobRecord::default() });
                size = 32;
            }
            size += more;
            records.last_mut().into_iter().for_each(|record| record.undos.push(undo.clone()));
        }
        records.iter().map(Message::encode_to_vec).collect()
    }

    fn record(&self, id: TxnId) -> JobRecord {
        JobRecord {
            id: id.0.as_bytes().to_vec(),
            head: self.head.as_ref().map(|head| HeadRecord {
                name: head.name.clone(),
                principal: head.principal.to_string(),
                digest: head.digest.to_vec(),
                total: head.total,
                began_us: head.began_us,
            }),
            phase: phase_number(self.phase),
            at_us: self.at_us,
            done: flat(&self.done),
            bare: flat(&self.bare),
            undone: flat(&self.undone),
            undos: Vec::new(),
            failed: self.failed.as_ref().map(|failed| FailedRecord {
                chunk: failed.chunk,
                code: failed.code.clone(),
                detail: failed.detail.clone(),
            }),
            cause: self.cause.iter().flat_map(|(code, text)| [code.clone(), text.clone()]).collect(),
        }
    }

    pub(super) fn decode(payload: &[u8]) -> Result<(TxnId, Self), Unreadable> {
        let record: JobRecord = decode(payload)?;
        let id = job_id(&record.id)?;
        let head = record.head.map(|head| {
            let digest = head.digest.try_into().map_err(|_| Unreadable("a digest that is not 32 bytes".into()))?;
            let (total, began_us) = (head.total, head.began_us);
            Ok::<_, Unreadable>(JobHead { name: head.name, principal: head.principal.into(), digest, total, began_us })
        });
        let undo = |undo: UndoRecord| (Lsn::from_u64(undo.done_at), Undo { chunk: undo.chunk, text: undo.text.into() });
        let mut cause = record.cause.into_iter();
        let log = Self {
            head: head.transpose()?,
            phase: phase(record.phase)?,
            at_us: record.at_us,
            done: ranges(&record.done)?,
            bare: ranges(&record.bare)?,
            undone: ranges(&record.undone)?,
            undos: record.undos.into_iter().map(undo).collect(),
            failed: record.failed.map(|f| FailedChunk { chunk: f.chunk, code: f.code, detail: f.detail }),
            cause: cause.next().zip(cause.next()),
        };
        Ok((id, log))
    }
}

fn job_id(bytes: &[u8]) -> Result<TxnId, Unreadable> {
    let id = uuid::Uuid::from_slice(bytes).map_err(|_| Unreadable("a job's id that is not 16 bytes".into()))?;
    Ok(TxnId(id))
}

fn flat(ranges: &Ranges) -> Vec<u64> {
    ranges.as_slice().iter().flat_map(|(first, last)| [*first, *last]).collect()
}

fn ranges(flat: &[u64]) -> Result<Ranges, Unreadable> {
    if !flat.len().is_multiple_of(2) || flat.chunks(2).any(|pair| pair[0] > pair[1]) {
        return Err(Unreadable("ranges whose ends do not pair".into()));
    }
    Ok(flat.chunks(2).map(|pair| (pair[0], pair[1])).collect())
}

const PHASES: [JobPhase; 5] =
    [JobPhase::Open, JobPhase::Compensating, JobPhase::Committed, JobPhase::Compensated, JobPhase::Aborted];

fn phase_number(phase: JobPhase) -> u32 {
    PHASES.iter().zip(0..).find(|(known, _)| **known == phase).map_or(0, |(_, number)| number)
}

fn phase(number: u32) -> Result<JobPhase, Unreadable> {
    PHASES.get(number as usize).copied().ok_or_else(|| Unreadable(format!("a job's phase {number}")))
}

/// A job: what is new of it, or all of it. An absent member adds nothing.
#[derive(Clone, PartialEq, Message)]
pub struct JobRecord {
    /// The job's 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    /// What it is.
    #[prost(message, optional, tag = "2")]
    pub head: Option<HeadRecord>,
    /// 0 open, 1 compensating, 2 committed, 3 compensated, 4 given up.
    #[prost(uint32, tag = "3")]
    pub phase: u32,
    /// When it entered that phase: microseconds since 1970.
    #[prost(int64, tag = "4")]
    pub at_us: i64,
    /// Chunks that are done: first and last of each range.
    #[prost(uint64, repeated, tag = "5")]
    pub done: Vec<u64>,
    /// Those without a compensation.
    #[prost(uint64, repeated, tag = "6")]
    pub bare: Vec<u64>,
    /// Those that are undone again.
    #[prost(uint64, repeated, tag = "7")]
    pub undone: Vec<u64>,
    /// Compensations.
    #[prost(message, repeated, tag = "8")]
    pub undos: Vec<UndoRecord>,
    /// The last refusal.
    #[prost(message, optional, tag = "9")]
    pub failed: Option<FailedRecord>,
    /// Why it was given up: the problem's code and its sentence.
    #[prost(string, repeated, tag = "10")]
    pub cause: Vec<String>,
}

/// What a job is.
#[derive(Clone, PartialEq, Message)]
pub struct HeadRecord {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Whose it is.
    #[prost(string, tag = "2")]
    pub principal: String,
    /// SHA-256.
    #[prost(bytes = "vec", tag = "3")]
    pub digest: Vec<u8>,
    /// How many chunks it will have.
    #[prost(uint64, optional, tag = "4")]
    pub total: Option<u64>,
    /// Microseconds since 1970.
    #[prost(int64, tag = "5")]
    pub began_us: i64,
}

/// One compensation.
#[derive(Clone, PartialEq, Message)]
pub struct UndoRecord {
    /// Where the chunk's first `Done` stood.
    #[prost(uint64, tag = "1")]
    pub done_at: u64,
    /// Which chunk.
    #[prost(uint64, tag = "2")]
    pub chunk: u64,
    /// Operations as JSON text.
    #[prost(string, tag = "3")]
    pub text: String,
}

/// One refusal.
#[derive(Clone, PartialEq, Message)]
pub struct FailedRecord {
    /// Which chunk.
    #[prost(uint64, tag = "1")]
    pub chunk: u64,
    /// The problem's code.
    #[prost(string, tag = "2")]
    pub code: String,
    /// Its sentence.
    #[prost(string, tag = "3")]
    pub detail: String,
}

/// In an Intent or a Done: the transaction is a chunk of a job, or undoes one.
#[derive(Clone, PartialEq, Message)]
pub struct ChunkRecord {
    /// The job's 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub job: Vec<u8>,
    /// Its name.
    #[prost(string, tag = "2")]
    pub parent: String,
    /// Which chunk.
    #[prost(uint64, tag = "3")]
    pub number: u64,
    /// Whether it is the compensation.
    #[prost(bool, tag = "4")]
    pub undoes: bool,
    /// What would undo it.
    #[prost(string, optional, tag = "5")]
    pub undo: Option<String>,
}

impl From<&ChunkNote> for ChunkRecord {
    fn from(note: &ChunkNote) -> Self {
        let ChunkNote { job, parent, number, undoes, undo } = note.clone();
        Self { job: job.0.as_bytes().to_vec(), parent, number, undoes, undo }
    }
}

impl TryFrom<ChunkRecord> for ChunkNote {
    type Error = Unreadable;
    fn try_from(record: ChunkRecord) -> Result<Self, Unreadable> {
        let ChunkRecord { job, parent, number, undoes, undo } = record;
        Ok(Self { job: job_id(&job)?, parent, number, undoes, undo })
    }
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
