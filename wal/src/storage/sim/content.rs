//! One file of the simulated disk: as the running system sees it, and as the platter has it.

use std::collections::BTreeSet;
use std::ops::Range;

use super::SECTOR;
use crate::format::PAGE;

#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) seen: Vec<u8>,
    pub(super) platter: Vec<u8>,
    /// Pages whose flush failed, or was misdirected, or that were struck by one that was: the cache calls them clean, though the platter never got them. Only a new write makes
    /// them dirty again, and only dropping them from the cache shows what is really there.
    pub(super) forsaken: BTreeSet<u64>,
}

impl Content {
    /// Copies to the platter each dirty sector for which `keep` says so.
    pub(super) fn settle(&mut self, mut keep: impl FnMut() -> bool) {
        let sectors = self.seen.chunks(SECTOR as usize).zip(self.platter.chunks_mut(SECTOR as usize));
        for (number, (seen, platter)) in (0..).zip(sectors) {
            if seen != platter && !self.forsaken.contains(&(number * SECTOR / PAGE)) && keep() {
                platter.copy_from_slice(seen);
            }
        }
    }

    /// What a flush does to a page that is dirty: all of it reaches the platter, except where the flush `fails`, and except
    /// for sectors that go `astray`. Gives where those were to go.
    pub(super) fn flush_page(&mut self, page: u64, fails: bool, mut astray: impl FnMut() -> bool) -> Vec<u64> {
        let bytes = self.page_bytes(page);
        let mut gone = Vec::new();
        if self.seen[bytes.clone()] == self.platter[bytes.clone()] || self.forsaken.contains(&page) {
            return gone;
        }
        if fails {
            self.forsaken.insert(page);
            return gone;
        }
        for start in bytes.step_by(SECTOR as usize) {
            let sector = start..start + SECTOR as usize;
            if self.seen[sector.clone()] == self.platter[sector.clone()] {
                continue;
            }
            if astray() {
                gone.push(start as u64);
            } else {
                self.platter[sector.clone()].copy_from_slice(&self.seen[sector]);
            }
        }
        if !gone.is_empty() {
            self.forsaken.insert(page);
        }
        gone
    }

    /// A sector of another place lands here, and the cache does not know.
    pub(super) fn struck(&mut self, offset: u64, sector: &[u8]) {
        let page = offset / PAGE;
        let bytes = self.page_bytes(page);
        // A page that is dirty will be written once more, which mends it.
        if self.seen[bytes.clone()] == self.platter[bytes] {
            self.forsaken.insert(page);
        }
        self.platter[offset as usize..offset as usize + sector.len()].copy_from_slice(sector);
    }

    pub(super) fn pages(&self, range: &Range<u64>) -> Range<u64> {
        range.start / PAGE..range.end.min(self.seen.len() as u64).div_ceil(PAGE)
    }

    pub(super) fn evict(&mut self, range: Range<u64>) {
        for page in self.pages(&range) {
            if self.forsaken.remove(&page) {
                let bytes = self.page_bytes(page);
                self.seen[bytes.clone()].copy_from_slice(&self.platter[bytes]);
            }
        }
    }

    pub(super) fn page_bytes(&self, page: u64) -> Range<usize> {
        (page * PAGE) as usize..((page + 1) * PAGE).min(self.seen.len() as u64) as usize
    }
}

/// SplitMix64: small, and good enough to draw accidents from.
pub(super) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

pub(super) fn below(state: &mut u64, bound: u64) -> u64 {
    next(state) % bound
}
