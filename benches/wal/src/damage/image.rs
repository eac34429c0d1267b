//! A folder's files in memory, to be damaged and written out again elsewhere.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use memchr::memmem;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) const PAGE: usize = 4096;
pub(crate) const SECTOR: usize = 512;
/// The part of a payload that is searched for. A page boundary may lie elsewhere in the record.
const PROBE: std::ops::Range<usize> = 112..144;

/// Where in the image something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    pub(crate) at: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) files: BTreeMap<PathBuf, Vec<u8>>,
    folders: Vec<PathBuf>,
}

impl Image {
    /// Reads everything below a folder; a file that goes away meanwhile is not there.
    pub(crate) fn load(dir: &Path) -> Result<Image> {
        let mut image = Image::default();
        image.take(dir, Path::new(""))?;
        Ok(image)
    }

    fn take(&mut self, dir: &Path, below: &Path) -> Result<()> {
        for entry in fs::read_dir(dir.join(below))? {
            let entry = entry?;
            let name = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.folders.push(name.clone());
                self.take(dir, &name)?;
            } else if let Ok(bytes) = fs::read(entry.path()) {
                self.files.insert(name, bytes);
            }
        }
        Ok(())
    }

    /// Writes it into a folder. Pages of zeros are left to the file system, which gives them back as such.
    pub(crate) fn store(&self, dir: &Path) -> Result<()> {
        self.folders.iter().try_for_each(|folder| fs::create_dir_all(dir.join(folder)))?;
        for (name, bytes) in &self.files {
            let file = File::create(dir.join(name))?;
            file.set_len(bytes.len() as u64)?;
            for (index, page) in bytes.chunks(PAGE).enumerate() {
                if page.iter().any(|byte| *byte != 0) {
                    file.write_all_at(page, (index * PAGE) as u64)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    /// Every place where this record's payload begins.
    pub(crate) fn copies(&self, payload: &[u8]) -> Vec<Place> {
        let finder = memmem::Finder::new(&payload[PROBE]);
        let mut found = Vec::new();
        for (file, bytes) in &self.files {
            found.extend(
                finder
                    .find_iter(bytes)
                    .filter_map(|at| Some(Place { file: file.clone(), at: at.checked_sub(PROBE.start)? })),
            );
        }
        found
    }

    /// A power cut on the way from here to `later`: of the sectors that differ, some are as they will be, the others
    /// still as they were; at least one of them is. Files keep the later length, which the file system writes when it
    /// likes.
    pub(crate) fn torn_towards(&self, later: &Image, seed: u64) -> Image {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut torn = later.clone();
        let mut changed: Vec<(&PathBuf, usize)> = Vec::new();
        for (name, after) in &later.files {
            let before = self.files.get(name).map_or(&[][..], Vec::as_slice);
            changed.extend(
                (0..after.len())
                    .step_by(SECTOR)
                    .filter(|at| sector(before, *at) != sector(after, *at))
                    .map(|at| (name, at)),
            );
        }
        let lost = if changed.is_empty() { 0 } else { rng.random_range(0..changed.len()) };
        for (index, (name, at)) in changed.iter().enumerate() {
            if index == lost || rng.random_bool(0.5) {
                let before = sector(self.files.get(*name).map_or(&[][..], Vec::as_slice), *at);
                let Some(bytes) = torn.files.get_mut(*name) else { continue };
                let end = (at + SECTOR).min(bytes.len());
                bytes[*at..end].copy_from_slice(&before[..end - at]);
            }
        }
        torn
    }
}

/// A sector, with zeros where the file ends before it does.
fn sector(bytes: &[u8], at: usize) -> [u8; SECTOR] {
    let mut out = [0; SECTOR];
    let part = bytes.get(at..bytes.len().min(at + SECTOR)).unwrap_or(&[]);
    out[..part.len()].copy_from_slice(part);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(bytes: Vec<u8>) -> Image {
        Image { files: BTreeMap::from([("log".into(), bytes)]), folders: Vec::new() }
    }

    #[test]
    fn a_torn_write_has_sectors_of_both_and_never_all_of_the_later() {
        let (before, after) = (image(vec![1; 700]), image(vec![2; 5000]));
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let torn = before.torn_towards(&after, seed);
            let bytes = &torn.files[Path::new("log")];
            assert_eq!(bytes.len(), 5000);
            assert!(bytes.chunks(SECTOR).any(|sector| sector.iter().all(|byte| *byte < 2)), "seed {seed}");
            for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                let old = if index == 0 { vec![1; SECTOR] } else { [vec![1; 188], vec![0; 324]].concat() };
                let old = if index > 1 { vec![0; SECTOR] } else { old };
                assert!(sector.iter().all(|byte| *byte == 2) || sector == &old[..sector.len()], "{index}: {sector:?}");
            }
            kinds.insert(bytes.clone());
        }
        assert!(kinds.len() > 20, "only {} ways to tear", kinds.len());
    }

    #[test]
    fn an_image_comes_back_from_the_disk() -> Result<()> {
        let (from, to) = (tempfile::tempdir()?, tempfile::tempdir()?);
        fs::create_dir(from.path().join("sub"))?;
        let bytes = [vec![0; PAGE * 2], vec![5; 10], vec![0; PAGE]].concat();
        fs::write(from.path().join("sub/log"), &bytes)?;
        Image::load(from.path())?.store(to.path())?;
        assert_eq!(fs::read(to.path().join("sub/log"))?, bytes);
        let probe: Vec<u8> = (0..=255).collect();
        let place = Place { file: "log".into(), at: 50 };
        assert_eq!(image([vec![0; 50], probe.clone(), vec![9; 9]].concat()).copies(&probe), [place]);
        Ok(())
    }
}
