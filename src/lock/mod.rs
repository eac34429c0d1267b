//! Who holds what: strict two-phase locks on declared keys and on every Qdrant point written.
//!
//! ```text
//!   manager    the async shell: acquire_all waits, hears its verdict, gives up    (no mutex is ever held over an await)
//!   cycle      a cycle within this table is broken in the moment that it closes
//!   shards     the whole table in step with itself: keys, books by transaction, graph, wakers
//!   ─────────────────────────────────────────────────────────────────────────────────────────────  below here: pure
//!   wait_for   who waits for whom, and is it a circle          victim   who gives way
//!   table      keys ─► queue   who holds one key, who waits, who is next, who is in whose way
//!   mode       compatibility and upgrade
//! ```

use std::fmt;

use crate::model::ids::StoreName;

mod cycle;
pub mod manager;
mod mode;
mod queue;
mod shards;
mod table;
mod victim;
pub mod wait_for;

pub use cycle::Deadlock;
pub use manager::{Limits, LockManager, LockParty, LockRefused, LockView, WhyRefused};
pub use mode::Mode;
pub use victim::{Score, Standing, rank};

/// What a lock stands on. Ordered: `acquire_all` takes them in this order, so that two transactions that know their
/// keys beforehand never wait for each other in a circle.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LockKey {
    /// A key that an application declared: a namespace of its own.
    Free(String),
    /// A whole collection of a store.
    Resource(StoreName, String),
    /// One point of a collection, in its one spelling.
    Point(StoreName, String, String),
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free(key) => f.write_str(key),
            Self::Resource(store, resource) => write!(f, "{store}/{resource}"),
            Self::Point(store, resource, point) => write!(f, "{store}/{resource}/{point}"),
        }
    }
}

/// A wish to hold a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// What.
    pub key: LockKey,
    /// How.
    pub mode: Mode,
}

#[cfg(test)]
mod tests;
