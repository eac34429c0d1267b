//! Ours.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use outrigger_wal::{Backend, Options, Wal};

use super::{Log, Peer, Purpose, Task};

pub(crate) struct Outrigger {
    name: &'static str,
    settings: &'static str,
    backend: Backend,
}

pub(super) const MMAP: Outrigger = Outrigger {
    name: "outrigger-wal, mmap",
    settings: "defaults: 64 MiB segments; acknowledged after `msync`; tasks await `durable`",
    backend: Backend::Mmap,
};
pub(super) const PWRITE: Outrigger = Outrigger {
    name: "outrigger-wal, pwrite",
    settings: "`Backend::Pwrite`, else defaults; acknowledged after `pwritev2(RWF_DSYNC)`",
    backend: Backend::Pwrite,
};

impl Peer for Outrigger {
    fn name(&self) -> &'static str {
        self.name
    }

    fn settings(&self) -> &'static str {
        self.settings
    }

    fn is_ours(&self) -> bool {
        true
    }

    fn open(&self, dir: &Path, purpose: Purpose) -> Result<Arc<dyn Log>> {
        let mut options = Options { backend: self.backend, ..Options::default() };
        if let Purpose::Damage { idle } = purpose {
            options.segment_bytes = 1 << 20;
            // A table of damage asks nothing of the disk.
            options.force_filesystem = true;
            if !idle {
                options.seal_after = Duration::ZERO;
            }
        }
        let segment_bytes = options.segment_bytes;
        let (wal, _) = Wal::open(dir, options)?;
        wait_for_spares(dir, segment_bytes)?;
        Ok(Arc::new(wal))
    }

    fn read(&self, dir: &Path, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let options =
            Options { backend: self.backend, segment_bytes: 1 << 20, force_filesystem: true, ..Options::default() };
        let (wal, recovery) = Wal::open(dir, options)?;
        for record in wal.read(recovery.first_lsn) {
            each(&record?.payload);
        }
        Ok(())
    }
}

/// Preparing spares is work of the opening, not of the record.
fn wait_for_spares(dir: &Path, segment_bytes: u64) -> Result<()> {
    for _ in 0..500 {
        let lengths = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.metadata()?.len())).collect::<Result<Vec<_>>>()?;
        if lengths.len() >= 3 && lengths.iter().all(|len| *len >= segment_bytes) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // The last one's own flush.
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}

impl Log for Wal {
    fn append(&self, _number: u64, payload: &[u8]) -> Result<()> {
        let appended = Wal::append(self, 0, payload)?;
        Ok(self.flush(appended.end)?)
    }

    fn append_task(self: Arc<Self>, _number: u64, payload: Vec<u8>) -> Task {
        Box::pin(async move {
            let appended = Wal::append(&self, 0, &payload)?;
            self.durable(appended.end).await?;
            Ok(payload)
        })
    }
}
