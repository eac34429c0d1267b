//! A stack of real stores: PostgreSQL, Neo4j and Qdrant, each on a free loopback port, all in one folder.
//!
//! ```no_run
//! use xtask::stack::{Stack, Store, Wanted};
//! # fn main() -> anyhow::Result<()> {
//! let stack = Stack::up("/tmp/my-stack", Wanted::all())?;   // returns when all three answer
//! let postgres = stack.login(Store::Postgres)?;
//! stack.kill(Store::Neo4j)?;                                 // SIGKILL: the server and all its children
//! stack.start(Store::Neo4j)?;                                // same port, same data; returns when it answers
//! # Ok(()) }                                                 // dropped: all servers are ended
//! ```
//!
//! Any number of stacks stand side by side. A stack lives in its folder, not in this value: `stack.json` there says
//! where each store listens and which process it is, and every [`Stack::attach`]ed process reads and updates it. Only
//! processes that the record names, checked by boot, pid and start time, are ever signalled.
//!
//! The folder holds `stack.json`, `outrigger.toml` (a configuration for the sidecar), `logs/`, and a folder for each
//! store's data. Everything here is synchronous and bounded; call it from `spawn_blocking` in async tests.

pub mod bolt;
mod external;
mod launch;
mod neo4j;
mod nouns;
mod ports;
mod postgres;
mod process;
mod qdrant;
mod record;
mod server;
mod sidecar;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::record::{Entry, Record, Server};
use crate::install::{self, Need};
use crate::{cache, tool};

pub use self::nouns::{Lifetime, Login, Status, Store, Wanted};
pub use self::process::Process;

/// A loopback port that nobody listens on now.
pub fn free_port() -> Result<u16> {
    ports::free()
}

/// The database that every PostgreSQL of ours has.
const DATABASE: &str = "outrigger";
/// PostgreSQL's superuser, and the password of everything: loopback only, thrown away, no secret.
const USER: &str = "outrigger";
const PASSWORD: &str = "outrigger-dev";
const UP_LIMIT: Duration = Duration::from_secs(90 * 60);
const QUERY_LIMIT: Duration = Duration::from_secs(60);

/// A handle on the stack in one folder. See the module.
#[derive(Debug)]
pub struct Stack {
    dir: PathBuf,
    /// Drop ends the servers.
    owned: bool,
    /// Drop removes the folder too.
    throwaway: bool,
}

