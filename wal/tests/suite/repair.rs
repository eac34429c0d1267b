//! Repair on the simulated disk: what it keeps, what it says is lost, and that it may be cut off anywhere.

use outrigger_wal::repair::{self, Plan, Remedy};
use outrigger_wal::sim::{Op, SimDisk};
use outrigger_wal::{Lsn, Options, Record, Wal, WalError, inspect};

use crate::common::{Rng, contents, inline, open_sim, payload};

const NAMES: [&str; 4] =
    ["00000000000000000001.wal", "00000000000000000002.wal", "00000000000000000003.wal", "00000000000000000004.wal"];

/// Four segments of acknowledged records, closed in order. Gives the records too.
fn closed(seed: u64) -> (SimDisk, Vec<Record>) {
    let disk = SimDisk::new(seed);
    let (wal, _) = open_sim(&disk).unwrap();
    for number in 0..24 {
        if number % 6 == 0 && number > 0 {
            wal.rotate().unwrap();
        }
        wal.append(1, &payload(number, 300)).unwrap();
        wal.flush(Lsn::MAX).unwrap();
    }
    let records = wal.read(Lsn::ZERO).map(Result::unwrap).collect();
    wal.close().unwrap();
    (disk, records)
}

fn flip(disk: &SimDisk, name: &str, at: u64) {
    let byte = disk.content(name).unwrap()[at as usize];
    disk.damage(name, at, &[byte ^ 1]);
}

fn base(disk: &SimDisk, name: &str) -> u64 {
    u64::from_le_bytes(disk.content(name).unwrap()[40..48].try_into().unwrap())
}

/// Damages the payload of a record.
fn hit(disk: &SimDisk, record: &Record) {
    let number = record.lsn.as_u64() / (16 << 10);
    let name = NAMES[number as usize];
    flip(disk, name, record.lsn.as_u64() - base(disk, name) + 40);
}

/// Carries the plan out and gives what the log holds then.
fn repaired(disk: &SimDisk, plan: &Plan) -> (Vec<String>, Vec<(u8, Vec<u8>)>) {
    let done = repair::carry_out_on(disk, plan).expect("the plan is carried out");
    let (wal, recovery) = open_sim(disk).expect("it opens");
    assert_eq!(recovery.records, plan.kept_records);
    let found = contents(&wal);
    // It is a log like any other: it takes records and opens again.
    wal.append(9, b"goes on").unwrap();
    wal.rotate().unwrap();
    wal.close().unwrap();
    assert_eq!(contents(&open_sim(disk).unwrap().0).len(), found.len() + 1);
    (done.quarantined, found)
}

fn as_contents(records: &[Record]) -> Vec<(u8, Vec<u8>)> {
    records.iter().map(|record| (record.kind, record.payload.clone())).collect()
}

#[test]
fn a_sound_log_needs_nothing_and_stays_as_it_is() {
    let (disk, _) = closed(1);
    let plan = repair::plan_on(&disk).unwrap();
    assert_eq!((&plan.remedy, plan.kept_records, plan.acts()), (&Remedy::Nothing, 24, false));
    assert!(plan.lost.is_empty());
    let operations = disk.operations();
    let done = repair::carry_out_on(&disk, &plan).unwrap();
    assert!(done.quarantined.is_empty());
    let before: Vec<_> = NAMES.iter().map(|name| disk.content(name)).collect();
    assert!(operations > 0 && before == NAMES.iter().map(|name| disk.content(name)).collect::<Vec<_>>());
    assert_eq!(repair::plan_on(&SimDisk::new(0)).unwrap().remedy, Remedy::Nothing, "nothing is no damage");
}

#[test]
fn a_torn_tail_is_cut_as_an_opening_would() {
    let disk = SimDisk::new(2);
    let (wal, _) = open_sim(&disk).unwrap();
    let kept = wal.append(1, b"acknowledged").unwrap();
    wal.flush(kept.end).unwrap();
    let hole = wal.append(1, &[0x11; 100]).unwrap();
    wal.append(1, &[0x22; 3000]).unwrap();
    drop(wal);
    disk.damage(NAMES[0], hole.lsn.as_u64(), &[0; 132]);
    let plan = repair::plan_on(&disk).unwrap();
    assert!(matches!(plan.remedy, Remedy::Cut { torn_bytes } if torn_bytes > 3000), "{plan:?}");
    assert!(plan.lost.is_empty() && plan.kept_to == kept.end);
    assert_eq!(repaired(&disk, &plan), (Vec::new(), vec![(1, b"acknowledged".to_vec())]));
}

