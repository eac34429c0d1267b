//! One transaction in memory: what its task writes and what everybody else reads.

mod kept;
mod recall;
mod telling;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::hand::Hand;
use super::job::OfJob;
use crate::clock;
use crate::journal::feed::{About, Feed};
use crate::journal::record::Began;
use crate::model::commit::{Decider, KeyNote};
use crate::model::ids::{Attempt, Lsn, Run, StoreName, TxnId};
use crate::model::operator::Skipped;
use crate::model::powers::Role;
use crate::model::problem::Problem;
use crate::model::request::OnExpiry;
use crate::model::state::{Event, TxnState};
use crate::model::trace::TraceId;
use crate::model::view::{ParticipantView, PlanView, PreparedView, Step, View};
use crate::plan::Plan;

pub(super) use self::kept::{from_ended, from_marker};
use self::recall::Recall;

/// Results of a transaction, by operation id.
pub(super) type Results = BTreeMap<String, Value>;

/// One transaction.
pub(super) struct Entry {
    pub(super) id: TxnId,
    pub(super) name: Option<String>,
    pub(super) key: Option<KeyNote>,
    /// Who it is, for the feed's events.
    about: Arc<About>,
    feed: OnceLock<Feed>,
    /// Weighs against giving way in a deadlock.
    priority: i32,
    /// Microseconds since 1970.
    pub(super) began_us: i64,
    began: Instant,
    /// What the log had durable when it began: markers of its runs carry this, so none older may be swept.
    pub(super) durable: Lsn,
    /// What an operator tells it.
    pub(super) hand: Hand,
    /// What it has to do with a batch job.
    of_job: OnceLock<OfJob>,
    /// The oldest place in the log that its recovery would need.
    pin: AtomicU64,
    live: Mutex<Live>,
    changed: watch::Sender<TxnState>,
    /// True once it is written down, its locks are gone and the registry has it among the ended.
    settled: watch::Sender<bool>,
}

struct Live {
    attempt: Attempt,
    plan: Option<PlanView>,
    results: Option<Arc<Results>>,
    /// The operations whose results say whether they are applied, with their stores.
    redone: BTreeMap<String, StoreName>,
    /// Whether `pending` is to be believed: it is known who has to be told.
    owes: bool,
    parts: Vec<(StoreName, Role)>,
    pending: BTreeMap<StoreName, Option<String>>,
    timeline: Vec<Step>,
    retried_for: Vec<&'static str>,
    cause: Option<Problem>,
    ended_us: Option<i64>,
    took_ms: Option<f64>,
    /// Of an interactive one: microseconds since 1970.
    lease_expires_us: Option<i64>,
    /// Of one that waits for its verdict.
    promise: Option<Promise>,
    /// Operations done in this run.
    work: u32,
    recall: Recall,
    /// Whether a record has told the end of this run.
    end_told: bool,
}

/// How long a prepared transaction waits, and what then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Promise {
    /// Microseconds since 1970.
    pub(super) expires_us: i64,
    pub(super) on_expiry: OnExpiry,
}

/// A transaction that is stuck for days must not grow its timeline for ever.
const TIMELINE_STEPS: usize = 64;

impl Entry {
    pub(super) fn new(
        id: TxnId,
        name: Option<String>,
        key: Option<KeyNote>,
        priority: i32,
        trace: TraceId,
        durable: Lsn,
    ) -> Self {
        Self { priority, ..Self::from_past(id, name, key, Some(trace), durable, clock::now_us()) }
    }

    /// One that recovery found in the log.
    pub(super) fn from_past(
        id: TxnId,
        name: Option<String>,
        key: Option<KeyNote>,
        trace: Option<TraceId>,
        durable: Lsn,
        began_us: i64,
    ) -> Self {
        let live = Live {
            attempt: Attempt::FIRST,
            plan: None,
            results: None,
            redone: BTreeMap::new(),
            owes: false,
            parts: Vec::new(),
            pending: BTreeMap::new(),
            timeline: Vec::new(),
            retried_for: Vec::new(),
            cause: None,
            ended_us: None,
            took_ms: None,
            lease_expires_us: None,
            promise: None,
            work: 0,
            recall: Recall::Possible,
            end_told: false,
        };
        let about = Arc::new(About { transaction: id, name: name.clone(), trace });
        let feed = OnceLock::new();
        let (changed, _) = watch::channel(TxnState::Active);
        let (settled, _) = watch::channel(false);
        let (began, live, pin) = (Instant::now(), Mutex::new(live), AtomicU64::new(durable.as_u64()));
        let (hand, of_job) = (Hand::new(), OnceLock::new());
        Self {
            id,
            name,
            key,
            about,
            feed,
            priority: 0,
            began_us,
            began,
            durable,
            hand,
            of_job,
            pin,
            live,
            changed,
            settled,
        }
    }

