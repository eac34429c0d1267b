//! Text to a vector without a model: words and pairs of words are hashed into buckets, with a sign from the same hash.
//!
//! Deterministic and cheap, and near texts share buckets. It knows nothing of meaning: wherever its vectors are shown,
//! [`NAME`] says what they are.

/// What the reader is told.
pub(crate) const NAME: &str = "deterministic hashing of words and word pairs into 128 dimensions; no model";
/// Length of every vector.
pub(crate) const DIMENSIONS: usize = 128;

/// A vector of length one; all zeros only for a text without a letter or digit.
pub(crate) fn embed(text: &str) -> Vec<f32> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut vector = vec![0.0_f32; DIMENSIONS];
    let mut add = |hash: u64, weight: f32| {
        let bucket = (hash % DIMENSIONS as u64) as usize;
        vector[bucket] += if hash >> 63 == 0 { weight } else { -weight };
    };
    for word in &words {
        add(fnv(&[word]), 1.0);
    }
    for pair in words.windows(2) {
        add(fnv(pair), 0.5);
    }
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
    vector
}

/// FNV-1a over the words, parted by a byte that no word holds; its own mixing leaves the high bits poor, so they are
/// stirred once more.
fn fnv(words: &[&str]) -> u64 {
    let bytes = words.iter().flat_map(|word| word.bytes().chain([0]));
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests;
