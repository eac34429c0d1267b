//! Segments that are used again: nobody takes what they held for what they hold, whoever has them open and whenever the
//! power goes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use outrigger_wal::sim::SimDisk;
use outrigger_wal::{Backend, Lsn, Options, Wal, WalError, inspect};
use rustix::fs::{Advice, fadvise};

use crate::common::{Rng, contents, inline, open_with, payload, small};
use crate::crash::{damage, history_of};
use crate::history::{digest, for_seeds, kept};
use crate::oracle::{Verdict, judge};

fn recycling() -> Options {
    Options { recycle: true, ..inline() }
}

/// Appends, flushes and lets go until so many segments were begun, all but the last two of them released.
fn roll(wal: &Wal, segments: u64, bytes: usize) -> u64 {
    let segment = wal.stats().bytes / wal.stats().segments;
    let (begin, mut number) = (wal.next_lsn().as_u64() / segment, 0);
    while wal.next_lsn().as_u64() / segment < begin + segments {
        wal.append(1, &payload(number, bytes)).unwrap();
        number += 1;
        if number % 4 == 0 {
            wal.flush(Lsn::MAX).unwrap();
            wal.release(Lsn::from_u64(wal.durable_lsn().as_u64().saturating_sub(segment))).unwrap();
        }
    }
    wal.flush(Lsn::MAX).unwrap();
    number
}

fn recycled_on(disk: &SimDisk) -> usize {
    inspect::stat_on(disk).unwrap().segments.iter().filter(|segment| segment.recycled).count()
}

#[test]
fn a_released_segment_is_used_again_and_a_log_that_ends_in_one_ends_in_order() {
    let disk = SimDisk::new(1);
    let (wal, _) = open_with(&disk, &recycling()).unwrap();
    roll(&wal, 4, 900);
    let prepared = wal.stats().prepared_bytes;
    roll(&wal, 8, 900);
    let headers = 8 * 4096;
    assert!(wal.stats().prepared_bytes - prepared <= headers, "no more zeros are written");
    assert!(recycled_on(&disk) > 0);
    assert!(disk.names().len() <= 6, "{:?}", disk.names());
    let before = contents(&wal);
    wal.close().unwrap();
    assert!(disk.names().iter().all(|name| name.ends_with(".wal") && !name.ends_with(".tmp")));
    // Opening and closing without anything between costs no segment, and the remains behind the end are no torn bytes.
    for _ in 0..3 {
        let verified = inspect::verify_on(&disk, &mut |_, _| {}).unwrap();
        assert!(verified.clean_shutdown && verified.torn_bytes == 0 && verified.corrupt.is_empty(), "{verified:?}");
        let (wal, recovery) = open_with(&disk, &recycling()).unwrap();
        assert!(recovery.clean_shutdown && recovery.torn_bytes == 0, "{recovery:?}");
        assert_eq!(contents(&wal), before);
        let segments = wal.stats().segments;
        wal.seal().unwrap();
        assert_eq!(wal.stats().segments, segments);
        wal.close().unwrap();
    }
    // What is appended after an opening begins another segment: nothing is to be completed here.
    let (wal, _) = open_with(&disk, &recycling()).unwrap();
    let segments = wal.stats().segments;
    wal.append(2, b"goes on").unwrap();
    assert_eq!(wal.stats().segments, segments + 1);
    wal.flush(Lsn::MAX).unwrap();
    let (wal, _) = open_with(&disk.crash(3), &recycling()).unwrap();
    assert_eq!(contents(&wal).last().unwrap().1, b"goes on");
}

#[test]
fn histories_with_recycled_segments_keep_every_promise() {
    let seen = std::cell::Cell::new((0, 0, 0));
    for_seeds(400, |seed| {
        let (disk, mut known) = history_of(seed, &recycling(), 3);
        disk.drop_caches();
        let (recycled, refused, opened) = seen.get();
        let tail = inspect::stat_on(&disk).unwrap().segments.last().is_some_and(|segment| segment.recycled);
        seen.set((recycled + u64::from(tail), refused, opened));
        let verdict = judge(&disk);
        let verified = inspect::verify_on(&disk, &mut |_, _| {}).unwrap();
        let (wal, recovery) = open_with(&disk, &recycling()).expect("a legal crash is refused");
        let found = kept(&wal);
        assert_eq!(verdict, Verdict::Open(digest(&found)));
        assert_eq!((verified.records, verified.torn_bytes), (recovery.records, recovery.torn_bytes));
        known.check(&found);
        drop(wal);
        let (wal, recovery) = open_with(&disk.crash(seed), &recycling()).unwrap();
        assert_eq!(recovery.torn_bytes, 0);
        assert_eq!(kept(&wal), found);
        drop(wal);
        // And damage is told from it as ever.
        let mut rng = Rng(seed ^ 0x5eed);
        let what = damage(&disk, &mut rng);
        let (recycled, refused, opened) = seen.get();
        match (judge(&disk), open_with(&disk, &recycling())) {
            (Verdict::Refuse(_), Err(WalError::Corrupt { .. })) => seen.set((recycled, refused + 1, opened)),
            (Verdict::Open(expected), Ok((wal, _))) => {
                assert_eq!(digest(&kept(&wal)), expected, "{what}");
                seen.set((recycled, refused, opened + 1));
            }
            (verdict, answer) => panic!("{what}: expected {verdict:?}, got {:?}", answer.map(|(_, found)| found)),
        }
    });
    let (recycled, refused, opened) = seen.get();
    println!("{recycled} ended in a recycled segment; damaged: {refused} refused, {opened} opened");
    let one = std::env::var_os("OUTRIGGER_WAL_SEED").is_some();
    assert!(one || (recycled > 50 && refused > 80 && opened > 20), "{recycled}, {refused}, {opened}");
}

