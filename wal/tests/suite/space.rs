//! A real file system that is really full. It takes a loop device: where the machine does not allow one, these say so.

use outrigger_wal::{Backend, Lsn, Options, Wal, WalError, inspect};

use crate::common::{contents, payload, small, wait_until};
use crate::mounted::{SmallDisk, eat, free};

fn fill(wal: &Wal) -> u64 {
    (0..100_000)
        .find(|number| match wal.append(1, &payload(*number, 40_000)) {
            Ok(_) => false,
            Err(WalError::Full { .. }) => true,
            Err(error) => panic!("{error}"),
        })
        .expect("the disk becomes full")
}

#[test]
fn a_full_file_system_turns_new_records_away_and_lets_open_ones_end() {
    for backend in [Backend::Mmap, Backend::Pwrite] {
        let Some(disk) = SmallDisk::new(24) else { return };
        let dir = disk.mounted().join("log");
        let options = Options { backend, ..small() };
        let (wal, _) = Wal::open(&dir, options.clone()).unwrap();
        let ordinary = fill(&wal);
        assert!(ordinary > 100, "{ordinary}");
        wal.flush(Lsn::MAX).expect("what was taken becomes durable on a full disk");
        eat(&disk.mounted());
        // The reserve is a segment that stands on the disk already: not one of its bytes is still to be allocated.
        let mut ended = 0;
        let full = loop {
            match wal.append_reserved(2, &payload(ended, 4_000)) {
                Ok(appended) => wal.flush(appended.end).expect("the reserve is allocated"),
                Err(error) => break error,
            }
            ended += 1;
        };
        assert!(matches!(full, WalError::Full { .. }), "{full}");
        assert!((200..600).contains(&ended), "at least the reserve, at most that and the last segment: {ended}");
        assert!(!wal.is_poisoned());
        drop(wal);
        // It opens on the full disk, and comes to life again once there is room.
        let (wal, recovery) = Wal::open(&dir, options).unwrap();
        assert_eq!(recovery.records, ordinary + ended);
        assert!(matches!(wal.append(1, &payload(0, 900_000)), Err(WalError::Full { .. })));
        assert!(wal.release(recovery.next_lsn).unwrap_or(0) > 0 || wal.append_reserved(1, b"").is_err());
        free(&disk.mounted());
        wait_until("room has come", || wal.append(1, &payload(1, 900_000)).is_ok());
        wal.flush(Lsn::MAX).unwrap();
        assert_eq!(contents(&wal).last().unwrap().1.len(), 900_000);
        wal.close().unwrap();
        assert!(inspect::verify(&dir).unwrap().corrupt.is_empty());
    }
}

#[test]
fn a_file_system_that_keeps_nothing_is_refused_unless_forced() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: there is no /dev/shm");
        return;
    };
    let log = dir.path().join("log");
    let options = Options { force_filesystem: false, ..small() };
    match Wal::open(&log, options.clone()) {
        Err(WalError::Filesystem { filesystem: "tmpfs", .. }) => {}
        other => panic!("{:?}", other.map(|(_, recovery)| recovery)),
    }
    assert!(!log.exists(), "nothing was made");
    Wal::open(&log, Options { force_filesystem: true, ..options }).unwrap().0.close().unwrap();
}
