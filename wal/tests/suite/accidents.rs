//! The histories of `crash.rs` on a disk that has accidents too: sectors that land elsewhere, no room for a write, a file
//! or a name, and reads that fail while a log is opened.
//!
//! The rule is the oracle's: a legal crash is never refused; where a witness of acknowledged data survives, damage to it
//! always is. A read that fails is an error that names its segment, and changes nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::ErrorKind;

use outrigger_wal::sim::{Op, SimDisk};
use outrigger_wal::{WalError, inspect};

use crate::common::{Rng, open_sim};
use crate::history::{Knowledge, digest, for_seeds, live, try_kept};
use crate::oracle::{Verdict, judge};

/// How often each thing happened, so that a test shows that it asked something.
type Counts = RefCell<BTreeMap<&'static str, u64>>;

fn count(counts: &Counts, what: &'static str) {
    *counts.borrow_mut().entry(what).or_default() += 1;
}

fn assert_happened(counts: &Counts, at_least: &[(&str, u64)]) {
    let counts = counts.borrow();
    println!("{counts:?}");
    if std::env::var_os("OUTRIGGER_WAL_SEED").is_none() {
        for (what, least) in at_least {
            assert!(counts.get(what).is_some_and(|count| count >= least), "{what}: {counts:?}");
        }
    }
}

/// The log's files as they are seen.
fn segments(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    let names = disk.names().into_iter().filter(|name| name.ends_with(".wal"));
    names.map(|name| (name.clone(), disk.content(&name).unwrap())).collect()
}

/// What the next life has in store.
fn prepare_accident(disk: &SimDisk, rng: &mut Rng) -> Option<Op> {
    let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded][rng.below(2) as usize];
    let (op, after, kind) = match rng.below(8) {
        0..=2 => {
            disk.misdirect(rng.below(80));
            return None;
        }
        3 => (Op::Write, rng.below(90), full),
        4 => (Op::Create, rng.below(4), full),
        5 => (Op::Rename, rng.below(3), full),
        6 => (Op::SyncDir, rng.below(5), ErrorKind::Other),
        _ => return None,
    };
    disk.fail(op, after, kind, rng.below(2) == 0);
    Some(op)
}

/// Reads fail while the log is opened: told, by the segment's name, and nothing is changed. Gives whether they did.
fn opening_with_bad_reads(disk: &SimDisk, rng: &mut Rng, counts: &Counts) {
    let before = segments(disk);
    disk.fail(Op::Read, rng.below(25), ErrorKind::Other, rng.below(2) == 0);
    let answer = open_sim(disk);
    let struck = disk.fired(Op::Read) > 0;
    disk.heal();
    match answer {
        Ok(_) => assert!(!struck, "an opening over a read that failed"),
        Err(WalError::Io { action, path, .. }) if struck => {
            assert!(["read", "rewrite"].contains(&action), "{action}");
            assert!(path.to_string_lossy().ends_with(".wal"), "it names the segment: {}", path.display());
            assert!(segments(disk) == before, "an opening that fails changes nothing");
            count(counts, "reads that failed");
        }
        // Damage that was found before the read that fails.
        Err(WalError::Corrupt { .. }) => assert!(segments(disk) == before),
        Err(error) => panic!("{error}"),
    }
}

