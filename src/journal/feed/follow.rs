//! Somebody who follows: from a place on, first out of the log where the ring does not reach, then out of the ring.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use outrigger_wal::WalError;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::Feed;
use super::event::{About, EventId, Happening, Place, Told};
use super::past::{Past, Records, happening};
use super::ring::Look;
use crate::model::ids::{Lsn, TxnId};
use crate::model::problem::{Code, Problem};

/// Events of one batch.
const BATCH: usize = 256;
/// Records that are looked at for one batch from the log, wanted or not: it bounds how long a blocking thread is held.
const RECORDS: usize = 4096;
/// Names of transactions that are remembered while the log is read.
const REMEMBERED: usize = 4096;

/// Which events are wanted. That the log was opened concerns everybody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Only {
    /// All.
    All,
    /// One transaction's.
    Transaction(TxnId),
    /// Those of the transactions of this name.
    Name(String),
}

impl Only {
    fn wants(&self, what: &Happening) -> bool {
        let Some(about) = &what.about else { return true };
        match self {
            Self::All => true,
            Self::Transaction(id) => about.transaction == *id,
            Self::Name(name) => about.name.as_ref() == Some(name),
        }
    }
}

/// Who a transaction is that is not open any more.
pub type Who = Arc<dyn Fn(TxnId) -> Option<Arc<About>> + Send + Sync>;

/// What is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// Steps that no record says: the records between follow from the log.
    Steps,
    /// Records, too: their segments were released.
    Records,
}

/// Something cannot be told any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// What is missing.
    pub lost: Lost,
    /// The last place before it.
    pub after: EventId,
    /// What is left begins behind this one.
    pub resume: EventId,
}

impl Gap {
    /// For `event: gap`.
    #[must_use]
    pub fn data(&self) -> Value {
        let lost = match self.lost {
            Lost::Steps => "steps",
            Lost::Records => "records",
        };
        json!({"lost": lost, "after": self.after.to_string(), "resume": self.resume.to_string()})
    }
}

/// One thing for a follower to hear.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// An event with its id.
    Event(EventId, Happening),
    /// Something is missing.
    Gap(Gap),
}

/// What comes next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// In order; none: still nothing.
    pub items: Vec<Item>,
    /// Everything wanted up to here has been heard.
    pub at: EventId,
}

/// Follows the feed. Pulls at its own pace and holds up nobody.
pub struct Follower {
    feed: Feed,
    past: Arc<dyn Past>,
    only: Only,
    who: Who,
    place: Place,
    behind: Option<Behind>,
    heard: watch::Receiver<()>,
}

/// A stretch that is read from the log.
struct Behind {
    until: Place,
    records: Option<Records>,
    known: HashMap<TxnId, Arc<About>>,
}

impl Feed {
    /// Follows from behind `after` on; from now on where there is none.
    ///
    /// # Errors
    /// `invalid_request`: no place that this log has told.
    pub fn follow(
        &self,
        past: Arc<dyn Past>,
        only: Only,
        who: Who,
        after: Option<EventId>,
    ) -> Result<Follower, Problem> {
        // Subscribed first: what is told from here on wakes it.
        let heard = self.0.heard.subscribe();
        let last = self.ring().last();
        let place = after.map_or(Some(last), |id| self.place(id, last));
        let place = place.ok_or_else(|| {
            let id = after.map(|id| id.to_string()).unwrap_or_default();
            Problem::new(Code::InvalidRequest, format!("`{id}` is no id of an event that this log has told"))
        })?;
        Ok(Follower { feed: self.clone(), past, only, who, place, behind: None, heard })
    }

    /// What an id means to this opening of the log. Of what an earlier one told, only what stands before the next
    /// opening is still there: a crash may have taken the rest.
    fn place(&self, id: EventId, last: Place) -> Option<Place> {
        match id.incarnation {
            Some(earlier) if earlier < self.0.incarnation => {
                let (_, next) = self.0.openings.iter().find(|(incarnation, _)| **incarnation > earlier)?;
                let before = Place { lsn: Lsn::from_u64(next.as_u64().saturating_sub(1)), step: u64::MAX };
                Some(id.place.min(before))
            }
            Some(later) if later > self.0.incarnation => None,
            _ => (id.place <= last).then_some(id.place),
        }
    }

    fn id(&self, place: Place) -> EventId {
        EventId { place, incarnation: Some(self.0.incarnation) }
    }
}

impl Follower {
    /// Where it is: everything wanted up to here has been heard.
    #[must_use]
    pub fn at(&self) -> EventId {
        self.feed.id(self.place)
    }

