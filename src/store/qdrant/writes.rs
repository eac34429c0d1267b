//! Write verbs: Qdrant's REST bodies → one kind of write that names its points.

use std::collections::HashMap;

use ::qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use ::qdrant_client::qdrant::points_update_operation::{
    ClearPayload, DeletePayload, DeletePoints, DeleteVectors, Operation, OverwritePayload, PointStructList, SetPayload,
    UpdateVectors,
};
use ::qdrant_client::qdrant::vectors::VectorsOptions;
use ::qdrant_client::qdrant::{
    Filter, NamedVectors, PointId, PointStruct, PointVectors, PointsIdsList, PointsSelector, Value as Wire, Vectors,
    VectorsSelector,
};
use serde_json::Value;

use super::json::{Bad, Inside, Members, list, text};
use super::{filters, ids, paths, values};
use crate::model::request::Verb;

/// One write as asked for.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Write {
    /// What happens.
    pub(super) change: Change,
    /// To which points.
    pub(super) targets: Targets,
}

/// The points of a write.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Targets {
    /// These.
    Points(Vec<PointId>),
    /// Whichever match when the operation runs.
    Where(Filter),
}

/// What a write does to its points.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Change {
    /// Puts whole points.
    Upsert(Vec<PointStruct>),
    /// Deletes points.
    Delete,
    /// Merges into the payload, or into what a path points to.
    SetPayload(HashMap<String, Wire>, Option<String>),
    /// Replaces the payload.
    OverwritePayload(HashMap<String, Wire>),
    /// Removes what the paths point to.
    DeletePayload(Vec<String>),
    /// Empties the payload.
    ClearPayload,
    /// Puts some vectors.
    UpdateVectors(Vec<PointVectors>),
    /// Removes vectors by name.
    DeleteVectors(Vec<String>),
}

/// Reads the body of a write verb.
pub(super) fn read(verb: Verb, body: &Value) -> Result<Write, Bad> {
    let mut members = Members::of(body)?;
    let write = match verb {
        Verb::Upsert => upsert(&mut members)?,
        Verb::UpdateVectors => {
            let points = members.need("points", |value| list(value, point_vectors))?;
            let targets = Targets::Points(points.iter().filter_map(|point| point.id.clone()).collect());
            Write { change: Change::UpdateVectors(points), targets }
        }
        _ => {
            let change = match verb {
                Verb::Delete => Change::Delete,
                Verb::SetPayload => {
                    let payload = members.need("payload", values::payload)?;
                    Change::SetPayload(payload, members.read("key", paths::read)?)
                }
                Verb::OverwritePayload => Change::OverwritePayload(members.need("payload", values::payload)?),
                Verb::DeletePayload => Change::DeletePayload(members.need("keys", |value| list(value, paths::read))?),
                Verb::ClearPayload => Change::ClearPayload,
                Verb::DeleteVectors => Change::DeleteVectors(members.need("vector", names)?),
                _ => return Err(Bad::new("is not a write")),
            };
            Write { change, targets: targets(&mut members)? }
        }
    };
    members.done()?;
    Ok(write)
}

fn names(value: &Value) -> Result<Vec<String>, Bad> {
    let names = list(value, text)?;
    if names.is_empty() { Err(Bad::new("names no vector")) } else { Ok(names) }
}

fn targets(members: &mut Members<'_>) -> Result<Targets, Bad> {
    let points = members.read("points", |value| list(value, ids::read))?;
    let filter = members.read("filter", filters::filter)?;
    match (points, filter) {
        (Some(points), None) => Ok(Targets::Points(points)),
        (None, Some(filter)) => Ok(Targets::Where(filter)),
        _ => Err(Bad::new("takes either `points` or `filter`")),
    }
}

fn upsert(members: &mut Members<'_>) -> Result<Write, Bad> {
    let points = members.read("points", |value| list(value, point))?;
    let batch = members.read("batch", batch)?;
    let points = match (points, batch) {
        (Some(points), None) | (None, Some(points)) => points,
        _ => return Err(Bad::new("takes either `points` or `batch`")),
    };
    let targets = Targets::Points(points.iter().filter_map(|point| point.id.clone()).collect());
    Ok(Write { change: Change::Upsert(points), targets })
}

