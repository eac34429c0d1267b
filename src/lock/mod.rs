//! Who holds what: strict two-phase locks on declared keys and on every Qdrant point written.
//!
//! ```text
//!   manager   the async shell: acquire_all waits, wakes, gives up        (one mutex, never held over an await)
//!   table     pure: who holds, who waits, who is next
//!   Mode      compatibility and upgrade
//! ```

use std::fmt;

use serde::Serialize;

use crate::model::ids::StoreName;

pub mod manager;
pub mod table;

pub use manager::{Limits, LockManager, LockRefused};

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

/// How a key is held (Gray et al. 1976, "Granularity of Locks").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Intends to share below.
    IntentShared,
    /// Intends to write below.
    IntentExclusive,
    /// Reads.
    Shared,
    /// Reads now and means to write: compatible with readers, not with another of its kind.
    Update,
    /// Writes.
    Exclusive,
}

impl Mode {
    /// Every mode, weakest first.
    pub const ALL: [Self; 5] = [Self::IntentShared, Self::IntentExclusive, Self::Shared, Self::Update, Self::Exclusive];

    /// Whether two transactions may hold one key in these modes at the same time. Symmetric.
    #[must_use]
    pub fn is_compatible(self, other: Self) -> bool {
        use Mode::{Exclusive, IntentExclusive, IntentShared, Shared, Update};
        match (self, other) {
            (Exclusive, _) | (_, Exclusive) => false,
            (IntentShared, _) | (_, IntentShared) => true,
            (IntentExclusive, IntentExclusive) => true,
            (IntentExclusive, _) | (_, IntentExclusive) => false,
            (Update, Update) => false,
            (Shared | Update, Shared | Update) => true,
        }
    }

    /// The weakest mode that allows what either allows. There is no SIX: reading all and writing some of it is X.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        use Mode::{Exclusive, IntentExclusive, IntentShared, Shared, Update};
        match (self, other) {
            (a, b) if a == b => a,
            (IntentShared, mode) | (mode, IntentShared) => mode,
            (Shared, Update) | (Update, Shared) => Update,
            (Exclusive | IntentExclusive | Shared | Update, _) => Exclusive,
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
