//! What a statement may not be: the transaction around it is ours, and its connection serves others afterwards.

use std::borrow::Cow;

use serde_json::Value;

use super::record::{self, Compiled};
use crate::model::ids::StoreName;
use crate::model::problem::Problem;
use crate::model::request::{Action, BoundOp};
use crate::model::statement::{first_two_words, first_word};
use crate::store::record::Keyed;

/// An operation's statement, once it is seen to be fit to send.
#[derive(Clone, Debug)]
pub(super) struct Checked<'a> {
    pub(super) op: &'a BoundOp,
    pub(super) sql: Cow<'a, str>,
    /// Where the statement was made of a record.
    pub(super) record: Option<Compiled<'a>>,
    /// It may change what later statements mean (DDL, a procedure): they are prepared only after it has run.
    pub(super) reshapes: bool,
    /// It leaves something behind in the session that a rollback or commit does not take along.
    pub(super) taints: bool,
}

impl Checked<'_> {
    /// Where the statement stands in the request.
    pub(super) fn at(&self) -> String {
        if self.record.is_some() { self.op.pointer("") } else { format!("{}/sql", self.op.op.pointer) }
    }

    /// Its parameters. `None`: the operation has no list of them.
    pub(super) fn params(&self) -> Option<Vec<&Value>> {
        match &self.record {
            Some(compiled) => Some(compiled.params.iter().map(|(_, value)| value).collect()),
            None => Some(self.op.values.as_array()?.iter().collect()),
        }
    }

    /// Where a parameter, counted from 0, stands in the request.
    pub(super) fn place(&self, index: usize) -> String {
        match &self.record {
            Some(compiled) => self.op.pointer(compiled.params.get(index).map_or("", |(at, _)| at)),
            None => self.op.pointer(&format!("/{index}")),
        }
    }
}

/// Refuses what would end our transaction, change the session for the next one, or leave the protocol of queries.
pub(super) fn check<'a>(store: &StoreName, op: &'a BoundOp) -> Result<Checked<'a>, Problem> {
    if let Some(keyed) = Keyed::of(op) {
        let (sql, compiled) = record::compile(store, keyed?)?;
        return Ok(Checked { op, sql: Cow::Owned(sql), record: Some(compiled), reshapes: false, taints: false });
    }
    let refuse = |pointer: String, why: String| Err(Problem::invalid(pointer, why).in_operation(&op.op.id));
    let Action::Sql { text, .. } = &op.op.action else {
        return refuse(op.op.pointer.clone(), "PostgreSQL takes `sql` and `record`".to_owned());
    };
    let at = format!("{}/sql", op.op.pointer);
    if text.contains('\0') {
        return refuse(at, "a statement cannot hold the character U+0000".to_owned());
    }
    let (first, second) = first_two_words(text);
    let (first, second) = (first.to_ascii_uppercase(), second.to_ascii_uppercase());
    match first.as_str() {
        "" => return refuse(at, "there is no statement in it".to_owned()),
        "BEGIN" | "START" | "COMMIT" | "END" | "ROLLBACK" | "ABORT" | "SAVEPOINT" | "RELEASE" => {
            return refuse(at, format!("{first}: Outrigger begins and ends the transaction"));
        }
        "SET" if second != "LOCAL" && second != "CONSTRAINTS" => {
            return refuse(at, "SET outlives the transaction in its connection: use SET LOCAL".to_owned());
        }
        "PREPARE" | "DEALLOCATE" | "RESET" | "DISCARD" | "LISTEN" | "UNLISTEN" | "LOAD" => {
            return refuse(at, format!("{first} reaches beyond the transaction"));
        }
        "COPY" => return refuse(at, "COPY has no place in an operation: use INSERT with arrays".to_owned()),
        _ => {}
    }
    let sql = Cow::Borrowed(text.as_str());
    Ok(Checked { op, sql, record: None, reshapes: reshapes(&first), taints: taints(text) })
}