fn point(value: &Value) -> Result<PointStruct, Bad> {
    let mut members = Members::of(value)?;
    let point = PointStruct {
        id: Some(members.need("id", ids::read)?),
        vectors: Some(members.need("vector", values::vectors)?),
        payload: members.read("payload", values::payload)?.unwrap_or_default(),
    };
    members.done()?;
    Ok(point)
}

fn point_vectors(value: &Value) -> Result<PointVectors, Bad> {
    let mut members = Members::of(value)?;
    let (id, vectors) = (members.need("id", ids::read)?, members.need("vector", values::vectors)?);
    members.done()?;
    Ok(PointVectors { id: Some(id), vectors: Some(vectors) })
}

/// `{"ids": […], "vectors": […] | {"name": […]}, "payloads": […]}`: the same points by columns.
fn batch(value: &Value) -> Result<Vec<PointStruct>, Bad> {
    let mut members = Members::of(value)?;
    let ids = members.need("ids", |value| list(value, ids::read))?;
    let mut vectors = members.need("vectors", |value| vector_columns(value, ids.len()))?;
    let none_or = |value: &Value| if value.is_null() { Ok(HashMap::new()) } else { values::payload(value) };
    let payloads = members.read("payloads", |value| same_length(list(value, none_or)?, ids.len()))?;
    members.done()?;
    let mut payloads = payloads.unwrap_or_else(|| vec![HashMap::new(); ids.len()]);
    let rows = ids.into_iter().zip(vectors.drain(..)).zip(payloads.drain(..));
    Ok(rows.map(|((id, vectors), payload)| PointStruct { id: Some(id), vectors: Some(vectors), payload }).collect())
}

fn vector_columns(value: &Value, rows: usize) -> Result<Vec<Vectors>, Bad> {
    let Value::Object(columns) = value else { return same_length(list(value, values::vectors)?, rows) };
    let mut named = vec![HashMap::with_capacity(columns.len()); rows];
    for (name, column) in columns {
        let column = list(column, values::any_vector).and_then(|column| same_length(column, rows)).inside(name)?;
        for (row, vector) in named.iter_mut().zip(column) {
            row.insert(name.clone(), values::on_wire(vector));
        }
    }
    let whole = |vectors| Vectors { vectors_options: Some(VectorsOptions::Vectors(NamedVectors { vectors })) };
    Ok(named.into_iter().map(whole).collect())
}

fn same_length<T>(items: Vec<T>, rows: usize) -> Result<Vec<T>, Bad> {
    if items.len() == rows { Ok(items) } else { Err(Bad::new(format!("has {} items for {rows} ids", items.len()))) }
}

impl Change {
    /// Whether Qdrant answers `NotFound` when a point is missing, having changed the others.
    pub(super) fn needs_points(&self) -> bool {
        !matches!(self, Self::Upsert(_) | Self::Delete)
    }

    /// As Qdrant is told it, for exactly these points.
    pub(super) fn into_operation(self, points: Vec<PointId>) -> Operation {
        let these = PointsSelectorOneOf::Points(PointsIdsList { ids: points });
        let these = Some(PointsSelector { points_selector_one_of: Some(these) });
        let shard_key_selector = None;
        match self {
            Self::Upsert(points) => Operation::Upsert(PointStructList { points, ..PointStructList::default() }),
            Self::Delete => Operation::DeletePoints(DeletePoints { points: these, shard_key_selector }),
            Self::SetPayload(payload, key) => {
                Operation::SetPayload(SetPayload { payload, points_selector: these, shard_key_selector, key })
            }
            Self::OverwritePayload(payload) => Operation::OverwritePayload(OverwritePayload {
                payload,
                points_selector: these,
                shard_key_selector,
                key: None,
            }),
            Self::DeletePayload(keys) => {
                Operation::DeletePayload(DeletePayload { keys, points_selector: these, shard_key_selector })
            }
            Self::ClearPayload => Operation::ClearPayload(ClearPayload { points: these, shard_key_selector }),
            Self::UpdateVectors(points) => {
                Operation::UpdateVectors(UpdateVectors { points, shard_key_selector, update_filter: None })
            }
            Self::DeleteVectors(names) => {
                let vectors = Some(VectorsSelector { names });
                Operation::DeleteVectors(DeleteVectors { points_selector: these, vectors, shard_key_selector })
            }
        }
    }
}
