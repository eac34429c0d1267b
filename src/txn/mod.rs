//! The coordinator: one transaction over several stores happens altogether or not at all.
//!
//! ```text
//!   submit ─► entry (registry) ─► a task of its own ─► drive ─► atomic::run   once an attempt
//!                                                                 ├ work      step 3
//!                                                                 ├ in_doubt  the answer was lost: fence
//!                                                                 └ finish    steps 7 and 8 ◄── recovery walks in here
//!   open ─► interactive (a mailbox) ─► the same attempt, call by call ─► held: prepared, waits for its verdict
//!
//!   monitor   one a store: its gate            reaper    one a store: what is left over in it
//!   job       batch jobs: named parents of many chunks, each driven like any other transaction
//!   leases    locks for applications           deadlock  circles that run through stores
//!   resolve   an operator's verb, heard by hand   explain   why one is where it is
//!   keys      what only the log remembers      janitor   forgets, checkpoints
//! ```
//!
//! A client that goes away drops a receiver, never the protocol.

mod actor;
mod atomic;
mod core;
mod deadlock;
mod elsewhere;
mod entry;
mod events;
mod explain;
mod finish;
mod hand;
mod held;
mod in_doubt;
mod interactive;
mod janitor;
mod job;
mod keys;
mod leases;
mod lock_view;
mod look_up;
mod monitor;
mod orphans;
mod reaper;
pub mod recovery;
mod registry;
mod resolve;
mod retry;
mod site;
mod status;
mod work;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub use self::actor::Actor;
pub use self::core::Settings;
pub use self::deadlock::{DeadlockView, NodeView, WaitForView};
pub use self::events::FollowWish;
pub use self::explain::{DeciderView, Explanation, PromiseView, VerbView};
pub use self::hand::SetbackView;
pub use self::interactive::Opened;
pub use self::leases::{LeaseView, LeaseWish};
pub use self::lock_view::{KeyView, PartyView};
pub use self::orphans::{OrphanList, OrphanResolved, OrphanView, OrphanWish, UnreachableView};
pub use self::registry::Retention;
pub use self::resolve::HandWish;

use self::atomic::End;
use self::core::Core;
use self::deadlock::Detector;
use self::entry::Entry;
use self::interactive::Conversations;
use self::leases::Leases;
use self::recovery::Report;
use self::registry::Registry;
use self::site::Site;
use crate::audit::Audit;
use crate::clock;
use crate::journal::{Journal, OpenReport};
use crate::lock::LockManager;
use crate::metrics::{AttemptReason, Metrics, Pattern};
use crate::model::commit::{Decider, KeyNote};
use crate::model::ids::{Run, StoreName, TxnId};
use crate::model::problem::{Code, Problem};
use crate::model::request::{TxnRequest, WaitFor};
use crate::model::state::{Event, Outcome, TxnState};
use crate::model::trace::TraceId;
use crate::model::view::{Answer, View};
use crate::plan::Plan;
use crate::store::Store;

/// Runs transactions. Cheap to clone.
#[derive(Clone)]
pub struct Coordinator {
    core: Arc<Core>,
}

/// Which transaction.
#[derive(Clone, Debug)]
pub enum Find {
    /// By id.
    Id(TxnId),
    /// The open one of that name, else the latest ended one.
    Name(String),
    /// By idempotency key (`principal/key`).
    Key(String),
}

/// `GET /v1/transactions?…`
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Only these states.
    pub state: Option<TxnState>,
    /// Only this name.
    pub name: Option<String>,
    /// Only those in which this store takes part.
    pub store: Option<String>,
    /// Only those begun longer ago than this.
    pub older_than_ms: Option<u64>,
    /// At most so many (1 to 1000).
    pub limit: usize,
    /// Where the last page ended.
    pub cursor: Option<TxnId>,
}

/// One page, newest first.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Page {
    /// The transactions.
    pub transactions: Vec<View>,
    /// Give this as `cursor` for the next page; null at the end.
    pub next_cursor: Option<String>,
}

/// A store with whether its marker tables may be created.
pub struct Configured {
    /// The store.
    pub store: Arc<dyn Store>,
    /// `init`
    pub init: bool,
}

