//! What several tests need.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outrigger_wal::sim::SimDisk;
use outrigger_wal::{Lsn, Options, Recovery, Wal, WalError};

/// Options for real files: small segments, otherwise as they come.
pub(crate) fn small() -> Options {
    Options { segment_bytes: 1 << 20, force_filesystem: true, ..Options::default() }
}

/// Options for the simulated disk: no threads, tiny segments.
pub(crate) fn inline() -> Options {
    Options { segment_bytes: 16 << 10, inline: true, spare_segments: 1, recycle: false, ..Options::default() }
}

pub(crate) fn open(dir: &Path) -> (Wal, Recovery) {
    Wal::open(dir, small()).expect("the log opens")
}

pub(crate) fn open_sim(disk: &SimDisk) -> Result<(Wal, Recovery), WalError> {
    open_with(disk, &inline())
}

pub(crate) fn open_with(disk: &SimDisk, options: &Options) -> Result<(Wal, Recovery), WalError> {
    Wal::open_on(Arc::new(disk.clone()), options.clone())
}

/// All records from the first one, as (kind, payload).
pub(crate) fn contents(wal: &Wal) -> Vec<(u8, Vec<u8>)> {
    wal.read(Lsn::ZERO).map(|record| record.map(|record| (record.kind, record.payload)).expect("a record")).collect()
}

/// A payload that names its number and is unlike others.
pub(crate) fn payload(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend((0..len.saturating_sub(8)).map(|at| (number as usize * 31 + at * 7) as u8));
    bytes
}

/// Waits until `done`, failing loudly instead of hanging.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("in vain: {what}");
}

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
