//! What is written: bytes that nobody can compress or mistake for another record's, and that can be made again from the
//! seed and the record's number.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Record `number` of this seed, `len` bytes: the number itself, then noise that follows from both.
pub(crate) fn make(seed: u64, number: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).fill(&mut bytes[..]);
    stamp(&mut bytes, number);
    bytes
}

/// Gives prepared noise another number, for speed: where records are not read back, only their numbers differ.
pub(crate) fn stamp(bytes: &mut [u8], number: u64) {
    bytes[..8].copy_from_slice(&number.to_le_bytes());
}

/// The number of a record that is exactly as it was made; `None` where it is not.
pub(crate) fn number_of(seed: u64, bytes: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    (make(seed, number, bytes.len()) == bytes).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_by_every_bit_of_it() {
        let sound = make(7, 42, 256);
        assert_eq!(number_of(7, &sound), Some(42));
        assert_eq!(number_of(8, &sound), None);
        for bit in [0, 63, 64, 1000, 2047] {
            let mut flipped = sound.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(number_of(7, &flipped), None, "bit {bit}");
        }
        assert_eq!(number_of(7, &sound[..7]), None);
    }
}
