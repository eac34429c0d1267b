//! Who asks: what a principal has opened is for it alone to go on with, and for an operator.

use std::sync::Arc;

use crate::model::problem::{Code, Problem};

/// Who acts on a lease, a transaction or a job.
#[derive(Clone, Debug)]
pub enum Actor {
    /// One who may act on its own.
    Principal(Arc<str>),
    /// One who may act on anybody's.
    Operator,
}

impl Actor {
    /// # Errors
    /// `forbidden`, in the words of `refusal`, for everybody but `owner` and operators.
    pub(super) fn must_be(&self, owner: &str, refusal: &str) -> Result<(), Problem> {
        match self {
            Self::Principal(name) if **name != *owner => Err(Problem::new(Code::Forbidden, refusal)),
            Self::Principal(_) | Self::Operator => Ok(()),
        }
    }
}
