//! What we promised.

pub mod slip;
