//! Payload paths (`a.b`, `a[0]`, `a[].b`, `"odd key".x`) and what writes through them do, as the engine does it: for
//! reads of a transaction's own writes.

use serde_json::{Map, Value};

use super::json::{Bad, text};

/// A path into a payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Path {
    first: String,
    rest: Vec<Item>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Item {
    Key(String),
    Index(usize),
    Every,
}

impl Path {
    /// Reads a path; what the engine would not take is refused.
    pub(super) fn parse(text: &str) -> Result<Self, Bad> {
        let bad = || Bad::new(format!("`{text}` is not a payload path"));
        let (first, mut left) = key(text).ok_or_else(bad)?;
        let mut rest = Vec::new();
        while !left.is_empty() {
            let item;
            (item, left) = step(left).ok_or_else(bad)?;
            rest.push(item);
        }
        Ok(Self { first, rest })
    }

    /// Merges `source` into what the path points to; without a path, into the payload itself.
    pub(super) fn merge(path: Option<&Self>, into: &mut Map<String, Value>, source: &Map<String, Value>) {
        match path {
            Some(path) => set_in(&path.first, &path.rest, into, source),
            None => merge(into, source),
        }
    }

    /// Removes what the path points to. An item of an array is not removed: that could not be repeated safely.
    pub(super) fn remove(&self, from: &mut Map<String, Value>) {
        match self.rest.split_first() {
            None => drop(from.shift_remove(&self.first)),
            Some((head, rest)) => {
                if let Some(value) = from.get_mut(&self.first) {
                    remove(head, rest, value);
                }
            }
        }
    }
}

/// The payload with nothing but what the paths name.
pub(super) fn include(paths: &[Path], payload: &Map<String, Value>) -> Map<String, Value> {
    let wanted = |at: &Path| {
        let meets = |p: &Path| p.first == at.first && p.rest.iter().zip(&at.rest).all(|(a, b)| a == b);
        paths.iter().any(meets)
    };
    filter(payload, &wanted)
}

/// The payload without what the paths name.
pub(super) fn exclude(paths: &[Path], payload: &Map<String, Value>) -> Map<String, Value> {
    let wanted = |at: &Path| !paths.iter().any(|p| p == at);
    filter(payload, &wanted)
}

fn filter(payload: &Map<String, Value>, wanted: &dyn Fn(&Path) -> bool) -> Map<String, Value> {
    let mut kept = Map::new();
    for (key, value) in payload {
        let mut at = Path { first: key.clone(), rest: Vec::new() };
        if wanted(&at) {
            kept.insert(key.clone(), filter_value(&mut at, value, wanted));
        }
    }
    kept
}

fn filter_value(at: &mut Path, value: &Value, wanted: &dyn Fn(&Path) -> bool) -> Value {
    match value {
        Value::Array(items) => {
            at.rest.push(Item::Every);
            // All items have the same path.
            let items: &[Value] = if wanted(at) { items } else { &[] };
            let kept = items.iter().map(|item| filter_value(at, item, wanted)).collect();
            at.rest.pop();
            Value::Array(kept)
        }
        Value::Object(map) => {
            let mut kept = Map::new();
            for (key, item) in map {
                at.rest.push(Item::Key(key.clone()));
                if wanted(at) {
                    kept.insert(key.clone(), filter_value(at, item, wanted));
                }
                at.rest.pop();
            }
            Value::Object(kept)
        }
        plain => plain.clone(),
    }
}

/// Reads a list of paths.
pub(super) fn parse_all(texts: &[String]) -> Result<Vec<Path>, Bad> {
    texts.iter().map(|text| Path::parse(text)).collect()
}

/// Text that is a path.
pub(super) fn read(value: &Value) -> Result<String, Bad> {
    let path = text(value)?;
    Path::parse(&path)?;
    Ok(path)
}

fn key(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (name, left) = quoted.split_once('"')?;
        return (!name.contains('\\')).then(|| (name.to_owned(), left));
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

fn step(text: &str) -> Option<(Item, &str)> {
    if let Some(left) = text.strip_prefix('.') {
        let (name, left) = key(left)?;
        return Some((Item::Key(name), left));
    }
    let (index, left) = text.strip_prefix('[')?.split_once(']')?;
    let is_index = !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit());
    match index {
        "" => Some((Item::Every, left)),
        index if is_index => Some((Item::Index(index.parse().ok()?), left)),
        _ => None,
    }
}

/// A null takes its key away.
fn merge(into: &mut Map<String, Value>, source: &Map<String, Value>) {
    for (key, value) in source {
        if value.is_null() {
            into.shift_remove(key);
        } else {
            into.insert(key.clone(), value.clone());
        }
    }
}

fn set_in(key: &str, rest: &[Item], into: &mut Map<String, Value>, source: &Map<String, Value>) {
    set(rest, into.entry(key).or_insert(Value::Null), source);
}

fn set(path: &[Item], into: &mut Value, source: &Map<String, Value>) {
    match path.split_first() {
        None => merge(as_object(into), source),
        Some((Item::Key(key), rest)) => set_in(key, rest, as_object(into), source),
        Some((Item::Index(index), rest)) => {
            if let Some(item) = as_array(into).get_mut(*index) {
                set(rest, item, source);
            }
        }
        Some((Item::Every, rest)) => {
            for item in as_array(into) {
                set(rest, item, source);
            }
        }
    }
}

fn as_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made one just now")
}

fn as_array(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("it was made one just now")
}

fn remove(head: &Item, rest: &[Item], value: &mut Value) {
    match (rest.split_first(), head, value) {
        (None, Item::Key(key), Value::Object(map)) => drop(map.shift_remove(key)),
        (None, Item::Every, Value::Array(items)) => items.clear(),
        (Some((next, rest)), Item::Key(key), Value::Object(map)) => {
            if let Some(value) = map.get_mut(key) {
                remove(next, rest, value);
            }
        }
        (Some((next, rest)), Item::Index(index), Value::Array(items)) => {
            if let Some(value) = items.get_mut(*index) {
                remove(next, rest, value);
            }
        }
        (Some((next, rest)), Item::Every, Value::Array(items)) => {
            for value in items {
                remove(next, rest, value);
            }
        }
        _ => {}
    }
}
