//! `record` operations as Cypher, one statement each.
//!
//! The danger: Neo4j reads without locks (read committed), so a `WHERE n.version = 3` may be true of a node that another
//! transaction is about to write. The remedy is the manual's own ("Concurrent data access", lost updates): a property is
//! written first, which takes the node's write lock, and only then is the version read and compared. The property is
//! removed in the same statement: what stays of it is its name in the database's list of property keys.
//!
//! A put that may make the node uses `MERGE`, which is safe from making two only under a uniqueness constraint: without
//! one the operation is refused.

use std::time::Duration;

use neo4rs::summary::Counters;
use neo4rs::{BoltMap, BoltType, query};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::control::text;
use super::values::to_map;
use super::{Shared, errors::Fault};
use crate::model::ids::StoreName;
use crate::model::problem::{Code, Problem};
use crate::model::record::{Act, IfVersion};
use crate::model::reference::escape;
use crate::store::record::{self, Keyed};

/// How long the list of constraints is trusted.
const TRUSTED: Duration = Duration::from_secs(10);
/// The column of a statement's result.
const VALUE: &str = "value";

/// The uniqueness constraints of a database, each as its label and its properties; and when they were asked for.
pub(super) type Unique = Option<(Instant, Vec<(String, Vec<String>)>)>;

/// A record operation as a statement and its parameters.
///
/// # Errors
/// `invalid_request` where a name or a value cannot be one of Neo4j's.
pub(super) fn compile(store: &StoreName, keyed: &Keyed<'_>) -> Result<(String, BoltMap), Problem> {
    let bad = |rest: String| move |why: String| keyed.invalid(store, &rest, why);
    let label = name(&keyed.record.place).map_err(bad("/in".to_owned()))?;
    let version = name(&keyed.record.version).map_err(bad("/version".to_owned()))?;
    let mut keys = Vec::with_capacity(keyed.key.len());
    for property in keyed.key.keys() {
        keys.push(name(property).map_err(bad(format!("/key/{}", escape(property))))?);
    }
    for (property, value) in keyed.fields() {
        if is_nested(value) {
            let why = "a property holds a number, text, true or false, or a flat list of one of them".to_owned();
            return Err(bad(format!("/set/{}", escape(property)))(why));
        }
    }
    let mut params = BoltMap::new();
    for (member, values) in [("key", Some(keyed.key)), ("set", keyed.set)] {
        let map = to_map(values.unwrap_or(&Map::new()));
        let map = map.map_err(|unfit| bad(format!("/{member}{}", unfit.pointer))(unfit.detail))?;
        params.put(member.into(), BoltType::Map(map));
    }
    if let IfVersion::Is(version) = keyed.record.condition {
        params.put("at".into(), version.into());
    }
    let pattern = keys.iter().map(|key| format!("{key}: $key.{key}")).collect::<Vec<_>>().join(", ");
    let parts = Parts { node: format!("(n:{label} {{{pattern}}})"), keys, version };
    Ok((parts.text(keyed.record.act, keyed.record.condition), params))
}

/// What the statements are made of; every name is quoted.
struct Parts {
    /// `(n:Label {key: …})`
    node: String,
    keys: Vec<String>,
    version: String,
}

impl Parts {
    fn text(&self, act: Act, condition: IfVersion) -> String {
        let (node, version) = (&self.node, &self.version);
        let returns = format!("RETURN properties(n) AS {VALUE}");
        let locked = "SET n.`__ogr_lock` = true REMOVE n.`__ogr_lock`";
        let counted = format!("SET n += $set, n.{version} = coalesce(n.{version}, 0) + 1");
        let holds = match condition {
            // By now it may have been written, or deleted, by whoever was waited for.
            IfVersion::Is(_) => format!("{} AND coalesce(n.{version}, 0) = $at", self.by_key()),
            _ => self.by_key(),
        };
        match (act, condition) {
            // A delete of what must be absent has only to look.
            (Act::Get, _) | (Act::Delete, IfVersion::Absent) => format!("MATCH {node} {returns} LIMIT 2"),
            (Act::Delete, _) => {
                format!(
                    "MATCH {node} {locked} WITH n WHERE {holds} WITH n, properties(n) AS {VALUE} DELETE n RETURN {VALUE}"
                )
            }
            (Act::Put, IfVersion::Is(_)) => format!("MATCH {node} {locked} WITH n WHERE {holds} {counted} {returns}"),
            (Act::Put, IfVersion::Absent) => {
                format!("MERGE {node} ON CREATE SET n += $set, n.{version} = 1 {returns}")
            }
            (Act::Put, IfVersion::Any) => format!("MERGE {node} {locked} WITH n WHERE {holds} {counted} {returns}"),
        }
    }

