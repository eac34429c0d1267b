//! Opening, appending, reading, rotating, releasing, closing.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use outrigger_wal::{Backend, Flushed, Lsn, Options, Wal, WalError, inspect};

use crate::common::{contents, open, payload, small, wait_until};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The least of all runtimes.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn what_was_flushed_is_there_after_a_drop_without_close() {
    for backend in [Backend::Mmap, Backend::Pwrite] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { backend, ..small() };
        let (wal, recovery) = Wal::open(dir.path(), options.clone()).unwrap();
        assert_eq!((recovery.records, recovery.segments, recovery.clean_shutdown), (0, 1, true));
        let id = wal.log_id();
        for number in 0..100 {
            let appended = wal.append(3, &payload(number, 1 + number as usize * 13)).unwrap();
            assert!(appended.lsn < appended.end && appended.end <= wal.next_lsn());
            wal.flush(appended.end).unwrap();
            assert!(wal.durable_lsn() >= appended.end);
        }
        drop(wal);
        let (wal, recovery) = Wal::open(dir.path(), options).unwrap();
        assert_eq!((recovery.log_id, recovery.records, recovery.torn_bytes), (id, 100, 0));
        assert!(!recovery.clean_shutdown);
        let expected: Vec<_> = (0..100).map(|number| (3, payload(number, 1 + number as usize * 13))).collect();
        assert_eq!(contents(&wal), expected);
    }
}

#[test]
fn both_backends_write_a_log_that_the_other_opens() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for (number, backend) in [(1, Backend::Pwrite), (2, Backend::Mmap), (3, Backend::Pwrite)] {
        let (wal, recovery) = Wal::open(dir.path(), Options { backend, ..small() }).unwrap();
        assert!(recovery.clean_shutdown);
        assert_eq!(recovery.records, number - 1);
        let appended = wal.append(0, &payload(number, 5000)).unwrap();
        wal.flush(appended.end).unwrap();
        expected.push((0, payload(number, 5000)));
        assert_eq!(contents(&wal), expected);
        wal.close().unwrap();
    }
}

#[test]
fn a_clean_shutdown_is_told_from_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    wal.append(0, b"one").unwrap();
    let other = wal.clone();
    wal.close().unwrap();
    assert!(matches!(other.append(0, b"two"), Err(WalError::Closed)));
    assert!(matches!(other.clone().close(), Err(WalError::Closed)));
    assert_eq!(contents(&other), [(0, b"one".to_vec())], "a closed handle still reads");
    let (wal, recovery) = open(dir.path());
    assert!(recovery.clean_shutdown);
    assert_eq!((recovery.records, recovery.torn_bytes), (1, 0));
    wal.append(0, b"two").unwrap();
    wal.flush(Lsn::MAX).unwrap();
    drop(wal);
    let (wal, recovery) = open(dir.path());
    assert!(!recovery.clean_shutdown);
    assert_eq!(contents(&wal).len(), 2);
}

#[test]
fn a_second_opener_is_locked_out_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    let forgotten = wal.durable(Lsn::MAX);
    let clone = wal.clone();
    drop(wal);
    assert!(matches!(Wal::open(dir.path(), small()), Err(WalError::Locked { .. })));
    drop(clone);
    let (wal, _) = open(dir.path());
    wal.close().unwrap();
    open(dir.path());
    drop(forgotten);
}

#[test]
fn a_future_is_served_by_the_flushing_thread() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    for number in 0..20 {
        let appended = wal.append(1, &payload(number, 100)).unwrap();
        block_on(wal.durable(appended.end)).unwrap();
        assert!(wal.durable_lsn() >= appended.end);
    }
    let appended = wal.append(1, b"last").unwrap();
    let mut dropped = Box::pin(wal.durable(appended.end));
    assert!(dropped.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(dropped);
    wait_until("a dropped future's flush happens", || wal.durable_lsn() >= appended.end);
    let pending = {
        let appended = wal.append(1, b"never asked in time").unwrap();
        wal.durable(appended.end)
    };
    drop(wal);
    // Either it was served before the end, or it is told; it never hangs.
    assert!(matches!(block_on(pending), Ok(()) | Err(WalError::Closed)));
}