/// What a coordinator is built from.
pub struct Makings {
    /// The open journal.
    pub journal: Journal,
    /// What opening it found.
    pub opened: OpenReport,
    /// Every configured store.
    pub stores: Vec<Configured>,
    /// The lock table, still empty.
    pub locks: LockManager,
    /// Where what is done by hand is written down.
    pub audit: Audit,
    /// Where to count.
    pub metrics: Metrics,
    /// How it is set.
    pub settings: Settings,
    /// When the start began.
    pub since: Instant,
}

impl Coordinator {
    /// Takes the past over and starts to end it: when this returns, every open transaction of the log has its locks
    /// again, and the door may open. Needs a tokio runtime.
    #[must_use]
    pub fn start(makings: Makings) -> Self {
        let Makings { journal, opened, stores, locks, audit, metrics, settings, since } = makings;
        let site = |configured: Configured| {
            let site = Site::new(configured.store, configured.init, metrics.clone());
            (site.name().clone(), Arc::new(site))
        };
        let report = Report {
            records: opened.replayed.records,
            torn_bytes: opened.wal.torn_bytes,
            clean_shutdown: opened.wal.clean_shutdown,
            ..Report::default()
        };
        let core = Arc::new(Core {
            journal,
            sites: stores.into_iter().map(site).collect(),
            locks,
            audit,
            detector: Detector::default(),
            leases: Leases::default(),
            registry: Registry::new(settings.retention),
            metrics: metrics.clone(),
            settings,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            leaving: CancellationToken::new(),
            conversations: Conversations::default(),
            lost_log: Mutex::default(),
            keyed: Mutex::default(),
            report: Mutex::new(report),
            jobs: tokio::sync::Mutex::new(()),
        });
        let plan = recovery::take_over(&core, opened.replayed);
        core.report.lock().unwrap_or_else(PoisonError::into_inner).ready_seconds = since.elapsed().as_secs_f64();
        metrics.set_recovery(since.elapsed());
        recovery::resume_all(&core, plan, recovery::Origin::Log, since);
        job::go_on(&core);
        for site in core.sites.values() {
            tokio::spawn(monitor::watch(core.clone(), site.clone()));
            tokio::spawn(reaper::reap(core.clone(), site.clone()));
        }
        tokio::spawn(janitor::tidy(core.clone()));
        tokio::spawn(deadlock::watch(core.clone()));
        let weak = Arc::downgrade(&core);
        metrics.refresh_with(move |metrics| {
            if let Some(core) = weak.upgrade() {
                janitor::gauges(&core, metrics);
            }
        });
        Self { core }
    }

    /// Runs a transaction to its end, or to where its end is not known yet. Each runs in a task of its own: dropping
    /// this future never harms the protocol.
    pub async fn submit(&self, request: TxnRequest, key: Option<KeyNote>) -> Answer {
        let deadline = Instant::now() + request.timeout;
        let wait = request.wait;
        match self.admit(request, key, deadline, false).await {
            Ok(Admitted::Running(entry)) => self.core.wait(&entry, wait, deadline).await,
            Ok(Admitted::Replayed(view)) => Answer::Replayed(view),
            Err(problem) => Answer::Problem(Box::new(problem)),
        }
    }

    /// The same without waiting (`Prefer: respond-async`). Nobody reads the answer of the run, so what stands under the
    /// key is looked for first, in the stores too.
    ///
    /// # Errors
    /// What can be refused at once: `name_in_use`, `overloaded`, `impossible_guarantee`, `store_unavailable`, …
    pub async fn submit_async(&self, request: TxnRequest, key: Option<KeyNote>) -> Result<Accepted, Problem> {
        let deadline = Instant::now() + request.timeout;
        Ok(match self.admit(request, key, deadline, true).await? {
            Admitted::Running(entry) => Accepted::Running(entry.id),
            Admitted::Replayed(view) => Accepted::Replayed(view),
        })
    }

    async fn admit(
        &self,
        request: TxnRequest,
        key: Option<KeyNote>,
        deadline: Instant,
        look_in_stores: bool,
    ) -> Result<Admitted, Problem> {
        let core = &self.core;
        core.check_open()?;
        let plan = core.check_plan(&request, deadline).await?;
        if let Some(note) = &key {
            if let Some(known) = look_up::known_key(core, note, request.wait, look_in_stores).await? {
                return Ok(Admitted::Replayed(known));
            }
            if plan.decider == Some(Decider::Wal) && core.keyed().is_full() {
                let detail = "the log remembers as many idempotency keys as memory has room for: \
                              a shorter journal.key_ttl_ms frees them earlier";
                return Err(Problem::new(Code::Overloaded, detail));
            }
        }
        core.check_room()?;
        let entry = core.begin(request.name.clone(), key, request.priority, request.trace)?;
        entry.step("begun", None);
        core.tasks.spawn(drive(core.clone(), entry.clone(), request, deadline).instrument(entry.span()));
        Ok(Admitted::Running(entry))
    }

