//! Which vectors a collection takes. Checked before anything is queued: the engine itself would notice a wrong vector
//! only when it meets it, with the points before it already written.

use std::collections::HashMap;

use qdrant_edge::{
    EdgeConfig, OperationError, PointInsertOperations, PointOperations, UpdateOperation, VectorOperations,
    VectorPersisted, VectorStructPersisted,
};
use tonic::Status;

use crate::errors;

/// The name of the vector that has none.
pub(crate) const UNNAMED: &str = "";

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Dense { size: usize },
    Multi { size: usize },
    Sparse,
}

#[derive(Debug)]
pub(crate) struct Schema(HashMap<String, Kind>);

impl Schema {
    pub(crate) fn of(config: &EdgeConfig) -> Self {
        let dense = config.vectors.iter().map(|(name, params)| {
            let size = params.size;
            let kind = if params.multivector_config.is_some() { Kind::Multi { size } } else { Kind::Dense { size } };
            (name.clone(), kind)
        });
        let sparse = config.sparse_vectors.keys().map(|name| (name.clone(), Kind::Sparse));
        Self(dense.chain(sparse).collect())
    }

    /// The kind of a named vector.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that the collection lacks.
    pub(crate) fn kind(&self, name: &str) -> Result<Kind, Status> {
        self.0
            .get(name)
            .copied()
            .ok_or_else(|| errors::status(OperationError::VectorNameNotExists { received_name: name.to_owned() }))
    }

    /// Refuses an update that carries a vector of the wrong name, kind or size, or names a vector that is not there.
    pub(crate) fn check(&self, update: &UpdateOperation) -> Result<(), Status> {
        match update {
            UpdateOperation::PointOperation(PointOperations::UpsertPoints(points)) => self.check_points(points),
            UpdateOperation::PointOperation(PointOperations::UpsertPointsConditional(upsert)) => {
                self.check_points(&upsert.points_op)
            }
            UpdateOperation::VectorOperation(VectorOperations::UpdateVectors(update)) => {
                update.points.iter().try_for_each(|point| self.check_vectors(&point.vector))
            }
            UpdateOperation::VectorOperation(
                VectorOperations::DeleteVectors(_, names) | VectorOperations::DeleteVectorsByFilter(_, names),
            ) => names.iter().try_for_each(|name| self.kind(name).map(|_| ())),
            _ => Ok(()),
        }
    }

    fn check_points(&self, points: &PointInsertOperations) -> Result<(), Status> {
        match points {
            PointInsertOperations::PointsList(points) => {
                points.iter().try_for_each(|point| self.check_vectors(&point.vector))
            }
            PointInsertOperations::PointsBatch(_) => Err(errors::internal("gRPC knows no columnar upsert")),
        }
    }

    fn check_vectors(&self, vectors: &VectorStructPersisted) -> Result<(), Status> {
        match vectors {
            VectorStructPersisted::Single(values) => self.check_dense(UNNAMED, values),
            VectorStructPersisted::MultiDense(rows) => self.check_multi(UNNAMED, rows),
            VectorStructPersisted::Named(named) => named.iter().try_for_each(|(name, vector)| match vector {
                VectorPersisted::Dense(values) => self.check_dense(name, values),
                VectorPersisted::MultiDense(rows) => self.check_multi(name, rows),
                VectorPersisted::Sparse(_) => match self.kind(name)? {
                    Kind::Sparse => Ok(()),
                    Kind::Dense { .. } | Kind::Multi { .. } => Err(errors::status(OperationError::WrongSparse)),
                },
            }),
        }
    }

    /// One dense vector; a multi-vector takes it as its only row, as the engine does.
    pub(crate) fn check_dense(&self, name: &str, values: &[f32]) -> Result<(), Status> {
        match self.kind(name)? {
            Kind::Dense { size } | Kind::Multi { size } => same_size(size, values.len()),
            Kind::Sparse => Err(errors::status(OperationError::WrongSparse)),
        }
    }

    pub(crate) fn check_multi(&self, name: &str, rows: &[Vec<f32>]) -> Result<(), Status> {
        match self.kind(name)? {
            Kind::Multi { size } => rows.iter().try_for_each(|row| same_size(size, row.len())),
            Kind::Dense { .. } => Err(errors::status(OperationError::WrongMulti)),
            Kind::Sparse => Err(errors::status(OperationError::WrongSparse)),
        }
    }
}

fn same_size(expected_dim: usize, received_dim: usize) -> Result<(), Status> {
    if expected_dim == received_dim {
        return Ok(());
    }
    Err(errors::status(OperationError::WrongVectorDimension { expected_dim, received_dim }))
}