#[test]
fn damage_in_the_middle_costs_what_stands_at_and_behind_it() {
    let (disk, records) = closed(3);
    let segment = disk.content(NAMES[1]).unwrap();
    hit(&disk, &records[8]);
    let damaged = disk.content(NAMES[1]).unwrap();
    let plan = repair::plan_on(&disk).unwrap();
    let Remedy::Quarantine { segments, anew } = &plan.remedy else { panic!("{plan:?}") };
    assert_eq!((segments.as_slice(), anew.as_deref()), (&NAMES.map(str::to_owned)[1..], Some(NAMES[1])));
    assert_eq!((plan.kept_records, plan.kept_to, plan.set_aside_records), (8, records[8].lsn, 15));
    assert!(plan.lost.start == records[8].lsn && plan.lost.end > records[23].lsn);
    assert!(plan.acknowledged_to > records[23].lsn, "the close record says so");
    let text = plan.to_string();
    assert!(text.contains(&format!("everything in {}..", records[8].lsn)), "{text}");
    let (quarantined, found) = repaired(&disk, &plan);
    assert_eq!(found, as_contents(&records[..8]));
    assert_eq!(quarantined.len(), 3);
    let aside = disk.content(&format!("quarantine/{}", NAMES[1])).unwrap();
    assert!(aside == damaged && aside != segment, "what was damaged is kept as it was found");
    let set_aside = disk.content(&quarantined[0]).unwrap();
    assert_eq!(u64::from_le_bytes(set_aside[32..40].try_into().unwrap()), 4);
}

#[test]
fn a_segment_that_is_gone_or_unsound_is_replaced_by_an_empty_one() {
    for gone in [true, false] {
        let (disk, records) = closed(4);
        if gone {
            disk.lose(NAMES[2]);
        } else {
            flip(&disk, NAMES[2], 60);
        }
        let plan = repair::plan_on(&disk).unwrap();
        let Remedy::Quarantine { segments, anew } = &plan.remedy else { panic!("{plan:?}") };
        let moved = if gone { &NAMES[3..] } else { &NAMES[2..] };
        assert_eq!(
            (segments.as_slice(), anew.as_deref()),
            (&*moved.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(), Some(NAMES[2]))
        );
        assert_eq!(plan.kept_records, 12);
        assert_eq!(repaired(&disk, &plan).1, as_contents(&records[..12]));
    }
}

#[test]
fn a_log_without_a_sound_beginning_is_set_aside_as_a_whole() {
    let (disk, _) = closed(5);
    flip(&disk, NAMES[0], 60);
    let plan = repair::plan_on(&disk).unwrap();
    assert!(matches!(&plan.remedy, Remedy::Quarantine { segments, anew: None } if segments.len() == 4), "{plan:?}");
    assert_eq!(repaired(&disk, &plan).1, []);
}

#[test]
fn segments_missing_at_the_front_are_beyond_repair() {
    let (disk, _) = closed(6);
    disk.lose(NAMES[0]);
    let plan = repair::plan_on(&disk).unwrap();
    assert!(matches!(&plan.remedy, Remedy::Beyond { why } if why.contains("copy")), "{plan:?}");
    let before = disk.names();
    assert!(matches!(repair::carry_out_on(&disk, &plan), Err(WalError::Options(_))));
    assert_eq!(disk.names(), before);
}

#[test]
fn the_last_release_is_carried_on_where_its_note_is_set_aside() {
    let disk = SimDisk::new(7);
    let (wal, _) = open_sim(&disk).unwrap();
    let mut records = Vec::new();
    for number in 0..24 {
        if number % 6 == 0 && number > 0 {
            wal.rotate().unwrap();
        }
        records.push(wal.append(1, &payload(number, 300)).unwrap());
    }
    wal.flush(Lsn::MAX).unwrap();
    // The note stands in the last segment only.
    assert_eq!(wal.release(records[7].lsn).unwrap(), 1);
    wal.append(1, b"behind the note").unwrap();
    wal.close().unwrap();
    flip(&disk, NAMES[2], records[14].lsn.as_u64() - base(&disk, NAMES[2]) + 40);
    let plan = repair::plan_on(&disk).unwrap();
    assert_eq!((plan.kept_records, plan.kept_to), (8, records[14].lsn));
    assert_eq!(repaired(&disk, &plan).1.len(), 8);
}

