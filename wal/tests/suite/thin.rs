//! Flushes that the kernel itself fails: a volume that runs out of what it promised. No fault is injected anywhere; that the
//! failure is real is told by a second descriptor, which the kernel tells of it too.

use std::fs::File;
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use outrigger_wal::{Backend, Lsn, Options, Wal, WalError, inspect};

use crate::common::{contents, payload, small, wait_until};
use crate::mounted::ThinDisk;

/// A log with one acknowledged record, on a disk that has nothing left.
struct Exhausted {
    disk: ThinDisk,
    dir: PathBuf,
    options: Options,
    wal: Wal,
    kept: Lsn,
}

fn exhausted(backend: Backend) -> Option<Exhausted> {
    let disk = ThinDisk::new(16)?;
    let dir = disk.mounted().join("log");
    // No seal comes between the test and the disk.
    let options = Options { backend, seal_after: Duration::ZERO, ..small() };
    let (wal, _) = Wal::open(&dir, options.clone()).unwrap();
    // It fills its page: a loop device calls a write that ends early for want of room a success, so the next one must not
    // begin on a page that can be written.
    let kept = wal.append(0, &filling()).unwrap().end;
    assert_eq!(kept.as_u64() % 4096, 0);
    wal.flush(kept).unwrap();
    wait_until("the spares are made", || wal.stats().prepared_bytes >= 2 * options.segment_bytes);
    disk.exhaust();
    Some(Exhausted { disk, dir, options, wal, kept })
}

/// What makes a record of one page.
fn filling() -> Vec<u8> {
    payload(0, 4096 - 32)
}

fn poisoned<T: std::fmt::Debug>(answer: Result<T, WalError>, by: &str) {
    match answer {
        Err(WalError::Poisoned { cause }) => assert!(cause.starts_with(by), "{cause}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flush_that_the_kernel_fails_poisons_and_its_later_word_is_not_taken() {
    for backend in [Backend::Mmap, Backend::Pwrite] {
        let Some(Exhausted { disk, dir, options, wal, kept }) = exhausted(backend) else { return };
        let other = File::open(dir.join("00000000000000000001.wal")).unwrap();
        let lost = payload(1, 20_000);
        let appended = wal.append(0, &lost).unwrap();
        poisoned(wal.flush(appended.end), "a flush failed: ");
        // It was the kernel: it tells every descriptor once, and from then on says that all is well, which is not so.
        let fired = other.sync_data().expect_err("the kernel failed a write");
        println!("{backend:?}: {fired}");
        other.sync_data().expect("a second flush is told that all is well");

        assert_eq!(wal.durable_lsn(), kept);
        assert!(wal.is_poisoned());
        poisoned(wal.flush(appended.end), "a flush failed: ");
        poisoned(wal.append(0, b"more"), "a flush failed: ");
        let mut task = Box::pin(wal.durable(appended.end));
        match task.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => poisoned(answer, "a flush failed: "),
            Poll::Pending => panic!("a poisoned log lets nobody wait"),
        }
        wal.flush(kept).expect("what is durable stays so");
        drop(task);
        drop(wal);

        // The page cache still shows the record whole. The next opening must ask the disk, which never got it.
        let mut shown = vec![0; lost.len()];
        other.read_exact_at(&mut shown, appended.lsn.as_u64() + 32).unwrap();
        assert!(shown == lost, "the page cache shows what is lost");
        disk.replenish();
        let (wal, recovery) = Wal::open(&dir, options).expect("no legal crash is refused");
        assert_eq!((recovery.records, recovery.next_lsn), (1, kept), "{backend:?}");
        let next = wal.append(0, b"goes on").unwrap();
        wal.flush(next.end).unwrap();
        assert_eq!(contents(&wal), [(0, filling()), (0, b"goes on".to_vec())]);
        wal.close().unwrap();
        assert!(inspect::verify(&dir).unwrap().corrupt.is_empty());
    }
}

/// Also where the error is "no room": the spare's blocks were promised, so this is no full disk that passes.
#[test]
fn a_segment_whose_header_the_kernel_does_not_write_is_not_begun() {
    for backend in [Backend::Mmap, Backend::Pwrite] {
        let Some(Exhausted { disk, dir, options, wal, kept }) = exhausted(backend) else { return };
        poisoned(wal.rotate(), "beginning a segment failed: ");
        assert!(!dir.join("00000000000000000002.wal").exists());
        assert_eq!(wal.durable_lsn(), kept);
        drop(wal);
        disk.replenish();
        let (wal, recovery) = Wal::open(&dir, options).unwrap();
        assert_eq!((recovery.records, recovery.segments), (1, 1));
        wal.rotate().unwrap();
        wal.close().unwrap();
    }
}
