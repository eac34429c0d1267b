//! outrigger-wal beside its peers: durable acknowledgements a second, bytes that reach the device, what becomes of
//! damage, and how fast a long log opens.
//!
//! Every round climbs every rung, in an order that the seed shuffles, so that noise hits all of them alike. Only the
//! ratios within one run mean anything. Nobody is measured in a weaker durability mode than ours: an acknowledgement is
//! counted once the peer says that the record survives a power cut; each peer's settings stand below its table.

mod climb;
mod damage;
mod device;
mod limit;
mod machine;
mod measure;
mod opening;
mod payload;
mod peers;
mod report;
mod rolls;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Parser, Subcommand};
use serde_json::{Map, Value};

use peers::Peer;

/// outrigger-wal beside its peers, in one interleaved run
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench wal")]
struct Options {
    #[command(subcommand)]
    inner: Option<Inner>,
    /// Show what becomes of damage, instead of measuring speed
    #[arg(long)]
    corruption: bool,
    /// Measure the opening of logs of so many MiB, instead of speed
    #[arg(long, value_name = "MIB", value_delimiter = ',', num_args = 0.., default_missing_value = "128,1024")]
    opening: Vec<u64>,
    /// Measure what it is worth that released segments are used again, instead of the peers
    #[arg(long)]
    rolls: bool,
    /// How often all logs are made anew
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// How often every rung is climbed in a round, in another order each time
    #[arg(long, default_value_t = 3)]
    passes: usize,
    /// Seconds on a rung each time
    #[arg(long, default_value_t = 0.15)]
    seconds: f64,
    /// Numbers of writers
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 64])]
    writers: Vec<usize>,
    /// Payload sizes in bytes
    #[arg(long, value_delimiter = ',', default_values_t = [256, 4096])]
    sizes: Vec<usize>,
    /// Only peers whose name contains one of these; ours always run
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Seed of payloads, of the rungs' order, and of torn writes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Records in a damaged log
    #[arg(long, default_value_t = 12_000, value_parser = clap::value_parser!(u64).range(100..=50_000))]
    records: u64,
    /// Where the logs are written: a real disk [default: the folder for temporary files]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Inner {
    /// Opens a log that may be damaged, in a process of its own: it may panic, abort or hang
    #[command(hide = true)]
    Read {
        peer: String,
        dir: PathBuf,
        #[arg(long)]
        seed: u64,
    },
}

impl Options {
    fn place(&self) -> Result<tempfile::TempDir> {
        let place = match &self.dir {
            Some(dir) => tempfile::tempdir_in(dir)?,
            None => tempfile::tempdir()?,
        };
        ensure!(
            !machine::is_in_memory(place.path())?,
            "{} is in memory, where nothing is durable: say --dir",
            place.path().display()
        );
        Ok(place)
    }

    fn chosen(&self, of: Vec<Box<dyn Peer>>) -> Vec<Box<dyn Peer>> {
        let wanted =
            |peer: &dyn Peer| peer.is_ours() || self.peers.iter().any(|name| peer.name().contains(name.as_str()));
        of.into_iter().filter(|peer| self.peers.is_empty() || wanted(&**peer)).collect()
    }

    fn span(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(Inner::Read { peer, dir, seed }) = &options.inner {
        let all = peers::damaged();
        let Some(peer) = all.iter().find(|one| one.name() == peer) else { bail!("there is no peer {peer}") };
        return damage::read::run(&**peer, dir, *seed);
    }
    let place = options.place()?;
    let mut answer = Map::new();
    answer.insert("machine".into(), machine::describe(place.path())?);
    answer.insert("seed".into(), options.seed.into());
    let text = if options.corruption {
        let peers = options.chosen(peers::damaged());
        let rows = damage::table(&peers, place.path(), options.records, options.seed)?;
        answer.insert("corruption".into(), damage::json(&rows));
        damage::markdown(&rows, &peers, options.records)
    } else if options.rolls {
        let prepared = rolls::prepare(place.path())?;
        answer.insert("prepared".into(), prepared.iter().map(rolls::Prepared::json).collect());
        let rows = rolls::measure(place.path(), options.rounds, options.span(), options.seed)?;
        answer.insert("rolls".into(), rows.iter().map(rolls::Row::json).collect());
        rolls::markdown(&prepared, &rows)
    } else if !options.opening.is_empty() {
        let rows = opening::measure(&options.opening, place.path(), options.rounds, options.seed)?;
        answer.insert("opening".into(), rows.iter().map(opening::Row::json).collect());
        opening::markdown(&rows)
    } else {
        let peers = options.chosen(peers::measured());
        let climbed = climb::climb(&options, &peers, place.path())?;
        answer.extend(report::json(&climbed));
        report::markdown(&climbed, &peers)
    };
    if options.json {
        println!("{:#}", Value::Object(answer));
    } else {
        println!("{}\n\n{text}", machine::line(&answer["machine"]));
    }
    Ok(())
}
