//! One transaction in memory: what its task writes and what everybody else reads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock;
use crate::journal::record::Ended;
use crate::lock::{Deadlock, Standing};
use crate::model::commit::{Decider, KeyNote, Marker};
use crate::model::ids::{Attempt, Lsn, Run, StoreName, TxnId};
use crate::model::powers::Role;
use crate::model::problem::Problem;
use crate::model::state::{Event, Outcome, TxnState};
use crate::model::view::{ParticipantView, PlanView, Step, View};
use crate::plan::Plan;

/// Results of a transaction, by operation id.
pub(super) type Results = BTreeMap<String, Value>;

/// One transaction.
pub(super) struct Entry {
    pub(super) id: TxnId,
    pub(super) name: Option<String>,
    pub(super) key: Option<KeyNote>,
    /// Weighs against giving way in a deadlock.
    priority: i32,
    /// Microseconds since 1970.
    pub(super) began_us: i64,
    began: Instant,
    /// What the log had durable when it began: markers of its runs carry this, so none older may be swept.
    pub(super) durable: Lsn,
    live: Mutex<Live>,
    changed: watch::Sender<TxnState>,
    /// True once it is written down, its locks are gone and the registry has it among the ended.
    settled: watch::Sender<bool>,
}

struct Live {
    attempt: Attempt,
    plan: Option<PlanView>,
    results: Option<Arc<Results>>,
    parts: Vec<(StoreName, Role)>,
    pending: BTreeMap<StoreName, Option<String>>,
    timeline: Vec<Step>,
    retried_for: Vec<&'static str>,
    cause: Option<Problem>,
    ended_us: Option<i64>,
    took_ms: Option<f64>,
    /// Operations done in this run.
    work: u32,
    recall: Recall,
}

/// Whether a run can still give way in a deadlock.
enum Recall {
    /// Nothing is promised yet: it can.
    Possible,
    /// It was told to: it promises nothing any more.
    Condemned(Condemned),
    /// It asks stores to promise or to decide: somebody else has to give way.
    TooLate,
}

/// The sentence of a victim.
#[derive(Clone)]
pub(super) struct Condemned {
    pub(super) run: Run,
    pub(super) deadlock: Arc<Deadlock>,
}

/// What a marker (or the log) keeps of an answer, for the replay of its key.
#[derive(Serialize, Deserialize)]
struct Kept {
    name: Option<String>,
    plan: PlanView2,
    results: Option<Results>,
    attempts: u32,
    began_us: i64,
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
/// A transaction that is stuck for days must not grow its timeline for ever.
const TIMELINE_STEPS: usize = 64;

impl Entry {
    pub(super) fn new(id: TxnId, name: Option<String>, key: Option<KeyNote>, priority: i32, durable: Lsn) -> Self {
        Self { priority, ..Self::from_past(id, name, key, durable, clock::now_us()) }
    }

