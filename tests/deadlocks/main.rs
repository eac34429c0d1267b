//! Circles of waits on real stores, through the real program: each is found and broken, one gives way, the rest commit.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_wrap,
    unreachable_pub,
    reason = "a test that panics has failed, and numbers here are small"
)]

mod bank;
mod circles;
mod load;
mod strangers;
#[path = "../world/mod.rs"]
mod world;
