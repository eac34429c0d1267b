//! The real Qdrant engine behind Qdrant's own gRPC API, for tests, the demo and the bench.
//!
//! No registry carries the Qdrant server, but its engine is a crate (`qdrant-edge`). This puts the server stubs of
//! `qdrant-client` in front of it, so that the sidecar speaks to the very code that runs in production, over the very
//! protocol, and to a process that can be killed. Beside the API stands a control port that orders faults.
//!
//! ```text
//! api/      the gRPC services
//! convert/  messages of the API <-> types of the engine
//! faults/   faults on order, and the port that takes the orders
//! store/    collections, aliases, the writer threads with their group flush
//! ```
//!
//! What is promised and where it differs from a real server stands in the README beside this crate.

mod api;
mod convert;
mod errors;
mod faults;
mod server;
mod store;

pub use server::{Options, serve};
