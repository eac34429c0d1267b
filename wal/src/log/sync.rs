//! What the watermark is made of. `wal/model` puts loom's types under these names.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub(super) use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
