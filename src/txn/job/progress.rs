//! How far a job is, in memory. Nothing here waits but for chunks that are at work to end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::said;
use crate::journal::Journal;
use crate::journal::job::{JobHead, JobLog, Undo};
use crate::model::ids::{Lsn, TxnId};
use crate::model::job::{ChunkNote, JOB_UNDO_BYTES, JobPhase, JobVerdict, JobView, MOST_PIECES, in_words};
use crate::model::problem::{Code, Problem};
use crate::model::ranges::Ranges;

/// Ranges that a view lists.
const SHOWN: usize = 100;
/// A job holds the log back by this much at most, or by four times its own size: so writing it again costs little.
const LAG: u64 = 16 << 20;

/// A batch job.
pub(in crate::txn) struct Job {
    pub(in crate::txn) id: TxnId,
    pub(in crate::txn) head: JobHead,
    live: Mutex<Live>,
    /// How many of its transactions have not ended.
    running: watch::Sender<usize>,
}

struct Live {
    log: JobLog,
    /// The log tells all of it from here on.
    place: Lsn,
    undo_bytes: usize,
    /// Chunks at work or in doubt (`false`), compensations (`true`), each with whether it can be undone.
    at_work: BTreeMap<(u64, bool), bool>,
    /// An end is being written: no chunk may begin.
    ending: bool,
    /// Compensating stops.
    gives_up: bool,
    /// Somebody is at it: there is one at most.
    undoing: bool,
}

/// Whether a chunk may begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// It may; it counts as at work from now on.
    Begins,
    /// It is done.
    Done,
}

