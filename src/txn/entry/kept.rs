//! What outlives a transaction in memory: the answer that a marker or the log keeps for the replay of its key.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::job::{ChunkOf, OfJob};
use super::{Entry, Results, say_applied};
use crate::clock;
use crate::journal::record::Ended;
use crate::model::commit::Marker;
use crate::model::ids::{Lsn, StoreName};
use crate::model::problem::{Code, Problem};
use crate::model::state::{Event, Outcome, TxnState};
use crate::model::view::{PlanView, View};

/// What a marker (or the log) keeps of an answer, for the replay of its key.
#[derive(Serialize, Deserialize)]
struct Kept {
    name: Option<String>,
    plan: PlanView2,
    results: Option<Results>,
    attempts: u32,
    began_us: i64,
    /// Older markers have none.
    #[serde(default)]
    trace_id: Option<String>,
    #[serde(default)]
    parent: Option<String>,
    #[serde(default)]
    chunk: Option<u64>,
    /// The operations that are applied only after the decision, with their stores.
    #[serde(default)]
    redone: BTreeMap<String, StoreName>,
}

/// [`PlanView`] as it is read back: owned text.
#[derive(Serialize, Deserialize)]
struct PlanView2 {
    decider: Option<String>,
    prepared: Vec<String>,
    redo: Vec<String>,
    reason: String,
}

/// Answers longer than this are not kept beside the key: a replay then says what happened, without the results.
const KEPT_ANSWER_BYTES: usize = 256 * 1024;

impl Entry {
    /// What the deciding marker remembers of the answer: only where there is a key, and only if it is not too long.
    pub(in crate::txn) fn kept_answer(&self) -> Option<String> {
        self.key.as_ref()?;
        self.shown_answer()
    }

    /// What a client is shown of it, to be kept over restarts, if it is not too long.
    pub(in crate::txn) fn shown_answer(&self) -> Option<String> {
        let note = self.chunk_note();
        let live = self.live();
        let plan = live.plan.as_ref()?;
        let kept = Kept {
            name: self.name.clone(),
            plan: PlanView2 {
                decider: plan.decider.clone(),
                prepared: plan.prepared.clone(),
                redo: plan.redo.clone(),
                reason: plan.reason.clone(),
            },
            results: live.results.as_deref().cloned(),
            attempts: live.attempt.0,
            began_us: self.began_us,
            trace_id: self.trace().map(|trace| trace.to_string()),
            parent: note.as_ref().map(|note| note.parent.clone()),
            chunk: note.filter(|note| !note.undoes).map(|note| note.number),
            redone: live.redone.clone(),
        };
        let text = serde_json::to_string(&kept).ok()?;
        (text.len() <= KEPT_ANSWER_BYTES).then_some(text)
    }

    /// Takes back what [`Entry::shown_answer`] gave.
    pub(in crate::txn) fn remember(&self, answer: Option<&str>) {
        let Some(kept) = read_kept(answer) else { return };
        let mut live = self.live();
        live.results = kept.results.map(Arc::new);
        live.redone = kept.redone;
    }
}

/// A transaction that only its `Done` record remembers.
pub(in crate::txn) fn from_ended(ended: &Ended) -> Entry {
    let key = ended.key.as_ref().map(|(note, _)| note.clone());
    let entry = Entry::from_past(ended.run.txn, ended.name.clone(), key, ended.trace, Lsn::ZERO, ended.began_us);
    entry.replanned(ended.run, &ended.decider, &ended.preparers, &ended.redoers, &ended.reason);
    if let Some(note) = &ended.chunk {
        entry.belongs(OfJob::Chunk(ChunkOf::new(None, note.clone(), None)));
    }
    {
        let mut live = entry.live();
        live.ended_us = Some(ended.ended_us);
        live.cause = ended.cause.as_ref().map(|(code, detail)| {
            let code = Code::ALL.iter().find(|known| known.as_str() == code);
            Problem::new(code.copied().unwrap_or(Code::Internal), detail)
        });
    }
    ended.skipped.iter().cloned().for_each(|skipped| entry.hand.give_up(skipped));
    entry.remember(ended.key.as_ref().and_then(|(_, answer)| answer.as_deref()));
    entry.take(ended.outcome.event());
    entry.take(Event::Finished);
    entry
}

/// A transaction that only a marker remembers: another sidecar's, or one whose record is gone from the log.
pub(in crate::txn) fn from_marker(marker: &Marker) -> View {
    let kept = read_kept(marker.answer.as_deref());
    let committed = marker.outcome == Outcome::Committed;
    let plan = kept.as_ref().map(|kept| PlanView {
        pattern: "atomic",
        decider: kept.plan.decider.clone(),
        prepared: kept.plan.prepared.clone(),
        redo: kept.plan.redo.clone(),
        reason: kept.plan.reason.clone(),
    });
    View {
        name: kept.as_ref().and_then(|kept| kept.name.clone()),
        trace_id: kept.as_ref().and_then(|kept| kept.trace_id.clone()),
        guarantee: committed.then_some("atomic"),
        plan,
        attempts: marker.run.attempt.0,
        started_at: clock::rfc3339(kept.as_ref().map_or(0, |kept| kept.began_us)),
        parent: kept.as_ref().and_then(|kept| kept.parent.clone()),
        chunk: kept.as_ref().and_then(|kept| kept.chunk),
        results: kept.and_then(|kept| kept.results).map(|results| say_applied(results, |_| committed)),
        ..View::of(marker.run.txn.to_string(), if committed { TxnState::Committed } else { TxnState::Aborted })
    }
}

fn read_kept(answer: Option<&str>) -> Option<Kept> {
    serde_json::from_str(answer?).ok()
}
