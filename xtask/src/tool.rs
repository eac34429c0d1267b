//! Running other programs: each with a bound, and with the end of its output in the error.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

const POLL: Duration = Duration::from_millis(20);
const TAIL_LINES: usize = 30;
const TAIL_BYTES: usize = 16 * 1024;

/// Runs `command` to its end and answers what it wrote to standard output.
///
/// `input` is given to it on standard input. A non-zero exit, or `limit` passing (its whole process group is then
/// killed), is an error that carries the last lines it wrote. `what` names the step for the reader.
pub fn output(what: &str, command: &mut Command, input: &str, limit: Duration) -> Result<String> {
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{what}: cannot start {:?}", command.get_program()))?;
    let group = Pid::from_child(&child);
    let out = drain(child.stdout.take());
    let err = drain(child.stderr.take());
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading its input is judged by its exit status, not by our broken pipe.
        let _ = stdin.write_all(input.as_bytes());
    }
    let status = wait(&mut child, limit)?;
    if status.is_none() {
        let _ = kill_process_group(group, Signal::KILL);
        let _ = child.wait();
    }
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    match status {
        Some(status) if status.success() => Ok(out),
        Some(status) => bail!("{what}: {:?} ended with {status}\n{}", command.get_program(), last_lines(&(err + &out))),
        None => bail!(
            "{what}: {:?} took over {limit:?} and was ended\n{}",
            command.get_program(),
            last_lines(&(err + &out))
        ),
    }
}

/// Waits for `child` at most `limit`; `None` when it still runs then (it is left running).
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("waiting for a child process")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The program of this name on `PATH`.
pub fn which(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name.as_ref())).find(|path| path.is_file())
}

/// The last lines of a log file, ready to stand in an error; empty when there is no such file.
pub fn log_tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let from = bytes.len().saturating_sub(TAIL_BYTES);
    let tail = last_lines(&String::from_utf8_lossy(&bytes[from..]));
    if tail.is_empty() { String::new() } else { format!("--- end of {}\n{tail}", path.display()) }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// One line of progress on standard error. Steps that find nothing to do stay quiet.
pub fn progress(who: &str, what: impl AsRef<str>) {
    eprintln!("  {who:<9} {}", what.as_ref());
}

/// The line of progress appears only if the answer still lives after two seconds: for steps that mostly find nothing
/// to do, and at times take minutes.
pub fn progress_if_slow(who: &'static str, what: &'static str) -> Sender<()> {
    let (finished, news) = channel();
    thread::spawn(move || {
        if news.recv_timeout(Duration::from_secs(2)) == Err(RecvTimeoutError::Timeout) {
            progress(who, what);
        }
    });
    finished
}

/// The folder of the workspace that this crate was built from.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ stands inside the workspace")
}

/// The cargo that runs us, else the one on `PATH`, as if it were called from a shell.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    forget_cargo(&mut command);
    command
}

/// Takes away what a cargo that runs us has set for us, so that a cargo below sees the environment of a shell.
///
/// Build scripts may name a variable that makes them run again when it changes, and ring's names `CARGO_PKG_NAME` and
/// its like. `cargo test` and `cargo run` set those for what they start: each change of hands, from a shell to xtask to
/// a test, would compile ring anew and whatever stands above it, up to the Qdrant engine: minutes each time.
pub fn forget_cargo(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_cargos_own) {
            command.env_remove(&name);
        }
    }
}

/// Whether cargo sets this variable for what it runs ("Environment variables Cargo sets for crates" and "for build
/// scripts" in The Cargo Book). What people set stays: `CARGO_HOME`, `CARGO_TARGET_DIR`, `CARGO_NET_…`, `RUSTFLAGS`, ….
/// So does the path of libraries, which no build script of ours looks at.
fn is_cargos_own(name: &str) -> bool {
    const NAMES: [&str; 10] = [
        "CARGO",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_LINKS",
        "CARGO_MANIFEST_PATH",
        "CARGO_MAKEFLAGS",
        "CARGO_CRATE_NAME",
        "CARGO_BIN_NAME",
        "CARGO_PRIMARY_PACKAGE",
        "CARGO_TARGET_TMPDIR",
        "OUT_DIR",
    ];
    const FAMILIES: [&str; 4] = ["CARGO_PKG_", "CARGO_BIN_EXE_", "CARGO_CFG_", "CARGO_FEATURE_"];
    NAMES.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family))
}

/// Builds the program of a package of this workspace and answers where it is; quick when nothing is to be done.
///
/// # Errors
/// The build failed, or `limit` passed.
pub fn built(package: &str, options: &[&str], limit: Duration) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "-p", package, "--bin", package, "--message-format=json-render-diagnostics"]).args(options);
    let told = output(&format!("building {package}"), &mut build, "", limit)?;
    let mut messages = told.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let path = messages.find_map(|message| message["executable"].as_str().map(PathBuf::from));
    path.with_context(|| format!("cargo built {package} but named no program"))
}

/// Is this process root? Servers then run as somebody else, and packages can be installed.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests;
