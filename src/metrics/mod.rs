//! What an operator sees of us in Prometheus (prefix `outrigger_`).
//!
//! Every label's values are an enum or a configured store's name, so the number of series is fixed when the process
//! starts, and every series is there at zero from then on: a rate over "the first error ever" needs a zero before it.

mod families;
mod labels;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};

use families::{Hand, Locks, Log, Maker, SPANS};
pub use labels::{
    AttemptReason, AuditPlace, ByHand, CallResult, ChunkOutcome, DeadlockSource, DeviceWrite, HandResult, Pattern,
    Phase, Reaped, RecoveryOutcome, Route, StoreCall,
};

use crate::model::ids::StoreName;
use crate::model::state::{Outcome, TxnState};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The states in which a transaction is open.
pub const OPEN_STATES: [TxnState; 7] = [
    TxnState::Active,
    TxnState::Prepared,
    TxnState::InDoubt,
    TxnState::Committing,
    TxnState::Aborting,
    TxnState::NeedsIntervention,
    TxnState::Compensating,
];

type Refresher = Box<dyn Fn(&Metrics) + Send + Sync>;

/// All metrics of one sidecar. Cheap to clone; has a registry of its own, so two sidecars in one test don't meet.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    registry: Registry,
    /// Sets what is cheaper to look up than to keep up to date, just before it is rendered.
    refresher: OnceLock<Refresher>,
    transactions: IntCounterVec,
    transaction_duration: HistogramVec,
    phases: HistogramVec,
    open: IntGaugeVec,
    oldest: GaugeVec,
    attempts: IntCounterVec,
    interventions: IntGauge,
    jobs_open: IntGauge,
    job_chunks: IntCounterVec,
    ready: IntGauge,
    store_requests: IntCounterVec,
    store_seconds: HistogramVec,
    store_up: IntGaugeVec,
    prepared_oldest: GaugeVec,
    redo_pending: IntGaugeVec,
    visibility_lag: HistogramVec,
    locks: Locks,
    hand: Hand,
    journal: Log,
    recovery: Gauge,
    recovered: IntCounterVec,
    reaped: IntCounterVec,
    sweep: Histogram,
    http_requests: IntCounterVec,
    http_seconds: HistogramVec,
    followers: IntGauge,
    events: IntCounter,
    /// What `events` has been brought up to.
    events_seen: AtomicU64,
}

impl Families {
    fn new() -> Self {
        let registry = Registry::new_custom(Some("outrigger".to_owned()), None).expect("the prefix is a legal name");
        let m = Maker(&registry);
        Self {
            transactions: m.counters("transactions_total", "Transactions that ended, by how", &["pattern", "outcome"]),
            transaction_duration: m.histograms(
                "transaction_duration_seconds",
                "From submission until every store has the outcome",
                &["pattern", "outcome"],
                SPANS,
            ),
            phases: m.histograms("transaction_phase_seconds", "Time spent in each phase of a run", &["phase"], SPANS),
            open: m.counts("transactions_open", "Transactions that have not ended, by state", &["state"]),
            oldest: m.gauges(
                "transaction_oldest_seconds",
                "Age of the oldest open transaction in each state; 0 where there is none",
                &["state"],
            ),
            attempts: m.counters("attempts_total", "Runs of transactions, by why they began", &["reason"]),
            interventions: m.count("interventions_open", "Transactions that wait for an operator"),
            jobs_open: m.count("jobs_open", "Batch jobs that have not ended"),
            job_chunks: m.counters("job_chunks_total", "Chunks of batch jobs, by what became of them", &["outcome"]),
            ready: m.count("ready", "Whether /readyz says that it is ready"),
            store_requests: m.counters(
                "store_requests_total",
                "Calls to stores, by answer",
                &["store", "operation", "result"],
            ),
            store_seconds: m.histograms(
                "store_request_seconds",
                "How long calls to stores took",
                &["store", "operation"],
                SPANS,
            ),
            store_up: m.counts("store_up", "Whether the store answered when it was last asked", &["store"]),
            prepared_oldest: m.gauges(
                "store_prepared_oldest_seconds",
                "Age of the oldest prepared transaction of ours in the store; 0 where there is none",
                &["store"],
            ),
            redo_pending: m.counts("redo_pending", "Decided transactions whose writes the store lacks", &["store"]),
            visibility_lag: m.histograms(
                "visibility_lag_seconds",
                "From the decision until the store shows it",
                &["store"],
                SPANS,
            ),
            locks: Locks::new(&m),
            hand: Hand::new(&m),
            journal: Log::new(&m),
            recovery: m.gauge("recovery_seconds", "How long the last start took until the door opened"),
            recovered: m.counters(
                "recovery_transactions_total",
                "Transactions that the last start found unfinished, by how they were left",
                &["outcome"],
            ),
            reaped: m.counters("reaped_total", "Left-overs that were ended or deleted, by what they were", &["what"]),
            sweep: m.histogram(
                "reaper_sweep_seconds",
                "How long one look for left-overs in one store took, rests included",
                SPANS,
            ),
            http_requests: m.counters("http_requests_total", "Requests at the door, by answer", &["route", "status"]),
            http_seconds: m.histograms("http_request_seconds", "How long requests at the door took", &["route"], SPANS),
            followers: m.count("event_followers", "Clients that follow the events"),
            events: m.counter("events_total", "Events told, whether anybody followed or not"),
            events_seen: AtomicU64::new(0),
            refresher: OnceLock::new(),
            registry: registry.clone(),
        }
    }
}