#[test]
fn records_cross_segments_and_are_read_from_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path(), Options { seal_after: Duration::ZERO, ..small() }).unwrap();
    let mut placed = Vec::new();
    for number in 0..60 {
        placed.push(wal.append(9, &payload(number, 100_000)).unwrap());
    }
    wal.rotate().unwrap();
    wal.rotate().unwrap();
    assert_eq!(wal.read(Lsn::ZERO).count(), 0, "nothing is durable yet");
    wal.flush(Lsn::MAX).unwrap();
    let segments = wal.stats().segments;
    assert!(segments >= 7, "{segments}");
    for (number, appended) in placed.iter().enumerate() {
        let read: Vec<u64> = wal
            .read(appended.lsn)
            .map(|record| u64::from_le_bytes(record.unwrap().payload[..8].try_into().unwrap()))
            .collect();
        assert_eq!(read, (number as u64..60).collect::<Vec<_>>());
    }
    assert_eq!(wal.read(placed[3].lsn + 1).next().unwrap().unwrap().lsn, placed[4].lsn, "between two records");
    drop(wal);
    let (wal, recovery) = open(dir.path());
    assert_eq!((recovery.records, recovery.segments), (60, segments));
    assert_eq!(contents(&wal).len(), 60);
}

#[test]
fn a_reader_goes_on_where_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    let mut reader = wal.read(Lsn::ZERO);
    for number in 0..1_500 {
        let durable = wal.durable_lsn();
        assert!(reader.next().is_none());
        let appended = wal.append(0, &payload(number, 700)).unwrap();
        // Only the flushing thread's seal may have made it durable by now.
        if let Some(record) = reader.next() {
            assert!(wal.durable_lsn() > durable);
            assert_eq!(record.unwrap().lsn, appended.lsn);
            continue;
        }
        wal.flush(Lsn::MAX).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().payload, payload(number, 700));
        if number % 500 == 10 {
            // Let a seal come between.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn released_segments_go_and_the_log_opens_without_them() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { retain_bytes: 2 << 20, ..small() };
    let (wal, _) = Wal::open(dir.path(), options.clone()).unwrap();
    let mut placed = Vec::new();
    for number in 0..80 {
        placed.push(wal.append(0, &payload(number, 100_000)).unwrap());
    }
    wal.flush(Lsn::MAX).unwrap();
    let before = wal.stats();
    let middle = placed[60].lsn;
    let gone = wal.release(middle).unwrap();
    let after = wal.stats();
    assert!(gone > 0);
    assert_eq!(after.segments, before.segments - gone);
    assert!(after.oldest_lsn > before.oldest_lsn && after.oldest_lsn <= middle);
    assert!(middle - after.oldest_lsn >= 2 << 20, "what is retained is kept");
    assert!(middle - after.oldest_lsn <= 3 << 20, "and not more than that");
    assert_eq!(wal.release(middle).unwrap(), 0);
    match wal.read(placed[0].lsn).next() {
        Some(Err(WalError::Released { asked, first })) => {
            assert_eq!((asked, first), (placed[0].lsn, after.oldest_lsn));
        }
        other => panic!("{other:?}"),
    }
    let kept = wal.read(Lsn::ZERO).count();
    assert!(kept >= 20);
    drop(wal);
    let (wal, recovery) = Wal::open(dir.path(), options).unwrap();
    assert_eq!(recovery.first_lsn, after.oldest_lsn);
    assert_eq!(recovery.records, kept as u64);
    assert!(wal.stats().released_lsn >= after.oldest_lsn);
}

