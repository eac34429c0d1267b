//! The words of the stack: which stores, what is wanted of them, how to reach them, how they are doing.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A store of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// Real PostgreSQL, Debian's.
    Postgres,
    /// Real Neo4j Community.
    Neo4j,
    /// The real Qdrant engine behind its own gRPC API.
    Qdrant,
}

impl Store {
    /// All of them.
    pub const ALL: [Store; 3] = [Store::Postgres, Store::Neo4j, Store::Qdrant];

    /// `postgres`, `neo4j` or `qdrant`: also the `kind` in the sidecar's configuration.
    pub fn name(self) -> &'static str {
        match self {
            Store::Postgres => "postgres",
            Store::Neo4j => "neo4j",
            Store::Qdrant => "qdrant",
        }
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How to reach a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// `postgres://host:port/database`, `bolt://host:port`, or Qdrant's gRPC `http://host:port`. Without credentials.
    pub url: String,
    /// Empty where there is none.
    pub user: String,
    /// Empty where there is none.
    pub password: String,
    /// Qdrant only: `host:port` where faults are ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<String>,
}

/// How long the servers of a stack live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// Until [`Stack`](super::Stack) is dropped or this process ends, in whatever way. Servers that another process restarted
    /// survive that process; the one that called [`Stack::up`](super::Stack::up) ends them on drop.
    #[default]
    Process,
    /// Until `stack down`.
    UntilDown,
}

/// What a stack is to have.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Which stores.
    pub stores: Vec<Store>,
    /// PostgreSQL's setting; 0 takes its power to prepare away. Read anew at every start of the server.
    pub max_prepared_transactions: u32,
    /// How long it is to live.
    pub lifetime: Lifetime,
}

impl Wanted {
    /// All three stores, prepared transactions on, for as long as this process lives.
    pub fn all() -> Wanted {
        Wanted::only(&Store::ALL)
    }

    /// Just these stores.
    pub fn only(stores: &[Store]) -> Wanted {
        Wanted { stores: stores.to_vec(), max_prepared_transactions: 64, lifetime: Lifetime::Process }
    }
}

/// How one store is doing.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Which.
    pub store: Store,
    /// Where.
    #[serde(flatten)]
    pub login: Login,
    /// `ready`, `starting` (the process runs but doesn't answer), `down`, or `external` (not ours, not asked).
    pub state: &'static str,
    /// Of the running process.
    pub pid: Option<i32>,
}
