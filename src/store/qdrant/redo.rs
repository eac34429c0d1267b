//! Writes after the decision. They cannot be refused any more, only delayed, and a copy whose answer was lost may still
//! land: repeated too early, it could land *after* a later transaction's write to the same point.
//!
//! So each call carries a deadline; only `Completed` counts; and after a call whose fate is not known its connection is
//! cut and its transactions are told to try again only when the deadline has passed once more: until then the
//! coordinator keeps their points locked. Other transactions go on meanwhile: their points are others.
//!
//! One worker a collection with one call in flight. What comes in during a call travels together in the next.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::qdrant_client::qdrant::points_update_operation::Operation;
use ::qdrant_client::qdrant::{
    PointsUpdateOperation, UpdateBatchPoints, UpdateResult, WriteOrdering, WriteOrderingType,
};
use futures::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Request, Status};

use super::absolute::decode;
use super::batch::{Batch, confirmed};
use super::errors::{Verdict, explain, judge};
use super::wire::{Dial, Link};
use crate::model::commit::RedoWrite;
use crate::store::Setback;

/// Transactions that may wait for one collection's worker; more wait at its door.
const QUEUE: usize = 1024;
/// Most transactions in one call.
const MOST_JOBS: usize = 512;
/// Most bytes in one call, unless a single transaction has more.
const MOST_BYTES: usize = 8 << 20;
/// A worker without work closes its connection and ends.
const IDLE: Duration = Duration::from_secs(60);

/// Applies writes. Cheap to clone.
#[derive(Clone)]
pub(super) struct Applier {
    shared: Arc<Shared>,
}

struct Shared {
    dial: Arc<Dial>,
    deadline: Duration,
    workers: Mutex<HashMap<String, mpsc::Sender<Job>>>,
    calls: AtomicU64,
    jobs: AtomicU64,
}

/// One transaction's writes to one collection.
struct Job {
    operations: Vec<Operation>,
    bytes: usize,
    /// Somebody in the same call was refused: find out who.
    alone: bool,
    done: oneshot::Sender<Answer>,
}

enum Answer {
    Applied,
    /// The call was refused, and others travelled in it.
    RefusedTogether,
    Setback(Setback),
}

impl Applier {
    pub(super) fn new(dial: Arc<Dial>, deadline: Duration) -> Self {
        let workers = Mutex::default();
        let shared = Shared { dial, deadline, workers, calls: AtomicU64::new(0), jobs: AtomicU64::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// Calls made and transactions carried by them.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.shared.calls.load(Ordering::Relaxed), self.shared.jobs.load(Ordering::Relaxed))
    }

    /// Applies the writes of one transaction: collections at the same time, within one in order.
    pub(super) async fn apply(&self, writes: &[RedoWrite]) -> Result<(), Setback> {
        let mut by_collection: Vec<(&str, Vec<&RedoWrite>)> = Vec::new();
        for write in writes {
            match by_collection.iter_mut().find(|(collection, _)| *collection == write.resource) {
                Some((_, writes)) => writes.push(write),
                None => by_collection.push((&write.resource, vec![write])),
            }
        }
        let all = by_collection.iter().map(|(collection, writes)| self.apply_to(collection, writes));
        // All of them to their ends: a refusal by one is no reason to abandon the others half way.
        let mut answers = join_all(all).await;
        answers.sort_by_key(|answer| match answer {
            Err(Setback::Final(_)) => 0,
            Err(Setback::Again(_)) => 1,
            Ok(()) => 2,
        });
        answers.into_iter().next().unwrap_or(Ok(()))
    }

    async fn apply_to(&self, collection: &str, writes: &[&RedoWrite]) -> Result<(), Setback> {
        match self.submit(collection, writes, false).await? {
            Answer::Applied => Ok(()),
            Answer::Setback(setback) => Err(setback),
            Answer::RefusedTogether => match self.submit(collection, writes, true).await? {
                Answer::Applied => Ok(()),
                Answer::Setback(setback) => Err(setback),
                Answer::RefusedTogether => Err(again("refused together with itself")),
            },
        }
    }

    async fn submit(&self, collection: &str, writes: &[&RedoWrite], alone: bool) -> Result<Answer, Setback> {
        let mut operations = Vec::with_capacity(writes.len());
        for write in writes {
            let unreadable = |error| Setback::Final(format!("a write to `{collection}` cannot be read: {error}"));
            operations.push(decode(&write.body).map_err(unreadable)?);
        }
        let bytes = writes.iter().map(|write| write.body.len()).sum();
        let (done, answer) = oneshot::channel();
        let mut job = Job { operations, bytes, alone, done };
        loop {
            let worker = self.worker(collection);
            match worker.send(job).await {
                Ok(()) => break,
                // It ended for lack of work just now: the next look-up starts another.
                Err(back) => job = back.0,
            }
        }
        Ok(answer.await.unwrap_or_else(|_| Answer::Setback(again("its worker ended"))))
    }

    fn worker(&self, collection: &str) -> mpsc::Sender<Job> {
        let mut workers = self.shared.workers.lock().unwrap_or_else(PoisonError::into_inner);
        match workers.get(collection) {
            Some(worker) if !worker.is_closed() => worker.clone(),
            _ => {
                let (sender, queue) = mpsc::channel(QUEUE);
                let worker = Worker {
                    collection: collection.to_owned(),
                    shared: self.shared.clone(),
                    queue,
                    link: None,
                    kept_back: None,
                };
                tokio::spawn(worker.run());
                workers.insert(collection.to_owned(), sender.clone());
                sender
            }
        }
    }
}

fn again(reason: impl Into<String>) -> Setback {
    Setback::Again(reason.into())
}

struct Worker {
    collection: String,
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Job>,
    link: Option<Link>,
    /// Taken from the queue and too large, or too lonely, for the call that was being filled.
    kept_back: Option<Job>,
}

impl Worker {
    async fn run(mut self) {
        while let Some(jobs) = self.next_jobs().await {
            self.send(jobs).await;
        }
    }

