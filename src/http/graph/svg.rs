//! The picture.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::layout::{BOX, LABEL, LINE, Layout, MARGIN, layout, to_f64};
use super::title;
use crate::model::wait::WaitEdge;
use crate::txn::{NodeView, WaitForView};

/// More than this nobody can look at.
const MOST_NODES: usize = 500;
const MOST_EDGES: usize = 5_000;
/// Characters that fit in a box, and on an edge's line, in the fonts below.
const TITLE_CHARS: usize = 36;
const LABEL_CHARS: usize = 40;

/// Boxes for those who wait or are waited for, lines for the waits; those that close a circle are red.
pub(in crate::http) fn svg(view: &WaitForView) -> String {
    let nodes = &view.nodes[..view.nodes.len().min(MOST_NODES)];
    let places: HashMap<&str, usize> = nodes.iter().enumerate().map(|(at, node)| (node.id.as_str(), at)).collect();
    let ends = |edge: &WaitEdge| {
        let place = |party: &crate::model::wait::Party| places.get(party.to_string().as_str()).copied();
        Some((place(&edge.waiter)?, place(&edge.holder)?))
    };
    let drawn: Vec<(&WaitEdge, (usize, usize))> =
        view.edges.iter().filter_map(|edge| Some((edge, ends(edge)?))).take(MOST_EDGES).collect();
    let pairs: Vec<_> = drawn.iter().map(|(_, ends)| *ends).collect();
    let plan = layout(nodes.len(), &pairs);
    let left_out = view.nodes.len() - nodes.len() + view.edges.len() - drawn.len();
    let height = plan.height + if left_out > 0 { LINE + MARGIN } else { 0.0 };
    let mut text = String::with_capacity(1024 * (nodes.len() + drawn.len() + 1));
    let _ = write!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {0:.0} {height:.0}\">\n{HEAD}",
        plan.width
    );
    for (at, (edge, ends)) in drawn.iter().enumerate() {
        draw_edge(&mut text, &plan, at, edge, *ends);
    }
    // Above all lines, on a white rim: whatever passes below leaves them readable.
    for (at, (edge, (waiter, _))) in drawn.iter().enumerate() {
        draw_label(&mut text, &plan, at, edge, *waiter);
    }
    for (at, node) in nodes.iter().enumerate() {
        draw_node(&mut text, plan.nodes[at], node);
    }
    let note = match (nodes.len(), left_out) {
        (0, _) => Some(("nobody waits".to_owned(), MARGIN + LINE)),
        (_, 0) => None,
        (_, n) => Some((format!("{n} more are not drawn: ask for JSON"), plan.height + LINE)),
    };
    if let Some((note, y)) = note {
        let _ = writeln!(text, "<text class=\"t\" x=\"{MARGIN}\" y=\"{y:.0}\">{note}</text>");
    }
    text.push_str("</svg>\n");
    text
}

const HEAD: &str = "<style>\
    svg{background:#fff}\
    rect{fill:#f4f7fb;stroke:#4a6fa5}\
    .foreign rect{fill:#fdf3e3;stroke:#b07d2b}.lease rect{fill:#eef7ee;stroke:#4c8a4c}\
    .t{font:600 10px monospace;fill:#1c2733}.s{font:10px sans-serif;fill:#5b6875}\
    .l{font:10px monospace;fill:#33414f;paint-order:stroke;stroke:#fff;stroke-width:3px}\
    path{fill:none;stroke:#7b8794;stroke-width:1.2;marker-end:url(#a)}\
    .c path{stroke:#c62828;stroke-width:1.8;marker-end:url(#b)}.k{fill:#c62828}\
    </style>\n<defs>\
    <marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0 8 4 0 8z\" style=\"fill:#7b8794;stroke:none;marker-end:none\"/></marker>\
    <marker id=\"b\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"6\" markerHeight=\"6\" orient=\"auto\"><path d=\"M0 0 8 4 0 8z\" style=\"fill:#c62828;stroke:none;marker-end:none\"/></marker>\
    </defs>\n";

fn draw_node(text: &mut String, (x, y): (f64, f64), node: &NodeView) {
    let class = match node.state {
        "foreign" => "foreign",
        "lease" => "lease",
        _ => "ours",
    };
    let (name, state) = (shown(title(node), TITLE_CHARS), escaped(node.state));
    let _ = writeln!(
        text,
        "<g class=\"{class}\"><title>{}</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{}\" height=\"{}\" rx=\"4\"/>\
         <text class=\"t\" x=\"{tx:.1}\" y=\"{:.1}\">{name}</text><text class=\"s\" x=\"{tx:.1}\" y=\"{:.1}\">{state}</text></g>",
        escaped(&node.id),
        BOX.0,
        BOX.1,
        y + 15.0,
        y + 29.0,
        tx = x + 8.0,
    );
}

/// A straight line that carries the label, and a bend to the holder's box. What closes a circle goes back below.
fn draw_edge(text: &mut String, plan: &Layout, at: usize, edge: &WaitEdge, (waiter, holder): (usize, usize)) {
    let ((wx, _), (hx, hy)) = (plan.nodes[waiter], plan.nodes[holder]);
    let (y, circular) = plan.edges[at];
    let (from, bend) = (wx + BOX.0, wx + BOX.0 + LABEL);
    let path = if hx > wx {
        // Arrows at one box spread over its side, so that they can be told apart.
        let spread = (to_f64(at % 5) - 2.0) * 5.0;
        let end = hy + BOX.1 / 2.0 + spread;
        format!("M{from:.1} {y:.1}H{bend:.1}C{:.1} {y:.1} {:.1} {end:.1} {hx:.1} {end:.1}", bend + 45.0, hx - 45.0)
    } else {
        let (end, foot) = (hx + BOX.0 / 2.0, hy + BOX.1);
        let low = y.max(foot) + 40.0;
        format!("M{from:.1} {y:.1}H{bend:.1}C{:.1} {low:.1} {end:.1} {low:.1} {end:.1} {foot:.1}", bend + 70.0)
    };
    let class = if circular { "c" } else { "e" };
    let _ =
        writeln!(text, "<g class=\"{class}\"><title>{}</title><path d=\"{path}\"/></g>", escaped(&edge.to_string()));
}

fn draw_label(text: &mut String, plan: &Layout, at: usize, edge: &WaitEdge, waiter: usize) {
    let (y, circular) = plan.edges[at];
    let class = if circular { "k" } else { "l" };
    let (x, y) = (plan.nodes[waiter].0 + BOX.0 + 6.0, y - 3.0);
    let label = shown(&format!("{}: {}", edge.source, edge.resource), LABEL_CHARS);
    let full = escaped(&edge.to_string());
    let _ = writeln!(text, "<text class=\"l {class}\" x=\"{x:.1}\" y=\"{y:.1}\"><title>{full}</title>{label}</text>");
}

/// Cut to what fits, in the middle: both ends of a name tell most.
fn shown(text: &str, most: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= most {
        return escaped(text);
    }
    let (head, tail) = (most / 2, most - most / 2 - 1);
    let cut: String = chars[..head].iter().chain(&['…']).chain(&chars[chars.len() - tail..]).collect();
    escaped(&cut)
}

/// As XML takes it. Control characters have no form in it at all.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
