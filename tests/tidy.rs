//! What reviewers would otherwise have to look for: the floors, the sizes, the openings, what must not be committed.
//!
//! Each check is a function from text to complaints, so that a test beside it can show that it does complain.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Longest file under `src/`, `wal/`, `xtask/` and `tests/`, in lines.
const LONGEST: usize = 700;
/// Folders that hold no sources of ours (in a work tree `.git` is a file).
const NOT_OURS: [&str; 4] = ["target", ".git", ".stack", "node_modules"];

/// The floors of `src/`, lowest first. A file names modules of floors below its own and its own module, nothing else.
/// The lowest is the crate `outrigger_wal`, which cannot name us. `config` and `metrics` are still nouns that wait for
/// nothing, but made of the model's: hence a step above it.
const FLOORS: [&[&str]; 8] = [
    &["model", "clock", "crash"],
    &["config", "metrics"],
    &["plan", "journal", "lock", "audit"],
    &["store"],
    &["txn"],
    &["http"],
    &["node"],
    &["cli"],
];

/// What one module may name of another on its own floor. `journal` writes down which locks a transaction holds, so
/// that recovery can take them again before the door opens: it needs the *nouns* of a claim. It may not lock anything.
const NEIGHBOURS: [(&str, &str, &[&str]); 1] = [("journal", "lock", &["Claim", "LockKey", "Mode"])];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `dir` that `wanted` takes, with its path from the repository's root.
fn files(dir: &str, wanted: impl Fn(&Path) -> bool + Copy) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![root().join(dir)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if NOT_OURS.contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if wanted(&path)
                && let Ok(text) = fs::read_to_string(&path)
            {
                let shown = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((shown, text));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "nothing found below {dir}");
    found
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

/// The Rust files of the whole workspace.
fn sources() -> Vec<(String, String)> {
    ["src", "wal", "xtask", "tests"].into_iter().flat_map(|dir| files(dir, is_rust)).collect()
}

fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

/// A name that starts at the crate's root: its module, and what follows the module.
struct Name {
    line: usize,
    module: String,
    rest: String,
}

fn word(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
}

/// Every `crate::…`, and every chain of `super::` that climbs to the root from a module this `deep`.
fn names(text: &str, deep: usize) -> Vec<Name> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let code = line.find("//").map_or(line, |at| &line[..at]).trim_start();
        let climbs = "super::".repeat(deep);
        for start in ["crate::", climbs.as_str()] {
            for (at, _) in code.match_indices(start) {
                let after = &code[at + start.len()..];
                let whole = code[..at].chars().last().is_none_or(|c| !c.is_alphanumeric() && !"_:$".contains(c));
                let module = word(after);
                if whole && (start == "crate::" || floor(module).is_some()) {
                    let rest = after[module.len()..].trim_end_matches(';').to_owned();
                    found.push(Name { line: index + 1, module: module.to_owned(), rest });
                }
            }
        }
    }
    found
}

