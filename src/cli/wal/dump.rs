//! `outrigger wal dump` and `wal tail`: one record a line. With `--json` one object a line, so that a log of any length
//! can be piped.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::Duration;

use outrigger_wal::{Lsn, Record, WalError};

use super::filter::Filter;
use super::{Log, bar, records, stop};
use crate::cli::output::{Output, Stop};

/// How often a followed log is looked at.
const GLANCE: Duration = Duration::from_millis(100);
/// Records between two looks at how far a dump is.
const PROGRESS_EVERY: u64 = 1024;

fn print(record: &Record, values: bool, output: &mut Output) {
    let described = records::describe(record, values);
    if output.is_json() {
        output.line(&described);
    } else {
        output.line(records::line(record, &described));
    }
}

/// Prints what the filter takes, at most `limit` records of it.
pub(super) fn dump(log: &Log, filter: &Filter, limit: usize, values: bool, output: &mut Output) -> Result<(), Stop> {
    // A bar between the lines of a terminal would be read by nobody.
    let bar = if std::io::stdout().is_terminal() { indicatif::ProgressBar::hidden() } else { bar("dumping", output) };
    let mut all = log.records(filter.from).map_err(|e| stop(&e))?;
    let (mut seen, mut printed) = (0_u64, 0);
    while printed < limit
        && let Some(record) = all.next()
    {
        let record = record.inspect_err(|_| bar.finish_and_clear()).map_err(|e| stop(&e))?;
        if filter.is_past(record.lsn) {
            break;
        }
        seen += 1;
        if seen.is_multiple_of(PROGRESS_EVERY) {
            let (done, length) = all.progress();
            bar.set_length(length);
            bar.set_position(done);
        }
        if filter.takes(&record) {
            print(&record, values, output);
            printed += 1;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Prints the last `count` records that the filter takes; with `follow` goes on with what becomes durable, until it is
/// ended.
pub(super) fn tail(
    log: &Log,
    filter: &Filter,
    count: usize,
    follow: bool,
    values: bool,
    output: &mut Output,
) -> Result<(), Stop> {
    let last = last(log, filter, count).map_err(|e| stop(&e))?;
    if !follow {
        last.iter().for_each(|record| print(record, values, output));
        return Ok(());
    }
    // From the first of them on by the follower alone: it hands on what is durable, and only that.
    let from = match last.front() {
        Some(first) => first.lsn,
        None => filter.from.max(end(log).map_err(|e| stop(&e))?),
    };
    self::follow(log, filter, from, values, output)
}

fn follow(log: &Log, filter: &Filter, from: Lsn, values: bool, output: &mut Output) -> Result<(), Stop> {
    let mut follow = log.follow(from);
    loop {
        match follow.poll() {
            Ok(Some(record)) if filter.is_past(record.lsn) => return Ok(()),
            Ok(Some(record)) if filter.takes(&record) => print(&record, values, output),
            Ok(Some(_)) => {}
            Ok(None) => {
                output.flush();
                std::thread::sleep(GLANCE);
            }
            Err(WalError::Released { asked, first }) => {
                tracing::warn!(%asked, %first, "records were released before they could be shown");
                follow = log.follow(first);
            }
            Err(error) => return Err(stop(&error)),
        }
    }
}

/// The last records that the filter takes, read from as few segments as hold them.
fn last(log: &Log, filter: &Filter, count: usize) -> Result<VecDeque<Record>, WalError> {
    let mut begins = log.begins()?;
    loop {
        let begin = begins.pop().unwrap_or(Lsn::ZERO).max(filter.from);
        let mut found = VecDeque::new();
        for record in log.records(begin)? {
            let record = record?;
            if filter.is_past(record.lsn) {
                break;
            }
            if count > 0 && filter.takes(&record) {
                if found.len() == count {
                    found.pop_front();
                }
                found.push_back(record);
            }
        }
        if found.len() == count || begins.is_empty() || begin == filter.from {
            return Ok(found);
        }
    }
}

/// Behind the last record of any kind.
fn end(log: &Log) -> Result<Lsn, WalError> {
    let last_segment = log.begins()?.pop().unwrap_or(Lsn::ZERO);
    let last = log.records(last_segment)?.last().transpose()?;
    Ok(last.map_or(last_segment, |record| record.lsn + 1))
}
