//! Following a log from outside: only what is durable, all of it, while its owner writes, releases and dies.

use std::time::Duration;

use outrigger_wal::sim::SimDisk;
use outrigger_wal::{Lsn, Options, Wal, WalError, inspect};

use crate::common::{inline, open_sim, payload, small, wait_until};

fn numbers(follow: &mut inspect::Follow) -> Vec<u64> {
    let mut found = Vec::new();
    while let Some(record) = follow.poll().unwrap() {
        found.push(u64::from_le_bytes(record.payload[..8].try_into().unwrap()));
    }
    found
}

#[test]
fn only_what_is_durable_is_handed_on() {
    let disk = SimDisk::new(1);
    let (wal, _) = open_sim(&disk).unwrap();
    let mut follow = inspect::follow_on(Box::new(disk.clone()), Lsn::ZERO);
    assert_eq!(numbers(&mut follow), []);
    for number in 0..3 {
        wal.append(1, &payload(number, 100)).unwrap();
    }
    assert_eq!(numbers(&mut follow), [], "appended is not durable");
    wal.flush(Lsn::MAX).unwrap();
    assert_eq!(numbers(&mut follow), [], "durable, and nothing on the disk says so yet");
    let fourth = wal.append(1, &payload(3, 100)).unwrap();
    assert_eq!(numbers(&mut follow), [0, 1, 2], "the fourth says it of the first three");
    assert_eq!(follow.position(), fourth.lsn);
    wal.seal().unwrap();
    assert_eq!(numbers(&mut follow), [3], "the seal says it of the last");
    assert_eq!(numbers(&mut follow), []);
    // Over the edges of segments, and from the middle.
    for number in 4..40 {
        wal.append(1, &payload(number, 1_000)).unwrap();
        wal.flush(Lsn::MAX).unwrap();
    }
    wal.seal().unwrap();
    assert_eq!(numbers(&mut follow), (4..40).collect::<Vec<_>>());
    assert_eq!(numbers(&mut inspect::follow_on(Box::new(disk), fourth.lsn)), (3..40).collect::<Vec<_>>());
}

#[test]
fn what_a_crash_takes_back_was_never_handed_on() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let (wal, _) = open_sim(&disk).unwrap();
        let mut handed = Vec::new();
        let mut follow = inspect::follow_on(Box::new(disk.clone()), Lsn::ZERO);
        for number in 0..20 {
            wal.append(1, &payload(number, 700)).unwrap();
            if (number * 7 + seed) % 3 == 0 {
                wal.flush(Lsn::MAX).unwrap();
            }
            handed.extend(numbers(&mut follow));
        }
        let image = disk.crash(seed);
        let (wal, _) = open_sim(&image).unwrap();
        let kept = wal.read(Lsn::ZERO).count();
        assert!(handed.len() <= kept, "{} handed on, {kept} kept", handed.len());
        assert_eq!(handed, (0..handed.len() as u64).collect::<Vec<_>>());
    }
}

#[test]
fn a_follower_beside_a_busy_owner_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut follow = inspect::follow(dir.path(), Lsn::ZERO);
    assert!(follow.poll().unwrap().is_none(), "there is no log yet");
    let (wal, _) = Wal::open(dir.path(), small()).unwrap();
    let mut found = Vec::new();
    std::thread::scope(|scope| {
        let writer = wal.clone();
        scope.spawn(move || {
            for number in 0..3_000 {
                let appended = writer.append(4, &payload(number, 900)).unwrap();
                if number % 5 == 0 {
                    writer.flush(appended.end).unwrap();
                }
            }
            writer.flush(Lsn::MAX).unwrap();
        });
        wait_until("the seal lets the last ones go", || {
            found.extend(numbers(&mut follow));
            found.len() == 3_000
        });
    });
    assert_eq!(found, (0..3_000).collect::<Vec<_>>());
}

#[test]
fn what_was_released_meanwhile_is_named_with_where_to_go_on() {
    let disk = SimDisk::new(3);
    let (wal, _) = open_sim(&disk).unwrap();
    wal.append(1, &payload(0, 100)).unwrap();
    wal.flush(Lsn::MAX).unwrap();
    wal.seal().unwrap();
    let mut follow = inspect::follow_on(Box::new(disk.clone()), Lsn::ZERO);
    assert_eq!(numbers(&mut follow), [0]);
    wal.rotate().unwrap();
    assert!(follow.poll().unwrap().is_none());
    for number in 1..60 {
        wal.append(1, &payload(number, 1_000)).unwrap();
    }
    wal.flush(Lsn::MAX).unwrap();
    assert!(wal.release(wal.durable_lsn()).unwrap() > 2);
    wal.seal().unwrap();
    let first = loop {
        match follow.poll() {
            Ok(record) => assert!(record.is_some(), "it must be told"),
            Err(WalError::Released { first, .. }) => break first,
            Err(error) => panic!("{error}"),
        }
    };
    let rest = numbers(&mut inspect::follow_on(Box::new(disk), first));
    assert_eq!(rest.last(), Some(&59));
}

#[test]
fn damage_is_told_and_not_waited_for() {
    let disk = SimDisk::new(4);
    let options = Options { seal_after: Duration::ZERO, ..inline() };
    let (wal, _) = Wal::open_on(std::sync::Arc::new(disk.clone()), options).unwrap();
    let hit = wal.append(1, &payload(0, 100)).unwrap();
    wal.flush(Lsn::MAX).unwrap();
    wal.append(1, &payload(1, 100)).unwrap();
    wal.seal().unwrap();
    disk.damage(&disk.names()[0], hit.lsn.as_u64() + 50, &[0xee]);
    let mut follow = inspect::follow_on(Box::new(disk), Lsn::ZERO);
    let told = (0..10).find_map(|_| follow.poll().err());
    assert!(matches!(told, Some(WalError::Corrupt { lsn, .. }) if lsn == hit.lsn), "{told:?}");
}
