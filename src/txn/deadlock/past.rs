//! The deadlocks that were, and everything about waits as clients and operators read it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::clock;
use crate::lock::Score;
use crate::metrics::DeadlockSource;
use crate::model::ids::TxnId;
use crate::model::wait::WaitEdge;

/// So many are remembered.
const KEPT: usize = 100;

/// A deadlock: one line of `GET /v1/deadlocks`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeadlockView {
    /// RFC 3339 UTC: when it was over, or found where nobody could give way.
    pub at: String,
    /// `locks`, `postgres`, `neo4j` or `cross`.
    pub source: &'static str,
    /// Each edge's holder is the next one's waiter.
    #[schema(value_type = Vec<Object>)]
    pub cycle: Vec<WaitEdge>,
    /// Everybody who could have given way, the lowest score first.
    #[schema(value_type = Vec<Object>)]
    pub scores: Vec<Score>,
    /// Who gave way; null where nobody of ours could.
    pub victim: Option<String>,
    /// Milliseconds from the last edge of the circle until the victim had let go.
    pub broken_after_ms: Option<f64>,
}

/// `GET /v1/wait-for`
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WaitForView {
    /// Everybody who waits or is waited for.
    pub nodes: Vec<NodeView>,
    /// Who waits for whom.
    #[schema(value_type = Vec<Object>)]
    pub edges: Vec<WaitEdge>,
}

/// A transaction, or somebody else's session in a store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct NodeView {
    /// As edges name it.
    pub id: String,
    /// A transaction's own name; a lease's key.
    pub name: Option<String>,
    /// A transaction's state; `lease`; `foreign` for somebody else's session, `unknown` for a transaction that memory
    /// has let go.
    pub state: &'static str,
}

impl DeadlockView {
    pub(super) fn new(
        cycle: &[WaitEdge],
        scores: &[Score],
        victim: Option<TxnId>,
        source: DeadlockSource,
        took: Option<Duration>,
    ) -> Self {
        Self {
            at: clock::rfc3339(clock::now_us()),
            source: source.as_str(),
            cycle: cycle.to_vec(),
            scores: scores.to_vec(),
            victim: victim.map(|id| id.to_string()),
            broken_after_ms: took.map(|took| took.as_secs_f64() * 1000.0),
        }
    }
}

/// A circle as one line for the log.
pub(super) fn sentence(cycle: &[WaitEdge]) -> String {
    cycle.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The last ones.
#[derive(Default)]
pub(super) struct Past {
    list: Mutex<VecDeque<DeadlockView>>,
}

impl Past {
    fn locked(&self) -> MutexGuard<'_, VecDeque<DeadlockView>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, deadlock: DeadlockView) {
        let mut list = self.locked();
        if list.len() == KEPT {
            list.pop_front();
        }
        list.push_back(deadlock);
    }

    /// Newest first.
    pub(super) fn list(&self) -> Vec<DeadlockView> {
        self.locked().iter().rev().cloned().collect()
    }
}
