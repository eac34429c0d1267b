//! Undoing a job: its chunks' compensations, of the chunk that was done last first, each an atomic transaction of its own,
//! repeated until it succeeds. A crash in between leaves the job `compensating`, and the next start goes on.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::Instrument;

use super::super::core::Core;
use super::super::drive;
use super::super::entry::Entry;
use super::super::look_up;
use super::super::retry::Backoff;
use super::chunk::{ChunkOf, OfJob, learn};
use super::{Job, enter, said};
use crate::journal::job::Undo;
use crate::model::job::{ChunkNote, JobPhase, read_undo};
use crate::model::problem::{Code, Problem};
use crate::model::request::{Isolation, PatternWish, RetryPolicy, TxnRequest, WaitFor};
use crate::model::state::TxnState;
use crate::model::trace::TraceId;

/// The longest run of one compensation.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest pause before a refused compensation is tried again: somebody may have mended the cause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Starts to undo, or goes on with it.
pub(super) fn go_on(core: &Arc<Core>, entry: &Arc<Entry>, job: &Arc<Job>) {
    if job.wants_undoing() {
        // Not among the tasks that a drain waits for: it goes on after the restart.
        tokio::spawn(run(core.clone(), entry.clone(), job.clone()));
    }
}

async fn run(core: Arc<Core>, entry: Arc<Entry>, job: Arc<Job>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), LONGEST_PAUSE);
    loop {
        // Chunks that were at work when it was rolled back end first; so does a compensation that a crash left in doubt.
        tokio::select! {
            () = job.idle() => {}
            () = core.stop.cancelled() => return,
        }
        if core.leaving.is_cancelled() {
            return;
        }
        let Some(undo) = job.next_undo() else { break };
        let Err(problem) = one(&core, &job, &undo).await else {
            backoff = Backoff::new(Duration::from_millis(100), LONGEST_PAUSE);
            continue;
        };
        tracing::warn!(job = %job.id, chunk = undo.chunk, %problem, "a compensation was refused: it is tried again");
        tokio::select! {
            () = tokio::time::sleep(backoff.next()) => {}
            () = core.stop.cancelled() => return,
        }
    }
    let _turn = core.jobs.lock().await;
    if job.all_undone()
        && let Err(problem) = enter(&core, &entry, &job, said(JobPhase::Compensated, None)).await
    {
        tracing::error!(job = %job.id, %problem, "every chunk is undone, and that cannot be written: the next start does");
    }
}

/// One compensation, run once.
async fn one(core: &Arc<Core>, job: &Arc<Job>, undo: &Undo) -> Result<(), Problem> {
    core.check_open()?;
    let operations = read_undo(&undo.text)?;
    let digest = Sha256::digest(undo.text.as_bytes()).into();
    let key = ChunkNote::key(&job.head.principal, job.id, undo.chunk, true, digest);
    let entry = core.begin(None, Some(key), 0, TraceId::fresh())?;
    let parent = job.head.name.clone();
    let note = ChunkNote { job: job.id, parent, number: undo.chunk, undoes: true, undo: None };
    job.works(&note);
    entry.belongs(OfJob::Chunk(ChunkOf::new(Some(job.clone()), note, None)));
    entry.step("begun", None);
    let request = TxnRequest {
        name: None,
        pattern: PatternWish::Atomic,
        isolation: Isolation::ReadCommitted,
        timeout: TIMEOUT,
        priority: 0,
        retry: RetryPolicy::NEVER,
        locks: Vec::new(),
        wait: WaitFor::Applied,
        operations,
        trace: entry.trace().unwrap_or_else(TraceId::fresh),
    };
    // In a task of its own, which a drain waits for: it is a transaction like any other.
    let running = {
        let driven = drive(core.clone(), entry.clone(), request, Instant::now() + TIMEOUT);
        core.tasks.spawn(driven.instrument(entry.span()))
    };
    if running.await.is_err() {
        job.over(undo.chunk, true);
        return Err(Problem::new(Code::Internal, "the compensation panicked"));
    }
    match entry.state() {
        TxnState::Committed => Ok(()),
        TxnState::Aborted => {
            if let Some(key) = &entry.key
                && look_up::in_a_marker(core, key).await?.is_some()
            {
                learn(core, &entry).await;
                return Ok(());
            }
            Err(entry.cause().unwrap_or_else(|| Problem::new(Code::Internal, "aborted without a cause")))
        }
        // The log takes no records: the program is stopping, or has to.
        state => Err(Problem::new(Code::JournalUnavailable, "its end is not known").of(entry.id, state)),
    }
}