    /// The oldest place in the log that its recovery would need.
    pub(super) fn pin(&self) -> Lsn {
        Lsn::from_u64(self.pin.load(Ordering::Acquire))
    }

    /// Everything that its recovery needs stands at `place` (again).
    pub(super) fn pinned_at(&self, place: Lsn) {
        self.pin.store(place.as_u64(), Ordering::Release);
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is a batch job, or a part of one: said once, as soon as it is there.
    pub(super) fn belongs(&self, of_job: OfJob) {
        if self.of_job.set(of_job).is_err() {
            tracing::error!(transaction = %self.id, "a defect: it belongs to a job already");
        }
    }

    pub(super) fn of_job(&self) -> Option<&OfJob> {
        self.of_job.get()
    }

    /// The results of its present run.
    pub(super) fn results(&self) -> Option<Arc<Results>> {
        self.live().results.clone()
    }

    pub(super) fn state(&self) -> TxnState {
        *self.changed.borrow()
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Wakes on every change of state.
    pub(super) fn watch(&self) -> watch::Receiver<TxnState> {
        self.changed.subscribe()
    }

    pub(super) fn settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    pub(super) fn settle(&self) {
        self.settled.send_replace(true);
    }

    /// Since it first began, over restarts: by the wall clock, for people.
    pub(super) fn age(&self) -> Duration {
        Duration::from_micros(u64::try_from(clock::now_us() - self.began_us).unwrap_or(0))
    }

    pub(super) fn run(&self) -> Run {
        Run { txn: self.id, attempt: self.live().attempt }
    }

    /// Takes `event` through the one transition table.
    pub(super) fn take(&self, event: Event) {
        self.changed.send_if_modified(|state| match state.next(event) {
            Ok(next) if next != *state => {
                *state = next;
                true
            }
            Ok(_) => false,
            Err(wrong) => {
                tracing::error!(transaction = %self.id, %wrong, "a defect: the transition table has no such step");
                debug_assert!(false, "{wrong}");
                false
            }
        });
    }

    /// The trace of the request that asked for it.
    pub(super) fn trace(&self) -> Option<TraceId> {
        self.about.trace
    }

    /// What the log is told when an interactive one is opened.
    pub(super) fn began_record(&self, principal: &str) -> Began {
        Began {
            run: self.run(),
            name: self.name.clone(),
            key: self.key.clone(),
            began_us: self.began_us,
            durable: self.durable,
            principal: principal.to_owned(),
            trace: self.trace(),
        }
    }

    /// Nobody having called until then, it is aborted.
    pub(super) fn leased_until(&self, lease_expires_us: i64) {
        self.live().lease_expires_us = Some(lease_expires_us);
    }

    /// It waits for its verdict.
    pub(super) fn promised(&self, promise: Promise) {
        let mut live = self.live();
        live.promise = Some(promise);
        live.recall = Recall::TooLate;
        drop(live);
        self.take(Event::Promised);
    }

    /// What the deciding store's operations brought when they were run again.
    pub(super) fn worked_again(&self, again: Results) {
        let mut live = self.live();
        let mut results = live.results.as_deref().cloned().unwrap_or_default();
        results.extend(again);
        live.results = Some(Arc::new(results));
    }

    pub(super) fn planned(&self, run: Run, plan: &Plan) {
        let stores = || plan.followers().into_iter().chain(plan.readers.iter().cloned());
        let decider = match &plan.decider {
            Some(Decider::Store(store)) => Some(store.clone()),
            _ => None,
        };
        let mut live = self.live();
        live.attempt = run.attempt;
        live.parts = decider.into_iter().chain(stores()).map(|store| (store.clone(), plan.role(&store))).collect();
        live.plan = Some(plan_view(plan));
    }

    /// The plan as the log remembers it.
    pub(super) fn replanned(
        &self,
        run: Run,
        decider: &Decider,
        preparers: &[StoreName],
        redoers: &[StoreName],
        why: &str,
    ) {
        let plan = Plan {
            decider: Some(decider.clone()),
            preparers: preparers.to_vec(),
            redoers: redoers.to_vec(),
            readers: Vec::new(),
            reason: why.to_owned(),
        };
        self.planned(run, &plan);
    }

    /// The results of a run; `redone`: the operations among them that are applied only after the decision.
    pub(super) fn worked(&self, results: Results, redone: BTreeMap<String, StoreName>) {
        let mut live = self.live();
        live.results = Some(Arc::new(results));
        live.redone = redone;
    }

    /// These stores still have to be told.
    pub(super) fn owes(&self, stores: impl IntoIterator<Item = StoreName>) {
        let mut live = self.live();
        live.pending = stores.into_iter().map(|store| (store, None)).collect();
        live.owes = true;
    }

    pub(super) fn told(&self, store: &StoreName) {
        self.live().pending.remove(store);
    }

    pub(super) fn set_back(&self, store: &StoreName, why: &str) {
        if let Some(last) = self.live().pending.get_mut(store) {
            *last = Some(why.to_owned());
        }
        self.hand.set_back(store, why);
    }

    /// The stores that still have to be told and are `role` in the plan.
    pub(super) fn pending_as(&self, role: Role) -> Vec<StoreName> {
        let live = self.live();
        let is = |store: &StoreName| live.parts.iter().any(|(name, as_role)| name == store && *as_role == role);
        live.pending.keys().filter(|store| is(store)).cloned().collect()
    }

    pub(super) fn stores(&self) -> Vec<StoreName> {
        self.live().parts.iter().map(|(store, _)| store.clone()).collect()
    }

    pub(super) fn refused_for(&self, problem: Problem) {
        self.live().cause = Some(problem);
    }

    pub(super) fn cause(&self) -> Option<Problem> {
        self.live().cause.clone()
    }

    /// Why it was run again, so far.
    pub(super) fn retried_for(&self) -> Vec<&'static str> {
        self.live().retried_for.clone()
    }

    /// A run lost a race and the next one begins: a life of its own, so the table starts afresh.
    pub(super) fn rerun(&self, problem: &Problem, next: Attempt) {
        {
            let mut live = self.live();
            live.retried_for.push(problem.code.as_str());
            live.attempt = next;
            live.results = None;
            live.pending.clear();
            live.owes = false;
            live.work = 0;
            live.end_told = false;
            if !matches!(live.recall, Recall::Told(_)) {
                live.recall = Recall::Possible;
            }
        }
        self.step("retried", Some(problem.detail.clone()));
        self.changed.send_replace(TxnState::Active);
    }

    pub(super) fn closed(&self, ended_us: i64) {
        {
            let mut live = self.live();
            live.ended_us = Some(ended_us);
            live.took_ms = Some(self.began.elapsed().as_secs_f64() * 1000.0);
        }
        self.tell_end();
    }

    /// Microseconds since 1970; `None` while it is open.
    pub(super) fn ended_us(&self) -> Option<i64> {
        self.live().ended_us
    }

    /// A rough count of the bytes that its results hold.
    pub(super) fn weight(&self) -> usize {
        self.live().results.as_ref().map_or(0, |results| results.values().map(weight).sum())
    }

    pub(super) fn drop_results(&self) {
        self.live().results = None;
    }

    pub(super) fn view(&self) -> View {
        let state = self.state();
        let (skipped, live) = (self.hand.skipped(), self.live());
        let part = |(store, role): &(StoreName, Role)| ParticipantView {
            store: store.to_string(),
            role: role_word(*role),
            pending: live.pending.contains_key(store),
            last_error: live.pending.get(store).cloned().flatten(),
        };
        let guarantee = match self.job() {
            Some(_) => Some("chunks"),
            None => live.plan.as_ref().map(|plan| guarantee(plan, state)),
        };
        let note = self.chunk_note();
        View {
            id: self.id.to_string(),
            name: self.name.clone(),
            trace_id: self.trace().map(|trace| trace.to_string()),
            state,
            guarantee,
            plan: live.plan.clone(),
            results: live
                .results
                .as_deref()
                .cloned()
                .map(|results| say_applied(results, |operation| live.has_applied(operation, state, &skipped))),
            attempts: live.attempt.0,
            retried_for: live.retried_for.clone(),
            pending: live.pending.keys().map(ToString::to_string).collect(),
            took_ms: live.took_ms,
            started_at: clock::rfc3339(self.began_us),
            ended_at: live.ended_us.map(clock::rfc3339),
            lease_expires_at: live.lease_expires_us.map(clock::rfc3339).filter(|_| state == TxnState::Active),
            prepared: live.promise.filter(|_| state == TxnState::Prepared).map(Promise::view),
            participants: live.parts.iter().map(part).collect(),
            timeline: live.timeline.clone(),
            cause: live.cause.as_ref().map(cause_view),
            skipped,
            job: self.job().map(|job| job.view()),
            parent: note.as_ref().map(|note| note.parent.clone()),
            chunk: note.as_ref().filter(|note| !note.undoes).map(|note| note.number),
            undoes: note.filter(|note| note.undoes).map(|note| note.number),
        }
    }
}

impl Live {
    /// Whether the store of this operation has what it wrote.
    fn has_applied(&self, operation: &str, state: TxnState, skipped: &[Skipped]) -> bool {
        let store = self.redone.get(operation);
        // Where nobody remembers which store an operation is of, nothing is claimed for it.
        if !skipped.is_empty() && store.is_none_or(|store| skipped.iter().any(|part| part.store == *store)) {
            return false;
        }
        match state {
            TxnState::Committed => true,
            TxnState::Committing | TxnState::NeedsIntervention => {
                self.owes && store.is_some_and(|store| !self.pending.contains_key(store))
            }
            _ => false,
        }
    }
}

impl Promise {
    fn view(self) -> PreparedView {
        PreparedView {
            expires_at: clock::rfc3339(self.expires_us),
            on_expiry: self.on_expiry.as_str(),
            expired: self.expires_us <= clock::now_us(),
        }
    }
}

fn guarantee(plan: &PlanView, state: TxnState) -> &'static str {
    match (plan.decider.as_deref(), state) {
        (None, _) => "read_only",
        (Some("wal"), TxnState::Prepared) => "prepared",
        (Some(_), TxnState::Prepared) => "prepared_unless_refused",
        (Some(_), _) => "atomic",
    }
}

