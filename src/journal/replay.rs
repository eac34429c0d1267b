//! Reading the log into histories: one a run, in Lsn order.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::job::JobLog;
use super::prepared::Prepared;
use super::record::{
    Began, Ended, Intent, OpenedRecord, SkippedRecord, Unreadable, VerdictRecord, decode, kind, outcome,
};
use crate::model::ids::{Incarnation, Lsn, Run, TxnId};
use crate::model::operator::Skipped;
use crate::model::state::Outcome;

/// What the log holds of a run that has not ended.
#[derive(Clone, PartialEq, Debug)]
pub struct History {
    /// Where its first record stands.
    pub first: Lsn,
    /// Everything that its second half needs.
    pub intent: Intent,
    /// The verdict, where the log knows it.
    pub verdict: Option<Outcome>,
    /// The answer that a `Decision` carries.
    pub answer: Option<String>,
    /// What an operator gave up: never tried again.
    pub skipped: Vec<Skipped>,
    /// Where it waits for its verdict: no store was asked to decide yet.
    pub prepared: Option<Box<Prepared>>,
}

impl History {
    /// An Intent at `first`, and nothing after it yet.
    #[must_use]
    pub fn of(first: Lsn, intent: Intent) -> Self {
        Self { first, intent, verdict: None, answer: None, prepared: None, skipped: Vec::new() }
    }
}

/// What replay found.
#[derive(Debug)]
pub struct Replayed {
    /// The latest incarnation in the log; the one that opened it now is one more.
    pub incarnation: Incarnation,
    /// Runs without an end, in Lsn order.
    pub open: Vec<History>,
    /// Interactive transactions that were open and had not come to an Intent, in Lsn order.
    pub interrupted: Vec<(Lsn, Began)>,
    /// The last ended runs, oldest first, with the place of their record; bounded.
    pub ended: VecDeque<(Lsn, Ended)>,
    /// Ended runs whose key only this log remembers, by key; not bounded by count but by their TTL.
    pub keyed: HashMap<String, (Lsn, Ended)>,
    /// Batch jobs that have not ended, each with the place from which on the log tells all of it.
    pub jobs: BTreeMap<TxnId, (Lsn, JobLog)>,
    /// The last jobs that ended, oldest first; bounded.
    pub ended_jobs: VecDeque<(TxnId, JobLog)>,
    /// Records read.
    pub records: u64,
    /// Where each opening of the log stands, in order.
    pub openings: Vec<(Incarnation, Lsn)>,
    keep: usize,
    runs: BTreeMap<Run, History>,
    began: BTreeMap<Run, (Lsn, Began)>,
}

impl Replayed {
    /// An empty log's; keeps the last `keep` ended runs.
    #[must_use]
    pub fn new(keep: usize) -> Self {
        Self {
            incarnation: Incarnation(0),
            open: Vec::new(),
            interrupted: Vec::new(),
            ended: VecDeque::new(),
            keyed: HashMap::new(),
            jobs: BTreeMap::new(),
            ended_jobs: VecDeque::new(),
            records: 0,
            openings: Vec::new(),
            keep,
            runs: BTreeMap::new(),
            began: BTreeMap::new(),
        }
    }

