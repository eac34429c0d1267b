//! `outrigger init` and `outrigger doctor`: the stores, asked one by one.

use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use super::output::{Output, Stop};
use super::runtime;
use crate::config::Config;
use crate::model::problem::{Code, Problem};
use crate::node::stores;
use crate::store::Probe;

/// A store that has not answered by then is not reached.
const PATIENCE: Duration = Duration::from_secs(15);

/// `init`: creates marker tables and constraints, or prints what would.
pub(super) fn init(config: &Config, print: bool, output: &mut Output) -> Result<(), Stop> {
    if print {
        print_statements(config, output);
        return Ok(());
    }
    let found = runtime::block_on(async { Ok(probe(config, true).await) })?;
    report(&found, output, "made");
    verdict(&found)
}

fn print_statements(config: &Config, output: &mut Output) {
    let all = config.stores.iter().map(|(name, store)| (name, store, stores::statements(&store.settings)));
    if output.is_json() {
        let members = all.map(|(name, _, statements)| (name.to_string(), json!(statements)));
        output.value(&Value::Object(members.collect()));
        return;
    }
    for (name, store, statements) in all {
        // Both SQL and Cypher take `;` at the end; a comment's mark is all that differs.
        let mark = if store.settings.kind() == "postgres" { "--" } else { "//" };
        output.line(format_args!("{mark} {name} ({})", store.settings.kind()));
        if statements.is_empty() {
            output.line(format_args!("{mark} nothing: it keeps no markers"));
        }
        for statement in statements {
            output.line(format_args!("{};", statement.trim().trim_end_matches(';')));
        }
        output.line("");
    }
}

/// `doctor`: what stands in the way of serving?
pub(super) fn doctor(config: &Config, output: &mut Output) -> Result<(), Stop> {
    let found = runtime::block_on(async { Ok(probe(config, false).await) })?;
    let disk = disk(&config.journal.dir, config.journal.segment_bytes);
    let warnings = config.warnings();
    if output.is_json() {
        output.value(&json!({
            "stores": found.iter().map(|(name, result)| (name.clone(), as_json(result))).collect::<serde_json::Map<_, _>>(),
            "journal": disk.as_ref().map_or_else(|fault| json!({"fault": fault}), |line| json!({"fine": line})),
            "warnings": warnings,
        }));
    } else {
        report(&found, output, "there");
        output.line("");
        match &disk {
            Ok(line) => output.line(format_args!("journal: {line}")),
            Err(fault) => output.line(format_args!("journal: FAULT: {fault}")),
        }
        for warning in &warnings {
            output.line(format_args!("warning: {warning}"));
        }
    }
    verdict(&found)?;
    disk.map(drop).map_err(|_| Stop::faults_shown())
}

type Found = Vec<(String, Result<Probe, Problem>)>;

async fn probe(config: &Config, init: bool) -> Found {
    let built = stores::build(config);
    let asked = built.iter().map(|configured| async {
        let store = &configured.store;
        let probe = match tokio::time::timeout(PATIENCE, store.probe(init)).await {
            Ok(probe) => probe,
            Err(_) => Err(Problem::unavailable(store.name(), format_args!("no answer in {} s", PATIENCE.as_secs()))),
        };
        (store.name().to_string(), probe)
    });
    join_all(asked).await
}

fn report(found: &Found, output: &mut Output, markers: &str) {
    if output.is_json() {
        let members = found.iter().map(|(name, result)| (name.clone(), as_json(result)));
        output.value(&Value::Object(members.collect()));
        return;
    }
    let row = |(name, result): &(String, Result<Probe, Problem>)| match result {
        Ok(probe) => {
            let powers = probe.powers;
            let named = [("prepare", powers.prepare), ("mark", powers.mark), ("redo", powers.redo)];
            let named: Vec<_> = named.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
            let state = if powers.mark { format!("fine, markers {markers}") } else { "fine".to_owned() };
            vec![name.clone(), probe.version.clone(), named.join(" + "), state]
        }
        Err(problem) => vec![name.clone(), "-".into(), "-".into(), format!("FAULT: {problem}")],
    };
    output.table(&["STORE", "VERSION", "POWERS", "STATE"], &found.iter().map(row).collect::<Vec<_>>());
    for (name, result) in found {
        for warning in result.iter().flat_map(|probe| &probe.warnings) {
            output.line(format_args!("warning: {name}: {warning}"));
        }
    }
}

fn as_json(result: &Result<Probe, Problem>) -> Value {
    match result {
        Ok(probe) => json!({"ok": true, "version": probe.version, "powers": probe.powers, "warnings": probe.warnings}),
        Err(problem) => json!({"ok": false, "code": problem.code.as_str(), "detail": problem.detail}),
    }
}

/// A missing power is a warning; a store that refuses is a fault, one that is not there could not be reached.
fn verdict(found: &Found) -> Result<(), Stop> {
    let codes: Vec<Code> = found.iter().filter_map(|(_, result)| result.as_ref().err()).map(|p| p.code).collect();
    if codes.iter().any(|code| *code != Code::StoreUnavailable) {
        return Err(Stop::faults_shown());
    }
    if codes.is_empty() { Ok(()) } else { Err(Stop::unreachable_shown()) }
}

/// Whether the journal's folder can be written, and has room: three segments, for one is kept as a reserve.
fn disk(dir: &Path, segment_bytes: u64) -> Result<String, String> {
    // The folder is made by `serve`; until then the nearest one above it tells.
    let place = dir.ancestors().find(|level| level.is_dir()).unwrap_or(Path::new("."));
    let file = place.join(format!(".outrigger-doctor-{}", std::process::id()));
    let written = std::fs::write(&file, b"x").and_then(|()| std::fs::remove_file(&file));
    written.map_err(|e| format!("{} cannot be written: {e}", place.display()))?;
    let free = rustix::fs::statvfs(place).map(|s| s.f_bavail * s.f_frsize);
    let free = free.map_err(|e| format!("{}: {e}", place.display()))?;
    let needed = segment_bytes * 3;
    if free < needed {
        return Err(format!("{} MiB free in {}, {} MiB needed", free >> 20, place.display(), needed >> 20));
    }
    let stat = if dir.is_dir() {
        outrigger_wal::inspect::stat(dir).map_err(|e| e.to_string())?
    } else {
        return Ok(format!("{} will be made, {} MiB free", dir.display(), free >> 20));
    };
    if let Some(name) = stat.unsound.first() {
        return Err(format!("{name} in {} is not sound: `outrigger wal verify` says more", dir.display()));
    }
    Ok(format!(
        "{}: {} segments, {} MiB, {} MiB free",
        dir.display(),
        stat.segments.len(),
        stat.bytes >> 20,
        free >> 20
    ))
}
