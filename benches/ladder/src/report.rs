//! What came of it: throughput, percentiles, ratios, and what was counted rather than timed.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Map, Value, json};
use xtask::sidecar::Sidecar;

use crate::drivers::Rung;

/// Calls that wait for a store, flushes of the log, and seconds in each phase, as the sidecar's own metrics count them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counters {
    calls: f64,
    flushes: f64,
    phases: [f64; PHASES.len()],
}

/// The phases of a transaction, in its order.
const PHASES: [&str; 6] = ["lock", "work", "validate", "prepare", "decide", "finish"];

/// Calls that send nothing to a store: a pooled connection, or locks worked out from the request.
const NO_ROUND_TRIP: [&str; 2] = ["operation=\"open\"", "operation=\"footprint\""];

impl Counters {
    pub(crate) fn read(sidecar: &Sidecar) -> Result<Counters> {
        let mut counters = Counters::default();
        for line in sidecar.metrics()?.lines() {
            let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
            if line.starts_with("outrigger_store_requests_total") && !NO_ROUND_TRIP.iter().any(|no| line.contains(no)) {
                counters.calls += value;
            } else if line.starts_with("outrigger_journal_flush_seconds_count") {
                counters.flushes += value;
            } else if line.starts_with("outrigger_transaction_phase_seconds_sum")
                && let Some(at) = PHASES.iter().position(|phase| line.contains(&format!("\"{phase}\"")))
            {
                counters.phases[at] += value;
            }
        }
        Ok(counters)
    }
}

/// Everything measured on one rung with one number of clients.
pub(crate) struct Sample {
    pub(crate) rung: Rung,
    pub(crate) clients: usize,
    latencies: Vec<Duration>,
    took: Duration,
    calls: f64,
    flushes: f64,
    phases: [f64; PHASES.len()],
}

impl Sample {
    pub(crate) fn new(rung: Rung, clients: usize) -> Sample {
        let (latencies, took, phases) = (Vec::new(), Duration::ZERO, [0.0; PHASES.len()]);
        Sample { rung, clients, latencies, took, calls: 0.0, flushes: 0.0, phases }
    }

    pub(crate) fn add(&mut self, latencies: Vec<Duration>, took: Duration, before: &Counters, after: &Counters) {
        self.latencies.extend(latencies);
        self.took += took;
        self.calls += after.calls - before.calls;
        self.flushes += after.flushes - before.flushes;
        for (sum, (after, before)) in self.phases.iter_mut().zip(after.phases.iter().zip(before.phases)) {
            *sum += after - before;
        }
    }

    fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort();
        let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
        sorted.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
    }
}

/// Prints the table, or the same as JSON.
pub(crate) fn print(samples: &[Sample], clients: &[usize], as_json: bool) -> Result<()> {
    let rows: Vec<Value> = samples.iter().map(|sample| row(sample, samples)).collect();
    if as_json {
        println!("{}", serde_json::to_string_pretty(&json!({ "rungs": rows }))?);
        return Ok(());
    }
    for count in clients {
        println!(
            "\n| {count} client(s) | tx/s | p50 ms | p99 ms | × direct | store calls/tx | flushes/tx | ms in each phase |"
        );
        println!("|---|---:|---:|---:|---:|---:|---:|---|");
        for row in rows.iter().filter(|row| row["clients"] == *count) {
            let number = |member: &str, digits: usize| match row[member].as_f64() {
                Some(value) => format!("{value:.digits$}"),
                None => "–".to_owned(),
            };
            println!(
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                row["rung"].as_str().unwrap_or(""),
                number("per_second", 0),
                number("p50_ms", 1),
                number("p99_ms", 1),
                number("ratio", 2),
                number("calls", 1),
                number("flushes", 2),
                phases(row)
            );
        }
    }
    Ok(())
}

/// `work 0.4, decide 0.3, finish 2.9`: the phases that took any time.
fn phases(row: &Value) -> String {
    let spent = PHASES.iter().filter_map(|phase| Some((phase, row["phases_ms"][phase].as_f64()?)));
    let told: Vec<String> = spent.filter(|(_, ms)| *ms >= 0.05).map(|(phase, ms)| format!("{phase} {ms:.1}")).collect();
    if told.is_empty() { "–".to_owned() } else { told.join(", ") }
}

fn row(sample: &Sample, samples: &[Sample]) -> Value {
    let direct = sample.rung.direct();
    let base = samples.iter().find(|other| Some(other.rung) == direct && other.clients == sample.clients);
    let count = sample.latencies.len().max(1) as f64;
    json!({
        "rung": sample.rung.name(),
        "clients": sample.clients,
        "transactions": sample.latencies.len(),
        "per_second": sample.per_second(),
        "p50_ms": sample.percentile(0.5),
        "p99_ms": sample.percentile(0.99),
        "ratio": base.map(|base| sample.per_second() / base.per_second()),
        "calls": direct.map(|_| sample.calls / count),
        "flushes": direct.map(|_| sample.flushes / count),
        "phases_ms": direct.map(|_| {
            let each = PHASES.iter().zip(sample.phases);
            each.map(|(phase, seconds)| ((*phase).to_owned(), json!(seconds / count * 1000.0))).collect::<Map<_, _>>()
        }),
    })
}
