//! The built binary, driven by the real `qdrant-client`.

mod durability;
mod faults;
mod harness;
mod load;
mod payloads;
mod reads;
mod tables;
mod vectors;
mod writes;
