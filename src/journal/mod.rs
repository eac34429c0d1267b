//! What we promised: the transactions' records over the bytes of `outrigger-wal`.
//!
//! The journal is the only place that mints a [`Decided`]: by forcing the log's own decision, by accepting the verdict
//! of the store that decided, or by noting that nobody was ever asked. Whoever holds the slip may act irreversibly.

pub mod feed;
pub mod job;
pub mod prepared;
pub mod record;
pub mod replay;
pub mod slip;

use std::path::Path;
use std::sync::Arc;

use outrigger_wal::{Appended, Options, Recovery, Stats, Storage, Wal, WalError};
use prost::Message;

use self::feed::{About, Bounds, EventId, Feed, Follower, Happening, Only, Who};
use self::job::JobLog;
use self::prepared::Prepared;
use self::record::{Began, Ended, Intent, IntentRecord, OpenedRecord, SkippedRecord, VerdictRecord, kind};
use self::replay::Replayed;
use self::slip::Decided;
use crate::clock;
use crate::model::commit::Verdict;
use crate::model::ids::{Incarnation, LogOwner, Lsn, Run, TxnId};
use crate::model::job::JobPhase;
use crate::model::operator::Skipped;
use crate::model::problem::{Code, Problem};
use crate::model::state::Outcome;

/// The open log. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    wal: Wal,
    owner: LogOwner,
    feed: Feed,
}

/// The copy of a large job is written in records of about this size: none needs a segment to itself.
const JOB_RECORD_BYTES: usize = 256 << 10;