    /// Finds a transaction in memory, else in the stores' markers.
    ///
    /// # Errors
    /// `not_found` with state unknown; `store_unavailable` where a store that might know could not be asked.
    pub async fn find(&self, what: &Find) -> Result<View, Problem> {
        look_up::find(&self.core, what).await
    }

    /// Lists what is in memory, newest first.
    #[must_use]
    pub fn list(&self, filter: &ListFilter) -> Page {
        let older = Duration::from_millis(filter.older_than_ms.unwrap_or(0));
        let fits = |entry: &Entry| {
            filter.state.is_none_or(|state| entry.state() == state)
                && filter.name.as_ref().is_none_or(|name| entry.name.as_ref() == Some(name))
                && filter.store.as_ref().is_none_or(|store| entry.stores().iter().any(|s| s.as_str() == store))
                && entry.age() >= older
        };
        let limit = filter.limit.clamp(1, 1000);
        let mut entries = self.core.registry.page(filter.cursor, fits, limit + 1);
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next_cursor = entries.last().filter(|_| more).map(|entry| entry.id.to_string());
        Page { transactions: entries.iter().map(|entry| entry.view()).collect(), next_cursor }
    }

    /// The kind of a configured store (`postgres`, `neo4j`, `qdrant`), for the check of a request.
    #[must_use]
    pub fn store_kind(&self, name: &str) -> Option<&'static str> {
        self.core.sites.get(&StoreName::from(name)).map(|site| site.store.kind())
    }

    /// `GET /v1/status`, all of it but the version and the uptime.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        status::of(&self.core)
    }

    /// `GET /v1/wait-for`: who waits for whom now. Stores are asked only about calls that have been on their way for
    /// `deadlock_timeout_ms`; one that does not answer within a second is left out.
    pub async fn wait_for(&self) -> WaitForView {
        deadlock::wait_for(&self.core).await
    }

    /// `GET /v1/deadlocks`: the last hundred, newest first.
    #[must_use]
    pub fn deadlocks(&self) -> Vec<DeadlockView> {
        self.core.detector.past()
    }

    /// Whether `/readyz` may say yes.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.core.is_ready()
    }

    /// Takes no new transactions, waits until the open ones have ended or `limit` has passed, and closes the journal.
    pub async fn drain(&self, limit: Duration) {
        let core = &self.core;
        core.leaving.cancel();
        core.tasks.close();
        if tokio::time::timeout(limit, core.tasks.wait()).await.is_err() {
            tracing::warn!(
                open = core.registry.open_count(),
                "stopping with open transactions: the next start ends them"
            );
        }
        core.stop.cancel();
        let journal = core.journal.clone();
        let closed = tokio::task::spawn_blocking(move || journal.close()).await;
        if let Ok(Err(problem)) = closed {
            tracing::error!(%problem, "the journal did not close cleanly");
        }
    }
}

/// What became of a request that nobody waits for.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// It is on its way.
    Running(TxnId),
    /// Its key had been used: this is the recorded outcome.
    Replayed(Box<View>),
}

enum Admitted {
    Running(Arc<Entry>),
    Replayed(Box<View>),
}

/// One transaction from its first run to its end.
async fn drive(core: Arc<Core>, entry: Arc<Entry>, request: TxnRequest, deadline: Instant) {
    let mut reason = AttemptReason::First;
    loop {
        core.metrics.attempt(reason);
        let run = entry.run();
        let end = atomic::run(&core, &entry, &request, run, deadline).await;
        core.locks.release_all(entry.id);
        let end = deadlock::settle(&core, &entry, end);
        if let End::Aborted(problem) = &end
            && let Some((pause, why)) = rerun(&request, run, problem, deadline)
        {
            tokio::time::sleep(pause).await;
            entry.rerun(problem, run.attempt.next());
            reason = why;
            continue;
        }
        return close(&core, &entry, end);
    }
}

