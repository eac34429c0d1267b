//! What is known of a transaction: in memory, else in the stores' markers. Never "aborted" from silence.

use std::sync::Arc;

use futures::future::join_all;
use tokio::time::Instant;

use super::Find;
use super::core::Core;
use super::entry::{Entry, from_ended, from_marker};
use super::job;
use super::registry::mismatch;
use super::site::PATIENCE;
use crate::metrics::StoreCall;
use crate::model::commit::{KeyNote, LookUp, Marker};
use crate::model::problem::{Code, Problem};
use crate::model::state::{Outcome, TxnState};
use crate::model::view::{Answer, View};
use crate::store::Setback;

pub(super) async fn find(core: &Core, what: &Find) -> Result<View, Problem> {
    let (known, wish, name) = match what {
        Find::Id(id) => (core.registry.get(*id), Some(LookUp::Txn(*id)), id.to_string()),
        Find::Name(name) => (core.registry.named(name), None, format!("name:{name}")),
        Find::Key(key) => (core.registry.by_key(key), Some(LookUp::Key(key.clone())), "that key".to_owned()),
    };
    if let Some(entry) = known {
        return Ok(with_results(core, &entry).await);
    }
    if let Find::Key(key) = what {
        let keyed = core.keyed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, ended)) = keyed.get(key) {
            return Ok(from_ended(ended).view());
        }
    }
    let found = match &wish {
        Some(wish) => in_markers(core, wish).await?,
        None => None,
    };
    match found {
        Some(marker) => Ok(from_marker(&marker)),
        None => Err(unknown(&name)),
    }
}

fn unknown(name: &str) -> Problem {
    let detail =
        format!("nothing is known of {name}: neither this log nor any store's markers hold it (state: unknown)");
    Problem::new(Code::NotFound, detail)
}

/// Asks every store that can mark. A committed marker outweighs everything.
async fn in_markers(core: &Core, what: &LookUp) -> Result<Option<Marker>, Problem> {
    let mut asking = Vec::new();
    for site in core.sites.values() {
        let Some(marks) = site.store.marks() else { continue };
        asking.push(async move {
            site.admit(Instant::now() + PATIENCE).await?;
            let found = site.call(StoreCall::LookUp, marks.look_up(what)).await;
            found.map_err(|(Setback::Again(why) | Setback::Final(why))| Problem::unavailable(site.name(), why))
        });
    }
    let answers = join_all(asking).await;
    let mut silent = None;
    let mut fence = None;
    for answer in answers {
        match answer {
            Ok(Some(marker)) if marker.outcome == Outcome::Committed => return Ok(Some(marker)),
            Ok(Some(marker)) => fence = Some(marker),
            Ok(None) => {}
            Err(problem) => silent = Some(problem),
        }
    }
    match (silent, fence) {
        // One attempt was fenced, but another may have committed where nobody could look.
        (Some(problem), _) => Err(problem),
        (None, found) => Ok(found),
    }
}

/// Its view; results that memory has let go are fetched from the deciding marker, which keeps them beside a key.
pub(super) async fn with_results(core: &Core, entry: &Entry) -> View {
    let mut view = entry.view();
    if view.results.is_none()
        && entry.state() == TxnState::Committed
        && let Some(note) = &entry.key
        && let Ok(Some(marker)) = in_markers(core, &LookUp::Key(note.key.clone())).await
    {
        view.results = from_marker(&marker).results;
    }
    view
}

/// What a committed marker with this key says of how it ended.
///
/// # Errors
/// `idempotency_mismatch`: it was another request. `store_unavailable`: who might know could not be asked.
pub(super) async fn by_marker(core: &Core, note: &KeyNote) -> Result<Option<Box<View>>, Problem> {
    match in_markers(core, &LookUp::Key(note.key.clone())).await? {
        Some(marker) => match &marker.key {
            Some(known) if known.digest != note.digest => Err(mismatch(&marker.run.txn)),
            _ => Ok(Some(Box::new(from_marker(&marker)))),
        },
        None => Ok(None),
    }
}

/// What the client who waited is told.
pub(super) async fn answer(core: &Core, entry: &Arc<Entry>) -> Answer {
    let state = entry.state();
    match state {
        TxnState::Aborted | TxnState::Aborting => {}
        // Still working at the deadline means that it cannot be told apart from a slow decision: not known yet.
        _ => return Answer::View(Box::new(entry.view())),
    }
    let cause = entry.cause().unwrap_or_else(|| Problem::new(Code::Internal, "aborted without a cause"));
    let cause = Problem { retried_for: entry.retried_for(), ..cause.of(entry.id, state) };
    match &entry.key {
        Some(note) => {
            let answer = replay(core, note, cause).await;
            if matches!(answer, Answer::Replayed(_)) {
                job::learn(core, entry).await;
            }
            answer
        }
        None => Answer::Problem(Box::new(cause)),
    }
}

/// A request with a key was refused. It may have been carried out before: then the deciding store says that the key is
/// taken, or another store was faster to find the row of the first time in its way. A committed marker with this key is
/// the answer; looking for it only now costs those who succeed nothing.
async fn replay(core: &Core, note: &KeyNote, cause: Problem) -> Answer {
    match by_marker(core, note).await {
        Ok(Some(view)) => Answer::Replayed(view),
        // Nobody has carried it out; where the key was taken, its holder aborted meanwhile and it is free again.
        Ok(None) => Answer::Problem(Box::new(cause)),
        Err(problem) => Answer::Problem(Box::new(problem)),
    }
}
