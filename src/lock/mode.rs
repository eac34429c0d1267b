//! How a key is held, and what goes together.

use serde::Serialize;

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

    /// The modes that it does not go together with.
    pub(super) fn conflicts(self) -> Modes {
        Self::ALL.into_iter().filter(|other| !self.is_compatible(*other)).collect()
    }
}

/// A set of modes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Modes(u8);

impl Modes {
    pub(super) fn add(&mut self, mode: Mode) {
        self.0 |= 1 << mode as u8;
    }

    pub(super) fn contains(self, mode: Mode) -> bool {
        self.0 & (1 << mode as u8) != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Whether one of them conflicts with `mode`.
    pub(super) fn meets(self, mode: Mode) -> bool {
        self.0 & mode.conflicts().0 != 0
    }
}

impl FromIterator<Mode> for Modes {
    fn from_iter<I: IntoIterator<Item = Mode>>(modes: I) -> Self {
        let mut set = Self::default();
        modes.into_iter().for_each(|mode| set.add(mode));
        set
    }
}
