//! The rounds. Each climbs every rung with a log made just now, so that no rung finds what another one left.

use std::path::Path;

use anyhow::{Context, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::Options;
use crate::device::{self, PerRecord};
use crate::limit;
use crate::measure::{self, Load, Measured, Writers};
use crate::peers::{Peer, Purpose};

/// What is measured at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// The disk's own limit.
    Limit { writers: usize, size: usize },
    /// A peer, by its place in the list.
    Peer { peer: usize, who: Writers, writers: usize, size: usize },
    /// Lone records of a peer; `None`: of nobody.
    Lone { peer: Option<usize>, size: usize },
}

/// What came of all rounds.
#[derive(Debug, Default)]
pub(crate) struct Climbed {
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) writers: Vec<usize>,
    pub(crate) sizes: Vec<usize>,
    pub(crate) names: Vec<&'static str>,
    pub(crate) ours: Vec<bool>,
    /// One entry a round.
    pub(crate) speeds: Vec<(Rung, Vec<Measured>)>,
    /// One entry a round.
    pub(crate) lone: Vec<(Rung, Vec<PerRecord>)>,
}

impl Climbed {
    pub(crate) fn of(&self, rung: Rung) -> Option<&[Measured]> {
        self.speeds.iter().find(|(one, _)| *one == rung).map(|(_, measured)| measured.as_slice())
    }

    /// Acknowledgements a second: the median of the rounds.
    pub(crate) fn rate(&self, rung: Rung) -> Option<f64> {
        let mut rates: Vec<f64> = self.of(rung)?.iter().map(Measured::per_second).collect();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied()
    }
}

fn rungs(options: &Options, peers: usize) -> Vec<Rung> {
    let mut all = Vec::new();
    for &size in &options.sizes {
        all.extend((0..peers).map(Some).chain([None]).map(|peer| Rung::Lone { peer, size }));
        for &writers in &options.writers {
            all.push(Rung::Limit { writers, size });
            for who in Writers::BOTH {
                all.extend((0..peers).map(|peer| Rung::Peer { peer, who, writers, size }));
            }
        }
    }
    all
}

/// Climbs.
pub(crate) fn climb(options: &Options, peers: &[Box<dyn Peer>], place: &Path) -> Result<Climbed> {
    let mut climbed = Climbed {
        rounds: options.rounds,
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
        order.shuffle(&mut rng);
        for rung in &order {
            let dir = tempfile::tempdir_in(place)?;
            on_rung(options, peers, *rung, dir.path(), &mut climbed).with_context(|| format!("{rung:?}"))?;
            dir.close()?;
        }
        eprintln!("round {round} of {}", options.rounds);
    }
    Ok(climbed)
}

fn on_rung(options: &Options, peers: &[Box<dyn Peer>], rung: Rung, dir: &Path, climbed: &mut Climbed) -> Result<()> {
    let measured = match rung {
        Rung::Limit { writers, size } => limit::run(dir, writers, size, options.span())?,
        Rung::Peer { peer, who, writers, size } => {
            let log = peers[peer].open(dir, Purpose::Speed)?;
            measure::run(&log, Load { who, writers, size, span: options.span(), seed: options.seed })?
        }
        Rung::Lone { peer, size } => {
            let log = peer.map(|peer| peers[peer].open(dir, Purpose::Speed)).transpose()?;
            let cost = device::lone(dir, log.as_deref(), size, options.seed)?;
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
