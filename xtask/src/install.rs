//! What the stack and the demo need from the system: looked for, and installed by apt when run as root.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{cache, tool};

const APT_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Where Debian's `wordnet-base` puts the dictionary.
pub const WORDNET: &str = "/usr/share/wordnet";
const CLUSTER_CONF: &str = "/etc/postgresql-common/createcluster.conf";

/// A program that a step can't do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// `initdb`, `postgres` and their kin.
    Postgres,
    /// A Java runtime of 17 or later.
    Java,
    /// Maven, to fetch Neo4j.
    Maven,
    /// WordNet's dictionary: the demo's corpus.
    WordNet,
    /// Python 3 with its standard library: a client in another language.
    Python,
}

impl Need {
    fn package(self) -> &'static str {
        match self {
            Need::Postgres => "postgresql",
            Need::Java => "default-jre-headless",
            Need::Maven => "maven",
            Need::WordNet => "wordnet-base",
            Need::Python => "python3",
        }
    }

    fn is_met(self) -> bool {
        match self {
            Need::Postgres => postgres_bin().is_some(),
            Need::Java => tool::which("java").is_some(),
            Need::Maven => tool::which("mvn").is_some(),
            Need::Python => tool::which("python3").is_some(),
            Need::WordNet => Path::new(WORDNET).join("data.noun").is_file(),
        }
    }
}

/// Something is not installed and we may not, or can't, install it. `cargo xtask` ends with exit code 3.
#[derive(Debug)]
pub struct Missing {
    /// The command that a user can run to get it.
    pub command: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "something is not installed that is needed here; run\n    {}", self.command)
    }
}

impl std::error::Error for Missing {}

/// Sees to it that all `needs` are met. Quiet and quick when they are.
///
/// As root the Debian packages are installed; else, or where there is no apt, the error is [`Missing`].
pub fn ensure(needs: &[Need]) -> Result<()> {
    let packages = missing(needs);
    if packages.is_empty() {
        return Ok(());
    }
    let command = format!("sudo apt-get update && sudo apt-get install -y {}", packages.join(" "));
    let apt = tool::which("apt-get").filter(|_| tool::is_root()).ok_or(Missing { command })?;

    let root = cache::root()?;
    fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
    let _lock = cache::lock(&root.join("install.lock"), APT_LIMIT)?;
    let packages = missing(needs);
    if packages.is_empty() {
        return Ok(());
    }
    tool::progress("install", format!("apt-get install {}", packages.join(" ")));
    if packages.contains(&Need::Postgres.package()) {
        keep_debian_from_starting_a_cluster()?;
    }
    let quiet = || {
        let mut command = Command::new(&apt);
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-y", "-o", "DPkg::Lock::Timeout=300"]);
        // Our createcluster.conf is there before its package: dpkg would stop and ask which one to keep.
        command.args(["-o", "Dpkg::Options::=--force-confold"]);
        command
    };
    tool::output("apt-get update", quiet().arg("update"), "", APT_LIMIT)?;
    let install = ["install", "--no-install-recommends"];
    tool::output("apt-get install", quiet().args(install).args(&packages), "", APT_LIMIT)?;
    let left = missing(needs);
    anyhow::ensure!(left.is_empty(), "apt-get said it installed {}, yet they can't be found", left.join(" "));
    Ok(())
}

fn missing(needs: &[Need]) -> Vec<&'static str> {
    needs.iter().filter(|need| !need.is_met()).map(|need| need.package()).collect()
}

/// Debian's package makes and starts a cluster of its own on install: a server that nobody asked for.
fn keep_debian_from_starting_a_cluster() -> Result<()> {
    let path = Path::new(CLUSTER_CONF);
    let mut text = fs::read_to_string(path).unwrap_or_default();
    if text.lines().any(|line| line.trim_start().starts_with("create_main_cluster")) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    text.push_str("create_main_cluster = false\n");
    fs::write(path, text).with_context(|| format!("writing {CLUSTER_CONF}"))
}

/// Where PostgreSQL's server programs are: Debian keeps them off `PATH`, one folder a version; the newest is taken.
pub fn postgres_bin() -> Option<PathBuf> {
    let complete = |dir: &PathBuf| dir.join("initdb").is_file() && dir.join("postgres").is_file();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| complete(bin))
        .max();
    if let Some((_, bin)) = newest {
        return Some(bin);
    }
    let told =
        tool::output("pg_config", Command::new("pg_config").arg("--bindir"), "", Duration::from_secs(10)).ok()?;
    Some(PathBuf::from(told.trim())).filter(complete)
}
