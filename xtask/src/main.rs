//! `cargo xtask …`: the stack of real stores, the demo and the tests over it.
//!
//! Exit codes: 0 fine, 1 something failed, 2 wrong usage, 3 something must be installed first (the command is printed).

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;
use xtask::install::Missing;
use xtask::stack::{Lifetime, Stack, Store, Wanted};
use xtask::{bench, demo, suite, tool};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Outrigger's errands: real stores, the demo, tests, benches")]
struct Cli {
    #[command(subcommand)]
    errand: Errand,
}

#[derive(Subcommand)]
enum Errand {
    /// Real PostgreSQL, Neo4j and Qdrant on loopback
    #[command(subcommand)]
    Stack(StackErrand),
    /// A real corpus across all three, with kills on the way, beside direct writes
    #[command(disable_help_flag = true)]
    Demo {
        /// `--help` shows them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
    /// Every check in order: format, lints, builds, tests on real stores, documentation
    Test(suite::Options),
    /// Direct writes and Outrigger over the same stores, in one interleaved run (release builds; minutes); `bench wal`: the
    /// log beside other logs and the disk's limit
    Bench {
        /// For the ladder: --rounds, --seconds, --clients, --json; see `cargo xtask bench -- --help`, `bench wal --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

#[derive(Subcommand)]
enum StackErrand {
    /// Start what isn't running; installs and fetches what is missing
    Up(Up),
    /// End the servers; their data stays
    Down {
        #[command(flatten)]
        place: Place,
        /// Remove the data and the folder too
        #[arg(long)]
        purge: bool,
        /// Wait until standard input closes, then do it: a guard that outlives whoever holds the other end
        #[arg(long, hide = true)]
        when_stdin_closes: bool,
    },
    /// Show the stores; exit code 1 if one isn't ready
    Status {
        #[command(flatten)]
        place: Place,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// SIGKILL one store with all its children
    Kill(One),
    /// End one store in good order
    Stop(One),
    /// Start one store again, on its port and its data
    Start(One),
}

#[derive(Args)]
struct Place {
    /// The stack's folder [default: .stack in the workspace]
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Place {
    fn dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| tool::workspace().join(".stack"))
    }

    fn attach(&self) -> Result<Stack> {
        Stack::attach(self.dir())
    }
}

#[derive(Args)]
struct Up {
    #[command(flatten)]
    place: Place,
    /// Only these stores (may be repeated)
    #[arg(long = "store", value_enum)]
    stores: Vec<Kind>,
    /// PostgreSQL's max_prepared_transactions; 0 takes its power to prepare away
    #[arg(long, default_value_t = 64)]
    max_prepared_transactions: u32,
    /// Remove an earlier stack's data first
    #[arg(long)]
    fresh: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct One {
    /// Which
    #[arg(value_enum)]
    store: Kind,
    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Postgres,
    Neo4j,
    Qdrant,
}

impl From<Kind> for Store {
    fn from(kind: Kind) -> Store {
        match kind {
            Kind::Postgres => Store::Postgres,
            Kind::Neo4j => Store::Neo4j,
            Kind::Qdrant => Store::Qdrant,
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.downcast_ref::<Missing>().is_some() { 3 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.errand {
        Errand::Bench { args } => bench::run(&args).map(|()| ExitCode::SUCCESS),
        Errand::Test(options) => suite::run(&options).map(|passed| ExitCode::from(u8::from(!passed))),
        Errand::Demo { options } => demo::run(&options).map(ExitCode::from),
        Errand::Stack(StackErrand::Up(up)) => stack_up(&up),
        Errand::Stack(StackErrand::Down { place, purge, when_stdin_closes }) => {
            if when_stdin_closes {
                io::copy(&mut io::stdin().take(u64::MAX), &mut io::sink())?;
            }
            if !place.dir().join("stack.json").is_file() {
                return Ok(ExitCode::SUCCESS);
            }
            let stack = place.attach()?;
            if purge { stack.purge() } else { stack.down() }.map(|()| ExitCode::SUCCESS)
        }
        Errand::Stack(StackErrand::Status { place, json }) => show(&place.attach()?, json),
        Errand::Stack(StackErrand::Kill(one)) => one.place.attach()?.kill(one.store.into()).map(|()| ExitCode::SUCCESS),
        Errand::Stack(StackErrand::Stop(one)) => one.place.attach()?.stop(one.store.into()).map(|()| ExitCode::SUCCESS),
        Errand::Stack(StackErrand::Start(one)) => {
            one.place.attach()?.start(one.store.into()).map(|()| ExitCode::SUCCESS)
        }
    }
}

fn stack_up(up: &Up) -> Result<ExitCode> {
    let dir = up.place.dir();
    if up.fresh && dir.join("stack.json").is_file() {
        Stack::attach(&dir)?.purge()?;
    }
    let stores: Vec<Store> = up.stores.iter().copied().map(Store::from).collect();
    let stack = Stack::up(
        dir,
        Wanted {
            stores: if stores.is_empty() { Store::ALL.to_vec() } else { stores },
            max_prepared_transactions: up.max_prepared_transactions,
            lifetime: Lifetime::UntilDown,
        },
    )?;
    show(&stack, up.json)
}

fn show(stack: &Stack, as_json: bool) -> Result<ExitCode> {
    let status = stack.status()?;
    let config = stack.sidecar_config();
    if as_json {
        println!("{:#}", json!({"dir": stack.dir(), "config": config, "stores": status}));
    } else {
        println!("{:<10}{:<10}{:<44}{:<11}{:<15}pid", "store", "state", "url", "user", "password");
        for one in &status {
            let pid = one.pid.map_or("-".to_owned(), |pid| pid.to_string());
            let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
            let (user, password) = (or_dash(&one.login.user), or_dash(&one.login.password));
            println!("{:<10}{:<10}{:<44}{user:<11}{password:<15}{pid}", one.store.name(), one.state, one.login.url);
        }
        println!("sidecar configuration: {}", config.display());
    }
    let fine = status.iter().all(|one| matches!(one.state, "ready" | "external"));
    Ok(ExitCode::from(u8::from(!fine)))
}