impl Stack {
    /// Brings the stack in `dir` up as wanted and returns when every store answers; quick when it already does.
    ///
    /// Data and ports of an earlier stack in the same folder are used again. What is missing on the machine is
    /// installed, or the error holds [`install::Missing`]. When one store fails, those that this call started are ended
    /// and the error tells of every failure, each with the end of its server's log.
    pub fn up(dir: impl AsRef<Path>, wanted: Wanted) -> Result<Stack> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir.join("logs")).with_context(|| format!("making {}", dir.display()))?;
        let dir = fs::canonicalize(dir).with_context(|| format!("finding {}", dir.display()))?;
        let _one_at_a_time = cache::lock(&dir.join("up.lock"), UP_LIMIT)?;
        let ours = record::update(&dir, |record| enlist(record, &dir, &wanted))?;
        install::ensure(&needs(&ours))?;
        let stack = Stack { dir, owned: wanted.lifetime == Lifetime::Process, throwaway: false };
        let began: Vec<Store> = ours.iter().copied().filter(|store| !stack.is_alive(*store)).collect();
        if let Err(error) = stack.start_all(&ours) {
            for store in began {
                let _ = stack.kill(store);
            }
            return Err(error);
        }
        sidecar::write(&stack.dir, &stack.record()?)?;
        Ok(stack)
    }

    /// The stack that stands in `dir`. Dropping the answer ends nothing.
    pub fn attach(dir: impl AsRef<Path>) -> Result<Stack> {
        let dir = dir.as_ref();
        let dir = fs::canonicalize(dir).with_context(|| format!("there is no folder {}", dir.display()))?;
        let stack = Stack { dir, owned: false, throwaway: false };
        stack.record()?;
        Ok(stack)
    }

    /// For integration tests: the stack that `OUTRIGGER_STACK` names, else a fresh one of their own, which is removed
    /// with its data when dropped, or by the next call after a test process was killed.
    pub fn for_tests(name: &str, wanted: Wanted) -> Result<Stack> {
        if let Some(dir) = env::var_os("OUTRIGGER_STACK").filter(|dir| !dir.is_empty()) {
            return Stack::attach(PathBuf::from(dir));
        }
        Stack::fresh(name, wanted)
    }

    /// A fresh stack of this test's own, whatever the environment names: for tests that kill stores, or that need
    /// other settings. Removed with its data when dropped.
    pub fn fresh(name: &str, wanted: Wanted) -> Result<Stack> {
        let all = tool::workspace().join(".stack/tests");
        sweep(&all);
        let me = std::process::id();
        let unused = (0..)
            .map(|n| all.join(format!("{name}-{n}-{me}")))
            .find(|dir| fs::create_dir_all(&all).is_ok() && fs::create_dir(dir).is_ok());
        let dir = unused.context("some number is free")?;
        let mut stack = Stack::up(dir, Wanted { lifetime: Lifetime::Process, ..wanted })?;
        stack.throwaway = true;
        Ok(stack)
    }

    /// The folder it stands in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a store of ours keeps its data: in the stack's folder, except for a PostgreSQL whose user can't get there.
    pub fn home(&self, store: Store) -> Result<PathBuf> {
        self.server(store).map(|server| server.home)
    }

    /// The configuration for a sidecar over these stores.
    pub fn sidecar_config(&self) -> PathBuf {
        sidecar::path(&self.dir)
    }

    /// How to reach a store; an error when the stack hasn't got it.
    pub fn login(&self, store: Store) -> Result<Login> {
        self.entry(store).map(|entry| entry.login)
    }

    /// Which stores it has.
    pub fn stores(&self) -> Result<Vec<Store>> {
        Ok(self.record()?.stores.into_keys().collect())
    }

    /// How every store is doing now.
    pub fn status(&self) -> Result<Vec<Status>> {
        let describe = |(store, entry): (Store, Entry)| {
            let state = match &entry.server {
                None => "external",
                Some(server) if server::is_ready(store, server) => "ready",
                Some(server) if server.is_alive() => "starting",
                Some(_) => "down",
            };
            let process = entry.server.filter(Server::is_alive).and_then(|server| server.process);
            Status { store, login: entry.login, state, pid: process.map(|process| process.pid) }
        };
        Ok(self.record()?.stores.into_iter().map(describe).collect())
    }

    /// Is its process there (ready or not)? False for a store that isn't ours.
    pub fn is_alive(&self, store: Store) -> bool {
        self.server(store).is_ok_and(|server| server.is_alive())
    }

    /// SIGKILL to the whole store: for PostgreSQL the postmaster and every backend. Returns when all are gone; quiet
    /// when they already were. An error for a store that isn't ours.
    pub fn kill(&self, store: Store) -> Result<()> {
        let process = self.server(store)?.process;
        let killed = process.map_or(Ok(()), |process| process.kill_tree());
        launch::reap();
        killed
    }

    /// Ends a store in good order (clients are sent away), with SIGKILL where it takes too long.
    pub fn stop(&self, store: Store) -> Result<()> {
        let process = self.server(store)?.process;
        let stopped = process.map_or(Ok(()), |process| server::end(store, &process));
        launch::reap();
        stopped
    }

    /// Starts a store again on its port and its data and returns when it answers. Quick when it runs.
    pub fn start(&self, store: Store) -> Result<()> {
        self.launch(store)?;
        self.wait_ready(store)
    }

    /// Starts a store again without waiting for it.
    pub fn launch(&self, store: Store) -> Result<()> {
        self.prepare(store)?;
        record::update(&self.dir, |record| {
            // A server that a guest restarts belongs to the stack, not to the guest: it outlives it.
            let dies_with_us = self.owned && record.lifetime == Lifetime::Process;
            let server = ours(&self.dir, record, store)?;
            if !server.is_alive() {
                server.process = Some(server::start(store, server, dies_with_us)?);
            }
            Ok(())
        })
    }

    /// Waits until a running store answers. An error, with the end of its log, when it has ended or takes too long.
    pub fn wait_ready(&self, store: Store) -> Result<()> {
        let server = self.server(store)?;
        let process = server.process.clone().with_context(|| format!("{store} was never started"))?;
        server::await_ready(store, &process, &server.logs(store), || server::is_ready(store, &server))
    }

    /// PostgreSQL's `max_prepared_transactions`, from its next start on. (PostgreSQL refuses to start with less than it
    /// holds prepared.)
    pub fn set_max_prepared_transactions(&self, number: u32) -> Result<()> {
        record::update(&self.dir, |record| {
            ours(&self.dir, record, Store::Postgres)?.max_prepared_transactions = number;
            Ok(())
        })
    }

    /// Runs an SQL script through `psql`; answers rows as text, columns parted by `|`. Bounded to a minute.
    pub fn sql(&self, script: &str) -> Result<String> {
        postgres::query(&self.login(Store::Postgres)?, script, QUERY_LIMIT)
    }

    /// A plain connection to Neo4j. Bounded to a minute, as is every answer on it.
    pub fn bolt(&self) -> Result<bolt::Bolt> {
        let login = self.login(Store::Neo4j)?;
        let address = login.url.split_once("://").map_or(&*login.url, |(_, rest)| rest.trim_end_matches('/'));
        bolt::Bolt::connect(address, &login.user, &login.password, QUERY_LIMIT)
    }

    /// Ends all servers of ours in good order, side by side. Their data stays.
    pub fn down(&self) -> Result<()> {
        self.each_of_ours(|store| self.stop(store))
    }

    /// Ends all servers of ours at once and removes the folder with all data.
    pub fn purge(mut self) -> Result<()> {
        (self.owned, self.throwaway) = (false, false);
        self.remove()
    }

    fn remove(&self) -> Result<()> {
        self.each_of_ours(|store| self.kill(store))?;
        for server in self.record()?.stores.into_values().filter_map(|entry| entry.server) {
            cache::remove(&server.home)?;
        }
        cache::remove(&self.dir)
    }

    /// Side by side: their boots overlap, and so do the things to be made first.
    fn start_all(&self, stores: &[Store]) -> Result<()> {
        self.side_by_side(stores, |store| {
            if self.is_alive(store) {
                return self.wait_ready(store);
            }
            self.prepare(store)?;
            let began = Instant::now();
            self.start(store)?;
            tool::progress(store.name(), format!("ready in {:.1} s", began.elapsed().as_secs_f32()));
            Ok(())
        })
    }

    /// Makes what a start needs. Outside the record's lock: a build or a download may take minutes.
    fn prepare(&self, store: Store) -> Result<()> {
        server::prepare(store, &self.server(store)?.home)
    }

    fn each_of_ours(&self, act: impl Fn(Store) -> Result<()> + Sync) -> Result<()> {
        let stores = self.record()?.stores;
        let ours: Vec<Store> =
            stores.into_iter().filter(|(_, entry)| entry.server.is_some()).map(|(store, _)| store).collect();
        self.side_by_side(&ours, act)
    }

    fn side_by_side(&self, stores: &[Store], act: impl Fn(Store) -> Result<()> + Sync) -> Result<()> {
        let failed: Vec<String> = thread::scope(|scope| {
            let running: Vec<_> = stores.iter().map(|store| scope.spawn(|| act(*store))).collect();
            let results =
                running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a helper thread panicked")));
            results.filter_map(Result::err).map(|error| format!("{error:#}")).collect()
        });
        if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
    }

    fn record(&self) -> Result<Record> {
        record::read(&self.dir)?.with_context(|| format!("there is no stack in {}", self.dir.display()))
    }

    fn entry(&self, store: Store) -> Result<Entry> {
        let entry = self.record()?.stores.remove(&store);
        entry.with_context(|| format!("the stack in {} has no {store}", self.dir.display()))
    }

    fn server(&self, store: Store) -> Result<Server> {
        let mut record = self.record()?;
        ours(&self.dir, &mut record, store).cloned()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // Nobody can be told of an error here. What is left is ended by the kernel when this process ends, and swept
        // away by the next test.
        if self.throwaway {
            let _ = self.remove();
        } else if self.owned {
            let _ = self.each_of_ours(|store| self.kill(store));
        }
    }
}

