//! The only door: requests in, outcomes out. Beside it the porch, for probes and Prometheus.
//!
//! ```text
//!   server (accept, time limits, drain) → route (gate, metrics, panics) → handler
//!       → headers, body, wire (JSON → TxnRequest, checked once) → Api → reply (status, problem, retry advice)
//!   events         server-sent events for followers
//!   jobs           batch jobs and their chunks
//!   locks, graph   leases, the lock table, and who waits for whom as a picture
//!   operator       what is resolved by hand, and why a transaction is where it is
//! ```

mod access;
mod api;
mod body;
mod events;
mod gate;
mod graph;
mod handler;
mod headers;
mod interactive;
mod jobs;
mod locks;
mod openapi;
mod operator;
pub mod porch;
mod reply;
mod route;
mod server;
mod wire;

#[cfg(test)]
mod tests;

pub use access::{Access, Visitor, operator_token_path};
pub use api::{Api, RepairMode};
pub use events::Events;
pub use interactive::Conversing;
pub use locks::Locks;
pub use operator::Operator;
pub use route::Door;
pub use server::{Limits, Listener, SocketFile, run};
