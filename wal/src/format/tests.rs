use proptest::prelude::*;

use super::*;
use crate::payload::Coding;
use crate::{LogId, Lsn};

prop_compose! {
    fn any_header()(
        id: [u8; 16], number in 1..u64::MAX, base: u64, pages in 2u64..1 << 18, salt: u64, previous: (u64, u64, u32),
        durable: u64, released: u64, created_at: u64,
        key: Option<[u8; 16]>, packed: bool, recycled: bool,
    ) -> SegmentHeader {
        SegmentHeader {
            log_id: LogId::from_bytes(id),
            number,
            base: Lsn::from_u64(base),
            bytes: pages * PAGE,
            salt,
            previous: Link { salt: previous.0, last: Lsn::from_u64(previous.1), crc: previous.2 },
            durable: Lsn::from_u64(durable),
            released: Lsn::from_u64(released),
            coding: Coding { key, compression: if packed { Compression::Zstd } else { Compression::None } },
            recycled,
            created_at,
        }
    }
}

prop_compose! {
    fn any_record()(
        salt: u64, lsn: u64, before in 0..10_000u64, kind: u8, payload in prop::collection::vec(any::<u8>(), 0..300),
    ) -> (Frame, Vec<u8>) {
        let durable = Lsn::from_u64(lsn.saturating_sub(before));
        (Frame { salt, lsn: Lsn::from_u64(lsn), durable, kind, class: Class::User, flags: 0 }, payload)
    }
}

fn decode(bytes: &[u8], frame: &Frame) -> Result<RecordHeader, RecordFault> {
    let header = precheck(bytes, frame.lsn, bytes.len() as u64)?;
    verify(&header, frame.salt, &bytes[..header.bytes() as usize])?;
    Ok(header)
}

proptest! {
    #[test]
    fn a_header_comes_back(header in any_header()) {
        prop_assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn a_header_with_a_flipped_bit_is_none(header in any_header(), bit in 0..PAGE * 8) {
        let mut page = header.encode();
        page[bit as usize / 8] ^= 1 << (bit % 8);
        prop_assert!(matches!(SegmentHeader::decode(&page), Err(HeaderFault::Damaged(_))));
    }

    #[test]
    fn a_record_comes_back((frame, payload) in any_record()) {
        let mut bytes = Vec::new();
        let crc = encode(&mut bytes, frame, &payload);
        prop_assert_eq!(bytes.len() as u64, record_bytes(payload.len() as u64));
        prop_assert!(bytes.len().is_multiple_of(8));
        let header = decode(&bytes, &frame).unwrap();
        prop_assert_eq!((header.crc, header.lsn, header.durable, header.kind), (crc, frame.lsn, frame.durable, frame.kind));
        prop_assert_eq!(header.end() - header.lsn, bytes.len() as u64);
        let start = RECORD_HEADER as usize;
        prop_assert_eq!(&bytes[start..start + header.len as usize], &payload[..]);
        prop_assert!(bytes[start + payload.len()..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_record_with_a_flipped_bit_is_none((frame, payload) in any_record(), place: prop::sample::Index) {
        let mut bytes = Vec::new();
        encode(&mut bytes, frame, &payload);
        let bit = place.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        // Room behind it, as in a segment: a length that grew must not escape by leading out of the slice.
        bytes.resize(bytes.len() + 4096, 0);
        prop_assert!(decode(&bytes, &frame).is_err());
    }

    #[test]
    fn a_record_counts_only_in_its_place_and_its_segment((frame, payload) in any_record(), other in 1u64..) {
        let mut bytes = Vec::new();
        encode(&mut bytes, frame, &payload);
        let elsewhere = Frame { lsn: Lsn::from_u64(frame.lsn.as_u64().wrapping_add(other)), ..frame };
        prop_assert_eq!(decode(&bytes, &elsewhere), Err(RecordFault::Position));
        let reused = Frame { salt: frame.salt ^ other, ..frame };
        prop_assert_eq!(decode(&bytes, &reused), Err(RecordFault::Checksum));
    }

    #[test]
    fn rubble_is_never_a_record(bytes in prop::collection::vec(any::<u8>(), 32..512), lsn: u64, salt: u64) {
        let frame = Frame { salt, lsn: Lsn::from_u64(lsn), durable: Lsn::ZERO, kind: 0, class: Class::User, flags: 0 };
        prop_assert!(decode(&bytes, &frame).is_err());
        prop_assert!(SegmentHeader::decode(&bytes).is_err());
    }

    #[test]
    fn a_segment_name_comes_back(number: u64, text in "\\PC{0,24}") {
        let header = SegmentHeader { number, ..plain() };
        prop_assert_eq!(SegmentHeader::number_of(&header.name()), Some(number));
        if let Some(found) = SegmentHeader::number_of(&text) {
            prop_assert_eq!(SegmentHeader { number: found, ..plain() }.name(), text);
        }
    }
}

fn plain() -> SegmentHeader {
    SegmentHeader {
        log_id: LogId::from_bytes([7; 16]),
        number: 1,
        base: Lsn::ZERO,
        bytes: 1 << 20,
        salt: 5,
        previous: Link::default(),
        durable: Lsn::ZERO,
        released: Lsn::ZERO,
        coding: Coding::PLAIN,
        recycled: false,
        created_at: 0,
    }
}

/// Writes `bytes` into a sound header page and makes the page's checksum right again.
fn forged(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut page = plain().encode();
    page[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32fast::hash(&page[..4092]);
    page[4092..].copy_from_slice(&crc.to_le_bytes());
    page
}

#[test]
fn what_a_later_version_wrote_is_not_guessed_at() {
    assert_eq!(SegmentHeader::decode(&forged(8, &2u32.to_le_bytes())), Err(HeaderFault::Version(2)));
    // Flags, checksum kind, cipher, compression: each with a value that is none of ours.
    for (must_understand, value) in [(84, 2), (88, 1), (92, 2), (96, 2)] {
        assert_eq!(SegmentHeader::decode(&forged(must_understand, &[value])), Err(HeaderFault::Version(1)));
    }
    // A key id without a cipher and the reserved rest are for later to use freely.
    assert_eq!(SegmentHeader::decode(&forged(128, &[1])), Ok(plain()));
}

#[test]
fn a_header_that_contradicts_itself_is_none() {
    for page in [forged(32, &[0; 8]), forged(48, &4096u64.to_le_bytes()), forged(48, &9001u64.to_le_bytes())] {
        assert!(matches!(SegmentHeader::decode(&page), Err(HeaderFault::Damaged(_))));
    }
    assert!(matches!(SegmentHeader::decode(&plain().encode()[..4000]), Err(HeaderFault::Damaged(_))));
}

#[test]
fn the_largest_payload_leaves_room_for_the_end_record() {
    for segment in [16 << 10, 1 << 20, 1 << 30] {
        let max = max_payload(segment);
        assert!(PAGE + record_bytes(max) + INTERNAL_BYTES <= segment);
        assert!(PAGE + record_bytes(max + 1) + INTERNAL_BYTES > segment);
    }
}
