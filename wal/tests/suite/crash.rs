//! Histories on the simulated disk: power cuts and kills at any operation, over several lives of one log, each image
//! held against what was acknowledged and against the oracle; and damage to what is on the disk.

use std::io::ErrorKind;

use outrigger_wal::sim::{Op, SimDisk};
use outrigger_wal::{Keys, Lsn, Options, WalError, inspect};

use crate::common::{Rng, inline, open_sim, open_with};
use crate::history::{Knowledge, digest, for_seeds, kept, live, try_kept};
use crate::oracle::{Verdict, judge};

/// One log through several lives, each ended by a power cut, a kill, a clean shutdown or a failed flush.
fn history(seed: u64) -> (SimDisk, Knowledge) {
    // Every other log uses its segments again.
    history_with(seed, &Options { recycle: (seed / 2).is_multiple_of(2), ..inline() })
}

fn history_with(seed: u64, options: &Options) -> (SimDisk, Knowledge) {
    history_of(seed, options, 1)
}

/// Lives that are `length` times as long.
pub(crate) fn history_of(seed: u64, options: &Options, length: u64) -> (SimDisk, Knowledge) {
    let open_sim = |disk: &SimDisk| open_with(disk, options);
    let mut rng = Rng(seed);
    let mut disk = SimDisk::new(seed);
    let mut known = Knowledge::default();
    for _ in 0..1 + rng.below(4) {
        if rng.below(2) == 0 {
            disk.cut_power_at(disk.operations() + 1 + rng.below(150 * length));
        } else if rng.below(3) == 0 {
            disk.fail(Op::Flush, rng.below(12), ErrorKind::Other, rng.below(2) == 0);
        }
        match open_sim(&disk) {
            Ok((wal, recovery)) => {
                match try_kept(&wal) {
                    Ok(found) => {
                        assert_eq!(found.len() as u64, recovery.records);
                        known.check(&found);
                    }
                    Err(error) => assert!(disk.power_is_gone(), "{error}"),
                }
                let operations = rng.below(60 * length);
                live(&disk, &wal, &mut known, &mut rng, operations, length > 1);
                if rng.below(4) == 0 && wal.close().is_ok() {
                    known.acknowledged = known.appended.len();
                }
            }
            // Without power, or where the fault struck, an opening may fail, but it never finds damage.
            Err(WalError::Io { .. }) => assert!(disk.power_is_gone() || disk.fired(Op::Flush) > 0),
            Err(error) => panic!("a legal crash is refused: {error}"),
        }
        disk = if rng.below(4) == 0 { disk.kill(rng.next()) } else { disk.crash(rng.next()) };
    }
    (disk, known)
}

#[test]
fn no_legal_crash_is_refused_and_nothing_acknowledged_is_lost() {
    for_seeds(1_000, |seed| {
        let (disk, mut known) = history(seed);
        // Half of the time nobody looks behind the cache before the opening does.
        let expected = (seed % 2 == 0).then(|| {
            disk.drop_caches();
            (judge(&disk), inspect::verify_on(&disk, &mut |_, _| {}).unwrap())
        });
        let (wal, recovery) = open_sim(&disk).expect("a legal crash is refused");
        let found = kept(&wal);
        if let Some((verdict, verified)) = expected {
            assert_eq!(verdict, Verdict::Open(digest(&found)));
            assert_eq!(verified.corrupt, []);
            assert_eq!((verified.records, verified.torn_bytes), (recovery.records, recovery.torn_bytes));
        }
        known.check(&found);
        // A second power cut right after the opening changes nothing: all of it was made durable.
        drop(wal);
        let (wal, recovery) = open_sim(&disk.crash(seed)).unwrap();
        assert_eq!(recovery.torn_bytes, 0);
        assert_eq!(kept(&wal), found);
    });
}

#[test]
fn an_opening_that_is_cut_off_is_found_again() {
    for_seeds(300, |seed| {
        let (disk, mut known) = history(seed);
        let mut rng = Rng(!seed);
        let mut disk = disk;
        for _ in 0..3 {
            disk.cut_power_at(disk.operations() + 1 + rng.below(30));
            // With or without success: what it leaves must open.
            let _ = open_sim(&disk);
            disk = disk.crash(rng.next());
        }
        let (wal, _) = open_sim(&disk).expect("a legal crash is refused");
        known.check(&kept(&wal));
    });
}

/// Does something to the disk that no power cut does. Gives what, for the failure's sake.
pub(crate) fn damage(disk: &SimDisk, rng: &mut Rng) -> String {
    let names: Vec<String> = disk.names().into_iter().filter(|name| name.ends_with(".wal")).collect();
    let name = &names[rng.below(names.len() as u64) as usize];
    let content = disk.content(name).unwrap();
    // Mostly where something is written.
    let used = content.iter().rposition(|&byte| byte != 0).map_or(4096, |last| last as u64 + 1);
    let bound = if rng.below(8) == 0 { content.len() as u64 } else { used };
    let at = if rng.below(12) == 0 {
        rng.below(4096)
    } else {
        4096.min(bound - 1) + rng.below(bound.saturating_sub(4096).max(1))
    };
    let sector = (at / 512 * 512) as usize;
    match rng.below(6) {
        0..=2 => {
            let flipped = content[at as usize] ^ (1 << rng.below(8));
            disk.damage(name, at, &[flipped]);
            format!("a bit of {name} at {at}")
        }
        3 => {
            disk.damage(name, sector as u64, &[0; 512]);
            format!("sector of {name} at {sector} zeroed")
        }
        4 => {
            let other = rng.below(content.len() as u64 / 512) as usize * 512;
            disk.damage(name, sector as u64, &content[other..other + 512]);
            format!("sector of {name} at {sector} written with that of {other}")
        }
        _ => {
            if rng.below(4) == 0 {
                disk.lose(name);
                return format!("{name} lost");
            }
            let page = at / 4096 * 4096;
            disk.damage(name, page, &[0xa5; 4096]);
            format!("page of {name} at {page}")
        }
    }
}

