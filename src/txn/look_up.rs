//! What is known of a transaction: in memory, in the log, else in the stores' markers. Never "aborted" from silence.

use std::sync::Arc;

use futures::future::join_all;
use tokio::time::Instant;

use super::Find;
use super::core::Core;
use super::entry::{Entry, from_ended, from_marker};
use super::job;
use super::registry::{Keyed, in_flight, mismatch};
use super::site::PATIENCE;
use crate::metrics::StoreCall;
use crate::model::commit::{KeyNote, LookUp, Marker};
use crate::model::problem::{Code, Problem};
use crate::model::request::WaitFor;
use crate::model::state::{Outcome, TxnState};
use crate::model::view::{Answer, View};
use crate::store::Setback;

pub(super) async fn find(core: &Core, what: &Find) -> Result<View, Problem> {
    let (wish, name) = match what {
        Find::Id(id) => (Some(LookUp::Txn(*id)), id.to_string()),
        Find::Name(name) => (None, format!("name:{name}")),
        Find::Key(key) => (Some(LookUp::Key(key.clone())), "that key".to_owned()),
    };
    if let Some(entry) = core.registry.find(what) {
        // How it ended is worth telling without the results too.
        return Ok(with_results(core, &entry).await.unwrap_or_else(|_| entry.view()));
    }
    if let Find::Key(key) = what
        && let Some(ended) = core.keyed().get(key)
    {
        return Ok(from_ended(ended).view());
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

/// Its view; results that memory has let go are fetched from where they stand beside the key: the log's record, or the
/// deciding marker.
async fn with_results(core: &Core, entry: &Entry) -> Result<View, Problem> {
    let (mut view, state) = (entry.view(), entry.state());
    let decided = matches!(state, TxnState::Committed | TxnState::Committing | TxnState::NeedsIntervention);
    let Some(note) = entry.key.as_ref().filter(|_| decided && view.results.is_none()) else { return Ok(view) };
    let logged = core.keyed().get(&note.key).map(|ended| from_ended(ended).view().results);
    if let Some(results) = logged {
        view.results = results;
        return Ok(view);
    }
    let Some(marker) = in_markers(core, &LookUp::Key(note.key.clone())).await? else { return Ok(view) };
    if state.has_ended() {
        view.results = from_marker(&marker).results;
        return Ok(view);
    }
    entry.remember(marker.answer.as_deref());
    Ok(entry.view())
}

/// The recorded outcome of a key, where it is known without asking the store that decides: that one is asked by the
/// marker's uniqueness, in the same round trip as the work. `in_stores`: ask them now, for those who get no answer from
/// the work, or for whom it is not known yet who will decide; one that cannot be asked says nothing.
///
/// # Errors
/// `in_flight`, `idempotency_mismatch`; `store_unavailable` where the results stand in a store that cannot be asked.
pub(super) async fn known_key(
    core: &Core,
    note: &KeyNote,
    wait: WaitFor,
    in_stores: bool,
) -> Result<Option<Box<View>>, Problem> {
    match core.registry.keyed(note)? {
        Keyed::Free => {
            if let Some(entry) = in_the_log(core, note)? {
                return Ok(Some(Box::new(entry.view())));
            }
            match in_stores {
                true => in_a_marker(core, note).await.or_else(|problem| match problem.code {
                    Code::IdempotencyMismatch => Err(problem),
                    _ => Ok(None),
                }),
                false => Ok(None),
            }
        }
        Keyed::Known(entry) => match entry.state() {
            TxnState::Committing if wait == WaitFor::Applied => Err(in_flight(&entry)),
            TxnState::Committed | TxnState::Committing | TxnState::NeedsIntervention => {
                Ok(Some(Box::new(with_results(core, &entry).await?)))
            }
            _ => Err(in_flight(&entry)),
        },
    }
}

/// The run that the log has decided under this key.
pub(super) fn in_the_log(core: &Core, note: &KeyNote) -> Result<Option<Entry>, Problem> {
    let keyed = core.keyed();
    let Some(ended) = keyed.get(&note.key) else { return Ok(None) };
    match &ended.key {
        Some((known, _)) if known.digest != note.digest => Err(mismatch(&ended.run.txn)),
        _ => Ok(Some(from_ended(ended))),
    }
}

/// The run that a store has decided under this key.
///
/// # Errors
/// `idempotency_mismatch`; `store_unavailable`: who might know could not be asked.
pub(super) async fn in_a_marker(core: &Core, note: &KeyNote) -> Result<Option<Box<View>>, Problem> {
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
    match in_a_marker(core, note).await {
        Ok(Some(view)) => Answer::Replayed(view),
        // Nobody has carried it out; where the key was taken, its holder aborted meanwhile and it is free again.
        Ok(None) => Answer::Problem(Box::new(cause)),
        Err(problem) => Answer::Problem(Box::new(problem)),
    }
}
