//! Names that everything carries (protocol.md, section 2).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use outrigger_wal::{LogId, Lsn};

/// A transaction's id: a UUIDv7, so ids sort roughly by start. Nothing is ever decided by that order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TxnId(pub Uuid);

impl TxnId {
    /// A fresh id.
    #[must_use]
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TxnId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self)
    }
}

/// Which run of a transaction: a re-run (optimistic conflict, deadlock victim) is a new attempt. Starts at 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u32);

impl Attempt {
    /// The first run.
    pub const FIRST: Self = Self(1);

    /// The run after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One run of one transaction: what gids and markers are unique on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Run {
    /// The transaction.
    pub txn: TxnId,
    /// Which run of it.
    pub attempt: Attempt,
}

impl fmt::Display for Run {
    /// `txn/attempt`: the one unique property of a marker in Neo4j.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.txn, self.attempt)
    }
}

/// Counted up and forced at every open of the log: a session of an older one is a ghost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// Who is speaking: this log in this incarnation. Carried by every session from *connect* on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogOwner {
    /// The log.
    pub log: LogId,
    /// Which open of it.
    pub incarnation: Incarnation,
}

impl LogOwner {
    /// `outrigger/<log id>/<incarnation>`: PostgreSQL's `application_name` (58 bytes at most, the server keeps 63).
    #[must_use]
    pub fn session_name(&self) -> String {
        format!("{}{}", session_prefix(self.log), self.incarnation.0)
    }
}

/// What the names of all sessions of one log begin with.
#[must_use]
pub fn session_prefix(log: LogId) -> String {
    format!("outrigger/{log}/")
}

/// A store's configured name (`[stores.NAME]`): 1 to 40 of `[A-Za-z0-9_-]`, so that a gid stays under 199 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreName(pub Arc<str>);

impl StoreName {
    /// Whether `text` can be a store's name. `wal` is taken: `plan.decider` says it when the log decides.
    #[must_use]
    pub fn is_valid(text: &str) -> bool {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        !text.is_empty() && text.len() <= 40 && text != "wal" && text.chars().all(fits)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for StoreName {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
