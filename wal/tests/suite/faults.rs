//! Failing disks: every injected fault is asserted to have struck.

use std::future::Future;
use std::io::ErrorKind;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use outrigger_wal::sim::{Op, SimDisk};
use outrigger_wal::{Lsn, Options, Wal, WalError};

use crate::common::{contents, inline, open_sim, payload, wait_until};

fn threaded(disk: &SimDisk) -> Wal {
    let options = Options { inline: false, spare_segments: 2, ..inline() };
    Wal::open_on(Arc::new(disk.clone()), options).expect("the log opens").0
}

fn poisoned<T: std::fmt::Debug>(answer: Result<T, WalError>) {
    match answer {
        Err(WalError::Poisoned { cause }) => assert!(cause.contains("injected fault"), "{cause}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failed_flush_poisons_for_good_and_is_never_repeated() {
    let disk = SimDisk::new(1);
    let (wal, _) = open_sim(&disk).unwrap();
    let kept = wal.append(0, b"kept").unwrap();
    wal.flush(kept.end).unwrap();
    let lost = wal.append(0, b"in doubt").unwrap();
    disk.fail(Op::Flush, 0, ErrorKind::Other, false);
    poisoned(wal.flush(lost.end));
    assert_eq!(disk.fired(Op::Flush), 1);
    assert!(wal.is_poisoned() && wal.stats().poisoned);
    assert_eq!(wal.durable_lsn(), kept.end);
    // The disk is well again, and says yes to everything: nobody may believe it.
    let operations = disk.operations();
    poisoned(wal.flush(lost.end));
    poisoned(wal.append(0, b"more"));
    poisoned(wal.append_reserved(0, b"more"));
    poisoned(wal.rotate());
    poisoned(wal.seal());
    assert_eq!(disk.operations(), operations, "a poisoned log touches nothing");
    wal.flush(kept.end).expect("what is durable stays so");
    poisoned(wal.clone().close());
    drop(wal);
    for seed in 0..40 {
        let (wal, recovery) = open_sim(&disk.crash(seed)).unwrap();
        assert_eq!(contents(&wal)[0].1, b"kept");
        assert!(!recovery.clean_shutdown);
    }
}

#[test]
fn a_failed_flush_is_told_to_every_task_and_thread_that_waits() {
    let disk = SimDisk::new(2);
    let wal = threaded(&disk);
    wait_until("the spares are made", || disk.names().len() == 3);
    let ends: Vec<Lsn> = (0..8).map(|number| wal.append(0, &payload(number, 50)).unwrap().end).collect();
    disk.fail(Op::Flush, 0, ErrorKind::Other, true);
    let mut tasks: Vec<_> = ends.iter().map(|end| Box::pin(wal.durable(*end))).collect();
    let mut told = 0;
    for task in &mut tasks {
        wait_until("the task is told", || match task.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => {
                poisoned(answer);
                told += 1;
                true
            }
            Poll::Pending => false,
        });
    }
    assert_eq!((told, disk.fired(Op::Flush)), (8, 1), "one flush failed, and none was tried after it");
    std::thread::scope(|scope| {
        for end in ends {
            let wal = &wal;
            scope.spawn(move || poisoned(wal.flush(end)));
        }
    });
    assert_eq!(disk.fired(Op::Flush), 1);
}

#[test]
fn a_segment_that_cannot_be_begun_poisons() {
    for op in [Op::Rename, Op::SyncDir, Op::Flush, Op::Write] {
        let disk = SimDisk::new(3);
        let (wal, _) = open_sim(&disk).unwrap();
        let kept = wal.append(0, b"kept").unwrap();
        wal.flush(kept.end).unwrap();
        disk.fail(op, 0, ErrorKind::Other, true);
        poisoned(wal.rotate());
        assert_eq!(disk.fired(op), 1);
        poisoned(wal.append(0, b"more"));
        drop(wal);
        for seed in 0..40 {
            let (wal, _) = open_sim(&disk.crash(seed)).unwrap();
            assert_eq!(contents(&wal), [(0, b"kept".to_vec())], "{op:?}");
            wal.append(0, b"goes on").unwrap();
            wal.rotate().unwrap();
            wal.close().unwrap();
        }
    }
}

/// A directory without room for one more name is a full disk: nothing has happened, and it passes.
#[test]
fn a_name_without_room_is_a_full_disk_and_no_poison() {
    let disk = SimDisk::new(16);
    let (wal, _) = open_sim(&disk).unwrap();
    wal.append(0, b"before").unwrap();
    disk.fail(Op::Rename, 0, ErrorKind::StorageFull, true);
    for _ in 0..3 {
        assert!(matches!(wal.rotate(), Err(WalError::Full { .. })));
    }
    assert_eq!(disk.fired(Op::Rename), 3);
    assert!(!wal.is_poisoned());
    let files = disk.names().len();
    // What is left of the segment can still be used.
    wal.append(0, b"meanwhile").unwrap();
    disk.heal();
    wal.rotate().unwrap();
    assert_eq!(disk.names().len(), files, "the spare that could not be named is the one that is used");
    wal.append(0, b"after").unwrap();
    wal.flush(Lsn::MAX).unwrap();
    let (wal, _) = open_sim(&disk.crash(1)).unwrap();
    assert_eq!(contents(&wal), ["before", "meanwhile", "after"].map(|text| (0, text.as_bytes().to_vec())));
}

#[test]
fn a_disk_that_cannot_be_read_is_no_corruption() {
    let disk = SimDisk::new(4);
    open_sim(&disk).unwrap().0.close().unwrap();
    for after in 0..2 {
        disk.fail(Op::Read, after, ErrorKind::Other, false);
        match open_sim(&disk) {
            Err(WalError::Io { action: "read", .. }) => {}
            other => panic!("{:?}", other.map(|(_, recovery)| recovery)),
        }
        assert_eq!(disk.fired(Op::Read), after + 1);
    }
    open_sim(&disk).unwrap();
}

/// Appends until the log says that it is full. Gives the payloads' numbers.
fn fill(wal: &Wal) -> u64 {
    for number in 0..1_000 {
        match wal.append(0, &payload(number, 700)) {
            Ok(_) => {}
            Err(WalError::Full { detail }) => {
                assert!(detail.contains("injected fault"), "{detail}");
                return number;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the log never became full");
}

#[test]
fn a_full_disk_keeps_a_reserve_for_those_who_end_something() {
    for inline_mode in [true, false] {
        let disk = SimDisk::new(5);
        let wal = if inline_mode { open_sim(&disk).unwrap().0 } else { threaded(&disk) };
        let spares = if inline_mode { 0 } else { 2 };
        wait_until("the spares are made", || disk.names().len() == 1 + spares);
        // Room for one segment more than there is, then none.
        disk.fail(Op::Create, 1, ErrorKind::StorageFull, true);
        let ordinary = fill(&wal);
        assert!(disk.fired(Op::Create) > 0);
        assert!(!wal.is_poisoned());
        let segment = wal.max_payload();
        assert!(matches!(wal.append(0, &vec![0; segment]), Err(WalError::Full { .. })), "it stays full");
        let mut reserved = 0;
        for number in 0..1_000 {
            match wal.append_reserved(1, &payload(number, 700)) {
                Ok(_) => reserved += 1,
                Err(WalError::Full { .. }) => break,
                Err(error) => panic!("{error}"),
            }
            // An ordinary append must not eat what is left of the reserve, however small it is.
            if number > 20 {
                assert!(matches!(wal.append(0, b""), Err(WalError::Full { .. })));
            }
        }
        assert!((12..40).contains(&reserved), "a segment's worth: {reserved}");
        wal.flush(Lsn::MAX).expect("a full disk flushes what it has");
        let image = disk.crash(1);
        assert_eq!(contents(&open_sim(&image).unwrap().0).len() as u64, ordinary + reserved);
        disk.heal();
        wait_until("room has come", || wal.append(0, b"again").is_ok());
        wal.flush(Lsn::MAX).unwrap();
        drop(wal);
        assert_eq!(contents(&open_sim(&disk.crash(2)).unwrap().0).len() as u64, ordinary + reserved + 1);
    }
}

#[test]
fn a_release_makes_room_at_once() {
    let disk = SimDisk::new(6);
    let (wal, _) = open_sim(&disk).unwrap();
    disk.fail(Op::Create, 4, ErrorKind::StorageFull, true);
    fill(&wal);
    wal.flush(Lsn::MAX).unwrap();
    let fired = disk.fired(Op::Create);
    disk.heal();
    assert!(wal.release(wal.durable_lsn()).unwrap() > 0);
    assert!(fired > 0 && disk.fired(Op::Create) == fired);
    wal.append(0, b"again").unwrap();
}

#[test]
fn a_release_that_fails_half_way_leaves_a_log_that_opens() {
    for op in [Op::Remove, Op::SyncDir] {
        for after in 0..3 {
            let disk = SimDisk::new(7);
            let (wal, _) = open_sim(&disk).unwrap();
            for number in 0..60 {
                wal.append(0, &payload(number, 1_500)).unwrap();
            }
            wal.flush(Lsn::MAX).unwrap();
            disk.fail(op, after, ErrorKind::Other, false);
            assert!(matches!(wal.release(wal.durable_lsn()), Err(WalError::Io { .. })));
            assert_eq!(disk.fired(op), 1);
            assert!(!wal.is_poisoned());
            wal.append(0, b"goes on").unwrap();
            wal.flush(Lsn::MAX).unwrap();
            for seed in 0..40 {
                let (image, _) = open_sim(&disk.crash(seed)).expect("a legal crash is refused");
                assert_eq!(contents(&image).last().unwrap().1, b"goes on");
            }
            assert!(wal.release(wal.durable_lsn()).is_ok(), "{op:?} {after}");
        }
    }
}

#[test]
fn segments_that_were_never_released_are_missed() {
    let disk = SimDisk::new(8);
    let (wal, _) = open_sim(&disk).unwrap();
    let mut second = None;
    for number in 0..30 {
        let appended = wal.append(0, &payload(number, 1_500)).unwrap();
        if wal.stats().segments == 3 && second.is_none() {
            second = Some(appended.lsn);
        }
    }
    wal.flush(Lsn::MAX).unwrap();
    assert_eq!(wal.release(second.unwrap()).unwrap(), 2);
    wal.close().unwrap();
    open_sim(&disk).unwrap().0.close().unwrap();
    let mut names = disk.names();
    names.sort();
    disk.lose(&names[0]);
    match open_sim(&disk) {
        Err(WalError::Corrupt { lost, detail, .. }) => {
            assert!(detail.contains("never released"), "{detail}");
            assert_eq!(lost.start, second.unwrap());
        }
        other => panic!("{:?}", other.map(|(_, recovery)| recovery)),
    }
}

#[test]
fn a_segment_of_a_later_version_is_left_alone() {
    let disk = SimDisk::new(9);
    open_sim(&disk).unwrap().0.close().unwrap();
    let name = &disk.names()[0];
    let mut page = disk.content(name).unwrap()[..4092].to_vec();
    page[8] = 2;
    let crc = crc32fast::hash(&page);
    page.extend_from_slice(&crc.to_le_bytes());
    disk.damage(name, 0, &page);
    let before = disk.operations();
    match open_sim(&disk) {
        Err(WalError::Unsupported { found: 2, supported: 1, .. }) => {}
        other => panic!("{:?}", other.map(|(_, recovery)| recovery)),
    }
    assert!(disk.operations() <= before + 2, "it was read, nothing else");
}

#[test]
fn a_name_that_was_only_seen_is_made_durable_by_the_opening() {
    for seed in 0..40 {
        let disk = SimDisk::new(10);
        disk.fail(Op::SyncDir, 0, ErrorKind::Other, false);
        assert!(matches!(open_sim(&disk), Err(WalError::Io { .. })));
        assert_eq!(disk.fired(Op::SyncDir), 1);
        // The process ends, the machine does not: the new name is seen, and no more than that.
        let disk = disk.kill(11);
        assert_eq!(disk.names(), ["00000000000000000001.wal"]);
        let (wal, _) = open_sim(&disk).unwrap();
        wal.flush(wal.append(0, b"acknowledged").unwrap().end).unwrap();
        assert_eq!(contents(&open_sim(&disk.crash(seed)).unwrap().0), [(0, b"acknowledged".to_vec())]);
    }
}

#[test]
fn a_segment_of_another_life_of_the_same_log_is_refused() {
    let disk = SimDisk::new(12);
    let (wal, _) = open_sim(&disk).unwrap();
    wal.append(0, b"both lives have this").unwrap();
    wal.close().unwrap();
    let lives: Vec<SimDisk> = [13, 14].map(|seed| disk.kill(seed)).into();
    for disk in &lives {
        let (wal, _) = open_sim(disk).unwrap();
        wal.rotate().unwrap();
        wal.append(0, b"after the parting").unwrap();
        wal.close().unwrap();
    }
    let second = "00000000000000000002.wal";
    lives[0].damage(second, 0, &lives[1].content(second).unwrap());
    match open_sim(&lives[0]) {
        Err(WalError::Corrupt { detail, .. }) => assert!(detail.contains("does not continue"), "{detail}"),
        other => panic!("{:?}", other.map(|(_, recovery)| recovery)),
    }
    open_sim(&lives[1]).unwrap();
}

/// The seal is written when the log is idle, also where nobody has flushed: it must be a witness for that record too.
#[test]
fn an_idle_log_has_a_witness_for_its_last_record_whoever_flushed_it() {
    for flushed in [true, false] {
        let disk = SimDisk::new(15);
        let wal = threaded(&disk);
        let last = wal.append(0, b"the last").unwrap();
        if flushed {
            wal.flush(last.end).unwrap();
        }
        wait_until("it is sealed", || wal.durable_lsn() > last.end && wal.durable_lsn() == wal.next_lsn());
        let image = disk.crash(1);
        image.damage("00000000000000000001.wal", last.lsn.as_u64() + 33, b"?");
        match open_sim(&image) {
            Err(WalError::Corrupt { lost, .. }) => assert!(lost.contains(&last.lsn)),
            other => panic!("flushed {flushed}: {:?}", other.map(|(_, recovery)| recovery)),
        }
    }
}
