//! A transaction's own writes laid over what the store has: look-ups by id see them before they are applied.

use std::collections::HashMap;

use ::qdrant_client::qdrant::{PointId, RetrievedPoint};
use serde_json::{Map, Value};

use super::absolute::Absolute;
use super::paths::Path;
use super::values::{self, Named};
use super::writes::Change;

/// A point as this transaction sees it.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Seen {
    /// Its payload.
    pub(super) payload: Map<String, Value>,
    /// Its vectors; the unnamed one is "".
    pub(super) vectors: Named,
}

impl From<RetrievedPoint> for Seen {
    fn from(point: RetrievedPoint) -> Self {
        Self { payload: values::show_payload(point.payload), vectors: values::sent(point.vectors) }
    }
}

/// Points by id, as they are after some writes. Ids that are not in it are missing.
pub(super) type View = HashMap<PointId, Seen>;

/// Does to `view` what `write` will do to the store, for those points that `of_interest` holds.
pub(super) fn lay(view: &mut View, write: &Absolute, of_interest: impl Fn(&PointId) -> bool) {
    match &write.change {
        Change::Upsert(points) => {
            for point in points {
                let Some(id) = point.id.as_ref().filter(|id| of_interest(id)) else { continue };
                let vectors = point.vectors.iter().flat_map(values::by_name);
                let vectors = vectors.map(|(name, vector)| (name.to_owned(), vector.clone())).collect();
                let payload = values::show_payload(point.payload.clone());
                view.insert(id.clone(), Seen { payload, vectors });
            }
        }
        Change::UpdateVectors(points) => {
            for point in points {
                let Some(seen) = point.id.as_ref().and_then(|id| view.get_mut(id)) else { continue };
                let vectors = point.vectors.iter().flat_map(values::by_name);
                seen.vectors.extend(vectors.map(|(name, vector)| (name.to_owned(), vector.clone())));
            }
        }
        Change::Delete => {
            for id in &write.points {
                view.remove(id);
            }
        }
        change => {
            for id in &write.points {
                if let Some(seen) = view.get_mut(id) {
                    alter(seen, change);
                }
            }
        }
    }
}

fn alter(seen: &mut Seen, change: &Change) {
    match change {
        Change::SetPayload(payload, key) => {
            let source = values::show_payload(payload.clone());
            // A path that cannot be read was refused when the write came in.
            let path = key.as_ref().and_then(|key| Path::parse(key).ok());
            Path::merge(path.as_ref(), &mut seen.payload, &source);
        }
        Change::OverwritePayload(payload) => seen.payload = values::show_payload(payload.clone()),
        Change::DeletePayload(keys) => {
            for path in keys.iter().filter_map(|key| Path::parse(key).ok()) {
                path.remove(&mut seen.payload);
            }
        }
        Change::ClearPayload => seen.payload.clear(),
        Change::DeleteVectors(names) => {
            for name in names {
                seen.vectors.remove(name);
            }
        }
        Change::Upsert(_) | Change::Delete | Change::UpdateVectors(_) => {}
    }
}
