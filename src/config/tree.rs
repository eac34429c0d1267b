//! The file with the environment laid over it, before anybody knows what the keys mean.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// What overriding variables begin with.
const PREFIX: &str = "OUTRIGGER__";

/// A table or a value of the configuration.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    Table(BTreeMap<String, Tree>),
    /// From the file.
    Leaf(toml::Value),
    /// From the environment: `text` becomes what the key asks for.
    Env {
        variable: String,
        text: String,
    },
}

impl Tree {
    pub(super) fn build(
        text: &str,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        faults: &mut Vec<String>,
    ) -> Self {
        let mut root = match toml::from_str::<toml::Table>(text) {
            Ok(table) => Self::from(toml::Value::Table(table)),
            Err(e) => {
                faults.push(format!("the configuration is not TOML: {}", e.to_string().trim_end()));
                Self::Table(BTreeMap::new())
            }
        };
        // Sorted, so that the same environment is always read in the same order.
        let mut overrides = BTreeMap::new();
        for (variable, value) in env {
            let Ok(variable) = variable.into_string() else { continue };
            let Some(path) = variable.strip_prefix(PREFIX) else { continue };
            match value.into_string() {
                Ok(value) => drop(overrides.insert(path.to_owned(), value)),
                Err(_) => faults.push(format!("{variable} is not UTF-8")),
            }
        }
        for (path, text) in overrides {
            let variable = format!("{PREFIX}{path}");
            let keys = root.resolve(&path);
            if keys.iter().any(String::is_empty) {
                faults.push(format!("{variable} has an empty part: say {PREFIX}SECTION__KEY"));
                continue;
            }
            if !root.set(&keys, Self::Env { variable: variable.clone(), text }) {
                faults.push(format!("{variable} overrides a value with a table, or a table with a value"));
            }
        }
        root
    }

    /// `STORES__PG__POOL__MAX` → `stores`, `pg`, `pool`, `max`. A store's name is matched with those in the file
    /// without regard to case, `-` as `_`, since most shells allow nothing else in a variable; a new one is lower case.
    fn resolve(&self, path: &str) -> Vec<String> {
        let path = path.to_ascii_lowercase();
        if let Some(rest) = path.strip_prefix("stores__")
            && let Self::Table(root) = self
            && let Some(Self::Table(stores)) = root.get("stores")
        {
            let spelled = |name: &str| name.to_ascii_lowercase().replace('-', "_");
            let fits = stores.keys().filter(|name| rest.starts_with(&format!("{}__", spelled(name))));
            // `a__b` and `a` may both be stores: the longer name is the more exact one.
            if let Some(name) = fits.max_by_key(|name| name.len()) {
                let mut keys = vec!["stores".to_owned(), name.clone()];
                keys.extend(rest[name.len() + 2..].split("__").map(str::to_owned));
                return keys;
            }
        }
        path.split("__").map(str::to_owned).collect()
    }

    fn set(&mut self, keys: &[String], value: Self) -> bool {
        let Self::Table(table) = self else { return false };
        match keys {
            [] => false,
            [key] => {
                let is_table = matches!(table.get(key), Some(Self::Table(_)));
                if !is_table {
                    table.insert(key.clone(), value);
                }
                !is_table
            }
            [key, rest @ ..] => {
                table.entry(key.clone()).or_insert_with(|| Self::Table(BTreeMap::new())).set(rest, value)
            }
        }
    }
}

impl From<toml::Value> for Tree {
    fn from(value: toml::Value) -> Self {
        match value {
            toml::Value::Table(table) => {
                Self::Table(table.into_iter().map(|(key, value)| (key, Self::from(value))).collect())
            }
            leaf => Self::Leaf(leaf),
        }
    }
}
