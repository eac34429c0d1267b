//! Why a transaction is where it is: who decides, who was promised what, what would end it, and what an operator may do.
//! Gathered from memory and put into sentences; nothing is asked of any store, so that it answers when they do not.

use serde::Serialize;
use utoipa::ToSchema;

use super::core::Core;
use super::entry::Entry;
use super::hand::SetbackView;
use super::look_up;
use super::site::Gate;
use super::{Coordinator, Find};
use crate::model::commit::GID_PREFIX;
use crate::model::ids::StoreName;
use crate::model::operator::{Skipped, Verb};
use crate::model::problem::Problem;
use crate::model::state::TxnState;
use crate::model::view::{ParticipantView, View};
use crate::model::wait::{Party, WaitEdge};

/// `GET /v1/transactions/{id}/explain`
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Explanation {
    /// UUIDv7.
    pub transaction: String,
    /// As given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its state.
    #[schema(value_type = String)]
    pub state: TxnState,
    /// All of it in sentences, for people.
    pub summary: Vec<String>,
    /// Who decides; null where nobody has to, or before there is a plan.
    pub decider: Option<DeciderView>,
    /// What each store was promised or has promised.
    pub promises: Vec<PromiseView>,
    /// Who is in its way in our lock table.
    #[schema(value_type = Vec<Object>)]
    pub waits_for: Vec<WaitEdge>,
    /// What ends it.
    pub ends_when: String,
    /// What an operator's verb would do now.
    pub operator: Vec<VerbView>,
    /// What its stores said, the oldest and the latest of each.
    pub setbacks: Vec<SetbackView>,
    /// What was given up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
}

/// Who decides.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeciderView {
    /// A store's name, or `wal`.
    pub name: String,
    /// `up`, `recovering`, `down`, `not_configured`; of the log `open` or `poisoned`.
    pub state: &'static str,
    /// Why it is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One store's part.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PromiseView {
    /// The store.
    pub store: String,
    /// `decider`, `preparer`, `redoer`, `reader`.
    pub role: &'static str,
    /// What that means now.
    pub promise: String,
    /// Whether it still has to be told.
    pub pending: bool,
}

/// One verb of the table.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct VerbView {
    /// `retry`, `commit`, `rollback`, `skip`.
    pub action: &'static str,
    /// Whether it would be taken.
    pub allowed: bool,
    /// What it would do, or why not.
    pub does: String,
}

/// How a store stands, as far as sentences need it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    Up,
    Recovering,
    Down(String),
    NotConfigured,
}

/// What is known beside the view.
pub(super) struct Facts<'a> {
    /// How a store stands.
    pub(super) standing: &'a dyn Fn(&str) -> Standing,
    /// What our gids of this log begin with.
    pub(super) log: String,
    pub(super) poisoned: bool,
    pub(super) waits_for: Vec<WaitEdge>,
    pub(super) setbacks: Vec<SetbackView>,
    /// Stores that refuse their part for good.
    pub(super) refused: Vec<String>,
}

impl Coordinator {
    /// Says why a transaction is where it is.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub async fn explain(&self, what: &Find) -> Result<Explanation, Problem> {
        let core = &self.core;
        let entry = match what {
            Find::Id(id) => core.registry.get(*id),
            Find::Name(name) => core.registry.named(name),
            Find::Key(key) => core.registry.by_key(key),
        };
        let view = match &entry {
            Some(entry) => entry.view(),
            None => look_up::find(core, what).await?,
        };
        Ok(explain(&view, facts(core, entry.as_deref(), &|store| standing(core, store))))
    }
}

fn standing(core: &Core, store: &str) -> Standing {
    match core.sites.get(&StoreName::from(store)).map(|site| site.gate()) {
        Some(Gate::Open) => Standing::Up,
        Some(Gate::Starting | Gate::Reached) => Standing::Recovering,
        Some(Gate::Down(why)) => Standing::Down(why),
        None => Standing::NotConfigured,
    }
}

fn facts<'a>(core: &Core, entry: Option<&Entry>, standing: &'a dyn Fn(&str) -> Standing) -> Facts<'a> {
    let waits = |entry: &Entry| {
        let mine = Party::Ours(entry.id);
        core.locks.edges().into_iter().filter(|edge| edge.waiter == mine).collect()
    };
    let refused = |entry: &Entry| entry.hand.refused().iter().map(ToString::to_string).collect();
    Facts {
        standing,
        log: core.journal.owner().log.to_string(),
        poisoned: core.journal.is_poisoned(),
        waits_for: entry.map(waits).unwrap_or_default(),
        setbacks: entry.map(|entry| entry.hand.setbacks()).unwrap_or_default(),
        refused: entry.map(refused).unwrap_or_default(),
    }
}

