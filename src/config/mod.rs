//! What the operator wants: one TOML file, overridable key by key from the environment.
//!
//! The danger here is a typing error that nobody notices: `wait_timout_ms = 100` is a wish that silently is not
//! granted. So every key is read by name through `reader`, and a key that nobody asked for is a fault. All faults of
//! a configuration are reported together, each naming its key.
//!
//! ```text
//!   file (--config | OUTRIGGER_CONFIG | ./outrigger.toml)
//!     └─ overlaid by OUTRIGGER__SECTION__KEY  ──► tree ──► reader ──► Config   (secrets read from their files)
//! ```

mod principals;
mod reader;
mod secret;
mod sections;
mod tree;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrigger_wal::{Backend, Keys};

pub use principals::{ANONYMOUS, Principal, PrincipalRole, Principals};
pub use secret::Secret;

use crate::model::ids::StoreName;

/// Where the configuration is looked for when nobody says where.
pub const DEFAULT_PATH: &str = "outrigger.toml";
/// The environment variable that names the file.
pub const PATH_VARIABLE: &str = "OUTRIGGER_CONFIG";

/// Everything that can be configured, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[journal]`
    pub journal: Journal,
    /// `[locks]`
    pub locks: Locks,
    /// `[audit]`
    pub audit: Audit,
    /// `[stores.NAME]`, by name. At least one.
    pub stores: BTreeMap<StoreName, Store>,
}

/// An address to listen on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listen {
    /// `127.0.0.1:7117`
    Tcp(SocketAddr),
    /// `unix:/run/outrigger/door.sock`
    Unix(PathBuf),
}

/// `[server]`
#[derive(Clone, Debug)]
pub struct Server {
    /// The door, for applications.
    pub listen: Listen,
    /// The porch, for probes and Prometheus.
    pub admin_listen: Listen,
    /// Who may come in; `None`: whoever reaches the door.
    pub principals: Option<Principals>,
    /// The largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Requests at work at the same time; a few more queue, the rest is turned away as `overloaded`.
    pub max_in_flight: usize,
    /// Transactions that may be open at the same time.
    pub max_open: usize,
    /// How long a stop waits for what is open.
    pub drain: Duration,
    /// Whether `serve` creates the markers' tables and constraints where they are missing.
    pub auto_init: bool,
}

/// `[journal]`
#[derive(Clone, Debug)]
pub struct Journal {
    /// Where the log lives. One sidecar owns it.
    pub dir: PathBuf,
    /// Size of one segment, in bytes.
    pub segment_bytes: u64,
    /// How long a flush waits for company; zero: not at all.
    pub flush_interval: Duration,
    /// How many bytes of finished segments are kept to look at.
    pub retain_bytes: u64,
    /// Whether released segments are used again; what they held stays in the file until it is written over.
    pub recycle: bool,
    /// How its bytes go to the disk.
    pub backend: Backend,
    /// The keys that its payloads are read with; the first one is written with.
    pub keys: Option<Keys>,
    /// Whether new segments are encrypted, where there are keys.
    pub encrypt: bool,
    /// Payloads of at least so many bytes are compressed; `None`: none is.
    pub compress_above: Option<usize>,
    /// Whether the log may lie on a file system that keeps no promise (tmpfs, overlayfs, NFS).
    pub force_filesystem: bool,
    /// Whether the absolute redo writes also ride in the deciding marker, so that a lost log can be made good.
    pub redo_copy: bool,
    /// How long ended transactions are kept in memory to be asked for.
    pub retain_ended: Duration,
    /// Least age of a marker without a key before it is swept: longer than a fail-over takes.
    pub marker_grace: Duration,
    /// How long an idempotency key is remembered.
    pub key_ttl: Duration,
}

/// `[locks]`
#[derive(Clone, Debug)]
pub struct Locks {
    /// How long a transaction waits before somebody asks the stores who blocks whom.
    pub deadlock_timeout: Duration,
    /// The longest wait for one lock, in our table or in a store.
    pub wait_timeout: Duration,
    /// Locks in the table at the same time.
    pub max_keys: usize,
    /// Of these, how many one transaction may have.
    pub max_keys_per_transaction: usize,
}

/// `[audit]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Audit {
    /// The audit log is begun anew before it is longer than this, in bytes.
    pub file_bytes: u64,
    /// How many full ones are kept.
    pub keep: usize,
    /// The PostgreSQL store that gets a copy, in `outrigger.audit`.
    pub store: Option<StoreName>,
}

