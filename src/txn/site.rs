//! One configured store as the coordinator sees it: the store, and the gate before it.
//!
//! ```text
//!   Starting ──probe──► (tried) ──register, end old sessions──► Reached ──fences of its own in-doubt runs──► Open
//!      ▲                                                           │                                          │
//!      └─ Down ◄────────── a call could not reach it, and the next probe neither ─────────────────────────────┘
//! ```
//!
//! Fences and finishes pass from `Reached` on; new work passes when it is `Open`, and waits a little for that where
//! the store answers and only its past stands in the way. A store that is down holds up only itself.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::time::{Duration, Instant, timeout_at};

use super::elsewhere::Asking;
use crate::metrics::{CallResult, Metrics, StoreCall};
use crate::model::ids::StoreName;
use crate::model::problem::Problem;
use crate::store::{Decision, OtherLog, Probe, Setback, Store};

/// Who may pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Gate {
    /// Nobody yet: it was not tried, or it answers and sessions of our dead lives are being ended there.
    Starting,
    /// Nobody: it cannot be reached, or may not be used; the reason for people.
    Down(String),
    /// Fences and finishes.
    Reached,
    /// Everybody.
    Open,
}

/// How long new work waits for a store that answers and whose past is being cleared up: longer than the grace that a dead
/// life's sessions get, shorter than a client's patience.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How many left-overs of the past are fenced or finished in one store at a time: hundreds after a crash must not take
/// all the connections that live transactions are finished over.
const TURNS: usize = 4;

pub(super) struct Site {
    pub(super) store: Arc<dyn Store>,
    /// Whether marker tables may be created here.
    pub(super) init: bool,
    gate: watch::Sender<Gate>,
    /// In-doubt runs of the log's past that this store decides and that are not fenced yet.
    to_fence: watch::Sender<usize>,
    /// Taken by whoever fences or finishes what a dead life of ours left here.
    turns: Semaphore,
    /// Those who want to know whether a key is used here.
    pub(super) asking: Asking,
    suspect: Notify,
    tried: AtomicBool,
    /// Its dead sessions were ended and its markers' witness heard, in this life of the program.
    cleared: AtomicBool,
    seen: Mutex<Seen>,
    metrics: Metrics,
}

#[derive(Default)]
struct Seen {
    probe: Option<Probe>,
    others: Vec<OtherLog>,
}

impl Site {
    pub(super) fn new(store: Arc<dyn Store>, init: bool, metrics: Metrics) -> Self {
        Self {
            store,
            init,
            gate: watch::channel(Gate::Starting).0,
            to_fence: watch::channel(0).0,
            turns: Semaphore::new(TURNS),
            asking: Asking::default(),
            suspect: Notify::new(),
            tried: AtomicBool::new(false),
            cleared: AtomicBool::new(false),
            seen: Mutex::default(),
            metrics,
        }
    }

    pub(super) fn name(&self) -> &StoreName {
        self.store.name()
    }

    pub(super) fn gate(&self) -> Gate {
        self.gate.borrow().clone()
    }

    pub(super) fn set_gate(&self, gate: Gate) {
        self.metrics.set_store_up(self.name(), gate == Gate::Open);
        self.gate.send_replace(gate);
    }

    pub(super) fn mark_tried(&self) {
        self.tried.store(true, Ordering::Release);
    }

    pub(super) fn was_tried(&self) -> bool {
        self.tried.load(Ordering::Acquire)
    }

    pub(super) fn mark_cleared(&self) {
        self.cleared.store(true, Ordering::Release);
    }

    pub(super) fn was_cleared(&self) -> bool {
        self.cleared.load(Ordering::Acquire)
    }

    /// Lets new work in, or says why not. Where the store answers and its past is being cleared up, waits for that: at
    /// most to `until`, and no longer than [`PATIENCE`]. Cancellation is harmless.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub(super) async fn admit(&self, until: Instant) -> Result<(), Problem> {
        let until = until.min(Instant::now() + PATIENCE);
        let mut gate = self.gate.subscribe();
        let verdict = gate.wait_for(|gate| matches!(gate, Gate::Open | Gate::Down(_)));
        match timeout_at(until, verdict).await.map(|seen| seen.map(|gate| gate.clone())) {
            Ok(Ok(Gate::Open)) => Ok(()),
            Ok(Ok(Gate::Down(why))) => Err(Problem::unavailable(self.name(), why)),
            // The sender lives as long as `self`: what is left is the time-out.
            _ => Err(Problem::unavailable(self.name(), "its past is still being cleared up")),
        }
    }

    /// Waits until fences and finishes may pass.
    pub(super) async fn reached(&self) {
        let mut gate = self.gate.subscribe();
        // The sender lives as long as `self`, so this ends only by the gate.
        let _ = gate.wait_for(|gate| matches!(gate, Gate::Reached | Gate::Open)).await;
    }

    /// Some call could not reach it: the monitor looks at once.
    pub(super) fn suspect(&self) {
        self.suspect.notify_one();
    }

    pub(super) async fn suspected(&self) {
        self.suspect.notified().await;
    }

    pub(super) fn will_fence(&self) {
        self.to_fence.send_modify(|count| *count += 1);
    }

    pub(super) fn fenced(&self) {
        self.to_fence.send_modify(|count| *count = count.saturating_sub(1));
    }

    /// Waits until every in-doubt run of the past that this store decides is fenced.
    pub(super) async fn all_fenced(&self) {
        let mut to_fence = self.to_fence.subscribe();
        let _ = to_fence.wait_for(|count| *count == 0).await;
    }

    /// Waits for one's turn to clear up something of the past here. First come, first served.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes it.
        self.turns.acquire().await.ok()
    }

    pub(super) fn saw_probe(&self, probe: Probe) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).probe = Some(probe);
    }

    pub(super) fn saw_others(&self, others: Vec<OtherLog>) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).others = others;
    }

    pub(super) fn seen(&self) -> (Option<Probe>, Vec<OtherLog>) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.probe.clone(), seen.others.clone())
    }

    /// Measures a call, and becomes suspicious where it could not reach the store.
    pub(super) async fn call<T: Told>(&self, kind: StoreCall, call: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let answer = call.await;
        let result = answer.told();
        self.metrics.store_call(self.name(), kind, result, start.elapsed());
        if result == CallResult::Lost {
            self.suspect();
        }
        answer
    }
}

/// How an answer counts.
pub(super) trait Told {
    fn told(&self) -> CallResult;
}

impl<T> Told for Result<T, Problem> {
    fn told(&self) -> CallResult {
        match self {
            Ok(_) => CallResult::Ok,
            Err(problem) => problem.code.into(),
        }
    }
}

impl<T> Told for Result<T, Setback> {
    fn told(&self) -> CallResult {
        match self {
            Ok(_) => CallResult::Ok,
            Err(Setback::Again(_)) => CallResult::Lost,
            Err(Setback::Final(_)) => CallResult::Refused,
        }
    }
}

impl Told for Decision {
    fn told(&self) -> CallResult {
        match self {
            Self::Committed(_) => CallResult::Ok,
            Self::Refused(_) => CallResult::Refused,
            Self::Lost(_) => CallResult::Lost,
        }
    }
}

impl Told for () {
    fn told(&self) -> CallResult {
        CallResult::Ok
    }
}
