//! A real process, really killed: what it said it had is there.
//!
//! The writer is this test binary itself, started again with a directory in its environment.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use outrigger_wal::{Backend, Lsn, Options, Wal, inspect};

use crate::common::{Rng, payload, small};

const DIR: &str = "OUTRIGGER_WAL_CHILD_DIR";
const BACKEND: &str = "OUTRIGGER_WAL_CHILD_BACKEND";
const LIFE: &str = "OUTRIGGER_WAL_CHILD_LIFE";

fn len_of(number: u64) -> usize {
    8 + (number * 7919 % 2_500) as usize
}

/// The child: four threads append, flush and then say so on standard output. Ends only by being killed.
#[test]
fn child_writer() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let backend = if std::env::var(BACKEND).unwrap() == "pwrite" { Backend::Pwrite } else { Backend::Mmap };
    let life: u64 = std::env::var(LIFE).unwrap().parse().unwrap();
    let (wal, _) = Wal::open(Path::new(&dir), Options { backend, ..small() }).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let wal = wal.clone();
            scope.spawn(move || {
                for count in 0.. {
                    let number = (life << 40) | (thread << 32) | count;
                    let appended = wal.append(thread as u8, &payload(number, len_of(number))).unwrap();
                    wal.flush(appended.end).unwrap();
                    // One write call a line, so that lines are whole.
                    let line = format!("ACK {number} {}\n", appended.lsn);
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            });
        }
    });
}

/// Runs the child until `acks` acknowledgements have come, and some time more, then kills it. Gives all of them.
fn run_and_kill(dir: &Path, backend: &str, life: u64, acks: usize, linger: Duration) -> Vec<(u64, Lsn)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["kill::child_writer", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(BACKEND, backend)
        .env(LIFE, life.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut found = Vec::new();
    let take = |line: String, found: &mut Vec<(u64, Lsn)>| {
        if let Some((number, lsn)) = line.find("ACK ").and_then(|at| line[at + 4..].split_once(' ')) {
            found.push((number.parse().unwrap(), lsn.parse().unwrap()));
        }
    };
    while found.len() < acks {
        take(lines.next().expect("the writer goes on").unwrap(), &mut found);
    }
    std::thread::sleep(linger);
    child.kill().unwrap();
    // What it had said before it died is in the pipe; a last line may be cut off.
    for line in lines.map_while(Result::ok) {
        if line.split_whitespace().count() == 3 {
            take(line, &mut found);
        }
    }
    child.wait().unwrap();
    found
}

#[test]
fn every_acknowledged_record_survives_sigkill() {
    let mut rng = Rng(0x5161_u64.wrapping_mul(std::process::id().into()));
    println!("rng {rng:?}");
    for backend in ["mmap", "pwrite"] {
        let dir = tempfile::tempdir().unwrap();
        let mut acknowledged: HashMap<u64, Lsn> = HashMap::new();
        for life in 1..=4 {
            let (acks, linger) = (rng.below(400) as usize, Duration::from_micros(rng.below(20_000)));
            acknowledged.extend(run_and_kill(dir.path(), backend, life, acks, linger));
            let verified = inspect::verify(dir.path()).unwrap();
            assert_eq!(verified.corrupt, []);
            let (wal, recovery) = Wal::open(dir.path(), small()).unwrap();
            let mut missing = acknowledged.clone();
            let mut last = HashMap::new();
            for record in wal.read(Lsn::ZERO) {
                let record = record.unwrap();
                let number = u64::from_le_bytes(record.payload[..8].try_into().unwrap());
                assert_eq!(record.payload, payload(number, len_of(number)));
                // Each thread's records are in order and without gaps.
                let next = last.entry(number >> 32).or_insert(0);
                assert_eq!(number & 0xffff_ffff, *next);
                *next += 1;
                if let Some(lsn) = missing.remove(&number) {
                    assert_eq!(lsn, record.lsn);
                }
            }
            assert_eq!(missing.len(), 0, "acknowledged and gone, of {} in {recovery:?}", acknowledged.len());
            assert!(recovery.records >= acknowledged.len() as u64 && !recovery.clean_shutdown);
        }
        assert!(!acknowledged.is_empty());
    }
}