/// Lets the results of redo writes say whether they are applied: the stores cannot, who answered before the decision.
fn say_applied(mut results: Results, applied: impl Fn(&str) -> bool) -> Results {
    for (operation, result) in &mut results {
        if let Some(said) = result.get_mut("applied") {
            *said = applied(operation).into();
        }
    }
    results
}

pub(super) fn cause_view(problem: &Problem) -> Value {
    let mut cause = serde_json::json!({"code": problem.code.as_str(), "detail": problem.detail});
    for (member, value) in [
        ("operation", problem.operation.clone()),
        ("store", problem.store.as_ref().map(ToString::to_string)),
        ("store_code", problem.store_code.clone()),
        ("pointer", problem.pointer.clone()),
    ] {
        if let Some(value) = value {
            cause[member] = Value::String(value);
        }
    }
    if !problem.cycle.is_empty() {
        cause["cycle"] = serde_json::json!(problem.cycle);
    }
    cause
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Reader => "reader",
        Role::Decider => "decider",
        Role::Preparer => "preparer",
        Role::Redoer => "redoer",
        Role::Undecided => "undecided",
    }
}

fn plan_view(plan: &Plan) -> PlanView {
    let names = |stores: &[StoreName]| stores.iter().map(ToString::to_string).collect();
    PlanView {
        pattern: "atomic",
        decider: plan.decider.as_ref().map(ToString::to_string),
        prepared: names(&plan.preparers),
        redo: names(&plan.redoers),
        reason: plan.reason.clone(),
    }
}

pub(super) fn weight(value: &Value) -> usize {
    16 + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(map) => map.iter().map(|(key, item)| 16 + key.len() + weight(item)).sum(),
        _ => 0,
    }
}
