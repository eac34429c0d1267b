//! A ready `outrigger.toml` beside the stack, so that `outrigger serve --config .stack/outrigger.toml` just works.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::record::{self, Record};
use super::{Login, Store, ports};

const DOOR: u16 = 7117;
const PORCH: u16 = 7118;

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("outrigger.toml")
}

/// Writes the sidecar's configuration for these stores, passwords in files of their own (mode 0600).
///
/// The door and the porch get their usual ports, or free ones when somebody (another stack's sidecar) has those.
pub(super) fn write(dir: &Path, record: &Record) -> Result<()> {
    let usual = ports::is_free(DOOR) && ports::is_free(PORCH);
    let (door, porch) = if usual { (DOOR, PORCH) } else { (ports::free()?, ports::free()?) };
    let mut text = String::from("# Written by `cargo xtask stack up` for the stores in this folder.\n");
    let journal = quoted(&dir.join("journal").display().to_string());
    let mut line = |args: std::fmt::Arguments<'_>| text.write_fmt(args).context("writing into a string");
    line(format_args!(
        "[server]\nlisten = \"127.0.0.1:{door}\"\nadmin_listen = \"127.0.0.1:{porch}\"\nauto_init = true\n"
    ))?;
    // A stack may stand anywhere, also in a container's own layer: what it holds need not survive a power cut.
    line(format_args!("\n[journal]\ndir = {journal}\nforce_filesystem = true\n"))?;
    for (store, entry) in &record.stores {
        let name = match store {
            Store::Postgres => "pg",
            Store::Neo4j => "graph",
            Store::Qdrant => "vectors",
        };
        line(format_args!("\n[stores.{name}]\nkind = \"{store}\"\nurl = {}\n", quoted(&entry.login.url)))?;
        if *store == Store::Neo4j {
            line(format_args!("database = \"neo4j\"\n"))?;
        }
        if !entry.login.user.is_empty() {
            line(format_args!("user = {}\n", quoted(&entry.login.user)))?;
        }
        if let Some(file) = secret(dir, *store, &entry.login)? {
            line(format_args!("password_file = {}\n", quoted(&file.display().to_string())))?;
        }
    }
    record::write(&path(dir), &text)
}

fn secret(dir: &Path, store: Store, login: &Login) -> Result<Option<PathBuf>> {
    if login.password.is_empty() {
        return Ok(None);
    }
    let secrets = dir.join("secrets");
    fs::create_dir_all(&secrets).context("making the folder of passwords")?;
    let file = secrets.join(store.name());
    fs::write(&file, &login.password).with_context(|| format!("writing {}", file.display()))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).context("hiding a password file")?;
    Ok(Some(file))
}

/// A TOML basic string. JSON's escapes are a subset of TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
