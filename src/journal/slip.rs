//! Permission slips: an irreversible act without its slip does not compile.

use crate::model::ids::Run;
use crate::model::state::Outcome;

/// This decision is made and cannot be unmade: forced into the log by us, or learnt from the store that decided and
/// accepted by the log. Only the journal mints it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decided {
    run: Run,
    outcome: Outcome,
    logged: bool,
}

impl Decided {
    /// For the journal alone; `logged`: the log holds it in a record of its own.
    pub(super) fn mint(run: Run, outcome: Outcome, logged: bool) -> Self {
        Self { run, outcome, logged }
    }

    /// A slip for tests of stores, which have no journal.
    #[doc(hidden)]
    #[cfg(any(test, feature = "test-slips"))]
    #[must_use]
    pub fn for_tests(run: Run, outcome: Outcome) -> Self {
        Self::mint(run, outcome, true)
    }

    /// Which run.
    #[must_use]
    pub fn run(&self) -> Run {
        self.run
    }

    /// Whether a record of the log says it, which has been told then: see [`super::feed`].
    #[must_use]
    pub fn is_logged(&self) -> bool {
        self.logged
    }

    /// Which way.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }
}
