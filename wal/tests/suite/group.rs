//! Group commit, counted and not timed.

use std::any::Any;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outrigger_wal::sim::SimDisk;
use outrigger_wal::{Access, Options, SegmentFile, Storage, Wal};

use crate::common::{contents, inline, payload};

/// A disk whose flushes take their time, as real ones do, and which sees how many run at once.
#[derive(Debug)]
struct Slow {
    disk: SimDisk,
    gauge: Arc<Gauge>,
}

#[derive(Debug, Default)]
struct Gauge {
    now: AtomicU64,
    most: AtomicU64,
}

#[derive(Debug)]
struct SlowFile {
    file: Box<dyn SegmentFile>,
    gauge: Arc<Gauge>,
}

impl SegmentFile for SlowFile {
    fn bytes(&self) -> u64 {
        self.file.bytes()
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn flush(&self, range: Range<u64>) -> io::Result<()> {
        let now = self.gauge.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.gauge.most.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(2));
        self.gauge.now.fetch_sub(1, Ordering::SeqCst);
        self.file.flush(range)
    }
    fn forget(&self, range: Range<u64>) {
        self.file.forget(range);
    }
}

impl Slow {
    fn wrap(&self, file: Box<dyn SegmentFile>) -> Box<dyn SegmentFile> {
        Box::new(SlowFile { file, gauge: Arc::clone(&self.gauge) })
    }
}

impl Storage for Slow {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.disk.lock()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn SegmentFile>> {
        self.disk.create(name, bytes).map(|file| self.wrap(file))
    }
    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn SegmentFile>> {
        self.disk.open(name, access).map(|file| self.wrap(file))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
    fn place(&self) -> String {
        self.disk.place()
    }
}

#[test]
fn thirty_two_writers_share_their_flushes() {
    const WRITERS: u64 = 32;
    const EACH: u64 = 25;
    let gauge = Arc::new(Gauge::default());
    let storage = Slow { disk: SimDisk::new(1), gauge: Arc::clone(&gauge) };
    let options = Options { inline: false, segment_bytes: 1 << 20, ..inline() };
    let (wal, _) = Wal::open_on(Arc::new(storage), options).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let wal = wal.clone();
            scope.spawn(move || {
                for count in 0..EACH {
                    let appended = wal.append(0, &payload(writer * EACH + count, 64)).unwrap();
                    wal.flush(appended.end).unwrap();
                    assert!(wal.durable_lsn() >= appended.end);
                }
            });
        }
    });
    let stats = wal.stats();
    assert_eq!(stats.appended_records, WRITERS * EACH);
    assert!(stats.flushes * 6 < stats.appended_records, "{} flushes", stats.flushes);
    assert_eq!(gauge.most.load(Ordering::SeqCst), 1, "one leader at a time");
    let mut numbers: Vec<u64> =
        contents(&wal).iter().map(|(_, bytes)| u64::from_le_bytes(bytes[..8].try_into().unwrap())).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..WRITERS * EACH).collect::<Vec<_>>());
}

#[test]
fn who_waits_for_company_gets_it() {
    let options = Options {
        inline: false,
        segment_bytes: 1 << 20,
        flush_interval: Duration::from_millis(30),
        seal_after: Duration::ZERO,
        ..inline()
    };
    let (wal, _) = Wal::open_on(Arc::new(SimDisk::new(2)), options).unwrap();
    let barrier = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let (wal, barrier) = (&wal, &barrier);
            scope.spawn(move || {
                barrier.wait();
                let appended = wal.append(0, &payload(writer, 64)).unwrap();
                wal.flush(appended.end).unwrap();
            });
        }
    });
    assert!(wal.stats().flushes <= 3, "{}", wal.stats().flushes);
}
