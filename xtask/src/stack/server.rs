//! What the three servers have in common: prepared, started, awaited, ended; each step under a bound.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::Signal;

use super::process::Process;
use super::record::{Entry, Server};
use super::{DATABASE, Login, PASSWORD, Store, USER, Wanted, neo4j, ports, postgres, qdrant};
use crate::tool;

const POLL: Duration = Duration::from_millis(50);

/// A new server for `store` in the stack's folder: ports chosen, nothing made yet.
pub(super) fn plan(store: Store, dir: &Path, wanted: &Wanted) -> Result<Entry> {
    let port = ports::free()?;
    let home = match store {
        Store::Postgres => postgres::home(dir)?,
        Store::Neo4j => dir.join("neo4j"),
        Store::Qdrant => dir.join("qdrant"),
    };
    let server = Server {
        port,
        faults_port: if store == Store::Qdrant { Some(ports::free()?) } else { None },
        max_prepared_transactions: wanted.max_prepared_transactions,
        home,
        log: dir.join("logs").join(format!("{store}.log")),
        process: None,
    };
    Ok(Entry { login: login(store, &server), server: Some(server) })
}

pub(super) fn login(store: Store, server: &Server) -> Login {
    let port = server.port;
    let (url, user, password) = match store {
        Store::Postgres => (format!("postgres://127.0.0.1:{port}/{DATABASE}"), USER, PASSWORD),
        Store::Neo4j => (format!("bolt://127.0.0.1:{port}"), neo4j::NEO4J_USER, PASSWORD),
        Store::Qdrant => (format!("http://127.0.0.1:{port}"), "", ""),
    };
    let faults = server.faults_port.map(|port| format!("127.0.0.1:{port}"));
    Login { url, user: user.into(), password: password.into(), faults }
}

/// Everything that must be on disk before the first start. Quick when it is.
pub(super) fn prepare(store: Store, home: &Path) -> Result<()> {
    match store {
        Store::Postgres => postgres::prepare(home),
        Store::Neo4j => neo4j::prepare(home),
        Store::Qdrant => qdrant::prepare(home),
    }
}

/// Starts the process; it isn't ready yet.
pub(super) fn start(store: Store, server: &Server, dies_with_us: bool) -> Result<Process> {
    let launch = match store {
        Store::Postgres => postgres::launch(server, dies_with_us),
        Store::Neo4j => neo4j::launch(&server.home, server.port, dies_with_us),
        Store::Qdrant => qdrant::launch(server, dies_with_us),
    };
    launch?.start(&server.log)
}

/// Would it answer a client now?
pub(super) fn is_ready(store: Store, server: &Server) -> bool {
    server.is_alive()
        && match store {
            Store::Postgres => postgres::is_ready(server),
            Store::Neo4j => neo4j::is_ready(server.port),
            Store::Qdrant => qdrant::is_ready(server.port),
        }
}

/// How long a start may take, other builds and stacks on the machine allowed for.
pub(super) fn boot_limit(store: Store) -> Duration {
    Duration::from_secs(if store == Store::Neo4j { 240 } else { 120 })
}

/// Polls `ready` until it says yes. An error, with the end of the log, when the process ends first or the store's time
/// for starting runs out.
pub(super) fn await_ready(store: Store, process: &Process, logs: &[PathBuf], ready: impl Fn() -> bool) -> Result<()> {
    let limit = boot_limit(store);
    let deadline = Instant::now() + limit;
    while !ready() {
        if !process.is_alive() {
            bail!("{store} ended while starting\n{}", tails(logs));
        }
        if Instant::now() >= deadline {
            bail!("{store} did not answer within {limit:?} of its start\n{}", tails(logs));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn tails(logs: &[PathBuf]) -> String {
    logs.iter().map(|log| tool::log_tail(log)).filter(|tail| !tail.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Asks a server to end in good order, and ends it when it takes too long.
pub(super) fn end(store: Store, process: &Process) -> Result<()> {
    // To PostgreSQL SIGTERM means "when the last client has left"; SIGINT sends the clients away.
    let (signal, limit) = match store {
        Store::Postgres => (Signal::INT, Duration::from_secs(30)),
        Store::Neo4j => (Signal::TERM, Duration::from_secs(60)),
        Store::Qdrant => (Signal::TERM, Duration::from_secs(30)),
    };
    if process.signal(signal)? && !process.ends_within(limit) {
        tool::progress(store.name(), format!("did not end within {limit:?} of being asked: SIGKILL"));
        process.kill_tree()?;
    }
    Ok(())
}
