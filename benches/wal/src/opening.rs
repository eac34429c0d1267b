//! Opening a long log: how fast, beside reading its files from one end to the other, and in how much memory.

use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use outrigger_wal::{Lsn, Options, Wal};
use rustix::fs::{Advice, fadvise};
use serde_json::{Value, json};

use crate::payload;

const SIZE: usize = 256;
/// Records that one flush makes durable while the log is filled.
const GROUP: u64 = 4096;
const CHUNK: usize = 1 << 20;

/// One length of log.
pub(crate) struct Row {
    mib: u64,
    records: u64,
    /// Reading the files in order, from the disk.
    read: Duration,
    /// `Wal::open`, from the disk.
    open: Duration,
    /// Reading every record through the open log, from the disk.
    replay: Duration,
    /// Growth of the process's own memory, at its highest, over opening and replay.
    memory: u64,
}

/// Writes a log of each length once and opens it `rounds` times; the medians.
pub(crate) fn measure(lengths: &[u64], place: &Path, rounds: usize, seed: u64) -> Result<Vec<Row>> {
    lengths.iter().map(|mib| one(*mib, place, rounds, seed)).collect()
}

fn one(mib: u64, place: &Path, rounds: usize, seed: u64) -> Result<Row> {
    eprintln!("a log of {mib} MiB");
    let dir = tempfile::tempdir_in(place)?;
    let records = fill(dir.path(), mib << 20, seed)?;
    let (mut reads, mut opens, mut replays, mut memory) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..rounds.max(1) {
        forget(dir.path())?;
        reads.push(read_files(dir.path())?);
        forget(dir.path())?;
        std::fs::write("/proc/self/clear_refs", "5").context("resetting the highest memory")?;
        let before = status("VmRSS:")?;
        let begun = Instant::now();
        let (wal, recovery) = Wal::open(dir.path(), Options::default())?;
        opens.push(begun.elapsed());
        forget(dir.path())?;
        let begun = Instant::now();
        let mut count = 0;
        for record in wal.read(recovery.first_lsn) {
            count += u64::from(record?.payload.len() == SIZE);
        }
        replays.push(begun.elapsed());
        anyhow::ensure!(count == records, "{count} of {records} records came back");
        memory = memory.max(status("VmHWM:")?.saturating_sub(before));
        drop(wal);
    }
    let median = |mut spans: Vec<Duration>| {
        spans.sort_unstable();
        spans[spans.len() / 2]
    };
    Ok(Row { mib, records, read: median(reads), open: median(opens), replay: median(replays), memory })
}

/// Fills a log and leaves it as a crash would: not closed.
fn fill(dir: &Path, bytes: u64, seed: u64) -> Result<u64> {
    let (wal, _) = Wal::open(dir, Options::default())?;
    let mut payload = payload::make(seed, 0, SIZE);
    let mut records = 0;
    while wal.next_lsn() < Lsn::from_u64(bytes) {
        payload::stamp(&mut payload, records);
        wal.append(0, &payload)?;
        records += 1;
        if records % GROUP == 0 {
            wal.flush(Lsn::MAX)?;
        }
    }
    wal.flush(Lsn::MAX)?;
    Ok(records)
}

fn segments(dir: &Path) -> Result<Vec<File>> {
    let mut paths: Vec<_> = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    paths.sort();
    paths.iter().map(|path| Ok(File::open(path)?)).collect()
}

/// Makes the page cache forget the log, so that the disk is asked.
fn forget(dir: &Path) -> Result<()> {
    for file in segments(dir)? {
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

fn read_files(dir: &Path) -> Result<Duration> {
    let mut chunk = vec![0; CHUNK];
    let begun = Instant::now();
    for file in segments(dir)? {
        let mut at = 0;
        loop {
            match file.read_at(&mut chunk, at)? {
                0 => break,
                read => at += read as u64,
            }
        }
    }
    Ok(begun.elapsed())
}

/// Bytes of a line of `/proc/self/status`.
fn status(name: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("a line of /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

impl Row {
    fn mib_per_second(&self, span: Duration) -> f64 {
        self.mib as f64 / span.as_secs_f64()
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "mib": self.mib, "records": self.records,
            "sequential_read_mib_per_second": self.mib_per_second(self.read),
            "open_seconds": self.open.as_secs_f64(), "open_mib_per_second": self.mib_per_second(self.open),
            "of_sequential_read": self.read.as_secs_f64() / self.open.as_secs_f64(),
            "replay_records_per_second": self.records as f64 / self.replay.as_secs_f64(),
            "memory_bytes": self.memory,
        })
    }
}

/// The table.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = format!(
        "Logs of {SIZE} B records, not closed, nothing of them in the page cache.\n\n| log | records | reading its files \
         | opening | × reading | replay | memory |\n|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "| {} MiB | {} | {:.0} MiB/s | {:.2} s, {:.0} MiB/s | {:.2} | {:.2} M records/s | {:.1} MiB |",
            row.mib,
            row.records,
            row.mib_per_second(row.read),
            row.open.as_secs_f64(),
            row.mib_per_second(row.open),
            row.read.as_secs_f64() / row.open.as_secs_f64(),
            row.records as f64 / row.replay.as_secs_f64() / 1e6,
            row.memory as f64 / (1 << 20) as f64,
        );
    }
    text
}
