//! The tokio runtime and the log.

use std::future::Future;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::LogFormat;
use super::output::Stop;

/// What is logged where `RUST_LOG` does not say: our own steps, and others' worries.
const DEFAULT_FILTER: &str = "warn,outrigger=info";

/// Logs go to standard error, so that standard output is the answer and nothing else.
pub(super) fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Only a test could have installed a subscriber before us; it then keeps the log.
    let _ = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
}

/// Runs a future to its end. Two to four workers: the work is waiting for stores, and each thread costs memory.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("outrigger")
        .enable_all()
        .build()
        .map_err(|e| Stop::fault(format!("the runtime cannot start: {e}")))?;
    let outcome = runtime.block_on(future);
    // A blocking call that hangs (a disk that does not answer) must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    outcome
}
