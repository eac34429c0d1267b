//! The operator's hand on one open transaction: what its task hears while it waits for a store.
//!
//! ```text
//!   resolve ──nudge──► [count] ──► ear: go on at once            the next try fails ──► [count] ──► resolve answers
//!   resolve ──skip───► [slot]  ──► ear of a refused part: force `Skipped`, then give it up ──────► resolve answers
//!   resolve ──recall─► entry (Recall::Told) ──wake──► the run gives way, as a victim does
//! ```
//!
//! A part is given up by the very task that tries it, between two tries. So it never happens that a part is written
//! down as given up while a try of it is on its way and succeeds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::{mpsc, watch};
use utoipa::ToSchema;

use crate::clock;
use crate::model::ids::StoreName;
use crate::model::operator::Skipped;
use crate::model::problem::Problem;

/// What everybody who waits for a transaction's stores listens to.
pub(super) struct Hand {
    /// How often somebody asked to go on at once.
    nudges: watch::Sender<u64>,
    /// How many tries came to nothing.
    failures: watch::Sender<u64>,
    /// What is to be given up.
    skip: watch::Sender<Option<Arc<Skip>>>,
    /// Whether the run was told to give way.
    recalled: watch::Sender<bool>,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    setbacks: BTreeMap<StoreName, SetbackView>,
    /// Stores that have refused their part for good and have not taken it since.
    refused: BTreeSet<StoreName>,
    skipped: Vec<Skipped>,
}

/// An operator gives parts up.
pub(super) struct Skip {
    /// Whose parts: those that were refused when it was asked for.
    pub(super) stores: BTreeSet<StoreName>,
    /// Why.
    pub(super) reason: String,
    /// Who.
    pub(super) by: String,
    /// One answer a store.
    answers: mpsc::UnboundedSender<Result<(), Problem>>,
}

impl Skip {
    pub(super) fn new(
        stores: BTreeSet<StoreName>,
        reason: String,
        by: String,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Result<(), Problem>>) {
        let (answers, heard) = mpsc::unbounded_channel();
        (Arc::new(Self { stores, reason, by, answers }), heard)
    }

    /// Tells who asked for it what came of one store's part.
    pub(super) fn answer(&self, outcome: Result<(), Problem>) {
        // Whoever asked may have gone: what was done stands all the same.
        let _ = self.answers.send(outcome);
    }
}

/// What a store said of its part, from the first time that it failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct SetbackView {
    /// The store.
    pub store: String,
    /// RFC 3339 UTC: of the oldest one.
    pub first_at: String,
    /// What it said then.
    pub first_error: String,
    /// RFC 3339 UTC: of the latest one.
    pub last_at: String,
    /// What it said last.
    pub last_error: String,
    /// How often it failed.
    pub count: u64,
}

/// What a waiting task hears.
pub(super) enum Word {
    /// Go on at once.
    Again,
    /// Give this store's part up.
    Skip(Arc<Skip>),
}

/// One waiting task's own ear: it hears each word once.
pub(super) struct Ear {
    nudges: watch::Receiver<u64>,
    skips: watch::Receiver<Option<Arc<Skip>>>,
    heeded: Option<Arc<Skip>>,
}

