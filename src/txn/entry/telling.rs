//! What a transaction tells of itself: its timeline, and the feed that others follow.

use std::sync::Arc;

use super::{Entry, TIMELINE_STEPS};
use crate::clock;
use crate::journal::feed::{About, Feed, Happening};
use crate::journal::slip::Decided;
use crate::model::state::{Event, TxnState};
use crate::model::view::Step;

impl Entry {
    /// From here on it tells its steps.
    pub(in crate::txn) fn tell_to(&self, feed: &Feed) {
        feed.introduce(&self.about);
        // Only the first time counts: there is one feed.
        let _ = self.feed.set(feed.clone());
    }

    /// Who it is.
    pub(in crate::txn) fn about(&self) -> Arc<About> {
        self.about.clone()
    }

    /// Whatever is logged inside carries its id and its trace.
    pub(in crate::txn) fn span(&self) -> tracing::Span {
        let trace_id = self.about.trace.map(tracing::field::display);
        tracing::error_span!("transaction", id = %self.id, trace_id)
    }

    /// A step, into the timeline and the feed.
    pub(in crate::txn) fn step(&self, step: &'static str, detail: Option<String>) {
        let at_us = clock::now_us();
        self.tell(step, at_us, detail.as_deref());
        self.note(step, at_us, detail);
    }

    /// A step that a record has told: into the timeline alone.
    pub(in crate::txn) fn noted(&self, step: &'static str) {
        self.note(step, clock::now_us(), None);
    }

    /// It is decided. Where a record says so, its event was told with the record.
    pub(in crate::txn) fn decided(&self, decided: &Decided) {
        let (at_us, word) = (clock::now_us(), decided.outcome().as_str());
        if !decided.is_logged() {
            self.tell("decided", at_us, Some(word));
        }
        self.note("decided", at_us, Some(word.to_owned()));
    }

    /// The run has ended, and a record has told it.
    pub(in crate::txn) fn end_is_told(&self) {
        self.live().end_told = true;
    }

    /// It has ended for good: told here where no record was needed.
    pub(super) fn tell_end(&self) {
        let Some(feed) = self.feed.get() else { return };
        let (attempt, told, cause) = {
            let live = self.live();
            (live.attempt, live.end_told, live.cause.clone())
        };
        if !told {
            let state = self.state();
            let cause = cause.filter(|_| state != TxnState::Committed);
            let cause = cause.map(|problem| format!("{}: {}", problem.code.as_str(), problem.detail));
            let at_us = clock::now_us();
            feed.step(Happening::step(self.about.clone(), attempt, at_us, "ended", state, cause.as_deref()));
        }
        feed.dismiss(self.id);
    }

    fn tell(&self, step: &'static str, at_us: i64, detail: Option<&str>) {
        let Some(feed) = self.feed.get() else { return };
        let attempt = self.live().attempt;
        feed.step(Happening::step(self.about.clone(), attempt, at_us, step, state_of(step, self.state()), detail));
    }

    fn note(&self, step: &'static str, at_us: i64, detail: Option<String>) {
        let mut live = self.live();
        if live.timeline.len() < TIMELINE_STEPS {
            live.timeline.push(Step { at: clock::rfc3339(at_us), step, detail });
        }
    }
}

/// Some steps are noted a moment before the state follows, so that nobody reads the state and misses the step: what is
/// told of them is the state that follows.
fn state_of(step: &str, now: TxnState) -> TxnState {
    let event = match step {
        "in_doubt" => Event::VerdictLost,
        "refused" => Event::Refused,
        "mended" => Event::Retried,
        "retried" => return TxnState::Active,
        _ => return now,
    };
    now.next(event).unwrap_or(now)
}
