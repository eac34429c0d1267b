//! The fuzzer's entries on stable: the corpus that is kept, and random changes to it. The fuzzer itself is
//! `cargo +nightly fuzz run record` (or `segment`) in `wal/fuzz`.

use std::fs;
use std::path::Path;

use crate::common::Rng;

#[path = "../../fuzz/entries.rs"]
mod entries;

/// A thing that the fuzzer found goes into the corpus by hand, so that it is tried here for ever.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

fn change(input: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..=rng.below(4) {
        let at = rng.below(input.len() as u64 + 1) as usize;
        match rng.below(5) {
            0 if at < input.len() => input[at] ^= 1 << rng.below(8),
            1 if at < input.len() => input[at] = rng.next() as u8,
            2 => input.insert(at, rng.next() as u8),
            3 => input.truncate(at.max(1)),
            _ => {
                let piece: Vec<u8> = input[..at].iter().rev().take(rng.below(40) as usize).copied().collect();
                input.extend(piece);
            }
        }
    }
}

fn run(target: &str, entry: fn(&[u8])) {
    let corpus = corpus(target);
    assert!(corpus.len() >= 4, "the corpus of {target} is there");
    corpus.iter().for_each(|input| entry(input));
    let mut rng = Rng(0xf022);
    for round in 0..1_500 {
        let mut input = corpus[rng.below(corpus.len() as u64) as usize].clone();
        change(&mut input, &mut rng);
        // What fails is printed in a form that can become a file of the corpus.
        let shown = input.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        if let Err(panic) = std::panic::catch_unwind(|| entry(&input)) {
            println!("{target}, round {round}: {shown}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn records_of_any_form() {
    run("record", entries::record);
}

#[test]
fn segments_of_any_form() {
    run("segment", entries::segment);
}