/// One log through several lives with accidents. Ends at the first refusal.
fn history(seed: u64, counts: &Counts) {
    let mut rng = Rng(seed);
    let mut disk = SimDisk::new(seed);
    let mut known = Knowledge::default();
    let mut strays: Vec<String> = Vec::new();
    for _ in 0..2 + rng.below(4) {
        // What the opening will see is what the oracle sees.
        disk.drop_caches();
        if rng.below(3) == 0 && !segments(&disk).is_empty() {
            opening_with_bad_reads(&disk, &mut rng, counts);
            disk = disk.crash(rng.next());
        }
        let verdict = judge(&disk);
        let before = segments(&disk);
        let verified = inspect::verify_on(&disk, &mut |_, _| {}).unwrap();
        let cut = rng.below(3) == 0;
        if cut {
            disk.cut_power_at(disk.operations() + 1 + rng.below(200));
        }
        let accident = prepare_accident(&disk, &mut rng);
        match (open_sim(&disk), verdict) {
            (Ok((wal, _)), Verdict::Open(expected)) => {
                assert_eq!(verified.corrupt, []);
                match try_kept(&wal) {
                    Ok(found) => {
                        assert_eq!(digest(&found), expected, "{strays:?}");
                        learn(&mut known, &found, &strays, counts);
                    }
                    // What the opening itself wrote went astray.
                    Err(WalError::Corrupt { .. }) if !disk.strays().is_empty() => {
                        count(counts, "told by a reader");
                        return;
                    }
                    Err(error) => assert!(disk.power_is_gone(), "{error}"),
                }
                live(&disk, &wal, &mut known, &mut rng, 70, false);
                if rng.below(4) == 0 && wal.close().is_ok() {
                    known.acknowledged = known.appended.len();
                }
            }
            (Err(WalError::Corrupt { lost, .. }), Verdict::Refuse(_)) => {
                assert!(lost.start < lost.end && !strays.is_empty(), "a legal crash is refused: {lost:?}");
                assert!(segments(&disk) == before, "a log that is refused is left as it is");
                assert_ne!(verified.corrupt, []);
                count(counts, "refused");
                return;
            }
            (Err(WalError::Full { .. }), _) => assert!(accident.is_some_and(|op| disk.fired(op) > 0)),
            (Err(WalError::Io { .. }), _) => {
                assert!(disk.power_is_gone() || accident.is_some_and(|op| disk.fired(op) > 0), "{accident:?}");
            }
            (answer, verdict) => {
                panic!("expected {verdict:?}, got {:?}; astray: {strays:?}", answer.map(|(_, found)| found))
            }
        }
        if let Some(op) = accident.filter(|op| disk.fired(*op) > 0) {
            count(counts, named(op));
        }
        for stray in disk.strays() {
            let (from, to) = stray.split_once(" to ").unwrap();
            let home = from.split_once(" at ").unwrap().0 == to.split_once(" at ").unwrap().0;
            count(counts, if home { "astray within its file" } else { "astray into another file" });
            strays.push(stray);
        }
        disk = if rng.below(4) == 0 { disk.kill(rng.next()) } else { disk.crash(rng.next()) };
    }
    count(counts, if strays.is_empty() { "without stray sectors" } else { "opened over stray sectors" });
}

fn named(op: Op) -> &'static str {
    match op {
        Op::Write => "no room to write",
        Op::Create => "no room for a segment",
        Op::Rename => "no room for a name",
        _ => "directory not flushed",
    }
}

/// Without an accident to a sector nothing acknowledged may be missing. With one it may, where the oracle found no
/// witness; the log goes on from there.
fn learn(known: &mut Knowledge, found: &[(outrigger_wal::Lsn, Vec<u8>)], strays: &[String], counts: &Counts) {
    if strays.is_empty() {
        known.check(found);
        return;
    }
    let from = known.appended.iter().position(|(lsn, ..)| found.first().is_some_and(|(first, _)| first == lsn));
    let end = from.map_or(0, |from| from + found.len());
    if end < known.acknowledged && !found.is_empty() {
        count(counts, "lost without a witness");
    }
    known.acknowledged = known.acknowledged.min(end);
    known.check(found);
}

#[test]
fn accidents_are_refused_exactly_where_a_witness_survives() {
    let counts = Counts::default();
    for_seeds(1_000, |seed| history(seed, &counts));
    let least = [
        ("refused", 50),
        ("opened over stray sectors", 50),
        ("without stray sectors", 50),
        ("astray within its file", 100),
        ("astray into another file", 100),
        ("reads that failed", 50),
        ("no room to write", 50),
        ("no room for a segment", 20),
        ("no room for a name", 20),
        ("directory not flushed", 20),
    ];
    assert_happened(&counts, &least);
}
