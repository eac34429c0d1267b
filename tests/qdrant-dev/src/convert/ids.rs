//! Point ids: a number or a UUID in any spelling; given back in the canonical one.

use qdrant_client::qdrant as api;
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_edge::PointId;
use qdrant_edge::external::uuid::Uuid;
use tonic::Status;

/// # Errors
/// `InvalidArgument` for an empty id or text that is no UUID.
pub(crate) fn from_api(id: api::PointId) -> Result<PointId, Status> {
    match id.point_id_options {
        Some(PointIdOptions::Num(number)) => Ok(PointId::NumId(number)),
        Some(PointIdOptions::Uuid(text)) => Uuid::parse_str(&text)
            .map(PointId::Uuid)
            .map_err(|_| Status::invalid_argument(format!("Unable to parse UUID: {text}"))),
        None => Err(Status::invalid_argument("No ID options provided")),
    }
}

/// A list of ids, as they came.
pub(crate) fn all_from_api(ids: Vec<api::PointId>) -> Result<Vec<PointId>, Status> {
    ids.into_iter().map(from_api).collect()
}

pub(crate) fn to_api(id: PointId) -> api::PointId {
    match id {
        PointId::NumId(number) => number.into(),
        PointId::Uuid(uuid) => uuid.to_string().into(),
    }
}
