//! What becomes of damage: each peer, each damage, judged by what was acknowledged against what is read afterwards.
//!
//! A log is written and acknowledged record by record, and its files are copied while it is still open: that is what a
//! power cut leaves. The copy is damaged and opened by a process of its own. Damage to acknowledged records is treated
//! right if the log refuses, or gives all of them all the same; a legal crash only if it gives all of them.

mod image;
mod kinds;
pub(crate) mod read;
mod verdict;

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::payload;
use crate::peers::{Log, Peer, Purpose};
use image::Image;
use kinds::Damage;
use read::Read;
use verdict::Verdict;

/// A test fills as many segments with fewer acknowledgements: CI's disk may take 4 ms for each.
const SIZE: usize = if cfg!(test) { 2048 } else { 256 };
/// The record that is under way when the power goes: long enough to lie on several sectors.
const UNFINISHED: usize = 4000;
/// For whatever a log still does behind an acknowledgement.
const SETTLE: Duration = Duration::from_millis(300);
/// Ways in which the last write may be torn that are tried.
const TORN: u64 = 24;
/// A log that was idle needs no length: what matters is its end.
const IDLE_RECORDS: u64 = if cfg!(test) { 50 } else { 500 };

/// One peer's verdicts, in the order of [`Damage::ALL`].
pub(crate) struct Row {
    name: &'static str,
    verdicts: Vec<Verdict>,
}

/// A log's files, and how many records were acknowledged by then.
pub(crate) struct Left {
    image: Image,
    acknowledged: u64,
}

/// What a peer's log leaves behind at three moments.
struct Moments {
    /// Busy, all acknowledged.
    busy: Left,
    /// The same, with one record more that was written and not acknowledged.
    later: Left,
    /// Idle for a while.
    idle: Left,
}

/// How a damaged log is opened: in a process of its own, or (in tests) here.
type Open = fn(&dyn Peer, &Path, u64) -> Result<Read>;

/// Damages every peer's log in every way.
pub(crate) fn table(peers: &[Box<dyn Peer>], place: &Path, records: u64, seed: u64) -> Result<Vec<Row>> {
    let rows = peers.iter().map(|peer| {
        eprintln!("{}", peer.name());
        row(&**peer, place, records, seed, read::in_a_process).with_context(|| peer.name())
    });
    rows.collect()
}

fn row(peer: &dyn Peer, place: &Path, records: u64, seed: u64, open: Open) -> Result<Row> {
    let moments = moments(peer, place, records, seed)?;
    let open = |image: &Image, acknowledged: u64| -> Result<Verdict> {
        let dir = tempfile::tempdir_in(place)?;
        image.store(dir.path())?;
        open(peer, dir.path(), seed).map(|read| verdict::of(&read, acknowledged))
    };
    let verdicts = Damage::ALL.iter().map(|damage| judge(*damage, &moments, seed, &open));
    Ok(Row { name: peer.name(), verdicts: verdicts.collect::<Result<_>>()? })
}

fn moments(peer: &dyn Peer, place: &Path, records: u64, seed: u64) -> Result<Moments> {
    let dir = tempfile::tempdir_in(place)?;
    let log = peer.open(dir.path(), Purpose::Damage { idle: false })?;
    append(&*log, 0..records, seed)?;
    let (busy, later) = unfinished(&*log, dir.path(), records, seed)?;
    drop(log);
    let dir = tempfile::tempdir_in(place)?;
    let log = peer.open(dir.path(), Purpose::Damage { idle: true })?;
    append(&*log, 0..IDLE_RECORDS, seed)?;
    std::thread::sleep(SETTLE);
    let idle = Left { image: Image::load(dir.path())?, acknowledged: IDLE_RECORDS };
    Ok(Moments { busy, later, idle })
}

fn append(log: &dyn Log, numbers: std::ops::Range<u64>, seed: u64) -> Result<()> {
    numbers.into_iter().try_for_each(|number| log.append(number, &payload::make(seed, number, SIZE)))
}

/// The log before and after one record more. Where that one happens to begin a new file, the next one does not.
fn unfinished(log: &dyn Log, dir: &Path, mut acknowledged: u64, seed: u64) -> Result<(Left, Left)> {
    for _ in 0..4 {
        std::thread::sleep(SETTLE);
        let before = Image::load(dir)?;
        log.append(acknowledged, &payload::make(seed, acknowledged, UNFINISHED))?;
        let after = Image::load(dir)?;
        if before.names().eq(after.names()) {
            return Ok((Left { image: before, acknowledged }, Left { image: after, acknowledged }));
        }
        acknowledged += 1;
    }
    bail!("every record begins a new file")
}

fn judge(
    damage: Damage,
    moments: &Moments,
    seed: u64,
    open: &dyn Fn(&Image, u64) -> Result<Verdict>,
) -> Result<Verdict> {
    let left = match damage {
        Damage::Torn => {
            let mut worst = Verdict::Whole;
            for try_number in 0..TORN {
                let torn = moments.busy.image.torn_towards(&moments.later.image, seed.wrapping_add(try_number));
                worst = worst.or_worse(open(&torn, moments.busy.acknowledged)?);
            }
            return Ok(worst);
        }
        Damage::LastWitnessed => &moments.later,
        Damage::LastIdle => &moments.idle,
        _ => &moments.busy,
    };
    match damage.apply(left, seed) {
        Some(damaged) => open(&damaged, left.acknowledged),
        None => Ok(Verdict::Absent),
    }
}

/// The rows as JSON.
pub(crate) fn json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let cells = Damage::ALL.iter().zip(&row.verdicts).map(|(damage, verdict)| {
            json!({"damage": damage.title(), "verdict": verdict.text(*damage), "right": verdict.is_right(*damage)})
        });
        json!({"log": row.name, "cells": cells.collect::<Vec<_>>()})
    };
    rows.iter().map(row).collect()
}

/// The table, a line for each damage, and a footnote for each column.
pub(crate) fn markdown(rows: &[Row], peers: &[Box<dyn Peer>], records: u64) -> String {
    let mut text =
        format!("{records} records of {SIZE} B, each acknowledged by itself; a cell in bold is wrong.\n\n| damage |");
    // Writing into a string cannot fail.
    for row in rows {
        let _ = write!(text, " {} |", row.name);
    }
    text.push_str("\n|---|");
    rows.iter().for_each(|_| text.push_str("---|"));
    for (at, damage) in Damage::ALL.iter().enumerate() {
        let _ = write!(text, "\n| {} |", damage.title());
        for row in rows {
            let verdict = &row.verdicts[at];
            let mark = if verdict.is_right(*damage) { "" } else { "**" };
            let _ = write!(text, " {mark}{}{mark} |", verdict.text(*damage));
        }
    }
    text.push_str("\n\nSettings:\n\n");
    for peer in peers {
        let _ = writeln!(text, "* {}: {}", peer.name(), peer.settings());
    }
    text
}

#[cfg(test)]
mod tests;
