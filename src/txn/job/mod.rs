//! Batch jobs: a long piece of work as a named parent of many chunks, each an atomic transaction of its own.
//!
//! The danger, as a story: an import of two million rows runs for an hour in 120 transactions, and its worker dies after
//! the 87th. Did the 88th commit? A worker that remembers nothing would write it again, or leave it out. So the job
//! remembers: which chunks are done is told by the chunks' own records, written before the client is answered, and a
//! chunk that is sent again meets its own key in the marker of the store that decided.
//!
//! ```text
//!            chunk, chunk, …            commit (every chunk done)
//!   open ───────────────────► active ─────────────────────────────► committed
//!                               │ │ rollback   ┌─ one chunk undone, the last first ─┐
//!                               │ └──────► compensating ◄───────────────────────────┘ ──► compensated
//!                               └ rollback, mark_failed ──────────────────────────────► aborted (chunks stay)
//! ```
//!
//! A job holds no lock, no lease and no segment of the log: it may stay open for weeks. What it remembers is written
//! again when the log has moved on far enough ([`past`]). Rolling back is a saga's backward recovery (Garcia-Molina and
//! Salem, "Sagas", 1987): each compensation is a transaction of its own with a key of its own, so that it happens once.

mod chunk;
mod past;
mod progress;
mod undo;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

pub(super) use self::chunk::{ChunkOf, OfJob, again, learn, note_end, over};
pub(super) use self::past::{carry, count, go_on, take_over};
pub(super) use self::progress::Job;

use super::core::Core;
use super::entry::{Entry, cause_view};
use super::{Actor, Coordinator, Find};
use crate::clock;
use crate::crash;
use crate::journal::job::{JobHead, JobLog};
use crate::model::job::{ChunkWish, JobPhase, JobVerdict, JobWish};
use crate::model::problem::{Code, Problem};
use crate::model::request::TxnRequest;
use crate::model::state::{Event, TxnState};
use crate::model::view::{Answer, View};

/// Who rolls a job back is answered after this time at the latest: `compensating` then says that it goes on.
const ROLLBACK_ANSWER: Duration = Duration::from_secs(10);
/// How long giving a job up waits for the compensation that is at work.
const LAST_UNDO: Duration = Duration::from_secs(10);

impl Coordinator {
    /// Opens a batch job. `true`: it is new; `false`: the same request of the same principal has opened it before, and a
    /// worker that remembers nothing goes on with it. When this answers, the job outlives a crash. Dropping this future
    /// harms nothing: the opening goes on.
    ///
    /// # Errors
    /// `name_in_use`: something else that is open has the name. `overloaded`, `journal_full`, `journal_unavailable`.
    pub async fn open_job(&self, wish: JobWish) -> Result<(Box<View>, bool), Problem> {
        let core = self.core.clone();
        let opening = self.core.tasks.spawn(async move { open(&core, wish).await });
        opening.await.unwrap_or_else(|_| Err(Problem::new(Code::Internal, "opening the job panicked")))
    }

    /// Runs one chunk of a job, exactly once: sent again, it answers what it answered.
    pub async fn submit_chunk(&self, request: TxnRequest, wish: ChunkWish) -> Answer {
        chunk::submit(self, request, wish).await
    }

    /// Ends a job, or begins to undo it: then this answers when all is undone or after ten seconds, and the rest goes on
    /// by itself, over restarts. Repeated, it answers the same. Dropping this future harms nothing.
    ///
    /// # Errors
    /// `not_found`; `forbidden`; `wrong_state` where it is no job, ended the other way, has chunks at work, lacks chunks
    /// (commit) or compensations (rollback: the detail lists them); `journal_unavailable`.
    pub async fn end_job(&self, what: &Find, verdict: JobVerdict, actor: &Actor) -> Result<View, Problem> {
        let unknown = || Problem::new(Code::NotFound, "no such job is known (state: unknown)");
        let entry = self.core.registry.find(what).ok_or_else(unknown)?;
        let Some(job) = entry.job().cloned() else {
            let detail = "that is a transaction, and no batch job";
            return Err(Problem::new(Code::WrongState, detail).of(entry.id, entry.state()));
        };
        actor.must_be(&job.head.principal, "that job is another principal's")?;
        let (core, same) = (self.core.clone(), entry.clone());
        let ending = self.core.tasks.spawn(async move { end(&core, &same, &job, verdict).await });
        ending.await.unwrap_or_else(|_| Err(Problem::new(Code::Internal, "ending the job panicked")))?;
        if verdict == JobVerdict::RollBack {
            let mut states = entry.watch();
            // Not ended in time: the answer says `compensating`.
            let _ = timeout(ROLLBACK_ANSWER, states.wait_for(|state| state.has_ended())).await;
        }
        Ok(entry.view())
    }