/// Pure: from what is known to sentences.
pub(super) fn explain(view: &View, facts: Facts) -> Explanation {
    let decider = view.plan.as_ref().and_then(|plan| plan.decider.as_deref()).map(|name| decider(name, &facts));
    let promises: Vec<_> = view.participants.iter().map(|part| promise(view, part, &facts)).collect();
    let ends_when = ends_when(view, decider.as_ref(), &facts);
    let operator = Verb::ALL.into_iter().map(|verb| would(verb, view.state)).collect::<Vec<_>>();
    let mut summary = vec![standing_sentence(view, &facts)];
    summary.extend(view.plan.as_ref().map(|plan| match &plan.decider {
        Some(name) => format!("Who decides: {} ({}).", says_who(name), plan.reason),
        None => "It only reads, so nobody has to decide anything.".to_owned(),
    }));
    if !view.state.has_ended() {
        summary.extend(promises.iter().map(|part| format!("{}: {}.", part.store, part.promise)));
    }
    summary.extend(facts.waits_for.iter().map(|edge| format!("It waits for {} at {}.", edge.holder, edge.resource)));
    summary.extend(facts.setbacks.iter().map(|back| {
        let SetbackView { store, first_at, first_error, last_error, count, .. } = back;
        let last = if last_error == first_error { String::new() } else { format!(" Last: {last_error}") };
        format!("{store} failed {count} times since {first_at}: {first_error}{last}")
    }));
    summary.extend(view.skipped.iter().map(|part| {
        format!("{}'s part was given up by {}: {}. It will never have it.", part.store, part.by, part.reason)
    }));
    summary.push(ends_when.clone());
    summary.push(may(&operator));
    Explanation {
        transaction: view.id.clone(),
        name: view.name.clone(),
        state: view.state,
        summary,
        decider,
        promises,
        waits_for: facts.waits_for,
        ends_when,
        operator,
        setbacks: facts.setbacks,
        skipped: view.skipped.clone(),
    }
}

fn says_who(name: &str) -> String {
    if name == "wal" { "the log, by a forced record".to_owned() } else { format!("{name}, by its own commit") }
}

fn decider(name: &str, facts: &Facts) -> DeciderView {
    let (state, reason) = match name {
        "wal" => (if facts.poisoned { "poisoned" } else { "open" }, None),
        store => match (facts.standing)(store) {
            Standing::Up => ("up", None),
            Standing::Recovering => ("recovering", None),
            Standing::Down(why) => ("down", Some(why)),
            Standing::NotConfigured => ("not_configured", None),
        },
    };
    DeciderView { name: name.to_owned(), state, reason }
}

fn standing_sentence(view: &View, facts: &Facts) -> String {
    let last =
        view.timeline.last().map(|step| format!("; last step: {} at {}", step.step, step.at)).unwrap_or_default();
    let why = view.cause.as_ref().and_then(|cause| cause["detail"].as_str()).map(|why| format!(": {why}"));
    let why = why.unwrap_or_default();
    let pending = view.pending.join(", ");
    match view.state {
        TxnState::Active => {
            format!(
                "It is at work since {}: nothing is decided, and nothing of it outlives a crash{last}.",
                view.started_at
            )
        }
        TxnState::Prepared => {
            "It is prepared: it outlives crashes, keeps its locks, and waits for its verdict.".to_owned()
        }
        TxnState::InDoubt => {
            "It is not known whether it is decided: the decider was asked and no answer came, or a crash came between."
                .to_owned()
        }
        TxnState::Committing if pending.is_empty() => {
            "It is decided to commit, and its end is being written.".to_owned()
        }
        TxnState::Committing => format!("It is decided to commit, for good; still to be told: {pending}."),
        TxnState::NeedsIntervention => {
            let who = if facts.refused.is_empty() { pending } else { facts.refused.join(", ") };
            format!("It is decided to commit, for good, and {who} refuses its part{why}.")
        }
        TxnState::Aborting => format!("It is decided to abort{why}; still to let go: {pending}."),
        TxnState::Compensating => "It is a batch job whose chunks are being undone, the last one first.".to_owned(),
        TxnState::Compensated => "It is a batch job, and every chunk of it is undone.".to_owned(),
        TxnState::Committed => "It is committed, and everybody was told.".to_owned(),
        TxnState::Aborted => format!("It is aborted, and no store has any of it{why}."),
    }
}

