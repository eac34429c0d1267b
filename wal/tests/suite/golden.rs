//! Logs written by earlier versions open for ever.
//!
//! `tests/golden/v1` was written by the first version of the format. It is never written again: the test below that
//! compares bytes shows that today's writer still writes it; when the format gets a second version, that test moves on
//! to `v2` and the files of `v1` stay.

use std::fs;
use std::path::{Path, PathBuf};

use outrigger_wal::sim::SimDisk;
use outrigger_wal::{Backend, Keys, Lsn, Options, Wal, WalError, inspect};

use crate::common::{contents, inline, open_sim, open_with, payload, small};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name)
}

/// Every kind of record: the caller's (empty, unaligned, long), seal, end, release, close.
fn written() -> SimDisk {
    let disk = SimDisk::new(0x601d);
    let (wal, _) = open_sim(&disk).unwrap();
    let mut middle = Lsn::ZERO;
    for number in 0..30 {
        let appended =
            wal.append(number as u8, &payload(number, number as usize * 40)[..number as usize * 40]).unwrap();
        if number == 25 {
            middle = appended.lsn;
        }
        if number % 7 == 3 {
            wal.flush(appended.end).unwrap();
        }
        if number % 10 == 9 {
            wal.seal().unwrap();
        }
    }
    wal.rotate().unwrap();
    wal.append(200, &vec![0xab; wal.max_payload()]).unwrap();
    let last = wal.append(201, b"behind the largest payload").unwrap();
    wal.flush(last.end).unwrap();
    assert!(wal.release(middle).unwrap() > 0);
    wal.append(202, b"the last").unwrap();
    wal.close().unwrap();
    disk
}

/// The same log after a crash in the middle of a group: valid records, a hole, valid records that nobody was told of.
fn torn() -> SimDisk {
    let disk = SimDisk::new(0x601e);
    let (wal, _) = open_sim(&disk).unwrap();
    let kept = wal.append(1, b"acknowledged").unwrap();
    wal.flush(kept.end).unwrap();
    let hole = wal.append(1, &[0x11; 100]).unwrap();
    wal.append(1, &[0x22; 3000]).unwrap();
    wal.append(1, b"behind the hole").unwrap();
    drop(wal);
    disk.damage(&disk.names()[0], hole.lsn.as_u64(), &[0; 132]);
    disk
}

/// Under the key of 64 times `c`.
fn sealed_options() -> Options {
    Options { keys: Some(Keys::parse(&"c".repeat(64)).unwrap()), ..inline() }
}

fn stored(options: &Options) -> SimDisk {
    let disk = SimDisk::new(0x601f);
    let (wal, _) = open_with(&disk, options).unwrap();
    for number in 0..12 {
        wal.append(number as u8, &payload(number, 8 + number as usize * 100)).unwrap();
    }
    wal.append(12, &[0x77; 5_000]).unwrap();
    wal.flush(Lsn::MAX).unwrap();
    wal.rotate().unwrap();
    wal.append(13, b"in the second segment").unwrap();
    wal.close().unwrap();
    disk
}

/// Writes a golden log where that is asked for.
fn lay(name: &str, disk: &SimDisk) {
    if std::env::var_os("OUTRIGGER_WAL_WRITE_GOLDEN").is_some() && !golden(name).exists() {
        fs::create_dir_all(golden(name)).unwrap();
        for file in disk.names().into_iter().filter(|name| name.ends_with(".wal")) {
            fs::write(golden(name).join(&file), disk.content(&file).unwrap()).unwrap();
        }
    }
}

