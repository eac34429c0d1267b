//! Histories of a log on the simulated disk: what its caller does and knows, and the seeds that they are drawn from.
//!
//! A failing seed is printed; `OUTRIGGER_WAL_SEED=n` replays it alone, `OUTRIGGER_WAL_SEEDS=n` runs more of them.

use outrigger_wal::sim::SimDisk;
use outrigger_wal::{Lsn, Wal, WalError};

use crate::common::Rng;

fn seeds(usual: u64) -> Box<dyn Iterator<Item = u64>> {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse().expect("a number"));
    match (number("OUTRIGGER_WAL_SEED"), number("OUTRIGGER_WAL_SEEDS")) {
        (Some(one), _) => Box::new(std::iter::once(one)),
        (None, many) => Box::new(0..many.unwrap_or(usual)),
    }
}

/// Runs `test` for each seed, and names the seed when it fails.
pub(crate) fn for_seeds(usual: u64, test: impl Fn(u64)) {
    struct Name(u64);
    impl Drop for Name {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with OUTRIGGER_WAL_SEED={}", self.0);
            }
        }
    }
    for seed in seeds(usual) {
        let name = Name(seed);
        test(seed);
        std::mem::forget(name);
    }
}

/// What the caller of the log knows.
#[derive(Debug, Default)]
pub(crate) struct Knowledge {
    /// Every record that may be in the log, in order: (lsn, end, payload).
    pub(crate) appended: Vec<(Lsn, Lsn, Vec<u8>)>,
    /// So many of them are acknowledged.
    pub(crate) acknowledged: usize,
    pub(crate) released: Lsn,
}

impl Knowledge {
    /// Learns what an opening kept, after checking that it may be so.
    pub(crate) fn check(&mut self, kept: &[(Lsn, Vec<u8>)]) {
        let start = match kept.first() {
            Some((first, _)) => self.appended.iter().position(|(lsn, ..)| lsn == first).expect("a record of ours"),
            None => self.appended.len().min(self.acknowledged),
        };
        let below_start = start.checked_sub(1).map_or(Lsn::ZERO, |before| self.appended[before].1);
        assert!(below_start <= self.released, "records at the front are missing that were not released");
        let end = start + kept.len();
        assert!(end >= self.acknowledged, "acknowledged {}, kept up to {end}", self.acknowledged);
        for ((lsn, payload), (expected_lsn, _, expected)) in kept.iter().zip(&self.appended[start..end]) {
            assert_eq!((lsn, payload), (expected_lsn, expected));
        }
        self.appended.truncate(end);
        // Whatever an opening answers is durable.
        self.acknowledged = end;
    }

    pub(crate) fn append(&mut self, wal: &Wal, rng: &mut Rng) {
        let len = match rng.below(10) {
            0 => rng.below(wal.max_payload() as u64 + 1),
            1..=3 => rng.below(3000),
            _ => rng.below(200),
        };
        // Some payloads are all zeros, like the space behind the log.
        let fill = if rng.below(8) == 0 { 0 } else { rng.next() as u8 };
        let payload = vec![fill; len as usize];
        let appended = if rng.below(2) == 0 { wal.append(1, &payload) } else { wal.append_reserved(1, &payload) };
        if let Ok(appended) = appended {
            self.appended.push((appended.lsn, appended.end, payload));
        }
    }

    fn acknowledge(&mut self, up_to: Lsn) {
        let durable = self.appended.iter().take_while(|(_, end, _)| *end <= up_to).count();
        self.acknowledged = self.acknowledged.max(durable);
    }
}

pub(crate) fn try_kept(wal: &Wal) -> Result<Vec<(Lsn, Vec<u8>)>, WalError> {
    wal.read(Lsn::ZERO).map(|record| record.map(|record| (record.lsn, record.payload))).collect()
}

/// As the oracle has it.
pub(crate) fn digest(kept: &[(Lsn, Vec<u8>)]) -> Vec<(u64, u32)> {
    kept.iter().map(|(lsn, payload)| (lsn.as_u64(), crc32fast::hash(payload))).collect()
}

pub(crate) fn kept(wal: &Wal) -> Vec<(Lsn, Vec<u8>)> {
    try_kept(wal).expect("every record is read")
}

/// Lives one life of the log: random operations until `operations` are done or the power is gone. Who is `eager` lets go
/// of all that is durable now and then.
pub(crate) fn live(disk: &SimDisk, wal: &Wal, known: &mut Knowledge, rng: &mut Rng, operations: u64, eager: bool) {
    for _ in 0..operations {
        if disk.power_is_gone() {
            return;
        }
        match rng.below(20) {
            0..=10 => known.append(wal, rng),
            11..=14 => {
                let up_to = match known.appended.len() {
                    0 => Lsn::MAX,
                    // Any of the last few, not always the last one.
                    len => known.appended[len - 1 - rng.below(3).min(len as u64 - 1) as usize].1,
                };
                if wal.flush(up_to).is_ok() {
                    known.acknowledge(up_to.min(wal.durable_lsn()));
                }
            }
            15 => {
                let _ = wal.rotate();
            }
            16 => {
                let _ = wal.seal();
            }
            17 => {
                let below = Lsn::from_u64(rng.below(wal.next_lsn().as_u64() + 1));
                // Released by intent: after a failure it may have happened or not.
                known.released = known.released.max(below.min(wal.durable_lsn()));
                let _ = wal.release(below);
            }
            18 if eager => {
                known.released = known.released.max(wal.durable_lsn());
                let _ = wal.release(wal.durable_lsn());
            }
            _ => disk.write_back(),
        }
        // What the log calls durable is promised as well: markers in the stores carry it.
        known.acknowledge(wal.durable_lsn());
        if wal.is_poisoned() && rng.below(4) == 0 {
            return;
        }
    }
}
