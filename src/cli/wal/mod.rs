//! `outrigger wal stat|verify|dump|tail|replay|repair`: the log, without a sidecar. All but `replay` and `repair --yes` only
//! read, and may be used beside a running owner.

mod dump;
mod filter;
mod records;
mod repair;

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use outrigger_wal::inspect::{self, Damage, Follow, Records, Verify};
use outrigger_wal::{Keys, Lsn, WalError};
use serde_json::{Value, json};

use self::filter::Filter;
use super::output::{Output, Stop};
use super::replay;
use crate::config::Config;

#[derive(Subcommand, Debug)]
pub(super) enum Wal {
    /// What the segments' headers say
    Stat(Place),
    /// Read and check every record; a torn tail is no fault
    Verify(Place),
    /// Print the records, without the values in them
    Dump {
        #[command(flatten)]
        reading: Reading,
        #[command(flatten)]
        filter: Filter,
        /// At most so many
        #[arg(long, value_name = "COUNT")]
        limit: Option<usize>,
        #[command(flatten)]
        show: Show,
    },
    /// Print the last records, and go on as more become durable
    Tail {
        #[command(flatten)]
        reading: Reading,
        #[command(flatten)]
        filter: Filter,
        /// How many of the last ones
        #[arg(short = 'n', long, default_value_t = 10, value_name = "COUNT")]
        lines: usize,
        /// Go on until ended; the log may be in use
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        show: Show,
    },
    /// Drive recovery without serving: own the log, end every open transaction in the stores, stop
    Replay {
        #[command(flatten)]
        reading: Reading,
        /// Only say what recovery would do, reaching no store and changing nothing
        #[arg(long)]
        plan: bool,
        /// Give up after so long; what is open stays open
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        timeout: u64,
    },
    /// Say what can be done for a log that does not open: cut a torn tail, set damaged segments aside; never edit
    Repair {
        #[command(flatten)]
        place: Place,
        /// Do it: what is given up is lost to the log for good
        #[arg(long)]
        yes: bool,
    },
}

/// What of a record is shown.
#[derive(clap::Args, Debug)]
pub(super) struct Show {
    /// With what applications wrote: names of locks, points and keys, answers, causes, and the raw bytes (base64)
    #[arg(long)]
    values: bool,
}

/// Where the log is.
#[derive(clap::Args, Debug)]
pub(super) struct Place {
    /// The log's folder [default: journal.dir of the configuration]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
}

/// What records are read with.
#[derive(clap::Args, Debug)]
pub(super) struct Reading {
    #[command(flatten)]
    place: Place,
    /// The keys of an encrypted log [default: journal.encryption_key_file of the configuration]
    #[arg(long, value_name = "PATH")]
    key_file: Option<PathBuf>,
}

/// A log whose records are read.
pub(super) struct Log {
    dir: PathBuf,
    keys: Option<Keys>,
}

impl Reading {
    /// Place and keys; the configuration is needed only where the arguments leave the place open.
    fn log(&self, load: impl FnOnce() -> Result<Config, Stop>) -> Result<Log, Stop> {
        let mut configured = None;
        let dir = self.place.dir(|| {
            let config = load()?;
            configured.clone_from(&config.journal.keys);
            Ok(config)
        })?;
        let keys = match &self.key_file {
            Some(path) => Some(Keys::from_file(path).map_err(|e| stop(&e))?),
            None => configured,
        };
        Ok(Log { dir, keys })
    }
}

impl Log {
    /// The records from the first one at or after `from`.
    pub(super) fn records(&self, from: Lsn) -> Result<Records, WalError> {
        let records = inspect::records(&self.dir, from)?;
        Ok(match &self.keys {
            Some(keys) => records.with_keys(keys.clone()),
            None => records,
        })
    }

    /// The same, and what becomes durable later.
    fn follow(&self, from: Lsn) -> Follow {
        let follow = inspect::follow(&self.dir, from);
        match &self.keys {
            Some(keys) => follow.with_keys(keys.clone()),
            None => follow,
        }
    }

    /// Where each segment begins, oldest first.
    fn begins(&self) -> Result<Vec<Lsn>, WalError> {
        Ok(inspect::stat(&self.dir)?.segments.iter().map(|segment| segment.base_lsn).collect())
    }
}

impl Place {
    fn dir(&self, load: impl FnOnce() -> Result<Config, Stop>) -> Result<PathBuf, Stop> {
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => load()?.journal.dir,
        };
        if dir.is_dir() { Ok(dir) } else { Err(Stop::unreachable(format!("there is no log in {}", dir.display()))) }
    }
}

pub(super) fn run(what: &Wal, load: impl FnOnce() -> Result<Config, Stop>, output: &mut Output) -> Result<(), Stop> {
    match what {
        Wal::Stat(place) => stat(&place.dir(load)?, output),
        Wal::Verify(place) => verify(&place.dir(load)?, output),
        Wal::Dump { reading, filter, limit, show } => {
            dump::dump(&reading.log(load)?, filter, limit.unwrap_or(usize::MAX), show.values, output)
        }
        Wal::Tail { reading, filter, lines, follow, show } => {
            dump::tail(&reading.log(load)?, filter, *lines, *follow, show.values, output)
        }
        Wal::Repair { place, yes } => repair::run(&place.dir(load)?, *yes, output),
        Wal::Replay { reading, plan: true, .. } => replay::plan(&reading.log(load)?, output),
        Wal::Replay { reading, timeout, .. } => {
            let mut config = load()?;
            if let Some(dir) = &reading.place.dir {
                config.journal.dir.clone_from(dir);
            }
            let log = reading.log(|| Ok(config.clone()))?;
            config.journal.keys = log.keys.or(config.journal.keys);
            replay::drive(config, std::time::Duration::from_secs(*timeout), output)
        }
    }
}