/// It has ended, or nobody can say so before the log is opened again.
fn close(core: &Core, entry: &Arc<Entry>, end: End) {
    match end {
        End::Stuck => return,
        End::Committed => entry.take(Event::DecidedCommit),
        End::Aborted(problem) => {
            entry.refused_for(problem);
            entry.take(Event::DecidedAbort);
        }
    }
    entry.take(Event::Finished);
    entry.closed(clock::now_us());
    job::over(core, entry);
    core.registry.end(entry);
    entry.settle();
    let outcome = if entry.state() == TxnState::Committed { Outcome::Committed } else { Outcome::Aborted };
    core.metrics.transaction_ended(Pattern::Atomic, outcome, entry.began().elapsed());
}

fn rerun(request: &TxnRequest, run: Run, problem: &Problem, deadline: Instant) -> Option<(Duration, AttemptReason)> {
    let pause = retry::pause_before_rerun(&request.retry, run.attempt.0, problem.code)?;
    let why = AttemptReason::after(problem.code)?;
    (Instant::now() + pause < deadline).then_some((pause, why))
}

impl Core {
    pub(self) fn is_ready(&self) -> bool {
        self.lost_log().is_none()
            && !self.leaving.is_cancelled()
            && !self.journal.is_poisoned()
            && self.sites.values().all(|site| site.was_tried())
    }

    fn check_open(&self) -> Result<(), Problem> {
        if let Some(why) = self.lost_log() {
            return Err(Problem::new(Code::JournalUnavailable, why));
        }
        if self.leaving.is_cancelled() {
            return Err(Problem::new(Code::Overloaded, "the sidecar is stopping and takes no new transactions"));
        }
        if self.journal.is_poisoned() {
            let detail = "a flush of the journal failed; restart the sidecar once its disk is well";
            return Err(Problem::new(Code::JournalUnavailable, detail));
        }
        Ok(())
    }

    /// Refuses one more than may be open.
    fn check_room(&self) -> Result<(), Problem> {
        if self.registry.open_count() < self.settings.max_open {
            return Ok(());
        }
        Err(Problem::new(Code::Overloaded, format!("{} transactions are open", self.settings.max_open)))
    }

    /// Lets a transaction in, as the only one with its key.
    fn begin(
        &self,
        name: Option<String>,
        key: Option<KeyNote>,
        priority: i32,
        trace: TraceId,
    ) -> Result<Arc<Entry>, Problem> {
        let recorded = |note: &KeyNote| match look_up::in_the_log(self, note)? {
            Some(entry) => Err(registry::in_flight(&entry)),
            None => Ok(()),
        };
        let entry = self.registry.begin(name, key, priority, trace, || self.journal.durable_lsn(), recorded)?;
        entry.tell_to(self.journal.feed());
        Ok(entry)
    }

    /// Refuses what no run could do, as soon as the stores' powers are known.
    async fn check_plan(&self, request: &TxnRequest, deadline: Instant) -> Result<Plan, Problem> {
        for operation in &request.operations {
            self.site(&operation.store)?.admit(deadline).await?;
        }
        Plan::new(&atomic::powers(self, &request.operations)?)
    }

    /// Waits for the answer, at most to the deadline; then says how far it is.
    async fn wait(&self, entry: &Arc<Entry>, wait: WaitFor, deadline: Instant) -> Answer {
        Self::until_answered(entry, wait, deadline).await;
        look_up::answer(self, entry).await
    }

    /// Until there is an answer, at most to the deadline and a moment more.
    async fn until_answered(entry: &Entry, wait: WaitFor, deadline: Instant) {
        let answered = |state: TxnState| match state {
            TxnState::Committing => wait == WaitFor::Decided,
            TxnState::NeedsIntervention => true,
            state => state.has_ended(),
        };
        let mut states = entry.watch();
        // What is being rolled back at the deadline gets a moment more: its answer is a problem with a name.
        let until = deadline + Duration::from_millis(500);
        let mut settled = entry.settled();
        let _ = timeout_at(until, async {
            loop {
                let state = *states.borrow_and_update();
                if answered(state) {
                    if state.has_ended() {
                        let _ = settled.wait_for(|settled| *settled).await;
                    }
                    return;
                }
                if states.changed().await.is_err() {
                    return;
                }
            }
        })
        .await;
    }
}
