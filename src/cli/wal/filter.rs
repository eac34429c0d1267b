//! Which records are wanted: by transaction, by place, by kind.

use std::str::FromStr;

use clap::Args;
use outrigger_wal::{Lsn, Record};
use prost::Message;

use crate::journal::job::JobRecord;
use crate::journal::record::{RunRecord, kind};
use crate::model::ids::{Attempt, Run, TxnId};

/// Every condition that is given must hold.
#[derive(Args, Clone, Debug)]
pub(in crate::cli) struct Filter {
    /// Begin here
    #[arg(long, default_value = "0", value_name = "LSN")]
    pub(super) from: Lsn,
    /// End before here
    #[arg(long, value_name = "LSN")]
    to: Option<Lsn>,
    /// Only of this transaction, or of one attempt of it; may be repeated
    #[arg(long = "transaction", value_name = "ID[/ATTEMPT]")]
    transactions: Vec<Wanted>,
    /// Only of these kinds, by name or number
    #[arg(long = "kind", value_delimiter = ',', value_name = "KIND")]
    kinds: Vec<Kind>,
}

/// A transaction, or one attempt of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    txn: TxnId,
    attempt: Option<Attempt>,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, attempt) = text.split_once('/').map_or((text, None), |(id, attempt)| (id, Some(attempt)));
        let txn = id.parse().map_err(|_| format!("`{id}` is no transaction's id (a UUID)"))?;
        let attempt = attempt.map(|n| n.parse().map(Attempt).map_err(|_| format!("`{n}` is no attempt (1, 2, …)")));
        Ok(Self { txn, attempt: attempt.transpose()? })
    }
}

/// A record's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind(u8);

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse() {
            return Ok(Self(number));
        }
        let known = || (0..=u8::MAX).filter(|number| kind::name(*number) != kind::name(0));
        known().find(|number| kind::name(*number) == text).map(Self).ok_or_else(|| {
            let names: Vec<_> = known().map(kind::name).collect();
            format!("`{text}` is no kind; there are {}", names.join(", "))
        })
    }
}

/// The first field of every record that belongs to a run; what else it holds is passed over.
#[derive(Clone, PartialEq, Message)]
struct OfRun {
    #[prost(message, optional, tag = "1")]
    run: Option<RunRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct OfIntent {
    #[prost(message, optional, tag = "1")]
    intent: Option<OfRun>,
}

/// Whose record it is; `None` where it is nobody's.
fn run_of(record: &Record) -> Option<Run> {
    if matches!(record.kind, kind::OPENED | kind::CHECKPOINT) {
        return None;
    }
    let of = match record.kind {
        // A batch job is a transaction of one run.
        kind::JOB => {
            let id = JobRecord::decode(&*record.payload).ok()?.id;
            OfRun { run: Some(RunRecord { txn: id, attempt: Attempt::FIRST.0 }) }
        }
        // Its whole Intent stands where others have their run.
        kind::PREPARED => OfIntent::decode(&*record.payload).ok()?.intent?,
        _ => OfRun::decode(&*record.payload).ok()?,
    };
    Run::try_from(&of.run?).ok()
}

impl Filter {
    /// Whether a record is wanted.
    pub(super) fn takes(&self, record: &Record) -> bool {
        let kind = self.kinds.is_empty() || self.kinds.contains(&Kind(record.kind));
        kind && record.lsn >= self.from && !self.is_past(record.lsn) && self.takes_run(record)
    }

    fn takes_run(&self, record: &Record) -> bool {
        if self.transactions.is_empty() {
            return true;
        }
        let is = |run: Run, wanted: &Wanted| {
            wanted.txn == run.txn && wanted.attempt.is_none_or(|attempt| attempt == run.attempt)
        };
        run_of(record).is_some_and(|run| self.transactions.iter().any(|wanted| is(run, wanted)))
    }

    /// Whether nothing from this place on can be wanted.
    pub(super) fn is_past(&self, lsn: Lsn) -> bool {
        self.to.is_some_and(|to| lsn >= to)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::journal::job::JobLog;
    use crate::journal::record::{OpenedRecord, VerdictRecord};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        filter: Filter,
    }

    fn filter(args: &[&str]) -> Filter {
        Line::try_parse_from([&["x"], args].concat()).expect("it parses").filter
    }

    fn verdict(lsn: u64, run: Run) -> Record {
        let payload = VerdictRecord { run: run.into(), committed: true, answer: None, at_us: 0 }.encode_to_vec();
        Record { lsn: Lsn::from_u64(lsn), kind: kind::DECISION, durable_lsn: Lsn::ZERO, payload }
    }

    #[test]
    fn a_job_is_found_by_its_id() {
        let id = TxnId::fresh();
        let payload = JobLog::default().encode(id, 100).remove(0);
        let record = Record { lsn: Lsn::from_u64(5), kind: kind::JOB, durable_lsn: Lsn::ZERO, payload };
        assert!(filter(&["--transaction", &id.to_string()]).takes(&record));
        assert!(!filter(&["--transaction", &TxnId::fresh().to_string()]).takes(&record));
    }

    #[test]
    fn each_condition_narrows() {
        let (one, other) = (TxnId::fresh(), TxnId::fresh());
        let record = verdict(500, Run { txn: one, attempt: Attempt(2) });
        let opened = OpenedRecord { incarnation: 1, ..OpenedRecord::default() }.encode_to_vec();
        let opened =
            Record { kind: kind::OPENED, payload: opened, ..verdict(100, Run { txn: one, attempt: Attempt(1) }) };
        let id = |txn: TxnId, rest: &str| format!("{txn}{rest}");
        for (args, takes) in [
            (vec![], true),
            (vec!["--from", "500"], true),
            (vec!["--from", "501"], false),
            (vec!["--to", "500"], false),
            (vec!["--to", "501"], true),
            (vec!["--kind", "decision"], true),
            (vec!["--kind", "intent,3"], true),
            (vec!["--kind", "intent"], false),
            (vec!["--transaction", &id(one, "")], true),
            (vec!["--transaction", &id(one, "/2")], true),
            (vec!["--transaction", &id(one, "/1")], false),
            (vec!["--transaction", &id(other, "")], false),
            (vec!["--transaction", &id(other, ""), "--transaction", &id(one, "")], true),
        ] {
            assert_eq!(filter(&args).takes(&record), takes, "{args:?}");
        }
        assert!(filter(&["--kind", "opened"]).takes(&opened));
        assert!(!filter(&["--transaction", &id(one, "")]).takes(&opened));
    }

    #[test]
    fn what_is_no_filter_is_wrong_usage() {
        for args in [["--kind", "unknown"], ["--transaction", "7"], ["--transaction", "x/1"], ["--to", "-1"]] {
            assert!(Line::try_parse_from(["x", args[0], args[1]]).is_err(), "{args:?}");
        }
    }
}