/// `[stores.NAME]`
#[derive(Clone, Debug)]
pub struct Store {
    /// Its name.
    pub name: StoreName,
    /// Whether marker tables and constraints are created here where they are missing (`server.auto_init` by default).
    pub init: bool,
    /// What it is and how to reach it.
    pub settings: StoreSettings,
}

/// How to reach a store of each kind.
#[derive(Clone, Debug)]
pub enum StoreSettings {
    /// `kind = "postgres"`
    Postgres(Postgres),
    /// `kind = "neo4j"`
    Neo4j(Neo4j),
    /// `kind = "qdrant"`
    Qdrant(Qdrant),
}

impl StoreSettings {
    /// The word in the configuration.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Neo4j(_) => "neo4j",
            Self::Qdrant(_) => "qdrant",
        }
    }

    /// Where it is, without any secret.
    #[must_use]
    pub fn url(&self) -> &str {
        match self {
            Self::Postgres(s) => &s.url,
            Self::Neo4j(s) => &s.url,
            Self::Qdrant(s) => &s.url,
        }
    }
}

/// A PostgreSQL database.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// `postgres://host:port/database`, never with a user or password in it.
    pub url: String,
    /// Who we are there.
    pub user: String,
    /// Our password, where one is needed.
    pub password: Option<Secret>,
    /// Whether to insist on TLS.
    pub tls: bool,
    /// The certificates to trust, as PEM (`ca_file`); the machine's own where there are none.
    pub ca_pem: Option<Vec<u8>>,
    /// Connections at most.
    pub pool_max: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

/// A Neo4j database.
#[derive(Clone, Debug)]
pub struct Neo4j {
    /// `bolt://host:port` or `neo4j://…`, never with a user or password in it.
    pub url: String,
    /// The database.
    pub database: String,
    /// Who we are there.
    pub user: String,
    /// Our password, where one is needed.
    pub password: Option<Secret>,
    /// Whether to insist on TLS.
    pub tls: bool,
    /// Connections at most.
    pub pool_max: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an unlogged one-phase commit of a dead incarnation may still be on its way (protocol.md, section 5).
    pub session_grace: Duration,
}

/// A Qdrant server.
#[derive(Clone, Debug)]
pub struct Qdrant {
    /// `http://host:6334`: its gRPC side.
    pub url: String,
    /// Its API key, where one is needed.
    pub api_key: Option<Secret>,
    /// Whether to insist on TLS.
    pub tls: bool,
    /// Calls in flight at most.
    pub pool_max: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// The deadline that each redo write carries: beyond it no late copy can land.
    pub redo_deadline: Duration,
}

/// What is wrong with a configuration: every fault, each naming its key or file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// One sentence each.
    pub faults: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.faults.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the file that `path`, else `OUTRIGGER_CONFIG`, names, else `./outrigger.toml` where it exists, and lays
    /// the process's environment over it.
    ///
    /// # Errors
    /// Every fault found, together.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let path = path.map(Path::to_owned).or_else(|| std::env::var_os(PATH_VARIABLE).map(PathBuf::from));
        let text = match &path {
            Some(path) => read(path)?,
            None if Path::new(DEFAULT_PATH).exists() => read(Path::new(DEFAULT_PATH))?,
            None => String::new(),
        };
        Self::parse(&text, std::env::vars_os())
    }

    /// Reads a configuration from its text and an environment. Does no I/O but reading the secrets' files.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let mut faults = Vec::new();
        let tree = tree::Tree::build(text, env, &mut faults);
        let config = sections::read(tree, &mut faults);
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(ConfigError { faults }),
        }
    }

    /// What is allowed and yet worth a second look.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.server.principals.is_none()
            && let Listen::Tcp(address) = &self.server.listen
            && !address.ip().is_loopback()
        {
            warnings.push(format!(
                "server.listen is {address}, not loopback, and there is no server.tokens_file: whoever reaches it may \
                 run transactions"
            ));
        }
        warnings
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|e| ConfigError { faults: vec![format!("cannot read the configuration {}: {e}", path.display())] })
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("`unix:` needs a path: unix:/run/outrigger/door.sock".to_owned()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                format!("`{text}` is no address to listen on: say IP:PORT (127.0.0.1:7117) or unix:/PATH")
            }),
        }
    }
}
