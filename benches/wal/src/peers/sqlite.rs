//! SQLite in WAL mode.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use rusqlite::Connection;

use super::{Log, Peer, Purpose, Task, blocking};

pub(crate) struct Sqlite;

/// One connection for all writers: SQLite has one writer at a time anyway, and waiting for a mutex is quicker than
/// being told `SQLITE_BUSY`.
struct Open(Mutex<Connection>);

impl Peer for Sqlite {
    fn name(&self) -> &'static str {
        "SQLite"
    }

    fn settings(&self) -> &'static str {
        "`journal_mode = WAL`, `synchronous = FULL`, one INSERT a transaction, one connection behind a mutex (one for \
         each writer is slower); in the corruption table no checkpoint has run yet"
    }

    fn open(&self, dir: &Path, purpose: Purpose) -> Result<Arc<dyn Log>> {
        let connection = Connection::open(dir.join("log.db"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        if purpose != Purpose::Speed {
            connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        }
        connection.execute("CREATE TABLE log (k INTEGER PRIMARY KEY, v BLOB NOT NULL)", ())?;
        if purpose != Purpose::Speed {
            // The table itself is to be in the database file: what is damaged are records.
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?;
        }
        Ok(Arc::new(Open(Mutex::new(connection))))
    }

    fn read(&self, dir: &Path, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let connection = Connection::open(dir.join("log.db"))?;
        let mut statement = connection.prepare("SELECT v FROM log ORDER BY k")?;
        let mut rows = statement.query(())?;
        while let Some(row) = rows.next()? {
            each(row.get_ref(0)?.as_blob()?);
        }
        Ok(())
    }
}

impl Log for Open {
    fn append(&self, number: u64, payload: &[u8]) -> Result<()> {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut insert = connection.prepare_cached("INSERT INTO log(k, v) VALUES (?1, ?2)")?;
        insert.execute((i64::try_from(number)?, payload))?;
        Ok(())
    }

    fn append_task(self: Arc<Self>, number: u64, payload: Vec<u8>) -> Task {
        blocking(self, number, payload)
    }
}