#[test]
fn encrypted_and_compressed_logs_of_version_one_open() {
    let packed = Options { compress_above: Some(64), ..inline() };
    lay("compressed", &stored(&packed));
    let both = Options { keys: sealed_options().keys, ..packed };
    lay("compressed-encrypted", &stored(&both));
    for (name, keys) in
        [("encrypted", sealed_options().keys), ("compressed", None), ("compressed-encrypted", sealed_options().keys)]
    {
        let dir = copy(name);
        assert_eq!(inspect::verify(dir.path()).unwrap().corrupt, [], "no key is needed for that");
        let (wal, recovery) = Wal::open(dir.path(), Options { keys, ..small() }).unwrap();
        assert!(recovery.clean_shutdown);
        let found = contents(&wal);
        assert_eq!(found.len(), 14);
        for (number, (kind, bytes)) in found.iter().take(12).enumerate() {
            assert!(*kind == number as u8 && *bytes == payload(number as u64, 8 + number * 100));
        }
        assert_eq!(
            (found[12].1.as_slice(), found[13].1.as_slice()),
            (&[0x77; 5_000][..], &b"in the second segment"[..])
        );
    }
}

#[test]
fn todays_writer_writes_version_one() {
    // What a compressor writes is its own affair, so the compressed logs are only read.
    lay("encrypted", &stored(&sealed_options()));
    for (name, disk) in [("closed", written()), ("torn", torn()), ("encrypted", stored(&sealed_options()))] {
        let names: Vec<String> = disk.names().into_iter().filter(|name| name.ends_with(".wal")).collect();
        let dir = golden(name);
        let mut stored: Vec<String> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        stored.sort();
        assert_eq!(stored, names);
        for name in &names {
            assert!(fs::read(dir.join(name)).unwrap() == disk.content(name).unwrap(), "{name} differs");
        }
    }
}

/// A copy to write in, since opening writes.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

#[test]
fn a_closed_log_of_version_one_opens() {
    for backend in [Backend::Mmap, Backend::Pwrite] {
        let dir = copy("closed");
        let verified = inspect::verify(dir.path()).unwrap();
        assert_eq!((verified.corrupt.len(), verified.torn_bytes, verified.clean_shutdown), (0, 0, true));
        let (wal, recovery) = Wal::open(dir.path(), Options { backend, ..small() }).unwrap();
        assert!(recovery.clean_shutdown);
        let found = contents(&wal);
        assert_eq!(found.len() as u64, recovery.records);
        let last: Vec<_> = found.iter().map(|(kind, _)| *kind).rev().take(2).collect();
        assert_eq!(last, [202, 201]);
        assert_eq!(found.last().unwrap().1, b"the last");
        // The old segments are small; the next one has today's size.
        wal.append(1, &vec![9; 500_000]).unwrap();
        wal.close().unwrap();
        let (wal, _) = Wal::open(dir.path(), small()).unwrap();
        assert_eq!(contents(&wal).len(), found.len() + 1);
    }
}

#[test]
fn a_torn_log_of_version_one_is_cut() {
    let dir = copy("torn");
    let (wal, recovery) = Wal::open(dir.path(), small()).unwrap();
    assert_eq!(contents(&wal), [(1, b"acknowledged".to_vec())]);
    assert!(recovery.torn_bytes > 3000 && !recovery.clean_shutdown);
    drop(wal);
    assert_eq!(Wal::open(dir.path(), small()).unwrap().1.torn_bytes, 0);
}

#[test]
fn a_damaged_log_of_version_one_is_refused_and_left_alone() {
    let dir = copy("closed");
    let first = inspect::records(dir.path(), Lsn::ZERO).unwrap().next().unwrap().unwrap();
    let stat = inspect::stat(dir.path()).unwrap();
    let path = dir.path().join(&stat.segments[0].name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[(first.lsn - stat.segments[0].base_lsn) as usize + 40] ^= 4;
    fs::write(&path, &bytes).unwrap();
    match Wal::open(dir.path(), small()) {
        Err(WalError::Corrupt { lsn, lost, .. }) => assert!(lsn == first.lsn && lost.contains(&first.lsn)),
        other => panic!("{:?}", other.map(|(_, recovery)| recovery)),
    }
    assert!(fs::read(&path).unwrap() == bytes);
    let last = inspect::records(dir.path(), Lsn::ZERO).unwrap().last().unwrap();
    assert!(matches!(last, Err(WalError::Corrupt { .. })), "{last:?}");
}
