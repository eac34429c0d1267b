//! redb: a copy-on-write B-tree, no log; there for the comparison with a store that syncs each commit.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Log, Peer, Purpose, Task, blocking};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

pub(crate) struct Redb;

struct Open(Database);

impl Peer for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn settings(&self) -> &'static str {
        "defaults: `Durability::Immediate`, one insert a transaction; one writer at a time"
    }

    fn open(&self, dir: &Path, _purpose: Purpose) -> Result<Arc<dyn Log>> {
        Ok(Arc::new(Open(Database::create(dir.join("log.redb"))?)))
    }

    fn read(&self, dir: &Path, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let database = Database::open(dir.join("log.redb"))?;
        let table = database.begin_read()?.open_table(LOG)?;
        for entry in table.iter()? {
            each(entry?.1.value());
        }
        Ok(())
    }
}

impl Log for Open {
    fn append(&self, number: u64, payload: &[u8]) -> Result<()> {
        let transaction = self.0.begin_write()?;
        transaction.open_table(LOG)?.insert(number, payload)?;
        transaction.commit()?;
        Ok(())
    }

    fn append_task(self: Arc<Self>, number: u64, payload: Vec<u8>) -> Task {
        blocking(self, number, payload)
    }
}
