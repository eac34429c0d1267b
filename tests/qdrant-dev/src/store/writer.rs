//! One writer thread a collection, and one flush for all who wait.
//!
//! The engine's own log is never replayed: what was not flushed is gone after a `kill -9`. So nobody is answered before
//! `flush()` returned. A flush costs milliseconds whatever it covers, so the thread applies every job that stands in the
//! queue, flushes once, and then answers all of them. The queue also gives what a real shard gives: writes of one
//! collection happen in the order in which they were accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use qdrant_edge::{EdgeOptimizersConfig, EdgeShard, OperationError, UpdateOperation};
use tokio::sync::oneshot;

/// At most so many jobs share one flush, so that the first of them does not wait for ever under a flood.
const JOBS_PER_FLUSH: usize = 256;

/// What a job does to the shard.
pub(crate) enum Work {
    /// Applied one after the other; the first refusal ends the job and leaves what came before it (no atomicity).
    Updates(Vec<UpdateOperation>),
    /// Runs the optimizers, so that points move into an optimized segment, as they do on a real server by themselves.
    Optimize,
}

pub(crate) struct Job {
    work: Work,
    /// Waited out in the queue before this job, with everything behind it waiting too: a slow shard.
    hold: Duration,
    done: oneshot::Sender<Result<(), OperationError>>,
}

/// Sums over all collections since the process started; a group flush shows as fewer flushes than jobs.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) jobs: AtomicU64,
    pub(crate) flushes: AtomicU64,
    /// Microseconds that jobs took, without their flushes.
    pub(crate) apply_us: AtomicU64,
    /// Microseconds that flushes took.
    pub(crate) flush_us: AtomicU64,
}

fn add_time(sum: &AtomicU64, since: Instant) {
    sum.fetch_add(u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

pub(crate) struct Writer {
    jobs: mpsc::Sender<Job>,
    thread: thread::JoinHandle<()>,
}

impl Writer {
    pub(crate) fn start(name: &str, shard: Arc<EdgeShard>, counts: Arc<Counts>) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("writer {name}"))
            .spawn(move || write_until_closed(&shard, &queue, &counts))?;
        Ok(Self { jobs, thread })
    }

    /// Queues `work`. The receiver resolves once it is applied (or refused) and flushed; it is cut off if the engine
    /// panicked, and the work happens whether or not anybody still listens.
    pub(crate) fn submit(&self, work: Work, hold: Duration) -> oneshot::Receiver<Result<(), OperationError>> {
        let (done, outcome) = oneshot::channel();
        // A dead thread drops `done` with the job, and the receiver tells.
        let _ = self.jobs.send(Job { work, hold, done });
        outcome
    }

    /// Lets the queue run dry and ends the thread.
    pub(crate) fn close(self) {
        drop(self.jobs);
        if self.thread.join().is_err() {
            eprintln!("qdrant-dev: a collection's writer had panicked");
        }
    }
}

fn write_until_closed(shard: &EdgeShard, queue: &mpsc::Receiver<Job>, counts: &Counts) {
    let mut next = None;
    while let Some(first) = next.take().or_else(|| queue.recv().ok()) {
        if !first.hold.is_zero() {
            thread::sleep(first.hold);
        }
        let begun = Instant::now();
        let mut answers = vec![apply(shard, first)];
        while answers.len() < JOBS_PER_FLUSH {
            match queue.try_recv() {
                Ok(job) if job.hold.is_zero() => answers.push(apply(shard, job)),
                // Those who stand before a held job must not wait for it.
                Ok(held) => {
                    next = Some(held);
                    break;
                }
                Err(_) => break,
            }
        }
        add_time(&counts.apply_us, begun);
        let begun = Instant::now();
        // Panics where the disk fails. That ends this thread and with it the collection: a failed flush is final.
        shard.flush();
        add_time(&counts.flush_us, begun);
        counts.jobs.fetch_add(answers.len() as u64, Ordering::Relaxed);
        counts.flushes.fetch_add(1, Ordering::Relaxed);
        for (done, outcome) in answers {
            let _ = done.send(outcome);
        }
    }
}

type Answer = (oneshot::Sender<Result<(), OperationError>>, Result<(), OperationError>);

fn apply(shard: &EdgeShard, job: Job) -> Answer {
    let outcome = match job.work {
        Work::Updates(updates) => updates.into_iter().try_for_each(|update| shard.update(update)),
        Work::Optimize => optimize(shard),
    };
    (job.done, outcome)
}

/// The engine indexes only segments above a threshold, by default larger than any test: lowered while this runs.
fn optimize(shard: &EdgeShard) -> Result<(), OperationError> {
    let before = shard.config().optimizers.clone();
    shard.set_optimizers_config(EdgeOptimizersConfig { indexing_threshold: Some(1), ..before.clone() })?;
    let outcome = shard.optimize();
    shard.set_optimizers_config(before)?;
    outcome.map(|_| ())
}
