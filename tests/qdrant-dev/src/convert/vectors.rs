//! Vectors: dense, sparse and multi, alone or by name.

use qdrant_client::qdrant as api;
use qdrant_edge::{
    SparseVector, VectorInternal, VectorPersisted, VectorStructInternal, VectorStructPersisted, WithVector,
};
use tonic::Status;

use crate::errors;
use crate::store::schema::UNNAMED;

/// # Errors
/// `InvalidArgument` when there is none, it is malformed, or it would have to be computed from a document.
pub(crate) fn from_api(vectors: Option<api::Vectors>) -> Result<VectorStructPersisted, Status> {
    use api::vectors::VectorsOptions;
    match vectors.and_then(|vectors| vectors.vectors_options) {
        None => Err(Status::invalid_argument("No Vector Provided")),
        Some(VectorsOptions::Vector(one)) => match vector(one)? {
            VectorPersisted::Dense(values) => Ok(VectorStructPersisted::Single(values)),
            VectorPersisted::MultiDense(rows) => Ok(VectorStructPersisted::MultiDense(rows)),
            VectorPersisted::Sparse(_) => Err(Status::invalid_argument("Sparse vector must be named")),
        },
        Some(VectorsOptions::Vectors(named)) => {
            let named = named.vectors.into_iter().map(|(name, one)| Ok((name, vector(one)?)));
            Ok(VectorStructPersisted::Named(named.collect::<Result<_, Status>>()?))
        }
    }
}

fn vector(given: api::Vector) -> Result<VectorPersisted, Status> {
    use api::vector::Vector;
    match given.vector {
        Some(Vector::Dense(dense)) => Ok(VectorPersisted::Dense(dense.data)),
        Some(Vector::Sparse(entries)) => Ok(VectorPersisted::Sparse(sparse(entries.indices, entries.values)?)),
        Some(Vector::MultiDense(multi)) => Ok(VectorPersisted::MultiDense(rows(multi)?)),
        Some(Vector::Document(_) | Vector::Image(_) | Vector::Object(_)) => Err(errors::unsupported("inference")),
        None => old_vector(given),
    }
}

/// The spelling before 1.16, which clients still send: flat numbers with hints beside them.
#[expect(deprecated, reason = "accepted as the real server accepts it")]
fn old_vector(given: api::Vector) -> Result<VectorPersisted, Status> {
    if let Some(indices) = given.indices {
        return Ok(VectorPersisted::Sparse(sparse(indices.data, given.data)?));
    }
    match given.vectors_count.map(|count| count as usize) {
        None => Ok(VectorPersisted::Dense(given.data)),
        Some(count) if count > 0 && !given.data.is_empty() && given.data.len().is_multiple_of(count) => {
            let width = given.data.len() / count;
            Ok(VectorPersisted::MultiDense(given.data.chunks(width).map(<[f32]>::to_vec).collect()))
        }
        Some(_) => Err(Status::invalid_argument("Unable to convert to multi-dense vector")),
    }
}

pub(crate) fn sparse(indices: Vec<u32>, values: Vec<f32>) -> Result<SparseVector, Status> {
    SparseVector::new(indices, values).map_err(errors::wrong_input)
}

pub(crate) fn rows(multi: api::MultiDenseVector) -> Result<Vec<Vec<f32>>, Status> {
    if multi.vectors.is_empty() || multi.vectors.iter().any(|row| row.data.is_empty()) {
        return Err(errors::wrong_input("multi-vectors and their rows cannot be empty"));
    }
    Ok(multi.vectors.into_iter().map(|row| row.data).collect())
}

pub(crate) fn to_api(vectors: VectorStructInternal) -> api::VectorsOutput {
    use api::vectors_output::VectorsOptions;
    let options = match vectors {
        VectorStructInternal::Single(values) => VectorsOptions::Vector(output(VectorInternal::Dense(values))),
        VectorStructInternal::MultiDense(rows) => VectorsOptions::Vector(output(VectorInternal::MultiDense(rows))),
        VectorStructInternal::Named(named) => VectorsOptions::Vectors(api::NamedVectorsOutput {
            vectors: named.into_iter().map(|(name, one)| (name, output(one))).collect(),
        }),
    };
    api::VectorsOutput { vectors_options: Some(options) }
}

fn output(vector: VectorInternal) -> api::VectorOutput {
    use api::vector_output::Vector;
    let vector = match vector {
        VectorInternal::Dense(data) => Vector::Dense(api::DenseVector { data }),
        VectorInternal::Sparse(SparseVector { indices, values }) => {
            Vector::Sparse(api::SparseVector { values, indices })
        }
        VectorInternal::MultiDense(multi) => Vector::MultiDense(api::MultiDenseVector {
            vectors: multi.into_multi_vectors().into_iter().map(|data| api::DenseVector { data }).collect(),
        }),
    };
    api::VectorOutput { vector: Some(vector), ..api::VectorOutput::default() }
}

/// The vector of that name, out of a point's.
pub(crate) fn named(vectors: VectorStructInternal, name: &str) -> Option<VectorInternal> {
    match vectors {
        VectorStructInternal::Named(mut named) => named.remove(name),
        VectorStructInternal::Single(values) => (name == UNNAMED).then_some(VectorInternal::Dense(values)),
        VectorStructInternal::MultiDense(rows) => (name == UNNAMED).then_some(VectorInternal::MultiDense(rows)),
    }
}

/// Which vectors an answer carries; none unless asked for.
pub(crate) fn selector(wanted: Option<api::WithVectorsSelector>) -> WithVector {
    use api::with_vectors_selector::SelectorOptions;
    match wanted.and_then(|wanted| wanted.selector_options) {
        None => WithVector::Bool(false),
        Some(SelectorOptions::Enable(all)) => WithVector::Bool(all),
        Some(SelectorOptions::Include(these)) => WithVector::Selector(these.names),
    }
}
