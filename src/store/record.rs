//! What the stores share of `record` operations: the key and fields with their real values, versions, conflicts, and
//! the one shape of the result.
//!
//! The danger: two clients read version 3, both write what they made of it, and the second overwrites the first (a lost
//! update). The remedy: a write names the version that it was made from, and each store compares it *while it holds the
//! record's lock*: PostgreSQL in the statement that writes the row, Neo4j after the node's write lock is taken, Qdrant
//! under the point's lock in our own table.

use serde_json::{Map, Value, json};

use crate::model::ids::StoreName;
use crate::model::problem::{Code, Problem};
use crate::model::record::{IfVersion, Record};
use crate::model::reference::escape;
use crate::model::request::{Action, BoundOp};

/// One record operation with every value known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keyed<'a> {
    pub(super) bound: &'a BoundOp,
    pub(super) record: &'a Record,
    /// Not empty, and every value a number, a text or a boolean.
    pub(super) key: &'a Map<String, Value>,
    /// What a put merges.
    pub(super) set: Option<&'a Map<String, Value>>,
    /// The vectors of a point.
    pub(super) vector: Option<&'a Value>,
}

impl<'a> Keyed<'a> {
    /// The operation, where it is one on a record.
    ///
    /// # Errors
    /// `invalid_request` where a reference brought a value that no key can have.
    pub(super) fn of(bound: &'a BoundOp) -> Option<Result<Self, Problem>> {
        let Action::Record(record) = &bound.op.action else { return None };
        let member = |name: &str| bound.values.get(name);
        let Some(key) = member("key").and_then(Value::as_object) else {
            let detail = "a record without a key";
            return Some(Err(Problem::new(Code::Internal, detail).in_operation(&bound.op.id)));
        };
        let unfit = key.iter().find(|(_, value)| value.is_null() || value.is_array() || value.is_object());
        if let Some((name, _)) = unfit {
            let detail = "a key's value is a number, text, true or false";
            let problem = Problem::invalid(bound.pointer(&format!("/key/{}", escape(name))), detail);
            return Some(Err(problem.in_operation(&bound.op.id)));
        }
        let set = member("set").and_then(Value::as_object);
        Some(Ok(Self { bound, record, key, set, vector: member("vector") }))
    }

    /// The members of `set`; none where there is no `set`.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.set.into_iter().flatten()
    }

    /// Where a member of the operation stands in the request.
    pub(super) fn at(&self, rest: &str) -> String {
        self.bound.pointer(rest)
    }

    /// `invalid_request` at a member.
    pub(super) fn invalid(&self, store: &StoreName, rest: &str, detail: impl Into<String>) -> Problem {
        Problem::invalid(self.at(rest), detail).in_operation(&self.bound.op.id).in_store(store)
    }

    /// `rejected_by_store` at a member.
    pub(super) fn rejected(&self, store: &StoreName, rest: &str, detail: impl Into<String>) -> Problem {
        Problem::new(Code::RejectedByStore, detail).at(self.at(rest)).in_operation(&self.bound.op.id).in_store(store)
    }

    /// The key as a sentence names it: `id = 7`.
    pub(super) fn shown_key(&self) -> String {
        let one = |(name, value): (&String, &Value)| format!("{name} = {value}");
        let all = self.key.iter().map(one).collect::<Vec<_>>().join(", ");
        super::expect::shortened(&all)
    }

    /// Compares the record's version as it was found with `if_version`. `found`: `None` where there is no record.
    ///
    /// # Errors
    /// `conflict`.
    pub(super) fn check(&self, store: &StoreName, found: Option<i64>) -> Result<(), Problem> {
        if self.record.condition.holds(found) {
            return Ok(());
        }
        let found = found.map_or_else(|| "it is not there".to_owned(), |version| format!("it has version {version}"));
        Err(self.conflict(store, &found))
    }

    /// `conflict`, where the store only says that the record was not as it had to be.
    pub(super) fn conflict(&self, store: &StoreName, found: &str) -> Problem {
        let wanted = match self.record.condition {
            IfVersion::Any => "to be there".to_owned(),
            IfVersion::Absent => "to be absent".to_owned(),
            IfVersion::Is(version) => format!("to have version {version}"),
        };
        let (id, place, key) = (&self.bound.op.id, &self.record.place, self.shown_key());
        let detail = format!("operation `{id}`: the record of `{place}` with {key} was expected {wanted}, and {found}");
        let problem = Problem::new(Code::Conflict, detail).at(self.at("/if_version"));
        problem.in_operation(id).in_store(store)
    }

    /// The version in a record's own fields: 0 where it has none.
    ///
    /// # Errors
    /// `rejected_by_store` where something else stands there.
    pub(super) fn version_in(&self, store: &StoreName, value: &Map<String, Value>) -> Result<i64, Problem> {
        match value.get(&self.record.version) {
            None | Some(Value::Null) => Ok(0),
            Some(found) => found.as_i64().ok_or_else(|| {
                let detail = format!("`{}` holds {found}, which is no version: a whole number is", self.record.version);
                self.rejected(store, "/version", super::expect::shortened(&detail))
            }),
        }
    }

    /// More than one record has this key.
    pub(super) fn not_unique(&self, store: &StoreName) -> Problem {
        let detail = format!("more than one record of `{}` has {}", self.record.place, self.shown_key());
        self.rejected(store, "/key", detail)
    }
}