/// Damage is a fault; a log that cannot be read could not be reached.
pub(super) fn stop(error: &WalError) -> Stop {
    match error {
        WalError::Locked { .. } | WalError::Io { .. } => Stop::unreachable(error.to_string()),
        other => Stop::fault(other.to_string()),
    }
}

fn stat(dir: &std::path::Path, output: &mut Output) -> Result<(), Stop> {
    let stat = inspect::stat(dir).map_err(|e| stop(&e))?;
    let id = stat.log_id.map(|id| id.to_string());
    if output.is_json() {
        let segments: Vec<_> = stat
            .segments
            .iter()
            .map(|s| {
                json!({
                    "name": s.name, "number": s.number, "base_lsn": s.base_lsn.as_u64(), "bytes": s.bytes,
                    "created_at": time(s.created_at_micros), "durable_lsn": s.durable_lsn.as_u64(),
                    "key_id": s.key_id,
                })
            })
            .collect();
        output.value(&json!({
            "log_id": id, "version": stat.version, "segments": segments, "unsound": stat.unsound,
            "bytes": stat.bytes, "first_lsn": stat.first_lsn.as_u64(),
        }));
    } else {
        output.line(format_args!(
            "log {}  {} bytes  first Lsn {}",
            id.unwrap_or_else(|| "-".into()),
            stat.bytes,
            stat.first_lsn
        ));
        let rows: Vec<_> = stat
            .segments
            .iter()
            .map(|s| {
                vec![
                    s.name.clone(),
                    s.base_lsn.to_string(),
                    s.bytes.to_string(),
                    s.durable_lsn.to_string(),
                    time(s.created_at_micros),
                ]
            })
            .collect();
        output.table(&["SEGMENT", "BASE", "BYTES", "DURABLE", "CREATED"], &rows);
        stat.unsound.iter().for_each(|name| output.line(format_args!("FAULT: {name} has no sound header")));
    }
    if stat.unsound.is_empty() { Ok(()) } else { Err(Stop::faults_shown()) }
}

fn verify(dir: &std::path::Path, output: &mut Output) -> Result<(), Stop> {
    let bar = bar("verifying", output);
    let found = inspect::verify_with(dir, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let found = found.map_err(|e| stop(&e))?;
    if output.is_json() {
        output.value(&verified(&found));
    } else {
        let last = found.last_lsn.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string());
        output.line(format_args!("log:       {}", found.log_id.map_or_else(|| "-".to_owned(), |id| id.to_string())));
        output.line(format_args!("segments:  {}", found.segments));
        output.line(format_args!("records:   {}", found.records));
        output.line(format_args!("first Lsn: {}", found.first_lsn));
        output.line(format_args!("last Lsn:  {last}"));
        output.line(format_args!(
            "stop:      {}",
            if found.clean_shutdown { "clean" } else { "not clean, or still running" }
        ));
        if found.torn_bytes > 0 {
            output.line(format_args!("warning: {} torn bytes at the end: the next start cuts them", found.torn_bytes));
        }
        for damage in &found.corrupt {
            output.line(fault_line(damage));
        }
        if !found.corrupt.is_empty() {
            output.line("`outrigger wal repair` says what can be done.");
        }
    }
    if found.corrupt.is_empty() { Ok(()) } else { Err(Stop::faults_shown()) }
}

fn verified(found: &Verify) -> Value {
    json!({
        "segments": found.segments,
        "records": found.records,
        "first_lsn": found.first_lsn.as_u64(),
        "last_lsn": found.last_lsn.map(Lsn::as_u64),
        "torn_bytes": found.torn_bytes,
        "corrupt": damages(&found.corrupt),
        "log_id": found.log_id.map(|id| id.to_string()),
        "clean_shutdown": found.clean_shutdown,
    })
}

fn fault_line(damage: &Damage) -> String {
    let Damage { segment, lsn, lost, detail, .. } = damage;
    format!("FAULT: {segment} at Lsn {lsn}: {detail}; lost: {} to {}", lost.start, lost.end)
}

fn damages(all: &[Damage]) -> Value {
    all.iter()
        .map(|damage| {
            json!({
                "segment": damage.segment, "lsn": damage.lsn.as_u64(), "detail": damage.detail,
                "lost": {"from": damage.lost.start.as_u64(), "to": damage.lost.end.as_u64()},
            })
        })
        .collect()
}

/// A progress bar for people; nobody else gets one.
pub(super) fn bar(what: &'static str, output: &Output) -> ProgressBar {
    if output.is_json() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}% {eta}");
    let bar = ProgressBar::new(0).with_message(what);
    if let Ok(style) = style { bar.with_style(style) } else { bar }
}

fn time(micros: u64) -> String {
    crate::clock::rfc3339(i64::try_from(micros).unwrap_or(i64::MAX))
}
