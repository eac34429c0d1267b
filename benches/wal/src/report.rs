//! What came of the climb: rates, ratios to the limit and to the best peer, latencies, bytes, and which goals are met.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::climb::{Climbed, Of, Rung};
use crate::device::{Pace, PerRecord};
use crate::measure::Writers;
use crate::peers::Peer;

/// More than that between passes of the raw loop, and something else than the contestants decided.
const UNSTEADY: f64 = 1.5;

/// A line of the speed tables.
struct Row {
    name: String,
    rate: f64,
    of_limit: f64,
    of_best_peer: Option<f64>,
    p50_us: f64,
    p99_us: f64,
}

fn percentile(climbed: &Climbed, rung: Rung, share: f64) -> f64 {
    let mut all: Vec<Duration> =
        climbed.of(rung).into_iter().flatten().flat_map(|measured| measured.latencies.iter().copied()).collect();
    all.sort_unstable();
    let at = ((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1));
    all.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
}

/// The quickest of ours, or of the others, whoever waits for it in this way.
fn best(climbed: &Climbed, ours: bool, who: Writers, writers: usize, size: usize) -> Option<f64> {
    let those = (0..climbed.names.len()).filter(|peer| climbed.ours[*peer] == ours);
    those.filter_map(|peer| climbed.rate(Rung::Peer { peer, who, writers, size })).max_by(f64::total_cmp)
}