fn promise(view: &View, part: &ParticipantView, facts: &Facts) -> PromiseView {
    use TxnState as S;
    let gid = || format!("{GID_PREFIX}{}:{}:{}:…", facts.log, view.id, view.attempts);
    let given_up = view.skipped.iter().any(|skipped| skipped.store == StoreName::from(part.store.as_str()));
    let said = match (part.role, view.state) {
        _ if given_up => "its part was given up".to_owned(),
        (_, S::Compensating | S::Compensated) => "it has what its chunks left there".to_owned(),
        ("reader", _) => "it only reads, and promises nothing".to_owned(),
        (_, S::Active) => "nothing is promised that outlives a crash".to_owned(),
        ("decider", S::Prepared) => {
            "it cannot promise: its part waits in the log, is run again at the commit, and may then be refused"
                .to_owned()
        }
        ("preparer", S::Prepared) => format!("it has promised, as {}, and waits for the verdict", gid()),
        (_, S::Prepared) => "it gets its writes if the verdict is commit; they stand in the log".to_owned(),
        ("decider", S::InDoubt) => {
            "it was asked to commit and thereby to decide; what it did is to be found out".to_owned()
        }
        ("decider", S::Aborting | S::Aborted) => "it has not committed, and cannot any more".to_owned(),
        ("decider", _) => "it has committed, and thereby decided".to_owned(),
        ("preparer", S::InDoubt) => format!("it may hold its part prepared, as {}, and waits for the verdict", gid()),
        ("preparer", S::Committing | S::NeedsIntervention) if part.pending => {
            format!("it has promised to commit {} and still has to be told", gid())
        }
        ("preparer", S::Aborting) if part.pending => {
            format!("it may hold {} and still has to be told to let go", gid())
        }
        (_, S::InDoubt) => "it gets its writes if the verdict is commit; they stand in the log".to_owned(),
        (_, S::Committing | S::NeedsIntervention) if part.pending => {
            "it is owed its writes, which stand in the log and are repeated until it has them".to_owned()
        }
        (_, S::Committing | S::NeedsIntervention | S::Committed) => "it has its part".to_owned(),
        (_, S::Aborting | S::Aborted) => "it has nothing of it".to_owned(),
    };
    PromiseView { store: part.store.clone(), role: part.role, promise: said, pending: part.pending }
}

fn ends_when(view: &View, decider: Option<&DeciderView>, facts: &Facts) -> String {
    let reach = |stores: &[String]| -> String {
        let down = stores.iter().filter_map(|store| match (facts.standing)(store) {
            Standing::Up => None,
            Standing::Recovering => Some(format!("{store} is being cleared up after a restart")),
            Standing::Down(why) => Some(format!("{store} is down ({why})")),
            Standing::NotConfigured => Some(format!("{store} is no longer in the configuration")),
        });
        let down: Vec<_> = down.collect();
        if down.is_empty() { String::new() } else { format!(" Now {}.", down.join(", and ")) }
    };
    match view.state {
        TxnState::Active if view.job.is_some() => "It ends when its client commits it or rolls it back: a job has no time of its own.".to_owned(),
        TxnState::Active => "It ends by itself: with its work, or at its deadline.".to_owned(),
        TxnState::Prepared => {
            let expiry = view.prepared.as_ref().map(|prepared| match (prepared.expired, prepared.on_expiry) {
                (true, _) => " Its time is over, and it is held for an operator.".to_owned(),
                (false, "hold") => format!(" At {} its time is over; then it waits for an operator.", prepared.expires_at),
                (false, _) => format!(" At {} it is rolled back by itself.", prepared.expires_at),
            });
            let down = decider.filter(|decider| decider.name != "wal");
            let down = down.map(|decider| reach(std::slice::from_ref(&decider.name))).unwrap_or_default();
            format!("It ends when its client commits it or rolls it back.{}{down}", expiry.unwrap_or_default())
        }
        TxnState::InDoubt => match decider {
            Some(decider) if decider.name == "wal" => {
                "It ends at the next start: the log was to decide, its flush failed, and only opening it again tells what \
                 stands on the disk."
                    .to_owned()
            }
            Some(DeciderView { name, state: "not_configured", .. }) => {
                format!("It ends once {name} is configured again: only {name} can say what came of it.")
            }
            Some(DeciderView { name, .. }) => {
                let down = reach(std::slice::from_ref(name));
                format!("It ends as soon as {name} answers the fence: only {name} can say what came of it.{down}")
            }
            None => "It ends once what came of it is found out.".to_owned(),
        },
        TxnState::Committing | TxnState::Aborting => {
            format!("It ends by itself, as soon as every store was told.{}", reach(&view.pending))
        }
        TxnState::NeedsIntervention => {
            let who = if facts.refused.is_empty() { &view.pending } else { &facts.refused };
            let down = reach(who);
            let who = who.join(", ");
            format!("It ends when the cause in {who} is mended (it is tried again by itself), or by `skip`.{down}")
        }
        TxnState::Compensating => "It ends when every chunk is undone; what stands in the way is tried again by itself.".to_owned(),
        TxnState::Committed | TxnState::Aborted | TxnState::Compensated => "It has ended.".to_owned(),
    }
}

fn would(verb: Verb, state: TxnState) -> VerbView {
    let ruling = verb.ruling(state);
    let does = if ruling.is_allowed() { ruling.as_str().to_owned() } else { verb.refusal(state) };
    VerbView { action: verb.as_str(), allowed: ruling.is_allowed(), does }
}

fn may(operator: &[VerbView]) -> String {
    let may: Vec<_> =
        operator.iter().filter(|verb| verb.allowed).map(|verb| format!("`{}` ({})", verb.action, verb.does)).collect();
    if may.is_empty() {
        "An operator can do nothing here.".to_owned()
    } else {
        format!("An operator may: {}.", may.join(", "))
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
