//! One rung: so many writers, each appending a record and waiting until it is durable, for a moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::payload;
use crate::peers::Log;

/// Appends before the clock starts: first touches, lazily made threads and files.
const WARM_UP: u64 = 50;

/// Who waits: a thread each, or a task each on two worker threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writers {
    Threads,
    Tasks,
}

impl Writers {
    pub(crate) const BOTH: [Writers; 2] = [Writers::Threads, Writers::Tasks];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Writers::Threads => "threads",
            Writers::Tasks => "tasks",
        }
    }
}

/// Each acknowledgement's latency, and how long it took altogether.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) latencies: Vec<Duration>,
    pub(crate) took: Duration,
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }
}

/// What a rung is climbed with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) who: Writers,
    pub(crate) writers: usize,
    pub(crate) size: usize,
    pub(crate) span: Duration,
    pub(crate) seed: u64,
}

/// Lets them write for the load's span. `next` numbers the records of this log.
pub(crate) fn run(log: &Arc<dyn Log>, next: &Arc<AtomicU64>, load: Load) -> Result<Measured> {
    warm_up(&**log, next, load)?;
    match load.who {
        Writers::Threads => threads(&**log, next, load),
        Writers::Tasks => tasks(log, Arc::clone(next), load),
    }
}

fn warm_up(log: &dyn Log, next: &AtomicU64, load: Load) -> Result<()> {
    let mut bytes = payload::make(load.seed, 0, load.size);
    for _ in 0..WARM_UP {
        let number = next.fetch_add(1, Ordering::Relaxed);
        payload::stamp(&mut bytes, number);
        log.append(number, &bytes)?;
    }
    Ok(())
}

fn threads(log: &dyn Log, next: &AtomicU64, load: Load) -> Result<Measured> {
    let begun = Instant::now();
    let write = |writer: usize| -> Result<Vec<Duration>> {
        let mut bytes = payload::make(load.seed, writer as u64, load.size);
        let mut latencies = Vec::with_capacity(1 << 14);
        while begun.elapsed() < load.span {
            let number = next.fetch_add(1, Ordering::Relaxed);
            payload::stamp(&mut bytes, number);
            let start = Instant::now();
            log.append(number, &bytes)?;
            latencies.push(start.elapsed());
        }
        Ok(latencies)
    };
    let mut all = Measured::default();
    std::thread::scope(|scope| {
        let write = &write;
        let writing: Vec<_> = (0..load.writers).map(|writer| scope.spawn(move || write(writer))).collect();
        for writer in writing {
            all.latencies.extend(writer.join().ok().context("a writer panicked")??);
        }
        anyhow::Ok(())
    })?;
    all.took = begun.elapsed();
    Ok(all)
}

fn tasks(log: &Arc<dyn Log>, next: Arc<AtomicU64>, load: Load) -> Result<Measured> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let begun = Instant::now();
        let writing: Vec<_> = (0..load.writers)
            .map(|writer| {
                let (log, next) = (Arc::clone(log), Arc::clone(&next));
                tokio::spawn(async move {
                    let mut bytes = payload::make(load.seed, writer as u64, load.size);
                    let mut latencies = Vec::with_capacity(1 << 14);
                    while begun.elapsed() < load.span {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        payload::stamp(&mut bytes, number);
                        let start = Instant::now();
                        bytes = Arc::clone(&log).append_task(number, bytes).await?;
                        latencies.push(start.elapsed());
                    }
                    anyhow::Ok(latencies)
                })
            })
            .collect();
        let mut all = Measured::default();
        for writer in writing {
            all.latencies.extend(writer.await.context("a writer panicked")??);
        }
        all.took = begun.elapsed();
        Ok(all)
    })
}
