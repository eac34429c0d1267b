//! The rounds. Each begins with new logs, one for each peer and payload size, and climbs all rungs on them. Nothing is
//! removed before the end: what a file system does with freed blocks would fall on whoever is next.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::Options;
use crate::device::{self, Pace, PerRecord};
use crate::limit::Raw;
use crate::measure::{self, Load, Measured, Writers};
use crate::peers::{Log, Peer, Purpose};

/// Between opening all logs and the first rung, for the device to come to rest.
const SETTLE: Duration = Duration::from_secs(1);

/// What is measured at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// The disk's own limit.
    Limit { writers: usize, size: usize },
    /// A peer, by its place in the list.
    Peer { peer: usize, who: Writers, writers: usize, size: usize },
    /// Lone records.
    Lone { of: Of, size: usize, pace: Pace },
}

/// Whose lone records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Peer(usize),
    /// A file that is written and synced.
    Raw,
    Nobody,
}

/// What came of all rounds.
#[derive(Debug, Default)]
pub(crate) struct Climbed {
    pub(crate) rounds: usize,
    pub(crate) passes: usize,
    pub(crate) seconds: f64,
    pub(crate) writers: Vec<usize>,
    pub(crate) sizes: Vec<usize>,
    pub(crate) names: Vec<&'static str>,
    pub(crate) ours: Vec<bool>,
    /// One entry a pass.
    pub(crate) speeds: Vec<(Rung, Vec<Measured>)>,
    /// One entry a round.
    pub(crate) lone: Vec<(Rung, Vec<PerRecord>)>,
}

impl Climbed {
    pub(crate) fn of(&self, rung: Rung) -> Option<&[Measured]> {
        self.speeds.iter().find(|(one, _)| *one == rung).map(|(_, measured)| measured.as_slice())
    }

    /// Acknowledgements a second: the median of all passes.
    pub(crate) fn rate(&self, rung: Rung) -> Option<f64> {
        let mut rates: Vec<f64> = self.of(rung)?.iter().map(Measured::per_second).collect();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied()
    }
}

fn rungs(options: &Options, peers: usize) -> Vec<Rung> {
    let mut all = Vec::new();
    for &size in &options.sizes {
        for pace in Pace::BOTH {
            let of = (0..peers).map(Of::Peer).chain([Of::Raw, Of::Nobody]);
            all.extend(of.map(|of| Rung::Lone { of, size, pace }));
        }
        for &writers in &options.writers {
            all.push(Rung::Limit { writers, size });
            for who in Writers::BOTH {
                all.extend((0..peers).map(|peer| Rung::Peer { peer, who, writers, size }));
            }
        }
    }
    all
}

/// What a round writes to, for one payload size.
struct Opened {
    size: usize,
    raw: Raw,
    logs: Vec<(Arc<dyn Log>, Arc<AtomicU64>)>,
}

impl Opened {
    fn make(peers: &[Box<dyn Peer>], size: usize, dir: &Path) -> Result<Opened> {
        let logs = peers.iter().enumerate().map(|(at, peer)| {
            let place = dir.join(format!("{at}-{size}"));
            std::fs::create_dir(&place)?;
            let log = peer.open(&place, Purpose::Speed).with_context(|| format!("opening {}", peer.name()))?;
            Ok((log, Arc::default()))
        });
        let logs = logs.collect::<Result<_>>()?;
        let place = dir.join(format!("raw-{size}"));
        std::fs::create_dir(&place)?;
        Ok(Opened { size, raw: Raw::make(&place)?, logs })
    }
}

/// Climbs.
pub(crate) fn climb(options: &Options, peers: &[Box<dyn Peer>], place: &Path) -> Result<Climbed> {
    let mut climbed = Climbed {
        rounds: options.rounds,
        passes: options.passes,
        seconds: options.seconds,
        writers: options.writers.clone(),
        sizes: options.sizes.clone(),
        names: peers.iter().map(|peer| peer.name()).collect(),
        ours: peers.iter().map(|peer| peer.is_ours()).collect(),
        ..Climbed::default()
    };
    let mut order = rungs(options, peers.len());
    let mut rng = StdRng::seed_from_u64(options.seed);
    for round in 1..=options.rounds {
        let dir = place.join(format!("round-{round}"));
        std::fs::create_dir(&dir)?;
        let opened: Vec<Opened> =
            options.sizes.iter().map(|size| Opened::make(peers, *size, &dir)).collect::<Result<_>>()?;
        rustix::fs::sync();
        std::thread::sleep(SETTLE);
        // A disk has slow moments that are longer than a rung: several short passes spread them over all rungs.
        for pass in 0..options.passes {
            order.shuffle(&mut rng);
            for rung in order.iter().filter(|rung| pass == 0 || !matches!(rung, Rung::Lone { .. })) {
                on_rung(options, &opened, *rung, &dir, &mut climbed).with_context(|| format!("{rung:?}"))?;
            }
        }
        eprintln!("round {round} of {}", options.rounds);
    }
    Ok(climbed)
}

fn on_rung(options: &Options, opened: &[Opened], rung: Rung, dir: &Path, climbed: &mut Climbed) -> Result<()> {
    let (Rung::Limit { size, .. } | Rung::Peer { size, .. } | Rung::Lone { size, .. }) = rung;
    let opened = opened.iter().find(|one| one.size == size).context("every size was opened")?;
    let measured = match rung {
        Rung::Limit { writers, size } => opened.raw.run(writers, size, options.span())?,
        Rung::Peer { peer, who, writers, size } => {
            let (log, next) = &opened.logs[peer];
            measure::run(log, next, Load { who, writers, size, span: options.span(), seed: options.seed })?
        }
        Rung::Lone { of, size, pace } => {
            let from_zero = AtomicU64::default();
            let (log, next): (Option<&dyn Log>, _) = match of {
                Of::Peer(peer) => (Some(&*opened.logs[peer].0), &*opened.logs[peer].1),
                Of::Raw => (Some(&opened.raw), &from_zero),
                Of::Nobody => (None, &from_zero),
            };
            let cost = device::lone(dir, log, next, size, options.seed, pace)?;
            enter(&mut climbed.lone, rung).push(cost);
            return Ok(());
        }
    };
    enter(&mut climbed.speeds, rung).push(measured);
    Ok(())
}

fn enter<T>(list: &mut Vec<(Rung, Vec<T>)>, rung: Rung) -> &mut Vec<T> {
    let at = list.iter().position(|(one, _)| *one == rung).unwrap_or_else(|| {
        list.push((rung, Vec::new()));
        list.len() - 1
    });
    &mut list[at].1
}
