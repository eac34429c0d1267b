//! A cycle that lies wholly in our own table is broken in the moment that it closes: by letting somebody pass in a
//! queue, where that is enough; else by a victim.

use std::sync::Arc;
use std::time::Instant;

use super::Mode;
use super::queue::Changed;
use super::shards::{Contended, Shards};
use super::victim::{Score, Standing, rank};
use super::wait_for::{Hop, Search};
use crate::clock;
use crate::metrics::DeadlockSource;
use crate::model::ids::TxnId;
use crate::model::wait::WaitEdge;

/// Edges that a search may visit while somebody blocks and everybody else waits for the mutex: some 40 µs. What is left
/// is the sweep's.
const BUDGET: usize = 2_000;

/// A cycle, and who gave way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deadlock {
    /// Its edges: each one's holder is the next one's waiter.
    pub cycle: Vec<WaitEdge>,
    /// Everybody who could have given way, the victim first.
    pub scores: Vec<Score>,
    /// Who did.
    pub victim: TxnId,
}

impl Shards {
    /// Breaks every cycle that whoever gained an edge may have closed.
    pub(super) fn settle(&self, contended: &mut Contended) {
        while let Some(txn) = contended.gained.pop() {
            self.settle_one(contended, txn, BUDGET);
        }
    }

    /// Looks again for whom the budget was too small, without one.
    pub(super) fn sweep(&self) {
        let mut contended = self.contended();
        while let Some(txn) = contended.owed.pop() {
            self.settle_one(&mut contended, txn, usize::MAX);
            self.settle(&mut contended);
        }
    }

    fn settle_one(&self, contended: &mut Contended, txn: TxnId, budget: usize) {
        // Nobody waits for most of those who block: then there is nothing to search, and nothing to measure.
        if !contended.graph.is_waited_for(txn) {
            return;
        }
        let start = Instant::now();
        self.search(contended, txn, budget);
        if let Some(metrics) = &self.metrics {
            metrics.deadlock_checked(DeadlockSource::Locks, start.elapsed());
        }
    }

    fn search(&self, contended: &mut Contended, txn: TxnId, budget: usize) {
        loop {
            match contended.graph.cycle_through(txn, budget) {
                Search::None => return,
                Search::OutOfBudget => {
                    contended.owed.push(txn);
                    self.owe_sweep();
                    return;
                }
                Search::Cycle(hops) => self.break_cycle(contended, &hops),
            }
        }
    }

    fn break_cycle(&self, contended: &mut Contended, hops: &[Hop]) {
        if hops.iter().any(|hop| self.let_pass(contended, hop)) {
            tracing::debug!(waits = hops.len(), "a circle of lock waits was opened by reordering a queue");
            return;
        }
        let standing =
            |hop: &Hop| (hop.waiter, contended.waits.get(&hop.wait).map_or_else(Standing::default, |w| w.standing));
        let scores = rank(hops.iter().map(standing), clock::now_us());
        let Some(victim) = scores.first().map(|score| score.transaction) else { return };
        let cycle = hops.iter().filter_map(|hop| contended.edge(hop)).collect();
        let deadlock = Arc::new(Deadlock { cycle, scores, victim });
        self.refuse_waits(contended, victim, &deadlock);
    }

    /// Refuses all waits of `victim`: it aborts, so none of them is of use to it.
    fn refuse_waits(&self, contended: &mut Contended, victim: TxnId, deadlock: &Arc<Deadlock>) {
        let waits: Vec<u64> =
            contended.waits.iter().filter(|(_, wait)| wait.txn == victim).map(|(number, _)| *number).collect();
        for number in waits {
            self.end_wait(contended, number, Some(deadlock));
        }
    }

    /// Refuses the waits of `victim`, if its wait `number` still stands. For a cycle that was found elsewhere.
    pub(super) fn refuse(&self, victim: TxnId, number: u64, deadlock: &Arc<Deadlock>) -> bool {
        let mut contended = self.contended();
        if contended.waits.get(&number).is_none_or(|wait| wait.txn != victim) {
            return false;
        }
        self.refuse_waits(&mut contended, victim, deadlock);
        self.settle(&mut contended);
        true
    }

    /// Lets the waiter of `hop` pass the one in its way, if that one only came earlier and no new cycle comes of it.
    /// Nobody passes a holder, and nobody passes an upgrade: upgrades go first.
    fn let_pass(&self, contended: &mut Contended, hop: &Hop) -> bool {
        let Some(key) = contended.waits.get(&hop.wait).map(|wait| wait.key.clone()) else { return false };
        let mut shard = self.shard(&key);
        let Some(queue) = shard.queue_mut(&key) else { return false };
        let wanted = queue.waiters().find(|(waiter, _)| waiter.number == hop.wait).map(|(_, wanted)| wanted);
        let holds = |mode: Mode| queue.holds(hop.holder).is_some_and(|held| !held.is_compatible(mode));
        if wanted.is_none_or(holds) {
            return false;
        }
        let Some(moved) = queue.advance(hop.wait, hop.holder) else { return false };
        // Whoever stands right behind has somebody else before it now.
        let changed = Changed { holders: false, from: moved.1, to: moved.0 + 1 };
        let before = std::mem::take(&mut contended.gained);
        contended.point(&shard, &key, changed);
        let pointed = std::mem::replace(&mut contended.gained, before);
        let still = |txn: &TxnId| contended.graph.cycle_through(*txn, BUDGET) != Search::None;
        if pointed.iter().any(still) {
            if let Some(queue) = shard.queue_mut(&key) {
                queue.undo_advance(moved);
            }
            let before = contended.gained.len();
            contended.point(&shard, &key, changed);
            contended.gained.truncate(before);
            return false;
        }
        let mut admitted = Vec::new();
        shard.admit(&key, &mut admitted);
        contended.point(&shard, &key, Changed::ALL);
        drop(shard);
        self.tell(contended, &admitted);
        true
    }
}