    fn by_key(&self) -> String {
        self.keys.iter().map(|key| format!("n.{key} = $key.{key}")).collect::<Vec<_>>().join(" AND ")
    }
}

/// A name in backticks. Neo4j reads `\u0060` as a backtick wherever it stands, so no name may hold a backslash.
fn name(name: &str) -> Result<String, String> {
    if name.is_empty() || name.contains(['\\', '\0']) {
        return Err("a name is not empty and holds no backslash".to_owned());
    }
    Ok(format!("`{}`", name.replace('`', "``")))
}

/// Whether it is no property value: a map, or a list that is not flat.
pub(super) fn is_nested(value: &Value) -> bool {
    match value {
        Value::Object(_) => true,
        Value::Array(items) => items.iter().any(|item| item.is_object() || item.is_array() || item.is_null()),
        _ => false,
    }
}

/// Whether the operation may make its node, and so rests on a uniqueness constraint.
pub(super) fn may_make(keyed: &Keyed<'_>) -> bool {
    keyed.record.act == Act::Put && !matches!(keyed.record.condition, IfVersion::Is(_))
}

/// Refuses a put that may make a node where nothing keeps two from being made.
///
/// # Errors
/// `rejected_by_store` with the statement that helps; why the server could not be asked.
pub(super) async fn must_be_unique(store: &Shared, keyed: &Keyed<'_>, until: Instant) -> Result<(), Problem> {
    let asking = tokio::time::timeout_at(until, is_unique(store, keyed));
    let unique = asking.await.unwrap_or(Err(Fault::Deadline));
    if unique.map_err(|fault| store.problem(&fault).in_operation(&keyed.bound.op.id))? {
        return Ok(());
    }
    let quoted = |text: &str| name(text).unwrap_or_default();
    let properties = keyed.key.keys().map(|key| format!("n.{}", quoted(key))).collect::<Vec<_>>().join(", ");
    let detail = format!(
        "two writers could make the same record, since no uniqueness constraint covers its key: \
         CREATE CONSTRAINT FOR (n:{}) REQUIRE ({properties}) IS UNIQUE",
        quoted(&keyed.record.place)
    );
    Err(keyed.rejected(&store.name, "/key", detail))
}

async fn is_unique(store: &Shared, keyed: &Keyed<'_>) -> Result<bool, Fault> {
    // Unique in some of the key is unique in all of it.
    let covers = |(label, properties): &(String, Vec<String>)| {
        *label == keyed.record.place && properties.iter().all(|property| keyed.key.contains_key(property))
    };
    let mut known = store.unique.lock().await;
    if let Some((asked, constraints)) = &*known
        && asked.elapsed() < TRUSTED
        && constraints.iter().any(covers)
    {
        return Ok(true);
    }
    let asked = Instant::now();
    let constraints = constraints(store).await?;
    let unique = constraints.iter().any(covers);
    *known = Some((asked, constraints));
    Ok(unique)
}

