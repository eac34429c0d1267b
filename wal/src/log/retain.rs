//! Letting go of segments that nobody needs: they are removed, or become spares under another name.
//!
//! *The danger of using a file again.* Who has it open, under its old name, sees it change. Who comes after a crash finds
//! records in it that are not of this life.
//!
//! *The remedy.* The new header, with a new salt, is durable before the first new record; a record is only one with the
//! segment's salt in its sum and its own position in its head, so none is ever taken for another. Where a reader's chain
//! ends it looks whether the header is still the one that it began with, and if not, says *released*. After a crash the
//! tail of such a segment is left, not written on (`recover::mend`).

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::Shared;
use super::spares::Claim;
use super::tail::Draft;
use crate::format::{Class, SegmentHeader};
use crate::storage::is_full;
use crate::{Lsn, WalError};

impl Shared {
    /// See [`Wal::release`](crate::Wal::release).
    ///
    /// Before the first segment goes, a record that says so is durable: an opening that misses segments at the front can
    /// tell those that were released from those that were lost. Each removal is durable before the next, so that no
    /// crash leaves a gap.
    pub(super) fn release(&self, below: Lsn) -> Result<u64, WalError> {
        let _order = self.releasing.lock().unwrap_or_else(PoisonError::into_inner);
        let below = below.min(self.watermark.durable());
        self.released.fetch_max(below.as_u64(), Ordering::AcqRel);
        let victims = self.victims();
        if victims.is_empty() {
            return Ok(0);
        }
        let released = self.released().as_u64().to_le_bytes();
        let note = self.put(Claim::Reserved, Draft { class: Class::Release, kind: 0, flags: 0, payload: &released })?;
        self.flush(note.end)?;
        for header in &victims {
            let name = header.name();
            let kept = match self.take_away(header) {
                // Taken away by an earlier call that could not make it durable.
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                answer => answer.map_err(WalError::io("remove", &name))?,
            };
            self.storage.sync_dir().map_err(WalError::io("flush the directory of", name))?;
            // Before the file is used again: a reader that finds its segment still kept has read what it was.
            self.segments().pop_front();
            if let Some(kept) = kept {
                self.spares.take_released(kept);
            }
        }
        self.spares.retry(&*self.storage);
        Ok(victims.len() as u64)
    }

    /// Whether the segment has not been let go.
    pub(super) fn is_kept(&self, header: &SegmentHeader) -> bool {
        self.segments().front().is_some_and(|oldest| oldest.number <= header.number)
    }

    /// Takes the segment's name away. Gives the name that its file has instead, where it is to be used again.
    ///
    /// What an opening found was read by it, which brings large folios into the page cache; only what this opening has
    /// begun is in there in single pages.
    fn take_away(&self, header: &SegmentHeader) -> io::Result<Option<String>> {
        let name = header.name();
        let ours = header.number > self.inherited && header.bytes == self.options.segment_bytes;
        if let Some(other) = ours.then(|| self.spares.name_for_released()).flatten() {
            match self.storage.rename(&name, &other) {
                Ok(()) => return Ok(Some(other)),
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.storage.remove(&name).map(|()| None)
    }

    /// The oldest segments that go, so that the released ones that stay fit `retain_bytes`.
    fn victims(&self) -> Vec<SegmentHeader> {
        let segments = self.segments();
        let released = self.released();
        let finished: Vec<_> = segments
            .iter()
            .take(segments.len().saturating_sub(1))
            .take_while(|header| header.end() <= released)
            .collect();
        let mut kept = 0;
        let stay = finished
            .iter()
            .rev()
            .take_while(|header| {
                kept += header.bytes;
                kept <= self.options.retain_bytes
            })
            .count();
        finished[..finished.len() - stay].iter().map(|header| (*header).clone()).collect()
    }
}
