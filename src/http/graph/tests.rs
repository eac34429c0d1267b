//! Pictures of graphs of every shape: nothing overlaps, nothing is left out, and no name breaks out of its place.

use proptest::prelude::*;

use super::layout::{BOX, LABEL, LINE, layout};
use super::*;
use crate::model::wait::{Party, Source, WaitEdge};

fn view(count: usize, pairs: &[(usize, usize)], name: &str) -> WaitForView {
    let party = |at: usize| Party::Foreign(format!("{name}{at}").into());
    let node = |at: usize| NodeView { id: party(at).to_string(), name: None, state: "foreign" };
    let edge = |(at, (waiter, holder)): (usize, &(usize, usize))| WaitEdge {
        waiter: party(*waiter),
        holder: party(*holder),
        source: Source::Locks,
        resource: format!("orders/{at}"),
        epoch: 1,
        since_us: 0,
    };
    WaitForView { nodes: (0..count).map(node).collect(), edges: pairs.iter().enumerate().map(edge).collect() }
}

/// Boxes and labels as rectangles: none may meet another.
fn overlaps(count: usize, pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let plan = layout(count, pairs);
    let boxes = plan.nodes.iter().map(|(x, y)| (*x, *y, BOX.0, BOX.1));
    let labels = plan
        .edges
        .iter()
        .zip(pairs)
        .map(|((y, _), (waiter, _))| (plan.nodes[*waiter].0 + BOX.0, y - LINE + 2.5, LABEL, LINE - 1.0));
    let all: Vec<(f64, f64, f64, f64)> = boxes.chain(labels).collect();
    let mut found = Vec::new();
    for (a, one) in all.iter().enumerate() {
        assert!(one.0 >= 0.0 && one.1 >= 0.0 && one.0 + one.2 <= plan.width && one.1 + one.3 <= plan.height, "{one:?}");
        for (b, other) in all.iter().enumerate().skip(a + 1) {
            let apart = one.0 + one.2 <= other.0
                || other.0 + other.2 <= one.0
                || one.1 + one.3 <= other.1
                || other.1 + other.3 <= one.1;
            if !apart {
                found.push((a, b));
            }
        }
    }
    found
}

#[test]
fn the_accepted_form_is_found() {
    for (accept, form) in [
        ("", Form::Json),
        ("*/*", Form::Json),
        ("text/html,application/xhtml+xml;q=0.9,*/*", Form::Json),
        ("image/svg+xml", Form::Svg),
        ("text/html, image/svg+xml;q=0.8", Form::Svg),
        ("text/vnd.graphviz; charset=utf-8", Form::Dot),
        ("application/json, image/svg+xml", Form::Json),
    ] {
        assert_eq!(wanted(accept), form, "{accept}");
    }
}

#[test]
fn everybody_who_waits_stands_left_of_whom_they_wait_for() {
    let chain: Vec<_> = (0..9).map(|at| (at, at + 1)).collect();
    let plan = layout(10, &chain);
    assert!(plan.nodes.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert!(plan.edges.iter().all(|(_, circular)| !circular));
    let star: Vec<_> = (1..50).map(|at| (at, 0)).collect();
    assert_eq!(overlaps(50, &star), []);
    // Everybody waits for everybody before them, as behind one key.
    let queue: Vec<_> = (0..50_usize).flat_map(|at| (0..at.min(4)).map(move |back| (at, at - back - 1))).collect();
    assert_eq!(overlaps(50, &queue), []);
}

#[test]
fn what_closes_a_circle_is_marked() {
    let plan = layout(5, &[(0, 1), (1, 2), (2, 0), (3, 0), (4, 4)]);
    let circular: Vec<_> = plan.edges.iter().map(|(_, circular)| *circular).collect();
    assert_eq!(circular, [true, true, true, false, true]);
    let text = svg(&view(5, &[(0, 1), (1, 2), (2, 0), (3, 0)], "p"));
    assert_eq!((text.matches("<g class=\"c\">").count(), text.matches("<g class=\"e\">").count()), (3, 1));
}

#[test]
fn long_chains_and_no_graph_at_all_are_drawn() {
    assert!(svg(&view(0, &[], "")).contains("nobody waits"));
    let chain: Vec<_> = (0..999).map(|at| (at, at + 1)).collect();
    let text = svg(&view(1000, &chain, "p"));
    assert!(text.contains("more are not drawn"));
    assert_eq!(text.matches("<rect").count(), 500);
}

#[test]
fn names_stay_in_their_place() {
    let evil = "\"]; x -> y; \\ </text><script>&\u{1}";
    let graph = view(2, &[(0, 1)], evil);
    let picture = svg(&graph);
    assert!(!picture.contains("<script") && !picture.contains('\u{1}'), "{picture}");
    assert_eq!(picture.matches("</text>").count(), picture.matches("<text").count());
    let text = dot(&graph);
    let bare = text.replace("\\\\", "").replace("\\\"", "");
    assert_eq!(bare.matches('"').count() % 2, 0, "{text}");
    assert_eq!(text.matches(" -> ").count(), 1 + 2 * 2 + 2, "in its own text only: {text}");
}

proptest! {
    #[test]
    fn nothing_meets_anything(count in 1_usize..40, seeds in prop::collection::vec((0_usize..40, 0_usize..40), 0..120)) {
        let pairs: Vec<_> = seeds.into_iter().map(|(a, b)| (a % count, b % count)).collect();
        prop_assert_eq!(overlaps(count, &pairs), vec![]);
        let text = svg(&view(count, &pairs, "p"));
        prop_assert_eq!(text.matches("<path d=\"M").count(), pairs.len() + 2);
    }
}
