//! fjall: an LSM tree with a journal.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Log, Peer, Purpose, Task, blocking};

pub(crate) struct Fjall;

struct Open {
    database: Database,
    keyspace: Keyspace,
}

fn open(dir: &Path) -> Result<Open> {
    let database = Database::builder(dir).open()?;
    let keyspace = database.keyspace("log", KeyspaceCreateOptions::default)?;
    Ok(Open { database, keyspace })
}

impl Peer for Fjall {
    fn name(&self) -> &'static str {
        "fjall"
    }

    fn settings(&self) -> &'static str {
        "defaults without compression; `insert`, then `persist(PersistMode::SyncData)`"
    }

    fn open(&self, dir: &Path, _purpose: Purpose) -> Result<Arc<dyn Log>> {
        Ok(Arc::new(open(dir)?))
    }

    fn read(&self, dir: &Path, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        for guard in open(dir)?.keyspace.iter() {
            each(&guard.value()?);
        }
        Ok(())
    }
}

impl Log for Open {
    fn append(&self, number: u64, payload: &[u8]) -> Result<()> {
        self.keyspace.insert(number.to_be_bytes(), payload)?;
        self.database.persist(PersistMode::SyncData)?;
        Ok(())
    }

    fn append_task(self: Arc<Self>, number: u64, payload: Vec<u8>) -> Task {
        blocking(self, number, payload)
    }
}