/// What opening found, besides the histories.
#[derive(Debug)]
pub struct OpenReport {
    /// What the log itself reports.
    pub wal: Recovery,
    /// The histories.
    pub replayed: Replayed,
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log refuses.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// A record does not decode.
    #[error("record {lsn} ({kind}) does not decode: {why}")]
    Unreadable {
        /// Which.
        lsn: Lsn,
        /// Of what kind.
        kind: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl Journal {
    /// Owns the log in `dir`, makes durable what it reads, replays it, and forces a new incarnation: steps (a) to (c) of
    /// recovery. Blocks: for `spawn_blocking`.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed that a second try would not find as it was.
    pub fn open(dir: &Path, options: Options, keep_ended: usize) -> Result<(Self, OpenReport), OpenError> {
        Self::replay(Wal::open(dir, options)?, keep_ended)
    }

    /// The same on any storage: for simulators.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_on(
        storage: Arc<dyn Storage>,
        options: Options,
        keep_ended: usize,
    ) -> Result<(Self, OpenReport), OpenError> {
        Self::replay(Wal::open_on(storage, options)?, keep_ended)
    }

    fn replay((wal, recovery): (Wal, Recovery), keep_ended: usize) -> Result<(Self, OpenReport), OpenError> {
        let mut replayed = Replayed::new(keep_ended);
        for record in wal.read(recovery.first_lsn) {
            let record = record?;
            take(&mut replayed, record.lsn, record.kind, &record.payload)?;
        }
        let replayed = replayed.finished();
        let incarnation = Incarnation(replayed.incarnation.0 + 1);
        let owner = LogOwner { log: wal.log_id(), incarnation };
        let at_us = clock::now_us();
        let opened = wal.append(kind::OPENED, &opened(incarnation, at_us))?;
        wal.flush(opened.end)?;
        let openings = replayed.openings.iter().copied().chain([(incarnation, opened.lsn)]).collect();
        let feed = Feed::new(openings, at_us, Bounds::default());
        Ok((Self { wal, owner, feed }, OpenReport { wal: recovery, replayed }))
    }

    /// Who we are in every store.
    #[must_use]
    pub fn owner(&self) -> LogOwner {
        self.owner
    }

    /// Notes that an interactive transaction is open. Not forced: a log that forgets it knows nothing else of it either.
    ///
    /// # Errors
    /// `journal_full`, `journal_unavailable`.
    pub fn begin(&self, began: &Began) -> Result<(), Problem> {
        self.wal.append(kind::BEGAN, &began.encode()).map(drop).map_err(|error| problem(&error))
    }

    /// Promises: forces what a prepared transaction needs to wait for its verdict, over restarts too. Answers where it
    /// stands.
    ///
    /// # Errors
    /// [`Undecided`]: where nothing was written it may be aborted; where that is unknown it must not be.
    pub async fn promise(&self, prepared: &Prepared) -> Result<Lsn, Undecided> {
        let (intent, at_us) = (&prepared.intent, clock::now_us());
        let happening = Happening::promised(self.about_intent(intent), intent.run.attempt, at_us);
        let payload = prepared.encode(at_us, false);
        self.told_once_durable(happening, || self.wal.append(kind::PREPARED, &payload)).await
    }

    /// The same record again, further on in the log: nothing has happened.
    ///
    /// # Errors
    /// As [`Journal::promise`].
    pub async fn promise_again(&self, prepared: &Prepared) -> Result<Lsn, Undecided> {
        let appended = self.wal.append(kind::PREPARED, &prepared.encode(clock::now_us(), true));
        let appended = appended.map_err(|error| Undecided::NotWritten(problem(&error)))?;
        self.force(appended).await.map_err(Undecided::Unknown)?;
        Ok(appended.lsn)
    }

    /// The verdict over a prepared transaction, where the log decides; or that it is aborted, whoever decides. Forced, and
    /// it has room where others have none: what waits must be able to end.
    ///
    /// # Errors
    /// As [`Journal::decide`].
    pub async fn rule(&self, run: Run, outcome: Outcome, answer: Option<String>) -> Result<Decided, Undecided> {
        let at_us = clock::now_us();
        let record = VerdictRecord { run: run.into(), committed: outcome == Outcome::Committed, answer, at_us };
        let (happening, payload) = (self.verdict(run, outcome, at_us), record.encode_to_vec());
        self.told_once_durable(happening, || self.wal.append_reserved(kind::DECISION, &payload)).await?;
        Ok(Decided::mint(run, outcome, true))
    }

    /// A store is asked now to decide over a prepared transaction: forced, so that a crash from here on fences it there.
    ///
    /// # Errors
    /// As [`Journal::rule`].
    pub async fn put_to(&self, intent: &Intent) -> Result<(), Undecided> {
        let at_us = clock::now_us();
        let happening = Happening::intended(self.about_intent(intent), intent.run.attempt, at_us, true);
        let payload = IntentRecord { held: true, ..intent.to_record(at_us) }.encode_to_vec();
        let appended = self.told(happening, || self.wal.append_reserved(kind::INTENT, &payload));
        self.force(appended.map_err(Undecided::NotWritten)?).await.map_err(Undecided::Unknown)
    }

    /// Forces an intent. Whoever prepares meanwhile must await both before deciding.
    ///
    /// # Errors
    /// `journal_full`, `journal_unavailable`. Cancellation: the record may or may not become durable; harmless, since
    /// recovery fences.
    pub async fn intend(&self, intent: &Intent) -> Result<(), Problem> {
        let appended = self.append_intent(intent)?;
        self.force(appended).await
    }

    /// Appends an intent that a later forced record of the same log makes durable with itself.
    ///
    /// # Errors
    /// As [`Journal::intend`].
    pub fn append_intent(&self, intent: &Intent) -> Result<Appended, Problem> {
        let at_us = clock::now_us();
        let happening = Happening::intended(self.about_intent(intent), intent.run.attempt, at_us, false);
        self.told(happening, || self.wal.append(kind::INTENT, &intent.encode(at_us)))
    }

    /// Decides: the forced record *is* the decision.
    ///
    /// # Errors
    /// `journal_full` (nothing was written: it may still be aborted); any other failure leaves the log poisoned and the
    /// decision unknown until the log is opened again, so the caller must neither commit nor abort.
    pub async fn decide(&self, run: Run, outcome: Outcome, answer: Option<String>) -> Result<Decided, Undecided> {
        let at_us = clock::now_us();
        let record = VerdictRecord { run: run.into(), committed: outcome == Outcome::Committed, answer, at_us };
        let (happening, payload) = (self.verdict(run, outcome, at_us), record.encode_to_vec());
        self.told_once_durable(happening, || self.wal.append(kind::DECISION, &payload)).await?;
        Ok(Decided::mint(run, outcome, true))
    }

    /// Accepts what the deciding store said. Appended, not forced: the store's marker is the durable truth.
    ///
    /// # Errors
    /// `journal_full`, `journal_unavailable`: nobody may be answered; recovery will learn the same.
    pub fn witness(&self, verdict: &Verdict) -> Result<Decided, Problem> {
        self.learn(verdict.run, verdict.outcome)
    }

    /// Accepts what the deciding store said where nobody else has to be told: the `Done` record that follows at once
    /// says it all, so nothing is appended here.
    #[must_use]
    pub fn witness_alone(verdict: &Verdict) -> Decided {
        Decided::mint(verdict.run, verdict.outcome, false)
    }

    /// Notes that the decider was never asked and never will be: its session is gone without a commit.
    ///
    /// # Errors
    /// As [`Journal::witness`].
    pub fn abandon(&self, run: Run) -> Result<Decided, Problem> {
        self.learn(run, Outcome::Aborted)
    }

    /// Notes what an operator decided about a run of another log, which was to decide and is gone.
    ///
    /// # Errors
    /// As [`Journal::witness`].
    pub fn adjudge(&self, run: Run, outcome: Outcome) -> Result<Decided, Problem> {
        self.learn(run, outcome)
    }

    /// The slip for a verdict that replay found in the log.
    #[must_use]
    pub fn recall(&self, history: &replay::History) -> Option<Decided> {
        history.verdict.map(|outcome| Decided::mint(history.intent.run, outcome, true))
    }

    fn learn(&self, run: Run, outcome: Outcome) -> Result<Decided, Problem> {
        let at_us = clock::now_us();
        let record = VerdictRecord { run: run.into(), committed: outcome == Outcome::Committed, answer: None, at_us };
        let payload = record.encode_to_vec();
        self.told(self.verdict(run, outcome, at_us), || self.wal.append_reserved(kind::LEARNT, &payload))?;
        Ok(Decided::mint(run, outcome, true))
    }

    /// Forces that an operator gave up one store's part, before anybody acts on it: a restart must not try it again.
    ///
    /// # Errors
    /// As [`Journal::witness`]; whether the record stands is then known at the next opening only. Cancellation: it may
    /// or may not become durable, and the part may be skipped again.
    pub async fn skip(&self, run: Run, skipped: &Skipped) -> Result<(), Problem> {
        let appended = self.append_ending(kind::SKIPPED, &SkippedRecord::of(run, skipped).encode_to_vec())?;
        self.force(appended).await
    }

    /// Appends the end of a run. After it the locks may go, in this order.
    ///
    /// # Errors
    /// As [`Journal::witness`].
    pub fn end(&self, ended: &Ended) -> Result<Lsn, Problem> {
        let Ended { run, outcome, ended_us, .. } = *ended;
        let about = || About { transaction: run.txn, name: ended.name.clone(), trace: ended.trace };
        let cause = ended.cause.as_ref().map(|(code, detail)| (code.as_str(), detail.as_str()));
        let happening = Happening::ended(self.about(run, about), run.attempt, ended_us, outcome, cause);
        let payload = ended.encode();
        Ok(self.told(happening, || self.wal.append_reserved(kind::DONE, &payload))?.lsn)
    }

    /// Appends a record and tells what it says.
    fn told(
        &self,
        happening: Happening,
        append: impl FnOnce() -> Result<Appended, WalError>,
    ) -> Result<Appended, Problem> {
        let telling = self.feed.expect(self.wal.next_lsn());
        match append() {
            Ok(appended) => {
                telling.written(appended.lsn).tell(happening);
                Ok(appended)
            }
            Err(error) => {
                telling.withdraw();
                Err(problem(&error))
            }
        }
    }

    /// The same for what is so only once its record is durable. Answers where that stands.
    async fn told_once_durable(
        &self,
        happening: Happening,
        append: impl FnOnce() -> Result<Appended, WalError>,
    ) -> Result<Lsn, Undecided> {
        let telling = self.feed.expect(self.wal.next_lsn());
        let appended = match append() {
            Ok(appended) => appended,
            Err(error) => {
                telling.withdraw();
                return Err(Undecided::NotWritten(problem(&error)));
            }
        };
        let telling = telling.written(appended.lsn);
        self.force(appended).await.map_err(Undecided::Unknown)?;
        telling.tell(happening);
        Ok(appended.lsn)
    }

    fn about_intent(&self, intent: &Intent) -> Arc<About> {
        let about = || About { transaction: intent.run.txn, name: intent.name.clone(), trace: intent.trace };
        self.about(intent.run, about)
    }

    fn verdict(&self, run: Run, outcome: Outcome, at_us: i64) -> Happening {
        let about = self.about(run, || About { transaction: run.txn, name: None, trace: None });
        Happening::decided(about, run.attempt, at_us, outcome)
    }

    fn about(&self, run: Run, otherwise: impl FnOnce() -> About) -> Arc<About> {
        self.feed.about(run.txn).unwrap_or_else(|| Arc::new(otherwise()))
    }

    /// Where transactions tell their steps.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Follows the feed from behind `after` on, from now on where there is none. `who` knows transactions that are not
    /// open any more.
    ///
    /// # Errors
    /// `invalid_request`: no id that this log has told.
    pub fn follow(&self, only: Only, who: Who, after: Option<EventId>) -> Result<Follower, Problem> {
        self.feed.follow(Arc::new(self.wal.clone()), only, who, after)
    }

    /// Ends must still find room when new transactions no longer do: what is open has to be able to end.
    fn append_ending(&self, kind: u8, payload: &[u8]) -> Result<Appended, Problem> {
        self.wal.append_reserved(kind, payload).map_err(|error| problem(&error))
    }

    async fn force(&self, appended: Appended) -> Result<(), Problem> {
        self.wal.durable(appended.end).await.map_err(|error| problem(&error))
    }

    /// Writes a checkpoint and lets segments go that hold nothing but records before `oldest_needed`. `copy` are ended
    /// runs that only the log remembers: those that stand below are written again.
    ///
    /// # Errors
    /// `journal_full`, `journal_unavailable`.
    pub async fn checkpoint(&self, oldest_needed: Lsn, copy: &[Ended]) -> Result<Vec<Lsn>, Problem> {
        let mut places = Vec::with_capacity(copy.len());
        let opened = opened(self.owner.incarnation, clock::now_us());
        let checkpoint = self.append_ending(kind::CHECKPOINT, &opened)?;
        let mut last = checkpoint;
        for ended in copy {
            last = self.append_ending(kind::DONE, &ended.encode_copy())?;
            places.push(last.lsn);
        }
        self.force(last).await?;
        let below = oldest_needed.min(checkpoint.lsn);
        self.wal.release(below).map_err(|error| problem(&error))?;
        Ok(places)
    }

    /// Forces what is new of a batch job: that it is open, is rolled back, or has ended.
    ///
    /// # Errors
    /// `journal_full` (only an opening can be refused so: nothing was written), `journal_unavailable`: whether it stands
    /// is known at the next opening of the log only. Cancellation: the record may or may not become durable.
    pub async fn note_job(&self, id: TxnId, said: &JobLog) -> Result<Lsn, Problem> {
        let opens = said.phase == JobPhase::Open;
        let mut place = None;
        let mut last = None;
        for record in said.encode(id, self.wal.max_payload()) {
            let appended =
                if opens { self.wal.append(kind::JOB, &record) } else { self.wal.append_reserved(kind::JOB, &record) };
            let appended = appended.map_err(|error| problem(&error))?;
            place = place.or(Some(appended.lsn));
            last = Some(appended);
        }
        if let Some(last) = last {
            self.force(last).await?;
        }
        Ok(place.unwrap_or(Lsn::ZERO))
    }

    /// Appends all that is known of a job, so that what stands before may go at the next checkpoint, which makes it
    /// durable. Answers where it stands.
    ///
    /// # Errors
    /// As [`Journal::witness`].
    pub fn copy_job(&self, id: TxnId, job: &JobLog) -> Result<Option<Lsn>, Problem> {
        let mut place = None;
        for record in job.encode(id, JOB_RECORD_BYTES.min(self.wal.max_payload())) {
            let appended = self.append_ending(kind::JOB, &record)?;
            place = place.or(Some(appended.lsn));
        }
        Ok(place)
    }

    /// Waits until everything appended so far is durable.
    ///
    /// # Errors
    /// `journal_unavailable`.
    pub async fn settle(&self) -> Result<(), Problem> {
        self.wal.durable(self.wal.next_lsn()).await.map_err(|error| problem(&error))
    }

    /// What a marker sent now carries.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.wal.durable_lsn()
    }

