//! Who waits for whom, as a picture: DOT for Graphviz, and SVG by a layout of our own.

mod layout;
mod svg;

use std::fmt::Write as _;

use crate::txn::{NodeView, WaitForView};

pub(super) use self::svg::svg;

/// How the graph is to be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Json,
    Dot,
    Svg,
}

/// The first form that an `Accept` header names; JSON where it names none of ours.
pub(super) fn wanted(accept: &str) -> Form {
    let kind = |item: &str| match item.split(';').next().unwrap_or_default().trim() {
        "application/json" => Some(Form::Json),
        "text/vnd.graphviz" => Some(Form::Dot),
        "image/svg+xml" => Some(Form::Svg),
        _ => None,
    };
    accept.split(',').find_map(kind).unwrap_or(Form::Json)
}

/// For `dot -Tsvg` and its like.
pub(super) fn dot(view: &WaitForView) -> String {
    let mut text = String::from("digraph wait_for {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
    for node in &view.nodes {
        let label = format!("{}\n{}", title(node), node.state);
        let _ = writeln!(text, "  {} [label={}];", quoted(&node.id), quoted(&label));
    }
    for edge in &view.edges {
        let (waiter, holder) = (edge.waiter.to_string(), edge.holder.to_string());
        let label = format!("{}: {}", edge.source, edge.resource);
        let _ = writeln!(text, "  {} -> {} [label={}];", quoted(&waiter), quoted(&holder), quoted(&label));
    }
    text.push_str("}\n");
    text
}

/// What people call it.
fn title(node: &NodeView) -> &str {
    node.name.as_deref().unwrap_or(&node.id)
}

/// A DOT string. Only the quote and the backslash are special in it.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests;
