//! A segment written by plain system calls: appends gather in a buffer, a flush writes them synchronously.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use super::directory::{forget, is_at_hand};
use super::{SegmentFile, within};

/// Bytes that wait for their flush, in stretches without holes.
type Waiting = Vec<(u64, Vec<u8>)>;

#[derive(Debug)]
pub(super) struct PwriteFile {
    file: File,
    bytes: u64,
    waiting: Mutex<Waiting>,
}

impl PwriteFile {
    pub(super) fn new(file: File, bytes: u64) -> PwriteFile {
        PwriteFile { file, bytes, waiting: Mutex::default() }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // Every critical section leaves the list whole, so a panic elsewhere on the thread is no reason to stop.
        self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Writes one stretch so that it is durable on return.
    fn write_through(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match pwritev2(&self.file, &[IoSlice::new(bytes)], offset, ReadWriteFlags::DSYNC) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    bytes = &bytes[written..];
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl SegmentFile for PwriteFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        within(self.bytes, offset, out.len())?;
        self.file.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        within(self.bytes, offset, bytes.len())?;
        let mut waiting = self.waiting();
        match waiting.last_mut() {
            Some((start, last)) if *start + last.len() as u64 == offset => last.extend_from_slice(bytes),
            _ => waiting.push((offset, bytes.to_vec())),
        }
        Ok(())
    }

    /// Writes everything that waits, of which `range` is a part: a later write that came in time rides along.
    fn flush(&self, _range: Range<u64>) -> io::Result<()> {
        let waiting = std::mem::take(&mut *self.waiting());
        match waiting.as_slice() {
            [] => Ok(()),
            [(offset, bytes)] => self.write_through(*offset, bytes),
            many => {
                for (offset, bytes) in many {
                    self.file.write_all_at(bytes, *offset)?;
                }
                self.file.sync_data()
            }
        }
    }

    fn forget(&self, range: Range<u64>) {
        forget(&self.file, range);
    }

    fn is_at_hand(&self) -> bool {
        is_at_hand(&self.file, self.bytes)
    }
}
