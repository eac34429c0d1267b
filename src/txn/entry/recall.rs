//! Whether a run can still give way: to break a deadlock, or because an operator says so.

use std::sync::Arc;

use super::Entry;
use crate::lock::{Deadlock, Standing};
use crate::model::ids::Run;
use crate::model::problem::{Code, Problem};
use crate::model::state::TxnState;

/// Whether a run can still give way in a deadlock.
pub(super) enum Recall {
    /// Nothing is promised yet: it can.
    Possible,
    /// It was told to: it promises nothing any more.
    Condemned(Condemned),
    /// The same, by an operator.
    Told(Box<Problem>),
    /// It asks stores to promise or to decide: somebody else has to give way.
    TooLate,
}

/// The sentence of a victim.
#[derive(Clone)]
pub(in crate::txn) struct Condemned {
    pub(in crate::txn) run: Run,
    pub(in crate::txn) deadlock: Arc<Deadlock>,
}

impl Entry {
    /// What it has to lose, should it wait in a circle.
    pub(in crate::txn) fn standing(&self) -> Standing {
        Standing { began_us: self.began_us, work: self.live().work, priority: self.priority }
    }

    /// So many operations are done.
    pub(in crate::txn) fn did(&self, operations: usize) {
        let mut live = self.live();
        live.work = live.work.saturating_add(u32::try_from(operations).unwrap_or(u32::MAX));
    }

    /// Whether this run could give way now.
    pub(in crate::txn) fn may_give_way(&self) -> bool {
        self.state() == TxnState::Active && matches!(self.live().recall, Recall::Possible)
    }

    /// Makes its present run the victim. `None`: it is too late for that, or it is one already.
    pub(in crate::txn) fn condemn(&self, deadlock: &Arc<Deadlock>) -> Option<Run> {
        if self.state() != TxnState::Active {
            return None;
        }
        let mut live = self.live();
        if !matches!(live.recall, Recall::Possible) {
            return None;
        }
        let run = Run { txn: self.id, attempt: live.attempt };
        live.recall = Recall::Condemned(Condemned { run, deadlock: deadlock.clone() });
        Some(run)
    }

    /// Its sentence, while it has one.
    pub(in crate::txn) fn condemned(&self) -> Option<Condemned> {
        match &self.live().recall {
            Recall::Condemned(sentence) => Some(sentence.clone()),
            Recall::Possible | Recall::Told(_) | Recall::TooLate => None,
        }
    }

    /// Tells its present run to give way for `why`. `false`: it is too late for that.
    pub(in crate::txn) fn recall(&self, why: Problem) -> bool {
        if self.state() != TxnState::Active {
            return false;
        }
        let mut live = self.live();
        match live.recall {
            Recall::TooLate => return false,
            // It gives way already; a re-run must not follow.
            Recall::Possible | Recall::Condemned(_) | Recall::Told(_) => live.recall = Recall::Told(Box::new(why)),
        }
        drop(live);
        self.hand.recall();
        true
    }

    /// Waits until an operator tells it to give way; answers why.
    pub(in crate::txn) async fn told_to_give_way(&self) -> Problem {
        self.hand.recalled().await;
        match &self.live().recall {
            Recall::Told(why) => (**why).clone(),
            _ => Problem::new(Code::Internal, "recalled, and nobody said why"),
        }
    }

    /// From here on it cannot be made a victim: stores are asked to promise.
    ///
    /// # Errors
    /// `deadlock`: it is one already, and must promise nothing; `rolled_back`: an operator has told it so.
    pub(in crate::txn) fn beyond_recall(&self) -> Result<(), Problem> {
        let mut live = self.live();
        if let Recall::Condemned(sentence) = &live.recall {
            return Err(Problem::deadlock(&sentence.deadlock.cycle));
        }
        if let Recall::Told(why) = &live.recall {
            return Err((**why).clone());
        }
        live.recall = Recall::TooLate;
        Ok(())
    }
}
