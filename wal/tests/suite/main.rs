//! The log from outside: what it promises, asked of real files and of a disk that loses what it may lose.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod accidents;
mod basics;
mod coding;
mod common;
mod crash;
mod faults;
mod follow;
mod fuzzing;
mod golden;
mod group;
mod history;
mod kill;
mod kill_points;
mod mounted;
mod oracle;
mod recycle;
mod repair;
mod space;
mod thin;
