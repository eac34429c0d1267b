//! What it is worth that released segments are used again: the same load over many segments, with spares that are filled
//! with zeros and with spares that were segments. And why only those are used again that are in the page cache: what
//! filling a segment with zeros costs beside reading it back in single pages.

use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use outrigger_wal::{Backend, Directory, Lsn, Options, Storage, Wal};
use rustix::fs::{Advice, fadvise};
use serde_json::{Value, json};

use crate::device::Counters;
use crate::measure::{self, Load, Writers};
use crate::peers::Log;

/// Segments behind the tail's that nobody has released yet.
const LAG: u64 = 2;
const PAGE: usize = 4096;

/// Drops a file from the page cache and reads it back in single pages.
fn read_back(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_data()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    fadvise(&file, 0, None, Advice::Random)?;
    let mut page = [0; PAGE];
    for at in (0..file.metadata()?.len()).step_by(PAGE) {
        file.read_exact_at(&mut page, at)?;
    }
    Ok(())
}

/// One load over one kind of spares, all rounds.
pub(crate) struct Row {
    backend: Backend,
    recycle: bool,
    load: Loads,
    /// Acknowledgements a second, one entry a round.
    rates: Vec<f64>,
    latencies: Vec<Duration>,
    rolls: u64,
    /// Bytes that the device wrote.
    device: u64,
    /// Bytes of the log's stream.
    appended: u64,
    /// Bytes that the log wrote to prepare segments, by its own count.
    prepared: u64,
    /// Of all threads of this process.
    cpu: Duration,
}

/// So many writers of so large payloads, over segments small enough that the span crosses several.
#[derive(Clone, Copy)]
struct Loads {
    writers: usize,
    size: usize,
    segment_mib: u64,
}

const LOADS: [Loads; 6] = [
    Loads { writers: 1, size: 256, segment_mib: 1 },
    Loads { writers: 8, size: 256, segment_mib: 4 },
    Loads { writers: 64, size: 256, segment_mib: 8 },
    Loads { writers: 1, size: 4096, segment_mib: 8 },
    Loads { writers: 8, size: 4096, segment_mib: 32 },
    Loads { writers: 64, size: 4096, segment_mib: 64 },
];

/// Every load, every backend and every kind of spares, `rounds` times for `span` each.
pub(crate) fn measure(place: &Path, rounds: usize, span: Duration, seed: u64) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for load in LOADS {
        for backend in [Backend::Mmap, Backend::Pwrite] {
            rows.extend([false, true].map(|recycle| Row::new(backend, recycle, load)));
        }
    }
    for round in 1..=rounds.max(1) {
        for row in &mut rows {
            let dir = tempfile::tempdir_in(place)?;
            row.once(dir.path(), span, seed).context("a load over many segments")?;
        }
        eprintln!("round {round} of {rounds}");
    }
    Ok(rows)
}

impl Row {
    fn new(backend: Backend, recycle: bool, load: Loads) -> Row {
        Row {
            backend,
            recycle,
            load,
            rates: Vec::new(),
            latencies: Vec::new(),
            rolls: 0,
            prepared: 0,
            device: 0,
            appended: 0,
            cpu: Duration::ZERO,
        }
    }

    fn once(&mut self, dir: &Path, span: Duration, seed: u64) -> Result<()> {
        let Loads { writers, size, segment_mib } = self.load;
        let options = Options {
            segment_bytes: segment_mib << 20,
            backend: self.backend,
            recycle: self.recycle,
            ..Options::default()
        };
        let (wal, _) = Wal::open(dir, options)?;
        let log: Arc<dyn Log> = Arc::new(wal.clone());
        let load = Load { who: Writers::Threads, writers, size, span, seed };
        let (next, done) = (Arc::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let releasing = scope.spawn(|| release(&wal, segment_mib << 20, &done));
            let measured = (|| {
                // Until segments come round again.
                while wal.next_lsn() < Lsn::from_u64((LAG + 3) * (segment_mib << 20)) {
                    measure::run(&log, &next, Load { span: span / 8, ..load })?;
                }
                rustix::fs::sync();
                let (before, cpu, stats) = (Counters::read(dir)?, processor_time()?, wal.stats());
                let measured = measure::run(&log, &next, load)?;
                // What was made dirty meanwhile is this load's, whenever it is written.
                rustix::fs::sync();
                self.device += Counters::read(dir)?.device - before.device;
                self.cpu += processor_time()?.saturating_sub(cpu);
                let after = wal.stats();
                self.appended += after.appended_bytes - stats.appended_bytes;
                self.prepared += after.prepared_bytes - stats.prepared_bytes;
                self.rolls += (after.next_lsn - stats.next_lsn) / (segment_mib << 20);
                anyhow::Ok(measured)
            })();
            done.store(true, Ordering::Relaxed);
            releasing.join().ok().context("the releasing thread panicked")??;
            let measured = measured?;
            self.rates.push(measured.per_second());
            self.latencies.extend(measured.latencies);
            anyhow::Ok(())
        })
    }

    fn percentile(&self, share: f64) -> f64 {
        let mut all = self.latencies.clone();
        all.sort_unstable();
        let at = ((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1));
        all.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    }

    fn rate(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn device_per_byte(&self) -> f64 {
        self.device as f64 / self.appended as f64
    }

    fn prepared_per_byte(&self) -> f64 {
        self.prepared as f64 / self.appended as f64
    }

    fn cpu_per_gib(&self) -> f64 {
        self.cpu.as_secs_f64() / (self.appended as f64 / (1 << 30) as f64)
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "backend": format!("{:?}", self.backend), "recycle": self.recycle, "writers": self.load.writers,
            "payload_bytes": self.load.size, "segment_mib": self.load.segment_mib, "acks_per_second": self.rate(),
            "acks_per_second_each": self.rates, "p50_us": self.percentile(0.5), "p99_us": self.percentile(0.99),
            "worst_us": self.percentile(1.0), "rolls": self.rolls, "prepared_bytes_per_byte": self.prepared_per_byte(),
            "device_bytes_per_byte": self.device_per_byte(), "cpu_seconds_per_gib": self.cpu_per_gib(),
        })
    }
}

