//! One key: who holds it, who waits for it, who is next, and who is in whose way.
//!
//! Two rules hold everything together:
//! * a transaction that holds the key already and wants more of it (an *upgrade*) goes in as soon as the *other* holders
//!   allow it: made to stand behind another waiter it would wait for somebody who waits for it;
//! * everybody else (a *newcomer*) goes in as soon as it conflicts with no holder, with no upgrade that waits and with
//!   nobody who came before. So a reader never overtakes a waiting writer, and nobody starves.
//!
//! Hence a waiter is in the queue exactly as long as somebody is in its way, which is what the wait-for graph draws.

use std::collections::VecDeque;

use super::mode::{Mode, Modes};
use crate::model::ids::TxnId;

/// A newcomer is overtaken to break a cycle at most this often: reordering must not starve anybody.
const MOST_OVERTAKEN: u8 = 16;

/// One wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Waiter {
    /// Its ticket.
    pub(super) number: u64,
    /// Whose.
    pub(super) txn: TxnId,
    /// What it asks for, on top of what it holds.
    pub(super) mode: Mode,
    overtaken: u8,
}

/// Somebody who waited and holds the key now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Admitted {
    /// The wait that ended.
    pub(super) waiter: Waiter,
    /// Whether it did not hold the key before.
    pub(super) new: bool,
}

/// Where a waiter stood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Among the upgrades.
    Upgrade,
    /// Among the newcomers, so many before it.
    Newcomer(usize),
}

/// What changed in a queue, as far as it matters to those who wait there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Changed {
    /// Who holds it, or who waits to hold more of it.
    pub(super) holders: bool,
    /// The first newcomer's place at which somebody came, went or moved.
    pub(super) from: usize,
    /// The last such place.
    pub(super) to: usize,
}

impl Changed {
    /// Holders or upgrades, and no newcomer.
    pub(super) const HOLDERS: Self = Self { holders: true, from: 0, to: 0 };
    /// Anything.
    pub(super) const ALL: Self = Self { holders: true, from: 0, to: usize::MAX };

    /// Somebody came or went there.
    #[must_use]
    pub(super) fn at(place: Place) -> Self {
        match place {
            Place::Upgrade => Self::HOLDERS,
            Place::Newcomer(at) => Self { holders: false, from: at, to: at },
        }
    }

    /// This, and whatever letting somebody in changes.
    #[must_use]
    pub(super) fn and_holders(self) -> Self {
        Self { holders: true, from: 0, ..self }
    }
}

/// The state of one key.
#[derive(Debug, Default)]
pub(super) struct Queue {
    holders: Vec<(TxnId, Mode)>,
    upgrades: VecDeque<Waiter>,
    newcomers: VecDeque<Waiter>,
}

impl Queue {
    /// Who holds it and how.
    #[must_use]
    pub(super) fn holders(&self) -> &[(TxnId, Mode)] {
        &self.holders
    }

    /// Everybody who waits, upgrades first, with the mode that each would come to hold.
    pub(super) fn waiters(&self) -> impl Iterator<Item = (&Waiter, Mode)> {
        self.upgrades.iter().chain(&self.newcomers).map(|waiter| (waiter, self.wanted(waiter)))
    }

    /// Whether anybody waits.
    #[must_use]
    pub(super) fn has_waiters(&self) -> bool {
        !self.upgrades.is_empty() || !self.newcomers.is_empty()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.holders.is_empty() && !self.has_waiters()
    }

    pub(super) fn holds(&self, txn: TxnId) -> Option<Mode> {
        self.holders.iter().find(|(holder, _)| *holder == txn).map(|(_, mode)| *mode)
    }

    /// Whether every *other* holder bears `txn` holding `mode`.
    pub(super) fn allows(&self, txn: TxnId, mode: Mode) -> bool {
        self.holders.iter().all(|(holder, held)| *holder == txn || held.is_compatible(mode))
    }

