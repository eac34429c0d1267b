//! The operator's hand: which verb may do what in which state. One table, which the README shows and a test compares.
//!
//! The danger: somebody who is in a hurry and means well tells a transaction "roll back" that one of its stores has
//! committed. From then on the stores tell different stories, and nothing knows which is right (the literature calls
//! such a hand a heuristic decision, and its outcome heuristic damage: X/Open, "Distributed TP: The XA Specification",
//! 2.3.3). The remedy: a hand may hasten what is decided, decide what is open and asks for a verdict, and give up a
//! part that can never be carried out. It never contradicts a decision, and never guesses one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ids::StoreName;
use super::state::{Outcome, TxnState};

/// What an operator asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Do now what would be done anyway, later.
    Retry,
    /// Let it happen.
    Commit,
    /// Let it not happen.
    Rollback,
    /// Give up what a store refuses for good.
    Skip,
}

/// What a verb comes to in a state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// The run gives way, as the victim of a deadlock does; refused once stores were asked to promise.
    Abort,
    /// The verdict that a prepared transaction waits for.
    Decide(Outcome),
    /// The store that decides is asked without waiting for the next turn.
    AskDecider,
    /// What is decided is carried to the stores without waiting for the next turn.
    TellStores,
    /// The refused part is written down as given up, and the rest ends.
    GiveUp,
    /// It is so already: the same answer again.
    Already,
    /// It would contradict a decision, guess one, or mean nothing.
    Refused,
}

impl Verb {
    /// Every verb, in the order of the table's columns.
    pub const ALL: [Self; 4] = [Self::Retry, Self::Commit, Self::Rollback, Self::Skip];

    /// The word that clients send.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Commit => "commit",
            Self::Rollback => "rollback",
            Self::Skip => "skip",
        }
    }

    /// The table.
    #[must_use]
    pub fn ruling(self, state: TxnState) -> Ruling {
        use Ruling as R;
        use TxnState as S;
        match (state, self) {
            (S::Active, Self::Rollback) => R::Abort,
            (S::Prepared, Self::Commit) => R::Decide(Outcome::Committed),
            (S::Prepared, Self::Rollback) => R::Decide(Outcome::Aborted),
            (S::InDoubt, Self::Retry) => R::AskDecider,
            (S::Committing | S::Aborting | S::NeedsIntervention, Self::Retry) => R::TellStores,
            (S::NeedsIntervention, Self::Skip) => R::GiveUp,
            (S::Committing | S::Committed | S::NeedsIntervention, Self::Commit) => R::Already,
            (S::Aborting | S::Aborted | S::Compensating | S::Compensated, Self::Rollback) => R::Already,
            (S::Active | S::Prepared | S::InDoubt, _) => R::Refused,
            (S::Committing | S::Committed | S::NeedsIntervention | S::Aborting | S::Aborted, _) => R::Refused,
            (S::Compensating | S::Compensated, _) => R::Refused,
        }
    }

    /// Why the table says no, as a sentence for people.
    #[must_use]
    pub fn refusal(self, state: TxnState) -> String {
        use TxnState as S;
        let why = match (state, self) {
            (S::Active, Self::Commit) => "it is still at work; whoever runs it commits it",
            (S::Active, _) => "it is still at work and nothing of it is stuck; `rollback` aborts it",
            (S::Prepared, Self::Retry) => "it waits for a verdict, which is `commit` or `rollback`",
            (S::InDoubt, Self::Commit | Self::Rollback) => {
                "only the store that decides can say what came of it, and a guess could contradict what it holds; \
                 it is fenced there as soon as it answers, and `retry` asks it at once"
            }
            (S::Committing | S::Committed | S::NeedsIntervention, Self::Rollback) => {
                "it is decided to commit, and no decision is reversed"
            }
            (S::Aborting | S::Aborted, Self::Commit) => "it is decided to abort, and no decision is reversed",
            (S::Compensating | S::Compensated, Self::Commit) => {
                "it is being undone, or has been, and that is not reversed"
            }
            (S::Compensating, Self::Retry) => {
                "each chunk is undone by a transaction of its own, which is repeated by itself; that one can be looked at"
            }
            (S::Compensating, _) => {
                "a job that cannot be undone is given up by its own rollback with `mark_failed`; its chunks then stay"
            }
            (S::Committed | S::Aborted | S::Compensated, _) => "it has ended",
            (_, Self::Skip) => "no store has refused its part for good, so there is nothing to give up",
            _ => "that means nothing here",
        };
        format!("`{}` on a transaction that is {}: {why}", self.as_str(), state.as_str())
    }
}

