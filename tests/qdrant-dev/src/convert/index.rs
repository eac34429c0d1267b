//! Payload indexes. The type counts, its finer parameters are left at their defaults.

use qdrant_client::qdrant as api;
use qdrant_client::qdrant::payload_index_params::IndexParams;
use qdrant_edge::{
    CreateIndex, FieldIndexOperations, PayloadFieldSchema, PayloadIndexInfo, PayloadSchemaType, UpdateOperation,
};
use tonic::Status;

use super::payload;
use crate::errors;

/// # Errors
/// `InvalidArgument` without a type, or for a field name that does not parse.
pub(crate) fn create(request: &api::CreateFieldIndexCollection) -> Result<UpdateOperation, Status> {
    let params = request.field_index_params.as_ref().and_then(|params| params.index_params.as_ref());
    let kind = match (params, request.field_type) {
        (Some(params), _) => of_params(params),
        (None, Some(kind)) => of_type(kind)?,
        (None, None) => return Err(errors::bad_request("field type or parameters of the index are missing")),
    };
    Ok(UpdateOperation::FieldIndexOperation(FieldIndexOperations::CreateIndex(CreateIndex {
        field_name: payload::path(&request.field_name)?,
        field_schema: Some(PayloadFieldSchema::FieldType(kind)),
    })))
}

pub(crate) fn delete(field_name: &str) -> Result<UpdateOperation, Status> {
    Ok(UpdateOperation::FieldIndexOperation(FieldIndexOperations::DeleteIndex(payload::path(field_name)?)))
}

fn of_params(params: &IndexParams) -> PayloadSchemaType {
    match params {
        IndexParams::KeywordIndexParams(_) => PayloadSchemaType::Keyword,
        IndexParams::IntegerIndexParams(_) => PayloadSchemaType::Integer,
        IndexParams::FloatIndexParams(_) => PayloadSchemaType::Float,
        IndexParams::GeoIndexParams(_) => PayloadSchemaType::Geo,
        IndexParams::TextIndexParams(_) => PayloadSchemaType::Text,
        IndexParams::BoolIndexParams(_) => PayloadSchemaType::Bool,
        IndexParams::DatetimeIndexParams(_) => PayloadSchemaType::Datetime,
        IndexParams::UuidIndexParams(_) => PayloadSchemaType::Uuid,
    }
}

fn of_type(kind: i32) -> Result<PayloadSchemaType, Status> {
    match api::FieldType::try_from(kind) {
        Ok(api::FieldType::Keyword) => Ok(PayloadSchemaType::Keyword),
        Ok(api::FieldType::Integer) => Ok(PayloadSchemaType::Integer),
        Ok(api::FieldType::Float) => Ok(PayloadSchemaType::Float),
        Ok(api::FieldType::Geo) => Ok(PayloadSchemaType::Geo),
        Ok(api::FieldType::Text) => Ok(PayloadSchemaType::Text),
        Ok(api::FieldType::Bool) => Ok(PayloadSchemaType::Bool),
        Ok(api::FieldType::Datetime) => Ok(PayloadSchemaType::Datetime),
        Ok(api::FieldType::Uuid) => Ok(PayloadSchemaType::Uuid),
        Err(_) => Err(Status::invalid_argument(format!("Unknown field type: {kind}"))),
    }
}

/// An index as `get` of the collection tells of it.
pub(crate) fn told(info: &PayloadIndexInfo) -> api::PayloadSchemaInfo {
    let kind = match info.data_type {
        PayloadSchemaType::Keyword => api::PayloadSchemaType::Keyword,
        PayloadSchemaType::Integer => api::PayloadSchemaType::Integer,
        PayloadSchemaType::Float => api::PayloadSchemaType::Float,
        PayloadSchemaType::Geo => api::PayloadSchemaType::Geo,
        PayloadSchemaType::Text => api::PayloadSchemaType::Text,
        PayloadSchemaType::Bool => api::PayloadSchemaType::Bool,
        PayloadSchemaType::Datetime => api::PayloadSchemaType::Datetime,
        PayloadSchemaType::Uuid => api::PayloadSchemaType::Uuid,
    };
    api::PayloadSchemaInfo { data_type: kind as i32, params: None, points: Some(info.points as u64) }
}
