//! The few small files beside the shards, replaced whole or not at all.
//!
//! ```text
//! DIR/.lock                              held while a process serves DIR
//! DIR/aliases.json                       {"alias": "collection"}
//! DIR/collections/<uuid>/collection.json exists last and goes first: without it the folder is rubbish
//! DIR/collections/<uuid>/shard/          the engine's, with the collection's parameters in edge_config.json
//! ```

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) const COLLECTIONS: &str = "collections";
pub(crate) const ALIASES: &str = "aliases.json";
pub(crate) const MANIFEST: &str = "collection.json";
pub(crate) const SHARD: &str = "shard";
const LOCK: &str = ".lock";

/// What a collection's folder says about itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) name: String,
}

/// Owns the folder until the file is dropped or the process dies.
///
/// # Errors
/// When another process owns it, or it cannot be created.
pub(crate) fn own(dir: &Path) -> Result<File> {
    fs::create_dir_all(dir.join(COLLECTIONS)).with_context(|| format!("creating {}", dir.display()))?;
    let lock = File::create(dir.join(LOCK)).with_context(|| format!("opening the lock of {}", dir.display()))?;
    lock.try_lock().with_context(|| format!("{} is served by another process", dir.display()))?;
    Ok(lock)
}

/// Reads a JSON file; `None` when there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => {
            Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("{} is not valid", path.display()))?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Writes `value` beside `path`, makes it durable and renames it over `path`.
pub(crate) fn replace_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(value)?;
    replace(path, &bytes)
}

/// The same for plain bytes: a reader sees the old file or the new one, never a half.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        sync_folder(path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// Removes a file for good: it does not come back after a power cut.
pub(crate) fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).and_then(|()| sync_folder(path)).with_context(|| format!("removing {}", path.display()))
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
