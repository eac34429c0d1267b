//! `record` operations on points: the key is the point's id, the fields are its payload.
//!
//! A put reads the point (with what the transaction itself has written laid over it), compares the version, and keeps
//! writes that name the new version as a number: nothing is left to be computed after the decision. What holds meanwhile
//! is the lock: a put or delete has the point exclusively, and a get takes it for update, so that of two transactions
//! that read a point and then write it the second reads what the first has written.

use ::qdrant_client::qdrant::vectors::VectorsOptions;
use ::qdrant_client::qdrant::{NamedVectors, PointId, PointStruct, PointVectors, Vectors};
use serde_json::{Map, Value};

use super::absolute::Absolute;
use super::catalog::Shape;
use super::errors::bad_body;
use super::json::Inside as _;
use super::overlay::{self, Seen, View};
use super::reads::With;
use super::session::QdrantSession;
use super::writes::Change;
use super::{check, ids, values};
use crate::lock::{Claim, LockKey, Mode};
use crate::model::problem::Problem;
use crate::model::record::Act;
use crate::store::record::{self, Keyed};

impl QdrantSession {
    /// The locks of a record operation.
    pub(super) async fn record_claims(&mut self, keyed: &Keyed<'_>) -> Result<Vec<Claim>, Problem> {
        let point = self.record_point(keyed)?;
        let collection = self.known(&keyed.record.place, &keyed.bound.op.id).await?.shape.collection.clone();
        let store = self.server.name.clone();
        let mode = if keyed.record.act.reads() { Mode::Update } else { Mode::Exclusive };
        let whole = LockKey::Resource(store.clone(), collection.clone());
        Ok(vec![
            Claim { key: whole, mode: Mode::IntentExclusive },
            Claim { key: LockKey::Point(store, collection, ids::spell(&point)), mode },
        ])
    }

    fn record_point(&self, keyed: &Keyed<'_>) -> Result<PointId, Problem> {
        let id = keyed.key.get("id").unwrap_or(&Value::Null);
        let read = ids::read(id).inside("id").inside("key");
        read.map_err(|bad| bad_body(&self.server.name, keyed.bound, bad))
    }

    /// Reads the point, compares its version, and keeps the writes.
    pub(super) async fn record(&mut self, keyed: &Keyed<'_>) -> Result<Value, Problem> {
        let (id, store) = (keyed.bound.op.id.as_str(), self.server.name.clone());
        if !keyed.record.act.reads() {
            self.must_be_redoer(id)?;
        }
        let point = self.record_point(keyed)?;
        let shape = self.known(&keyed.record.place, id).await?.shape;
        let mut view = self.view(&shape.collection, std::slice::from_ref(&point), &With::PAYLOAD, id).await?;
        let seen = view.get(&point);
        let version = seen.map(|seen| keyed.version_in(&store, &seen.payload)).transpose()?;
        keyed.check(&store, version)?;
        let found = seen.is_some();
        let changes = match keyed.record.act {
            Act::Put => self.changes(keyed, &point, &shape, version)?,
            Act::Delete if found => vec![Change::Delete],
            Act::Get | Act::Delete => Vec::new(),
        };
        let before = payload_of(&view, &point);
        for change in changes {
            check::fits(&change, &shape).map_err(|detail| self.refused(id, detail))?;
            let write = Absolute::new(change, vec![point.clone()]);
            overlay::lay(&mut view, &write, |_| true);
            self.keep(&shape.collection, write, id);
        }
        let value = match keyed.record.act {
            Act::Put => payload_of(&view, &point),
            Act::Get | Act::Delete => before,
        };
        let version = value.as_ref().map(|value| keyed.version_in(&store, value)).transpose()?;
        Ok(record::result(found, version, value))
    }

    /// What a put does to a point of this version (`None`: there is none).
    fn changes(
        &self,
        keyed: &Keyed<'_>,
        point: &PointId,
        shape: &Shape,
        version: Option<i64>,
    ) -> Result<Vec<Change>, Problem> {
        let store = &self.server.name;
        let bad = |bad| bad_body(store, keyed.bound, bad);
        let next = version.unwrap_or(0).checked_add(1);
        let next = next.ok_or_else(|| keyed.rejected(store, "/version", "the version can be counted no further"))?;
        let mut fields = keyed.set.cloned().unwrap_or_default();
        if version.is_none() {
            // As a merge does with them: null takes a field away.
            fields.retain(|_, value| !value.is_null());
        }
        fields.insert(keyed.record.version.clone(), next.into());
        let payload = values::payload(&Value::Object(fields)).inside("set").map_err(bad)?;
        let vectors = keyed.vector.map(|vector| values::vectors(vector).inside("vector")).transpose().map_err(bad)?;
        if version.is_some() {
            let some = vectors.filter(|vectors| values::by_name(vectors).next().is_some());
            let update = some.map(|vectors| {
                Change::UpdateVectors(vec![PointVectors { id: Some(point.clone()), vectors: Some(vectors) }])
            });
            return Ok(update.into_iter().chain([Change::SetPayload(payload, None)]).collect());
        }
        let vectors = match vectors {
            Some(vectors) => vectors,
            None if shape.vectors.is_empty() => {
                Vectors { vectors_options: Some(VectorsOptions::Vectors(NamedVectors::default())) }
            }
            None => {
                let detail = format!(
                    "there is no point {} in `{}` yet, and to make it `vector` is needed ({{}} makes one without)",
                    ids::spell(point),
                    shape.collection
                );
                return Err(keyed.rejected(store, "", detail));
            }
        };
        Ok(vec![Change::Upsert(vec![PointStruct { id: Some(point.clone()), vectors: Some(vectors), payload }])])
    }
}

fn payload_of(view: &View, point: &PointId) -> Option<Map<String, Value>> {
    view.get(point).map(|seen: &Seen| seen.payload.clone())
}