    /// Where the next record will stand.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.wal.next_lsn()
    }

    /// Whether a flush failed: nothing is taken any more.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.wal.is_poisoned()
    }

    /// The log's own numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.wal.stats()
    }

    /// Ends cleanly: a shutdown record, flushed. Blocks.
    ///
    /// # Errors
    /// `journal_unavailable`.
    pub fn close(&self) -> Result<(), Problem> {
        self.wal.clone().close().map_err(|error| problem(&error))
    }
}

/// A decision that did not come about.
#[derive(Debug)]
pub enum Undecided {
    /// Nothing was written: the run may be aborted.
    NotWritten(Problem),
    /// The flush failed: what stands on the disk is known at the next opening only.
    Unknown(Problem),
}

fn take(replayed: &mut Replayed, lsn: Lsn, record_kind: u8, payload: &[u8]) -> Result<(), OpenError> {
    let taken = replayed.take(lsn, record_kind, payload);
    taken.map_err(|why| OpenError::Unreadable { lsn, kind: kind::name(record_kind), why: why.0 })
}

fn opened(incarnation: Incarnation, at_us: i64) -> Vec<u8> {
    OpenedRecord { incarnation: incarnation.0, version: env!("CARGO_PKG_VERSION").into(), at_us }.encode_to_vec()
}

fn problem(error: &WalError) -> Problem {
    match error {
        WalError::Full { .. } => Problem::new(Code::JournalFull, format!("the journal is full: {error}")),
        WalError::TooLarge { .. } => {
            let detail = format!("what this transaction has to log is too large: {error}");
            Problem::new(Code::PayloadTooLarge, detail)
        }
        other => Problem::new(Code::JournalUnavailable, format!("the journal takes no records: {other}")),
    }
}

#[cfg(test)]
mod tests;
