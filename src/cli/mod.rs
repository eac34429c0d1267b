//! The command line: argv in, text out.
//!
//! | exit code | means |
//! |---|---|
//! | 0 | fine (a torn tail or a missing power is a warning) |
//! | 1 | found a fault: a bad configuration, a corrupt log, a refusal |
//! | 2 | wrong usage |
//! | 3 | could not reach what it needs |

mod check;
mod client;
mod locks;
mod orphans;
mod output;
mod replay;
mod runtime;
mod serve;
mod sse;
mod stores;
mod txn;
mod wal;
mod watch;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::{Config, PATH_VARIABLE};
use output::{Output, Stop};

/// Writes across PostgreSQL, Qdrant and Neo4j happen together or not at all.
#[derive(Parser, Debug)]
#[command(name = "outrigger", version, max_term_width = 100)]
struct Cli {
    /// The configuration [default: ./outrigger.toml where it exists]
    #[arg(long, global = true, env = PATH_VARIABLE, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Answer as JSON
    #[arg(long, global = true)]
    json: bool,
    /// How logs are written (to standard error; RUST_LOG says which)
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the sidecar until SIGTERM or SIGINT
    Serve,
    /// Create the marker tables and constraints in the stores
    Init {
        /// Only print the statements
        #[arg(long)]
        print: bool,
    },
    /// Check the configuration, reading its secrets and reaching nothing
    Check,
    /// Probe stores, settings and disk
    Doctor,
    /// Ask the running sidecar about transactions
    #[command(subcommand)]
    Txn(txn::Txn),
    /// Ask the running sidecar about prepared transactions that nothing open answers for
    #[command(subcommand)]
    Orphans(orphans::Orphans),
    /// End what a sidecar that is gone has left in its journal, without serving
    Recover(replay::Recover),
    /// Show who holds which lock of the running sidecar, and who waits
    Locks(locks::Locks),
    /// Show the last deadlocks: who waited for whom in a circle, and who gave way
    Deadlocks(locks::Deadlocks),
    /// Look at the log, without a sidecar
    #[command(subcommand)]
    Wal(wal::Wal),
    /// Print completions for a shell
    Completions {
        /// For which
        shell: clap_complete::Shell,
    },
}

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    // One provider for every TLS client; a second installation would be a defect, and rustls would say so at use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    runtime::log(cli.log_format);
    let mut output = Output::new(cli.json);
    let code = match run(&cli, &mut output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => output.stop(&stop),
    };
    output.flush();
    code
}

fn run(cli: &Cli, output: &mut Output) -> Result<(), Stop> {
    let config = || load(cli.config.as_deref());
    match &cli.command {
        Command::Serve => serve::run(config()?),
        Command::Init { print } => stores::init(&config()?, *print, output),
        Command::Doctor => stores::doctor(&config()?, output),
        Command::Wal(what) => wal::run(what, config, output),
        Command::Check => check::run(cli.config.as_deref(), output),
        Command::Txn(what) => txn::run(what, cli.config.as_deref(), output),
        Command::Orphans(what) => orphans::run(what, cli.config.as_deref(), output),
        Command::Recover(what) => replay::recover(what, config()?, output),
        Command::Locks(what) => locks::locks(what, cli.config.as_deref(), output),
        Command::Deadlocks(what) => locks::deadlocks(what, cli.config.as_deref(), output),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "outrigger", &mut script);
            output.text(&String::from_utf8_lossy(&script));
            Ok(())
        }
    }
}

fn load(path: Option<&std::path::Path>) -> Result<Config, Stop> {
    Config::load(path).map_err(|e| Stop::fault(e.to_string()))
}