/// Lets go of what is far enough behind, as its owner would.
fn release(wal: &Wal, segment_bytes: u64, done: &AtomicBool) -> Result<()> {
    while !done.load(Ordering::Relaxed) {
        let durable = wal.durable_lsn().as_u64();
        wal.release(Lsn::from_u64(durable.saturating_sub(LAG * segment_bytes)))?;
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// What it takes to prepare one segment.
pub(crate) struct Prepared {
    how: &'static str,
    took: Duration,
    cpu: Duration,
    device: u64,
}

const PREPARED_MIB: u64 = 64;

/// A segment filled with zeros, and one that was dropped from the page cache and is read back in single pages, so that no
/// large folios come in; each eight times.
pub(crate) fn prepare(place: &Path) -> Result<Vec<Prepared>> {
    const TIMES: u32 = 8;
    let dir = tempfile::tempdir_in(place)?;
    let directory = Directory::new(dir.path(), Backend::Mmap);
    let zero = || {
        drop(directory.create("zeroed", PREPARED_MIB << 20)?);
        Ok(())
    };
    let read = || read_back(&dir.path().join("zeroed"));
    let ways: [(&str, &dyn Fn() -> io::Result<()>); 2] =
        [("filled with zeros", &zero), ("read back in single pages", &read)];
    let mut all = Vec::new();
    for (how, make) in ways {
        let (before, cpu, begun) = (Counters::read(dir.path())?, processor_time()?, Instant::now());
        for _ in 0..TIMES {
            make()?;
        }
        let took = begun.elapsed() / TIMES;
        let device = (Counters::read(dir.path())?.device - before.device) / u64::from(TIMES);
        all.push(Prepared { how, took, cpu: processor_time()?.saturating_sub(cpu) / TIMES, device });
    }
    Ok(all)
}

impl Prepared {
    pub(crate) fn json(&self) -> Value {
        json!({
            "how": self.how, "mib": PREPARED_MIB, "seconds": self.took.as_secs_f64(),
            "cpu_seconds": self.cpu.as_secs_f64(), "device_bytes": self.device,
        })
    }
}

/// Time that this process has had of all processors: in ticks, which is enough for seconds.
fn processor_time() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = text.rsplit_once(')').context("/proc/self/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// The table.
pub(crate) fn markdown(prepared: &[Prepared], rows: &[Row]) -> String {
    let mut text =
        format!("| preparing {PREPARED_MIB} MiB | ms | CPU ms | MiB to the device |\n|---|---:|---:|---:|\n");
    for Prepared { how, took, cpu, device } in prepared {
        let (took, cpu) = (took.as_secs_f64() * 1e3, cpu.as_secs_f64() * 1e3);
        // Writing into a string cannot fail.
        let _ = writeln!(text, "| {how} | {took:.0} | {cpu:.0} | {:.1} |", *device as f64 / (1 << 20) as f64);
    }
    text.push_str(
        "\nDevice: bytes that it wrote for each byte of the log; prepared: of these, zeros and headers, by the log's count.\n\n\
         | writers, payload, segment | backend | spares | acks/s | lowest to highest | p50 µs | p99 µs | worst ms | device | prepared | CPU s a GiB | rolls |\n\
         |---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let Loads { writers, size, segment_mib } = row.load;
        let (low, high) =
            row.rates.iter().fold((f64::MAX, 0.0_f64), |(low, high), &rate| (low.min(rate), high.max(rate)));
        let _ = writeln!(
            text,
            "| {writers}, {size} B, {segment_mib} MiB | {:?} | {} | {:.0} | {low:.0} to {high:.0} | {:.0} | {:.0} | {:.1} | {:.2} | {:.2} | {:.2} | {} |",
            row.backend,
            if row.recycle { "recycled" } else { "zeroed" },
            row.rate(),
            row.percentile(0.5),
            row.percentile(0.99),
            row.percentile(1.0) / 1e3,
            row.device_per_byte(),
            row.prepared_per_byte(),
            row.cpu_per_gib(),
            row.rolls,
        );
    }
    text
}
