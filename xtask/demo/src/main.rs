//! `cargo xtask demo`: a real corpus through the sidecar, which is killed on the way, and by direct writes, killed alike;
//! then the three stores are asked what they hold.
//!
//! | module | does |
//! |---|---|
//! | [`corpus`], [`embed`] | WordNet as documents, and their vectors |
//! | [`place`] | where they go: table, label, collection |
//! | [`queue`], [`moments`] | who writes what next, and when the kills come: both by seed |
//! | [`through`], [`voyage`] | writers that ask the sidecar, and the sidecar's lives |
//! | [`direct`] | the same without a sidecar |
//! | [`audit`], [`report`] | what the stores hold, and how it is shown |
//!
//! Exit codes: 0 fine, 1 an orphan or a loss (or a fault of the run), 2 wrong usage, 3 something must be installed first.

mod audit;
mod corpus;
mod direct;
mod embed;
mod moments;
mod place;
mod queue;
mod report;
mod through;
mod voyage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use xtask::install::{self, Missing, Need};
use xtask::stack::{Lifetime, Stack, Wanted};
use xtask::tool;

use crate::report::{Direct, Outrigger, Report};

#[derive(Parser)]
#[command(name = "cargo xtask demo", about = "A real corpus across three real stores, with kills on the way")]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    hidden: Option<Hidden>,
}

#[derive(clap::Args)]
struct Options {
    /// How many synsets to ingest
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(20..))]
    documents: u32,
    /// How many write at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    writers: u16,
    /// How often the sidecar, and the direct writer, is killed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(..=1000))]
    kills: u16,
    /// Repeats the order of the documents and the moments of the kills [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Leave the stores and what they hold (in .stack/demo)
    #[arg(long)]
    keep: bool,
    /// The sidecar's program
    #[arg(long, hide = true, env = "OUTRIGGER_DEMO_SIDECAR")]
    sidecar: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Hidden {
    /// The process that writes directly, to be killed
    #[command(hide = true)]
    DirectWriter,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.context("starting the runtime").and_then(|runtime| match cli.hidden {
        Some(Hidden::DirectWriter) => {
            let written = runtime.block_on(direct::writer::run());
            // A thread that reads standard input can't be ended, and nothing is left to wait for.
            runtime.shutdown_background();
            written.map(|()| true)
        }
        None => runtime.block_on(uninterrupted(demo(&cli.options))),
    });
    match outcome {
        Ok(passed) => ExitCode::from(u8::from(!passed)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.downcast_ref::<Missing>().is_some() { 3 } else { 1 })
        }
    }
}

/// Drops `work` at the first signal: servers and sidecar are ended by that.
async fn uninterrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("interrupted"),
    }
}

async fn demo(options: &Options) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    eprintln!("seed {seed}: --seed {seed} repeats it");
    let keep = options.keep;
    let stack = tokio::task::spawn_blocking(move || {
        install::ensure(&[Need::WordNet])?;
        raise(keep)
    });
    let (documents, writers) = (options.documents as usize, usize::from(options.writers));
    let stack = stack.await.context("a helper thread panicked")??;
    let corpus = Arc::new(corpus::read(Path::new(install::WORDNET), documents)?);
    let moments = moments::moments(documents, usize::from(options.kills), seed);
    tool::progress("corpus", format!("{documents} documents: {}", corpus::NAME));
    tool::progress("vectors", embed::NAME);
    place::SIDECAR.make(&stack).await?;
    place::DIRECT.make(&stack).await?;

    let binary = options.sidecar.clone().context("run it as `cargo xtask demo`, which builds the sidecar")?;
    let run = format!("demo-{seed}-{:08x}", rand::random::<u32>());
    let orders = voyage::Orders { binary, documents: corpus.clone(), writers, moments: moments.clone(), run, seed };
    let bar = bar("Outrigger", documents);
    let voyage = voyage::sail(&stack, orders, &bar).await?;
    bar.finish();
    let outrigger = audited(&stack, &corpus, voyage).await?;

    let bar = self::bar("direct writes", documents);
    let drift = direct::drift(&stack, &corpus, writers, moments, seed, &bar).await?;
    bar.finish();
    let audit = audit::judge(&audit::look(&stack, place::DIRECT).await?, &corpus, &drift.acknowledged);
    let (acknowledged, seconds) = (drift.acknowledged.len(), drift.seconds);
    let direct =
        Direct { kills: drift.kills, acknowledged, seconds, documents_per_second: rate(documents, seconds), audit };

    let passed = outrigger.is_clean(documents);
    let report = Report {
        seed,
        documents,
        writers,
        kills: usize::from(options.kills),
        corpus: corpus::NAME,
        embedding: embed::NAME,
        passed,
        over_bounds: outrigger.over_bounds(),
        outrigger,
        direct,
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report).context("writing the report down")?);
    } else {
        println!("\n{}", report.table());
    }
    if keep {
        let dir = stack.dir().display();
        eprintln!("the stores stay; `cargo xtask stack down --purge --dir {dir}` ends them and removes their data");
    }
    Ok(passed)
}

/// Three stores of the demo's own. With `keep` they outlive it.
fn raise(keep: bool) -> Result<Stack> {
    if !keep {
        return Stack::fresh("demo", Wanted::all());
    }
    let dir = tool::workspace().join(".stack/demo");
    if dir.join("stack.json").is_file() {
        Stack::attach(&dir)?.purge()?;
    }
    Stack::up(&dir, Wanted { lifetime: Lifetime::UntilDown, ..Wanted::all() })
}

async fn audited(stack: &Stack, corpus: &[corpus::Document], voyage: voyage::Voyage) -> Result<Outrigger> {
    let audit = audit::judge(&audit::look(stack, place::SIDECAR).await?, corpus, &voyage.acknowledged);
    let restarts = voyage.restarts;
    Ok(Outrigger {
        recovered_committed: restarts.iter().map(|restart| restart.committed).sum(),
        recovered_aborted: restarts.iter().map(|restart| restart.aborted).sum(),
        ready_ms_max: restarts.iter().map(|restart| restart.ready_ms).fold(0.0, f64::max),
        restarts,
        answers: voyage.answers,
        prepared_left: voyage.prepared_left,
        locks_left: voyage.locks_left,
        rss_anon_idle_bytes: voyage.rss_idle,
        rss_anon_peak_bytes: voyage.rss_peak,
        seconds: voyage.seconds,
        documents_per_second: rate(corpus.len(), voyage.seconds),
        audit,
    })
}

fn rate(documents: usize, seconds: f64) -> f64 {
    (documents as f64 / seconds * 10.0).round() / 10.0
}

/// Shown on a terminal only.
fn bar(name: &'static str, documents: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:<14}{bar:40} {pos}/{len} {per_sec} {elapsed}");
    let bar = ProgressBar::new(documents as u64).with_prefix(name);
    bar.set_style(style.expect("the template is well formed"));
    bar
}
