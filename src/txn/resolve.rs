//! An operator's verb, from the table's ruling to what came of it. Audited before it acts and before it is answered.
//!
//! ```text
//!   ruling (pure, model/operator.rs) ─► audit: asked ─► act ─► wait a moment for what comes of it ─► audit: answered
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::core::Core;
use super::entry::Entry;
use super::hand::Skip;
use super::interactive::Call;
use super::look_up;
use super::site::Gate;
use super::{Coordinator, Find};
use crate::audit::{Act, Line, Outcome as Came};
use crate::metrics::{ByHand, HandResult};
use crate::model::ids::StoreName;
use crate::model::operator::{Ruling, Verb};
use crate::model::powers::Role;
use crate::model::problem::{Code, Problem};
use crate::model::state::{Outcome, TxnState};
use crate::model::view::View;
use crate::store::Setback;

/// How long the answer waits for what comes of a verb. What takes longer goes on all the same; the answer says how far
/// it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for a nudge: a store that is away answers nothing however long one waits.
const A_TRY: Duration = Duration::from_secs(3);

/// A copy of an audit line that takes longer is given up.
const COPY: Duration = Duration::from_secs(2);

/// `POST /v1/transactions/{id}/resolve`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HandWish {
    /// What to do.
    pub verb: Verb,
    /// Why: 1 to 1000 characters, none of them a control character.
    pub reason: String,
    /// The operator.
    pub who: Arc<str>,
    /// The trace id of the request.
    pub trace: Option<String>,
}

impl Coordinator {
    /// Does by hand what the table ([`Verb::ruling`]) allows, and answers the transaction as it then stands. What was
    /// begun goes on when this future is dropped.
    ///
    /// # Errors
    /// `not_found` with state unknown; `wrong_state` where the table refuses, or where it is too late; what the audit log
    /// or the journal refuses (`journal_unavailable`): then nothing was done; `store_unavailable` where a store had to be
    /// asked first.
    pub async fn resolve(&self, what: &Find, wish: HandWish) -> Result<View, Problem> {
        // In a task of its own: a client that goes away must not keep the second audit line from being written.
        let (core, what) = (self.core.clone(), what.clone());
        let resolving = tokio::spawn(async move { resolve(&core, &what, &wish).await });
        resolving
            .await
            .unwrap_or_else(|_| Err(Problem::new(Code::Internal, "a defect of Outrigger: its log says more")))
    }

    /// Writes a line of what is done by hand elsewhere.
    ///
    /// # Errors
    /// As [`Audit::write`](crate::audit::Audit::write).
    pub async fn note(&self, line: &Line) -> Result<(), Problem> {
        self.core.note(line).await
    }

    /// Writes down that somebody who is no operator asked for something by hand.
    ///
    /// # Errors
    /// As [`Audit::write`](crate::audit::Audit::write).
    pub async fn note_stranger(&self, act: &Act, problem: &Problem) -> Result<(), Problem> {
        let line = Line::answered(act, Came::Refused, None, Some(problem.code.as_str()));
        if self.core.audit.hears_stranger(&line) { self.core.note(&line).await } else { Ok(()) }
    }
}

impl Core {
    /// Writes an audit line down, and its copy where one is kept.
    ///
    /// # Errors
    /// As [`Audit::write`](crate::audit::Audit::write); a copy that fails is none.
    pub(super) async fn note(&self, line: &Line) -> Result<(), Problem> {
        self.audit.write(line).await?;
        let Some(name) = self.audit.copy() else { return Ok(()) };
        let site = self.sites.get(name).filter(|site| matches!(site.gate(), Gate::Open | Gate::Reached));
        let Some(audits) = site.and_then(|site| site.store.audits()) else {
            self.audit.copy_failed(name, "the store is not up");
            return Ok(());
        };
        match timeout(COPY, audits.keep(self.journal.owner().log, line)).await {
            Ok(Ok(())) => {}
            Ok(Err(Setback::Again(why) | Setback::Final(why))) => self.audit.copy_failed(name, &why),
            Err(_) => self.audit.copy_failed(name, "it did not answer in time"),
        }
        Ok(())
    }
}

