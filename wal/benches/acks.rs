//! Durable acknowledgements a second, beside the disk's own limit, all contestants interleaved in one run.
//!
//! `cargo bench -p outrigger-wal --bench acks [-- SECONDS [ROUNDS]]`. Numbers of different runs are not comparable (the
//! disk, its neighbours and the other load differ); the ratios within one run are. The directory is `TMPDIR`.
#![allow(clippy::unwrap_used, reason = "a bench stops where anything goes wrong")]

use std::fs::File;
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use outrigger_wal::{Backend, Durable, Options, Wal};

const PAYLOAD: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contestant {
    /// One thread: `pwrite` of as many records as there are writers, `fdatasync`, again.
    Raw,
    Threads(Backend),
    Tasks(Backend),
}

const CONTESTANTS: [Contestant; 5] = [
    Contestant::Raw,
    Contestant::Threads(Backend::Mmap),
    Contestant::Threads(Backend::Pwrite),
    Contestant::Tasks(Backend::Mmap),
    Contestant::Tasks(Backend::Pwrite),
];

/// Acknowledgements a second, and acknowledgements a flush.
#[derive(Clone, Copy, Debug)]
struct Rate {
    acks: f64,
    group: f64,
}

fn raw(dir: &Path, writers: usize, span: Duration) -> Rate {
    let file = File::options().create(true).read(true).write(true).truncate(true).open(dir.join("raw")).unwrap();
    for page in 0..16_384 {
        file.write_all_at(&[0; 4096], page * 4096).unwrap();
    }
    file.sync_all().unwrap();
    let bytes = vec![7; (PAYLOAD + 32) * writers];
    let (begun, mut at, mut flushes) = (Instant::now(), 0, 0u64);
    while begun.elapsed() < span {
        file.write_all_at(&bytes, at).unwrap();
        file.sync_data().unwrap();
        at = (at + bytes.len() as u64) % (63 << 20);
        flushes += 1;
    }
    let acks = flushes * writers as u64;
    Rate { acks: acks as f64 / begun.elapsed().as_secs_f64(), group: writers as f64 }
}

fn open(dir: &Path, backend: Backend) -> Wal {
    let (wal, _) = Wal::open(dir, Options { backend, ..Options::default() }).unwrap();
    // Preparing spares is work of the opening, not of the record.
    while std::fs::read_dir(dir).unwrap().count() < 3
        || std::fs::read_dir(dir).unwrap().any(|entry| entry.unwrap().metadata().unwrap().len() < 64 << 20)
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(100));
    wal
}

fn rate(wal: &Wal, acks: u64, took: Duration) -> Rate {
    let stats = wal.stats();
    Rate { acks: acks as f64 / took.as_secs_f64(), group: acks as f64 / stats.flushes.max(1) as f64 }
}

fn threads(dir: &Path, backend: Backend, writers: usize, span: Duration) -> Rate {
    let wal = open(dir, backend);
    let (acks, stop, begun) = (AtomicU64::new(0), AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..writers {
            scope.spawn(|| {
                let payload = [7; PAYLOAD];
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let appended = wal.append(0, &payload).unwrap();
                    wal.flush(appended.end).unwrap();
                    count += 1;
                }
                acks.fetch_add(count, Ordering::Relaxed);
            });
        }
        std::thread::sleep(span);
        stop.store(true, Ordering::Relaxed);
    });
    rate(&wal, acks.into_inner(), begun.elapsed())
}

/// Wakes one slot of the executor below.
struct Slot {
    number: usize,
    ready: mpsc::Sender<usize>,
}

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        let _ = self.ready.send(self.number);
    }
}

/// Tasks on one thread, each: append, await, again.
fn tasks(dir: &Path, backend: Backend, writers: usize, span: Duration) -> Rate {
    let wal = open(dir, backend);
    let payload = [7; PAYLOAD];
    let (ready, woken) = mpsc::channel();
    let wakers: Vec<Waker> =
        (0..writers).map(|number| Waker::from(Arc::new(Slot { number, ready: ready.clone() }))).collect();
    let next = || -> Durable { wal.durable(wal.append(0, &payload).unwrap().end) };
    let mut slots: Vec<Durable> = (0..writers).map(|_| next()).collect();
    (0..writers).for_each(|number| ready.send(number).unwrap());
    let (begun, mut acks) = (Instant::now(), 0);
    while begun.elapsed() < span {
        let number = woken.recv().unwrap();
        let mut context = Context::from_waker(&wakers[number]);
        while let Poll::Ready(answer) = Pin::new(&mut slots[number]).poll(&mut context) {
            answer.unwrap();
            acks += 1;
            slots[number] = next();
        }
    }
    rate(&wal, acks, begun.elapsed())
}

fn run(contestant: Contestant, writers: usize, span: Duration) -> Rate {
    let dir = tempfile::tempdir().unwrap();
    match contestant {
        Contestant::Raw => raw(dir.path(), writers, span),
        Contestant::Threads(backend) => threads(dir.path(), backend, writers, span),
        Contestant::Tasks(backend) => tasks(dir.path(), backend, writers, span),
    }
}

fn main() {
    let numbers: Vec<f64> = std::env::args().filter_map(|text| text.parse().ok()).collect();
    let span = Duration::from_secs_f64(numbers.first().copied().unwrap_or(1.0));
    let rounds = numbers.get(1).map_or(3, |rounds| *rounds as usize);
    println!("{PAYLOAD} B payloads, {span:?} each, median of {rounds} interleaved rounds");
    println!("{:>7}  {:<16} {:>10} {:>11} {:>9}", "writers", "", "acks/s", "of the raw", "per flush");
    for writers in [1, 8, 64] {
        let mut rates: Vec<Vec<Rate>> = vec![Vec::new(); CONTESTANTS.len()];
        for _ in 0..rounds {
            for (at, contestant) in CONTESTANTS.iter().enumerate() {
                rates[at].push(run(*contestant, writers, span));
            }
        }
        let median = |mut rates: Vec<Rate>| {
            rates.sort_by(|a, b| a.acks.total_cmp(&b.acks));
            rates[rates.len() / 2]
        };
        let medians: Vec<Rate> = rates.into_iter().map(median).collect();
        for (contestant, rate) in CONTESTANTS.iter().zip(&medians) {
            let name = match contestant {
                Contestant::Raw => "raw fdatasync".to_owned(),
                Contestant::Threads(backend) => format!("threads, {backend:?}").to_lowercase(),
                Contestant::Tasks(backend) => format!("tasks, {backend:?}").to_lowercase(),
            };
            let ratio = rate.acks / medians[0].acks;
            println!("{writers:>7}  {name:<16} {:>10.0} {ratio:>11.2} {:>9.1}", rate.acks, rate.group);
        }
    }
}