    /// Waits for work and takes what fits into one call. `None`: there was none for long, and none can come any more.
    async fn next_jobs(&mut self) -> Option<Vec<Job>> {
        let first = match self.kept_back.take() {
            Some(job) => job,
            None => match timeout(IDLE, self.queue.recv()).await {
                Ok(job) => job?,
                Err(_) => {
                    // Closed first: what is in the queue by now is still ours.
                    self.queue.close();
                    self.queue.recv().await?
                }
            },
        };
        let (mut bytes, mut jobs) = (first.bytes, vec![first]);
        while !jobs[0].alone && jobs.len() < MOST_JOBS {
            let Ok(job) = self.queue.try_recv() else { break };
            if job.alone || bytes + job.bytes > MOST_BYTES {
                self.kept_back = Some(job);
                break;
            }
            bytes += job.bytes;
            jobs.push(job);
        }
        Some(jobs)
    }

    async fn send(&mut self, jobs: Vec<Job>) {
        let link = match self.link.take() {
            Some(link) => link,
            None => match self.shared.dial.link().await {
                Ok(link) => link,
                Err(error) => return tell(jobs.into_iter().map(|job| job.done), &again(error)),
            },
        };
        let mut batch = Batch::default();
        let mut waiting = Vec::with_capacity(jobs.len());
        for job in jobs {
            batch.add(job.operations);
            waiting.push(job.done);
        }
        let (operations, parts) = batch.split();
        self.shared.calls.fetch_add(1, Ordering::Relaxed);
        self.shared.jobs.fetch_add(waiting.len() as u64, Ordering::Relaxed);
        match call(&link, &self.collection, operations, self.shared.deadline).await {
            Ok(results) => {
                self.link = Some(link);
                for (done, part) in waiting.into_iter().zip(parts) {
                    let answer = confirmed(&part, &results);
                    let answer = answer.map_or_else(|why| Answer::Setback(again(why)), |()| Answer::Applied);
                    let _ = done.send(answer);
                }
            }
            Err(status) => self.failed(link, status, waiting).await,
        }
    }

    async fn failed(&mut self, link: Link, status: Status, waiting: Vec<oneshot::Sender<Answer>>) {
        let reason = format!("{:?}: {}", status.code(), explain(&status));
        match judge(&status) {
            Verdict::Ambiguous => {
                link.cut().await;
                let safe_from = Instant::now() + self.shared.deadline;
                tokio::spawn(async move {
                    sleep_until(safe_from).await;
                    tell(waiting, &again(reason));
                });
            }
            Verdict::Later(pause) => {
                self.link = Some(link);
                sleep(pause).await;
                tell(waiting, &again(reason));
            }
            Verdict::Refused => {
                self.link = Some(link);
                let together = waiting.len() > 1;
                for done in waiting {
                    let refusal = Answer::Setback(Setback::Final(reason.clone()));
                    let _ = done.send(if together { Answer::RefusedTogether } else { refusal });
                }
            }
        }
    }
}

/// Whoever went away meanwhile need not know.
fn tell(waiting: impl IntoIterator<Item = oneshot::Sender<Answer>>, setback: &Setback) {
    for done in waiting {
        let _ = done.send(Answer::Setback(setback.clone()));
    }
}

async fn call(
    link: &Link,
    collection: &str,
    operations: Vec<PointsUpdateOperation>,
    deadline: Duration,
) -> Result<Vec<UpdateResult>, Status> {
    let mut request = Request::new(UpdateBatchPoints {
        collection_name: collection.to_owned(),
        wait: Some(true),
        operations,
        ordering: Some(WriteOrdering { r#type: WriteOrderingType::Strong.into() }),
        timeout: None,
    });
    request.set_timeout(deadline);
    let mut points = link.points.clone();
    match timeout(deadline, points.update_batch(request)).await {
        Ok(answer) => answer.map(|answer| answer.into_inner().result),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}
