//! `record` operations as SQL: one statement each, so that the version is compared by the very statement that writes,
//! under the row's own lock.
//!
//! ```text
//!   get                  SELECT
//!   put, a version       UPDATE … WHERE key AND version
//!   put, absent          INSERT … ON CONFLICT (key) DO NOTHING
//!   put, any             an UPDATE, and where it met no row an INSERT … ON CONFLICT (key) DO UPDATE. (An INSERT alone
//!                        would want every NOT NULL column even where the row is there.)
//!   delete               DELETE
//! ```
//!
//! Names are quoted and taken as they are written: `Accounts` is not `accounts`.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::model::ids::StoreName;
use crate::model::problem::Problem;
use crate::model::record::{Act, IfVersion};
use crate::model::reference::escape;
use crate::store::record::{self, Keyed};

/// The longest name: PostgreSQL silently cuts what is longer.
const LONGEST: usize = 63;
/// The column of ours that says whether a put met a row.
const FOUND: &str = "__ogr_found";

/// What of a record operation is not in the text of its statement.
#[derive(Clone, Debug)]
pub(super) struct Compiled<'a> {
    pub(super) keyed: Keyed<'a>,
    /// Each parameter with its place below `record` in the request.
    pub(super) params: Vec<(String, Value)>,
}

/// The statement of a record operation.
///
/// # Errors
/// `invalid_request` where a name cannot be one of PostgreSQL's.
pub(super) fn compile<'a>(store: &StoreName, keyed: Keyed<'a>) -> Result<(String, Compiled<'a>), Problem> {
    let bad = |rest: String| move |why: String| keyed.invalid(store, &rest, why);
    let table = table(&keyed.record.place).map_err(bad("/in".to_owned()))?;
    let version = column(&keyed.record.version).map_err(bad("/version".to_owned()))?;
    let mut parts = Parts { table, version, keys: Vec::new(), sets: Vec::new(), params: Vec::new() };
    for (name, value) in keyed.key {
        let at = format!("/key/{}", escape(name));
        let column = column(name).map_err(bad(at.clone()))?;
        let place = parts.param(at, value.clone());
        parts.keys.push((column, place));
    }
    for (name, value) in keyed.fields() {
        let at = format!("/set/{}", escape(name));
        let column = column(name).map_err(bad(at.clone()))?;
        let place = parts.param(at, value.clone());
        parts.sets.push((column, place));
    }
    let sql = match (keyed.record.act, keyed.record.condition) {
        // A delete of what must be absent has only to look.
        (Act::Get, _) | (Act::Delete, IfVersion::Absent) => parts.select(),
        (Act::Delete, condition) => parts.delete(condition),
        (Act::Put, IfVersion::Is(version)) => parts.update(version),
        (Act::Put, IfVersion::Absent) => parts.insert(),
        (Act::Put, IfVersion::Any) => parts.upsert(),
    };
    Ok((sql, Compiled { keyed, params: parts.params }))
}

/// What the statements are made of; every name is quoted.
struct Parts {
    table: String,
    version: String,
    /// Columns of the key, each with its parameter.
    keys: Vec<(String, usize)>,
    /// Columns to set, each with its parameter.
    sets: Vec<(String, usize)>,
    params: Vec<(String, Value)>,
}

impl Parts {
    fn param(&mut self, at: String, value: Value) -> usize {
        self.params.push((at, value));
        self.params.len()
    }

    fn where_key(&self) -> String {
        let one = |(column, place): &(String, usize)| format!("r.{column} = ${place}");
        self.keys.iter().map(one).collect::<Vec<_>>().join(" AND ")
    }

    fn where_version(&mut self, version: i64) -> String {
        let place = self.param("/if_version".to_owned(), version.into());
        format!("coalesce(r.{}, 0)::bigint = ${place}", self.version)
    }

    /// `SET` of an update: the fields, and the version counted up.
    fn assignments(&self, value_of: impl Fn(&str, usize) -> String) -> String {
        let mut text = String::new();
        for (column, place) in &self.sets {
            let _ = write!(text, "{column} = {}, ", value_of(column, *place));
        }
        let _ = write!(text, "{0} = coalesce(r.{0}, 0) + 1", self.version);
        text
    }

    /// `(key, fields, version)` and their values.
    fn columns(&self) -> (String, String) {
        let (mut columns, mut values) = (String::new(), String::new());
        for (column, place) in self.keys.iter().chain(&self.sets) {
            let _ = write!(columns, "{column}, ");
            let _ = write!(values, "${place}, ");
        }
        columns.push_str(&self.version);
        values.push('1');
        (columns, values)
    }

