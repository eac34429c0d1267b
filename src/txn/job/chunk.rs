//! One chunk: let in, run as any transaction, noted when it ends.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use tracing::Instrument;

use super::super::core::Core;
use super::super::entry::Entry;
use super::super::{Coordinator, atomic, drive, look_up};
use super::Job;
use super::progress::Admission;
use crate::journal::job::JobLog;
use crate::journal::record::Ended;
use crate::metrics::ChunkOutcome;
use crate::model::commit::KeyNote;
use crate::model::ids::Lsn;
use crate::model::job::{ChunkNote, ChunkWish, write_undo};
use crate::model::problem::{Code, Problem};
use crate::model::ranges::Ranges;
use crate::model::request::{Operation, TxnRequest, WaitFor};
use crate::model::state::{Outcome, TxnState};
use crate::model::view::{Answer, View};
use crate::plan::Plan;

/// What a transaction has to do with a job.
pub(in crate::txn) enum OfJob {
    /// It is one.
    Itself(Arc<Job>),
    /// It is a chunk of one, or undoes one.
    Chunk(ChunkOf),
}

/// A transaction as a part of a job.
pub(in crate::txn) struct ChunkOf {
    /// The job, while it is open.
    pub(in crate::txn) job: Option<Arc<Job>>,
    note: Mutex<ChunkNote>,
    /// What undoes it, before its references are filled.
    compensate: Option<Vec<Operation>>,
}

impl ChunkOf {
    pub(in crate::txn) fn new(job: Option<Arc<Job>>, note: ChunkNote, compensate: Option<Vec<Operation>>) -> Self {
        Self { job, note: Mutex::new(note), compensate }
    }

