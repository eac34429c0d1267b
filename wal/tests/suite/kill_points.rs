//! SIGKILL before and after every single operation on the disk, on real files: what was acknowledged is there, whatever
//! the place. The writer is this test binary, started again; the directory it writes through counts, and kills.

use std::any::Any;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use outrigger_wal::{Access, Backend, Directory, Lsn, Options, SegmentFile, Storage, Wal, inspect};

use crate::common::{inline, payload};

const DIR: &str = "OUTRIGGER_WAL_KILL_DIR";
const BACKEND: &str = "OUTRIGGER_WAL_KILL_BACKEND";
const AT: &str = "OUTRIGGER_WAL_KILL_AT";

/// Passed once before and once after each operation that changes anything; dies at the number it was given.
#[derive(Debug, Clone)]
struct Fuse {
    passed: Arc<AtomicU64>,
    at: u64,
}

impl Fuse {
    fn around<T>(&self, operation: impl FnOnce() -> T) -> T {
        self.pass();
        let answer = operation();
        self.pass();
        answer
    }

    fn pass(&self) {
        if self.passed.fetch_add(1, Ordering::SeqCst) + 1 == self.at {
            let me = rustix::process::getpid();
            let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
            std::process::abort();
        }
    }
}

#[derive(Debug)]
struct Fused<T> {
    inner: T,
    fuse: Fuse,
}

impl Fused<Directory> {
    fn file(&self, inner: Box<dyn SegmentFile>) -> Box<dyn SegmentFile> {
        Box::new(Fused { inner, fuse: self.fuse.clone() })
    }
}

impl Storage for Fused<Directory> {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.inner.lock()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn SegmentFile>> {
        self.fuse.around(|| self.inner.create(name, bytes)).map(|file| self.file(file))
    }
    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn SegmentFile>> {
        self.inner.open(name, access).map(|file| self.file(file))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.fuse.around(|| self.inner.rename(from, to))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.fuse.around(|| self.inner.remove(name))
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.fuse.around(|| self.inner.sync_dir())
    }
    fn place(&self) -> String {
        self.inner.place()
    }
}

impl SegmentFile for Fused<Box<dyn SegmentFile>> {
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, out)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.fuse.around(|| self.inner.write_at(offset, bytes))
    }
    fn flush(&self, range: Range<u64>) -> io::Result<()> {
        self.fuse.around(|| self.inner.flush(range))
    }
    fn forget(&self, range: Range<u64>) {
        self.inner.forget(range);
    }
}

fn backend(name: &str) -> Backend {
    if name == "pwrite" { Backend::Pwrite } else { Backend::Mmap }
}

/// The child: opens, appends, flushes, rotates, releases, seals and closes, one thread, the same each time. Says each
/// acknowledgement, and at the end how often the fuse was passed.
#[test]
fn child_of_the_kill_points() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let fuse = Fuse { passed: Arc::default(), at: std::env::var(AT).unwrap().parse().unwrap() };
    let inner = Directory::new(Path::new(&dir), backend(&std::env::var(BACKEND).unwrap()));
    inner.make().unwrap();
    let say = |line: String| std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    let storage = Fused { inner, fuse: fuse.clone() };
    let (wal, _) = Wal::open_on(Arc::new(storage), Options { recycle: true, ..inline() }).unwrap();
    let mut last = Lsn::ZERO;
    for number in 0..12u64 {
        let appended = wal.append(1, &payload(number, 900)).unwrap();
        wal.append(1, &payload(1_000 + number, 40)).unwrap();
        if number % 3 == 1 {
            wal.flush(Lsn::MAX).unwrap();
            say(format!("ACK {number}\n"));
            last = appended.lsn;
        }
        match number {
            // The released one of these is used again at the end.
            1 | 3 | 9 | 10 => wal.rotate().unwrap(),
            5 => wal.seal().unwrap(),
            8 => drop(wal.release(last).unwrap()),
            _ => {}
        }
    }
    wal.close().unwrap();
    say(format!("PASSED {}\n", fuse.passed.load(Ordering::SeqCst)));
}

/// Runs the child. Gives the last acknowledged number, and the passes if it lived to the end.
fn child(dir: &Path, backend: &str, at: u64) -> (Option<u64>, Option<u64>) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["kill_points::child_of_the_kill_points", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(BACKEND, backend)
        .env(AT, at.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let last = |word: &str| {
        let mut numbers = text.lines().filter_map(|line| line[line.find(word)? + word.len()..].trim().parse().ok());
        numbers.next_back()
    };
    let (acknowledged, passed) = (last("ACK "), last("PASSED "));
    assert!(passed.is_some() || !output.status.success(), "{text}");
    (acknowledged, passed)
}

#[test]
fn sigkill_at_every_operation_loses_nothing_acknowledged() {
    for name in ["mmap", "pwrite"] {
        let whole = tempfile::tempdir().unwrap();
        let total = child(whole.path(), name, 0).1.expect("nobody kills it");
        assert!(inspect::stat(whole.path()).unwrap().segments.iter().any(|segment| segment.recycled));
        assert!(total > 80, "{total} places");
        for at in 1..=total {
            let dir = tempfile::tempdir().unwrap();
            let (acknowledged, passed) = child(dir.path(), name, at);
            assert_eq!(passed, None, "it dies at {at} of {total}");
            let found = inspect::verify(dir.path()).unwrap();
            assert_eq!(found.corrupt, [], "{name} at {at}");
            let directory = Directory::new(dir.path(), backend(name));
            let (wal, _) = Wal::open_on(Arc::new(directory), inline()).expect("no death of a process is refused");
            let numbers: Vec<u64> = (wal.read(Lsn::ZERO))
                .map(|record| u64::from_le_bytes(record.unwrap().payload[..8].try_into().unwrap()))
                .collect();
            assert!(
                numbers.windows(2).all(|pair| pair[1] == pair[0] + 1_000 || pair[1] + 999 == pair[0]),
                "{numbers:?}"
            );
            if let Some(acknowledged) = acknowledged {
                assert!(numbers.contains(&(1_000 + acknowledged)), "{name} at {at}: {acknowledged} of {numbers:?}");
            }
            wal.append(1, b"goes on").unwrap();
            wal.close().unwrap();
        }
    }
}