/// The result of a record operation: whether it was there, and what a get found, a put made or a delete took away.
pub(super) fn result(found: bool, version: Option<i64>, value: Option<Map<String, Value>>) -> Value {
    json!({"found": found, "version": version, "value": value})
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::record::Act;
    use crate::model::reference::Template;
    use crate::model::request::{Expect, Operation};

    /// A bound record operation in table `in`.
    pub(in crate::store) fn record(act: Act, place: &str, condition: IfVersion, body: Value) -> BoundOp {
        let body_of = Template::plain(body.clone());
        let record = Record { act, place: place.to_owned(), body: body_of, version: "version".to_owned(), condition };
        let operation = Operation {
            id: "r".to_owned(),
            store: "pg".into(),
            reads: act.reads(),
            action: Action::Record(record),
            expect: Expect::default(),
            pointer: "/operations/0".to_owned(),
        };
        BoundOp { op: Arc::new(operation), values: body }
    }

    #[test]
    fn conditions_and_versions() {
        let store = StoreName::from("pg");
        for (condition, holding, failing) in [
            (IfVersion::Any, vec![None, Some(0), Some(9)], vec![]),
            (IfVersion::Absent, vec![None], vec![Some(0), Some(1)]),
            (IfVersion::Is(0), vec![Some(0)], vec![None, Some(1)]),
            (IfVersion::Is(7), vec![Some(7)], vec![None, Some(6), Some(8)]),
        ] {
            let bound = record(Act::Get, "t", condition, json!({"key": {"id": 1}}));
            let keyed = Keyed::of(&bound).unwrap().unwrap();
            for found in holding {
                assert!(keyed.check(&store, found).is_ok(), "{condition:?} {found:?}");
            }
            for found in failing {
                let problem = keyed.check(&store, found).unwrap_err();
                assert_eq!(problem.code, Code::Conflict);
                assert_eq!(problem.pointer.as_deref(), Some("/operations/0/record/if_version"));
                assert!(problem.detail.contains("id = 1"), "{problem}");
            }
            let version = |value: Value| keyed.version_in(&store, value.as_object().unwrap()).map_err(|p| p.code);
            assert_eq!(version(json!({})), Ok(0));
            assert_eq!(version(json!({"version": null})), Ok(0));
            assert_eq!(version(json!({"version": 4})), Ok(4));
            assert_eq!(version(json!({"version": "4"})), Err(Code::RejectedByStore));
        }
    }

    #[test]
    fn a_reference_may_bring_what_is_no_key() {
        for unfit in [json!(null), json!([1]), json!({"a": 1})] {
            let bound = record(Act::Get, "t", IfVersion::Any, json!({"key": {"id": 1, "a/b": unfit}}));
            let problem = Keyed::of(&bound).unwrap().unwrap_err();
            assert_eq!(problem.pointer.as_deref(), Some("/operations/0/record/key/a~1b"));
        }
    }
}
