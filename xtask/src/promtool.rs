//! Prometheus' own checker of alert rules.
//!
//! Debian ships it inside the package `prometheus`, which on install makes a user and starts a server that nobody asked
//! for. So nothing is installed: the package is fetched and the one program taken out of it, into the cache. That
//! needs no root either.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::install::Missing;
use crate::{cache, tool};

const PACKAGE: &str = "prometheus";
const FETCH_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Where `promtool` is: on `PATH`, else in the cache, fetched by apt at the first time.
///
/// # Errors
/// [`Missing`] where there is no apt, or where only root can bring its lists up to date; else what apt said.
pub fn program() -> Result<PathBuf> {
    if let Some(path) = tool::which("promtool") {
        return Ok(path);
    }
    Ok(cache::folder("promtool", fetch)?.join("promtool"))
}

fn fetch(draft: &Path) -> Result<()> {
    let (Some(apt), Some(dpkg)) = (tool::which("apt-get"), tool::which("dpkg-deb")) else {
        let command = format!("apt-get install --no-install-recommends {PACKAGE}   # or your system's way to promtool");
        return Err(Missing { command }.into());
    };
    tool::progress("promtool", "taken out of Debian's package prometheus");
    let download = || {
        let mut command = Command::new(&apt);
        command.current_dir(draft).args(["-q", "download", PACKAGE]);
        tool::output("apt-get download", &mut command, "", FETCH_LIMIT)
    };
    if download().is_err() {
        // On a fresh machine apt has no lists yet.
        if !tool::is_root() {
            return Err(Missing { command: "sudo apt-get update".into() }.into());
        }
        tool::output("apt-get update", Command::new(&apt).args(["-q", "update"]), "", FETCH_LIMIT)?;
        download()?;
    }
    let files: Vec<PathBuf> = fs::read_dir(draft)?.flatten().map(|entry| entry.path()).collect();
    let package = files.iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let package = package.context("apt-get download left no package")?;
    let unpacked = draft.join("unpacked");
    tool::output("dpkg-deb", Command::new(dpkg).arg("-x").arg(package).arg(&unpacked), "", FETCH_LIMIT)?;
    let program = draft.join("promtool");
    fs::rename(unpacked.join("usr/bin/promtool"), &program).context("the package holds no promtool")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).context("making promtool runnable")?;
    fs::remove_file(package).context("removing the package")?;
    cache::remove(&unpacked)
}
