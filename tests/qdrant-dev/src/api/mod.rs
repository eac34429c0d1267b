//! The gRPC services of Qdrant, as far as this server offers them.

mod collections;
mod health;
mod points;
mod unimplemented;
mod writes;

use std::sync::Arc;
use std::time::Instant;

pub(crate) use collections::CollectionsApi;
pub(crate) use health::HealthApi;
pub(crate) use points::PointsApi;

use crate::faults::Faults;
use crate::store::Store;

/// What every service works on.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) store: Arc<Store>,
    pub(crate) faults: Arc<Faults>,
}

/// Seconds, as answers give them.
fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
