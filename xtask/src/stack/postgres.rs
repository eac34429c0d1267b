//! PostgreSQL: Debian's server programs over a private cluster, never the system's own.
//!
//! It refuses to run as root; as root, the cluster belongs to `postgres` (or `nobody`) and stands in the stack's folder
//! if that user can get there, else in a folder of its own under `/var/tmp`.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::launch::{Launch, User};
use super::record::Server;
use super::{DATABASE, PASSWORD, USER};
use crate::{cache, install, tool};

const INITDB_LIMIT: Duration = Duration::from_secs(180);
/// Raised whenever the template is made differently.
const TEMPLATE: u32 = 1;
/// A Unix socket's path holds at most 107 bytes, of which PostgreSQL's own name takes 15.
const SOCKET_DIR_MAX: usize = 90;

/// Where the cluster of the stack in `dir` goes.
pub(super) fn home(dir: &Path) -> Result<PathBuf> {
    let Some(user) = User::instead_of_root()? else { return Ok(dir.join("postgres")) };
    let mut probe = Command::new("test");
    probe.arg("-x").arg(dir).current_dir("/");
    user.dress(&mut probe);
    if probe.status().is_ok_and(|status| status.success()) {
        return Ok(dir.join("postgres"));
    }
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    Ok(PathBuf::from(format!("/var/tmp/outrigger-postgres-{:016x}", hasher.finish())))
}

/// Makes the cluster if it isn't there: a copy of the template, which is made once a machine.
pub(super) fn prepare(home: &Path) -> Result<()> {
    let data = home.join("data");
    if data.join("PG_VERSION").is_file() {
        return Ok(());
    }
    let user = User::instead_of_root()?;
    cache::remove(home)?;
    make_folder(home, user)?;
    let bin = bin()?;
    let version =
        tool::output("postgres --version", Command::new(bin.join("postgres")).arg("--version"), "", INITDB_LIMIT)?;
    let version = version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    // The owner is part of the name: a template made by root can't be copied with its owner by anybody else.
    let owner = user.map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid);
    let name = format!("postgres-{}-template{TEMPLATE}-uid{owner}", version.unwrap_or("unknown"));
    let template = cache::folder(&name, |draft| {
        tool::progress("postgres", "initialising a cluster (once for this version)");
        let data = home.join("template");
        initdb(&bin, home, &data, user)?;
        cache::copy(&data, &draft.join("data"))?;
        cache::remove(&data)
    })?;
    // Copied beside its place and renamed, so that a cluster that is there is a whole one.
    cache::copy(&template.join("data"), &home.join("draft"))?;
    fs::rename(home.join("draft"), &data).context("putting the cluster in its place")
}

/// Runs as the server's user and in a folder that it can reach, which the shared cache may not be.
fn initdb(bin: &Path, home: &Path, data: &Path, user: Option<User>) -> Result<()> {
    let secret = home.join("password");
    fs::write(&secret, PASSWORD).with_context(|| format!("writing {}", secret.display()))?;
    give(&secret, user, 0o600)?;
    let as_user = |program: &str| {
        let mut command = Command::new(bin.join(program));
        command.current_dir(home).env("LC_ALL", "C");
        if let Some(user) = user {
            user.dress(&mut command);
        }
        command
    };
    let mut command = as_user("initdb");
    command.args(["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--username", USER]);
    command.arg("--pwfile").arg(&secret).arg("--pgdata").arg(data);
    tool::output("initdb", &mut command, "", INITDB_LIMIT)?;
    fs::remove_file(&secret).context("removing the password file")?;
    let mut single = as_user("postgres");
    single.args(["--single", "-D"]).arg(data).arg("postgres");
    tool::output("creating the database", &mut single, &format!("CREATE DATABASE {DATABASE}\n"), INITDB_LIMIT).map(drop)
}

