//! Starting a server: its own process group, its own log, another user where we are root, and an end with ours.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::process::Process;
use crate::tool;

const REAP_EVERY: Duration = Duration::from_millis(200);

/// The user that a server runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// Whom a server that refuses root runs as: `postgres`, else `nobody`. `None` when we aren't root ourselves.
    pub(crate) fn instead_of_root() -> Result<Option<User>> {
        if !tool::is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").context("reading the system's users")?;
        let find = |name: &str| {
            let fields: Vec<&str> =
                users.lines().map(|line| line.split(':').collect()).find(|f: &Vec<&str>| f[0] == name)?;
            Some(User { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
        };
        let user = find("postgres").or_else(|| find("nobody"));
        user.map(Some).context("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")
    }

    /// Runs `command` as this user. The groups of root are dropped with it.
    pub(crate) fn dress(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }
}

/// How to start one server.
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(&'static str, OsString)>,
    /// It must be reachable by `user`.
    pub(crate) cwd: PathBuf,
    pub(crate) user: Option<User>,
    /// The signal that ends it at once and safely, sent by the kernel when this process dies; `None` for a server that
    /// is to outlive us.
    pub(crate) dies_with_us: Option<&'static str>,
}

impl Launch {
    /// Starts it, both outputs appended to `log`.
    pub(crate) fn start(self, log: &Path) -> Result<Process> {
        let mut command = match self.dies_with_us.and_then(|signal| Some((signal, tool::which("setpriv")?))) {
            Some((signal, setpriv)) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", signal, "--"]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let err = out.try_clone().context("sharing the log file")?;
        command.args(self.args).envs(self.env).current_dir(self.cwd);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        // Ctrl-C at our terminal is for us; what becomes of the servers is our decision.
        command.process_group(0);
        if let Some(user) = self.user {
            user.dress(&mut command);
        }
        reap();
        let child =
            spawn_from_a_lasting_thread(command).with_context(|| format!("starting {}", self.program.display()))?;
        let process = Process::of(child.id());
        children().push(child);
        process
    }
}

type Order = (Command, Sender<io::Result<Child>>);

/// The kernel's death signal fires when the *thread* that made the child ends, not its process: a server started by one
/// test would die with that test's thread while others still use it. So one thread that never ends starts them all.
fn spawn_from_a_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        thread::spawn(move || {
            loop {
                match inbox.recv_timeout(REAP_EVERY) {
                    Ok((mut command, answer)) => drop(answer.send(command.spawn())),
                    // Another process may have ended a server that is our child.
                    Err(RecvTimeoutError::Timeout) => reap(),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        orders
    });
    let gone = || io::Error::other("the thread that starts servers is gone");
    let (answer, result) = channel();
    spawner.send((command, answer)).map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}

static CHILDREN: Mutex<Vec<Child>> = Mutex::new(Vec::new());

fn children() -> std::sync::MutexGuard<'static, Vec<Child>> {
    CHILDREN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Takes note of children that have ended, so that no zombies are left.
pub(crate) fn reap() {
    children().retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}
