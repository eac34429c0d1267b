//! The wait-for graph of the lock table: who waits for whom. Pure.
//!
//! It knows only transactions that wait or are waited for, so nobody pays for it before somebody blocks. An edge leads
//! from a waiter to each conflicting holder and each earlier conflicting waiter; behind a waiter that stands for others
//! too, one edge is enough (`Queue::tell_blockers`). All of a transaction's waits must end before it goes on, so a
//! circle of edges *is* a deadlock (the AND model; Knapp 1987, "Deadlock Detection in Distributed Databases").
//!
//! Every search here is a loop with a list, never a recursion: a chain of a hundred thousand waiters must not overflow a
//! thread's stack. That rules out petgraph's `is_cyclic_directed`, `tarjan_scc` and `Acyclic`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use petgraph::Direction;
use petgraph::stable_graph::{EdgeIndex, NodeIndex, StableDiGraph};
use petgraph::visit::{EdgeRef, IntoEdgeReferences};

use crate::model::ids::TxnId;

/// One edge of a cycle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// The wait that it belongs to.
    pub wait: u64,
    /// Who waits.
    pub waiter: TxnId,
    /// Who is in the way.
    pub holder: TxnId,
}

/// What a search for a cycle found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Search {
    /// There is none through this transaction.
    None,
    /// One of the shortest: each hop's holder is the next one's waiter, the last one's the first's.
    Cycle(Vec<Hop>),
    /// The budget was spent before the answer was certain.
    OutOfBudget,
}

/// The graph.
#[derive(Debug, Default)]
pub struct WaitFor {
    graph: StableDiGraph<TxnId, u64>,
    nodes: HashMap<TxnId, NodeIndex>,
    waits: HashMap<u64, Vec<EdgeIndex>>,
    scout: Scout,
}

impl WaitFor {
    /// Points a wait at exactly these holders. True: there is one that it did not point at before, so a cycle may have
    /// been closed.
    pub fn point(&mut self, wait: u64, waiter: TxnId, holders: &[TxnId]) -> bool {
        let before = self.waits.remove(&wait).unwrap_or_default();
        let mut edges = Vec::with_capacity(holders.len());
        let mut gone = Vec::new();
        for edge in before {
            let holder = self.graph.edge_endpoints(edge).map(|(_, holder)| self.graph[holder]);
            if holder.is_some_and(|holder| holders.contains(&holder)) { edges.push(edge) } else { gone.push(edge) }
        }
        let kept = edges.len();
        if kept < holders.len() {
            let from = self.node(waiter);
            for holder in holders {
                let known = |edge: &EdgeIndex| self.graph.edge_endpoints(*edge).map(|(_, to)| self.graph[to]);
                if !edges[..kept].iter().any(|edge| known(edge) == Some(*holder)) {
                    let to = self.node(*holder);
                    edges.push(self.graph.add_edge(from, to, wait));
                }
            }
        }
        let gained = edges.len() > kept;
        // After the new ones, so that no node goes and comes back.
        gone.into_iter().for_each(|edge| self.cut(edge));
        if !edges.is_empty() {
            self.waits.insert(wait, edges);
        }
        gained
    }

    /// A wait ended, however.
    pub fn forget(&mut self, wait: u64) {
        for edge in self.waits.remove(&wait).unwrap_or_default() {
            self.cut(edge);
        }
    }