impl Hand {
    pub(super) fn new() -> Self {
        Self {
            nudges: watch::channel(0).0,
            failures: watch::channel(0).0,
            skip: watch::channel(None).0,
            recalled: watch::channel(false).0,
            notes: Mutex::default(),
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ear(&self) -> Ear {
        Ear { nudges: self.nudges.subscribe(), skips: self.skip.subscribe(), heeded: None }
    }

    /// Whoever waits goes on at once.
    pub(super) fn nudge(&self) {
        self.nudges.send_modify(|count| *count += 1);
    }

    /// Wakes when a try has come to nothing.
    pub(super) fn failures(&self) -> watch::Receiver<u64> {
        self.failures.subscribe()
    }

    /// Puts a wish before whoever waits, or takes it back.
    pub(super) fn wish(&self, skip: Option<Arc<Skip>>) {
        self.skip.send_replace(skip);
    }

    /// The run is to give way; `Entry` knows why.
    pub(super) fn recall(&self) {
        self.recalled.send_replace(true);
    }

    /// Waits until the run is told to give way.
    pub(super) async fn recalled(&self) {
        let mut recalled = self.recalled.subscribe();
        if recalled.wait_for(|recalled| *recalled).await.is_err() {
            // The sender lives as long as `self`.
            std::future::pending::<()>().await;
        }
    }

    /// A try came to nothing.
    pub(super) fn set_back(&self, store: &StoreName, why: &str) {
        let now = clock::rfc3339(clock::now_us());
        {
            let mut notes = self.notes();
            let note = notes.setbacks.entry(store.clone()).or_insert_with(|| SetbackView {
                store: store.to_string(),
                first_at: now.clone(),
                first_error: why.to_owned(),
                last_at: String::new(),
                last_error: String::new(),
                count: 0,
            });
            why.clone_into(&mut note.last_error);
            note.last_at = now;
            note.count += 1;
        }
        self.failures.send_modify(|count| *count += 1);
    }

    /// What the stores said, in the order of their names.
    pub(super) fn setbacks(&self) -> Vec<SetbackView> {
        self.notes().setbacks.values().cloned().collect()
    }

    /// The store refused its part for good. Whether it is the first one.
    pub(super) fn refuse(&self, store: &StoreName) -> bool {
        let mut notes = self.notes();
        let was_free = notes.refused.is_empty();
        notes.refused.insert(store.clone()) && was_free
    }

    /// The store has its part after all, or it was given up. Whether no other refuses any more.
    pub(super) fn settle(&self, store: &StoreName) -> bool {
        let mut notes = self.notes();
        notes.refused.remove(store) && notes.refused.is_empty()
    }

    pub(super) fn refused(&self) -> BTreeSet<StoreName> {
        self.notes().refused.clone()
    }

    pub(super) fn give_up(&self, skipped: Skipped) {
        self.notes().skipped.push(skipped);
    }

    pub(super) fn skipped(&self) -> Vec<Skipped> {
        self.notes().skipped.clone()
    }

    pub(super) fn has_skipped(&self, store: &StoreName) -> bool {
        self.notes().skipped.iter().any(|skipped| skipped.store == *store)
    }
}

impl Ear {
    /// What was said so far is being done now.
    pub(super) fn heed(&mut self) {
        self.nudges.borrow_and_update();
    }

    /// Waits for the next word for whoever waits for `store`. Skips count only where it has `refused`. Cancellation is
    /// harmless: a word that nobody took is heard by the next call.
    pub(super) async fn word(&mut self, store: &StoreName, refused: bool) -> Word {
        loop {
            if refused && let Some(skip) = self.new_skip(store) {
                return Word::Skip(skip);
            }
            let nudged = tokio::select! {
                nudged = self.nudges.changed() => nudged.map(|()| true),
                skip = self.skips.changed() => skip.map(|()| false),
            };
            match nudged {
                Ok(true) => return Word::Again,
                Ok(false) => {}
                // The transaction is gone, and so is everybody who could say anything.
                Err(_) => std::future::pending().await,
            }
        }
    }

    fn new_skip(&mut self, store: &StoreName) -> Option<Arc<Skip>> {
        let skip = self.skips.borrow_and_update().clone()?;
        let known = self.heeded.as_ref().is_some_and(|heeded| Arc::ptr_eq(heeded, &skip));
        if known || !skip.stores.contains(store) {
            return None;
        }
        self.heeded = Some(skip.clone());
        Some(skip)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn skip(stores: &[&str]) -> Arc<Skip> {
        Skip::new(stores.iter().map(|store| StoreName::from(*store)).collect(), "r".into(), "o".into()).0
    }

    /// What it hears without waiting.
    fn hears(ear: &mut Ear, store: &str, refused: bool) -> Option<Word> {
        ear.word(&store.into(), refused).now_or_never()
    }

    #[test]
    fn a_nudge_is_heard_once_by_each_and_also_when_it_came_before_the_wait() {
        let hand = Hand::new();
        let (mut one, mut two) = (hand.ear(), hand.ear());
        hand.nudge();
        for ear in [&mut one, &mut two] {
            assert!(matches!(hears(ear, "pg", false), Some(Word::Again)));
            assert!(hears(ear, "pg", false).is_none());
        }
        hand.nudge();
        one.heed();
        assert!(hears(&mut one, "pg", false).is_none(), "the try that follows is the answer to it");
    }

    #[test]
    fn a_skip_is_for_those_who_refused_when_it_was_asked_for() {
        let hand = Hand::new();
        let (mut refused, mut busy, mut other) = (hand.ear(), hand.ear(), hand.ear());
        hand.wish(Some(skip(&["vec"])));
        assert!(matches!(hears(&mut refused, "vec", true), Some(Word::Skip(_))));
        assert!(hears(&mut refused, "vec", true).is_none(), "once");
        assert!(hears(&mut busy, "vec", false).is_none(), "it has not refused");
        assert!(matches!(hears(&mut busy, "vec", true), Some(Word::Skip(_))), "now it has");
        assert!(hears(&mut other, "pg", true).is_none());
        hand.wish(None);
        assert!(hears(&mut hand.ear(), "vec", true).is_none(), "taken back");
    }

    #[test]
    fn the_first_refusal_and_the_last_settlement_are_told_apart() {
        let hand = Hand::new();
        let (a, b) = (StoreName::from("a"), StoreName::from("b"));
        assert!(hand.refuse(&a) && !hand.refuse(&b) && !hand.refuse(&a));
        assert!(!hand.settle(&a) && hand.settle(&b) && !hand.settle(&b));
    }

    #[test]
    fn the_oldest_error_of_a_store_is_kept_beside_the_latest() {
        let hand = Hand::new();
        let pg = StoreName::from("pg");
        ["first", "second", "third"].iter().for_each(|why| hand.set_back(&pg, why));
        let seen = hand.setbacks();
        assert_eq!((seen.len(), seen[0].count), (1, 3));
        assert_eq!((&*seen[0].first_error, &*seen[0].last_error), ("first", "third"));
        assert_eq!(*hand.failures().borrow(), 3);
    }
}
