//! Write requests into the engine's updates. A single call and an operation of a batch are the same thing here.

use std::collections::HashMap;

use qdrant_client::qdrant as api;
use qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use qdrant_client::qdrant::points_update_operation::Operation;
use qdrant_edge::{
    ConditionalInsertOperation, DeletePayloadOp, Filter, PayloadOps, PointId, PointIdsList, PointInsertOperations,
    PointOperations, PointStructPersisted, PointVectorsPersisted, SetPayloadOp, UpdateMode, UpdateOperation,
    UpdateVectorsOp, VectorOperations,
};
use tonic::Status;

use super::{filter, ids, payload, vectors};
use crate::errors;

/// What a selector selects.
enum Selected {
    Ids(Vec<PointId>),
    Filter(Filter),
}

/// One operation of `update_batch`.
///
/// # Errors
/// `InvalidArgument`, before anything is applied.
#[expect(deprecated, reason = "accepted as the real server accepts it")]
pub(crate) fn operation(operation: api::PointsUpdateOperation) -> Result<UpdateOperation, Status> {
    match operation.operation {
        Some(Operation::Upsert(upsert)) => self::upsert(upsert.points, upsert.update_filter, upsert.update_mode),
        Some(Operation::DeleteDeprecated(points)) => delete(Some(points)),
        Some(Operation::DeletePoints(delete)) => self::delete(delete.points),
        Some(Operation::SetPayload(set)) => set_payload(set.payload, set.key, set.points_selector),
        Some(Operation::OverwritePayload(set)) => overwrite_payload(set.payload, set.key, set.points_selector),
        Some(Operation::DeletePayload(delete)) => delete_payload(&delete.keys, delete.points_selector),
        Some(Operation::ClearPayloadDeprecated(points)) => clear_payload(Some(points)),
        Some(Operation::ClearPayload(clear)) => clear_payload(clear.points),
        Some(Operation::UpdateVectors(update)) => update_vectors(update.points, update.update_filter),
        Some(Operation::DeleteVectors(delete)) => delete_vectors(delete.points_selector, delete.vectors),
        None => Err(Status::invalid_argument("Operation is missing")),
    }
}

pub(crate) fn upsert(
    points: Vec<api::PointStruct>,
    update_filter: Option<api::Filter>,
    update_mode: Option<i32>,
) -> Result<UpdateOperation, Status> {
    refuse_empty(&points)?;
    let points = points.into_iter().map(point).collect::<Result<Vec<_>, _>>()?;
    let points_op = PointInsertOperations::PointsList(points);
    let condition = filter::optional(update_filter)?;
    let update_mode = update_mode.map(mode).transpose()?;
    Ok(UpdateOperation::PointOperation(match (condition, update_mode) {
        (None, None | Some(UpdateMode::Upsert)) => PointOperations::UpsertPoints(points_op),
        (condition, update_mode) => PointOperations::UpsertPointsConditional(ConditionalInsertOperation {
            points_op,
            condition: condition.unwrap_or_default(),
            update_mode,
        }),
    }))
}

/// No payload and an empty one are the same on the wire. The engine then clears what a fresh point had, and keeps what
/// an optimized one had, exactly as a real server does.
fn point(point: api::PointStruct) -> Result<PointStructPersisted, Status> {
    let payload = payload::from_api(point.payload)?;
    Ok(PointStructPersisted {
        id: required_id(point.id)?,
        vector: vectors::from_api(point.vectors)?,
        payload: (!payload.is_empty()).then_some(payload),
    })
}

fn mode(mode: i32) -> Result<UpdateMode, Status> {
    match api::UpdateMode::try_from(mode) {
        Ok(api::UpdateMode::Upsert) => Ok(UpdateMode::Upsert),
        Ok(api::UpdateMode::InsertOnly) => Ok(UpdateMode::InsertOnly),
        Ok(api::UpdateMode::UpdateOnly) => Ok(UpdateMode::UpdateOnly),
        Err(_) => Err(Status::invalid_argument(format!("Unknown update mode: {mode}"))),
    }
}

pub(crate) fn delete(points: Option<api::PointsSelector>) -> Result<UpdateOperation, Status> {
    Ok(UpdateOperation::PointOperation(match select(points)? {
        Selected::Ids(ids) => PointOperations::DeletePoints { ids },
        Selected::Filter(filter) => PointOperations::DeletePointsByFilter(filter),
    }))
}

