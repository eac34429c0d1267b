//! The sidecar as a child process, for tests, the demo and the benches: started, asked whether it is ready, killed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How a sidecar is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub binary: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Where its output is appended.
    pub log: PathBuf,
    /// The door's `host:port`.
    pub door: String,
    /// The porch's `host:port`.
    pub porch: String,
    /// Environment on top of ours: crash points, overridden settings.
    pub env: Vec<(String, String)>,
}

impl Launch {
    /// A sidecar over the stores of `stack_config` (as `stack up` writes it), with ports and a journal of its own in
    /// `dir`, which is made if need be.
    pub fn over(binary: impl Into<PathBuf>, stack_config: &Path, dir: &Path) -> Result<Launch> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let (door, porch) = (crate::stack::free_port()?, crate::stack::free_port()?);
        let set = |key: &str, value: String| (format!("OUTRIGGER__{key}"), value);
        let (door, porch) = (format!("127.0.0.1:{door}"), format!("127.0.0.1:{porch}"));
        let env = vec![
            set("SERVER__LISTEN", door.clone()),
            set("SERVER__ADMIN_LISTEN", porch.clone()),
            set("JOURNAL__DIR", dir.join("journal").display().to_string()),
        ];
        let (config, log) = (stack_config.to_owned(), dir.join("sidecar.log"));
        Ok(Launch { binary: binary.into(), config, log, door, porch, env })
    }

    /// The same with another environment variable.
    #[must_use]
    pub fn with(&self, key: &str, value: &str) -> Launch {
        let mut launch = self.clone();
        launch.env.push((key.to_owned(), value.to_owned()));
        launch
    }

    /// Starts it.
    pub fn start(&self) -> Result<Sidecar> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("opening {}", self.log.display()))?;
        let mut command = Command::new(&self.binary);
        command.arg("serve").arg("--config").arg(&self.config).envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let began = Instant::now();
        let child = command.spawn().with_context(|| format!("starting {}", self.binary.display()))?;
        Ok(Sidecar { child, launch: self.clone(), began })
    }
}

/// A running sidecar. Dropping it kills it.
#[derive(Debug)]
pub struct Sidecar {
    child: Child,
    launch: Launch,
    began: Instant,
}

impl Sidecar {
    /// How it was started.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// `http://host:port` of the door.
    pub fn url(&self) -> String {
        format!("http://{}", self.launch.door)
    }

    /// Waits until `/readyz` says yes; answers the time since the start.
    ///
    /// # Errors
    /// The program ended, or `limit` passed; with the end of its log.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<Duration> {
        let path = "/readyz";
        loop {
            if get(&self.launch.porch, path).is_ok_and(|(status, _)| status == 200) {
                return Ok(self.began.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the sidecar ended ({status}):\n{}", self.log_tail());
            }
            if self.began.elapsed() > limit {
                bail!("the sidecar was not ready after {limit:?}:\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.child.wait().context("waiting for the killed sidecar")?;
        Ok(())
    }

    /// SIGTERM, and waits for the graceful end.
    ///
    /// # Errors
    /// It did not end with success within `limit`.
    pub fn stop(&mut self, limit: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        match self.wait_end(limit)? {
            Some(true) => Ok(()),
            Some(false) => bail!("the sidecar ended badly:\n{}", self.log_tail()),
            None => bail!("the sidecar did not stop within {limit:?}:\n{}", self.log_tail()),
        }
    }

    /// Waits for its end; `None` when it lives on after `limit`, else whether it ended with success.
    pub fn wait_end(&mut self, limit: Duration) -> Result<Option<bool>> {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status.success()));
            }
            if Instant::now() > until {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        // Once it was waited for, its pid may be anybody's.
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a pid fits")?;
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).context("signalling the sidecar"),
        }
    }

    /// Bytes of anonymous memory that it holds now (`RssAnon`: mapped segments are not counted).
    pub fn rss_anon(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("Linux tells RssAnon")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// The text of the porch's `/metrics`.
    pub fn metrics(&self) -> Result<String> {
        let (status, body) = get(&self.launch.porch, "/metrics")?;
        if status == 200 { Ok(body) } else { bail!("/metrics answered {status}") }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.launch.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A plain HTTP/1.1 GET without keep-alive: status and body.
pub fn get(address: &str, path: &str) -> Result<(u16, String)> {
    let target = address.parse().with_context(|| format!("{address} is an address"))?;
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("a head has a status")?;
    Ok((status, body.to_owned()))
}