    fn key_columns(&self) -> String {
        self.keys.iter().map(|(column, _)| column.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn select(&self) -> String {
        format!("SELECT r.* FROM {} AS r WHERE {} LIMIT 2", self.table, self.where_key())
    }

    fn delete(&mut self, condition: IfVersion) -> String {
        let also = match condition {
            IfVersion::Is(version) => format!(" AND {}", self.where_version(version)),
            _ => String::new(),
        };
        format!("DELETE FROM {} AS r WHERE {}{also} RETURNING r.*", self.table, self.where_key())
    }

    fn update(&mut self, version: i64) -> String {
        let at = self.where_version(version);
        let sets = self.assignments(|_, place| format!("${place}"));
        format!("UPDATE {} AS r SET {sets} WHERE {} AND {at} RETURNING r.*", self.table, self.where_key())
    }

    fn insert(&self) -> String {
        let (columns, values) = self.columns();
        let (table, key) = (&self.table, self.key_columns());
        format!("INSERT INTO {table} AS r ({columns}) VALUES ({values}) ON CONFLICT ({key}) DO NOTHING RETURNING r.*")
    }

    fn upsert(&self) -> String {
        let (columns, values) = self.columns();
        let (table, version, key) = (&self.table, &self.version, self.key_columns());
        let (by_key, sets) = (self.where_key(), self.assignments(|_, place| format!("${place}")));
        let again = self.assignments(|column, _| format!("excluded.{column}"));
        // A row that came between the two was there too; its version, counted up, is above that of a new one.
        format!(
            "WITH changed AS (UPDATE {table} AS r SET {sets} WHERE {by_key} RETURNING r.*), \
             made AS (INSERT INTO {table} AS r ({columns}) SELECT {values} WHERE NOT EXISTS (SELECT FROM changed) \
             ON CONFLICT ({key}) DO UPDATE SET {again} RETURNING r.*) \
             SELECT c.*, true AS {FOUND} FROM changed AS c \
             UNION ALL SELECT m.*, m.{version} > 1 FROM made AS m"
        )
    }
}

/// A name in double quotes.
fn column(name: &str) -> Result<String, String> {
    if name.len() > LONGEST {
        return Err(format!("PostgreSQL's names have at most {LONGEST} bytes"));
    }
    if name.is_empty() || name.contains('\0') {
        return Err("this is no name".to_owned());
    }
    Ok(format!("\"{}\"", name.replace('"', "\"\"")))
}

/// `table` or `schema.table`. A name that holds a dot stands in double quotes, as in SQL.
fn table(text: &str) -> Result<String, String> {
    let mut names = Vec::new();
    let mut rest = text;
    loop {
        let (name, behind) = one_name(rest)?;
        names.push(column(&name)?);
        match behind.strip_prefix('.') {
            Some(next) => rest = next,
            None if behind.is_empty() => break,
            None => return Err("what follows a quoted name is a dot, or nothing".to_owned()),
        }
    }
    if names.len() > 2 {
        return Err("a table is `table` or `schema.table`; a name that holds a dot stands in double quotes".to_owned());
    }
    Ok(names.join("."))
}

/// The first name of `text`, and what follows it.
fn one_name(text: &str) -> Result<(String, &str), String> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find('.').unwrap_or(text.len());
        return Ok((text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    let mut rest = quoted;
    loop {
        let end = rest.find('"').ok_or("a double quote that is never closed")?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Ok((name, rest)),
        }
    }
}

/// The rows of a record's statement as its result.
///
/// # Errors
/// `conflict`; `rejected_by_store` where the key is not one record's, or the version is none.
pub(super) fn read(store: &StoreName, compiled: &Compiled<'_>, rows: Vec<Value>) -> Result<Value, Problem> {
    let keyed = &compiled.keyed;
    let mut rows = rows.into_iter();
    let (first, second) = (rows.next(), rows.next());
    if second.is_some() {
        return Err(keyed.not_unique(store));
    }
    let mut row: Option<Map<String, Value>> = match first {
        Some(Value::Object(row)) => Some(row),
        _ => None,
    };
    let met = row.as_mut().and_then(|row| row.shift_remove(FOUND)).and_then(|found| found.as_bool());
    if let Some(row) = &row
        && !row.contains_key(&keyed.record.version)
    {
        let detail = format!("`{}` has no column `{}`", keyed.record.place, keyed.record.version);
        return Err(keyed.rejected(store, "/version", detail));
    }
    let version = row.as_ref().map(|row| keyed.version_in(store, row)).transpose()?;
    let found = match (keyed.record.act, keyed.record.condition) {
        (Act::Get, _) | (Act::Delete, IfVersion::Absent | IfVersion::Any) => {
            keyed.check(store, version)?;
            row.is_some()
        }
        (Act::Put, IfVersion::Any) if row.is_none() => {
            return Err(keyed.rejected(
                store,
                "",
                "nothing was written: a trigger or a policy of the table stands in the way",
            ));
        }
        (Act::Put, IfVersion::Any) => met.unwrap_or_default(),
        (_, IfVersion::Absent) if row.is_none() => return Err(keyed.conflict(store, "it is there")),
        (_, _) if row.is_none() => return Err(keyed.conflict(store, "it is missing, or has another")),
        (_, condition) => condition != IfVersion::Absent,
    };
    Ok(record::result(found, version, row))
}
