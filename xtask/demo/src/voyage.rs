//! The sidecar's life while documents flow through it: started, killed at every moment of the list, started again.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinSet;
use xtask::sidecar::{Launch, Sidecar, get};
use xtask::stack::Stack;

use crate::corpus::Document;
use crate::moments::Moment;
use crate::through::{Answers, Ingestion};

const READY_LIMIT: Duration = Duration::from_secs(60);
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long an idle sidecar is left alone before its memory is read.
const SETTLE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(5);
/// How often its memory is read under load.
const SAMPLE: Duration = Duration::from_millis(50);

/// A start after a kill.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Restart {
    /// Documents acknowledged when it was killed.
    pub(crate) at_documents: usize,
    /// From exec to `/readyz` 200.
    pub(crate) ready_ms: f64,
    /// Of those the sidecar's own: from opening the log until it is read, every lock is back and the door is open. The
    /// rest is the program's start and the stores' first answers.
    pub(crate) door_ms: f64,
    /// From exec until all that the crash had left open was ended.
    pub(crate) recovered_ms: f64,
    /// Open transactions that it found in its log, and prepared ones in PostgreSQL that its log did not know.
    pub(crate) found: u64,
    pub(crate) unknown_prepared: u64,
    /// Ended as committed and as aborted by recovery.
    pub(crate) committed: u64,
    pub(crate) aborted: u64,
}

/// How it went.
pub(crate) struct Voyage {
    pub(crate) answers: Answers,
    pub(crate) acknowledged: BTreeMap<usize, i64>,
    pub(crate) restarts: Vec<Restart>,
    pub(crate) seconds: f64,
    pub(crate) rss_idle: u64,
    pub(crate) rss_peak: u64,
    pub(crate) prepared_left: usize,
    pub(crate) locks_left: u64,
}

/// What it takes.
pub(crate) struct Orders {
    pub(crate) binary: PathBuf,
    pub(crate) documents: Arc<Vec<Document>>,
    pub(crate) writers: usize,
    pub(crate) moments: VecDeque<Moment>,
    /// Keys begin with it, the journal's folder ends with it.
    pub(crate) run: String,
    pub(crate) seed: u64,
}

/// Writes every document. The sidecar is ended in good order before the answer.
pub(crate) async fn sail(stack: &Stack, orders: Orders, bar: &ProgressBar) -> Result<Voyage> {
    let dir = stack.dir().join("sidecar").join(&orders.run);
    let launch = Launch::over(&orders.binary, &stack.sidecar_config(), &dir)?;
    let (sidecar, _) = start(&launch).await?;
    recovered(&sidecar).await?;
    tokio::time::sleep(SETTLE).await;
    let rss_idle = sidecar.rss_anon()?;

    let url = sidecar.url();
    let ingestion = Ingestion::new(orders.documents.clone(), url, orders.run.clone(), orders.seed)?;
    let began = Instant::now();
    let writers = ingestion.start(orders.writers);
    let mut watch = Watch { sidecar, launch, rss_peak: rss_idle, sampled: began, restarts: Vec::new() };
    watch.until_written(&ingestion, writers, orders.moments, bar).await?;
    let seconds = began.elapsed().as_secs_f64();

    let Watch { mut sidecar, rss_peak, mut restarts, .. } = watch;
    let status = recovered(&sidecar).await?;
    tally(&mut restarts, &status);
    let log = status["log"]["id"].as_str().context("the status names the log")?;
    let count = format!("SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'ogr1:{log}:%'");
    let prepared_left = stack.sql(&count)?.trim().parse().context("counting prepared transactions")?;
    let locks_left = status["locks"]["held"].as_u64().context("the status counts locks")?;
    blocking(move || sidecar.stop(STOP_LIMIT)).await?;
    let (answers, acknowledged) = (ingestion.answers(), ingestion.acknowledged());
    Ok(Voyage { answers, acknowledged, restarts, seconds, rss_idle, rss_peak, prepared_left, locks_left })
}

struct Watch {
    sidecar: Sidecar,
    launch: Launch,
    rss_peak: u64,
    sampled: Instant,
    restarts: Vec<Restart>,
}