    /// Whether that is a batch job in this sidecar's memory.
    #[must_use]
    pub fn is_job(&self, what: &Find) -> bool {
        self.core.registry.find(what).is_some_and(|entry| entry.job().is_some())
    }
}

async fn open(core: &Arc<Core>, wish: JobWish) -> Result<(Box<View>, bool), Problem> {
    core.check_open()?;
    let _turn = core.jobs.lock().await;
    if let Some(known) = core.registry.named(&wish.name).filter(|entry| !entry.state().has_ended()) {
        let same = |job: &Arc<Job>| job.head.principal == wish.principal && job.head.digest == wish.digest;
        if known.job().is_some_and(same) {
            return Ok((Box::new(known.view()), false));
        }
        let detail =
            format!("the open transaction {} has the name `{}` and was asked for otherwise", known.id, wish.name);
        return Err(Problem::new(Code::NameInUse, detail).at("/name").of(known.id, known.state()));
    }
    core.check_room()?;
    // What stands from here on tells all of the job.
    let place = core.journal.next_lsn();
    let entry = core.begin(Some(wish.name.clone()), None, 0, wish.trace)?;
    let JobWish { name, total, principal, digest, trace: _ } = wish;
    let head = JobHead { name, principal, digest, total, began_us: entry.began_us };
    let said = JobLog { head: Some(head.clone()), at_us: entry.began_us, ..JobLog::default() };
    entry.belongs(OfJob::Itself(Arc::new(Job::new(entry.id, head, said.clone(), place))));
    entry.step("begun", None);
    match core.journal.note_job(entry.id, &said).await {
        Ok(_) => {
            crash::point("after_job");
            Ok((Box::new(entry.view()), true))
        }
        Err(problem) => {
            core.registry.withdraw(&entry);
            Err(problem)
        }
    }
}

async fn end(core: &Arc<Core>, entry: &Arc<Entry>, job: &Arc<Job>, verdict: JobVerdict) -> Result<(), Problem> {
    if verdict == JobVerdict::MarkFailed {
        // The compensation that is at work, if one is, ends first; no other begins.
        job.give_up(true);
        let _ = timeout(LAST_UNDO, job.idle()).await;
    }
    let _turn = core.jobs.lock().await;
    let told = match job.judge(verdict).map_err(|problem| caused(entry, problem)) {
        Ok(None) => Ok(()),
        Ok(Some(said)) => enter(core, entry, job, said).await,
        Err(problem) => Err(problem),
    };
    if told.is_err() {
        job.reopen();
        undo::go_on(core, entry, job);
    }
    told
}

/// With the state that stands in the way, and why it came to that.
fn caused(entry: &Entry, problem: Problem) -> Problem {
    let cause = entry.cause().filter(|_| entry.state() == TxnState::Aborted);
    Problem { cause: cause.as_ref().map(|cause| Box::new(cause_view(cause))), ..problem.of(entry.id, entry.state()) }
}

/// Writes the next phase down, and then enters it.
async fn enter(core: &Arc<Core>, entry: &Arc<Entry>, job: &Arc<Job>, said: JobLog) -> Result<(), Problem> {
    let phase = said.phase;
    let said = if phase.has_ended() { job.in_full(said) } else { said };
    core.journal.note_job(job.id, &said).await?;
    crash::point("after_job");
    let (at_us, cause) = (said.at_us, said.cause.clone());
    job.enter(said);
    stand(entry, phase, cause);
    if phase == JobPhase::Compensating {
        entry.step("rolled_back", None);
        undo::go_on(core, entry, job);
    } else {
        entry.noted("ended");
        entry.closed(at_us);
        core.registry.end(entry);
        entry.settle();
    }
    Ok(())
}

/// Brings the transaction that a job is to where its phase says; also when the log is replayed.
fn stand(entry: &Entry, phase: JobPhase, cause: Option<(String, String)>) {
    if let Some((code, detail)) = cause {
        let code = Code::ALL.iter().find(|known| known.as_str() == code);
        entry.refused_for(Problem::new(code.copied().unwrap_or(Code::Internal), detail));
    }
    let events: &[Event] = match phase {
        JobPhase::Open => &[],
        JobPhase::Compensating => &[Event::RolledBack],
        JobPhase::Committed => &[Event::DecidedCommit, Event::Finished],
        JobPhase::Compensated if entry.state() == TxnState::Active => &[Event::RolledBack, Event::Finished],
        JobPhase::Compensated => &[Event::Finished],
        JobPhase::Aborted => &[Event::DecidedAbort, Event::Finished],
    };
    events.iter().for_each(|event| entry.take(*event));
}

/// A phase that is entered now.
fn said(phase: JobPhase, cause: Option<(String, String)>) -> JobLog {
    JobLog { phase, at_us: clock::now_us(), cause, ..JobLog::default() }
}