#[test]
fn a_payload_that_can_never_fit_is_refused_and_the_largest_fits() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    let max = wal.max_payload();
    match wal.append(0, &vec![1; max + 1]) {
        Err(WalError::TooLarge { len, max: bound }) => assert_eq!((len, bound), (max + 1, max)),
        other => panic!("{other:?}"),
    }
    wal.append(0, b"").unwrap();
    wal.append(1, &vec![7; max]).unwrap();
    wal.append(2, b"").unwrap();
    wal.flush(Lsn::MAX).unwrap();
    drop(wal);
    let (wal, _) = open(dir.path());
    assert_eq!(contents(&wal), [(0, Vec::new()), (1, vec![7; max]), (2, Vec::new())]);
}

#[test]
fn an_idle_log_is_sealed_and_then_sleeps() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    let appended = wal.append(0, b"one").unwrap();
    wal.flush(appended.end).unwrap();
    wait_until("the seal is written and durable", || {
        wal.durable_lsn() > appended.end && wal.durable_lsn() == wal.next_lsn()
    });
    assert_eq!(wal.next_lsn().as_u64() / 4096, appended.end.as_u64() / 4096 + 1, "on the next page");
    let flushes = wal.stats().flushes;
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(wal.stats().flushes, flushes, "one seal is enough");
}

#[test]
fn every_flush_is_observed() {
    let dir = tempfile::tempdir().unwrap();
    let (flushes, records) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (seen_flushes, seen_records) = (Arc::clone(&flushes), Arc::clone(&records));
    let observer = move |flush: &Flushed| {
        assert!(flush.took > Duration::ZERO && flush.bytes > 0 && flush.device_bytes >= flush.bytes);
        seen_flushes.fetch_add(1, Ordering::SeqCst);
        seen_records.fetch_add(flush.records, Ordering::SeqCst);
    };
    let (wal, _) =
        Wal::open(dir.path(), Options { observer: Some(Arc::new(observer)), seal_after: Duration::ZERO, ..small() })
            .unwrap();
    for _ in 0..5 {
        wal.append(0, b"x").unwrap();
        wal.append(0, b"y").unwrap();
        wal.flush(Lsn::MAX).unwrap();
    }
    let stats = wal.stats();
    assert_eq!((flushes.load(Ordering::SeqCst), records.load(Ordering::SeqCst)), (5, 10));
    assert_eq!((stats.flushes, stats.appended_records, stats.poisoned), (5, 10, false));
    assert!(stats.last_flush > Duration::ZERO && stats.device_bytes >= stats.flushed_bytes);
}

#[test]
fn the_log_is_inspected_while_its_owner_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    std::thread::scope(|scope| {
        let writer = wal.clone();
        scope.spawn(move || {
            for number in 0..2_000 {
                let appended = writer.append(4, &payload(number, 900)).unwrap();
                writer.flush(appended.end).unwrap();
            }
        });
        for _ in 0..8 {
            let found = inspect::verify(dir.path()).unwrap();
            assert_eq!(found.corrupt, [], "a running log is never called corrupt");
            let records = inspect::records(dir.path(), Lsn::ZERO).unwrap();
            let mut number = 0;
            for record in records {
                assert_eq!(record.unwrap().payload, payload(number, 900));
                number += 1;
            }
            assert!(number >= found.records);
        }
    });
    let stat = inspect::stat(dir.path()).unwrap();
    assert_eq!(stat.log_id, Some(wal.log_id()));
    assert_eq!(stat.segments.len() as u64, wal.stats().segments);
    let found = inspect::verify(dir.path()).unwrap();
    assert_eq!((found.records, found.torn_bytes, found.segments), (2_000, 0, wal.stats().segments));
}

#[test]
fn options_out_of_bounds_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for options in [
        Options { segment_bytes: 4096, ..Options::default() },
        Options { segment_bytes: (1 << 20) + 1, ..Options::default() },
        Options { segment_bytes: 2 << 30, ..Options::default() },
        Options { spare_segments: 0, ..small() },
    ] {
        assert!(matches!(Wal::open(dir.path(), options), Err(WalError::Options(_))));
    }
}
