//! Jobs over restarts and over checkpoints.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::super::core::Core;
use super::super::entry::Entry;
use super::{Job, OfJob, progress, stand, undo};
use crate::journal::job::JobLog;
use crate::model::ids::{Lsn, TxnId};
use crate::model::state::TxnState;

/// Takes over the jobs that the log tells of, before the transactions that may be their chunks.
pub(in crate::txn) fn take_over(
    core: &Arc<Core>,
    open: BTreeMap<TxnId, (Lsn, JobLog)>,
    ended: VecDeque<(TxnId, JobLog)>,
) {
    for (id, log) in ended {
        let at_us = log.at_us;
        if let Some((entry, _)) = entry(id, Lsn::ZERO, log) {
            entry.closed(at_us);
            core.registry.end(&entry);
            entry.settle();
        }
    }
    for (id, (place, log)) in open {
        if let Some((entry, _)) = entry(id, place, log) {
            entry.tell_to(core.journal.feed());
            entry.step("recovered", None);
            core.registry.adopt(&entry);
        }
    }
}

fn entry(id: TxnId, place: Lsn, log: JobLog) -> Option<(Arc<Entry>, Arc<Job>)> {
    let (phase, cause) = (log.phase, log.cause.clone());
    let job = progress::of_past(id, place, log)?;
    let name = Some(job.head.name.clone());
    let entry = Arc::new(Entry::from_past(id, name, None, None, Lsn::ZERO, job.head.began_us));
    entry.belongs(OfJob::Itself(job.clone()));
    stand(&entry, phase, cause);
    Some((entry, job))
}

/// Goes on undoing what a crash interrupted: once every transaction that the log left open counts as at work again.
pub(in crate::txn) fn go_on(core: &Arc<Core>) {
    for entry in core.registry.open() {
        if let Some(job) = entry.job().cloned() {
            undo::go_on(core, &entry, &job);
        }
    }
}

/// The open jobs.
fn jobs(core: &Core) -> Vec<Arc<Job>> {
    core.registry.open().iter().filter_map(|entry| entry.job().cloned()).collect()
}

/// From where on the log must be kept, where everything but jobs needs it from `needed` on. Jobs that are far behind are
/// written again; the checkpoint that follows makes that durable before anything goes.
pub(in crate::txn) fn carry(core: &Core, needed: Lsn) -> Lsn {
    let mut least = needed;
    for job in jobs(core) {
        match job.carry(&core.journal, needed) {
            Ok(needed) => least = least.min(needed),
            Err(problem) => {
                tracing::warn!(job = %job.id, %problem, "the job cannot be written again now");
                return Lsn::ZERO;
            }
        }
    }
    least
}

/// How many jobs are open, and how many of them are being undone.
pub(in crate::txn) fn count(core: &Core) -> (usize, usize) {
    let open: Vec<_> = core.registry.open().into_iter().filter(|entry| entry.job().is_some()).collect();
    let undone = open.iter().filter(|entry| entry.state() == TxnState::Compensating).count();
    (open.len(), undone)
}
