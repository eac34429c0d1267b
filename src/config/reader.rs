//! A section that is read key by key, and complains about what is left.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::secret::Secret;
use super::tree::Tree;

/// One table of the configuration while it is read.
pub(super) struct Section {
    /// `stores.pg`; empty at the root.
    path: String,
    left: BTreeMap<String, Tree>,
    asked: Vec<String>,
}

impl Section {
    pub(super) fn root(tree: Tree) -> Self {
        let left = if let Tree::Table(left) = tree { left } else { BTreeMap::new() };
        Self { path: String::new(), left, asked: Vec::new() }
    }

    /// The full name of one of its keys.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn take(&mut self, key: &str) -> Option<Tree> {
        self.asked.push(key.to_owned());
        self.left.remove(key)
    }

    /// A table below this one; empty where it is absent.
    pub(super) fn section(&mut self, key: &str, faults: &mut Vec<String>) -> Self {
        let path = self.name(key);
        let left = match self.take(key) {
            None => BTreeMap::new(),
            Some(Tree::Table(left)) => left,
            Some(_) => {
                faults.push(format!("{path} is a table, not a value: [{path}]"));
                BTreeMap::new()
            }
        };
        Self { path, left, asked: Vec::new() }
    }

    /// Every table below this one, by name (`[stores.*]`).
    pub(super) fn sections(mut self, faults: &mut Vec<String>) -> Vec<(String, Self)> {
        let names: Vec<String> = self.left.keys().cloned().collect();
        names.into_iter().map(|name| (name.clone(), self.section(&name, faults))).collect()
    }

    /// A value as text, with the place it comes from; text values only where it comes from the file.
    fn scalar(&mut self, key: &str, wants: &str, faults: &mut Vec<String>) -> Option<(String, Scalar)> {
        let name = self.name(key);
        match self.take(key)? {
            Tree::Env { variable, text } => Some((format!("{name} (from {variable})"), Scalar::Env(text))),
            Tree::Leaf(toml::Value::String(text)) => Some((name, Scalar::Text(text))),
            Tree::Leaf(toml::Value::Integer(number)) => Some((name, Scalar::Number(number))),
            Tree::Leaf(toml::Value::Boolean(flag)) => Some((name, Scalar::Flag(flag))),
            Tree::Leaf(other) => {
                faults.push(format!("{name} must be {wants}, not {}", other.type_str()));
                None
            }
            Tree::Table(_) => {
                faults.push(format!("{name} must be {wants}, not a table"));
                None
            }
        }
    }

    /// A whole number within bounds.
    pub(super) fn number(
        &mut self,
        key: &str,
        default: u64,
        bounds: RangeInclusive<u64>,
        faults: &mut Vec<String>,
    ) -> u64 {
        let Some((name, value)) = self.scalar(key, "a whole number", faults) else { return default };
        let number = match value {
            Scalar::Number(number) => u64::try_from(number).ok(),
            Scalar::Env(ref text) => text.trim().parse().ok(),
            Scalar::Text(_) | Scalar::Flag(_) => None,
        };
        match number {
            Some(number) if bounds.contains(&number) => number,
            _ => {
                let (least, most) = (bounds.start(), bounds.end());
                faults.push(format!("{name} must be a whole number from {least} to {most}, not {value}"));
                default
            }
        }
    }

    /// A count within bounds.
    pub(super) fn count(
        &mut self,
        key: &str,
        default: usize,
        bounds: RangeInclusive<u64>,
        faults: &mut Vec<String>,
    ) -> usize {
        let number = self.number(key, u64::try_from(default).unwrap_or(u64::MAX), bounds, faults);
        usize::try_from(number).unwrap_or(default)
    }

    /// Milliseconds within bounds.
    pub(super) fn millis(
        &mut self,
        key: &str,
        default: u64,
        bounds: RangeInclusive<u64>,
        faults: &mut Vec<String>,
    ) -> Duration {
        Duration::from_millis(self.number(key, default, bounds, faults))
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &str, default: bool, faults: &mut Vec<String>) -> bool {
        let Some((name, value)) = self.scalar(key, "true or false", faults) else { return default };
        let flag = match &value {
            Scalar::Flag(flag) => Some(*flag),
            Scalar::Env(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Some(true),
                "false" | "0" | "no" | "off" => Some(false),
                _ => None,
            },
            Scalar::Text(_) | Scalar::Number(_) => None,
        };
        flag.unwrap_or_else(|| {
            faults.push(format!("{name} must be true or false, not {value}"));
            default
        })
    }

    /// Text that is not empty.
    pub(super) fn text(&mut self, key: &str, faults: &mut Vec<String>) -> Option<String> {
        match self.scalar(key, "text", faults)? {
            (_, Scalar::Text(text) | Scalar::Env(text)) if !text.is_empty() => Some(text),
            (name, value) => {
                faults.push(format!("{name} must be text that is not empty, not {value}"));
                None
            }
        }
    }

    /// Text that must be there.
    pub(super) fn required(&mut self, key: &str, example: &str, faults: &mut Vec<String>) -> Option<String> {
        let was_there = self.left.contains_key(key);
        let text = self.text(key, faults);
        if !was_there {
            faults.push(format!("{} is missing: {key} = \"{example}\"", self.name(key)));
        }
        text
    }

    /// Text that reads as a `T`.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&mut self, key: &str, default: T, faults: &mut Vec<String>) -> T {
        let Some(text) = self.text(key, faults) else { return default };
        text.parse().unwrap_or_else(|e| {
            faults.push(format!("{}: {e}", self.name(key)));
            default
        })
    }

    /// A path.
    pub(super) fn path(&mut self, key: &str, faults: &mut Vec<String>) -> Option<PathBuf> {
        self.text(key, faults).map(PathBuf::from)
    }

    /// The secret in the file that this key names.
    pub(super) fn secret(&mut self, key: &str, faults: &mut Vec<String>) -> Option<Secret> {
        let path = self.path(key, faults)?;
        Secret::from_file(&path).map_err(|e| faults.push(format!("{}: {e}", self.name(key)))).ok()
    }

    /// Complains about every key that nobody asked for.
    pub(super) fn finish(self, faults: &mut Vec<String>) {
        for (key, tree) in &self.left {
            let name = self.name(key);
            let from =
                if let Tree::Env { variable, .. } = tree { format!(" (from {variable})") } else { String::new() };
            let known = self.asked.join(", ");
            let section = if self.path.is_empty() { "the configuration" } else { &self.path };
            faults.push(format!("{name}{from} is not a key: {section} knows {known}"));
        }
    }
}

enum Scalar {
    Text(String),
    Number(i64),
    Flag(bool),
    Env(String),
}

impl Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) | Self::Env(text) => write!(f, "`{text}`"),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
        }
    }
}
