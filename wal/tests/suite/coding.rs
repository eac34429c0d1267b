//! Encryption at rest and compression: what is on the disk, who can read it, and how keys change.

use std::collections::HashMap;

use outrigger_wal::sim::SimDisk;
use outrigger_wal::{Backend, Keys, Lsn, Options, Wal, WalError, inspect};

use crate::common::{contents, inline, open_with, payload, small};

fn key(digit: &str) -> Keys {
    Keys::parse(&digit.repeat(64)).unwrap()
}

fn encrypted() -> Options {
    Options { keys: Some(key("a")), ..inline() }
}

/// Bytes of all segment files, one behind the other.
fn bytes(disk: &SimDisk) -> Vec<u8> {
    disk.names().iter().filter(|name| name.ends_with(".wal")).flat_map(|name| disk.content(name).unwrap()).collect()
}

fn shows(disk: &SimDisk, text: &[u8]) -> bool {
    bytes(disk).windows(text.len()).any(|window| window == text)
}

const SECRET: &[u8] = b"a secret that is long enough to be found, a secret that is long enough to be found";

#[test]
fn what_is_stored_comes_back_from_real_files() {
    for backend in [Backend::Mmap, Backend::Pwrite] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { backend, keys: Some(key("a")), compress_above: Some(100), ..small() };
        let (wal, _) = Wal::open(dir.path(), options.clone()).unwrap();
        let max = wal.max_payload();
        assert!(matches!(wal.append(1, &vec![0; max + 1]), Err(WalError::TooLarge { .. })));
        let noise: Vec<u8> = (0..max as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u8).collect();
        let written = vec![(1, Vec::new()), (2, SECRET.to_vec()), (3, vec![7; max]), (4, noise), (5, payload(5, 99))];
        for (kind, payload) in &written {
            wal.append(*kind, payload).unwrap();
        }
        wal.flush(Lsn::MAX).unwrap();
        assert_eq!(contents(&wal), written);
        let read = |records: inspect::Records| records.collect::<Result<Vec<_>, _>>();
        let found = read(inspect::records(dir.path(), Lsn::ZERO).unwrap().with_keys(key("a"))).unwrap();
        assert!(found.iter().map(|record| (record.kind, record.payload.clone())).eq(written.iter().cloned()));
        match read(inspect::records(dir.path(), Lsn::ZERO).unwrap()) {
            Err(WalError::Key { key_id, .. }) => {
                let stat = inspect::stat(dir.path()).unwrap();
                assert_eq!(stat.segments[0].key_id.as_ref(), Some(&key_id));
            }
            other => panic!("{other:?}"),
        }
        wal.close().unwrap();
        assert_eq!(contents(&Wal::open(dir.path(), options).unwrap().0), written);
    }
}

#[test]
fn both_are_off_by_default_and_show_in_the_file() {
    for (options, shown, shorter) in [
        (inline(), true, false),
        (encrypted(), false, false),
        (Options { compress_above: Some(64), ..inline() }, false, true),
    ] {
        let disk = SimDisk::new(1);
        let (wal, _) = open_with(&disk, &options).unwrap();
        let appended = wal.append(1, &SECRET.repeat(20)).unwrap();
        wal.flush(Lsn::MAX).unwrap();
        assert_eq!(shows(&disk, SECRET), shown);
        assert_eq!(appended.end - appended.lsn < 1000, shorter);
        assert_eq!(contents(&wal)[0].1, SECRET.repeat(20));
        let small = wal.append(1, b"below the threshold").unwrap();
        assert!(small.end - small.lsn >= 32 + 19);
        wal.append(1, &[0x5a, 0xa5, 0x11]).unwrap();
    }
}

#[test]
fn without_its_key_a_log_is_refused_and_left_alone() {
    let disk = SimDisk::new(2);
    let (wal, _) = open_with(&disk, &encrypted()).unwrap();
    wal.append(1, SECRET).unwrap();
    wal.close().unwrap();
    let before = bytes(&disk);
    for options in [inline(), Options { keys: Some(key("b")), ..inline() }] {
        assert!(matches!(open_with(&disk, &options), Err(WalError::Key { .. })));
    }
    assert!(bytes(&disk) == before);
    assert_eq!(contents(&open_with(&disk, &encrypted()).unwrap().0).len(), 1);
}