    fn node(&mut self, txn: TxnId) -> NodeIndex {
        match self.nodes.entry(txn) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(vacant) => *vacant.insert(self.graph.add_node(txn)),
        }
    }

    fn cut(&mut self, edge: EdgeIndex) {
        let Some((from, to)) = self.graph.edge_endpoints(edge) else { return };
        self.graph.remove_edge(edge);
        for node in [from, to] {
            let lonely = |direction| self.graph.edges_directed(node, direction).next().is_none();
            if lonely(Direction::Incoming)
                && lonely(Direction::Outgoing)
                && let Some(txn) = self.graph.remove_node(node)
            {
                self.nodes.remove(&txn);
            }
        }
    }

    /// Looks for a cycle through `txn`, visiting at most `budget` edges. Costs nothing when nobody waits for `txn`.
    pub fn cycle_through(&mut self, txn: TxnId, budget: usize) -> Search {
        let Some(start) = self.nodes.get(&txn) else { return Search::None };
        if !self.is_waited_for(txn) {
            return Search::None;
        }
        match self.scout.cycle(&self.graph, *start, budget) {
            Ok(None) => Search::None,
            Err(OutOfBudget) => Search::OutOfBudget,
            Ok(Some(edges)) => {
                let hop = |edge: EdgeIndex| {
                    let (waiter, holder) = self.graph.edge_endpoints(edge)?;
                    Some(Hop { wait: self.graph[edge], waiter: self.graph[waiter], holder: self.graph[holder] })
                };
                Search::Cycle(edges.into_iter().filter_map(hop).collect())
            }
        }
    }

    /// Whether anybody waits for it.
    #[must_use]
    pub fn is_waited_for(&self, txn: TxnId) -> bool {
        let node = self.nodes.get(&txn);
        node.is_some_and(|node| self.graph.edges_directed(*node, Direction::Incoming).next().is_some())
    }

    /// Every edge.
    pub fn edges(&self) -> impl Iterator<Item = Hop> {
        self.graph.edge_references().map(|edge| Hop {
            wait: *edge.weight(),
            waiter: self.graph[edge.source()],
            holder: self.graph[edge.target()],
        })
    }

    /// How many transactions wait or are waited for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.graph.node_count()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// More edges were met than the search was allowed to visit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfBudget;

/// A breadth-first search that keeps its memory between calls.
#[derive(Debug, Default)]
pub struct Scout {
    /// By node: the turn in which it was last seen. Never cleared.
    seen: Vec<u32>,
    turn: u32,
    /// The nodes in the order of being seen, each with the edge and the place of the node that led to it.
    trail: Vec<(NodeIndex, Option<(EdgeIndex, usize)>)>,
}

impl Scout {
    /// A shortest cycle through `start`, as its edges in order.
    ///
    /// # Errors
    /// [`OutOfBudget`].
    pub fn cycle<N, E>(
        &mut self,
        graph: &StableDiGraph<N, E>,
        start: NodeIndex,
        budget: usize,
    ) -> Result<Option<Vec<EdgeIndex>>, OutOfBudget> {
        self.begin(start);
        let (mut at, mut visits) = (0, 0);
        while let Some((node, _)) = self.trail.get(at).copied() {
            for edge in graph.edges(node) {
                visits += 1;
                if visits > budget {
                    return Err(OutOfBudget);
                }
                if edge.target() == start {
                    return Ok(Some(self.way_to(at, edge.id())));
                }
                if self.is_new(edge.target()) {
                    self.trail.push((edge.target(), Some((edge.id(), at))));
                }
            }
            at += 1;
        }
        Ok(None)
    }

    fn begin(&mut self, start: NodeIndex) {
        self.trail.clear();
        self.trail.push((start, None));
        self.turn = self.turn.wrapping_add(1);
        if self.turn == 0 {
            self.seen.clear();
            self.turn = 1;
        }
        self.is_new(start);
    }

    fn is_new(&mut self, node: NodeIndex) -> bool {
        if self.seen.len() <= node.index() {
            self.seen.resize(node.index() + 1, 0);
        }
        std::mem::replace(&mut self.seen[node.index()], self.turn) != self.turn
    }

    /// The edges from the start to the node at `at`, and then `last`.
    fn way_to(&self, mut at: usize, last: EdgeIndex) -> Vec<EdgeIndex> {
        let mut way = vec![last];
        while let Some((edge, before)) = self.trail[at].1 {
            way.push(edge);
            at = before;
        }
        way.reverse();
        way
    }
}