async fn resolve(core: &Arc<Core>, what: &Find, wish: &HandWish) -> Result<View, Problem> {
    let mut act =
        Act { reason: Some(wish.reason.clone()), ..Act::new(&wish.who, wish.verb.as_str(), wish.trace.as_deref()) };
    act.transaction = Some(match what {
        Find::Id(id) => id.to_string(),
        Find::Name(name) => format!("name:{name}"),
        Find::Key(_) => "by key".to_owned(),
    });
    let outcome = match found(core, what).await {
        Ok((entry, view)) => {
            act.transaction = Some(view.id.clone());
            act.name.clone_from(&view.name);
            act.before = Some(view.state.as_str().to_owned());
            ruled(core, entry, view, &act, wish).await
        }
        Err(problem) => Err(problem),
    };
    let by_hand = ByHand::from(wish.verb);
    match outcome {
        Ok((came, view)) => {
            let result = if came == Came::Already { HandResult::Already } else { HandResult::Done };
            core.metrics.resolved(by_hand, result);
            let line = Line::answered(&act, came, Some(view.state.as_str()), None);
            if let Err(problem) = core.note(&line).await {
                // What was asked for stands in the file, and it is done: it cannot be refused any more.
                tracing::error!(transaction = view.id, %problem, "done by hand, and what came of it is not in the audit log");
                if came == Came::Already {
                    return Err(problem);
                }
            }
            tracing::info!(
                transaction = view.id, who = %wish.who, verb = wish.verb.as_str(), reason = wish.reason,
                before = act.before, after = view.state.as_str(), "by hand"
            );
            Ok(view)
        }
        Err(problem) => {
            core.metrics.resolved(by_hand, HandResult::Refused);
            let after = problem.state.map(TxnState::as_str);
            core.note(&Line::answered(&act, Came::Refused, after, Some(&problem.detail))).await?;
            Err(problem)
        }
    }
}

async fn found(core: &Core, what: &Find) -> Result<(Option<Arc<Entry>>, View), Problem> {
    match core.registry.find(what) {
        Some(entry) => {
            let view = entry.view();
            Ok((Some(entry), view))
        }
        None => look_up::find(core, what).await.map(|view| (None, view)),
    }
}

async fn ruled(
    core: &Arc<Core>,
    entry: Option<Arc<Entry>>,
    view: View,
    act: &Act,
    wish: &HandWish,
) -> Result<(Came, View), Problem> {
    let refused = |detail: String| {
        let problem = Problem::new(Code::WrongState, detail);
        match view.id.parse() {
            Ok(id) => problem.of(id, view.state),
            Err(_) => problem,
        }
    };
    let ruling = wish.verb.ruling(view.state);
    let entry = match (ruling, entry) {
        (Ruling::Refused, _) => return Err(refused(wish.verb.refusal(view.state))),
        (Ruling::Already, _) => return Ok((Came::Already, view)),
        (_, Some(entry)) => entry,
        // Whatever is not in memory has ended.
        (_, None) => return Err(refused("it is not open here".to_owned())),
    };
    core.note(&Line::asked(act)).await?;
    entry.step("by_hand", Some(format!("{} by {}: {}", wish.verb.as_str(), wish.who, wish.reason)));
    match ruling {
        Ruling::Abort => abort(&entry, wish).await?,
        Ruling::AskDecider | Ruling::TellStores => hasten(&entry).await,
        Ruling::GiveUp => give_up(core, &entry, wish).await?,
        Ruling::Decide(outcome) => decide(core, &entry, outcome, wish).await?,
        Ruling::Already | Ruling::Refused => {}
    }
    Ok((Came::Done, entry.view()))
}

fn too_late(entry: &Entry, detail: &str) -> Problem {
    Problem::new(Code::WrongState, detail).of(entry.id, entry.state())
}

