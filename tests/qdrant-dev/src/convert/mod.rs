//! Between the messages of the gRPC API and the types of the engine.

pub(crate) mod collections;
pub(crate) mod filter;
pub(crate) mod ids;
pub(crate) mod index;
pub(crate) mod payload;
pub(crate) mod points;
pub(crate) mod query;
pub(crate) mod updates;
pub(crate) mod vectors;

#[cfg(test)]
mod tests;