async fn constraints(store: &Shared) -> Result<Vec<(String, Vec<String>)>, Fault> {
    let show = "SHOW CONSTRAINTS YIELD type, labelsOrTypes AS labels, properties WHERE size(labels) = 1 \
         AND type IN ['UNIQUENESS', 'NODE_KEY', 'NODE_PROPERTY_UNIQUENESS'] \
         RETURN labels[0] AS label, properties";
    let rows = store.control.ask(query(show)).await?;
    let properties = |value: &BoltType| match value {
        BoltType::List(list) => list.value.iter().map(one_text).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    Ok(rows.iter().filter_map(|row| Some((text(row, "label")?, properties(row.get("properties")?)?))).collect())
}

fn one_text(value: &BoltType) -> Option<String> {
    match value {
        BoltType::String(text) => Some(text.value.clone()),
        _ => None,
    }
}

/// The rows of a record's statement as its result.
///
/// # Errors
/// `conflict`; `serialization` where the node was deleted under us; `rejected_by_store` where the key is not one
/// record's, or the version is none.
pub(super) fn read(
    store: &StoreName,
    keyed: &Keyed<'_>,
    rows: Vec<Value>,
    counters: &Counters,
) -> Result<Value, Problem> {
    let mut rows = rows.into_iter();
    let (first, second) = (rows.next(), rows.next());
    if second.is_some() {
        return Err(keyed.not_unique(store));
    }
    let value = match first {
        None => None,
        Some(mut row) => match row.get_mut(VALUE).map(Value::take) {
            Some(Value::Object(value)) => Some(value),
            _ => return Err(Problem::new(Code::Internal, "a record's row without its value").in_store(store)),
        },
    };
    let version = value.as_ref().map(|value| keyed.version_in(store, value)).transpose()?;
    let made = counters.nodes_created > 0;
    match (keyed.record.act, keyed.record.condition) {
        (Act::Get, _) | (Act::Delete, IfVersion::Absent | IfVersion::Any) => keyed.check(store, version)?,
        (Act::Put, IfVersion::Absent) if !made => keyed.check(store, version)?,
        (Act::Put | Act::Delete, IfVersion::Is(_)) if value.is_none() => {
            return Err(keyed.conflict(store, "it is missing, or has another"));
        }
        // MERGE had found a node that somebody else deleted while we waited for it: the next run makes it anew.
        (Act::Put, _) if value.is_none() => {
            let detail = format!("the node with {} was deleted by another transaction meanwhile", keyed.shown_key());
            let problem = Problem::new(Code::Serialization, detail).at(keyed.at("/key"));
            return Err(problem.in_operation(&keyed.bound.op.id).in_store(store));
        }
        _ => {}
    }
    Ok(record::result(value.is_some() && !made, version, value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::request::BoundOp;
    use crate::store::record::tests::record;

    fn put(place: &str, condition: IfVersion) -> BoundOp {
        record(Act::Put, place, condition, json!({"key": {"a`b": 1, "c": "x"}, "set": {"d": 2}}))
    }

    fn compiled(bound: &BoundOp) -> Result<String, Problem> {
        let keyed = Keyed::of(bound).unwrap().unwrap();
        compile(&"graph".into(), &keyed).map(|(text, _)| text)
    }

    #[test]
    fn names_stand_in_backticks_whatever_they_hold() {
        let text = compiled(&put("A` {x: 1}) DETACH DELETE n //", IfVersion::Absent)).unwrap();
        assert_eq!(
            text,
            "MERGE (n:`A`` {x: 1}) DETACH DELETE n //` {`a``b`: $key.`a``b`, `c`: $key.`c`}) \
             ON CREATE SET n += $set, n.`version` = 1 RETURN properties(n) AS value"
        );
        for place in ["a\\u0060b", "\\", "a\0"] {
            let problem = compiled(&put(place, IfVersion::Any)).unwrap_err();
            assert_eq!(problem.pointer.as_deref(), Some("/operations/0/record/in"), "{place}");
        }
    }

    #[test]
    fn the_version_is_compared_after_the_lock_is_taken() {
        let text = compiled(&put("A", IfVersion::Is(3))).unwrap();
        let (lock, compare) = (text.find("SET n.`__ogr_lock`").unwrap(), text.find("= $at").unwrap());
        assert!(lock < compare && text.find("SET n += $set").unwrap() > compare, "{text}");
    }

    #[test]
    fn values_that_are_no_properties_are_named() {
        for (set, pointer) in [
            (json!({"a": 1, "b/c": {"x": 1}}), "/operations/0/record/set/b~1c"),
            (json!({"a": [1, [2]]}), "/operations/0/record/set/a"),
            (json!({"a": [1, null]}), "/operations/0/record/set/a"),
            (json!({"a": u64::MAX}), "/operations/0/record/set/a"),
        ] {
            let bound = record(Act::Put, "A", IfVersion::Any, json!({"key": {"id": 1}, "set": set}));
            assert_eq!(compiled(&bound).unwrap_err().pointer.as_deref(), Some(pointer));
        }
    }
}