#[test]
fn a_key_is_changed_by_new_segments() {
    let disk = SimDisk::new(3);
    let both = Keys::parse(&format!("{}\n{}", "b".repeat(64), "a".repeat(64))).unwrap();
    let lives = [
        inline(),
        encrypted(),
        Options { keys: Some(both.clone()), ..inline() },
        Options { keys: Some(both), encrypt: false, ..inline() },
    ];
    for (number, options) in lives.iter().enumerate() {
        let (wal, _) = open_with(&disk, options).unwrap();
        assert_eq!(wal.stats().segments as usize, number.max(1), "an opening alone changes nothing");
        for _ in 0..2 {
            wal.append(1, &payload(number as u64, 50)).unwrap();
            assert_eq!(wal.stats().segments as usize, number + 1, "one new segment a change");
        }
        wal.flush(Lsn::MAX).unwrap();
        assert_eq!(contents(&wal).len(), 2 * (number + 1));
        drop(wal);
        assert_eq!(contents(&open_with(&disk, options).unwrap().0).len(), 2 * (number + 1));
    }
    let keys: Vec<Option<String>> =
        inspect::stat_on(&disk).unwrap().segments.into_iter().map(|segment| segment.key_id).collect();
    assert!(keys[0].is_none() && keys[1].is_some() && keys[2].is_some() && keys[3].is_none() && keys[1] != keys[2]);
}

/// The heart of the argument in `keys.rs`: no (salt, Lsn, opening) is ever seen with two different ciphertexts, over
/// crashes that cut and write the same positions anew, and over a log that was copied and lives on twice.
#[test]
fn no_nonce_is_used_twice() {
    let mut seen: HashMap<[u8; 24], Vec<u8>> = HashMap::new();
    let mut reframed = 0;
    let mut places: HashMap<[u8; 16], Vec<u8>> = HashMap::new();
    for seed in 0..60 {
        let mut disk = SimDisk::new(seed);
        let mut copies = Vec::new();
        for life in 0..6u64 {
            let (wal, _) = open_with(&disk, &encrypted()).unwrap();
            for number in 0..4 {
                // The same text at the same place must not give the same bytes, nor two texts the same stream.
                wal.append(1, &payload(number + life % 2, 200)).unwrap();
            }
            if life % 3 == 0 {
                wal.flush(Lsn::MAX).unwrap();
            }
            for place in records(&disk) {
                let nonce: [u8; 24] = place.0;
                if let Some(before) = seen.insert(nonce, place.1.clone()) {
                    assert!(before == place.1, "a nonce is used twice");
                }
                let position: [u8; 16] = nonce[..16].try_into().unwrap();
                reframed += u32::from(places.insert(position, place.1.clone()).is_some_and(|before| before != place.1));
            }
            drop(wal);
            copies.push(disk.kill(seed * 100 + life));
            disk = if life == 3 { copies[1].crash(seed ^ life) } else { disk.crash(seed ^ life << 8) };
        }
    }
    assert!(reframed > 100, "positions are written anew, or this shows nothing: {reframed}");
}

/// Every record of the caller's that stands on the disk, as (nonce, sealed payload): read by hand.
fn records(disk: &SimDisk) -> Vec<([u8; 24], Vec<u8>)> {
    let mut found = Vec::new();
    for name in disk.names().iter().filter(|name| name.ends_with(".wal")) {
        let content = disk.content(name).unwrap();
        let number = |at: usize| u64::from_le_bytes(content[at..at + 8].try_into().unwrap());
        let (base, mut at) = (number(40), 4096);
        while at + 32 <= content.len() && number(at + 8) == base + at as u64 {
            let len = u32::from_le_bytes(content[at + 4..at + 8].try_into().unwrap()) as usize;
            if content[at + 25] == 0 {
                let mut nonce = [0; 24];
                nonce[..8].copy_from_slice(&content[56..64]);
                nonce[8..16].copy_from_slice(&content[at + 8..at + 16]);
                nonce[16..].copy_from_slice(&content[at + 32..at + 40]);
                found.push((nonce, content[at + 40..at + 32 + len].to_vec()));
            }
            at += (32 + len).next_multiple_of(8);
        }
    }
    found
}

#[test]
fn who_can_make_checksums_cannot_make_records() {
    let disk = SimDisk::new(5);
    let (wal, _) = open_with(&disk, &encrypted()).unwrap();
    let first = wal.append(1, SECRET).unwrap();
    let second = wal.append(1, b"another").unwrap();
    wal.close().unwrap();
    let name = disk.names()[0].clone();
    let mut content = disk.content(&name).unwrap();
    let (start, end) = (first.lsn.as_u64() as usize, second.lsn.as_u64() as usize);
    // The kind is in the clear, and is authenticated with the payload.
    content[start + 24] = 9;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&content[56..64]);
    hasher.update(&content[start + 4..end]);
    content[start..start + 4].copy_from_slice(&hasher.finalize().to_le_bytes());
    disk.damage(&name, 0, &content);
    let (wal, _) = open_with(&disk, &encrypted()).expect("its checksums are right");
    match wal.read(Lsn::ZERO).next() {
        Some(Err(WalError::Corrupt { lsn, detail, .. })) => {
            assert!(lsn == first.lsn && detail.contains("changed"), "{detail}")
        }
        other => panic!("{other:?}"),
    }
}
