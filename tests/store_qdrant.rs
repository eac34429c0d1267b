//! Qdrant as a participant, against the real engine behind its own gRPC API (`tests/qdrant-dev`), with its bad days.

#[path = "qdrant/help.rs"]
mod help;
#[path = "qdrant/reads.rs"]
mod reads;
#[path = "qdrant/session.rs"]
mod session;
#[path = "qdrant/verbs.rs"]
mod verbs;
