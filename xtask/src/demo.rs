//! `cargo xtask demo`: builds the sidecar and the demo's own program, and hands over to it.
//!
//! The demo drives all three stores' clients. They are a package of their own, `xtask/demo`, so that no other errand
//! waits for them to compile.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::tool;

/// Everything may have to be compiled, while others build too.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
const SMALL_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Runs it on our terminal; answers its exit code.
pub fn run(args: &[OsString]) -> Result<u8> {
    let mut demo = program()?;
    let status = demo.args(args).status().context("starting the demo")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// A small run whose report is checked: the step `demo` of `cargo xtask test`.
///
/// # Errors
/// It failed, or its report tells of an orphan, a loss, or fewer kills than were ordered.
pub fn small() -> Result<()> {
    const DOCUMENTS: u64 = 60;
    const KILLS: usize = 2;
    let mut demo = program()?;
    demo.args(["--json", "--documents", &DOCUMENTS.to_string(), "--kills", &KILLS.to_string()]);
    let told = tool::output("the demo", &mut demo, "", SMALL_LIMIT)?;
    let report: Value = serde_json::from_str(&told).context("the demo's report is JSON")?;
    let (outrigger, seed) = (&report["outrigger"], &report["seed"]);
    for count in ["orphans", "duplicates", "missing_acknowledged", "missing_relations"] {
        ensure!(outrigger["audit"][count] == 0, "seed {seed}: {count} is not 0:\n{outrigger:#}");
    }
    ensure!(outrigger["audit"]["whole"] == DOCUMENTS, "seed {seed}: not every document is whole:\n{outrigger:#}");
    ensure!(outrigger["committed"] == DOCUMENTS, "seed {seed}: not every document is acknowledged:\n{outrigger:#}");
    ensure!(outrigger["prepared_left"] == 0, "seed {seed}: prepared transactions are left:\n{outrigger:#}");
    let restarts = outrigger["restarts"].as_array().map_or(0, Vec::len);
    ensure!(restarts == KILLS, "seed {seed}: {restarts} restarts after {KILLS} kills:\n{outrigger:#}");
    ensure!(report["passed"] == true, "seed {seed}: the demo does not call that passed:\n{report:#}");
    Ok(())
}

/// The demo's program, told where the sidecar's is. Built in one go, so that both share their dependencies' features.
fn program() -> Result<Command> {
    let mut build = tool::cargo();
    build.args(["build", "-p", "outrigger", "-p", "xtask-demo", "--bins"]);
    build.arg("--message-format=json-render-diagnostics");
    let slow = tool::progress_if_slow("build", "building the sidecar and the demo");
    let told = tool::output("building the demo", &mut build, "", BUILD_LIMIT)?;
    drop(slow);
    let messages: Vec<Value> = told.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let find = |name: &str| {
        let of_target = messages.iter().filter(|message| message["target"]["name"] == name);
        let path = of_target.filter_map(|message| message["executable"].as_str()).next_back().map(PathBuf::from);
        path.with_context(|| format!("cargo built no program {name}"))
    };
    let mut demo = Command::new(find("xtask-demo")?);
    demo.arg("--sidecar").arg(find("outrigger")?).stdin(Stdio::null());
    Ok(demo)
}
