//! What `cargo xtask …` is made of, as a library, so that tests drive the very same stack of real stores.
//!
//! | module | does |
//! |---|---|
//! | [`stack`] | real PostgreSQL, Neo4j and Qdrant on free loopback ports: up, down, killed, restarted |
//! | [`sidecar`] | the sidecar as a child process: started, killed, asked whether it is ready |
//! | [`suite`] | `cargo xtask test`: every check in order, each with its time |
//! | [`mod@bench`] | `cargo xtask bench`: the ladder, built for release and run |
//! | [`demo`] | `cargo xtask demo`: builds and runs the program in `xtask/demo` |
//! | [`install`] | what is missing is installed, or named with the exact command |
//! | [`promtool`] | Prometheus' checker of alert rules, taken out of Debian's package |
//! | [`cache`] | downloads and initialised templates that every stack on this machine shares |
//! | [`tool`] | running other programs with a bound and an error worth reading |

pub mod bench;
pub mod cache;
pub mod demo;
pub mod install;
pub mod promtool;
pub mod sidecar;
pub mod stack;
pub mod suite;
pub mod tool;
