//! `cargo xtask test`: every check in order, each with its time, and a summary at the end.
//!
//! The first failing step ends the run. The stack of stores is ended whatever happens: on return because it is dropped,
//! and after Ctrl-C, SIGKILL or a panic by a guard, a process of its own that waits for our end of a pipe to close.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::stack::{Stack, Wanted};
use crate::{demo, promtool, tool};

/// The longest step builds the Qdrant engine from nothing.
const STEP_LIMIT: Duration = Duration::from_secs(90 * 60);
const GUARD_LIMIT: Duration = Duration::from_secs(60);
/// What costs minutes to compile and changes rarely: built and tested in steps of its own.
const ENGINE: &str = "qdrant-dev";

/// What to run.
#[derive(Debug, Default, Args)]
pub struct Options {
    /// Lint the Qdrant engine's server and the bench's peers too (their dependencies are checked from nothing: minutes)
    #[arg(long)]
    full: bool,
    /// Only these steps, by name (may be repeated)
    #[arg(long = "only", value_name = "STEP")]
    only: Vec<String>,
    /// Show the steps and run nothing
    #[arg(long)]
    list: bool,
}

/// What became of a step.
enum Outcome {
    Passed,
    /// With the reason.
    Skipped(String),
}

struct Step {
    name: &'static str,
    run: fn(&Options) -> Result<Outcome>,
}

const STEPS: [Step; 14] = [
    Step { name: "fmt", run: |_| cargo(&["fmt", "--all", "--check"]) },
    Step { name: "clippy", run: clippy },
    Step { name: "promtool", run: |_| promtool() },
    Step { name: "build", run: |_| cargo(&["build", "--workspace", "--exclude", ENGINE]) },
    Step { name: "build-engine", run: |_| engine(&["build", "-p", ENGINE]) },
    Step { name: "wal", run: |_| cargo(&["test", "-p", "outrigger-wal", "-p", "wal-model"]) },
    Step { name: "miri", run: |_| miri() },
    Step { name: "fuzz", run: |_| fuzz() },
    Step { name: "unit", run: |_| unit() },
    Step { name: "xtask", run: |_| cargo(&["test", "-p", "xtask"]) },
    Step { name: "integration", run: |_| integration() },
    Step { name: "demo", run: |_| demo::small().map(|()| Outcome::Passed) },
    Step { name: "engine", run: |_| engine(&["test", "-p", ENGINE]) },
    Step { name: "doc", run: |_| documentation() },
];

/// Runs the steps; answers whether all of them passed. An error is a fault of the run itself.
pub fn run(options: &Options) -> Result<bool> {
    let known: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
    if let Some(unknown) = options.only.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no step {unknown}; there are: {}", known.join(", "));
    }
    let chosen =
        STEPS.iter().filter(|step| options.only.is_empty() || options.only.iter().any(|name| name == step.name));
    if options.list {
        println!("{}", known.join("\n"));
        return Ok(true);
    }
    let began = Instant::now();
    let mut lines = Vec::new();
    let mut passed = true;
    for step in chosen {
        eprintln!("\n== {}", step.name);
        let at = Instant::now();
        let outcome = (step.run)(options);
        let (word, reason) = match &outcome {
            Ok(Outcome::Passed) => ("passed", String::new()),
            Ok(Outcome::Skipped(reason)) => ("skipped", reason.clone()),
            Err(error) => ("FAILED", format!("{error:#}")),
        };
        lines.push(format!("{:<14}{word:<9}{:>8.1} s  {reason}", step.name, at.elapsed().as_secs_f32()));
        eprintln!("== {}", lines[lines.len() - 1]);
        if outcome.is_err() {
            passed = false;
            break;
        }
    }
    println!("\n{}", lines.join("\n"));
    let verdict = if passed { "passed" } else { "FAILED" };
    println!("{:<14}{verdict:<9}{:>8.1} s", "all", began.elapsed().as_secs_f32());
    Ok(passed)
}

fn clippy(options: &Options) -> Result<Outcome> {
    let mut args = vec!["clippy", "--workspace", "--all-targets"];
    if options.full {
        args.extend(["--features", "wal-bench/peers"]);
    } else {
        args.extend(["--exclude", ENGINE]);
    }
    args.extend(["--", "-D", "warnings"]);
    cargo(&args)
}

/// The alert rules, and their own tests: each fires when it should and not when it nearly should.
fn promtool() -> Result<Outcome> {
    let program = promtool::program()?;
    let dir = tool::workspace().join("grafana");
    for args in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]] {
        let mut command = Command::new(&program);
        command.current_dir(&dir).args(args);
        inherit(command)?;
    }
    Ok(Outcome::Passed)
}

/// The peers that `bench wal` compares us with are not compiled here; that our log passes its table of damage is tested.
fn unit() -> Result<Outcome> {
    cargo(&["test", "-p", "outrigger", "-p", "xtask-demo", "-p", "wal-bench", "--lib", "--bins"])
}

