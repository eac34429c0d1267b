//! Qdrant as a participant, against the real engine behind its own gRPC API (`tests/qdrant-dev`), with its bad days.

#[path = "qdrant/bench.rs"]
mod bench;
#[path = "qdrant/faults.rs"]
mod faults;
#[path = "qdrant/help.rs"]
mod help;
#[path = "qdrant/own_writes.rs"]
mod own_writes;
#[path = "qdrant/reads.rs"]
mod reads;
#[path = "qdrant/records.rs"]
mod records;
#[path = "contract/records.rs"]
mod records_contract;
#[path = "qdrant/session.rs"]
mod session;
#[path = "qdrant/verbs.rs"]
mod verbs;