impl Ruling {
    /// What stands in the README's table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Abort => "aborts it",
            Self::Decide(Outcome::Committed) => "commits it",
            Self::Decide(Outcome::Aborted) => "rolls it back",
            Self::AskDecider => "asks the decider now",
            Self::TellStores => "tells the stores now",
            Self::GiveUp => "gives the refused part up",
            Self::Already => "already so",
            Self::Refused => "refused",
        }
    }

    /// Whether the verb is taken.
    #[must_use]
    pub fn is_allowed(self) -> bool {
        self != Self::Refused
    }
}

/// A part that was given up by an operator: decided, refused by its store for good, and never tried again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Skipped {
    /// Whose part.
    #[schema(value_type = String)]
    pub store: StoreName,
    /// Why, in the operator's words.
    pub reason: String,
    /// Who gave it up.
    pub by: String,
    /// RFC 3339 UTC.
    #[serde(serialize_with = "as_time")]
    #[serde(rename = "at")]
    #[schema(rename = "at", value_type = String)]
    pub at_us: i64,
}

fn as_time<S: serde::Serializer>(us: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    let at = jiff::Timestamp::from_microsecond(*us);
    serializer.serialize_str(&at.map_or_else(|_| "invalid".to_owned(), |at| format!("{at:.6}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the README, row by row: state, then one cell a verb.
    fn readme() -> Vec<(String, Vec<String>)> {
        let text = include_str!("../../README.md");
        let (_, after) = text.split_once("| state | `retry` | `commit` | `rollback` | `skip` |\n").expect("the table");
        let rows = after.lines().skip(1).take_while(|line| line.starts_with('|'));
        let cells = |line: &str| -> Vec<String> {
            line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
        };
        rows.map(cells).map(|mut row| (row.remove(0), row)).collect()
    }

    #[test]
    fn every_verb_on_every_state_is_as_the_readme_says() {
        let shown = readme();
        assert_eq!(shown.len(), TxnState::ALL.len(), "one row a state: {shown:?}");
        for state in TxnState::ALL {
            let (_, cells) = shown.iter().find(|(name, _)| name == state.as_str()).expect("a row of its own");
            let ours: Vec<&str> = Verb::ALL.iter().map(|verb| verb.ruling(state).as_str()).collect();
            assert_eq!(*cells, ours, "{}", state.as_str());
        }
    }

    #[test]
    fn no_hand_contradicts_a_decision() {
        use TxnState as S;
        for state in [S::Committing, S::Committed, S::NeedsIntervention] {
            assert_eq!(Verb::Rollback.ruling(state), Ruling::Refused, "{state:?}");
        }
        for state in [S::Aborting, S::Aborted] {
            assert_eq!(Verb::Commit.ruling(state), Ruling::Refused, "{state:?}");
        }
        // And none is guessed: only where a verdict is asked for does a hand give one.
        for verb in [Verb::Commit, Verb::Rollback] {
            assert_eq!(verb.ruling(S::InDoubt), Ruling::Refused);
        }
    }

    #[test]
    fn every_refusal_says_why() {
        for state in TxnState::ALL {
            for verb in Verb::ALL.into_iter().filter(|verb| !verb.ruling(state).is_allowed()) {
                let why = verb.refusal(state);
                assert!(!why.contains("means nothing"), "{why}");
                assert!(why.contains(state.as_str()) && why.contains(verb.as_str()), "{why}");
            }
        }
    }
}
