//! Who holds what: strict two-phase locks on declared keys and on every Qdrant point written.

use std::fmt;

use crate::model::ids::StoreName;

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
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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

/// A wish to hold a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// What.
    pub key: LockKey,
    /// How.
    pub mode: Mode,
}
