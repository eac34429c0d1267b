//! What the fuzzer calls, and the ordinary test `fuzzing.rs` beside it. Through the public surface only.
//!
//! Whatever the bytes are: nothing panics, inspection and opening agree, a plan for repair holds what it says, and what
//! an opening kept is what the next one keeps.

#![allow(dead_code, reason = "each target calls one of the entries")]

use std::sync::Arc;

use outrigger_wal::repair::{self, Remedy};
use outrigger_wal::sim::SimDisk;
use outrigger_wal::{Keys, Lsn, Options, Storage, Wal, inspect};

const PAGE: usize = 4096;
const SEGMENT: usize = 16 << 10;
const SALT: u64 = 77;
const NAME: &str = "00000000000000000001.wal";

fn options() -> Options {
    let keys = Keys::parse(&"c".repeat(64)).ok();
    Options {
        segment_bytes: SEGMENT as u64,
        inline: true,
        spare_segments: 1,
        keys,
        encrypt: false,
        ..Options::default()
    }
}

/// A sound header in front of records that the fuzzer lays. Each chunk of the input is one record: its first bytes say how
/// its header is to be spoilt; its CRC is made right, else nearly everything would end there.
pub(crate) fn record(data: &[u8]) {
    let mut content = vec![0; SEGMENT];
    header(&mut content, data.first().copied().unwrap_or(0));
    let (mut at, mut rest) = (PAGE, data.get(1..).unwrap_or(&[]));
    while let [len, class, flags, durable, more @ ..] = rest {
        let len = usize::from(*len).min(more.len());
        let (payload, next) = more.split_at(len);
        let whole = (32 + len).next_multiple_of(8);
        if at + whole > SEGMENT {
            break;
        }
        let mut bytes = vec![0; whole];
        bytes[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&(at as u64).to_le_bytes());
        // What a writer states is behind it; a liar is what the fuzzer may be.
        let stated = (at as u64).wrapping_sub(u64::from(*durable) * 8);
        bytes[16..24].copy_from_slice(&stated.to_le_bytes());
        bytes[25] = class & 7;
        bytes[26] = flags & 3;
        bytes[32..32 + len].copy_from_slice(payload);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&SALT.to_le_bytes());
        hasher.update(&bytes[4..]);
        let crc = hasher.finalize() ^ u32::from(flags & 0x80 != 0);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        content[at..at + whole].copy_from_slice(&bytes);
        // Sometimes the next one begins at the next page, as a seal does.
        at = if class & 0x40 == 0 { at + whole } else { (at + whole).next_multiple_of(PAGE) };
        rest = next;
    }
    check(&content);
}

/// Any bytes as a segment's file. The header's CRC is made right where the first byte asks for it.
pub(crate) fn segment(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    let mut content = vec![0; SEGMENT];
    let len = data.len().min(SEGMENT);
    if mode & 2 != 0 {
        header(&mut content, 0);
        let len = data.len().min(SEGMENT - PAGE);
        content[PAGE..PAGE + len].copy_from_slice(&data[..len]);
    } else {
        content[..len].copy_from_slice(&data[..len]);
    }
    if mode & 1 != 0 {
        let crc = crc32fast::hash(&content[..PAGE - 4]);
        content[PAGE - 4..PAGE].copy_from_slice(&crc.to_le_bytes());
    }
    check(&content);
}

/// `coding`: bit 0 encrypted, bit 1 compressed.
fn header(content: &mut [u8], coding: u8) {
    let mut put = |at: usize, bytes: &[u8]| content[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"OGR\x89WAL\n");
    put(8, &1u32.to_le_bytes());
    put(12, &(PAGE as u32).to_le_bytes());
    put(16, &[7; 16]);
    put(32, &1u64.to_le_bytes());
    put(48, &(SEGMENT as u64).to_le_bytes());
    put(56, &SALT.to_le_bytes());
    put(92, &[coding & 1]);
    put(96, &[coding >> 1 & 1]);
    let crc = crc32fast::hash(&content[..PAGE - 4]);
    content[PAGE - 4..PAGE].copy_from_slice(&crc.to_le_bytes());
}

fn disk(content: &[u8]) -> SimDisk {
    let disk = SimDisk::new(1);
    disk.create(NAME, content.len() as u64).expect("a new file");
    disk.damage(NAME, 0, content);
    disk
}

fn kept(wal: &Wal) -> Vec<(Lsn, Vec<u8>)> {
    wal.read(Lsn::ZERO).map_while(Result::ok).map(|record| (record.lsn, record.payload)).collect()
}

fn check(content: &[u8]) {
    let image = disk(content);
    // Inspection changes nothing and may refuse; it never panics.
    let verified = inspect::verify_on(&image, &mut |_, _| {});
    if let Ok(records) = inspect::records_on(Box::new(image.clone()), Lsn::ZERO) {
        records.take_while(Result::is_ok).for_each(drop);
    }
    let mut follow = inspect::follow_on(Box::new(image.clone()), Lsn::ZERO);
    while let Ok(Some(_)) = follow.poll() {}
    let plan = repair::plan_on(&image);
    assert_eq!(image.content(NAME).as_deref(), Some(content));
    match Wal::open_on(Arc::new(image.clone()), options()) {
        Ok((wal, recovery)) => {
            let verified = verified.expect("what opens can be verified");
            assert!(verified.corrupt.is_empty() && verified.records == recovery.records, "{verified:?}");
            let before = kept(&wal);
            if wal.append(1, b"goes on").is_ok() && wal.flush(Lsn::MAX).is_ok() {
                drop(wal);
                let (wal, again) = Wal::open_on(Arc::new(image.crash(1)), options()).expect("it opens again");
                assert_eq!(again.records, recovery.records + 1);
                assert_eq!(kept(&wal)[..before.len()], before);
            }
        }
        Err(_) => {
            let Ok(plan) = plan else { return };
            let image = disk(content);
            if plan.acts() {
                repair::carry_out_on(&image, &plan).expect("a plan is carried out");
                if let Ok((_, recovery)) = Wal::open_on(Arc::new(image), options()) {
                    assert_eq!(recovery.records, plan.kept_records);
                }
            } else {
                // Nothing wrong and yet not opened: a key that is not there.
                assert!(matches!(plan.remedy, Remedy::Nothing | Remedy::Beyond { .. }));
            }
        }
    }
}
