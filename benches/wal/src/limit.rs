//! The disk's own limit: one thread that writes as many records as there are writers and syncs, again and again. With one
//! writer that is the raw `pwrite` + `fdatasync` loop; with more it is the ceiling of group commit, a group that is
//! always full and costs nobody a wake-up.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::measure::Measured;
use crate::peers::{Log, Task};

/// What a record of ours costs beside its payload.
const RECORD_HEADER: usize = 32;
const FILE_BYTES: u64 = 64 << 20;
const PAGE: [u8; 4096] = [0; 4096];

/// A file that was written and synced beforehand, so that no sync has to allocate.
pub(crate) struct Raw(File);

impl Raw {
    pub(crate) fn make(dir: &Path) -> Result<Raw> {
        let file = File::options().create_new(true).read(true).write(true).open(dir.join("raw"))?;
        for at in (0..FILE_BYTES).step_by(PAGE.len()) {
            file.write_all_at(&PAGE, at)?;
        }
        file.sync_all()?;
        Ok(Raw(file))
    }

    /// Writes and syncs for `span`.
    pub(crate) fn run(&self, writers: usize, size: usize, span: Duration) -> Result<Measured> {
        let bytes = vec![7; (size + RECORD_HEADER) * writers];
        let (mut at, mut latencies) = (0, Vec::new());
        let begun = Instant::now();
        while begun.elapsed() < span {
            let start = Instant::now();
            self.0.write_all_at(&bytes, at)?;
            self.0.sync_data()?;
            latencies.extend(std::iter::repeat_n(start.elapsed(), writers));
            at += bytes.len() as u64;
            if at + bytes.len() as u64 > FILE_BYTES {
                at = 0;
            }
        }
        Ok(Measured { latencies, took: begun.elapsed() })
    }
}

/// For lone records: what the file system itself adds to a page that is written and synced.
impl Log for Raw {
    fn append(&self, number: u64, payload: &[u8]) -> Result<()> {
        let len = (payload.len() + RECORD_HEADER) as u64;
        self.0.write_all_at(payload, number % (FILE_BYTES / len) * len)?;
        Ok(self.0.sync_data()?)
    }

    fn append_task(self: Arc<Self>, number: u64, payload: Vec<u8>) -> Task {
        Box::pin(async move { self.append(number, &payload).map(|()| payload) })
    }
}