    /// Whether a newcomer may go in before anybody who waits now has.
    pub(super) fn lets_in(&self, txn: TxnId, mode: Mode) -> bool {
        self.waiters().all(|(_, wanted)| wanted.is_compatible(mode)) && self.allows(txn, mode)
    }

    /// Holds it. True: it did not before.
    pub(super) fn hold(&mut self, txn: TxnId, mode: Mode) -> bool {
        match self.holders.iter_mut().find(|(holder, _)| *holder == txn) {
            Some(place) => {
                place.1 = place.1.join(mode);
                false
            }
            None => {
                self.holders.push((txn, mode));
                true
            }
        }
    }

    pub(super) fn let_go(&mut self, txn: TxnId) {
        if let Some(at) = self.holders.iter().position(|(holder, _)| *holder == txn) {
            self.holders.swap_remove(at);
        }
    }

    pub(super) fn wait(&mut self, number: u64, txn: TxnId, mode: Mode) -> Place {
        let waiter = Waiter { number, txn, mode, overtaken: 0 };
        if self.holds(txn).is_some() {
            self.upgrades.push_back(waiter);
            return Place::Upgrade;
        }
        self.newcomers.push_back(waiter);
        Place::Newcomer(self.newcomers.len() - 1)
    }

    pub(super) fn withdraw(&mut self, number: u64) -> Option<Place> {
        if let Some(at) = self.upgrades.iter().position(|waiter| waiter.number == number) {
            self.upgrades.remove(at);
            return Some(Place::Upgrade);
        }
        let at = self.newcomers.iter().position(|waiter| waiter.number == number)?;
        self.newcomers.remove(at);
        Some(Place::Newcomer(at))
    }

    /// Lets in everybody who can go in now. True: some newcomers became upgrades on the way.
    pub(super) fn admit(&mut self, admitted: &mut Vec<Admitted>) -> bool {
        let mut promoted = false;
        loop {
            while let Some(at) = self.upgrades.iter().position(|waiter| self.allows(waiter.txn, self.wanted(waiter))) {
                let Some(waiter) = self.upgrades.remove(at) else { break };
                self.hold(waiter.txn, waiter.mode);
                admitted.push(Admitted { waiter, new: false });
            }
            if !self.admit_newcomers(admitted) {
                return promoted;
            }
            promoted = true;
        }
    }

    /// One pass over the newcomers. True: somebody's other waits became upgrades, so it is worth another look.
    fn admit_newcomers(&mut self, admitted: &mut Vec<Admitted>) -> bool {
        // The modes of those who were passed over: whoever conflicts with one of them stands behind it.
        let mut ahead: Modes = self.upgrades.iter().map(|waiter| self.wanted(waiter)).collect();
        let mut at = 0;
        while at < self.newcomers.len() && !ahead.contains(Mode::Exclusive) {
            let waiter = self.newcomers[at];
            if ahead.meets(waiter.mode) || !self.allows(waiter.txn, waiter.mode) {
                ahead.add(waiter.mode);
                at += 1;
                continue;
            }
            self.newcomers.remove(at);
            self.hold(waiter.txn, waiter.mode);
            admitted.push(Admitted { waiter, new: true });
            if self.promote(waiter.txn) {
                return true;
            }
        }
        false
    }

    /// A transaction that waits more than once came to hold the key: its other waits are upgrades from now on.
    pub(super) fn promote(&mut self, txn: TxnId) -> bool {
        if !self.newcomers.iter().any(|waiter| waiter.txn == txn) {
            return false;
        }
        let (mut mine, others): (VecDeque<_>, _) = self.newcomers.drain(..).partition(|waiter| waiter.txn == txn);
        self.newcomers = others;
        self.upgrades.append(&mut mine);
        true
    }

    /// What a waiter would come to hold.
    fn wanted(&self, waiter: &Waiter) -> Mode {
        self.holds(waiter.txn).map_or(waiter.mode, |held| held.join(waiter.mode))
    }