    /// Takes the next record. Records of kinds that this program does not know are skipped: a newer program wrote them.
    ///
    /// # Errors
    /// [`Unreadable`] where a record of a known kind does not decode: the CRC was right, so this is a defect, and going
    /// on would be guessing.
    pub fn take(&mut self, lsn: Lsn, record_kind: u8, payload: &[u8]) -> Result<(), Unreadable> {
        self.records += 1;
        match record_kind {
            kind::OPENED | kind::CHECKPOINT => {
                let opened: OpenedRecord = decode(payload)?;
                self.incarnation = self.incarnation.max(Incarnation(opened.incarnation));
                if record_kind == kind::OPENED {
                    self.openings.push((Incarnation(opened.incarnation), lsn));
                }
            }
            kind::BEGAN => {
                let began = Began::decode(payload)?;
                self.began.insert(began.run, (lsn, began));
            }
            kind::PREPARED => {
                let prepared = Prepared::decode(payload)?;
                let intent = prepared.intent.clone();
                self.began.remove(&intent.run);
                // Written again now and then, so that the segments before it may go; the first place keeps its turn.
                let first = self.runs.get(&intent.run).map_or(lsn, |history| history.first);
                let history = History { prepared: Some(Box::new(prepared)), ..History::of(first, intent) };
                self.runs.insert(history.intent.run, history);
            }
            kind::INTENT => {
                let intent = Intent::decode(payload)?;
                self.began.remove(&intent.run);
                self.runs.insert(intent.run, History::of(lsn, intent));
            }
            kind::DECISION | kind::LEARNT => {
                let verdict: VerdictRecord = decode(payload)?;
                // Without its Intent the run began in a segment that is gone, so it has ended.
                if let Some(history) = self.runs.get_mut(&Run::try_from(&verdict.run)?) {
                    history.verdict = Some(outcome(verdict.committed));
                    history.answer = verdict.answer;
                }
            }
            kind::SKIPPED => {
                let skipped: SkippedRecord = decode(payload)?;
                if let Some(history) = self.runs.get_mut(&Run::try_from(&skipped.run)?) {
                    history.skipped.push(skipped.into());
                }
            }
            kind::DONE => {
                let ended = Ended::decode(payload)?;
                self.runs.remove(&ended.run);
                self.began.remove(&ended.run);
                self.end(lsn, ended);
            }
            kind::JOB => {
                let (id, said) = JobLog::decode(payload)?;
                self.job(lsn, id, said);
            }
            _ => {}
        }
        Ok(())
    }

    fn job(&mut self, lsn: Lsn, id: TxnId, said: JobLog) {
        // Its first record, whatever it is: a copy may lack what ended while it was written, and stands before it.
        let (_, job) = self.jobs.entry(id).or_insert_with(|| (lsn, JobLog::default()));
        job.absorb(said);
        if job.phase.has_ended()
            && let Some((_, mut job)) = self.jobs.remove(&id)
        {
            job.undos.clear();
            self.ended_jobs.push_back((id, job));
            if self.ended_jobs.len() > self.keep {
                self.ended_jobs.pop_front();
            }
        }
    }

    /// What a chunk's end says of its job. What would undo it is kept there, not beside every transaction that ended.
    fn note_chunk(&mut self, lsn: Lsn, ended: &mut Ended) {
        let Some(note) = &mut ended.chunk else { return };
        let (_, job) = self.jobs.entry(note.job).or_insert_with(|| (lsn, JobLog::default()));
        match (ended.outcome, &ended.cause) {
            (Outcome::Committed, _) => drop(job.ended(lsn, note)),
            (Outcome::Aborted, Some(cause)) => job.refused(note, cause.clone()),
            (Outcome::Aborted, None) => {}
        }
        note.undo = None;
    }

    fn end(&mut self, lsn: Lsn, mut ended: Ended) {
        self.note_chunk(lsn, &mut ended);
        if let Some((note, _)) = &ended.key
            && ended.outcome == Outcome::Committed
        {
            self.keyed.insert(note.key.clone(), (lsn, ended.clone()));
        }
        self.ended.push_back((lsn, ended));
        if self.ended.len() > self.keep {
            self.ended.pop_front();
        }
    }

    /// Sorts what is open into Lsn order, once everything was taken.
    #[must_use]
    pub fn finished(mut self) -> Self {
        self.open = std::mem::take(&mut self.runs).into_values().collect();
        self.open.sort_by_key(|history| history.first);
        // Chunks of jobs that ended long ago, in segments that are still here.
        self.jobs.retain(|_, (_, job)| job.head.is_some());
        self.interrupted = std::mem::take(&mut self.began).into_values().collect();
        self.interrupted.sort_by_key(|(lsn, _)| *lsn);
        self
    }
}
