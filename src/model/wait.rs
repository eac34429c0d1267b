//! Who waits for whom: the nouns that the lock table, the stores and the deadlock detector share.

use std::fmt;
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::ids::{StoreName, TxnId};

/// Somebody who holds or waits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Party {
    /// A transaction of this log.
    Ours(TxnId),
    /// Somebody else's session in a store, named for people: `pg: pid 4711, psql of alice at 127.0.0.1`.
    Foreign(Arc<str>),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(id) => id.fmt(f),
            Self::Foreign(name) => f.write_str(name),
        }
    }
}

/// Who knows of a wait.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Source {
    /// Our own lock table.
    Locks,
    /// A store, asked for what happens inside it.
    Store(StoreName),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locks => f.write_str("locks"),
            Self::Store(name) => name.fmt(f),
        }
    }
}

/// `waiter` cannot go on before `holder` lets go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WaitEdge {
    /// Who waits.
    pub waiter: Party,
    /// Who is in the way: a holder, or an earlier waiter.
    pub holder: Party,
    /// Who says so.
    pub source: Source,
    /// What is waited for, for people.
    pub resource: String,
    /// The same number as long as it is the same wait: a cycle counts only when each of its edges is seen twice in
    /// the same epoch.
    pub epoch: u64,
    /// When the wait began, in microseconds since 1970, as far as its source knows.
    pub since_us: i64,
}

impl fmt::Display for WaitEdge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { waiter, holder, source, resource, .. } = self;
        write!(f, "{waiter} waits for {holder} at {resource} ({source})")
    }
}

/// As clients and operators read it: `source` is `locks` or the store's name, `since` is RFC 3339.
impl Serialize for WaitEdge {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut edge = serializer.serialize_struct("WaitEdge", 5)?;
        edge.serialize_field("waiter", &self.waiter.to_string())?;
        edge.serialize_field("holder", &self.holder.to_string())?;
        edge.serialize_field("source", &self.source.to_string())?;
        edge.serialize_field("resource", &self.resource)?;
        edge.serialize_field("since", &rfc3339(self.since_us))?;
        edge.end()
    }
}

fn rfc3339(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us).map_or_else(|_| "invalid".to_owned(), |at| format!("{at:.6}"))
}
