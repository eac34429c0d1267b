//! When to kill: after so many documents and then some milliseconds, by seed. Counting documents and not seconds puts
//! every kill into the work, on fast machines and on slow ones, and at the same places for both ways of writing.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// One kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Documents that are written by then.
    pub(crate) documents: usize,
    /// And then wait so long.
    pub(crate) then: Duration,
}

/// `kills` moments between a twentieth and nineteen twentieths of the work, in order.
pub(crate) fn moments(documents: usize, kills: usize, seed: u64) -> VecDeque<Moment> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut counts: Vec<usize> =
        (0..kills).map(|_| random.random_range(documents / 20..=documents - documents / 20 - 1)).collect();
    counts.sort_unstable();
    let moment = |documents| Moment { documents, then: Duration::from_micros(random.random_range(0..30_000)) };
    counts.into_iter().map(moment).collect()
}
