//! JSON ⇄ Bolt.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use neo4rs::{BoltList, BoltMap, BoltNode, BoltNull, BoltPath, BoltString, BoltType, BoltUnboundedRelation};
use serde_json::{Map, Number, Value, json};

use super::temporal;
use crate::model::reference::escape;

/// A row as the driver gives it: columns in the order of their names (the driver does not keep the statement's).
pub(super) type Row = BTreeMap<String, BoltType>;

/// A value that Bolt cannot carry: where in the parameters, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct BadValue {
    /// JSON pointer from the parameters: `/id`.
    pub(super) pointer: String,
    /// For people.
    pub(super) detail: String,
}

impl BadValue {
    fn under(mut self, step: &str) -> Self {
        self.pointer = format!("/{}{}", escape(step), self.pointer);
        self
    }
}

/// A parameter map.
pub(super) fn to_map(members: &Map<String, Value>) -> Result<BoltMap, BadValue> {
    let mut map = BoltMap::with_capacity(members.len());
    for (name, value) in members {
        map.put(BoltString::from(name.as_str()), to_bolt(value).map_err(|bad| bad.under(name))?);
    }
    Ok(map)
}

fn to_bolt(value: &Value) -> Result<BoltType, BadValue> {
    Ok(match value {
        Value::Null => BoltType::Null(BoltNull),
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => number_to_bolt(number)?,
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => {
            let mut list = BoltList::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                list.push(to_bolt(item).map_err(|bad| bad.under(&index.to_string()))?);
            }
            BoltType::List(list)
        }
        Value::Object(members) => BoltType::Map(to_map(members)?),
    })
}

fn number_to_bolt(number: &Number) -> Result<BoltType, BadValue> {
    if let Some(whole) = number.as_i64() {
        return Ok(whole.into());
    }
    if number.is_u64() {
        let detail = format!("{number} is beyond what Neo4j's 64-bit integers hold (at most {})", i64::MAX);
        return Err(BadValue { pointer: String::new(), detail });
    }
    number
        .as_f64()
        .map(BoltType::from)
        .ok_or_else(|| BadValue { pointer: String::new(), detail: format!("{number} is not a number that Neo4j has") })
}

/// How element ids begin on this database. Bolt 4.4 sends bare numbers; `elementId()` gives `4:<database>:<number>` for
/// nodes and `5:…` for relationships, and clients must be able to hand our ids back to it.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct ElementIds {
    database: Option<String>,
}

impl ElementIds {
    /// From the element id of any node and its number; bare numbers where the server's ids look otherwise.
    pub(super) fn learn(element_id: &str, number: i64) -> Self {
        let database = element_id
            .strip_prefix("4:")
            .and_then(|rest| rest.strip_suffix(&format!(":{number}")))
            .filter(|database| !database.is_empty())
            .map(str::to_owned);
        Self { database }
    }

    fn node(&self, number: i64) -> String {
        self.with_kind('4', number)
    }

    fn relationship(&self, number: i64) -> String {
        self.with_kind('5', number)
    }

    fn with_kind(&self, kind: char, number: i64) -> String {
        match &self.database {
            Some(database) => format!("{kind}:{database}:{number}"),
            None => number.to_string(),
        }
    }

    /// One row as a JSON object.
    ///
    /// # Errors
    /// Why a value cannot be shown, for people.
    pub(super) fn row(&self, row: Row) -> Result<Value, String> {
        let columns = row.into_iter().map(|(name, value)| {
            let shown = self.show(&value).map_err(|why| format!("column `{name}`: {why}"))?;
            Ok((name, shown))
        });
        Ok(Value::Object(columns.collect::<Result<_, String>>()?))
    }

