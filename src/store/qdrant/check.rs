//! What Qdrant would refuse, found before the decision: afterwards a refusal could only be brought to an operator.

use std::collections::HashMap;

use ::qdrant_client::qdrant::{PointId, Vectors};

use super::absolute::Absolute;
use super::catalog::{Kind, Shape};
use super::ids::spell;
use super::values::{self, AnyVector};
use super::writes::Change;

/// Why a write does not fit its collection.
///
/// # Errors
/// One sentence for the client.
pub(super) fn fits(change: &Change, shape: &Shape) -> Result<(), String> {
    if shape.custom_sharding {
        return Err(format!("`{}` shards by key, which this version does not support", shape.collection));
    }
    match change {
        Change::Upsert(points) => {
            if points.is_empty() {
                return Err("an upsert without points".to_owned());
            }
            if let Some(most) = shape.upsert_max.filter(|most| points.len() as u64 > *most) {
                return Err(format!("`{}` takes at most {most} points in one upsert", shape.collection));
            }
            points.iter().try_for_each(|point| vectors_fit(point.id.as_ref(), point.vectors.as_ref(), shape))
        }
        Change::UpdateVectors(points) => {
            if points.is_empty() {
                return Err("an update of vectors without points".to_owned());
            }
            let some = |vectors: Option<&Vectors>| vectors.is_some_and(|v| values::by_name(v).next().is_some());
            if let Some(point) = points.iter().find(|point| !some(point.vectors.as_ref())) {
                return Err(format!("point {} is given no vector", named(point.id.as_ref())));
            }
            points.iter().try_for_each(|point| vectors_fit(point.id.as_ref(), point.vectors.as_ref(), shape))
        }
        Change::DeleteVectors(names) => names.iter().try_for_each(|name| known(name, shape).map(|_| ())),
        _ => Ok(()),
    }
}

fn named(id: Option<&PointId>) -> String {
    id.map(spell).unwrap_or_default()
}

fn known(name: &str, shape: &Shape) -> Result<Kind, String> {
    shape.vectors.get(name).copied().ok_or_else(|| match name {
        "" => format!("`{}` has no unnamed vector", shape.collection),
        name => format!("`{}` has no vector named `{name}`", shape.collection),
    })
}

fn vectors_fit(id: Option<&PointId>, vectors: Option<&Vectors>, shape: &Shape) -> Result<(), String> {
    for (name, vector) in vectors.into_iter().flat_map(values::by_name) {
        let wrong = |what: String| {
            let which = if name.is_empty() { "the vector".to_owned() } else { format!("vector `{name}`") };
            Err(format!("point {}: {which} {what}", named(id)))
        };
        let length = |data: &[f32]| data.len() as u64;
        match (known(name, shape)?, vector) {
            (Kind::Dense(size) | Kind::Multi(size), AnyVector::Dense(dense)) if length(&dense.data) != size => {
                return wrong(format!("has {} dimensions, and `{}` has {size}", dense.data.len(), shape.collection));
            }
            (Kind::Multi(_), AnyVector::MultiDense(multi)) if multi.vectors.is_empty() => {
                return wrong("is empty".to_owned());
            }
            (Kind::Multi(size), AnyVector::MultiDense(multi)) => {
                if let Some(row) = multi.vectors.iter().find(|row| length(&row.data) != size) {
                    return wrong(format!("has a row of {} dimensions, and not {size}", row.data.len()));
                }
            }
            (Kind::Dense(_) | Kind::Multi(_), AnyVector::Dense(_)) | (Kind::Sparse, AnyVector::Sparse(_)) => {}
            (Kind::Dense(_), _) => return wrong("must be one dense vector".to_owned()),
            (Kind::Multi(_), _) => return wrong("must be an array of dense vectors".to_owned()),
            (Kind::Sparse, _) => return wrong("must be sparse".to_owned()),
        }
    }
    Ok(())
}

/// The points that must exist in the store for `writes` to succeed, each with the index of the first write that needs
/// it. What a transaction itself puts or deletes before is taken into account.
///
/// # Errors
/// The index of a write that needs a point which an earlier write of the same transaction deletes, and that point.
pub(super) fn needed(writes: &[Absolute]) -> Result<HashMap<&PointId, usize>, (usize, &PointId)> {
    let (mut known, mut needed) = (HashMap::new(), HashMap::new());
    for (index, write) in writes.iter().enumerate() {
        for point in &write.points {
            if !write.change.needs_points() {
                known.insert(point, write.change != Change::Delete);
            } else {
                match known.get(point) {
                    Some(true) => {}
                    Some(false) => return Err((index, point)),
                    None => {
                        known.insert(point, true);
                        needed.insert(point, index);
                    }
                }
            }
        }
    }
    Ok(needed)
}