/// The root package's integration tests over one stack that they share, which they find by `OUTRIGGER_STACK`.
fn integration() -> Result<Outcome> {
    let names = integration_tests(&tool::workspace().join("tests"))?;
    if names.is_empty() {
        return Ok(Outcome::Skipped("the root package has no tests".into()));
    }
    let stack = Stack::fresh("suite", Wanted::all())?;
    let guard = Guard::over(&stack)?;
    let mut command = tool::cargo();
    command.args(["test", "-p", "outrigger"]).env("OUTRIGGER_STACK", stack.dir());
    for name in &names {
        command.args(["--test", name]);
    }
    let outcome = inherit(command);
    drop(stack);
    guard.dismiss()?;
    outcome
}

/// The names of cargo's own discovery: `tests/NAME.rs` and `tests/NAME/main.rs`.
fn integration_tests(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let suites = paths
        .filter(|path| path.join("main.rs").is_file() || path.extension().is_some_and(|extension| extension == "rs"));
    let mut names: Vec<String> = suites.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

/// A step over the Qdrant engine's server, unless the environment names one that is built already.
fn engine(args: &[&str]) -> Result<Outcome> {
    match std::env::var("OUTRIGGER_QDRANT_DEV") {
        Ok(path) if !path.is_empty() => Ok(Outcome::Skipped(format!("OUTRIGGER_QDRANT_DEV names {path}"))),
        _ => cargo(args),
    }
}

/// The log's codec under Miri, where a nightly toolchain has it. What the scan and the keys do is pure as well, and slow.
fn miri() -> Result<Outcome> {
    if !nightly_has("miri") {
        return Ok(Outcome::Skipped("there is no nightly toolchain with Miri".into()));
    }
    let mut command = nightly();
    command.args(["miri", "test", "-p", "outrigger-wal", "--lib", "format::"]);
    command.env("PROPTEST_CASES", "8").env("MIRIFLAGS", "-Zmiri-disable-isolation");
    inherit(command)
}

/// The fuzzer itself, briefly, where there is one. Its entries run over the corpus on stable in any case (step `wal`).
fn fuzz() -> Result<Outcome> {
    if !nightly_has("fuzz") {
        return Ok(Outcome::Skipped(
            "there is no nightly toolchain with cargo-fuzz; the corpus ran in step wal".into(),
        ));
    }
    for target in ["record", "segment"] {
        let mut command = nightly();
        command.args(["fuzz", "run", target, "--", "-max_total_time=20"]);
        command.current_dir(tool::workspace().join("wal"));
        inherit(command)?;
    }
    Ok(Outcome::Passed)
}

/// The nightly toolchain's cargo, which rustup finds.
fn nightly() -> Command {
    let mut command = Command::new("cargo");
    tool::forget_cargo(&mut command);
    command.arg("+nightly");
    command
}

fn nightly_has(subcommand: &str) -> bool {
    let mut command = nightly();
    command.args([subcommand, "--version"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn documentation() -> Result<Outcome> {
    let mut command = tool::cargo();
    command.args(["doc", "--no-deps", "--workspace", "--exclude", ENGINE]).env("RUSTDOCFLAGS", "-D warnings");
    inherit(command)?;
    cargo(&["test", "-p", "outrigger", "--doc"])
}

fn cargo(args: &[&str]) -> Result<Outcome> {
    let mut command = tool::cargo();
    command.args(args);
    inherit(command)
}

/// Runs it with our terminal, in our process group: Ctrl-C reaches it as it reaches us.
fn inherit(mut command: Command) -> Result<Outcome> {
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let line = format!("{program} {}", args.join(" "));
    eprintln!("$ {line}");
    let mut child = command.stdin(Stdio::null()).spawn().with_context(|| format!("starting {line}"))?;
    match tool::wait(&mut child, STEP_LIMIT)? {
        Some(status) if status.success() => Ok(Outcome::Passed),
        Some(status) => bail!("{line}: {status}"),
        None => {
            child.kill().context("ending a step that took too long")?;
            child.wait().context("ending a step that took too long")?;
            bail!("{line}: took over {STEP_LIMIT:?} and was ended")
        }
    }
}

/// Ends the stack when this process ends without doing so itself.
struct Guard(Child);

impl Guard {
    fn over(stack: &Stack) -> Result<Guard> {
        // Not the path of our program: a build may have replaced the file there in the meantime.
        let mut command = Command::new("/proc/self/exe");
        command.args(["stack", "down", "--purge", "--when-stdin-closes", "--dir"]).arg(stack.dir());
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Guard).context("starting the stack's guard")
    }

    /// Closes our end of its pipe; with the stack gone it finds nothing to do.
    fn dismiss(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        let ended = tool::wait(&mut self.0, GUARD_LIMIT)?;
        anyhow::ensure!(ended.is_some_and(|status| status.success()), "the stack's guard did not end well: {ended:?}");
        Ok(())
    }
}
