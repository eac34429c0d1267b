//! Who gives way when some wait in a circle. Pure.

use std::cmp::Reverse;

use serde::Serialize;

use crate::model::ids::TxnId;

/// What a second of waiting, an operation done and a step of priority are worth.
const SECOND: i64 = 1;
const OPERATION: i64 = 10;
const PRIORITY: i64 = 100;

/// What a transaction has to lose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// When it first began, in microseconds since 1970: a re-run keeps it, so that a victim grows old and is spared.
    pub began_us: i64,
    /// Operations done in this run.
    pub work: u32,
    /// As asked for.
    pub priority: i32,
}

impl Standing {
    /// Age in whole seconds + 10 × operations done + 100 × priority. The lowest gives way.
    #[must_use]
    pub fn score(&self, now_us: i64) -> i64 {
        let age = (now_us.saturating_sub(self.began_us)).max(0) / 1_000_000;
        SECOND * age + OPERATION * i64::from(self.work) + PRIORITY * i64::from(self.priority)
    }
}

/// One member of a cycle with its score.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Score {
    /// Who.
    pub transaction: TxnId,
    /// How much it has to lose.
    pub score: i64,
}

/// Scores everybody who may give way, the victim first: the lowest score, among equals the youngest.
#[must_use]
pub fn rank(members: impl IntoIterator<Item = (TxnId, Standing)>, now_us: i64) -> Vec<Score> {
    let mut ranked: Vec<_> = members.into_iter().collect();
    // Ids grow with time: of two that began in the same microsecond the later id is the younger.
    ranked.sort_unstable_by_key(|(txn, standing)| (standing.score(now_us), Reverse((standing.began_us, *txn))));
    ranked.into_iter().map(|(transaction, standing)| Score { transaction, score: standing.score(now_us) }).collect()
}
