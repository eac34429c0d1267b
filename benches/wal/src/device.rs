//! Bytes that a record costs the device.
//!
//! Two counters, both the kernel's. `device`: sectors that the block device under the log completed, everybody's on this
//! machine, the file system's own journal among them; on a quiet machine that is ours, and the row of nobody shows what
//! is not. `process`: `write_bytes` of `/proc/self/io`, pages that this process made dirty, counted when they become
//! dirty: a page that is dirtied twice before it is written counts once, and what the file system adds does not count.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{major, minor, stat};

use crate::payload;
use crate::peers::Log;

/// How lone records follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// 10 ms apart: long enough for whatever a log does when idle, and for the file's time of change to move on.
    Apart,
    /// Each as soon as the one before it is acknowledged.
    Busy,
}

impl Pace {
    pub(crate) const BOTH: [Pace; 2] = [Pace::Apart, Pace::Busy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Pace::Apart => "10 ms apart",
            Pace::Busy => "one after the other",
        }
    }

    /// Pause before each, and how many.
    fn pause(self) -> (Duration, u32) {
        match self {
            Pace::Apart => (Duration::from_millis(10), 60),
            Pace::Busy => (Duration::ZERO, 400),
        }
    }
}

/// Bytes for each record.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PerRecord {
    pub(crate) device: f64,
    pub(crate) process: f64,
}

/// Both counters, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters {
    pub(crate) device: u64,
    process: u64,
}

impl Counters {
    pub(crate) fn read(dir: &Path) -> Result<Counters> {
        let device = stat(dir)?.st_dev;
        let path = format!("/sys/dev/block/{}:{}/stat", major(device), minor(device));
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let sectors: u64 = text.split_whitespace().nth(6).context("sectors written")?.parse()?;
        let text = std::fs::read_to_string("/proc/self/io")?;
        let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("write_bytes")?;
        Ok(Counters { device: sectors * 512, process: line.parse()? })
    }
}

/// Writes lone records; `None` writes nothing, as often. `next` numbers the records of this log.
pub(crate) fn lone(
    dir: &Path,
    log: Option<&dyn Log>,
    next: &AtomicU64,
    size: usize,
    seed: u64,
    pace: Pace,
) -> Result<PerRecord> {
    let mut bytes = payload::make(seed, 0, size);
    let mut append = || -> Result<()> {
        let number = next.fetch_add(1, Ordering::Relaxed);
        payload::stamp(&mut bytes, number);
        log.map_or(Ok(()), |log| log.append(number, &bytes))
    };
    // What rungs before left to be written is not the records'.
    append()?;
    rustix::fs::sync();
    std::thread::sleep(Duration::from_millis(200));
    let (pause, records) = pace.pause();
    let before = Counters::read(dir)?;
    let begun = Instant::now();
    for number in 1..=records {
        std::thread::sleep((pause * number).saturating_sub(begun.elapsed()));
        append()?;
    }
    std::thread::sleep(Duration::from_millis(20));
    let after = Counters::read(dir)?;
    let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / f64::from(records);
    Ok(PerRecord { device: each(before.device, after.device), process: each(before.process, after.process) })
}