/// Brings the record to what is wanted; answers the stores that are ours to start.
fn enlist(record: &mut Record, dir: &Path, wanted: &Wanted) -> Result<Vec<Store>> {
    record.lifetime = wanted.lifetime;
    let mut ours = Vec::new();
    for store in wanted.stores.iter().copied() {
        if let Some(login) = external::login(store) {
            record.stores.insert(store, Entry { login, server: None });
            continue;
        }
        ours.push(store);
        let known = record.stores.get_mut(&store).and_then(|entry| entry.server.as_mut());
        let Some(server) = known else {
            record.stores.insert(store, server::plan(store, dir, wanted)?);
            continue;
        };
        if server.is_alive() {
            continue;
        }
        server.max_prepared_transactions = wanted.max_prepared_transactions;
        for port in [Some(&mut server.port), server.faults_port.as_mut()].into_iter().flatten() {
            if !ports::is_free(*port) {
                *port = ports::free()?;
            }
        }
        let login = server::login(store, server);
        if let Some(entry) = record.stores.get_mut(&store) {
            entry.login = login;
        }
    }
    Ok(ours)
}

fn needs(ours: &[Store]) -> Vec<Need> {
    let mut needs = Vec::new();
    if ours.contains(&Store::Postgres) {
        needs.push(Need::Postgres);
    }
    if ours.contains(&Store::Neo4j) {
        needs.push(Need::Java);
        if !neo4j::is_fetched() {
            needs.push(Need::Maven);
        }
    }
    needs
}

fn ours<'a>(dir: &Path, record: &'a mut Record, store: Store) -> Result<&'a mut Server> {
    match record.stores.get_mut(&store) {
        None => bail!("the stack in {} has no {store}", dir.display()),
        Some(Entry { login, server: None }) => bail!(
            "{store} at {} is not ours: it was named by the environment, and is neither started nor ended here",
            login.url
        ),
        Some(Entry { server: Some(server), .. }) => Ok(server),
    }
}

/// Removes test stacks whose process is gone. The pid stands at the end of the folder's name.
fn sweep(all: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let owner = entry.file_name().to_str().and_then(|name| name.rsplit('-').next()?.parse::<i32>().ok());
        if owner.is_some_and(|pid| !process::exists(pid)) {
            let removed = Stack::attach(entry.path()).and_then(Stack::purge);
            if removed.is_err() && !record::path(&entry.path()).is_file() {
                let _ = cache::remove(&entry.path());
            }
        }
    }
}
