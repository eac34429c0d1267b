//! What one transaction will write to one collection, in order, and which of it touches a point.

use std::collections::{HashMap, HashSet};

use ::qdrant_client::qdrant::PointId;

use super::absolute::Absolute;

/// Writes that wait for the decision.
#[derive(Default)]
pub(super) struct Buffer {
    /// In order.
    pub(super) writes: Vec<Absolute>,
    /// The operation of each.
    pub(super) operations: Vec<String>,
    /// The writes of each point, by their place above: a look-up by id reads these and no others.
    by_point: HashMap<PointId, Vec<usize>>,
}

impl Buffer {
    /// Adds a write of operation `op`.
    pub(super) fn push(&mut self, write: Absolute, op: &str) {
        for point in &write.points {
            self.by_point.entry(point.clone()).or_default().push(self.writes.len());
        }
        self.writes.push(write);
        self.operations.push(op.to_owned());
    }

    /// The writes that touch any of `points`, in order, each once.
    pub(super) fn touching(&self, points: &HashSet<&PointId>) -> Vec<&Absolute> {
        let places = points.iter().filter_map(|point| self.by_point.get(*point));
        let mut places: Vec<usize> = places.flatten().copied().collect();
        places.sort_unstable();
        places.dedup();
        places.into_iter().map(|place| &self.writes[place]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::qdrant::writes::Change;

    #[test]
    fn a_look_up_reads_only_the_writes_of_its_points() {
        let mut buffer = Buffer::default();
        for n in 0..1000_u64 {
            let change = if n % 2 == 0 { Change::ClearPayload } else { Change::Delete };
            buffer.push(Absolute::new(change, vec![(n % 500).into(), (n % 500 + 1000).into()]), &n.to_string());
        }
        let points: Vec<PointId> = vec![7.into(), 1007.into(), 9.into(), 5000.into()];
        let found = buffer.touching(&points.iter().collect());
        let first: Vec<_> = found.iter().map(|write| write.points[0].clone()).collect();
        assert_eq!(first, [7.into(), 9.into(), 7.into(), 9.into()], "in order, each once, and no other");
    }
}
