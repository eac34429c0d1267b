//! Circles in edges from several places. Pure.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::kosaraju_scc;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};

use crate::lock::wait_for::Scout;
use crate::model::wait::{Party, WaitEdge};

/// The edges of `again` that stood in `first` too: the same wait for the same holder, in the same epoch.
pub(super) fn seen_twice(first: &[WaitEdge], again: Vec<WaitEdge>) -> Vec<WaitEdge> {
    let name = |edge: &WaitEdge| (edge.waiter.clone(), edge.holder.clone(), edge.source.clone(), edge.epoch);
    let before: BTreeSet<_> = first.iter().map(name).collect();
    again.into_iter().filter(|edge| before.contains(&name(edge))).collect()
}

/// Circles such that no two share a member: one of each knot, as short as can be. Breaking one may leave another of the
/// same knot, which the next look finds. No recursion: Kosaraju's algorithm in petgraph is a loop, Tarjan's is not.
pub(super) fn find(edges: &[WaitEdge]) -> Vec<Vec<WaitEdge>> {
    let mut graph: StableDiGraph<&Party, usize> = StableDiGraph::new();
    let mut nodes: BTreeMap<&Party, NodeIndex> = BTreeMap::new();
    for (at, edge) in edges.iter().enumerate().filter(|(_, edge)| edge.waiter != edge.holder) {
        let mut node = |party| *nodes.entry(party).or_insert_with(|| graph.add_node(party));
        let (from, to) = (node(&edge.waiter), node(&edge.holder));
        graph.add_edge(from, to, at);
    }
    let mut scout = Scout::default();
    let knots = kosaraju_scc(&graph).into_iter().filter(|knot| knot.len() > 1);
    let circle = |knot: Vec<NodeIndex>| {
        // From everybody where the knot is small: the shortest says best what happened.
        let starts = knot.iter().take(16);
        let circles = starts.filter_map(|start| scout.cycle(&graph, *start, usize::MAX).ok().flatten());
        let shortest = circles.min_by_key(Vec::len)?;
        Some(shortest.into_iter().map(|edge| edges[graph[edge]].clone()).collect())
    };
    knots.filter_map(circle).collect()
}