    pub(in crate::txn) fn note(&self) -> ChunkNote {
        self.note.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Entry {
    /// The job that this is.
    pub(in crate::txn) fn job(&self) -> Option<&Arc<Job>> {
        match self.of_job() {
            Some(OfJob::Itself(job)) => Some(job),
            _ => None,
        }
    }

    /// The chunk that this is.
    pub(in crate::txn) fn chunk(&self) -> Option<&ChunkOf> {
        match self.of_job() {
            Some(OfJob::Chunk(chunk)) => Some(chunk),
            _ => None,
        }
    }

    /// What the log is to note of this chunk.
    pub(in crate::txn) fn chunk_note(&self) -> Option<ChunkNote> {
        self.chunk().map(ChunkOf::note)
    }

    /// Its operations have run: their results go where the compensation refers to them. Every run of a transaction does
    /// this anew.
    ///
    /// # Errors
    /// `invalid_request` with the pointer of a `$ref` that finds nothing; `payload_too_large`.
    pub(in crate::txn) fn fill_undo(&self) -> Result<(), Problem> {
        let Some(chunk) = self.chunk() else { return Ok(()) };
        let Some(operations) = &chunk.compensate else { return Ok(()) };
        let results = self.results();
        let text = write_undo(operations, |id| results.as_ref().and_then(|results| results.get(id)))?;
        chunk.note.lock().unwrap_or_else(PoisonError::into_inner).undo = Some(text);
        Ok(())
    }
}

enum Admitted {
    Running(Arc<Entry>),
    Replayed(Box<View>),
}

pub(super) async fn submit(coordinator: &Coordinator, request: TxnRequest, wish: ChunkWish) -> Answer {
    let core = &coordinator.core;
    let deadline = Instant::now() + request.timeout;
    let wait = request.wait;
    match admit(core, request, wish, deadline).await {
        Ok(Admitted::Running(entry)) => core.wait(&entry, wait, deadline).await,
        Ok(Admitted::Replayed(view)) => {
            core.metrics.job_chunk(ChunkOutcome::Replayed);
            Answer::Replayed(view)
        }
        Err(problem) => Answer::Problem(Box::new(problem)),
    }
}

async fn admit(core: &Arc<Core>, request: TxnRequest, wish: ChunkWish, deadline: Instant) -> Result<Admitted, Problem> {
    core.check_open()?;
    let job = parent(core, &wish)?;
    core.check_plan(&request, deadline).await?;
    check_undo(core, wish.compensate.as_deref())?;
    let number = wish.number;
    let key = ChunkNote::key(&wish.principal, job.id, number, false, wish.digest);
    if let Some(known) = look_up::known_key(core, &key, request.wait, false).await? {
        return Ok(Admitted::Replayed(known));
    }
    if job.admit(number, wish.compensate.is_some())? == Admission::Done {
        return done_before(core, &job, number, &key).await.map(Admitted::Replayed);
    }
    let begun = core.check_room();
    let begun = begun.and_then(|()| core.begin(request.name.clone(), Some(key), request.priority, request.trace));
    let entry = begun.inspect_err(|_| job.over(number, false))?;
    let note = ChunkNote { job: job.id, parent: wish.parent, number, undoes: false, undo: None };
    entry.belongs(OfJob::Chunk(ChunkOf::new(Some(job), note, wish.compensate)));
    entry.step("begun", None);
    core.tasks.spawn(drive(core.clone(), entry.clone(), request, deadline).instrument(entry.span()));
    Ok(Admitted::Running(entry))
}

/// The job that a chunk names: the open one of that name, else the latest ended one.
fn parent(core: &Core, wish: &ChunkWish) -> Result<Arc<Job>, Problem> {
    let name = &wish.parent;
    let Some(entry) = core.registry.named(name) else {
        return Err(Problem::new(Code::NotFound, format!("no job `{name}` is known: open it first")).at("/parent"));
    };
    let Some(job) = entry.job() else {
        let detail = format!("`{name}` is a transaction, and no batch job");
        return Err(Problem::new(Code::WrongState, detail).at("/parent").of(entry.id, entry.state()));
    };
    if job.head.principal != wish.principal {
        return Err(Problem::new(Code::Forbidden, format!("the job `{name}` is another principal's")).at("/parent"));
    }
    Ok(job.clone())
}

/// Refuses a compensation that no run could carry out: it has to be as possible as the chunk itself.
fn check_undo(core: &Core, operations: Option<&[Operation]>) -> Result<(), Problem> {
    let Some(operations) = operations else { return Ok(()) };
    Plan::new(&atomic::powers(core, operations)?).map(drop).map_err(|problem| problem.at("/compensate"))
}

/// The answer of a chunk that is done: from memory, from the log, or from the marker of the store that decided.
async fn done_before(core: &Core, job: &Job, number: u64, key: &KeyNote) -> Result<Box<View>, Problem> {
    if let Some(known) = look_up::known_key(core, key, WaitFor::Applied, false).await? {
        return Ok(known);
    }
    match look_up::in_a_marker(core, key).await? {
        Some(view) => Ok(view),
        None => {
            let name = &job.head.name;
            let detail =
                format!("chunk {number} of `{name}` is done, and its answer is not kept any more: go on with `next`");
            Err(Problem::new(Code::WrongState, detail).of(job.id, TxnState::Committed))
        }
    }
}

/// A transaction that recovery found, as the part of a job that it is.
pub(in crate::txn) fn again(core: &Core, note: &ChunkNote) -> OfJob {
    let job = core.registry.get(note.job).and_then(|entry| entry.job().cloned());
    if let Some(job) = &job {
        job.works(note);
    }
    OfJob::Chunk(ChunkOf::new(job, note.clone(), None))
}

/// Its end is written, at `lsn`: so its job knows before anybody reads that it has ended.
pub(in crate::txn) fn note_end(core: &Core, entry: &Entry, ended: &Ended, lsn: Lsn) {
    let Some(job) = entry.chunk().and_then(|chunk| chunk.job.as_ref()) else { return };
    if let (Some(note), Outcome::Committed) = (&ended.chunk, ended.outcome)
        && job.ended(lsn, note)
    {
        core.metrics.job_chunk(if note.undoes { ChunkOutcome::Undone } else { ChunkOutcome::Done });
    }
}

/// It has ended, one way or the other.
pub(in crate::txn) fn over(core: &Core, entry: &Entry) {
    let Some(chunk) = entry.chunk() else { return };
    let Some(job) = &chunk.job else { return };
    let note = chunk.note();
    if entry.state() == TxnState::Aborted {
        if let Some(cause) = entry.cause() {
            job.refused(&note, cause.code.as_str(), &cause.detail);
        }
        core.metrics.job_chunk(if note.undoes { ChunkOutcome::UndoRefused } else { ChunkOutcome::Refused });
    }
    job.over(note.number, note.undoes);
}

/// A chunk was sent again, and the marker of the first time answered: that it is done is known from now on. The log tells
/// so by itself ever since it was committed, for its Intent is forced; this is for a log that lost that.
pub(in crate::txn) async fn learn(core: &Core, entry: &Entry) {
    let Some(chunk) = entry.chunk() else { return };
    let (Some(job), note) = (&chunk.job, chunk.note()) else { return };
    // What would undo it is not known: rolling back will say so.
    let note = ChunkNote { undo: None, ..note };
    let one: Ranges = [(note.number, note.number)].into_iter().collect();
    let learnt = match note.undoes {
        true => JobLog { undone: one, ..JobLog::default() },
        false => JobLog { done: one.clone(), bare: one, ..JobLog::default() },
    };
    tracing::warn!(job = %job.id, chunk = note.number, "a chunk was done before, as its store says, and the log did not know");
    match core.journal.note_job(job.id, &learnt).await {
        Ok(lsn) => drop(job.ended(lsn, &note)),
        Err(problem) => tracing::warn!(%problem, "what was learnt of the job cannot be written"),
    }
}
