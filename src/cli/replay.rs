//! `outrigger wal replay` and `outrigger recover --once`: recovery, without a door.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use outrigger_wal::Lsn;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::output::{Output, Stop};
use super::wal::{Log, bar, stop};
use super::{runtime, serve};
use crate::config::Config;
use crate::journal::replay::{History, Replayed};
use crate::metrics::Metrics;
use crate::model::ids::StoreName;
use crate::node::{self, NodeError};
use crate::txn::recovery::{Bucket, RecoveryPlan};
use crate::txn::{Coordinator, Explanation, Find, ListFilter};

/// How often recovery's progress is looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// What a volume whose sidecar is gone is recovered with.
#[derive(Args, Debug)]
pub(super) struct Recover {
    /// End what is open, once, and stop
    #[arg(long, required = true)]
    once: bool,
    /// The journal's folder [default: journal.dir of the configuration]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Give up after so long; what is open stays open
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
}

/// Recovers the journal of a sidecar that is gone: with the stores of the configuration, which are the same ones.
pub(super) fn recover(what: &Recover, mut config: Config, output: &mut Output) -> Result<(), Stop> {
    if let Some(dir) = &what.dir {
        config.journal.dir.clone_from(dir);
    }
    if !config.journal.dir.is_dir() {
        return Err(Stop::unreachable(format!("there is no journal in {}", config.journal.dir.display())));
    }
    drive(config, Duration::from_secs(what.timeout), output)
}

/// Reads the whole log and says what recovery would do; changes nothing.
pub(super) fn plan(log: &Log, output: &mut Output) -> Result<(), Stop> {
    let bar = bar("replaying", output);
    let mut replayed = Replayed::new(0);
    let mut records = log.records(Lsn::ZERO).map_err(|e| stop(&e))?;
    while let Some(record) = records.next() {
        let record = record.map_err(|e| stop(&e))?;
        let taken = replayed.take(record.lsn, record.kind, &record.payload);
        taken.map_err(|e| Stop::fault(format!("the record at Lsn {} does not decode: {e}", record.lsn)))?;
        if replayed.records.is_multiple_of(1024) {
            let (done, all) = records.progress();
            bar.set_length(all);
            bar.set_position(done);
        }
    }
    bar.finish_and_clear();
    let replayed = replayed.finished();
    let (count, incarnation) = (replayed.records, replayed.incarnation.0);
    let buckets = RecoveryPlan::new(replayed.open, &replayed.interrupted).buckets;
    if output.is_json() {
        let open: Vec<_> = buckets.iter().map(as_json).collect();
        output.value(&json!({"records": count, "incarnation": incarnation, "open": open}));
        return Ok(());
    }
    output.line(format_args!("{count} records, incarnation {incarnation}, {} open transactions", buckets.len()));
    if !buckets.is_empty() {
        let rows: Vec<_> = buckets.iter().map(row).collect();
        output.table(&["FIRST LSN", "RUN", "DECIDER", "PREPARED", "REDO", "RECOVERY WILL"], &rows);
    }
    Ok(())
}

fn parts(bucket: &Bucket) -> (&History, String) {
    match bucket {
        Bucket::Obey(history) => {
            let verdict = history.verdict.map_or("-", crate::model::state::Outcome::as_str);
            (history, format!("obey the verdict: {verdict}"))
        }
        Bucket::NeverDecided(history) => (history, "abort: the log decides, and holds no decision".to_owned()),
        Bucket::Fence(history, store) => (history, format!("fence it in {store}, and obey what that finds")),
        Bucket::Hold(history) => (history, "wait on for its verdict: it is prepared".to_owned()),
        Bucket::Interrupted(history) => {
            (history, "fence it everywhere: it was open, and nobody can go on with it".to_owned())
        }
    }
}

fn names(stores: &[StoreName]) -> String {
    if stores.is_empty() { "-".to_owned() } else { stores.iter().map(StoreName::as_str).collect::<Vec<_>>().join(", ") }
}