#[test]
fn who_has_a_segment_open_that_is_used_again_is_told_that_it_was_released() {
    let disk = SimDisk::new(2);
    let (wal, _) = open_with(&disk, &recycling()).unwrap();
    roll(&wal, 4, 300);
    // Each stands in the middle of the oldest segment, which this opening has begun.
    let mut reader = wal.read(Lsn::ZERO);
    let mut records = inspect::records_on(Box::new(disk.clone()), Lsn::ZERO).unwrap();
    let mut follow = inspect::follow_on(Box::new(disk.clone()), Lsn::ZERO);
    let first = [reader.next().unwrap().unwrap(), records.next().unwrap().unwrap(), follow.poll().unwrap().unwrap()];
    roll(&wal, 12, 300);
    let oldest = wal.stats().oldest_lsn;
    assert!(first[0].lsn < oldest && first[0] == first[1] && first[0] == first[2]);
    // What had been read ahead is what it was; then comes the word, and nothing between.
    let told = |next: &mut dyn FnMut() -> Option<Result<outrigger_wal::Record, WalError>>| {
        let mut last = first[0].lsn;
        loop {
            match next().expect("it must be told") {
                Ok(record) => {
                    assert!(last < record.lsn && record.lsn < oldest, "{record:?}");
                    last = record.lsn;
                }
                Err(WalError::Released { asked, first }) => {
                    assert!(asked > last && first == oldest, "{asked} {first} {oldest}");
                    return;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    told(&mut || reader.next());
    told(&mut || records.next());
    // A follower may find no witness for what it had read ahead, which is nothing new *for now*.
    told(&mut || (0..3).find_map(|_| follow.poll().transpose()));
}

fn wals(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    all.sort();
    all
}

fn recycled_in(dir: &Path) -> usize {
    inspect::stat(dir).unwrap().segments.iter().filter(|segment| segment.recycled).count()
}

/// Somebody's copy by a second name stays as it is, and what the page cache has dropped is not worth reading back.
#[test]
fn a_file_with_another_name_and_one_that_must_be_read_are_not_used_again() {
    for backend in [Backend::Mmap, Backend::Pwrite] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let options = Options { backend, recycle: true, ..small() };
        let (wal, _) = Wal::open(&log, options.clone()).unwrap();
        roll(&wal, 8, 30_000);
        assert!(recycled_in(&log) > 0, "{backend:?}: else nothing is asked here");
        let mut copies = Vec::new();
        for step in 0..6 {
            for segment in wals(&log) {
                let copy = dir.path().join(format!("{step}-{}", segment.file_name().unwrap().to_string_lossy()));
                fs::hard_link(&segment, &copy).unwrap();
                // The last one is still being written.
                copies.push((copy.clone(), fs::read(&copy).unwrap()));
            }
            copies.pop();
            roll(&wal, 1, 30_000);
        }
        for (copy, bytes) in &copies {
            assert!(fs::read(copy).unwrap() == *bytes, "{backend:?}: {} has changed", copy.display());
        }
        roll(&wal, 4, 30_000);
        let prepared = wal.stats().prepared_bytes;
        for _ in 0..4 {
            for segment in wals(&log) {
                let file = File::open(segment).unwrap();
                file.sync_all().unwrap();
                fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            }
            roll(&wal, 1, 30_000);
        }
        assert!(
            wal.stats().prepared_bytes - prepared > options.segment_bytes,
            "{backend:?}: zeros are written instead"
        );
        wal.close().unwrap();
        assert!(inspect::verify(&log).unwrap().corrupt.is_empty());
    }
}

/// Beside an owner that goes round and round: `verify`, `records` and `follow` may be overtaken, and never see damage.
#[test]
fn nobody_who_looks_on_takes_a_segment_that_is_used_again_for_damage() {
    // Not on real files: there who reads a segment drops it from the page cache, and then it is not used again.
    let disk = SimDisk::new(7);
    let (wal, _) = open_with(&disk, &recycling()).unwrap();
    roll(&wal, 6, 300);
    let done = AtomicBool::new(false);
    let passed = |answer: Result<(), WalError>| match answer {
        Ok(()) | Err(WalError::Released { .. }) => {}
        // Released between the listing and the opening.
        Err(WalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => panic!("{error}"),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                passed(inspect::verify_on(&disk, &mut |_, _| {}).map(|found| assert_eq!(found.corrupt, [])));
                let records = inspect::records_on(Box::new(disk.clone()), Lsn::ZERO).unwrap();
                passed(records.into_iter().try_for_each(|record| record.map(drop)));
                let mut follow = inspect::follow_on(Box::new(disk.clone()), Lsn::ZERO);
                passed((0..500).try_for_each(|_| follow.poll().map(drop)));
                passed(wal.read(Lsn::ZERO).try_for_each(|record| record.map(drop)));
            }
        });
        roll(&wal, 400, 300);
        done.store(true, Ordering::Relaxed);
    });
    assert!(recycled_on(&disk) > 0);
    wal.close().unwrap();
}
