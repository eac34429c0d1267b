//! Letting go of segments that nobody needs.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::Shared;
use super::spares::Claim;
use super::tail::Draft;
use crate::format::Class;
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
        for name in &victims {
            match self.storage.remove(name) {
                // Removed by an earlier call that could not make it durable.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                answer => answer.map_err(WalError::io("remove", name))?,
            }
            self.storage.sync_dir().map_err(WalError::io("flush the directory of", name))?;
            self.segments().pop_front();
        }
        self.spares.retry(&*self.storage);
        Ok(victims.len() as u64)
    }

    /// Names of the oldest segments that go, so that the released ones that stay fit `retain_bytes`.
    fn victims(&self) -> Vec<String> {
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
        finished[..finished.len() - stay].iter().map(|header| header.name()).collect()
    }
}
