//! The damages.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::image::{Image, PAGE, Place};
use super::{Left, SIZE};
use crate::payload;

/// What is done to a log's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// A bit of a record in the middle flips.
    Middle,
    /// A bit of the last acknowledged record flips; one record stands behind it, whole, that was never acknowledged.
    LastWitnessed,
    /// A bit of the last record flips after the log was idle.
    LastIdle,
    /// A page in the middle reads as zeros.
    ZeroPage,
    /// A page in the middle was overwritten with a copy of another one.
    Misdirected,
    /// The file that holds the middle is gone.
    LostFile,
    /// The last file ends in the middle of its records.
    Truncated,
    /// No damage: the power went while a record was written, and some of its sectors are there.
    Torn,
}

impl Damage {
    pub(crate) const ALL: [Damage; 8] = [
        Damage::Middle,
        Damage::LastWitnessed,
        Damage::LastIdle,
        Damage::ZeroPage,
        Damage::Misdirected,
        Damage::LostFile,
        Damage::Truncated,
        Damage::Torn,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Damage::Middle => "bit flip in the middle",
            Damage::LastWitnessed => "bit flip in the last acknowledged record, a later one stands behind it",
            Damage::LastIdle => "bit flip in the last record of an idle log",
            Damage::ZeroPage => "zeroed page in the middle",
            Damage::Misdirected => "misdirected page in the middle",
            Damage::LostFile => "file of the middle lost",
            Damage::Truncated => "last file truncated",
            Damage::Torn => "torn write, a legal crash",
        }
    }

    /// A legal crash must be opened; anything else may be refused.
    pub(crate) fn is_legal(self) -> bool {
        self == Damage::Torn
    }

    /// The damaged files; `None` where a log has no such place. A log that holds a record several times has it damaged
    /// in all of them.
    pub(crate) fn apply(self, left: &Left, seed: u64) -> Option<Image> {
        let copies = |number: u64| left.image.copies(&payload::make(seed, number, SIZE));
        let middle = left.acknowledged / 2;
        let mut image = left.image.clone();
        match self {
            Damage::Middle => flip(&mut image, &copies(middle), seed),
            Damage::LastWitnessed | Damage::LastIdle => flip(&mut image, &copies(left.acknowledged - 1), seed),
            Damage::ZeroPage => each_page(&mut image, &copies(middle), |page| page.fill(0)),
            Damage::Misdirected => {
                let other = copies(middle / 2).first()?.clone();
                let from = page_of(&left.image, &other)?.to_vec();
                each_page(&mut image, &copies(middle), |page| {
                    let len = page.len();
                    page.copy_from_slice(&from[..len]);
                })
            }
            Damage::LostFile => lose_file(&mut image, left, seed),
            Damage::Truncated => truncate(&mut image, left, seed),
            Damage::Torn => None,
        }?;
        Some(image)
    }
}

/// Flips the same bit of every copy.
fn flip(image: &mut Image, copies: &[Place], seed: u64) -> Option<()> {
    let bit = StdRng::seed_from_u64(seed).random_range(112 * 8..144 * 8);
    copies.first()?;
    for Place { file, at } in copies {
        image.files.get_mut(file)?[at + bit / 8] ^= 1 << (bit % 8);
    }
    Some(())
}

fn page_of<'a>(image: &'a Image, place: &Place) -> Option<&'a [u8]> {
    let at = place.at / PAGE * PAGE;
    image.files.get(&place.file)?.get(at..at + PAGE)
}

/// Does it to the page of every copy: where the probe is, not where a record begins that crosses into it.
fn each_page(image: &mut Image, copies: &[Place], mut what: impl FnMut(&mut [u8])) -> Option<()> {
    copies.first()?;
    for Place { file, at } in copies {
        let bytes = image.files.get_mut(file)?;
        let start = (at + 112) / PAGE * PAGE;
        let end = (start + PAGE).min(bytes.len());
        what(&mut bytes[start..end]);
    }
    Some(())
}

/// The files that hold records, each once, in the order of the records.
fn files(left: &Left, seed: u64) -> Vec<Place> {
    let mut seen = BTreeSet::new();
    let sample = (0..left.acknowledged).step_by((left.acknowledged / 64).max(1) as usize);
    let places = sample.filter_map(|number| left.image.copies(&payload::make(seed, number, SIZE)).into_iter().next());
    places.filter(|place| seen.insert(place.file.clone())).collect()
}

/// Only where files before it and behind it stay.
fn lose_file(image: &mut Image, left: &Left, seed: u64) -> Option<()> {
    let files = files(left, seed);
    if files.len() < 3 {
        return None;
    }
    image.files.remove(&files[files.len() / 2].file).map(drop)
}

/// Half of the way between the last file's first record and the last record.
fn truncate(image: &mut Image, left: &Left, seed: u64) -> Option<()> {
    let last = left.image.copies(&payload::make(seed, left.acknowledged - 1, SIZE)).pop()?;
    let first = files(left, seed).into_iter().rfind(|place| place.file == last.file)?;
    let bytes = image.files.get_mut(&last.file)?;
    bytes.truncate(first.at.midpoint(last.at));
    Some(())
}