impl Metrics {
    /// All families, with every series at zero that `stores` and the enums make known.
    #[must_use]
    pub fn new<'a>(stores: impl IntoIterator<Item = &'a StoreName>) -> Self {
        let families = Families::new();
        let build = Maker(&families.registry).counts("build_info", "1, with the version as a label", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self(Arc::new(families));
        metrics.zero();
        stores.into_iter().for_each(|store| metrics.zero_store(store.as_str()));
        metrics
    }

    fn zero(&self) {
        let f = &self.0;
        for pattern in Pattern::ALL {
            for outcome in [Outcome::Committed, Outcome::Aborted] {
                f.transactions.with_label_values(&[pattern.as_str(), outcome.as_str()]);
                f.transaction_duration.with_label_values(&[pattern.as_str(), outcome.as_str()]);
            }
        }
        Phase::ALL.iter().for_each(|phase| drop(f.phases.with_label_values(&[phase.as_str()])));
        AttemptReason::ALL.iter().for_each(|reason| drop(f.attempts.with_label_values(&[reason.as_str()])));
        DeviceWrite::ALL.iter().for_each(|purpose| drop(f.journal.device.with_label_values(&[purpose.as_str()])));
        RecoveryOutcome::ALL.iter().for_each(|outcome| drop(f.recovered.with_label_values(&[outcome.as_str()])));
        ChunkOutcome::ALL.iter().for_each(|outcome| drop(f.job_chunks.with_label_values(&[outcome.as_str()])));
        Reaped::ALL.iter().for_each(|what| drop(f.reaped.with_label_values(&[what.as_str()])));
        for state in OPEN_STATES {
            f.open.with_label_values(&[state.as_str()]);
            f.oldest.with_label_values(&[state.as_str()]);
        }
        for action in ByHand::ALL {
            for result in HandResult::ALL {
                f.hand.resolutions.with_label_values(&[action.as_str(), result.as_str()]);
            }
        }
        AuditPlace::ALL.iter().for_each(|place| drop(f.hand.audit_failures.with_label_values(&[place.as_str()])));
        for source in DeadlockSource::ALL {
            f.locks.deadlocks.with_label_values(&[source.as_str()]);
            f.locks.deadlock_check.with_label_values(&[source.as_str()]);
        }
        for route in Route::ALL {
            f.http_seconds.with_label_values(&[route.as_str()]);
            for status in route.statuses() {
                f.http_requests.with_label_values(&[route.as_str(), &status.to_string()]);
            }
        }
    }

    fn zero_store(&self, store: &str) {
        let f = &self.0;
        for call in StoreCall::ALL {
            f.store_seconds.with_label_values(&[store, call.as_str()]);
            for result in CallResult::ALL {
                f.store_requests.with_label_values(&[store, call.as_str(), result.as_str()]);
            }
        }
        f.store_up.with_label_values(&[store]);
        f.prepared_oldest.with_label_values(&[store]);
        f.redo_pending.with_label_values(&[store]);
        f.visibility_lag.with_label_values(&[store]);
    }

    /// Registers what is called just before each rendering, to set gauges that are looked up rather than kept. It must
    /// not block. Only the first registration counts.
    pub fn refresh_with(&self, refresher: impl Fn(&Self) + Send + Sync + 'static) {
        // A second one would silently replace what the first one feeds.
        let _ = self.0.refresher.set(Box::new(refresher));
    }

    /// Everything in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        if let Some(refresher) = self.0.refresher.get() {
            refresher(self);
        }
        let mut text = String::new();
        let encoded = TextEncoder::new().encode_utf8(&self.0.registry.gather(), &mut text);
        encoded.expect("families that were registered have names and series");
        text
    }

    /// A transaction ended.
    pub fn transaction_ended(&self, pattern: Pattern, outcome: Outcome, took: Duration) {
        let labels = [pattern.as_str(), outcome.as_str()];
        self.0.transactions.with_label_values(&labels).inc();
        self.0.transaction_duration.with_label_values(&labels).observe(took.as_secs_f64());
    }

    /// A run went through a phase.
    pub fn phase(&self, phase: Phase, took: Duration) {
        self.0.phases.with_label_values(&[phase.as_str()]).observe(took.as_secs_f64());
    }

    /// How many transactions are in an open state now, and how old the oldest of them is.
    pub fn set_open(&self, state: TxnState, count: usize, oldest: Duration) {
        debug_assert!(OPEN_STATES.contains(&state), "{state:?} is not open");
        let labels = [state.as_str()];
        self.0.open.with_label_values(&labels).set(as_gauge(count));
        self.0.oldest.with_label_values(&labels).set(oldest.as_secs_f64());
        if state == TxnState::NeedsIntervention {
            self.0.interventions.set(as_gauge(count));
        }
    }

    /// Batch jobs that have not ended.
    pub fn set_jobs_open(&self, count: usize) {
        self.0.jobs_open.set(as_gauge(count));
    }

    /// A chunk of a batch job was sent, or undone.
    pub fn job_chunk(&self, outcome: ChunkOutcome) {
        self.0.job_chunks.with_label_values(&[outcome.as_str()]).inc();
    }

    /// A run began.
    pub fn attempt(&self, reason: AttemptReason) {
        self.0.attempts.with_label_values(&[reason.as_str()]).inc();
    }

    /// A store answered a call, or did not.
    pub fn store_call(&self, store: &StoreName, call: StoreCall, result: CallResult, took: Duration) {
        let labels = [store.as_str(), call.as_str(), result.as_str()];
        self.0.store_requests.with_label_values(&labels).inc();
        self.0.store_seconds.with_label_values(&labels[..2]).observe(took.as_secs_f64());
    }

    /// Whether a store answered when it was last asked.
    pub fn set_store_up(&self, store: &StoreName, up: bool) {
        self.0.store_up.with_label_values(&[store.as_str()]).set(i64::from(up));
    }

    /// Age of the oldest transaction of ours that stands prepared in a store.
    pub fn set_prepared_oldest(&self, store: &StoreName, age: Duration) {
        self.0.prepared_oldest.with_label_values(&[store.as_str()]).set(age.as_secs_f64());
    }

    /// Decided transactions whose writes a store lacks.
    pub fn set_redo_pending(&self, store: &StoreName, count: usize) {
        self.0.redo_pending.with_label_values(&[store.as_str()]).set(as_gauge(count));
    }

    /// A store shows a decision that was made `lag` ago.
    pub fn visible(&self, store: &StoreName, lag: Duration) {
        self.0.visibility_lag.with_label_values(&[store.as_str()]).observe(lag.as_secs_f64());
    }

    /// Whether the sidecar takes requests, as `/readyz` answers.
    pub fn set_ready(&self, ready: bool) {
        self.0.ready.set(i64::from(ready));
    }

    /// Our lock table now.
    pub fn set_locks(&self, held: usize, waiting: usize) {
        self.0.locks.held.set(as_gauge(held));
        self.0.locks.waiting.set(as_gauge(waiting));
    }

    /// Locks of our table were waited for (also when in vain).
    pub fn lock_wait(&self, waited: Duration) {
        self.0.locks.wait.observe(waited.as_secs_f64());
    }

    /// A circle of waits was broken.
    pub fn deadlock_broken(&self, source: DeadlockSource) {
        self.0.locks.deadlocks.with_label_values(&[source.as_str()]).inc();
    }

    /// Somebody looked for deadlocks.
    pub fn deadlock_checked(&self, source: DeadlockSource, took: Duration) {
        self.0.locks.deadlock_check.with_label_values(&[source.as_str()]).observe(took.as_secs_f64());
    }

    /// An operator did something by hand, or tried to.
    pub fn resolved(&self, action: ByHand, result: HandResult) {
        self.0.hand.resolutions.with_label_values(&[action.as_str(), result.as_str()]).inc();
    }

    /// An audit line could not be written.
    pub fn audit_failed(&self, place: AuditPlace) {
        self.0.hand.audit_failures.with_label_values(&[place.as_str()]).inc();
    }

    /// The journal took bytes in.
    pub fn journal_appended(&self, bytes: u64) {
        self.0.journal.appended.inc_by(bytes);
    }

    /// The journal sent bytes to the disk.
    pub fn journal_wrote(&self, purpose: DeviceWrite, bytes: u64) {
        self.0.journal.device.with_label_values(&[purpose.as_str()]).inc_by(bytes);
    }

    /// The log is damaged: this process runs nothing.
    pub fn set_journal_damaged(&self) {
        self.0.journal.damaged.set(1);
    }

    /// The journal flushed.
    pub fn journal_flushed(&self, took: Duration, records: u64) {
        self.0.journal.flush.observe(took.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a flush has far fewer than 2^52 records")]
        self.0.journal.batch.observe(records as f64);
    }

    /// The journal on disk now; `oldest_live`: age of what keeps its oldest segment.
    pub fn set_journal(&self, segments: usize, bytes: u64, oldest_live: Duration, poisoned: bool) {
        self.0.journal.segments.set(as_gauge(segments));
        self.0.journal.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.0.journal.oldest_live.set(oldest_live.as_secs_f64());
        self.0.journal.poisoned.set(i64::from(poisoned));
    }

    /// The start took so long until the door opened.
    pub fn set_recovery(&self, took: Duration) {
        self.0.recovery.set(took.as_secs_f64());
    }

    /// Recovery found a transaction unfinished and left it so.
    pub fn recovered(&self, outcome: RecoveryOutcome) {
        self.0.recovered.with_label_values(&[outcome.as_str()]).inc();
    }

    /// Somebody follows the events.
    pub fn follower_came(&self) {
        self.0.followers.inc();
    }

    /// Somebody follows the events no more.
    pub fn follower_left(&self) {
        self.0.followers.dec();
    }

    /// So many events were told since the start.
    pub fn set_events(&self, told: u64) {
        // Counted elsewhere and only looked up here. Two that render at the same time each add their own part.
        let before = self.0.events_seen.fetch_max(told, Ordering::Relaxed);
        self.0.events.inc_by(told.saturating_sub(before));
    }

    /// So many left-overs are gone.
    pub fn reaped(&self, what: Reaped, count: u64) {
        self.0.reaped.with_label_values(&[what.as_str()]).inc_by(count);
    }

    /// A store was looked through for left-overs.
    pub fn sweep_took(&self, took: Duration) {
        self.0.sweep.observe(took.as_secs_f64());
    }

    /// Idempotency keys that only the journal remembers.
    pub fn set_journal_keys(&self, count: usize) {
        self.0.journal.keys.set(as_gauge(count));
    }

    /// The door answered.
    pub fn http(&self, route: Route, status: u16, took: Duration) {
        self.0.http_requests.with_label_values(&[route.as_str(), &status.to_string()]).inc();
        self.0.http_seconds.with_label_values(&[route.as_str()]).observe(took.as_secs_f64());
    }
}

fn as_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
