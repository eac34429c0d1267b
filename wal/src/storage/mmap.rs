//! A segment written through a shared memory map: the only unsafe code of the workspace.
#![allow(
    unsafe_code,
    reason = "a store into a map is a raw pointer write; std and memmap2 offer no safe one for shared maps"
)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use memmap2::{Advice, MmapOptions, MmapRaw};

use super::directory::{forget, is_at_hand};
use super::{SegmentFile, within};

/// Reads go through `pread`, never through the map: no reference into the mapped memory is ever made, so nothing that
/// the kernel or another process does to the file can break Rust's aliasing rules.
#[derive(Debug)]
pub(super) struct MmapFile {
    map: MmapRaw,
    file: File,
    bytes: u64,
}

impl MmapFile {
    /// Maps the whole file, which has `bytes` bytes and is never truncated while it is mapped.
    pub(super) fn new(file: File, bytes: u64) -> io::Result<MmapFile> {
        let len = usize::try_from(bytes).map_err(|_| io::Error::other("the segment exceeds the address space"))?;
        let map = MmapOptions::new().len(len).map_raw(&file)?;
        // Before the first touch: fault-around and read-ahead would bring in large folios, see `ZERO_PIECE`.
        map.advise(Advice::Random)?;
        // A child that forks must not inherit a writable view of the log.
        map.advise(Advice::DontFork)?;
        Ok(MmapFile { map, file, bytes })
    }
}

impl SegmentFile for MmapFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        within(self.bytes, offset, out.len())?;
        self.file.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        within(self.bytes, offset, bytes.len())?;
        let offset = usize::try_from(offset).map_err(|_| io::Error::other("the offset exceeds the address space"))?;
        // SAFETY: the map is `self.bytes` long, writable, and lives as long as `self`; `within` has just proved that
        // `offset..offset + bytes.len()` lies inside it, so the addition cannot leave the allocation. The source is a
        // live slice and cannot overlap the map, since nobody ever makes a reference into it. No Rust reference to the
        // destination exists, and the trait's contract gives one writer at a time, so no write races with another;
        // the kernel reading the pages meanwhile sees bytes, which is what a torn, unflushed tail is.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.map.as_mut_ptr().add(offset), bytes.len());
        }
        Ok(())
    }

    fn flush(&self, range: Range<u64>) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        within(self.bytes, range.start, len as usize)?;
        // `msync(MS_SYNC)` of the pages: on Linux a ranged fdatasync.
        self.map.flush_range(range.start as usize, len as usize)
    }

    fn forget(&self, range: Range<u64>) {
        forget(&self.file, range);
    }

    fn is_at_hand(&self) -> bool {
        is_at_hand(&self.file, self.bytes)
    }
}