    fn show(&self, value: &BoltType) -> Result<Value, String> {
        Ok(match value {
            BoltType::Null(_) => Value::Null,
            BoltType::Boolean(v) => v.value.into(),
            BoltType::Integer(v) => v.value.into(),
            BoltType::Float(v) => float(v.value),
            BoltType::String(v) => v.value.as_str().into(),
            BoltType::Bytes(v) => STANDARD.encode(&v.value).into(),
            BoltType::List(v) => self.list(v)?,
            BoltType::Map(v) => self.map(v)?,
            BoltType::Node(v) => self.show_node(v)?,
            BoltType::Relation(v) => {
                let ends = (v.start_node_id.value, v.end_node_id.value);
                self.edge(v.id.value, &v.typ, ends, &v.properties)?
            }
            BoltType::UnboundedRelation(v) => json!({
                "element_id": self.relationship(v.id.value), "type": v.typ.value, "properties": self.map(&v.properties)?,
            }),
            BoltType::Path(v) => self.path(v)?,
            BoltType::Point2D(v) => json!({"srid": v.sr_id.value, "x": float(v.x.value), "y": float(v.y.value)}),
            BoltType::Point3D(v) => {
                json!({"srid": v.sr_id.value, "x": float(v.x.value), "y": float(v.y.value), "z": float(v.z.value)})
            }
            temporal => temporal::show(temporal)?.into(),
        })
    }

    fn list(&self, list: &BoltList) -> Result<Value, String> {
        list.value.iter().map(|item| self.show(item)).collect::<Result<Vec<_>, _>>().map(Value::Array)
    }

    fn map(&self, map: &BoltMap) -> Result<Value, String> {
        let mut members = map.value.iter().collect::<Vec<_>>();
        members.sort_unstable_by(|(a, _), (b, _)| a.value.cmp(&b.value));
        let shown = members.into_iter().map(|(name, item)| Ok((name.value.clone(), self.show(item)?)));
        Ok(Value::Object(shown.collect::<Result<_, String>>()?))
    }

    fn show_node(&self, node: &BoltNode) -> Result<Value, String> {
        Ok(json!({
            "element_id": self.node(node.id.value),
            "labels": self.list(&node.labels)?,
            "properties": self.map(&node.properties)?,
        }))
    }

    fn edge(&self, id: i64, kind: &BoltString, (start, end): (i64, i64), with: &BoltMap) -> Result<Value, String> {
        Ok(json!({
            "element_id": self.relationship(id),
            "type": kind.value,
            "start": self.node(start),
            "end": self.node(end),
            "properties": self.map(with)?,
        }))
    }

    /// Bolt sends a path as its distinct nodes, its distinct relationships, and a walk over them: pairs of (relationship
    /// counted from 1, negative when walked against its direction; node counted from 0).
    fn path(&self, path: &BoltPath) -> Result<Value, String> {
        let broken = || "a path whose walk leads nowhere".to_owned();
        let node_at = |index: i64| -> Result<&BoltNode, String> {
            match usize::try_from(index).ok().and_then(|index| path.nodes.value.get(index)) {
                Some(BoltType::Node(node)) => Ok(node),
                _ => Err(broken()),
            }
        };
        let edge_at = |index: i64| -> Result<&BoltUnboundedRelation, String> {
            let index = usize::try_from(index.unsigned_abs()).ok().and_then(|index| index.checked_sub(1));
            match index.and_then(|index| path.rels.value.get(index)) {
                Some(BoltType::UnboundedRelation(edge)) => Ok(edge),
                _ => Err(broken()),
            }
        };
        let mut walk = Vec::with_capacity(path.indices.value.len());
        for index in &path.indices.value {
            let BoltType::Integer(index) = index else { return Err(broken()) };
            walk.push(index.value);
        }
        let mut at = node_at(0)?;
        let (mut nodes, mut relationships) = (vec![self.show_node(at)?], Vec::new());
        for step in walk.chunks_exact(2) {
            let (edge, next) = (edge_at(step[0])?, node_at(step[1])?);
            let ends = if step[0] > 0 { (at.id.value, next.id.value) } else { (next.id.value, at.id.value) };
            relationships.push(self.edge(edge.id.value, &edge.typ, ends, &edge.properties)?);
            nodes.push(self.show_node(next)?);
            at = next;
        }
        Ok(json!({"nodes": nodes, "relationships": relationships}))
    }
}

/// JSON has no NaN and no infinities: they are strings.
fn float(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => "NaN".into(),
        None if value > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}