/// Writes the configuration as `server` says and tells how to start it.
pub(super) fn launch(server: &Server, dies_with_us: bool) -> Result<Launch> {
    let home = &server.home;
    let data = home.join("data");
    let user = User::instead_of_root()?;
    let conf = data.join("postgresql.conf");
    fs::write(&conf, configuration(server)).with_context(|| format!("writing {}", conf.display()))?;
    give(&conf, user, 0o600)?;
    // Left behind by a SIGKILL, lock files name a pid that may by now belong to anybody, or to a zombie that its parent
    // has yet to look at: PostgreSQL takes either for a running server. The caller knows that ours is gone.
    let _ = fs::remove_file(data.join("postmaster.pid"));
    cache::remove(&home.join("socket"))?;
    make_folder(&home.join("socket"), user)?;
    Ok(Launch {
        program: bin()?.join("postgres"),
        args: vec!["-D".into(), data.into()],
        env: vec![("LC_ALL", "C".into())],
        cwd: home.clone(),
        user,
        // To PostgreSQL, SIGQUIT is "down at once, recover from the log at the next start"; SIGKILL would leave its
        // backends to find out for themselves.
        dies_with_us: dies_with_us.then_some("QUIT"),
    })
}

fn configuration(server: &Server) -> String {
    // `syncfs` (PostgreSQL 14 and later): after a SIGKILL recovery makes sure of the whole data folder first, and one
    // call does it where a thousand fsyncs take seconds on a busy disk (6.3 s against 0.8 s measured).
    let socket = server.home.join("socket");
    let socket = if socket.as_os_str().len() <= SOCKET_DIR_MAX { socket.display().to_string() } else { String::new() };
    format!(
        "# Written by `cargo xtask stack` at every start.\n\
         listen_addresses = '127.0.0.1'\n\
         port = {}\n\
         unix_socket_directories = '{}'\n\
         max_connections = 200\n\
         max_prepared_transactions = {}\n\
         fsync = on\n\
         recovery_init_sync_method = syncfs\n\
         synchronous_commit = on\n\
         password_encryption = 'scram-sha-256'\n\
         shared_buffers = 64MB\n\
         max_wal_size = 256MB\n\
         timezone = 'UTC'\n\
         log_timezone = 'UTC'\n\
         log_line_prefix = '%m [%p] %a '\n",
        server.port,
        socket.replace('\'', "''"),
        server.max_prepared_transactions,
    )
}

/// Does it take connections? (Not while it still recovers from its log.) It says so itself in its pid file, as `pg_ctl`
/// reads it; every connection made too early would leave a line in the log that somebody must read past.
pub(super) fn is_ready(server: &Server) -> bool {
    let told = fs::read_to_string(server.home.join("data/postmaster.pid")).unwrap_or_default();
    let mut lines = told.lines().map(str::trim);
    let pid = lines.next().and_then(|pid| pid.parse().ok());
    pid == server.process.as_ref().map(|process| process.pid) && lines.nth(6) == Some("ready")
}

/// Runs one SQL script through `psql` and answers its rows, unaligned and without headings. An error of any statement
/// is an error, and ends the script.
pub(super) fn query(login: &super::Login, sql: &str, limit: Duration) -> Result<String> {
    let psql = Some(bin()?.join("psql")).filter(|psql| psql.is_file()).or_else(|| tool::which("psql"));
    let mut command = Command::new(psql.context("psql is not installed")?);
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &login.url, "-U", &login.user]);
    command.env("PGPASSWORD", &login.password).env("PGCONNECT_TIMEOUT", "10");
    tool::output("psql", &mut command, sql, limit).map(|out| out.trim_end().to_owned())
}

fn bin() -> Result<PathBuf> {
    install::postgres_bin().context("PostgreSQL's server programs are not installed")
}

fn make_folder(path: &Path, user: Option<User>) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    give(path, user, 0o700)
}

fn give(path: &Path, user: Option<User>, mode: u32) -> Result<()> {
    let owned = user.map_or(Ok(()), |user| chown(path, Some(user.uid), Some(user.gid)));
    let set = owned.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)));
    set.with_context(|| format!("giving {} to the server's user", path.display()))
}
