//! One key, one effect, one answer: whoever sends it, how often, to which sidecar, and whatever is killed meanwhile.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test that panics has failed, and a test crate has no outside"
)]

mod once;
mod others;
mod storm;
#[path = "../world/mod.rs"]
mod world;
