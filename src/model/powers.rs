//! What a participant can do. The planner reads powers, never brands.

use serde::Serialize;

/// The powers of one store, as found by probing it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Powers {
    /// Can promise to commit later, and keeps the promise over its own crash.
    pub prepare: bool,
    /// Can tell later whether a transaction committed: a marker written inside it.
    pub mark: bool,
    /// Takes absolute writes that can be repeated safely.
    pub redo: bool,
}

/// What a store is asked to be in one transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Only reads: takes no part in the commit.
    Reader,
    /// Its own atomic commit is the decision.
    Decider,
    /// Promises first, is told later.
    Preparer,
    /// Gets absolute writes after the decision.
    Redoer,
    /// May write, and nobody knows yet who decides: a transaction that grows from call to call. Its session is settled
    /// into one of the other roles before the commit.
    Undecided,
}
