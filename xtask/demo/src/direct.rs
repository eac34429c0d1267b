//! The same documents by direct writes, as an application without Outrigger makes them: insert, create, upsert, one
//! store after the other. The application is a process of its own ([`writer`]) that is killed at the same moments.

use std::collections::{BTreeMap, VecDeque};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use xtask::stack::{Stack, Store};

use crate::corpus::Document;
use crate::moments::Moment;

pub(crate) mod writer;

/// No document takes so long.
const LINE_LIMIT: Duration = Duration::from_secs(60);

/// How it went.
pub(crate) struct Drift {
    pub(crate) acknowledged: BTreeMap<usize, i64>,
    /// Fewer than ordered where the work ended before.
    pub(crate) kills: usize,
    pub(crate) seconds: f64,
}

/// Writes every document; kills the writer's process at each moment and starts it again with what is left.
pub(crate) async fn drift(
    stack: &Stack,
    documents: &[Document],
    writers: usize,
    mut moments: VecDeque<Moment>,
    seed: u64,
    bar: &ProgressBar,
) -> Result<Drift> {
    let (mut acknowledged, mut kills) = (BTreeMap::new(), 0);
    let began = Instant::now();
    while acknowledged.len() < documents.len() {
        let task = writer::Task {
            postgres: stack.login(Store::Postgres)?,
            neo4j: stack.login(Store::Neo4j)?,
            qdrant: stack.login(Store::Qdrant)?,
            documents: documents.to_vec(),
            done: acknowledged.keys().copied().collect(),
            writers,
            seed,
        };
        let mut process = Process::start(&task).await?;
        kills += usize::from(process.listen(&mut acknowledged, moments.pop_front(), bar).await?);
    }
    Ok(Drift { acknowledged, kills, seconds: began.elapsed().as_secs_f64() })
}

struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Held: the process ends itself when this closes.
    _stdin: ChildStdin,
}

impl Process {
    async fn start(task: &writer::Task) -> Result<Process> {
        // Not the path of our program: a build may have replaced the file there in the meantime.
        let mut command = Command::new("/proc/self/exe");
        command.arg("direct-writer").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("starting the direct writer")?;
        let mut stdin = child.stdin.take().context("the child's input is a pipe")?;
        let stdout = child.stdout.take().context("the child's output is a pipe")?;
        let mut line = serde_json::to_vec(task).context("writing the task down")?;
        line.push(b'\n');
        stdin.write_all(&line).await.context("giving the direct writer its task")?;
        Ok(Process { child, lines: BufReader::new(stdout).lines(), _stdin: stdin })
    }

    /// Takes acknowledgements until the process has written all, or is killed at `moment`. What it had said before it
    /// died counts. Answers whether it was killed.
    async fn listen(
        &mut self,
        acknowledged: &mut BTreeMap<usize, i64>,
        moment: Option<Moment>,
        bar: &ProgressBar,
    ) -> Result<bool> {
        let reached = |acknowledged: &BTreeMap<_, _>| moment.filter(|moment| acknowledged.len() >= moment.documents);
        // A later moment may be reached already when the one before it took its time.
        let mut strike = reached(acknowledged).map(|moment| tokio::time::Instant::now() + moment.then);
        let mut killed = false;
        loop {
            let at = strike.filter(|_| !killed);
            let line = tokio::select! {
                line = self.lines.next_line() => line.context("reading acknowledgements")?,
                () = tokio::time::sleep_until(at.unwrap_or_else(tokio::time::Instant::now)), if at.is_some() => {
                    self.child.start_kill().context("killing the direct writer")?;
                    killed = true;
                    bar.println(format!("kill -9 after {} documents", acknowledged.len()));
                    continue;
                }
                () = tokio::time::sleep(LINE_LIMIT) => bail!("the direct writer said nothing for {LINE_LIMIT:?}"),
            };
            let Some(line) = line else { break };
            if let Some((n, id)) = parse(&line) {
                acknowledged.insert(n, id);
                bar.set_position(acknowledged.len() as u64);
            } else {
                // A line that the kill cut short was never acknowledged.
                ensure!(killed, "the direct writer said {line:?}");
            }
            strike = strike.or_else(|| reached(acknowledged).map(|moment| tokio::time::Instant::now() + moment.then));
        }
        let status = self.child.wait().await.context("waiting for the direct writer")?;
        ensure!(killed || status.success(), "the direct writer ended by itself: {status}");
        Ok(killed)
    }
}

/// `index id;`: the semicolon tells a whole line from one cut short.
fn parse(line: &str) -> Option<(usize, i64)> {
    let (n, id) = line.strip_suffix(';')?.split_once(' ')?;
    Some((n.parse().ok()?, id.parse().ok()?))
}