/// The run gives way, as a victim does.
async fn abort(entry: &Entry, wish: &HandWish) -> Result<(), Problem> {
    if entry.job().is_some() {
        return Err(too_late(
            entry,
            "it is a batch job, which its own `/rollback` ends, with `mark_failed` where need be",
        ));
    }
    if !entry.recall(rolled_back(wish)) {
        let detail =
            "it has begun to ask stores to promise or to decide, so it is too late for that: its outcome is near";
        return Err(too_late(entry, detail));
    }
    until_settled(entry, PATIENCE).await;
    Ok(())
}

/// Whoever waits for a store goes on at once. Waits for the end, or for the first try that comes to nothing.
async fn hasten(entry: &Entry) {
    let (mut failures, mut settled) = (entry.hand.failures(), entry.settled());
    failures.borrow_and_update();
    entry.hand.nudge();
    let _ = timeout(A_TRY, async {
        tokio::select! {
            _ = settled.wait_for(|settled| *settled) => {}
            _ = failures.changed() => {}
        }
    })
    .await;
}

async fn until_settled(entry: &Entry, limit: Duration) {
    let mut settled = entry.settled();
    let _ = timeout(limit, settled.wait_for(|settled| *settled)).await;
}

/// The parts that are refused now are given up by the tasks that try them.
async fn give_up(core: &Core, entry: &Entry, wish: &HandWish) -> Result<(), Problem> {
    let stores = entry.hand.refused();
    if stores.is_empty() {
        return Err(too_late(entry, "no store refuses its part any more"));
    }
    holds_no_promise(core, entry, &stores).await?;
    let (count, until) = (stores.len(), Instant::now() + PATIENCE);
    let (skip, mut answers) = Skip::new(stores, wish.reason.clone(), wish.who.to_string());
    entry.hand.wish(Some(skip));
    let mut outcome = Ok(());
    for _ in 0..count {
        match timeout_at(until, answers.recv()).await {
            Ok(Some(Ok(()))) => {}
            Ok(Some(Err(problem))) => outcome = Err(problem.of(entry.id, entry.state())),
            Ok(None) | Err(_) => {
                let detail = "a store that refused its part is being tried just now, so not everything was given up: \
                              look at `skipped`, and try again";
                outcome = Err(too_late(entry, detail));
                break;
            }
        }
    }
    entry.hand.wish(None);
    outcome?;
    until_settled(entry, PATIENCE).await;
    Ok(())
}

/// A promise that still stands prepared can be kept, and holds locks as long as it is not: it is no part to give up.
async fn holds_no_promise(core: &Core, entry: &Entry, stores: &BTreeSet<StoreName>) -> Result<(), Problem> {
    let preparers = entry.pending_as(Role::Preparer);
    for store in stores.iter().filter(|store| preparers.contains(store)) {
        // A store that is no longer configured can neither be asked nor told: its part is given up with it.
        let Ok(site) = core.site(store) else { continue };
        let Some(prepares) = site.store.prepares() else { continue };
        let standing = prepares.prepared(core.journal.owner().log).await;
        let standing =
            standing.map_err(|(Setback::Again(why) | Setback::Final(why))| Problem::unavailable(store, why))?;
        if let Some((gid, _)) = standing.iter().find(|(gid, _)| gid.run == entry.run()) {
            let detail = format!(
                "{store} still holds {gid} prepared: what it refuses can be mended there (its last error says what), and \
                 then it is committed by itself or by `retry`"
            );
            return Err(too_late(entry, &detail).in_store(store));
        }
    }
    Ok(())
}

/// The verdict that a prepared transaction waits for, as its client would give it.
async fn decide(core: &Core, entry: &Entry, outcome: Outcome, wish: &HandWish) -> Result<(), Problem> {
    let cause = (outcome == Outcome::Aborted).then(|| rolled_back(wish));
    let gone = || too_late(entry, "it has just been given its verdict");
    let line = core.conversations.line(entry.id).ok_or_else(gone)?;
    line.ask(|reply| Call::End { outcome, cause, reply }).await.unwrap_or_else(|| Err(gone()))?;
    until_settled(entry, PATIENCE).await;
    Ok(())
}

fn rolled_back(wish: &HandWish) -> Problem {
    Problem::new(Code::RolledBack, format!("{} rolled it back by hand: {}", wish.who, wish.reason))
}