    /// Moves newcomer `number` to just before the first newcomer of `past` that is in its way. Answers where it stood
    /// and where it stands now, for [`Self::undo_advance`]; `None` where nothing of the kind is possible, or somebody
    /// would be overtaken once too often.
    pub(super) fn advance(&mut self, number: u64, past: TxnId) -> Option<(usize, usize)> {
        let from = self.newcomers.iter().position(|waiter| waiter.number == number)?;
        let mode = self.newcomers[from].mode;
        let in_its_way = |waiter: &Waiter| waiter.txn == past && !waiter.mode.is_compatible(mode);
        let to = self.newcomers.iter().take(from).position(in_its_way)?;
        if self.newcomers.range(to..from).any(|waiter| waiter.overtaken >= MOST_OVERTAKEN) {
            return None;
        }
        self.newcomers.range_mut(to..from).for_each(|waiter| waiter.overtaken += 1);
        let waiter = self.newcomers.remove(from)?;
        self.newcomers.insert(to, waiter);
        Some((from, to))
    }

    pub(super) fn undo_advance(&mut self, (from, to): (usize, usize)) {
        if let Some(waiter) = self.newcomers.remove(to) {
            self.newcomers.insert(from, waiter);
            self.newcomers.range_mut(to..from).for_each(|waiter| waiter.overtaken -= 1);
        }
    }

    /// Tells who is in the way of each waiter whose answer may have changed by what changed.
    pub(super) fn tell_blockers(&self, changed: &Changed, mut tell: impl FnMut(&Waiter, &[TxnId])) {
        let mut blockers = Vec::new();
        for waiter in self.upgrades.iter().filter(|_| changed.holders) {
            blockers.clear();
            let wanted = self.wanted(waiter);
            blockers.extend(self.holders.iter().filter(|(_, held)| !held.is_compatible(wanted)).map(|(txn, _)| *txn));
            told(waiter, &mut blockers, &mut tell);
        }
        for at in changed.from..self.newcomers.len() {
            blockers.clear();
            self.blockers_of_newcomer(at, &mut blockers);
            let waiter = &self.newcomers[at];
            told(waiter, &mut blockers, &mut tell);
            // Who stands behind a waiting writer does not look past it.
            if waiter.mode == Mode::Exclusive && at >= changed.to {
                return;
            }
        }
    }

    /// Everybody in the way of a newcomer, less those whom somebody else in its way waits for on its behalf: behind a
    /// writer who waits, all that matters is that writer. So a queue of a thousand writers draws a thousand edges and
    /// not half a million, and whoever could be reached can be reached still.
    fn blockers_of_newcomer(&self, at: usize, blockers: &mut Vec<TxnId>) {
        let conflicts = self.newcomers[at].mode.conflicts();
        let mut looked_for = conflicts;
        for earlier in self.newcomers.range(..at).rev().filter(|earlier| conflicts.contains(earlier.mode)) {
            if looked_for.contains(earlier.mode) {
                blockers.push(earlier.txn);
            }
            // Pointed at, or reached through somebody who is: either way it stands for those before it.
            looked_for = looked_for.without(earlier.mode.conflicts());
            if looked_for.is_empty() {
                return;
            }
        }
        // Upgrades do not wait for each other, so none of them stands for another; all of them stand for holders.
        let mut left = looked_for;
        for upgrade in &self.upgrades {
            let wanted = self.wanted(upgrade);
            if looked_for.contains(wanted) {
                blockers.push(upgrade.txn);
            }
            if conflicts.contains(wanted) {
                left = left.without(wanted.conflicts());
            }
        }
        blockers.extend(self.holders.iter().filter(|(_, held)| left.contains(*held)).map(|(txn, _)| *txn));
    }
}

/// Each once, and nobody waits for itself.
fn told(waiter: &Waiter, blockers: &mut Vec<TxnId>, tell: &mut impl FnMut(&Waiter, &[TxnId])) {
    if blockers.len() > 1 {
        blockers.sort_unstable();
        blockers.dedup();
    }
    blockers.retain(|txn| *txn != waiter.txn);
    tell(waiter, blockers);
}
