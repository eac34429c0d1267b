//! One collection: the engine's shard, the thread that writes it, and what its vectors must look like.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use qdrant_edge::{EdgeConfig, EdgeShard, OperationError};
use tokio::sync::oneshot;
use tonic::Status;

use super::files;
use super::schema::Schema;
use super::writer::{Counts, Work, Writer};
use crate::errors;

/// How long a closing collection waits for reads that still hold its shard.
const READERS_LEAVE_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Collection {
    pub(crate) name: String,
    pub(crate) schema: Schema,
    dir: PathBuf,
    /// `None` once the collection is closed: later calls find it gone.
    open: RwLock<Option<Open>>,
    operations: AtomicU64,
}

struct Open {
    shard: Arc<EdgeShard>,
    writer: Writer,
}

impl Collection {
    /// Makes a new shard in `dir`. The manifest is written last: a crash before it leaves rubbish and no collection.
    pub(crate) fn create(dir: &Path, name: &str, config: EdgeConfig, counts: Arc<Counts>) -> Result<Self> {
        let path = dir.join(files::SHARD);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        let shard = EdgeShard::new(&path, config).map_err(|error| anyhow!("{error}"))?;
        shard.flush();
        files::replace_json(&dir.join(files::MANIFEST), &files::Manifest { name: name.to_owned() })?;
        Self::start(dir, name, shard, counts)
    }

    /// Loads what `create` left in `dir`.
    pub(crate) fn load(dir: &Path, name: &str, counts: Arc<Counts>) -> Result<Self> {
        let shard = EdgeShard::load(&dir.join(files::SHARD), None).map_err(|error| anyhow!("{error}"))?;
        Self::start(dir, name, shard, counts)
    }

    fn start(dir: &Path, name: &str, shard: EdgeShard, counts: Arc<Counts>) -> Result<Self> {
        let schema = Schema::of(&shard.config());
        let shard = Arc::new(shard);
        let writer = Writer::start(name, Arc::clone(&shard), counts).context("starting a writer thread")?;
        Ok(Self {
            name: name.to_owned(),
            schema,
            dir: dir.to_owned(),
            open: RwLock::new(Some(Open { shard, writer })),
            operations: AtomicU64::new(0),
        })
    }

    /// Queues `work` behind everything accepted before it, `hold` later than its turn.
    ///
    /// # Errors
    /// `NotFound` once the collection is closed.
    pub(crate) fn submit(
        &self,
        work: Work,
        hold: Duration,
    ) -> Result<oneshot::Receiver<Result<(), OperationError>>, Status> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let open = open.as_ref().ok_or_else(|| errors::no_collection(&self.name))?;
        Ok(open.writer.submit(work, hold))
    }

    /// Runs `look` on a thread that may block. Reads run beside each other and beside the writer.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&EdgeShard) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let shard = {
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            let open = open.as_ref().ok_or_else(|| errors::no_collection(&self.name))?;
            Arc::clone(&open.shard)
        };
        match tokio::task::spawn_blocking(move || look(&shard)).await {
            Ok(found) => found,
            Err(panic) => Err(errors::internal(panic)),
        }
    }

    /// The number that the answer of the next write carries.
    pub(crate) fn next_operation(&self) -> u64 {
        self.operations.fetch_add(1, Ordering::Relaxed)
    }

    /// Lets accepted writes finish, waits for the readers and closes the engine. Blocks; a second call does nothing.
    pub(crate) fn close(&self) {
        let Some(Open { mut shard, writer }) = self.open.write().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        writer.close();
        // The engine flushes when it is dropped: that must happen here, not in whichever reader comes last.
        let until = Instant::now() + READERS_LEAVE_WITHIN;
        while let Err(shared) = Arc::try_unwrap(shard).map(drop) {
            if Instant::now() > until {
                eprintln!("qdrant-dev: readers still hold collection `{}`", self.name);
                break;
            }
            shard = shared;
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Closes the collection and deletes its data. Blocks. It is gone for good as soon as the manifest is.
    pub(crate) fn destroy(&self) -> Result<()> {
        files::remove(&self.dir.join(files::MANIFEST))?;
        self.close();
        fs::remove_dir_all(&self.dir).with_context(|| format!("removing {}", self.dir.display()))
    }
}
