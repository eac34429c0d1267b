//! What the engine refuses, in the gRPC codes and the words of a real server.

use qdrant_edge::OperationError;
use tonic::Status;

/// A request whose content the collection cannot take (a vector's size or name, a payload, a filter).
pub(crate) fn wrong_input(what: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("Wrong input: {what}"))
}

/// A request that is malformed whatever the collection is.
pub(crate) fn bad_request(what: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("Bad request: {what}"))
}

/// Nobody of that name here, neither a collection nor an alias.
pub(crate) fn no_collection(name: &str) -> Status {
    Status::not_found(format!("Not found: Collection `{name}` doesn't exist!"))
}

/// A call, or a corner of one, that this server leaves to the real one.
pub(crate) fn unsupported(what: impl std::fmt::Display) -> Status {
    Status::unimplemented(format!("qdrant-dev does not offer {what}"))
}

/// Something broke in here: an I/O error, a panic of the engine.
pub(crate) fn internal(what: impl std::fmt::Display) -> Status {
    Status::internal(format!("Service internal error: {what}"))
}

/// The engine's verdict as a real server would put it.
pub(crate) fn status(error: OperationError) -> Status {
    match error {
        OperationError::PointIdError { .. } => Status::not_found(format!("Not found: {error}")),
        OperationError::Timeout { .. } => Status::deadline_exceeded(format!("Timeout: {error}")),
        OperationError::ServiceError { .. }
        | OperationError::InconsistentStorage { .. }
        | OperationError::OutOfMemory { .. }
        | OperationError::Cancelled { .. } => internal(error),
        refused => wrong_input(refused),
    }
}
