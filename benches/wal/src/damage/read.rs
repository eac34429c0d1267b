//! Opening a damaged log in a process of its own: it may panic, abort, or never come back.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::payload;
use crate::peers::Peer;

const PATIENCE: Duration = Duration::from_secs(60);

/// What the process said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// It opened: the numbers of sound records, and how many records were given that nobody wrote.
    Opened { numbers: BTreeSet<u64>, false_records: u64 },
    /// It refused, in an orderly way or not.
    Refused(String),
}

/// Opens and reads in this very process.
pub(crate) fn here(peer: &dyn Peer, dir: &Path, seed: u64) -> Result<Read> {
    let (mut numbers, mut false_records) = (BTreeSet::new(), 0);
    let read = peer.read(dir, &mut |bytes| match payload::number_of(seed, bytes) {
        Some(number) => drop(numbers.insert(number)),
        None => false_records += 1,
    });
    Ok(match read {
        Ok(()) => Read::Opened { numbers, false_records },
        Err(error) => Read::Refused(format!("{error:#}")),
    })
}

/// The process's own part: says what it got.
pub(crate) fn run(peer: &dyn Peer, dir: &Path, seed: u64) -> Result<()> {
    match here(peer, dir, seed)? {
        Read::Opened { numbers, false_records } => {
            println!("{}", json!({"numbers": numbers, "false_records": false_records}));
            Ok(())
        }
        Read::Refused(why) => bail!(why),
    }
}

/// Starts the process and waits for what it says.
pub(crate) fn in_a_process(peer: &dyn Peer, dir: &Path, seed: u64) -> Result<Read> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["read", peer.name()]).arg(dir).args(["--seed", &seed.to_string()]);
    // To files, not pipes: nobody has to empty them meanwhile.
    let (out, err) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    command.stdin(Stdio::null()).stdout(out.reopen()?).stderr(err.reopen()?);
    let mut child = command.spawn().context("starting the reader")?;
    let until = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            return Ok(Read::Refused("it never came back".into()));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    if !status.success() {
        let said = std::fs::read_to_string(err.path()).unwrap_or_default();
        let line = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        return Ok(Read::Refused(line.trim_start_matches("Error: ").to_owned()));
    }
    let said: Value = serde_json::from_slice(&std::fs::read(out.path())?)?;
    let numbers = said["numbers"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    Ok(Read::Opened { numbers, false_records: said["false_records"].as_u64().unwrap_or(0) })
}
