//! The ladder: what a transaction costs over direct writes by the same drivers, on the same stores, in one run.
//!
//! Every round climbs every rung for a moment, so that noise (and a disk that fills) hits all of them alike. Only the
//! ratios mean anything; the absolute numbers are this machine's on that day.

mod drivers;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use xtask::sidecar::{Launch, Sidecar};
use xtask::stack::{Stack, Wanted};

use drivers::{Client, Place, Rung};
use report::{Counters, Sample};

/// Direct writes and Outrigger over the same stores, interleaved
#[derive(Debug, Parser)]
struct Options {
    /// The sidecar's binary (a release build)
    #[arg(long)]
    sidecar: PathBuf,
    /// How often every rung is climbed
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds on a rung each time
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Numbers of clients
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32])]
    clients: Vec<usize>,
    /// Only rungs whose name contains this (and what they are compared to)
    #[arg(long, default_value = "")]
    only: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Options {
    fn rungs(&self) -> impl Iterator<Item = Rung> {
        let named = |rung: &Rung| rung.name().contains(&self.only);
        let compared = move |rung: &Rung| Rung::ALL.iter().any(|other| named(other) && other.direct() == Some(*rung));
        Rung::ALL.into_iter().filter(move |rung| named(rung) || compared(rung))
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let stack = Stack::fresh("bench", Wanted::all())?;
    let dir = tempfile::tempdir()?;
    let launch = Launch::over(&options.sidecar, &stack.sidecar_config(), dir.path())?;
    let launch =
        launch.with("OUTRIGGER__STORES__PG__POOL__MAX", "32").with("OUTRIGGER__STORES__GRAPH__POOL__MAX", "32");
    let mut sidecar = launch.start()?;
    sidecar.wait_ready(Duration::from_secs(30))?;
    runtime.block_on(async {
        let place = Arc::new(Place::make(&stack, &sidecar.url()).await?);
        place.wait_open().await?;
        let samples = climb(&options, &place, &sidecar).await?;
        report::print(&samples, &options.clients, options.json)
    })
}

async fn climb(options: &Options, place: &Arc<Place>, sidecar: &Sidecar) -> Result<Vec<Sample>> {
    let mut samples: Vec<Sample> = Vec::new();
    let span = Duration::from_secs_f64(options.seconds);
    // The first round warms caches and connections and is not counted.
    for round in 0..=options.rounds {
        for clients in &options.clients {
            for rung in options.rungs() {
                let before = Counters::read(sidecar)?;
                let (latencies, took) = on_rung(place, rung, *clients, span).await?;
                let after = Counters::read(sidecar)?;
                if round > 0 {
                    let sample = samples.iter_mut().find(|sample| sample.rung == rung && sample.clients == *clients);
                    match sample {
                        Some(sample) => sample.add(latencies, took, &before, &after),
                        None => {
                            let mut sample = Sample::new(rung, *clients);
                            sample.add(latencies, took, &before, &after);
                            samples.push(sample);
                        }
                    }
                }
                if !options.json {
                    eprintln!("round {round} of {}: {clients:>2} clients, {}", options.rounds, rung.name());
                }
            }
        }
    }
    Ok(samples)
}

/// Lets `clients` write for `span`; answers each write's latency and the time it took all together.
async fn on_rung(place: &Arc<Place>, rung: Rung, clients: usize, span: Duration) -> Result<(Vec<Duration>, Duration)> {
    let mut writers = Vec::with_capacity(clients);
    for _ in 0..clients {
        writers.push(Client::connect(place.clone(), rung).await?);
    }
    let began = Instant::now();
    let writing = writers.into_iter().map(|mut client| {
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            while began.elapsed() < span {
                let start = Instant::now();
                client.write().await?;
                latencies.push(start.elapsed());
            }
            anyhow::Ok(latencies)
        })
    });
    let mut all = Vec::new();
    for writer in writing.collect::<Vec<_>>() {
        all.extend(writer.await?.with_context(|| format!("on {}", rung.name()))?);
    }
    Ok((all, began.elapsed()))
}
