//! The logs that are compared: each behind the same two doors, writing durably and reading back.

mod outrigger;

#[cfg(feature = "peers")]
mod fjall;
#[cfg(feature = "peers")]
mod okaywal;
#[cfg(feature = "peers")]
mod raft_engine;
#[cfg(feature = "peers")]
mod redb;
#[cfg(feature = "peers")]
mod sqlite;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Result;

/// What a log is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be measured: files as large and prepared as the peer can have them.
    Speed,
    /// To be damaged: files small enough that there are several, where the peer has several.
    Damage {
        /// What the log writes when nobody uses it (our seal) is welcome. Else it was busy to the end.
        idle: bool,
    },
}

/// An open log that many writers share.
pub(crate) trait Log: Send + Sync {
    /// Appends a record and returns once it is durable, by the log's own word.
    fn append(&self, number: u64, payload: &[u8]) -> Result<()>;

    /// The same for a task. Where a log knows only threads, a task does what tokio tells it to do: it hands the call to
    /// the pool of blocking threads.
    fn append_task(self: Arc<Self>, number: u64, payload: Vec<u8>) -> Task
    where
        Self: 'static;
}

/// A task's append; gives the payload's buffer back, to be used again.
pub(crate) type Task = Pin<Box<dyn Future<Output = Result<Vec<u8>>> + Send>>;

/// Hands an append to a blocking thread.
#[cfg(feature = "peers")]
fn blocking<L: Log + 'static>(log: Arc<L>, number: u64, payload: Vec<u8>) -> Task {
    Box::pin(async move { tokio::task::spawn_blocking(move || log.append(number, &payload).map(|()| payload)).await? })
}

/// One kind of log.
pub(crate) trait Peer: Sync {
    /// As in the tables.
    fn name(&self) -> &'static str;

    /// Everything that differs from its defaults, and what its acknowledgement means.
    fn settings(&self) -> &'static str;

    /// Ours are compared with the others.
    fn is_ours(&self) -> bool {
        false
    }

    /// Opens a new log in an empty folder.
    fn open(&self, dir: &Path, purpose: Purpose) -> Result<Arc<dyn Log>>;

    /// Opens what is there, as its users do after a crash, and gives every record. An error is a refusal.
    fn read(&self, dir: &Path, each: &mut dyn FnMut(&[u8])) -> Result<()>;
}

/// The contestants of the speed ladder.
pub(crate) fn measured() -> Vec<Box<dyn Peer>> {
    #[allow(unused_mut, reason = "it grows with the feature")]
    let mut all: Vec<Box<dyn Peer>> = vec![Box::new(outrigger::MMAP), Box::new(outrigger::PWRITE)];
    #[cfg(feature = "peers")]
    all.extend([
        Box::new(raft_engine::DEFAULT) as Box<dyn Peer>,
        Box::new(okaywal::OkayWal),
        Box::new(sqlite::Sqlite),
        Box::new(redb::Redb),
        Box::new(fjall::Fjall),
    ]);
    all
}

/// The contestants of the corruption table: a log that can be told how to recover stands there once for each way.
pub(crate) fn damaged() -> Vec<Box<dyn Peer>> {
    #[allow(unused_mut, reason = "it grows with the feature")]
    let mut all = measured();
    #[cfg(feature = "peers")]
    all.insert(3, Box::new(raft_engine::ABSOLUTE));
    all
}
