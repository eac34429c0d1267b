//! A server's process, known by more than its pid.
//!
//! Pids are used again. A `stack down` of today that trusts a pid written last week ends somebody else's program. So a
//! process is remembered as (boot of the machine, pid, the tick it started at), compared before every signal, and the
//! signal goes through a pidfd, which stays with the process that was compared.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

const POLL: Duration = Duration::from_millis(5);
const KILL_LIMIT: Duration = Duration::from_secs(20);

/// One process, for good: never confused with a later one of the same pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number, for people to look at.
    pub pid: i32,
    started: u64,
    boot: String,
}

/// What `/proc/PID/stat` tells that we need.
struct Stat {
    state: char,
    parent: i32,
    threads: u32,
    started: u64,
}

impl Stat {
    /// A zombie only waits for its parent to look, and holds nothing any more; unless it is merely the first thread of
    /// many that has ended: while the others are still on their way (a Java of 300 MB takes a while), so is its port.
    fn is_over(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }
}

impl Process {
    /// The process that now has this pid.
    pub(crate) fn of(pid: u32) -> Result<Process> {
        let pid = i32::try_from(pid).context("a pid fits in an i32")?;
        let stat = stat(pid).with_context(|| format!("process {pid} is already gone"))?;
        Ok(Process { pid, started: stat.started, boot: boot()? })
    }

    /// Does it still run?
    pub fn is_alive(&self) -> bool {
        let same = stat(self.pid).filter(|stat| stat.started == self.started && !stat.is_over());
        same.is_some() && boot().is_ok_and(|boot| boot == self.boot)
    }

    /// Sends a signal; false when the process is gone.
    pub(crate) fn signal(&self, signal: Signal) -> Result<bool> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(false) };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(false) };
        if !self.is_alive() {
            return Ok(false);
        }
        match pidfd_send_signal(handle, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("sending {signal:?} to process {}", self.pid)),
        }
    }

    /// Waits until it is gone, at most `limit`; true when it is.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }

    /// SIGKILL for it and its children, and waits until all are gone.
    ///
    /// It is stopped first, so that it can't make another child while we count them. PostgreSQL puts every backend in
    /// a process group of its own, so a signal to the group would leave them behind, still writing.
    pub(crate) fn kill_tree(&self) -> Result<()> {
        if !self.signal(Signal::STOP)? {
            return Ok(());
        }
        let mut family = vec![self.clone()];
        family.extend(self.children());
        for member in &family {
            member.signal(Signal::KILL)?;
        }
        let deadline = Instant::now() + KILL_LIMIT;
        for member in &family {
            let left = deadline.saturating_duration_since(Instant::now());
            anyhow::ensure!(member.ends_within(left), "process {} outlived SIGKILL by {KILL_LIMIT:?}", member.pid);
        }
        Ok(())
    }

    fn children(&self) -> Vec<Process> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter_map(|pid| stat(pid).filter(|stat| stat.parent == self.pid).map(|stat| (pid, stat.started)))
            .map(|(pid, started)| Process { pid, started, boot: self.boot.clone() })
            .collect()
    }
}

/// Is there any process with this pid? For housekeeping only: nobody is ended on its word.
pub(crate) fn exists(pid: i32) -> bool {
    stat(pid).is_some()
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // Fields 20 and 22 of the line: two stand left of the parenthesis, two are taken.
    let threads = fields.nth(15)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    Some(Stat { state, parent, threads, started })
}

fn boot() -> Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("reading the machine's boot id")?;
    Ok(id.trim().to_owned())
}

#[cfg(test)]
mod tests;
