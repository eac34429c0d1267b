//! okaywal: segments that are checkpointed and used again.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::Result;
use okaywal::{Configuration, Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};

use super::{Log, Peer, Purpose, Task, blocking};

pub(crate) struct OkayWal;

/// The log, and what lets go of its full segments.
struct Open {
    log: WriteAheadLog,
    kept: Arc<Kept>,
}

/// Whether checkpoints wait: a segment that was checkpointed is used again, and nothing is left of it to be damaged.
#[derive(Debug, Default)]
struct Kept {
    waits: Mutex<bool>,
    changed: Condvar,
}

impl Drop for Open {
    fn drop(&mut self) {
        *self.kept.waits.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.kept.changed.notify_all();
    }
}

/// Needs no record once it stands in the log, unless segments are to be kept.
#[derive(Debug)]
struct Forget(Arc<Kept>);

impl LogManager for Forget {
    fn recover(&mut self, _entry: &mut Entry<'_>) -> io::Result<()> {
        Ok(())
    }

    fn checkpoint_to(&mut self, _last: EntryId, _entries: &mut SegmentReader, _log: &WriteAheadLog) -> io::Result<()> {
        let mut waits = self.0.waits.lock().unwrap_or_else(PoisonError::into_inner);
        while *waits {
            waits = self.0.changed.wait(waits).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}

/// Takes every record that recovery offers, by the crate's own helper that checks sums.
#[derive(Debug, Default)]
struct Take(Arc<Mutex<Vec<Vec<u8>>>>);

impl LogManager for Take {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        // `None` is an aborted entry: "the entire entry should be ignored".
        if let Some(chunks) = entry.read_all_chunks()? {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(chunks);
        }
        Ok(())
    }

    fn checkpoint_to(&mut self, _last: EntryId, _entries: &mut SegmentReader, _log: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}

impl Peer for OkayWal {
    fn name(&self) -> &'static str {
        "okaywal"
    }

    fn settings(&self) -> &'static str {
        "`commit` of one chunk (`fdatasync`, shared); 64 MiB preallocated, checkpoint after 48 MiB by a manager that does \
         nothing"
    }

    fn open(&self, dir: &Path, purpose: Purpose) -> Result<Arc<dyn Log>> {
        let mut configuration = Configuration::default_for(dir);
        let kept = Arc::new(Kept::default());
        if purpose == Purpose::Speed {
            configuration = configuration.preallocate_bytes(64 << 20).checkpoint_after_bytes(48 << 20);
        } else {
            *kept.waits.lock().unwrap_or_else(PoisonError::into_inner) = true;
        }
        Ok(Arc::new(Open { log: configuration.open(Forget(Arc::clone(&kept)))?, kept }))
    }

    fn read(&self, dir: &Path, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let taken = Arc::new(Mutex::default());
        let log = Configuration::default_for(dir).open(Take(Arc::clone(&taken)))?;
        taken.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|record| each(record));
        log.shutdown()?;
        Ok(())
    }
}

impl Log for Open {
    fn append(&self, _number: u64, payload: &[u8]) -> Result<()> {
        let mut entry = self.log.begin_entry()?;
        entry.write_chunk(payload)?;
        entry.commit()?;
        Ok(())
    }

    fn append_task(self: Arc<Self>, number: u64, payload: Vec<u8>) -> Task {
        blocking(self, number, payload)
    }
}
