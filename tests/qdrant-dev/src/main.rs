//! `qdrant-dev --listen 127.0.0.1:0 --storage DIR`: see the README beside this crate.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use qdrant_dev::{Options, serve};
use tokio::signal::unix::{SignalKind, signal};

/// The real Qdrant engine behind Qdrant's gRPC API, for tests.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where the API listens (loopback only; port 0 lets the system choose)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6334")]
    listen: SocketAddr,
    /// The folder that holds the data
    #[arg(long, value_name = "DIR")]
    storage: PathBuf,
    /// Gets the addresses when ready, one a line: the API's, then the control port's
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
    /// Where the control port of the faults listens (loopback only; none without this)
    #[arg(long, value_name = "ADDR")]
    faults_listen: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let Arguments { listen, storage, port_file, faults_listen } = Arguments::parse();
    let options = Options { listen, storage, faults_listen, port_file };
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qdrant-dev: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> anyhow::Result<()> {
    // Two: the engine works on threads of its own, and the machine is shared with the other stores.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        serve(options, shutdown, announce).await
    })
}

/// Whoever started this may have closed the pipe: not worth dying for.
fn announce(address: SocketAddr, faults: Option<SocketAddr>) {
    let mut out = std::io::stdout().lock();
    if let Some(faults) = faults {
        let _ = writeln!(out, "faults on {faults}");
    }
    let _ = writeln!(out, "listening on {address}").and_then(|()| out.flush());
}
