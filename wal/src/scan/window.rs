//! A sliding window over a file: memory stays bounded however long the log is.

use std::io;

use crate::format::PAGE;
use crate::storage::SegmentFile;

/// Bytes read at once: a page at first, twice as much each time, up to this. Who follows a writer takes short steps at
/// the log's end, who replays takes long ones. A record that is longer gets a longer window while it is looked at.
const CHUNK: u64 = 256 << 10;

/// The bytes around the position that is being looked at. Everything behind it is forgotten, also by the page cache.
#[derive(Debug, Default)]
pub(crate) struct Window {
    start: u64,
    bytes: Vec<u8>,
    ahead: u64,
}

impl Window {
    /// The `len` bytes from `offset`, which the file has.
    pub(crate) fn get(&mut self, file: &dyn SegmentFile, offset: u64, len: u64) -> io::Result<&[u8]> {
        let held = self.start..self.start + self.bytes.len() as u64;
        if offset < held.start || offset + len > held.end {
            self.fill(file, offset, len)?;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.bytes[from..from + len as usize])
    }

    /// Reads anew at the next [`get`](Window::get): what is held may be out of date.
    pub(crate) fn drop_held(&mut self) {
        self.bytes.clear();
        self.ahead = 0;
    }

    fn fill(&mut self, file: &dyn SegmentFile, offset: u64, len: u64) -> io::Result<()> {
        if offset > self.start {
            file.forget(self.start..offset);
        }
        self.ahead = (self.ahead * 2).clamp(PAGE, CHUNK);
        let wanted = len.max(self.ahead.min(file.bytes().saturating_sub(offset)));
        if wanted <= CHUNK && self.bytes.capacity() as u64 > CHUNK {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        self.bytes.resize(wanted as usize, 0);
        self.start = offset;
        file.read_at(offset, &mut self.bytes).inspect_err(|_| self.bytes.clear())
    }
}