    /// What comes next; waits at most `idle` for it, and then answers an empty batch.
    ///
    /// Cancellation: what was read and not answered yet is lost to this follower; another one from [`Follower::at`] hears it.
    ///
    /// # Errors
    /// `journal_unavailable`: the log cannot be read.
    pub async fn next(&mut self, idle: Duration) -> Result<Batch, Problem> {
        let until = Instant::now() + idle;
        loop {
            if let Some(behind) = self.behind.take() {
                let items = self.read_on(behind).await?;
                if items.is_empty() && Instant::now() < until {
                    continue;
                }
                return Ok(Batch { items, at: self.at() });
            }
            match self.feed.look(self.place, BATCH) {
                Look::Behind(lost) => {
                    let here = self.at();
                    self.behind = Some(Behind { until: lost, records: None, known: HashMap::new() });
                    let gap = Gap { lost: Lost::Steps, after: here, resume: here };
                    return Ok(Batch { items: vec![Item::Gap(gap)], at: here });
                }
                Look::Next(told) => {
                    let Some(last) = told.last() else {
                        // Woken, too late, or never again: the next look or the caller finds out which.
                        let woken = timeout_at(until, self.heard.changed()).await;
                        if !matches!(woken, Ok(Ok(()))) {
                            return Ok(Batch { items: Vec::new(), at: self.at() });
                        }
                        continue;
                    };
                    self.place = last.place;
                    let items = self.wanted(told);
                    if !items.is_empty() || Instant::now() >= until {
                        return Ok(Batch { items, at: self.at() });
                    }
                }
            }
        }
    }

    fn wanted(&self, told: Vec<Told>) -> Vec<Item> {
        let wanted = told.into_iter().filter(|told| self.only.wants(&told.what));
        wanted.map(|told| Item::Event(self.feed.id(told.place), told.what)).collect()
    }

    /// The next stretch from the log, on a blocking thread.
    async fn read_on(&mut self, mut behind: Behind) -> Result<Vec<Item>, Problem> {
        let _turn = self.feed.0.readers.clone().acquire_owned().await;
        let reading = Reading {
            feed: self.feed.clone(),
            past: self.past.clone(),
            only: self.only.clone(),
            who: self.who.clone(),
            place: self.place,
        };
        let read = tokio::task::spawn_blocking(move || {
            let mut reading = reading;
            let outcome = reading.stretch(&mut behind);
            (reading.place, behind, outcome)
        });
        let (place, behind, outcome) = match read.await {
            Ok(read) => read,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        };
        self.place = place;
        let stretch = outcome
            .map_err(|why| Problem::new(Code::JournalUnavailable, format!("the log cannot be read back: {why}")))?;
        if stretch.more {
            self.behind = Some(behind);
        } else {
            self.place = self.place.max(behind.until);
        }
        Ok(stretch.items)
    }
}

struct Stretch {
    items: Vec<Item>,
    more: bool,
}

/// The part of a follower that goes to the blocking thread.
struct Reading {
    feed: Feed,
    past: Arc<dyn Past>,
    only: Only,
    who: Who,
    place: Place,
}

impl Reading {
    fn stretch(&mut self, behind: &mut Behind) -> Result<Stretch, String> {
        if behind.records.is_none() {
            // Readers see what is durable, and what was told need not be: an end is appended, not forced.
            self.past.settle().map_err(|why| why.to_string())?;
            // The record that was heard last is where a record begins, which spares a walk through its segment.
            behind.records = Some(self.past.read(self.place.lsn));
        }
        let mut items = Vec::new();
        for _ in 0..RECORDS {
            let Some(records) = &mut behind.records else { break };
            match records.next() {
                None => return Ok(Stretch { items, more: false }),
                Some(Ok(record)) if record.lsn > behind.until.lsn => return Ok(Stretch { items, more: false }),
                Some(Ok(record)) if record.lsn <= self.place.lsn => {}
                Some(Ok(record)) => {
                    let mut who = |id| self.who_is(id, &behind.known);
                    let told = happening(&record, &mut who).map_err(|why| format!("record {}: {why}", record.lsn))?;
                    self.place = Place { lsn: record.lsn, step: 0 };
                    if let Some(what) = told {
                        remember(&mut behind.known, &what);
                        if self.only.wants(&what) {
                            items.push(Item::Event(self.feed.id(self.place), what));
                        }
                    }
                }
                Some(Err(WalError::Released { first, .. })) => {
                    let after = self.feed.id(self.place);
                    self.place = Place { lsn: Lsn::from_u64(first.as_u64() - 1), step: 0 };
                    let resume = self.feed.id(self.place);
                    items.push(Item::Gap(Gap { lost: Lost::Records, after, resume }));
                    behind.records = Some(self.past.read(first));
                }
                Some(Err(why)) => return Err(why.to_string()),
            }
            if items.len() >= BATCH {
                break;
            }
        }
        Ok(Stretch { items, more: true })
    }

    fn who_is(&self, id: TxnId, known: &HashMap<TxnId, Arc<About>>) -> Option<Arc<About>> {
        known.get(&id).cloned().or_else(|| self.feed.about(id)).or_else(|| (self.who)(id))
    }
}

/// An Intent says who its transaction is; the verdict that follows does not.
fn remember(known: &mut HashMap<TxnId, Arc<About>>, what: &Happening) {
    let Some(about) = &what.about else { return };
    match what.kind {
        "intended" | "prepared" if known.len() < REMEMBERED => drop(known.insert(about.transaction, about.clone())),
        "ended" => drop(known.remove(&about.transaction)),
        _ => {}
    }
}
