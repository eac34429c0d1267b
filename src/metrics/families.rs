//! Making families of series, each registered and each with its known series at zero.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// Seconds from half a millisecond to a minute: transactions, calls, requests, waits.
pub(super) const SPANS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Seconds from a microsecond to a second: searches of our own table up to questions to a busy store.
const CHECKS: &[f64] =
    &[0.000_001, 0.000_005, 0.000_025, 0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
/// Seconds from 50 µs to a second: flushes.
pub(super) const FLUSHES: &[f64] =
    &[0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
/// Records of one flush.
pub(super) const BATCHES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Names are compile-time constants and every family is made once, so nothing here can fail: a fault would be met by
/// the first test that makes a [`super::Metrics`].
const SOUND: &str = "a metric's name and labels are constants, made once";

/// Registers what it makes.
pub(super) struct Maker<'a>(pub(super) &'a Registry);

impl Maker<'_> {
    fn keep<C: Collector + Clone + 'static>(&self, collector: C) -> C {
        self.0.register(Box::new(collector.clone())).expect(SOUND);
        collector
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.keep(IntCounter::new(name, help).expect(SOUND))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels).expect(SOUND))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.keep(Gauge::new(name, help).expect(SOUND))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.keep(GaugeVec::new(Opts::new(name, help), labels).expect(SOUND))
    }

    pub(super) fn count(&self, name: &str, help: &str) -> IntGauge {
        self.keep(IntGauge::new(name, help).expect(SOUND))
    }

    pub(super) fn counts(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels).expect(SOUND))
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.keep(Histogram::with_opts(opts).expect(SOUND))
    }

    pub(super) fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.keep(HistogramVec::new(opts, labels).expect(SOUND))
    }
}

/// Our own lock table, and deadlocks wherever they run.
pub(super) struct Locks {
    pub(super) held: IntGauge,
    pub(super) waiting: IntGauge,
    pub(super) wait: Histogram,
    pub(super) deadlocks: IntCounterVec,
    pub(super) deadlock_check: HistogramVec,
}

impl Locks {
    pub(super) fn new(m: &Maker) -> Self {
        Self {
            held: m.count("locks_held", "Locks held in our own table"),
            waiting: m.count("locks_waiting", "Requests that wait in our own table"),
            wait: m.histogram("lock_wait_seconds", "How long locks of our own table were waited for", SPANS),
            deadlocks: m.counters(
                "deadlocks_total",
                "Circles of waits that were broken, by where they ran",
                &["source"],
            ),
            deadlock_check: m.histograms(
                "deadlock_check_seconds",
                "How long looking for deadlocks took: searching our table, asking a store, putting all together",
                &["source"],
                CHECKS,
            ),
        }
    }
}

/// What operators did by hand.
pub(super) struct Hand {
    pub(super) resolutions: IntCounterVec,
    pub(super) audit_failures: IntCounterVec,
}

impl Hand {
    pub(super) fn new(m: &Maker) -> Self {
        Self {
            resolutions: m.counters(
                "resolutions_total",
                "What operators asked for by hand, by what came of it",
                &["action", "result"],
            ),
            audit_failures: m.counters(
                "audit_failures_total",
                "Audit lines that could not be written: in the file (the act was refused) or in the table (the file has it)",
                &["place"],
            ),
        }
    }
}

/// The journal on its disk.
pub(super) struct Log {
    pub(super) appended: IntCounter,
    pub(super) device: IntCounterVec,
    pub(super) damaged: IntGauge,
    pub(super) flush: Histogram,
    pub(super) batch: Histogram,
    pub(super) segments: IntGauge,
    pub(super) bytes: IntGauge,
    pub(super) oldest_live: Gauge,
    pub(super) poisoned: IntGauge,
    pub(super) keys: IntGauge,
}

impl Log {
    pub(super) fn new(m: &Maker) -> Self {
        Self {
            appended: m.counter("journal_append_bytes_total", "Bytes appended to the journal"),
            device: m.counters(
                "journal_device_bytes_total",
                "Bytes that the journal sent to the disk, in whole pages; over the appended bytes: write amplification",
                &["purpose"],
            ),
            damaged: m.count("journal_damaged", "1 in repair mode: the log is damaged and nothing is run"),
            flush: m.histogram("journal_flush_seconds", "How long flushes of the journal took", FLUSHES),
            batch: m.histogram("journal_flush_batch_records", "Records made durable by one flush", BATCHES),
            segments: m.count("journal_segments", "Segments of the journal on disk"),
            bytes: m.count("journal_bytes", "Bytes that the journal takes on disk"),
            oldest_live: m.gauge(
                "journal_oldest_live_seconds",
                "Age of the oldest transaction that keeps segments from going; 0 where there is none",
            ),
            keys: m.count("journal_keys", "Idempotency keys that only the journal remembers"),
            poisoned: m.count("journal_poisoned", "1 after a failed flush: only a restart helps"),
        }
    }
}