fn reshapes(first: &str) -> bool {
    !matches!(
        first,
        "SELECT" | "INSERT" | "UPDATE" | "DELETE" | "MERGE" | "VALUES" | "TABLE" | "WITH" | "SHOW" | "LOCK" | "NOTIFY"
    )
}

/// A look at the words, not a proof: `set_config(…, false)`, session locks and temporary tables leave traces that only a
/// fresh connection lacks. One too many is a reconnect; one missed (inside a function) is met by the next transaction.
fn taints(text: &str) -> bool {
    if ["do", "declare"].iter().any(|word| first_word(text).eq_ignore_ascii_case(word)) {
        return true;
    }
    let mut before = String::new();
    for word in text.split(|c: char| !c.is_alphanumeric() && c != '_') {
        let word = word.to_ascii_lowercase();
        let taints = match word.as_str() {
            "set_config" | "pg_temp" => true,
            "temp" | "temporary" => matches!(before.as_str(), "create" | "into" | "local" | "global" | "replace"),
            _ => word.starts_with("pg_advisory_lock") || word.starts_with("pg_try_advisory_lock"),
        };
        if taints {
            return true;
        }
        if !word.is_empty() {
            before = word;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::model::reference::Template;
    use crate::model::request::{Expect, Operation};

    fn op(sql: &str) -> BoundOp {
        let action = Action::Sql { text: sql.to_owned(), params: Template::plain(json!([])) };
        let op = Operation {
            id: "o".to_owned(),
            store: "pg".into(),
            reads: false,
            action,
            expect: Expect::default(),
            pointer: "/operations/0".to_owned(),
        };
        BoundOp { op: Arc::new(op), values: json!([]) }
    }

    #[test]
    fn what_ends_the_transaction_or_outlives_it_is_refused() {
        for sql in [
            "COMMIT",
            "/* x */ ; commit",
            "begin",
            "START TRANSACTION",
            "END",
            "ROLLBACK TO x",
            "abort",
            "SAVEPOINT a",
            "RELEASE a",
            "PREPARE TRANSACTION 'x'",
            "prepare x as select 1",
            "SET TRANSACTION READ WRITE",
            "SET SESSION x = 1",
            "set search_path = x",
            "RESET ALL",
            "DISCARD ALL",
            "LISTEN x",
            "COPY t FROM STDIN",
            "DEALLOCATE ALL",
            "  -- nothing",
            "select '\0'",
        ] {
            let problem = check(&"pg".into(), &op(sql)).unwrap_err();
            assert_eq!(problem.pointer.as_deref(), Some("/operations/0/sql"), "{sql:?}");
            assert_eq!(problem.operation.as_deref(), Some("o"));
        }
    }

    #[test]
    fn what_stays_inside_is_let_through() {
        for (sql, reshapes) in [
            ("SELECT 'COMMIT'", false),
            ("SET LOCAL work_mem = '1MB'", true),
            ("SET CONSTRAINTS ALL DEFERRED", true),
            ("CREATE TABLE t()", true),
            ("committed", true),
        ] {
            assert_eq!(check(&"pg".into(), &op(sql)).unwrap().reshapes, reshapes, "{sql}");
        }
    }

    #[test]
    fn what_leaves_traces_is_seen() {
        for (sql, taints) in [
            ("SELECT set_config('a.b', '1', false)", true),
            ("select pg_try_advisory_lock_shared(1)", true),
            ("CREATE TEMPORARY TABLE t ()", true),
            ("SELECT 1 INTO TEMP t", true),
            ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", true),
            ("SELECT temp, attempt FROM temporary_templates", false),
            ("SELECT pg_advisory_xact_lock(1)", false),
            ("SELECT 1", false),
        ] {
            assert_eq!(check(&"pg".into(), &op(sql)).unwrap().taints, taints, "{sql}");
        }
    }
}
