//! Where everything stands: layers from left to right, so that every edge points to the right but those that close a
//! circle (after Sugiyama, Tagawa & Toda 1981, without their dummy nodes: edges here are curves between two columns).
//!
//! ```text
//!   column 0             column 1             column 2
//!   ┌────────┐ label ──► ┌────────┐ label ──► ┌────────┐      each waiter's edges begin in lines of their own beside its
//!   │ waiter │ label ──┐ │        │           │ holder │      box, with their labels on them: a row is as high as it has
//!   └────────┘         └►└────────┘           └────────┘      lines, so no label ever meets another
//! ```

use std::collections::HashMap;

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

/// A box's width, and the least height of a row.
pub(super) const BOX: (f64, f64) = (240.0, 36.0);
/// A line for an edge's label beside its box.
pub(super) const LINE: f64 = 15.0;
/// How wide labels are, and the room behind them where edges bend.
pub(super) const LABEL: f64 = 250.0;
const BEND: f64 = 90.0;
/// Between rows, and around everything.
const GAP: f64 = 14.0;
pub(super) const MARGIN: f64 = 20.0;

/// Every node's and edge's place.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Layout {
    /// The upper left corner of each node's box.
    pub(super) nodes: Vec<(f64, f64)>,
    /// For each edge: the height of its line, and whether it is part of a circle.
    pub(super) edges: Vec<(f64, bool)>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// Places `count` nodes and the edges between them, each from its waiter to its holder.
pub(super) fn layout(count: usize, edges: &[(usize, usize)]) -> Layout {
    if count == 0 {
        return Layout { width: 2.0 * MARGIN + BOX.0, height: 2.0 * MARGIN + BOX.1, ..Layout::default() };
    }
    let layers = layers(count, edges);
    let deepest = layers.iter().copied().max().unwrap_or(0);
    let mut out_of = vec![0_usize; count];
    edges.iter().for_each(|(waiter, _)| out_of[*waiter] += 1);
    let row = |node: usize| (LINE * to_f64(out_of[node])).max(BOX.1) + GAP;
    let columns: Vec<Vec<usize>> =
        (0..=deepest).map(|layer| (0..count).filter(|node| layers[*node] == layer).collect()).collect();
    let heights: Vec<f64> = columns.iter().map(|column| column.iter().map(|node| row(*node)).sum()).collect();
    let height = heights.iter().copied().fold(0.0, f64::max);
    let mut nodes = vec![(0.0, 0.0); count];
    // From those whom everybody waits for to those who wait: each column in the order of what it points at.
    for (layer, mut column) in columns.into_iter().enumerate() {
        let aim = |node: usize| {
            let aims = edges.iter().filter(|(waiter, holder)| *waiter == node && layers[*holder] < layer);
            let (sum, number) = aims.fold((0.0, 0), |(sum, number), (_, holder)| (sum + nodes[*holder].1, number + 1));
            if number == 0 { 0.0 } else { sum / to_f64(number) }
        };
        let aims: HashMap<usize, f64> = column.iter().map(|node| (*node, aim(*node))).collect();
        column.sort_by(|a, b| aims[a].total_cmp(&aims[b]).then(a.cmp(b)));
        let x = MARGIN + to_f64(deepest - layer) * (BOX.0 + LABEL + BEND);
        let mut y = MARGIN + (height - heights[layer]) / 2.0;
        for node in column {
            nodes[node] = (x, y);
            y += row(node);
        }
    }
    let lines = lines(&nodes, edges);
    let width = 2.0 * MARGIN + to_f64(deepest) * (BOX.0 + LABEL + BEND) + BOX.0;
    // The last column has edges of its own only where they close a circle.
    let width = if edges.iter().any(|(waiter, _)| layers[*waiter] == 0) { width + LABEL + BEND } else { width };
    // What goes back, goes back below.
    let below = if edges.iter().any(|(waiter, holder)| nodes[*holder].0 <= nodes[*waiter].0) { MARGIN } else { 0.0 };
    let circles = in_circles(count, edges);
    let edges = lines.into_iter().zip(circles).collect();
    Layout { nodes, edges, width, height: height + 2.0 * MARGIN + below }
}

/// The height of each edge's line: below one another beside their waiter, in the order of what they point at.
fn lines(nodes: &[(f64, f64)], edges: &[(usize, usize)]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..edges.len()).collect();
    order.sort_by(|a, b| nodes[edges[*a].1].1.total_cmp(&nodes[edges[*b].1].1).then(a.cmp(b)));
    let mut used = vec![0_usize; nodes.len()];
    let mut heights = vec![0.0; edges.len()];
    for edge in order {
        let waiter = edges[edge].0;
        heights[edge] = nodes[waiter].1 + LINE * (to_f64(used[waiter]) + 1.0) - 2.0;
        used[waiter] += 1;
    }
    heights
}

/// Each node's layer: 0 waits for nobody, the others stand one above the highest that they wait for. In a circle
/// somebody has to be lowest: whoever waits for the fewest.
fn layers(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut waiters = vec![Vec::new(); count];
    let mut left = vec![0_usize; count];
    for (waiter, holder) in edges.iter().filter(|(waiter, holder)| waiter != holder) {
        waiters[*holder].push(*waiter);
        left[*waiter] += 1;
    }
    let mut layers = vec![0; count];
    let mut placed = vec![false; count];
    let mut ready: Vec<usize> = (0..count).filter(|node| left[*node] == 0).collect();
    for _ in 0..count {
        let next = ready.pop().or_else(|| (0..count).filter(|node| !placed[*node]).min_by_key(|node| left[*node]));
        let Some(node) = next else { break };
        placed[node] = true;
        for waiter in &waiters[node] {
            if placed[*waiter] {
                continue;
            }
            layers[*waiter] = layers[*waiter].max(layers[node] + 1);
            left[*waiter] -= 1;
            if left[*waiter] == 0 {
                ready.push(*waiter);
            }
        }
    }
    layers
}

/// Whether each edge is part of a circle.
fn in_circles(count: usize, edges: &[(usize, usize)]) -> Vec<bool> {
    let mut graph: DiGraph<(), ()> = DiGraph::new();
    let nodes: Vec<NodeIndex> = (0..count).map(|_| graph.add_node(())).collect();
    graph.extend_with_edges(edges.iter().map(|(waiter, holder)| (nodes[*waiter], nodes[*holder])));
    let mut knot = vec![0; count];
    // A loop, not a recursion: a chain of waits may be long.
    for (number, members) in kosaraju_scc(&graph).into_iter().enumerate() {
        members.into_iter().for_each(|node| knot[node.index()] = number);
    }
    edges.iter().map(|(waiter, holder)| knot[*waiter] == knot[*holder]).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a picture has fewer rows than a double has digits")]
pub(super) fn to_f64(number: usize) -> f64 {
    number as f64
}