fn preparers(history: &History) -> Vec<StoreName> {
    history.intent.preparers.iter().map(|(store, _)| store.clone()).collect()
}

fn row(bucket: &Bucket) -> Vec<String> {
    let (history, what) = parts(bucket);
    let intent = &history.intent;
    vec![
        history.first.to_string(),
        intent.run.to_string(),
        intent.decider.to_string(),
        names(&preparers(history)),
        names(&intent.redoers()),
        what,
    ]
}

fn as_json(bucket: &Bucket) -> Value {
    let (history, what) = parts(bucket);
    let intent = &history.intent;
    json!({
        "first_lsn": history.first.as_u64(),
        "transaction": intent.run.txn.to_string(),
        "attempt": intent.run.attempt.0,
        "name": intent.name,
        "decider": intent.decider.to_string(),
        "prepared": preparers(history),
        "redo": intent.redoers(),
        "recovery": what,
    })
}

/// Owns the log and ends what is open, as the next start would; serves nobody meanwhile.
pub(super) fn drive(config: Config, limit: Duration, output: &mut Output) -> Result<(), Stop> {
    let bar = bar("recovering", output);
    let report = runtime::block_on(async {
        let (since, metrics) = (Instant::now(), Metrics::new(config.stores.keys()));
        let opened = node::open(&config, &metrics).await.map_err(|error| {
            serve::stop(&NodeError::Journal { dir: config.journal.dir.display().to_string(), error })
        })?;
        let coordinator = Coordinator::start(node::makings(&config, opened, metrics, since));
        let until = since + limit;
        loop {
            let report = coordinator.status()["recovery"].clone();
            let (found, remaining) = (number(&report, "found"), number(&report, "remaining"));
            bar.set_length(found);
            bar.set_position(found.saturating_sub(remaining));
            let open = coordinator.status()["transactions"].clone();
            // Prepared transactions that the log does not know are found when their store has been tried. What needs an
            // operator does not end by waiting.
            let all_told = remaining <= number(&open, "needs_intervention") && coordinator.is_ready();
            if all_told || Instant::now() >= until {
                let left = still_open(&coordinator).await;
                coordinator.drain(Duration::from_secs(1)).await;
                return Ok((report, open, left));
            }
            tokio::time::sleep(GLANCE).await;
        }
    });
    bar.finish_and_clear();
    let (report, open, left) = report?;
    let remaining = number(&report, "remaining");
    let stuck = number(&open, "needs_intervention");
    if output.is_json() {
        output.value(&json!({"recovery": report, "open": open, "still_open": left}));
    } else {
        output.line(format_args!(
            "{} records, {} open transactions found: {} committed, {} aborted, {remaining} still open",
            number(&report, "records"),
            number(&report, "found"),
            number(&report, "committed"),
            number(&report, "aborted"),
        ));
        for told in &left {
            output.line(format_args!("{} is {}", told.transaction, told.state.as_str()));
            told.summary.iter().for_each(|sentence| output.line(format_args!("  {sentence}")));
        }
    }
    match (stuck, remaining) {
        (0, 0) => Ok(()),
        (0, _) => Err(Stop::unreachable_shown()),
        _ => Err(Stop::faults_shown()),
    }
}

/// Why each that has not ended has not.
async fn still_open(coordinator: &Coordinator) -> Vec<Explanation> {
    let page = coordinator.list(&ListFilter { limit: 1000, ..ListFilter::default() });
    let mut left = Vec::new();
    for view in page.transactions.iter().filter(|view| !view.state.has_ended()) {
        if let Ok(id) = view.id.parse()
            && let Ok(told) = coordinator.explain(&Find::Id(id)).await
        {
            left.push(told);
        }
    }
    left
}

fn number(object: &Value, name: &str) -> u64 {
    object[name].as_u64().unwrap_or(0)
}