impl Job {
    pub(super) fn new(id: TxnId, head: JobHead, log: JobLog, place: Lsn) -> Self {
        let undo_bytes = log.undo_bytes();
        let live =
            Live { log, place, undo_bytes, at_work: BTreeMap::new(), ending: false, gives_up: false, undoing: false };
        Self { id, head, live: Mutex::new(live), running: watch::channel(0).0 }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a chunk begin.
    ///
    /// # Errors
    /// `invalid_request`: no such chunk. `wrong_state`: it takes none any more. `in_flight`. `payload_too_large`: its
    /// progress, or what would undo it, takes too much memory.
    pub(super) fn admit(&self, number: u64, undoable: bool) -> Result<Admission, Problem> {
        if let Some(total) = self.head.total.filter(|total| number >= *total) {
            let detail = format!("`{}` has {total} chunks: 0 to {}", self.head.name, total - 1);
            return Err(Problem::invalid("/chunk", detail));
        }
        let mut live = self.live();
        if live.log.done.contains(number) {
            return Ok(Admission::Done);
        }
        live.takes_chunks(&self.head.name)?;
        if live.at_work.contains_key(&(number, false)) {
            let detail = format!("chunk {number} of `{}` is at work", self.head.name);
            return Err(Problem::new(Code::InFlight, detail));
        }
        live.has_room(number, undoable)?;
        live.at_work.insert((number, false), undoable);
        self.running.send_replace(live.at_work.len());
        Ok(Admission::Begins)
    }

    /// A transaction of it is at work: one that recovery found, or a compensation.
    pub(super) fn works(&self, note: &ChunkNote) {
        let mut live = self.live();
        live.at_work.insert((note.number, note.undoes), note.undo.is_some());
        self.running.send_replace(live.at_work.len());
    }

    /// A transaction of it has ended.
    pub(super) fn over(&self, number: u64, undoes: bool) {
        let mut live = self.live();
        live.at_work.remove(&(number, undoes));
        self.running.send_replace(live.at_work.len());
    }

    /// Waits until none of its transactions is at work.
    pub(super) async fn idle(&self) {
        // The sender lives as long as `self`.
        let _ = self.running.subscribe().wait_for(|running| *running == 0).await;
    }

    /// A transaction of it committed, as its `Done` at `lsn` says. `false`: that was known.
    pub(super) fn ended(&self, lsn: Lsn, note: &ChunkNote) -> bool {
        let mut live = self.live();
        let new = live.log.ended(lsn, note);
        if new && !note.undoes {
            live.undo_bytes += note.undo.as_ref().map_or(0, String::len);
        }
        new
    }

    pub(super) fn refused(&self, note: &ChunkNote, code: &str, detail: &str) {
        self.live().log.refused(note, (code.to_owned(), detail.to_owned()));
    }

    /// What follows from a verdict, to be written down; `None`: it is so already. No chunk begins until it is written
    /// ([`Job::enter`]) or not ([`Job::reopen`]).
    ///
    /// # Errors
    /// `wrong_state`.
    pub(super) fn judge(&self, verdict: JobVerdict) -> Result<Option<JobLog>, Problem> {
        let mut live = self.live();
        let step = live.judge(verdict, &self.head)?;
        live.ending = step.is_some();
        Ok(step)
    }

    /// What is to be written of its end: all of it, so that nothing before is needed.
    pub(super) fn in_full(&self, said: JobLog) -> JobLog {
        let mut whole = self.live().log.without_undos();
        whole.absorb(said);
        whole
    }

    /// The phase is written down.
    pub(super) fn enter(&self, said: JobLog) {
        let mut live = self.live();
        live.log.absorb(said);
        live.ending = false;
        if live.log.phase.has_ended() {
            live.log.undos.clear();
            live.undo_bytes = 0;
        }
    }

    /// What was to be written was not.
    pub(super) fn reopen(&self) {
        let mut live = self.live();
        live.ending = false;
        live.gives_up = false;
    }

    pub(super) fn give_up(&self, gives_up: bool) {
        self.live().gives_up = gives_up;
    }

    /// Whether somebody has to begin to undo it: nobody is at it yet, and whoever asked is from now on.
    pub(super) fn wants_undoing(&self) -> bool {
        let mut live = self.live();
        let wants = live.log.phase == JobPhase::Compensating && !live.gives_up && !live.undoing;
        live.undoing |= wants;
        wants
    }

    /// The compensation that comes next: of the chunk that was done last. `None`: all are undone, or nothing is to be;
    /// then nobody is at it any more.
    pub(super) fn next_undo(&self) -> Option<Undo> {
        let mut live = self.live();
        let goes_on = live.log.phase == JobPhase::Compensating && !live.gives_up;
        let next = live.log.undos.last_key_value().map(|(_, undo)| undo.clone()).filter(|_| goes_on);
        live.undoing = next.is_some();
        next
    }

    /// Whether every chunk is undone, and that is to be written.
    pub(super) fn all_undone(&self) -> bool {
        let live = self.live();
        live.log.phase == JobPhase::Compensating && !live.gives_up && live.log.undos.is_empty()
    }

    /// From where on the log must be kept for this job, where everybody else needs it from `needed` on: either the job is
    /// written again, or it is not far behind.
    ///
    /// # Errors
    /// `journal_full`, `journal_unavailable`.
    pub(super) fn carry(&self, journal: &Journal, needed: Lsn) -> Result<Lsn, Problem> {
        let mut live = self.live();
        let size = live.undo_bytes as u64 + 16 * live.log.done.pieces() as u64;
        if live.place >= needed || needed - live.place < LAG.max(4 * size) {
            return Ok(live.place.min(needed));
        }
        journal.copy_job(self.id, &live.log)?;
        // Not where the copy stands: what is being written now stands before it and is not in it. Whatever ended before
        // `needed` is.
        live.place = needed;
        Ok(needed)
    }

    pub(in crate::txn) fn view(&self) -> JobView {
        let live = self.live();
        let done = &live.log.done;
        let next = done.first_gap(|number| live.at_work.contains_key(&(number, false)));
        let takes = live.log.phase == JobPhase::Open && self.head.total.is_none_or(|total| next < total);
        JobView {
            chunks: self.head.total,
            done: done.count(),
            ranges: done.as_slice().iter().take(SHOWN).copied().collect(),
            more_ranges: done.pieces().saturating_sub(SHOWN),
            next: takes.then_some(next),
            running: live.at_work.len(),
            without_compensation: live.log.bare.count(),
            undone: live.log.undone.count(),
            failed: live.log.failed.clone(),
        }
    }
}

impl Live {
    fn takes_chunks(&self, name: &str) -> Result<(), Problem> {
        let why = match self.log.phase {
            JobPhase::Open if !self.ending => return Ok(()),
            JobPhase::Open => "is being ended",
            JobPhase::Compensating => "is being undone",
            JobPhase::Committed | JobPhase::Compensated | JobPhase::Aborted => "has ended",
        };
        Err(Problem::new(Code::WrongState, format!("the job `{name}` {why}: it takes no more chunks")))
    }

