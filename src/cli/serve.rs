//! `outrigger serve`.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::output::Stop;
use super::runtime;
use crate::config::Config;
use crate::node::{self, NodeError};

pub(super) fn run(config: Config) -> Result<(), Stop> {
    runtime::block_on(async {
        let shutdown = CancellationToken::new();
        let mut signals = Signals::new().map_err(|e| Stop::fault(format!("signals cannot be heard: {e}")))?;
        let asked = shutdown.clone();
        tokio::spawn(async move {
            let name = signals.next().await;
            tracing::info!(signal = name, "asked to stop");
            asked.cancel();
            let name = signals.next().await;
            tracing::warn!(signal = name, "asked again: leaving at once; the next start ends what is open");
            std::process::exit(1);
        });
        node::run(config, shutdown).await.map_err(|error| stop(&error))
    })
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// An address that is taken or a log that somebody owns is something that could not be reached; the rest is a fault.
pub(super) fn stop(error: &NodeError) -> Stop {
    match error {
        NodeError::Listen { .. } => Stop::unreachable(error.to_string()),
        NodeError::Journal { error: journal, .. } => {
            if matches!(journal, crate::journal::OpenError::Wal(outrigger_wal::WalError::Locked { .. })) {
                Stop::unreachable(error.to_string())
            } else {
                Stop::fault(error.to_string())
            }
        }
    }
}
