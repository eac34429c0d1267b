//! Which document a writer takes next: any whose relations lead to documents that are written already.
//!
//! So every relation finds its target, no writer waits in a store for another's half-made node, and the audit can demand
//! every relation. The choice among them is random, by seed: neighbours in the corpus share their parent, and writers
//! that take neighbours would queue for its lock in Neo4j.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;

use crate::corpus::Document;

/// Shared by all writers.
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    ready: Vec<usize>,
    /// For each document, how many that it points to are not written yet.
    awaited: Vec<usize>,
    /// For each document, those that point to it.
    dependents: Vec<Vec<usize>>,
    left: usize,
    random: StdRng,
}

impl Queue {
    /// Over all `documents` but those that are `done`.
    pub(crate) fn new(documents: &[Document], done: impl IntoIterator<Item = usize>, seed: u64) -> Queue {
        let mut written = vec![false; documents.len()];
        done.into_iter().for_each(|n| written[n] = true);
        let mut dependents = vec![Vec::new(); documents.len()];
        let mut awaited = vec![0; documents.len()];
        let mut ready = Vec::new();
        for (n, document) in documents.iter().enumerate().filter(|(n, _)| !written[*n]) {
            for relation in document.relations.iter().filter(|relation| !written[relation.to]) {
                dependents[relation.to].push(n);
                awaited[n] += 1;
            }
            if awaited[n] == 0 {
                ready.push(n);
            }
        }
        let left = written.iter().filter(|written| !**written).count();
        let random = StdRng::seed_from_u64(seed);
        Queue { state: Mutex::new(State { ready, awaited, dependents, left, random }), changed: Notify::new() }
    }

    /// The next document, as soon as there is one; `None` when all are written. Nothing is taken when cancelled.
    pub(crate) async fn take(&self) -> Option<usize> {
        loop {
            // Made before the look: a change between look and wait wakes it all the same.
            let changed = self.changed.notified();
            {
                let mut state = self.state();
                if state.left == 0 {
                    return None;
                }
                if !state.ready.is_empty() {
                    let many = state.ready.len();
                    let pick = state.random.random_range(0..many);
                    return Some(state.ready.swap_remove(pick));
                }
            }
            changed.await;
        }
    }

    /// Document `n`, taken before, is written.
    pub(crate) fn finish(&self, n: usize) {
        {
            let state = &mut *self.state();
            state.left -= 1;
            for dependent in std::mem::take(&mut state.dependents[n]) {
                state.awaited[dependent] -= 1;
                if state.awaited[dependent] == 0 {
                    state.ready.push(dependent);
                }
            }
        }
        self.changed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
