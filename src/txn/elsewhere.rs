//! Whether a key was used for something that another store decided.
//!
//! Two equal requests are decided by the same store, and the second one meets the marker of the first there: no look-up
//! is needed for "one effect". But the same key may come with *another* request, which another store decides, where
//! nothing stands in its way. So the stores that can mark and do not decide this run are asked beside its work.
//!
//! However many ask, one question is on its way to a store at a time, and takes along all keys that wait (as a group
//! commit does with records): the stores that decide nothing here must not be kept busy by it.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::core::Core;
use super::entry::Entry;
use super::site::{Gate, Site};
use crate::metrics::StoreCall;
use crate::model::commit::Decider;
use crate::model::problem::{Code, Problem};

/// How long a store is waited for: it holds up only those who need it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Those who want to know of keys in one store.
pub(super) struct Asking {
    waiting: Mutex<Vec<(String, oneshot::Sender<bool>)>>,
    turn: Semaphore,
}

impl Default for Asking {
    fn default() -> Self {
        Self { waiting: Mutex::default(), turn: Semaphore::new(1) }
    }
}

impl Asking {
    fn waiting(&self) -> MutexGuard<'_, Vec<(String, oneshot::Sender<bool>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a key is held. `ask` answers which of several are.
    async fn is_held<F>(&self, key: &str, ask: impl Fn(Vec<String>) -> F) -> bool
    where
        F: Future<Output = Vec<String>>,
    {
        loop {
            let (tell, mut told) = oneshot::channel();
            self.waiting().push((key.to_owned(), tell));
            let turn = tokio::select! {
                answer = &mut told => match answer {
                    Ok(held) => return held,
                    // Who asked for us has been cancelled.
                    Err(_) => continue,
                },
                turn = self.turn.acquire() => turn,
            };
            let asked = std::mem::take(&mut *self.waiting());
            if !asked.is_empty() {
                let held = ask(asked.iter().map(|(key, _)| key.clone()).collect()).await;
                for (key, tell) in asked {
                    // Whoever wanted to know may have gone.
                    let _ = tell.send(held.contains(&key));
                }
            }
            drop(turn);
            if let Ok(held) = told.await {
                return held;
            }
        }
    }
}

/// Looks for the key of a run in the stores that do not decide it. One that is down or slow is passed over.
///
/// # Errors
/// `in_flight` where it stands in one: the answer to the client looks closer.
pub(super) async fn not_used(core: &Core, entry: &Entry, decider: Option<&Decider>) -> Result<(), Problem> {
    // A job knows by itself which of its chunks are done, whoever decided them.
    let Some(note) = entry.key.as_ref().filter(|_| entry.chunk().is_none()) else { return Ok(()) };
    let decides = |site: &Site| matches!(decider, Some(Decider::Store(store)) if store == site.name());
    let others = core.sites.values().filter(|site| site.gate() == Gate::Open && !decides(site));
    let asking = others.filter_map(|site| {
        let marks = site.store.marks()?;
        let ask = async move |keys: Vec<String>| {
            site.call(StoreCall::LookUp, marks.held_keys(&keys)).await.unwrap_or_default()
        };
        Some(timeout(PATIENCE, site.asking.is_held(&note.key, ask)))
    });
    match join_all(asking).await.contains(&Ok(true)) {
        true => Err(Problem::new(Code::InFlight, "another store holds a committed transaction with this key")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn those_who_wait_are_asked_for_together_and_a_cancelled_asker_loses_nobody() {
        let asking = Arc::new(Asking::default());
        let batches: Arc<Mutex<Vec<usize>>> = Arc::default();
        let answers = Arc::new(Semaphore::new(0));
        let ask = {
            let (batches, answers) = (batches.clone(), answers.clone());
            move |keys: Vec<String>| {
                batches.lock().unwrap().push(keys.len());
                let answers = answers.clone();
                async move {
                    answers.acquire().await.unwrap().forget();
                    keys.into_iter().filter(|key| key.ends_with('7')).collect()
                }
            }
        };
        let settle = async || {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        };
        // The first asks for itself; while it does, nine more come. Then the first gives up.
        let spawn = |key: usize| {
            let (asking, ask) = (asking.clone(), ask.clone());
            tokio::spawn(async move { asking.is_held(&key.to_string(), ask).await })
        };
        let first = spawn(100);
        settle().await;
        let others: Vec<_> = (1..10).map(spawn).collect();
        settle().await;
        first.abort();
        settle().await;
        answers.add_permits(1);
        for (key, held) in (1..10).zip(others) {
            assert_eq!(held.await.unwrap(), key == 7, "{key}");
        }
        assert_eq!(*batches.lock().unwrap(), [1, 9], "one at a time, and all that waited");
    }
}