    /// One that recovery found in the log.
    pub(super) fn from_past(
        id: TxnId,
        name: Option<String>,
        key: Option<KeyNote>,
        durable: Lsn,
        began_us: i64,
    ) -> Self {
        let live = Live {
            attempt: Attempt::FIRST,
            plan: None,
            results: None,
            parts: Vec::new(),
            pending: BTreeMap::new(),
            timeline: Vec::new(),
            retried_for: Vec::new(),
            cause: None,
            ended_us: None,
            took_ms: None,
            work: 0,
            recall: Recall::Possible,
        };
        let (changed, _) = watch::channel(TxnState::Active);
        let (settled, _) = watch::channel(false);
        let (began, live) = (Instant::now(), Mutex::new(live));
        Self { id, name, key, priority: 0, began_us, began, durable, live, changed, settled }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// What it has to lose, should it wait in a circle.
    pub(super) fn standing(&self) -> Standing {
        Standing { began_us: self.began_us, work: self.live().work, priority: self.priority }
    }

    /// So many operations are done.
    pub(super) fn did(&self, operations: usize) {
        let mut live = self.live();
        live.work = live.work.saturating_add(u32::try_from(operations).unwrap_or(u32::MAX));
    }

    /// Whether this run could give way now.
    pub(super) fn may_give_way(&self) -> bool {
        self.state() == TxnState::Active && matches!(self.live().recall, Recall::Possible)
    }

    /// Makes its present run the victim. `None`: it is too late for that, or it is one already.
    pub(super) fn condemn(&self, deadlock: &Arc<Deadlock>) -> Option<Run> {
        if self.state() != TxnState::Active {
            return None;
        }
        let mut live = self.live();
        if !matches!(live.recall, Recall::Possible) {
            return None;
        }
        let run = Run { txn: self.id, attempt: live.attempt };
        live.recall = Recall::Condemned(Condemned { run, deadlock: deadlock.clone() });
        Some(run)
    }

    /// Its sentence, while it has one.
    pub(super) fn condemned(&self) -> Option<Condemned> {
        match &self.live().recall {
            Recall::Condemned(sentence) => Some(sentence.clone()),
            Recall::Possible | Recall::TooLate => None,
        }
    }

    /// From here on it cannot be made a victim: stores are asked to promise.
    ///
    /// # Errors
    /// `deadlock`: it is one already, and must promise nothing.
    pub(super) fn beyond_recall(&self) -> Result<(), Problem> {
        let mut live = self.live();
        if let Recall::Condemned(sentence) = &live.recall {
            return Err(Problem::deadlock(&sentence.deadlock.cycle));
        }
        live.recall = Recall::TooLate;
        Ok(())
    }

    pub(super) fn step(&self, step: &'static str, detail: Option<String>) {
        let mut live = self.live();
        if live.timeline.len() < TIMELINE_STEPS {
            live.timeline.push(Step { at: clock::rfc3339(clock::now_us()), step, detail });
        }
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

    pub(super) fn worked(&self, results: Results) {
        self.live().results = Some(Arc::new(results));
    }

    /// These stores still have to be told.
    pub(super) fn owes(&self, stores: impl IntoIterator<Item = StoreName>) {
        self.live().pending = stores.into_iter().map(|store| (store, None)).collect();
    }

    pub(super) fn told(&self, store: &StoreName) {
        self.live().pending.remove(store);
    }

    pub(super) fn set_back(&self, store: &StoreName, why: &str) {
        if let Some(last) = self.live().pending.get_mut(store) {
            *last = Some(why.to_owned());
        }
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

    /// A run lost a race and the next one begins: a life of its own, so the table starts afresh.
    pub(super) fn rerun(&self, problem: &Problem, next: Attempt) {
        {
            let mut live = self.live();
            live.retried_for.push(problem.code.as_str());
            live.attempt = next;
            live.results = None;
            live.pending.clear();
            live.work = 0;
            live.recall = Recall::Possible;
        }
        self.step("retried", Some(problem.detail.clone()));
        self.changed.send_replace(TxnState::Active);
    }

    pub(super) fn closed(&self, ended_us: i64) {
        let mut live = self.live();
        live.ended_us = Some(ended_us);
        live.took_ms = Some(self.began.elapsed().as_secs_f64() * 1000.0);
    }

    /// A rough count of the bytes that its results hold.
    pub(super) fn weight(&self) -> usize {
        self.live().results.as_ref().map_or(0, |results| results.values().map(weight).sum())
    }

    pub(super) fn drop_results(&self) {
        self.live().results = None;
    }

    /// What the deciding marker remembers of the answer: only where there is a key, and only if it is not too long.
    pub(super) fn kept_answer(&self) -> Option<String> {
        self.key.as_ref()?;
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
        };
        let text = serde_json::to_string(&kept).ok()?;
        (text.len() <= KEPT_ANSWER_BYTES).then_some(text)
    }

    pub(super) fn view(&self) -> View {
        let state = self.state();
        let live = self.live();
        let read_only = live.plan.as_ref().is_some_and(|plan| plan.decider.is_none());
        let part = |(store, role): &(StoreName, Role)| ParticipantView {
            store: store.to_string(),
            role: role_word(*role),
            pending: live.pending.contains_key(store),
            last_error: live.pending.get(store).cloned().flatten(),
        };
        View {
            id: self.id.to_string(),
            name: self.name.clone(),
            state,
            guarantee: live.plan.as_ref().map(|_| if read_only { "read_only" } else { "atomic" }),
            plan: live.plan.clone(),
            results: live.results.as_deref().cloned(),
            attempts: live.attempt.0,
            retried_for: live.retried_for.clone(),
            pending: live.pending.keys().map(ToString::to_string).collect(),
            took_ms: live.took_ms,
            started_at: clock::rfc3339(self.began_us),
            ended_at: live.ended_us.map(clock::rfc3339),
            participants: live.parts.iter().map(part).collect(),
            timeline: live.timeline.clone(),
            cause: live.cause.as_ref().map(cause_view),
        }
    }
}

fn cause_view(problem: &Problem) -> Value {
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

fn weight(value: &Value) -> usize {
    16 + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(map) => map.iter().map(|(key, item)| 16 + key.len() + weight(item)).sum(),
        _ => 0,
    }
}

/// A transaction that only its `Done` record remembers.
pub(super) fn from_ended(ended: &Ended) -> Entry {
    let key = ended.key.as_ref().map(|(note, _)| note.clone());
    let entry = Entry::from_past(ended.run.txn, ended.name.clone(), key, Lsn::ZERO, ended.began_us);
    entry.replanned(ended.run, &ended.decider, &ended.preparers, &ended.redoers, &ended.reason);
    {
        let mut live = entry.live();
        live.ended_us = Some(ended.ended_us);
        if let Some(kept) = ended.key.as_ref().and_then(|(_, answer)| read_kept(answer.as_deref())) {
            live.results = kept.results.map(Arc::new);
        }
        live.cause = ended.cause.as_ref().map(|(code, detail)| {
            let code = crate::model::problem::Code::ALL.iter().find(|known| known.as_str() == code);
            Problem::new(code.copied().unwrap_or(crate::model::problem::Code::Internal), detail)
        });
    }
    entry.take(ended.outcome.event());
    entry.take(Event::Finished);
    entry
}

/// A transaction that only a marker remembers: another sidecar's, or one whose record is gone from the log.
pub(super) fn from_marker(marker: &Marker) -> View {
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
        id: marker.run.txn.to_string(),
        name: kept.as_ref().and_then(|kept| kept.name.clone()),
        state: if committed { TxnState::Committed } else { TxnState::Aborted },
        guarantee: committed.then_some("atomic"),
        plan,
        attempts: marker.run.attempt.0,
        retried_for: Vec::new(),
        pending: Vec::new(),
        took_ms: None,
        started_at: clock::rfc3339(kept.as_ref().map_or(0, |kept| kept.began_us)),
        ended_at: None,
        participants: Vec::new(),
        timeline: Vec::new(),
        cause: None,
        results: kept.and_then(|kept| kept.results),
    }
}

fn read_kept(answer: Option<&str>) -> Option<Kept> {
    serde_json::from_str(answer?).ok()
}
