//! Absolute writes: what stands in the log between the decision and Qdrant's acknowledgement.
//!
//! ```text
//!   byte 0   version: 1
//!   byte 1…  Qdrant's own `PointsUpdateOperation` (protobuf: numbered fields that never change their meaning),
//!            its points named one by one, no filter in it
//! ```
//!
//! A write may have to be repeated after its transaction's *later* writes went through too, so the writes of one
//! transaction are folded first: what is done to a point before the transaction deletes it is left out. Else a repeat
//! would change a point that is gone, which Qdrant refuses.
//!
//! And an upsert says what Qdrant leaves to chance: over a point that was optimized meanwhile it keeps the vectors that
//! the new point omits, and with an empty payload the old payload; over any other it replaces the point. A repeat would
//! then not do what the first time did. So what a point omits is deleted explicitly.

use std::collections::{BTreeMap, HashMap, HashSet};

use ::qdrant_client::qdrant::{PointId, PointsUpdateOperation, points_update_operation::Operation};
use prost::Message;

use super::catalog::Shape;
use super::ids::spell;
use super::values::by_name;
use super::writes::Change;
use crate::model::commit::RedoWrite;
use crate::model::ids::StoreName;

const VERSION: u8 = 1;

/// One write with its points.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Absolute {
    /// What happens.
    pub(super) change: Change,
    /// To these, each once.
    pub(super) points: Vec<PointId>,
}

impl Absolute {
    /// Fixes a change to its points.
    pub(super) fn new(change: Change, mut points: Vec<PointId>) -> Self {
        let mut seen = HashSet::with_capacity(points.len());
        points.retain(|point| seen.insert(point.clone()));
        Self { change, points }
    }

    /// Leaves points out; false when none is left.
    fn without(&mut self, gone: &HashSet<PointId>) -> bool {
        let stays = |id: &Option<PointId>| id.as_ref().is_none_or(|id| !gone.contains(id));
        match &mut self.change {
            Change::Upsert(points) => points.retain(|point| stays(&point.id)),
            Change::UpdateVectors(points) => points.retain(|point| stays(&point.id)),
            _ => {}
        }
        self.points.retain(|point| !gone.contains(point));
        !self.points.is_empty()
    }

    fn encode(self, store: &StoreName, collection: &str) -> RedoWrite {
        let keys = self.points.iter().map(spell).collect();
        let message = PointsUpdateOperation { operation: Some(self.change.into_operation(self.points)) };
        let mut body = Vec::with_capacity(1 + message.encoded_len());
        body.push(VERSION);
        body.extend(message.encode_to_vec());
        RedoWrite { store: store.clone(), resource: collection.to_owned(), keys, body }
    }
}

/// The writes of one transaction to one collection, in order, as the log keeps them.
pub(super) fn encode(store: &StoreName, shape: &Shape, mut writes: Vec<Absolute>) -> Vec<RedoWrite> {
    let mut gone = HashSet::new();
    let mut kept = Vec::with_capacity(writes.len());
    while let Some(mut write) = writes.pop() {
        if write.without(&gone) {
            if write.change == Change::Delete {
                gone.extend(write.points.iter().cloned());
            }
            kept.push(write);
        }
    }
    let settled = kept.into_iter().rev().flat_map(|write| {
        let omitted = omitted(&write, shape);
        std::iter::once(write).chain(omitted)
    });
    settled.map(|write| write.encode(store, &shape.collection)).collect()
}

/// What makes an upsert's omissions explicit.
fn omitted(write: &Absolute, shape: &Shape) -> Vec<Absolute> {
    let Change::Upsert(points) = &write.change else { return Vec::new() };
    // A point that stands there twice is what it is the second time.
    let last: HashMap<_, _> = points.iter().filter_map(|point| Some((point.id.as_ref()?, point))).collect();
    let (mut bare, mut without) = (Vec::new(), BTreeMap::<Vec<String>, Vec<PointId>>::new());
    for id in &write.points {
        let Some(point) = last.get(id) else { continue };
        if point.payload.is_empty() {
            bare.push(id.clone());
        }
        let given: HashSet<_> = point.vectors.iter().flat_map(by_name).map(|(name, _)| name).collect();
        let mut names: Vec<_> = shape.vectors.keys().filter(|name| !given.contains(name.as_str())).cloned().collect();
        if !names.is_empty() {
            names.sort_unstable();
            without.entry(names).or_default().push(id.clone());
        }
    }
    let bare = (!bare.is_empty()).then_some(Absolute { change: Change::ClearPayload, points: bare });
    let without = without.into_iter().map(|(names, points)| Absolute { change: Change::DeleteVectors(names), points });
    bare.into_iter().chain(without).collect()
}

/// Reads a write back from the log.
///
/// # Errors
/// Why it cannot be read: damage, or a version that this program does not know.
pub(super) fn decode(body: &[u8]) -> Result<Operation, String> {
    let (version, message) = body.split_first().ok_or("an empty redo write")?;
    if *version != VERSION {
        return Err(format!("a redo write of version {version}, and this program reads version {VERSION}"));
    }
    let message = PointsUpdateOperation::decode(message).map_err(|error| error.to_string())?;
    message.operation.ok_or_else(|| "a redo write without an operation".to_owned())
}