    fn has_room(&self, number: u64, undoable: bool) -> Result<(), Problem> {
        let done = &self.log.done;
        let touches = done.contains(number.saturating_sub(1)) || done.contains(number.saturating_add(1));
        if done.pieces() >= MOST_PIECES && !touches {
            let detail =
                format!("the done chunks lie in {MOST_PIECES} pieces: fill gaps first (`next` names the first)");
            return Err(Problem::new(Code::PayloadTooLarge, detail).at("/chunk"));
        }
        if undoable && self.undo_bytes >= JOB_UNDO_BYTES {
            let detail =
                format!("what would undo this job has {} bytes: end it and open another for the rest", self.undo_bytes);
            return Err(Problem::new(Code::PayloadTooLarge, detail).at("/compensate"));
        }
        Ok(())
    }

    fn judge(&self, verdict: JobVerdict, head: &JobHead) -> Result<Option<JobLog>, Problem> {
        let wrong = |why: String| Err(Problem::new(Code::WrongState, format!("the job `{}` {why}", head.name)));
        let phase = self.log.phase;
        match (verdict, phase) {
            (JobVerdict::Commit, JobPhase::Committed) | (JobVerdict::MarkFailed, JobPhase::Aborted) => Ok(None),
            (JobVerdict::RollBack, JobPhase::Compensating | JobPhase::Compensated) => Ok(None),
            (JobVerdict::Commit, JobPhase::Open) => {
                if let Some(chunks) = self.busy() {
                    return wrong(format!("has chunks at work or in doubt ({chunks}): commit it when they have ended"));
                }
                match head.total.map(|total| (total, total - self.log.done.count())) {
                    Some((total, missing)) if missing > 0 => {
                        let next = self.log.done.first_gap(|_| false);
                        wrong(format!("lacks {missing} of its {total} chunks: the first is {next}"))
                    }
                    _ => Ok(Some(said(JobPhase::Committed, None))),
                }
            }
            (JobVerdict::RollBack, JobPhase::Open) => {
                let mut bare = self.log.bare.clone();
                for ((number, undoes), undoable) in &self.at_work {
                    if !undoes && !undoable {
                        bare.insert(*number);
                    }
                }
                if bare.is_empty() {
                    return Ok(Some(said(JobPhase::Compensating, None)));
                }
                wrong(format!(
                    "cannot be undone: these chunks have no `compensate`: {}. {{\"mark_failed\": true}} gives it up and \
                     leaves its chunks as they are",
                    in_words(&bare)
                ))
            }
            (JobVerdict::MarkFailed, JobPhase::Open | JobPhase::Compensating) => {
                if let Some(chunks) = self.busy() {
                    return wrong(format!(
                        "has chunks at work or in doubt ({chunks}): give it up when they have ended"
                    ));
                }
                Ok(Some(said(JobPhase::Aborted, Some((Code::WrongState.as_str().to_owned(), self.given_up())))))
            }
            (_, JobPhase::Compensating) => wrong("is being undone".to_owned()),
            (_, JobPhase::Committed | JobPhase::Compensated | JobPhase::Aborted) => {
                wrong("has ended otherwise".to_owned())
            }
        }
    }

    /// The chunks at work, in words.
    fn busy(&self) -> Option<String> {
        let numbers = self.at_work.keys().map(|(number, _)| (*number, *number)).collect::<Ranges>();
        (!numbers.is_empty()).then(|| in_words(&numbers))
    }

    fn given_up(&self) -> String {
        let JobLog { done, undone, failed, .. } = &self.log;
        let stay = done.without(undone);
        let mut text = match (stay.is_empty(), undone.is_empty()) {
            (true, true) => "given up by its client; no chunk was done".to_owned(),
            (true, false) => "given up by its client; every chunk is undone".to_owned(),
            (false, _) => format!("given up by its client: these chunks stay as they are: {}", in_words(&stay)),
        };
        if let Some(failed) = failed {
            text.push_str(&format!("; the last refusal was of chunk {}: {}", failed.chunk, failed.code));
        }
        text
    }
}

/// A job of the past.
pub(super) fn of_past(id: TxnId, place: Lsn, log: JobLog) -> Option<Arc<Job>> {
    let head = log.head.clone()?;
    Some(Arc::new(Job::new(id, head, log, place)))
}
