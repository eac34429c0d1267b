//! The server's errors → problems: the one place (api.md, "Problems").

use tokio_postgres::Error;
use tokio_postgres::error::{DbError, Severity};

use super::guard::Checked;
use super::values::Malformed;
use crate::model::ids::StoreName;
use crate::model::problem::{Code, Problem};
use crate::store::Setback;

/// The marker's key stands in a committed marker already: the coordinator looks it up and answers what it finds.
pub const KEY_TAKEN: &str = "outrigger:key_taken";
/// A fence (or a former commit) has this very run's marker: it can never commit.
pub const FENCED: &str = "outrigger:fenced";
/// A later incarnation has registered: we are the ghost.
pub const OTHER_OWNER: &str = "outrigger:other_owner";

/// What the server said, in one line: `ERROR 23505: duplicate key … (Key (id)=(1) already exists.)`.
pub(super) fn line(error: &Error) -> String {
    match error.as_db_error() {
        Some(db) => {
            let detail = db.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
            format!("{} {}: {}{detail}", db.severity(), db.code().code(), db.message())
        }
        None => with_sources(error),
    }
}

/// tokio-postgres says "error communicating with the server" and keeps the reason in the source.
fn with_sources(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The server answered, and the answer means that this transaction has not happened and never will. Anything else (the
/// connection ended, a FATAL on its way out, even "in doubt" conditions of class 08 and 57P) leaves a commit open.
pub(super) fn is_verdict(error: &Error) -> bool {
    error.as_db_error().is_some_and(|db| {
        let severe = matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
        !severe && !matches!(class(db), "08" | "58" | "XX") && !db.code().code().starts_with("57P") && !severe_word(db)
    })
}

/// Servers before 9.6 send no severity that is not localized.
fn severe_word(db: &DbError) -> bool {
    db.parsed_severity().is_none() && matches!(db.severity(), "FATAL" | "PANIC")
}

fn class(db: &DbError) -> &str {
    db.code().code().get(..2).unwrap_or_default()
}

/// The SQLSTATE.
pub(super) fn code(error: &Error) -> Option<&str> {
    error.as_db_error().map(|db| db.code().code())
}

/// Everything that stands outside an operation: begin, commit, prepare, connect.
pub(super) fn problem(store: &StoreName, error: &Error) -> Problem {
    let Some(db) = error.as_db_error() else {
        return Problem::unavailable(store, with_sources(error));
    };
    let code = match (class(db), db.code().code()) {
        (_, "40P01") => Code::Deadlock,
        (_, "55P03") => Code::LockTimeout,
        (_, "57014") => Code::Timeout,
        ("23", _) => Code::ConstraintViolation,
        ("40", _) => Code::Serialization,
        // Connection, authorization, no such database, resources, being shut down, the machine.
        ("08" | "28" | "3D" | "53" | "57" | "58", _) | (_, "25P03") => Code::StoreUnavailable,
        _ => Code::RejectedByStore,
    };
    Problem::new(code, format!("{store}: {}", line(error))).in_store(store).with_store_code(db.code().code())
}

/// An operation's statement failed, at its preparation or when it ran.
pub(super) fn of_operation(store: &StoreName, checked: &Checked<'_>, reads: bool, error: &Error) -> Problem {
    let plain = problem(store, error).in_operation(&checked.op.op.id);
    let Some(db) = error.as_db_error() else { return plain };
    let sql = checked.at();
    match db.code().code() {
        "42P10" if checked.record.is_some() => plain.at(checked.op.pointer("/key")).saying(
            "a record that may have to be made needs a key that is unique: a primary key or a unique index on \
             exactly these columns",
        ),
        "42601" if db.message().contains("multiple commands") => {
            Problem { code: Code::InvalidRequest, ..plain }.at(sql).saying("one statement an operation")
        }
        "25006" if reads => plain
            .at(sql)
            .saying("this store's operations all read, so they run read-only; declare the operation `\"write\": true`"),
        "25006" => Problem { code: Code::StoreUnavailable, retry_after: Some(1), ..plain }
            .saying("the server takes no writes: is it a standby?"),
        "25P02" => plain.saying("an earlier statement of this transaction failed"),
        _ => match parameter(db) {
            Some(number) => Problem { code: Code::InvalidRequest, ..plain }.at(checked.place(number.saturating_sub(1))),
            None => plain,
        },
    }
}

/// Why a value could not be shown, where that is what went wrong.
pub(super) fn decoding(error: &Error) -> Option<String> {
    let cause = std::error::Error::source(error)?;
    cause.is::<Malformed>().then(|| with_sources(error))
}

/// The parameter whose text its type's input function refused: a line of the server's context says
/// `unnamed portal parameter $3`, in whatever language, and maybe ` = …` (a cast inside the statement fails without it).
fn parameter(db: &DbError) -> Option<usize> {
    if class(db) != "22" {
        return None;
    }
    db.where_()?.lines().rev().find_map(|line| {
        let (before, rest) = line.split_once('$')?;
        // Other lines quote statements and data, in which `$1` may stand.
        if before.contains(['"', '\'', '«', '„', '“', '”', ':', '：']) {
            return None;
        }
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, behind) = rest.split_at(digits);
        if behind.is_empty() || behind.starts_with(" =") { number.parse().ok() } else { None }
    })
}

/// The marker (or participant row) did not go in.
pub(super) fn of_marker(store: &StoreName, has_key: bool, error: &Error) -> Problem {
    let plain = problem(store, error);
    let Some(db) = error.as_db_error() else { return plain };
    match (db.code().code(), db.constraint()) {
        ("23505", Some("decision_key")) => Problem::new(Code::InFlight, "a transaction with this key has committed")
            .in_store(store)
            .with_store_code(KEY_TAKEN),
        ("23505", _) => Problem::new(Code::WrongState, format!("{store}: this run was fenced, it can never commit"))
            .in_store(store)
            .with_store_code(FENCED),
        ("55P03", _) if has_key => {
            Problem { code: Code::InFlight, retry_after: Some(1), ..plain }.saying("a transaction with this key runs")
        }
        ("42P01" | "3F000" | "42703", _) => plain.saying("the marker tables are missing: run `outrigger init`"),
        ("42501", _) => plain.saying("the role may not write the marker tables: see `outrigger init --print`"),
        ("25006", _) => Problem { code: Code::StoreUnavailable, retry_after: Some(1), ..plain }
            .saying("the server takes no writes: is it a standby?"),
        _ => plain,
    }
}

/// The incarnation check let no row through.
pub(super) fn other_owner(store: &StoreName) -> Problem {
    let detail = format!("{store}: another owner has registered this log there since; this one must stop");
    Problem::new(Code::JournalUnavailable, detail).in_store(store).with_store_code(OTHER_OWNER)
}

/// For the second half: whatever it was, the same act may be tried again.
pub(super) fn again(error: &Error) -> Setback {
    Setback::Again(line(error))
}

trait Saying {
    /// Puts what to do about it before what the server said.
    fn saying(self, hint: &str) -> Self;
}

impl Saying for Problem {
    fn saying(mut self, hint: &str) -> Self {
        self.detail = format!("{hint} [{}]", self.detail);
        self
    }
}