#[test]
fn damage_is_refused_exactly_where_a_witness_survives() {
    let counts = std::cell::Cell::new((0, 0));
    for_seeds(1_000, |seed| {
        let (disk, _) = history(seed);
        if !disk.names().iter().any(|name| name.ends_with(".wal")) {
            return;
        }
        disk.drop_caches();
        // Half of them sealed by an opening and an orderly end, so that there are witnesses for the last group too.
        if seed % 2 == 0 {
            open_sim(&disk).unwrap().0.close().unwrap();
        }
        let mut rng = Rng(seed ^ 0xda3a6e);
        let what = damage(&disk, &mut rng);
        let verdict = judge(&disk);
        let verified = inspect::verify_on(&disk, &mut |_, _| {}).unwrap();
        let (refused, opened) = counts.get();
        match (&verdict, open_sim(&disk)) {
            (Verdict::Refuse(_), Err(WalError::Corrupt { lost, .. })) => {
                assert!(lost.start < lost.end, "{what}: {lost:?}");
                assert_ne!(verified.corrupt, [], "{what}");
                counts.set((refused + 1, opened));
            }
            (Verdict::Open(expected), Ok((wal, _))) => {
                assert_eq!(&digest(&kept(&wal)), expected, "{what}");
                assert_eq!(verified.corrupt, [], "{what}");
                counts.set((refused, opened + 1));
            }
            (verdict, answer) => panic!("{what}: expected {verdict:?}, got {:?}", answer.map(|(_, found)| found)),
        }
    });
    let (refused, opened) = counts.get();
    println!("{refused} refused, {opened} opened");
    assert!(std::env::var_os("OUTRIGGER_WAL_SEED").is_some() || (refused > 200 && opened > 100), "{refused}, {opened}");
}

#[test]
fn after_a_clean_shutdown_any_damage_to_a_record_is_refused() {
    for_seeds(400, |seed| {
        let (disk, _) = history(seed);
        let (wal, _) = open_sim(&disk).unwrap();
        wal.append(1, b"the last one").unwrap();
        let records: Vec<_> = {
            wal.flush(Lsn::MAX).unwrap();
            wal.read(Lsn::ZERO).map(Result::unwrap).collect()
        };
        wal.close().unwrap();
        let mut rng = Rng(seed);
        let record = &records[rng.below(records.len() as u64) as usize];
        let stat = inspect::stat_on(&disk).unwrap();
        let segment = stat.segments.iter().rfind(|segment| segment.base_lsn <= record.lsn).unwrap();
        let at = (record.lsn - segment.base_lsn) + rng.below(32 + record.payload.len() as u64);
        let byte = disk.content(&segment.name).unwrap()[at as usize];
        disk.damage(&segment.name, at, &[byte ^ (1 << rng.below(8))]);
        match open_sim(&disk) {
            Err(WalError::Corrupt { lsn, lost, .. }) => {
                assert!(lsn <= record.lsn && lost.contains(&record.lsn), "{lsn} {lost:?} {}", record.lsn);
            }
            other => panic!("{:?}", other.map(|(_, recovery)| recovery)),
        }
    });
}

/// The same lives with payloads that are encrypted, compressed or both, and with settings that change between lives.
#[test]
fn stored_payloads_survive_what_plain_ones_do() {
    let key = |digit: &str| Keys::parse(&digit.repeat(64)).unwrap();
    let both = Keys::parse(&format!("{}\n{}", "b".repeat(64), "a".repeat(64))).unwrap();
    for_seeds(300, |seed| {
        let before = Options { keys: Some(key("a")), compress_above: Some(64), ..inline() };
        let (disk, mut known) = history_with(seed, &before);
        let after = match seed % 4 {
            0 => before.clone(),
            1 => Options { keys: Some(both.clone()), ..before.clone() },
            2 => Options { encrypt: false, ..before.clone() },
            _ => Options { compress_above: None, ..before.clone() },
        };
        let (wal, _) = open_with(&disk, &after).expect("a legal crash is refused");
        known.check(&kept(&wal));
        known.append(&wal, &mut Rng(seed));
        wal.flush(Lsn::MAX).unwrap();
        known.acknowledged = known.appended.len();
        drop(wal);
        let (wal, recovery) = open_with(&disk.crash(seed), &after).expect("a legal crash is refused");
        known.check(&kept(&wal));
        drop(wal);
        // Whether it is sound can be told without a key, what it holds cannot.
        assert_eq!(inspect::verify_on(&disk, &mut |_, _| {}).unwrap().corrupt, []);
        let keyless = inspect::records_on(Box::new(disk.clone()), Lsn::ZERO).unwrap().collect::<Result<Vec<_>, _>>();
        let encrypted = inspect::stat_on(&disk).unwrap().segments.iter().any(|segment| segment.key_id.is_some());
        match keyless {
            Ok(records) => assert!(!encrypted || records.is_empty() || recovery.segments > 1, "{seed}"),
            Err(error) => assert!(matches!(error, WalError::Key { .. }), "{error}"),
        }
    });
}
