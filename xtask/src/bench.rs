//! `cargo xtask bench`: the ladder and the log's comparison with its peers are packages of their own, so that xtask stays
//! quick to build.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::tool;

/// The first run compiles everything for release.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
/// Long ladders are asked for by `--rounds` and `--seconds`.
const CLIMB_LIMIT: Duration = Duration::from_secs(4 * 60 * 60);

/// Builds what is to be measured for release, and climbs: with `wal` first, the log beside its peers; else the sidecar
/// beside direct writes. The other `args` go there.
///
/// # Errors
/// A build failed, or the bench did.
pub fn run(args: &[String]) -> Result<()> {
    if let Some((first, rest)) = args.split_first()
        && first == "wal"
    {
        let bench = tool::built("wal-bench", &["--release", "--features", "peers"], BUILD_LIMIT)?;
        return climb(Command::new(bench).args(rest));
    }
    let sidecar = tool::built("outrigger", &["--release"], BUILD_LIMIT)?;
    let ladder = tool::built("ladder", &["--release"], BUILD_LIMIT)?;
    climb(Command::new(ladder).arg("--sidecar").arg(sidecar).args(args))
}

fn climb(command: &mut Command) -> Result<()> {
    let mut climb = command.spawn().context("starting the bench")?;
    let status = tool::wait(&mut climb, CLIMB_LIMIT)?;
    if status.is_none() {
        climb.kill().context("ending the bench")?;
    }
    ensure!(status.is_some_and(|status| status.success()), "the bench failed: {status:?}");
    Ok(())
}
