//! What every stack on this machine shares: Neo4j's jars, initialised clusters to copy, archives of loaded classes.
//!
//! Several test processes may want the same thing at once. Each thing is made in a folder beside its place, under a
//! file lock, and renamed when complete: whoever sees it under its name sees all of it.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::tool;

/// Longer than the longest thing made under a lock (a download of 123 MB over a slow line).
const LOCK_LIMIT: Duration = Duration::from_secs(20 * 60);
const COPY_LIMIT: Duration = Duration::from_secs(120);

/// `$OUTRIGGER_CACHE`, else `~/.cache/outrigger`.
pub fn root() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("OUTRIGGER_CACHE").filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(dir));
    }
    let home = env::var_os("HOME").filter(|home| !home.is_empty());
    let home = home.context("neither OUTRIGGER_CACHE nor HOME is set: where may downloads be kept?")?;
    Ok(Path::new(&home).join(".cache/outrigger"))
}

/// The folder `name` of the cache, made by `make` if it isn't there yet.
///
/// `make` gets an empty folder to fill. When it fails, what it left is removed and nothing appears under `name`.
pub fn folder(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let place = root()?.join(name);
    if place.is_dir() {
        return Ok(place);
    }
    let parent = place.parent().context("a cache entry has a parent folder")?;
    fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    let _lock = lock(&place.with_extension("lock"), LOCK_LIMIT)?;
    if place.is_dir() {
        return Ok(place);
    }
    // The lock is ours, so whatever stands here was left by somebody who died while making it.
    let draft = place.with_extension("draft");
    remove(&draft)?;
    fs::create_dir(&draft).with_context(|| format!("making {}", draft.display()))?;
    if let Err(error) = make(&draft) {
        let _ = remove(&draft);
        return Err(error);
    }
    fs::rename(&draft, &place).with_context(|| format!("moving {} to its place", draft.display()))?;
    Ok(place)
}

/// Takes an exclusive lock on the file `path`, made if need be; it is released when the answer is dropped.
///
/// An error after `limit`: whoever holds it is stuck, and says so better than we could.
pub fn lock(path: &Path, limit: Duration) -> Result<File> {
    let file = File::create(path).with_context(|| format!("opening {}", path.display()))?;
    let deadline = Instant::now() + limit;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            Err(fs::TryLockError::WouldBlock) => bail!("{} was held by another process for {limit:?}", path.display()),
            Err(fs::TryLockError::Error(error)) => return Err(error).context("locking"),
        }
    }
}

/// Copies the folder `from` to `to` (which must not exist), with owners and modes.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    tool::output("copy", Command::new("cp").args(["-a", "--reflink=auto", "--"]).arg(from).arg(to), "", COPY_LIMIT)
        .map(drop)
}

/// Removes a folder and all in it; fine when it isn't there.
pub fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}