pub(crate) fn set_payload(
    fields: HashMap<String, api::Value>,
    key: Option<String>,
    points: Option<api::PointsSelector>,
) -> Result<UpdateOperation, Status> {
    let set = PayloadOps::SetPayload(payload_for(fields, key, points)?);
    Ok(UpdateOperation::PayloadOperation(set))
}

/// The key is ignored here, by the real server too.
pub(crate) fn overwrite_payload(
    fields: HashMap<String, api::Value>,
    key: Option<String>,
    points: Option<api::PointsSelector>,
) -> Result<UpdateOperation, Status> {
    let set = PayloadOps::OverwritePayload(payload_for(fields, key, points)?);
    Ok(UpdateOperation::PayloadOperation(set))
}

fn payload_for(
    fields: HashMap<String, api::Value>,
    key: Option<String>,
    points: Option<api::PointsSelector>,
) -> Result<SetPayloadOp, Status> {
    let key = key.as_deref().map(payload::path).transpose()?;
    let (points, filter) = split(select(points)?);
    Ok(SetPayloadOp { payload: payload::from_api(fields)?, points, filter, key })
}

pub(crate) fn delete_payload(keys: &[String], points: Option<api::PointsSelector>) -> Result<UpdateOperation, Status> {
    let keys = payload::paths(keys)?;
    let (points, filter) = split(select(points)?);
    Ok(UpdateOperation::PayloadOperation(PayloadOps::DeletePayload(DeletePayloadOp { keys, points, filter })))
}

pub(crate) fn clear_payload(points: Option<api::PointsSelector>) -> Result<UpdateOperation, Status> {
    Ok(UpdateOperation::PayloadOperation(match select(points)? {
        Selected::Ids(points) => PayloadOps::ClearPayload { points },
        Selected::Filter(filter) => PayloadOps::ClearPayloadByFilter(filter),
    }))
}

pub(crate) fn update_vectors(
    points: Vec<api::PointVectors>,
    update_filter: Option<api::Filter>,
) -> Result<UpdateOperation, Status> {
    refuse_empty(&points)?;
    let points = points.into_iter().map(|point| {
        Ok(PointVectorsPersisted { id: required_id(point.id)?, vector: vectors::from_api(point.vectors)? })
    });
    let points = points.collect::<Result<Vec<_>, Status>>()?;
    let update_filter = filter::optional(update_filter)?;
    Ok(UpdateOperation::VectorOperation(VectorOperations::UpdateVectors(UpdateVectorsOp { points, update_filter })))
}

pub(crate) fn delete_vectors(
    points: Option<api::PointsSelector>,
    names: Option<api::VectorsSelector>,
) -> Result<UpdateOperation, Status> {
    let names = names.map(|selector| selector.names).unwrap_or_default();
    if names.is_empty() {
        return Err(errors::bad_request("No vector names provided"));
    }
    Ok(UpdateOperation::VectorOperation(match select(points)? {
        Selected::Ids(points) => VectorOperations::DeleteVectors(PointIdsList { points }, names),
        Selected::Filter(filter) => VectorOperations::DeleteVectorsByFilter(filter, names),
    }))
}

/// The first half of what an update would touch, rounded down; `None` when that is nothing. Which points a filter
/// selects is not known here, so half of a filter is nothing.
pub(crate) fn half(mut update: UpdateOperation) -> Option<UpdateOperation> {
    let ids = update.point_ids()?;
    let keep = &ids[..ids.len() / 2];
    if keep.is_empty() {
        return None;
    }
    update.retain_point_ids(|id| keep.contains(id));
    Some(update)
}

fn select(points: Option<api::PointsSelector>) -> Result<Selected, Status> {
    match points.and_then(|points| points.points_selector_one_of) {
        Some(PointsSelectorOneOf::Points(list)) => {
            refuse_empty(&list.ids)?;
            Ok(Selected::Ids(ids::all_from_api(list.ids)?))
        }
        Some(PointsSelectorOneOf::Filter(filter)) => Ok(Selected::Filter(filter::from_api(filter)?)),
        None => Err(Status::invalid_argument("Missing points selector")),
    }
}

fn split(selected: Selected) -> (Option<Vec<PointId>>, Option<Filter>) {
    match selected {
        Selected::Ids(ids) => (Some(ids), None),
        Selected::Filter(filter) => (None, Some(filter)),
    }
}

fn required_id(id: Option<api::PointId>) -> Result<PointId, Status> {
    ids::from_api(id.ok_or_else(|| Status::invalid_argument("Empty ID is not allowed"))?)
}

fn refuse_empty<T>(items: &[T]) -> Result<(), Status> {
    if items.is_empty() { Err(errors::bad_request("Empty update request")) } else { Ok(()) }
}
