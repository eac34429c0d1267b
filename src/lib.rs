//! Outrigger: writes across PostgreSQL, Qdrant and Neo4j happen together or not at all.

pub mod cli;
pub mod clock;
pub mod config;
pub mod crash;
pub mod http;
pub mod journal;
pub mod lock;
pub mod metrics;
pub mod model;
pub mod node;
pub mod plan;
pub mod store;
pub mod txn;
