//! One contract, every implementation.

use std::io::ErrorKind;

use super::sim::{Op, SimDisk};
use super::*;
use crate::options::Backend;

const BYTES: u64 = 64 << 10;

fn each(test: impl Fn(&dyn Storage)) {
    test(&SimDisk::new(1));
    for backend in [Backend::Mmap, Backend::Pwrite] {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(&dir.path().join("made/on/the/way"), backend);
        directory.make().unwrap();
        directory.make().unwrap();
        test(&directory);
    }
}

#[test]
fn what_is_written_and_flushed_is_read() {
    each(|storage| {
        let file = storage.create("a", BYTES).unwrap();
        assert_eq!(file.bytes(), BYTES);
        let mut read = vec![1; BYTES as usize];
        file.read_at(0, &mut read).unwrap();
        assert!(read.iter().all(|&byte| byte == 0), "a new file is zeros");
        file.write_at(4090, b"across the page's edge").unwrap();
        file.write_at(4112, b"and on").unwrap();
        file.write_at(BYTES - 3, b"end").unwrap();
        file.flush(0..BYTES).unwrap();
        let expected = [&b"across the page's edge"[..], b"and on"].concat();
        for file in [file, storage.open("a", Access::Read).unwrap(), storage.open("a", Access::Write).unwrap()] {
            let mut read = vec![0; expected.len()];
            file.read_at(4090, &mut read).unwrap();
            assert_eq!(read, expected);
            file.read_at(BYTES - 3, &mut read[..3]).unwrap();
            assert_eq!(&read[..3], b"end");
            file.forget(0..BYTES);
            file.read_at(4090, &mut read).unwrap();
            assert_eq!(read, expected);
        }
    });
}

#[test]
fn nothing_reaches_beyond_the_end() {
    each(|storage| {
        let file = storage.create("a", BYTES).unwrap();
        for offset in [BYTES - 3, BYTES, u64::MAX - 1] {
            assert_eq!(file.write_at(offset, b"four").unwrap_err().kind(), ErrorKind::UnexpectedEof);
            assert_eq!(file.read_at(offset, &mut [0; 4]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        }
        assert_eq!(storage.open("a", Access::Read).unwrap().bytes(), BYTES);
    });
}

#[test]
fn names_come_and_go() {
    each(|storage| {
        let names = || {
            let mut names = storage.list().unwrap();
            names.sort();
            names
        };
        assert_eq!(storage.open("a", Access::Read).unwrap_err().kind(), ErrorKind::NotFound);
        drop(storage.create("a", BYTES).unwrap());
        drop(storage.create("b", BYTES).unwrap());
        storage.rename("a", "c").unwrap();
        assert_eq!(names(), ["b", "c"]);
        storage.remove("b").unwrap();
        assert_eq!(storage.remove("b").unwrap_err().kind(), ErrorKind::NotFound);
        storage.sync_dir().unwrap();
        assert_eq!(names(), ["c"]);
    });
}

#[test]
fn the_lock_is_exclusive_and_ends_with_its_guard() {
    each(|storage| {
        let guard = storage.lock().unwrap();
        assert_eq!(storage.lock().unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(guard);
        drop(storage.lock().unwrap());
    });
}

#[test]
fn a_new_file_is_not_sparse() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::new(dir.path(), Backend::Mmap);
    drop(directory.create("a", 1 << 20).unwrap());
    let metadata = std::fs::metadata(dir.path().join("a")).unwrap();
    assert!(metadata.blocks() * 512 >= 1 << 20, "{} blocks", metadata.blocks());
    assert_eq!(metadata.mode() & 0o777, 0o600, "records hold the application's data");
}

#[test]
fn the_simulated_disk_loses_what_it_may_and_keeps_what_it_must() {
    let mut survived = [0; 3];
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let file = disk.create("a", BYTES).unwrap();
        file.write_at(0, b"flushed").unwrap();
        file.flush(0..4096).unwrap();
        disk.sync_dir().unwrap();
        file.write_at(512, b"first").unwrap();
        file.write_at(9000, b"second").unwrap();
        disk.rename("a", "b").unwrap();
        let image = disk.crash(seed);
        let name = if image.names() == ["b"] { "b" } else { "a" };
        let content = image.content(name).unwrap();
        assert_eq!(&content[..7], b"flushed");
        survived[0] += u32::from(name == "b");
        survived[1] += u32::from(&content[512..517] == b"first");
        survived[2] += u32::from(&content[9000..9006] == b"second");
    }
    assert!(survived.iter().all(|&count| (20..180).contains(&count)), "{survived:?}");
}

#[test]
fn a_failed_flush_of_the_simulated_disk_lies_afterwards_as_kernels_do() {
    let disk = SimDisk::new(3);
    let file = disk.create("a", BYTES).unwrap();
    disk.sync_dir().unwrap();
    file.write_at(0, b"lost").unwrap();
    disk.fail(Op::Flush, 0, ErrorKind::Other, false);
    assert!(file.flush(0..4096).is_err());
    assert_eq!(disk.fired(Op::Flush), 1);
    file.flush(0..4096).unwrap();
    assert_eq!(&disk.content("a").unwrap()[..4], b"lost", "the cache still shows it");
    for seed in 0..50 {
        assert_eq!(&disk.crash(seed).content("a").unwrap()[..4], [0; 4], "the platter never got it");
    }
    file.forget(0..4096);
    assert_eq!(&disk.content("a").unwrap()[..4], [0; 4]);
    file.write_at(0, b"kept").unwrap();
    file.flush(0..4096).unwrap();
    assert_eq!(&disk.crash(0).content("a").unwrap()[..4], b"kept");
}