/// The words that a path's end names: `::Claim`, `::{Claim, Mode}`, `::table::Table`.
fn nouns(rest: &str) -> Vec<String> {
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

/// What is wrong with the names of the file at `path` below `src/`.
fn upward(path: &str, text: &str) -> Vec<String> {
    let inside: Vec<&str> = path.strip_prefix("src/").expect("a path below src/").split('/').collect();
    let own = inside[0].trim_end_matches(".rs");
    if matches!(own, "lib" | "main") {
        return Vec::new(); // `lib.rs` lists the modules; `main.rs` is above them all.
    }
    let Some(own_floor) = floor(own) else { return vec![format!("{path}: `{own}` stands on no floor: see FLOORS")] };
    let deep = inside.len() - usize::from(inside.last() == Some(&"mod.rs"));
    let mut complaints = Vec::new();
    for name in names(text, deep) {
        let Name { line, module, rest } = &name;
        match floor(module) {
            _ if module == own => {}
            None if module.is_empty() => complaints.push(format!("{path}:{line}: one `use crate::…` for each module")),
            None => {} // A macro or an item of the root: there are none above us.
            Some(floor) if floor < own_floor => {}
            Some(_) => {
                let allowed = NEIGHBOURS.iter().find(|(from, to, _)| *from == own && to == module);
                let fine = allowed.is_some_and(|(_, _, may)| {
                    let nouns = nouns(rest);
                    !nouns.is_empty() && nouns.iter().all(|noun| may.contains(&noun.as_str()))
                });
                if !fine {
                    complaints.push(format!("{path}:{line}: `{own}` names `{module}{rest}`, which is not below it"));
                }
            }
        }
    }
    complaints
}

#[test]
fn a_file_names_only_floors_below_its_own() {
    none(&files("src", is_rust).iter().flat_map(|(path, text)| upward(path, text)).collect::<Vec<_>>());
}

#[test]
fn the_check_of_the_floors_complains() {
    for (path, text) in [
        ("src/plan/mod.rs", "use crate::store::Store;"),
        ("src/lock/mod.rs", "    use crate::journal::Claim;"),
        ("src/journal/record.rs", "use crate::lock::LockManager;"),
        ("src/journal/record.rs", "use crate::lock::{Claim, LockManager};"),
        ("src/journal/record.rs", "use crate::lock;"),
        ("src/journal/record.rs", "let x: super::super::txn::Coordinator;"),
        ("src/model/state.rs", "fn f(x: &crate::config::Config) {}"),
        ("src/store/mod.rs", "use crate::{model, txn};"),
        ("src/news.rs", ""),
    ] {
        assert!(!upward(path, text).is_empty(), "{path} may say {text}");
    }
    for (path, text) in [
        ("src/journal/record.rs", "use crate::lock::{Claim, Mode};"),
        ("src/journal/record.rs", "use super::super::journal::Slip;"),
        ("src/metrics/mod.rs", "use crate::model::ids::StoreName;"),
        ("src/txn/mod.rs", "use crate::store::Store; // crate::http"),
        ("src/plan/mod.rs", "//! as crate::txn does"),
        ("src/http/tests/fake.rs", "use super::super::Door;"),
    ] {
        none(&upward(path, text));
    }
}

#[test]
fn every_module_is_drawn_in_the_house() {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let picture: String = text.lines().filter(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n");
    for module in text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')) {
        assert!(floor(module).is_some(), "`{module}` stands on no floor");
        assert!(picture.contains(module), "`{module}` is not in the picture that src/lib.rs draws");
    }
}

#[test]
fn no_file_is_too_long() {
    let lengths = sources().into_iter().map(|(path, text)| (text.lines().count(), path));
    none(&lengths.filter(|(n, _)| *n > LONGEST).map(|(n, path)| format!("{path}: {n} lines")).collect::<Vec<_>>());
}

#[test]
fn every_module_opens_with_what_it_is_for() {
    // A module of tests is explained by the module that it tests.
    let is_test = |path: &str| path.ends_with("tests.rs");
    let dumb = sources().into_iter().filter(|(path, text)| !is_test(path) && !text.starts_with("//! "));
    none(&dumb.map(|(path, _)| format!("{path} does not open with //!")).collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_for_later() {
    // Spelled in halves, so that this file does not complain of itself.
    let marks = [concat!("to", "do!("), concat!("unimplem", "ented!("), concat!("db", "g!("), concat!("FIX", "ME")];
    let found = sources().into_iter().flat_map(|(path, text)| {
        marks.into_iter().filter(move |mark| text.contains(mark)).map(move |mark| format!("{path} has {mark}"))
    });
    none(&found.collect::<Vec<_>>());
}

#[test]
fn no_file_names_a_place_of_somebodys_machine() {
    let places = [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/")];
    let found = files(".", |_| true).into_iter().flat_map(|(path, text)| {
        let lines: Vec<_> = text
            .lines()
            .enumerate()
            .filter(|(_, line)| places.iter().any(|place| names_folder(line, place)))
            .map(|(index, line)| format!("{path}:{}: {}", index + 1, line.trim()))
            .collect();
        lines
    });
    none(&found.collect::<Vec<_>>());
}

/// Whether `line` has `folder` where a path begins, not in the middle of one.
fn names_folder(line: &str, folder: &str) -> bool {
    line.match_indices(folder)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._~$}".contains(c)))
}

#[test]
fn the_readme_names_the_two_commands() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for command in ["cargo xtask demo", "cargo xtask test"] {
        assert!(readme.contains(command), "README.md does not say `{command}`");
    }
}

#[test]
fn a_release_can_not_make_slips() {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let features = manifest["features"].as_table().unwrap();
    assert!(features.contains_key("test-slips"), "renamed? this check guards it");
    for (feature, turns_on) in features {
        assert_ne!(feature, "default", "no feature is on by default");
        let turns_on = turns_on.as_array().unwrap();
        assert!(turns_on.iter().all(|f| f.as_str() != Some("test-slips")), "{feature} turns test-slips on");
    }
    let dependencies = manifest["dependencies"].as_table().unwrap();
    assert!(!dependencies.contains_key("outrigger"), "only tests depend on the crate with its slips");
}
