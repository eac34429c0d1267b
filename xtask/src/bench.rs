//! `cargo xtask bench`: the ladder is a package of its own, so that xtask stays quick to build.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::tool;

/// The first run compiles everything for release.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
/// Long ladders are asked for by `--rounds` and `--seconds`.
const CLIMB_LIMIT: Duration = Duration::from_secs(4 * 60 * 60);

/// Builds the sidecar and the ladder for release, and climbs; `args` go to the ladder.
///
/// # Errors
/// A build failed, or the ladder did.
pub fn run(args: &[String]) -> Result<()> {
    let sidecar = tool::built("outrigger", &["--release"], BUILD_LIMIT)?;
    let ladder = tool::built("ladder", &["--release"], BUILD_LIMIT)?;
    let mut climb =
        Command::new(ladder).arg("--sidecar").arg(sidecar).args(args).spawn().context("starting the ladder")?;
    let status = tool::wait(&mut climb, CLIMB_LIMIT)?;
    if status.is_none() {
        climb.kill().context("ending the ladder")?;
    }
    ensure!(status.is_some_and(|status| status.success()), "the ladder failed: {status:?}");
    Ok(())
}