impl Watch {
    /// Kills and starts again until all writers have ended.
    async fn until_written(
        &mut self,
        ingestion: &Ingestion,
        mut writers: JoinSet<Result<()>>,
        mut moments: VecDeque<Moment>,
        bar: &ProgressBar,
    ) -> Result<()> {
        loop {
            tokio::select! {
                ended = writers.join_next() => match ended {
                    None => break,
                    Some(ended) => ended.context("a writer panicked")??,
                },
                () = tokio::time::sleep(TICK) => {}
            }
            let written = ingestion.written();
            bar.set_position(written as u64);
            if self.sampled.elapsed() >= SAMPLE {
                self.rss_peak = self.rss_peak.max(self.sidecar.rss_anon().context("the sidecar died by itself")?);
                self.sampled = Instant::now();
            }
            if let Some(moment) = moments.pop_front_if(|moment| written >= moment.documents) {
                tokio::time::sleep(moment.then).await;
                self.kill_and_start(ingestion, bar).await?;
            }
        }
        // The last restart took so long that the writers ended meanwhile: what was acknowledged must stay all the same.
        for _ in moments {
            self.kill_and_start(ingestion, bar).await?;
        }
        Ok(())
    }

    async fn kill_and_start(&mut self, ingestion: &Ingestion, bar: &ProgressBar) -> Result<()> {
        // What the life that ends now recovered; its report goes with it. A first life has nothing to tell.
        if !self.restarts.is_empty() {
            let status = status(&self.sidecar).await?;
            tally(&mut self.restarts, &status);
        }
        self.sidecar.kill()?;
        let at_documents = ingestion.written();
        let began = Instant::now();
        let (sidecar, ready) = start(&self.launch).await?;
        self.sidecar = sidecar;
        recovered(&self.sidecar).await?;
        let recovered_ms = millis(began.elapsed());
        let ready_ms = millis(ready);
        bar.println(format!(
            "kill -9 after {at_documents} documents: ready again in {ready_ms:.0} ms, all ended in {recovered_ms:.0} ms"
        ));
        // The counts follow when this life ends.
        self.restarts.push(Restart { at_documents, ready_ms, recovered_ms, ..Restart::default() });
        Ok(())
    }
}

/// Enters a life's recovery report into its restart. Read as late as possible: a prepared transaction may turn up late.
fn tally(restarts: &mut [Restart], status: &Value) {
    if let Some(last) = restarts.last_mut() {
        let count = |name: &str| status["recovery"][name].as_u64().unwrap_or(0);
        (last.found, last.unknown_prepared) = (count("found"), count("orphans"));
        last.door_ms = millis(Duration::from_secs_f64(status["recovery"]["ready_seconds"].as_f64().unwrap_or(0.0)));
        (last.committed, last.aborted) = (count("committed"), count("aborted"));
    }
}

async fn start(launch: &Launch) -> Result<(Sidecar, Duration)> {
    let launch = launch.clone();
    blocking(move || {
        let mut sidecar = launch.start()?;
        let ready = sidecar.wait_ready(READY_LIMIT)?;
        Ok((sidecar, ready))
    })
    .await
}

/// Waits until every store is open and nothing that the last crash left is unfinished; answers the status.
async fn recovered(sidecar: &Sidecar) -> Result<Value> {
    let until = Instant::now() + RECOVERY_LIMIT;
    loop {
        let status = status(sidecar).await?;
        let up = |stores: &serde_json::Map<String, Value>| stores.values().all(|store| store["state"] == "up");
        if status["recovery"]["remaining"] == 0 && status["stores"].as_object().is_some_and(up) {
            return Ok(status);
        }
        ensure!(Instant::now() < until, "recovery did not end within {RECOVERY_LIMIT:?}: {status:#}");
        tokio::time::sleep(TICK).await;
    }
}

async fn status(sidecar: &Sidecar) -> Result<Value> {
    let door = sidecar.launch().door.clone();
    let (code, body) = blocking(move || get(&door, "/v1/status")).await?;
    ensure!(code == 200, "/v1/status answered {code}: {body}");
    serde_json::from_str(&body).context("/v1/status is JSON")
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(act).await.context("a helper thread panicked")?
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}
