//! Nothing but a place for `benches/locks.rs`: `cargo bench -p locks-bench`.
