//! The one transition table. Live code, replay, simulator and model checker all call it.

use serde::{Deserialize, Serialize};

/// Where a transaction stands, as clients read it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TxnState {
    /// Working: nothing is decided and nothing outlives a crash.
    Active,
    /// Everybody who can has promised; it outlives a crash and waits for its verdict.
    Prepared,
    /// The decider was asked (or a crash came) and its answer is not known yet.
    InDoubt,
    /// Decided to commit, irrevocable; some store has not finished yet.
    Committing,
    /// Every store has it.
    Committed,
    /// Decided to abort; some store has not let go yet.
    Aborting,
    /// No store has any of it.
    Aborted,
    /// Decided to commit, and a store refuses its part for good: an operator is needed.
    NeedsIntervention,
    /// A batch job whose chunks are being undone, the last one first.
    Compensating,
    /// Every chunk of the job is undone.
    Compensated,
}

/// What can happen to a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// Every promise is durable, and so is ours to wait for the verdict.
    Promised,
    /// The decider was asked and no answer came, or recovery found an intent without a verdict.
    VerdictLost,
    /// It is decided: commit.
    DecidedCommit,
    /// It is decided: abort.
    DecidedAbort,
    /// Every participant acknowledged the decision.
    Finished,
    /// A participant refused its part of a decided commit for good, or has lost it.
    Refused,
    /// An operator asked to try the refused part again.
    Retried,
    /// A batch job is to be undone: it takes no more chunks.
    RolledBack,
}

/// The event has no place in this state: a defect, never a thing to ignore.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a transaction that is {state:?} cannot take {event:?}")]
pub struct WrongEvent {
    /// The state it was in.
    pub state: TxnState,
    /// The event that came.
    pub event: Event,
}

impl TxnState {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 10] = [
        Self::Active,
        Self::Prepared,
        Self::InDoubt,
        Self::Committing,
        Self::Committed,
        Self::Aborting,
        Self::Aborted,
        Self::NeedsIntervention,
        Self::Compensating,
        Self::Compensated,
    ];

    /// The state after `event`.
    ///
    /// # Errors
    /// [`WrongEvent`] where the protocol has no such step; above all, no decision is ever reversed.
    pub fn next(self, event: Event) -> Result<Self, WrongEvent> {
        use Event as E;
        Ok(match (self, event) {
            (Self::Active | Self::Prepared, E::Promised) => Self::Prepared,
            (Self::Active | Self::Prepared | Self::InDoubt, E::VerdictLost) => Self::InDoubt,
            // A verdict may be learnt twice (from the store and again by a fence): the same one changes nothing.
            (Self::Active | Self::Prepared | Self::InDoubt | Self::Committing, E::DecidedCommit) => Self::Committing,
            (Self::Active | Self::Prepared | Self::InDoubt | Self::Aborting, E::DecidedAbort) => Self::Aborting,
            (Self::Committing, E::Finished) => Self::Committed,
            (Self::Aborting, E::Finished) => Self::Aborted,
            (Self::Committing | Self::NeedsIntervention, E::Refused) => Self::NeedsIntervention,
            (Self::NeedsIntervention, E::Retried) => Self::Committing,
            (Self::Active, E::RolledBack) => Self::Compensating,
            (Self::Compensating, E::Finished) => Self::Compensated,
            // A compensation that a store refuses for good: the job is given up, and what is not undone stays.
            (Self::Compensating, E::DecidedAbort) => Self::Aborting,
            (state, event) => return Err(WrongEvent { state, event }),
        })
    }

    /// Whether nothing more can happen to it.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Committed | Self::Aborted | Self::Compensated)
    }

    /// The word clients read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Prepared => "prepared",
            Self::InDoubt => "in_doubt",
            Self::Committing => "committing",
            Self::Committed => "committed",
            Self::Aborting => "aborting",
            Self::Aborted => "aborted",
            Self::NeedsIntervention => "needs_intervention",
            Self::Compensating => "compensating",
            Self::Compensated => "compensated",
        }
    }
}

/// Which way a transaction was decided.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It happened.
    Committed,
    /// It did not.
    Aborted,
}

impl Outcome {
    /// The word in markers and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
        }
    }

    /// The event that this verdict is.
    #[must_use]
    pub fn event(self) -> Event {
        match self {
            Self::Committed => Event::DecidedCommit,
            Self::Aborted => Event::DecidedAbort,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 8] = [
        Event::Promised,
        Event::VerdictLost,
        Event::DecidedCommit,
        Event::DecidedAbort,
        Event::Finished,
        Event::Refused,
        Event::Retried,
        Event::RolledBack,
    ];

    /// Every state reachable from `from`, by brute force.
    fn reachable(from: TxnState) -> Vec<TxnState> {
        let mut seen = vec![from];
        let mut at = 0;
        while at < seen.len() {
            for event in EVENTS {
                if let Ok(next) = seen[at].next(event)
                    && !seen.contains(&next)
                {
                    seen.push(next);
                }
            }
            at += 1;
        }
        seen
    }

    #[test]
    fn a_decision_is_never_reversed() {
        let after_commit = reachable(TxnState::Committing);
        assert!(!after_commit.contains(&TxnState::Aborted) && !after_commit.contains(&TxnState::Aborting));
        let after_abort = reachable(TxnState::Aborting);
        assert!(!after_abort.contains(&TxnState::Committed) && !after_abort.contains(&TxnState::Committing));
    }

    #[test]
    fn every_state_can_still_end_and_an_ended_one_stays() {
        for state in TxnState::ALL {
            assert!(reachable(state).iter().any(|s| s.has_ended()), "{state:?} is a dead end");
            if state.has_ended() {
                assert_eq!(reachable(state), vec![state]);
            }
        }
        assert_eq!(reachable(TxnState::Active).len(), TxnState::ALL.len(), "a state that no life reaches");
    }

    #[test]
    fn what_is_decided_is_not_compensated_and_what_is_compensated_not_committed() {
        for state in TxnState::ALL.into_iter().filter(|state| *state != TxnState::Active) {
            assert!(state.next(Event::RolledBack).is_err(), "{state:?}");
        }
        let after = reachable(TxnState::Compensating);
        assert!(!after.contains(&TxnState::Committed) && !after.contains(&TxnState::Active), "{after:?}");
    }

    #[test]
    fn a_verdict_learnt_twice_changes_nothing() {
        assert_eq!(TxnState::Committing.next(Event::DecidedCommit), Ok(TxnState::Committing));
        assert_eq!(TxnState::Aborting.next(Event::DecidedAbort), Ok(TxnState::Aborting));
        assert!(TxnState::Committing.next(Event::DecidedAbort).is_err());
    }
}
