//! Segments laid by hand, where only a ghost could have written them.

use super::walk::{Step, Walk};
use super::*;
use crate::format::{Class, Frame, INTERNAL_BYTES, Link, RecordFault, encode, encode_internal};
use crate::payload::Coding;
use crate::storage::sim::SimDisk;
use crate::{LogId, Lsn};

fn header() -> SegmentHeader {
    SegmentHeader {
        log_id: LogId::from_bytes([1; 16]),
        number: 1,
        base: Lsn::from_u64(1 << 20),
        bytes: 16 << 10,
        salt: 77,
        previous: Link::default(),
        durable: Lsn::ZERO,
        released: Lsn::ZERO,
        coding: Coding::PLAIN,
        recycled: false,
        created_at: 0,
    }
}

/// A segment file of which a test lays every byte.
struct Bench {
    header: SegmentHeader,
    file: Box<dyn SegmentFile>,
}

impl Bench {
    fn new() -> Bench {
        let header = header();
        let file = SimDisk::new(0).create("a", header.bytes).unwrap();
        file.write_at(0, &header.encode()).unwrap();
        Bench { header, file }
    }

    fn frame(&self, at: u64, class: Class) -> Frame {
        Frame { salt: self.header.salt, lsn: self.header.base + at, durable: Lsn::ZERO, kind: 0, class, flags: 0 }
    }

    fn user(&self, at: u64, payload: &[u8]) -> u64 {
        let mut bytes = Vec::new();
        encode(&mut bytes, self.frame(at, Class::User), payload);
        self.file.write_at(at, &bytes).unwrap();
        at + bytes.len() as u64
    }

    fn internal(&self, at: u64, class: Class, value: u64) -> u64 {
        let mut bytes = Vec::new();
        encode_internal(&mut bytes, self.frame(at, class), value);
        self.file.write_at(at, &bytes).unwrap();
        at + INTERNAL_BYTES
    }

    fn walk(&self) -> Vec<Step> {
        let mut walk = Walk::new(&self.header);
        let mut steps = Vec::new();
        loop {
            let step = walk.step(&*self.file).unwrap();
            steps.push(step);
            if !matches!(step, Step::Record(_)) {
                return steps;
            }
        }
    }
}

#[test]
fn a_seal_follows_over_the_rest_of_the_page() {
    let bench = Bench::new();
    let end = bench.user(PAGE, b"one");
    let end = bench.internal(2 * PAGE, Class::Seal, bench.header.base.as_u64() + end);
    bench.user(end, b"two");
    let steps = bench.walk();
    assert_eq!(steps.len(), 4);
    assert_eq!(steps[3], Step::Break(RecordFault::Empty));
}

#[test]
fn a_seal_that_follows_something_else_is_no_part_of_the_chain() {
    for offset in [0, 8] {
        let bench = Bench::new();
        // One record that ends where the page does, or a little before it; the seal says that another one did.
        let end = bench.user(PAGE, &vec![3; (PAGE - 32 - offset) as usize]);
        assert_eq!(end, 2 * PAGE - offset);
        bench.internal(2 * PAGE, Class::Seal, bench.header.base.as_u64() + end - 16);
        let steps = bench.walk();
        assert!(matches!(steps[..], [Step::Record(_), Step::Break(_)]), "{steps:?}");
    }
}

#[test]
fn only_seals_follow_over_a_gap() {
    let bench = Bench::new();
    let end = bench.user(PAGE, b"one");
    bench.internal(2 * PAGE, Class::Release, bench.header.base.as_u64() + end);
    assert!(matches!(bench.walk()[..], [Step::Record(_), Step::Break(RecordFault::Empty)]));
    let bench = Bench::new();
    bench.user(PAGE, b"one");
    bench.user(2 * PAGE, b"two");
    assert!(matches!(bench.walk()[..], [Step::Record(_), Step::Break(RecordFault::Empty)]));
}

#[test]
fn a_witness_is_found_wherever_it_begins() {
    for at in (PAGE..3 * PAGE).step_by(8) {
        let bench = Bench::new();
        let mut frame = bench.frame(at, Class::User);
        frame.durable = frame.lsn;
        let mut bytes = Vec::new();
        encode(&mut bytes, frame, &[5; 700]);
        bench.file.write_at(at, &bytes).unwrap();
        let witness = strongest_witness(&*bench.file, &bench.header, bench.header.base + PAGE).unwrap();
        assert_eq!((witness.durable, witness.next), (frame.lsn, Some(frame.lsn)));
        assert_eq!(witness.written_to - frame.lsn, 732);
    }
}