fn rows(climbed: &Climbed, who: Writers, writers: usize, size: usize) -> Vec<Row> {
    let limit = Rung::Limit { writers, size };
    let limit_rate = climbed.rate(limit).unwrap_or(f64::NAN);
    let best_peer = best(climbed, false, who, writers, size);
    let row = |name: &str, rung: Rung| {
        let rate = climbed.rate(rung)?;
        Some(Row {
            name: name.to_owned(),
            rate,
            of_limit: rate / limit_rate,
            of_best_peer: best_peer.map(|best| rate / best),
            p50_us: percentile(climbed, rung, 0.5),
            p99_us: percentile(climbed, rung, 0.99),
        })
    };
    let name = if writers == 1 { "limit: `pwrite` + `fdatasync`" } else { "limit: a full group each time" };
    let peers = climbed.names.iter().enumerate();
    let peers = peers.filter_map(|(peer, name)| row(name, Rung::Peer { peer, who, writers, size }));
    row(name, limit).into_iter().chain(peers).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What lone records cost: for each pace, bytes at the device and by the process.
struct Lone {
    name: String,
    costs: [(f64, f64); 2],
}

fn lone(climbed: &Climbed, size: usize) -> Vec<Lone> {
    let peers = climbed.names.iter().enumerate().map(|(peer, name)| (*name, Of::Peer(peer)));
    let others = [("`pwrite` + `fdatasync` of a page", Of::Raw), ("nobody (what else the machine writes)", Of::Nobody)];
    let row = |(name, of): (&str, Of)| {
        let costs = Pace::BOTH.map(|pace| {
            let costs = climbed.lone.iter().find(|(rung, _)| *rung == Rung::Lone { of, size, pace });
            let costs = costs.map_or(&[][..], |(_, costs)| costs);
            let median_of = |read: fn(&PerRecord) -> f64| median(costs.iter().map(read).collect());
            (median_of(|cost| cost.device), median_of(|cost| cost.process))
        });
        Lone { name: name.to_owned(), costs }
    };
    peers.chain(others).map(row).collect()
}

/// How far the raw loop of one writer strayed, highest rate over lowest: what a rung's ratio can be wrong by.
fn unsteadiness(climbed: &Climbed) -> f64 {
    let strayed = climbed.sizes.iter().filter_map(|&size| {
        let rates = climbed.of(Rung::Limit { writers: 1, size })?.iter().map(crate::measure::Measured::per_second);
        let (low, high) = rates.fold((f64::MAX, 0.0_f64), |(low, high), rate| (low.min(rate), high.max(rate)));
        Some(high / low)
    });
    strayed.fold(1.0, f64::max)
}

/// What ours are to reach, and whether they do.
fn goals(climbed: &Climbed) -> Vec<(String, f64, f64, bool)> {
    let mut all = Vec::new();
    let mut at_least = |what: String, is: Option<f64>, goal: f64| {
        if let Some(is) = is {
            all.push((what, is, goal, is >= goal));
        }
    };
    for &size in &climbed.sizes {
        for &writers in &climbed.writers {
            let limit = climbed.rate(Rung::Limit { writers, size });
            for who in Writers::BOTH {
                let ours = best(climbed, true, who, writers, size);
                let peer = best(climbed, false, who, writers, size);
                let mmap = climbed.rate(Rung::Peer { peer: 0, who, writers, size });
                let ratio = |of: Option<f64>, to: Option<f64>| Some(of? / to?);
                let at = format!("{size} B, {writers} {}", who.name());
                at_least(format!("{at}: better backend / best peer"), ratio(ours, peer), 1.0);
                at_least(format!("{at}: mmap / best peer"), ratio(mmap, peer), 0.9);
                match (writers, who) {
                    (1, Writers::Threads) => {
                        at_least(format!("{at}: better backend / raw loop"), ratio(ours, limit), 0.9);
                    }
                    (8, Writers::Threads) => {
                        at_least(format!("{at}: better backend / group ceiling"), ratio(ours, limit), 0.45);
                    }
                    _ => {}
                }
            }
        }
    }
    if climbed.sizes.contains(&256) {
        for Lone { name, costs } in lone(climbed, 256).into_iter().take(climbed.ours.iter().filter(|is| **is).count()) {
            for (pace, (device, process)) in Pace::BOTH.iter().zip(costs) {
                let what = format!("lone 256 B record {}, {name}", pace.name());
                // A page more or less, over all of them.
                let most = 8192.0 * 1.02;
                all.push((format!("{what}: pages of the log, at most"), process, 8192.0, process <= most));
                all.push((format!("{what}: bytes at the device, at most"), device, 8192.0, device <= most));
            }
        }
    }
    all
}

/// Members of the JSON answer.
pub(crate) fn json(climbed: &Climbed) -> Map<String, Value> {
    let mut speeds = Vec::new();
    for &size in &climbed.sizes {
        for who in Writers::BOTH {
            for &writers in &climbed.writers {
                speeds.extend(rows(climbed, who, writers, size).into_iter().map(|row| {
                    json!({
                        "payload_bytes": size, "writers": writers, "who": who.name(), "log": row.name,
                        "acks_per_second": row.rate, "of_limit": row.of_limit, "of_best_peer": row.of_best_peer,
                        "p50_us": row.p50_us, "p99_us": row.p99_us,
                    })
                }));
            }
        }
    }
    let mut lones = Vec::new();
    for &size in &climbed.sizes {
        for Lone { name, costs } in lone(climbed, size) {
            lones.extend(Pace::BOTH.iter().zip(costs).map(|(pace, (device, process))| {
                json!({
                    "payload_bytes": size, "log": name, "pace": pace.name(), "device_bytes": device,
                    "process_bytes": process,
                })
            }));
        }
    }
    let goals = goals(climbed).into_iter();
    let goals = goals.map(|(what, is, goal, met)| json!({"what": what, "is": is, "goal": goal, "met": met}));
    let members = [
        ("rounds", climbed.rounds.into()),
        ("passes", climbed.passes.into()),
        ("seconds", climbed.seconds.into()),
        ("raw_loop_highest_over_lowest", unsteadiness(climbed).into()),
        ("speeds", speeds.into()),
        ("lone", lones.into()),
        ("goals", goals.collect()),
    ];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The tables.
pub(crate) fn markdown(climbed: &Climbed, peers: &[Box<dyn Peer>]) -> String {
    let Climbed { rounds, passes, seconds, .. } = climbed;
    let mut text = format!("{rounds} interleaved rounds of {passes} passes, {seconds} s on each rung; medians.\n");
    let strayed = unsteadiness(climbed);
    if strayed > UNSTEADY {
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "\n**The disk was not steady**: the raw loop's own rate differed {strayed:.1}-fold between passes. Ratios of \
             this run mean little."
        );
    }
    for &size in &climbed.sizes {
        for who in Writers::BOTH {
            for &writers in &climbed.writers {
                speed_table(&mut text, climbed, who, writers, size);
            }
        }
        lone_table(&mut text, climbed, size);
    }
    text.push_str("\n| goal | is | at least, unless it says at most |\n|---|---:|---:|\n");
    for (what, is, goal, met) in goals(climbed) {
        let _ = writeln!(text, "| {}{what} | {is:.2} | {goal} |", if met { "" } else { "**missed:** " });
    }
    text.push_str("\nSettings:\n\n");
    for peer in peers {
        let _ = writeln!(text, "* {}: {}", peer.name(), peer.settings());
    }
    text
}

fn speed_table(text: &mut String, climbed: &Climbed, who: Writers, writers: usize, size: usize) {
    // Writing into a string cannot fail.
    let _ = write!(
        text,
        "\n| {size} B, {writers} {} | acks/s | × limit | × best peer | p50 µs | p99 µs |\n|---|---:|---:|---:|---:|---:|\n",
        who.name()
    );
    for Row { name, rate, of_limit, of_best_peer, p50_us, p99_us } in rows(climbed, who, writers, size) {
        let of_best_peer = of_best_peer.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
        let _ = writeln!(text, "| {name} | {rate:.0} | {of_limit:.2} | {of_best_peer} | {p50_us:.0} | {p99_us:.0} |");
    }
}

fn lone_table(text: &mut String, climbed: &Climbed, size: usize) {
    let head: String = Pace::BOTH.iter().map(|pace| format!(" {0}: device | {0}: process |", pace.name())).collect();
    let _ = writeln!(text, "\n| bytes for a lone {size} B record |{head}\n|---|---:|---:|---:|---:|");
    for Lone { name, costs } in lone(climbed, size) {
        let cells: String = costs.iter().map(|(device, process)| format!(" {device:.0} | {process:.0} |")).collect();
        let _ = writeln!(text, "| {name} |{cells}");
    }
}
