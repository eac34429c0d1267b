//! What to do: powers → decider, preparers, redoers, or a refusal with its reason. Pure.

use std::collections::BTreeMap;

use crate::model::commit::Decider;
use crate::model::ids::StoreName;
use crate::model::powers::{Powers, Role};
use crate::model::problem::{Code, Problem};

/// One store's part as the planner sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Which store.
    pub store: StoreName,
    /// What it can do.
    pub powers: Powers,
    /// Whether any of its operations writes.
    pub writes: bool,
}

/// Who does what in one transaction (protocol.md, section 3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Who decides; `None` when everything only reads.
    pub decider: Option<Decider>,
    /// Promise first, are told later.
    pub preparers: Vec<StoreName>,
    /// Get absolute writes after the decision.
    pub redoers: Vec<StoreName>,
    /// Only read.
    pub readers: Vec<StoreName>,
    /// Why it is so, for people.
    pub reason: String,
}

impl Plan {
    /// The plan of a transaction that has no operation, or none that writes.
    #[must_use]
    pub fn of_nothing() -> Self {
        Self {
            decider: None,
            preparers: Vec::new(),
            redoers: Vec::new(),
            readers: Vec::new(),
            reason: "every operation only reads, so there is nothing to decide".to_owned(),
        }
    }

    /// Chooses the decider by powers alone.
    ///
    /// # Errors
    /// `impossible_guarantee`, naming the stores and the remedy, where two or more writers can mark but not prepare.
    pub fn new(parts: &[Part]) -> Result<Self, Problem> {
        let (mut plan, promise) = Self::around_fixed_decider(parts)?;
        if plan.decider.is_none() {
            plan.choose_without_fixed_decider(promise);
        }
        Ok(plan)
    }

    /// The plan of a transaction that is to wait for its verdict: everybody who can promise does, and the verdict, forced
    /// into the log, decides. A writer that cannot promise decides still, when the verdict comes.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn to_hold(parts: &[Part]) -> Result<Self, Problem> {
        let (mut plan, promise) = Self::around_fixed_decider(parts)?;
        match &plan.decider {
            Some(decider) => {
                plan.reason = format!(
                    "{decider} cannot promise: its part is run again at the commit, and what it refuses then aborts \
                     everything"
                );
            }
            None => {
                plan.reason = "every writer has promised, so the verdict in the log decides".to_owned();
                plan.decider = Some(Decider::Wal);
                plan.preparers = promise;
            }
        }
        Ok(plan)
    }

    /// The writers that cannot promise leave no choice; answers those that can, where they leave one.
    fn around_fixed_decider(parts: &[Part]) -> Result<(Self, Vec<StoreName>), Problem> {
        let mut plan = Self::of_nothing();
        let mut only_mark = Vec::new();
        let mut promise = Vec::new();
        for part in parts {
            let name = part.store.clone();
            match part {
                Part { writes: false, .. } => plan.readers.push(name),
                Part { powers: Powers { prepare: true, mark: true, .. }, .. } => promise.push(name),
                Part { powers: Powers { mark: true, .. }, .. } => only_mark.push(name),
                Part { powers: Powers { redo: true, .. }, .. } => plan.redoers.push(name),
                Part { .. } => return Err(powerless(&part.store)),
            }
        }
        match only_mark.len() {
            0 => return Ok((plan, promise)),
            1 => {
                let decider = only_mark.remove(0);
                plan.reason = format!("{decider} cannot prepare, so it decides");
                plan.decider = Some(Decider::Store(decider));
                plan.preparers = promise;
            }
            _ => return Err(too_many(&only_mark)),
        }
        Ok((plan, Vec::new()))
    }

    /// Everybody who marks can also promise: the first decides in one phase, which is cheaper than preparing it.
    fn choose_without_fixed_decider(&mut self, mut promise: Vec<StoreName>) {
        if promise.is_empty() {
            if !self.redoers.is_empty() {
                self.decider = Some(Decider::Wal);
                self.reason = "no writer has transactions of its own, so the log decides".to_owned();
            }
            return;
        }
        let decider = promise.remove(0);
        self.reason = if promise.is_empty() {
            format!("{decider} is the only writer with transactions, so its commit decides")
        } else {
            format!("every writer with transactions can prepare; {decider} decides in one phase, which is cheapest")
        };
        self.decider = Some(Decider::Store(decider));
        self.preparers = promise;
    }

    /// What `store` is in this plan.
    #[must_use]
    pub fn role(&self, store: &StoreName) -> Role {
        match &self.decider {
            Some(Decider::Store(decider)) if decider == store => Role::Decider,
            _ if self.preparers.contains(store) => Role::Preparer,
            _ if self.redoers.contains(store) => Role::Redoer,
            _ => Role::Reader,
        }
    }

    /// The stores that get their part after the decision.
    #[must_use]
    pub fn followers(&self) -> Vec<StoreName> {
        self.preparers.iter().chain(&self.redoers).cloned().collect()
    }

    /// One writer that decides by itself and nobody who follows: its one-phase commit is everything.
    #[must_use]
    pub fn is_one_phase(&self) -> bool {
        self.preparers.is_empty() && self.redoers.is_empty() && matches!(self.decider, Some(Decider::Store(_)))
    }
}

/// The parts of a transaction: each store once, writing when any of its operations writes.
#[must_use]
pub fn parts<'a>(operations: impl IntoIterator<Item = (&'a StoreName, Powers, bool)>) -> Vec<Part> {
    let mut order = Vec::new();
    let mut by_store: BTreeMap<&StoreName, (Powers, bool)> = BTreeMap::new();
    for (store, powers, reads) in operations {
        let entry = by_store.entry(store).or_insert_with(|| {
            order.push(store);
            (powers, false)
        });
        entry.1 |= !reads;
    }
    order
        .into_iter()
        .map(|store| Part { store: store.clone(), powers: by_store[store].0, writes: by_store[store].1 })
        .collect()
}

fn powerless(store: &StoreName) -> Problem {
    let detail = format!("{store} can neither prepare, mark nor redo, so it cannot take part in an atomic transaction");
    Problem::new(Code::ImpossibleGuarantee, detail).in_store(store)
}

fn too_many(stores: &[StoreName]) -> Problem {
    let names: Vec<_> = stores.iter().map(StoreName::as_str).collect();
    let names = names.join(" and ");
    let detail = format!(
        "{names} can commit but cannot promise to: at most one such store can write in an atomic transaction. \
         Split the request, or, for PostgreSQL, set max_prepared_transactions above 0 and restart it"
    );
    Problem::new(Code::ImpossibleGuarantee, detail)
}

#[cfg(test)]
mod tests;