#[test]
fn a_plan_holds_only_for_the_log_that_it_was_made_for() {
    let (disk, records) = closed(8);
    hit(&disk, &records[20]);
    let plan = repair::plan_on(&disk).unwrap();
    hit(&disk, &records[3]);
    match repair::carry_out_on(&disk, &plan) {
        Err(WalError::Options(why)) => assert!(why.contains("plan again"), "{why}"),
        other => panic!("{other:?}"),
    }
    let disk = SimDisk::new(9);
    let (_wal, _) = Wal::open_on(std::sync::Arc::new(disk.clone()), Options { ..inline() }).unwrap();
    let plan = repair::plan_on(&disk).unwrap();
    assert!(matches!(repair::carry_out_on(&disk, &plan), Err(WalError::Locked { .. })), "an owner is at work");
}

/// Power cuts and failures at every operation of a repair: what is left is repaired, or opens, with the same records.
#[test]
fn a_repair_that_is_cut_off_is_found_again() {
    for (seed, damaged) in [(10, 2), (11, 8), (12, 14), (13, 20)] {
        let (disk, records) = closed(seed);
        hit(&disk, &records[damaged]);
        let mut rng = Rng(seed);
        let total = {
            let copy = disk.kill(seed);
            let plan = repair::plan_on(&copy).unwrap();
            let before = copy.operations();
            repair::carry_out_on(&copy, &plan).unwrap();
            copy.operations() - before
        };
        for cut in 1..=total + 1 {
            let copy = disk.kill(seed);
            let plan = repair::plan_on(&copy).unwrap();
            copy.cut_power_at(copy.operations() + cut);
            let _ = repair::carry_out_on(&copy, &plan);
            let left = copy.crash(rng.next());
            let plan = repair::plan_on(&left).unwrap();
            repair::carry_out_on(&left, &plan).expect("the second repair goes through");
            let (wal, _) = open_sim(&left).unwrap();
            assert_eq!(contents(&wal), as_contents(&records[..damaged]), "cut at {cut} of {total}");
            // Nothing that was set aside or stood there is gone: every damaged file is in one of the two places.
            let aside = format!("quarantine/{}", NAMES[damaged / 6]);
            assert!(left.names().contains(&aside) || cut <= total, "{cut}: {:?}", left.names());
        }
    }
}

#[test]
fn a_failure_on_the_way_is_told_and_the_next_try_goes_through() {
    for op in [Op::Create, Op::Write, Op::Flush, Op::SetAside, Op::Remove, Op::SyncDir, Op::Rename] {
        let (disk, records) = closed(14);
        hit(&disk, &records[8]);
        let plan = repair::plan_on(&disk).unwrap();
        disk.fail(op, 0, std::io::ErrorKind::Other, false);
        assert!(matches!(repair::carry_out_on(&disk, &plan), Err(WalError::Io { .. })), "{op:?}");
        assert_eq!(disk.fired(op), 1);
        let plan = repair::plan_on(&disk).unwrap();
        assert_eq!(repaired(&disk, &plan).1, as_contents(&records[..8]), "{op:?}");
    }
}

#[test]
fn real_files_are_linked_into_the_quarantine() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = crate::common::open(dir.path());
    for number in 0..12 {
        wal.append(1, &payload(number, 1000)).unwrap();
        if number == 5 {
            wal.rotate().unwrap();
        }
    }
    wal.close().unwrap();
    let path = dir.path().join(NAMES[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096 + 3 * 1032 + 50] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    for attempt in 0..2 {
        let plan = repair::plan(dir.path()).unwrap();
        let done = repair::carry_out(dir.path(), &plan).unwrap();
        let (wal, recovery) = crate::common::open(dir.path());
        assert_eq!(recovery.records, 3);
        wal.close().unwrap();
        let verified = inspect::verify(dir.path()).unwrap();
        assert!(verified.corrupt.is_empty() && verified.records == 3);
        if attempt == 0 {
            assert_eq!(done.quarantined, [NAMES[1], NAMES[0]].map(|name| format!("quarantine/{name}")));
            assert!(std::fs::read(dir.path().join("quarantine").join(NAMES[0])).unwrap() == bytes);
            // The same damage once more: the second file of the name stands beside the first.
            bytes[4096 + 3 * 1032..].fill(0);
            bytes.truncate(1 << 20);
            std::fs::write(&path, &bytes).unwrap();
        }
    }
}
