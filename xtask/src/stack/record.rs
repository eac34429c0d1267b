//! `stack.json`: which stores a stack has, where they listen, which processes they are.
//!
//! The file is the truth that every process shares: each act reads it under a lock and writes it whole (draft, then
//! rename). A test that attaches to a running stack and restarts a store thereby tells everybody else its new pid.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::process::Process;
use super::{Lifetime, Login, Store};
use crate::cache;

const LOCK_LIMIT: Duration = Duration::from_secs(60);

/// All that is known of a stack.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) lifetime: Lifetime,
    pub(crate) stores: BTreeMap<Store, Entry>,
}

/// One store of a stack.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) login: Login,
    /// Absent for a store that the environment names by URL: it is not ours to start or end.
    pub(crate) server: Option<Server>,
}

/// A server of our own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Server {
    pub(crate) port: u16,
    /// Qdrant only: where faults are ordered.
    pub(crate) faults_port: Option<u16>,
    /// PostgreSQL only: read at every start.
    pub(crate) max_prepared_transactions: u32,
    pub(crate) home: PathBuf,
    pub(crate) log: PathBuf,
    /// The last process it ran as; it may have ended since.
    pub(crate) process: Option<Process>,
}

impl Server {
    pub(crate) fn is_alive(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_alive)
    }

    /// Where it says what is wrong with it, the most telling last.
    pub(crate) fn logs(&self, store: Store) -> Vec<PathBuf> {
        let mut logs = vec![self.log.clone()];
        if store == Store::Neo4j {
            logs.extend(["debug.log", "neo4j.log"].map(|name| self.home.join("logs").join(name)));
        }
        logs
    }
}

pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("stack.json")
}

/// The record of the stack in `dir`; `None` when there is none.
pub(crate) fn read(dir: &Path) -> Result<Option<Record>> {
    let path = path(dir);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{} is damaged", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Changes the record under its lock. Nothing is written when `change` fails.
pub(crate) fn update<T>(dir: &Path, change: impl FnOnce(&mut Record) -> Result<T>) -> Result<T> {
    let _lock = cache::lock(&dir.join("stack.lock"), LOCK_LIMIT)?;
    let mut record = read(dir)?.unwrap_or_default();
    let answer = change(&mut record)?;
    write(&path(dir), &(serde_json::to_string_pretty(&record).context("writing the stack's record")? + "\n"))?;
    Ok(answer)
}

/// Writes a file whole: a reader sees the old text or the new one.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("writing {}", path.display()))
}
