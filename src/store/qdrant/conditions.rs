//! What must hold before the decision: conditions, collections as they are by now, points that must exist.

use ::qdrant_client::qdrant::PointId;

use super::buffer::Buffer;
use super::overlay::Seen;
use super::reads::With;
use super::session::QdrantSession;
use super::{check, ids};
use crate::model::problem::{Code, Problem};
use crate::model::request::{BoundOp, PointCondition};
use crate::store::expect;

impl QdrantSession {
    /// The points of an operation's `if`.
    pub(super) fn condition_points(&self, op: &BoundOp) -> Result<Vec<PointId>, Problem> {
        let read = |(index, condition): (usize, &PointCondition)| {
            ids::read(&condition.id).map_err(|bad| {
                let pointer = format!("{}/expect/if/{index}/id", op.op.pointer);
                Problem::invalid(pointer, bad.detail).in_operation(&op.op.id).in_store(&self.server.name)
            })
        };
        op.op.expect.conditions.iter().enumerate().map(read).collect()
    }

    /// Checks an operation's `if` against the store and what the transaction itself has written before.
    pub(super) async fn check_conditions(&mut self, op: &BoundOp, name: &str) -> Result<(), Problem> {
        let points = self.condition_points(op)?;
        if points.is_empty() {
            return Ok(());
        }
        let collection = self.known(name, &op.op.id).await?.shape.collection.clone();
        let view = self.view(&collection, &points, &With::PAYLOAD, &op.op.id).await?;
        for (index, (condition, point)) in op.op.expect.conditions.iter().zip(&points).enumerate() {
            if let Err((member, detail)) = holds(condition, view.get(point)) {
                let detail = format!("operation `{}`: point {} {detail}", op.op.id, ids::spell(point));
                let pointer = format!("{}/expect/if/{index}{member}", op.op.pointer);
                let problem = Problem::new(Code::Conflict, detail).at(pointer);
                return Err(problem.in_operation(&op.op.id).in_store(&self.server.name));
            }
        }
        Ok(())
    }

    /// Looks at the collections again and checks every write against them.
    pub(super) async fn recheck(&mut self) -> Result<(), Problem> {
        let names: Vec<_> = self.names.iter().map(|(name, known)| (name.clone(), known.clone())).collect();
        for (name, before) in names {
            let collection = &before.shape.collection;
            let Some(buffer) = self.buffer.get(collection).filter(|_| !before.is_fresh()) else { continue };
            let first = buffer.operations[0].as_str();
            let now = self.server.shape(&name, self.context.deadline).await;
            let now = now.map_err(|status| self.failed(first, &status))?;
            if now.shape.collection != *collection {
                let detail = format!("`{name}` was made to stand for another collection meanwhile");
                return Err(Problem::new(Code::Conflict, detail).in_operation(first).in_store(&self.server.name));
            }
            if now.shape != before.shape {
                for (write, op) in buffer.writes.iter().zip(&buffer.operations) {
                    check::fits(&write.change, &now.shape).map_err(|detail| self.refused(op, detail))?;
                }
            }
            self.names.insert(name, now);
        }
        Ok(())
    }

    /// Finds the points that must exist and do not.
    pub(super) async fn check_existence(&self, collection: &str, buffer: &Buffer) -> Result<(), Problem> {
        let missing = |index: usize, point: &PointId| {
            let op = &buffer.operations[index];
            self.refused(op, format!("there is no point {} in `{collection}`", ids::spell(point)))
        };
        let mut needed = check::needed(&buffer.writes).map_err(|(index, point)| missing(index, point))?;
        let Some(first) = needed.values().min().map(|index| &buffer.operations[*index]) else { return Ok(()) };
        let request = With::NOTHING.get(collection, needed.keys().map(|point| (*point).clone()).collect());
        let found = self.server.get(request, self.context.deadline).await;
        for point in found.map_err(|status| self.failed(first, &status))? {
            point.id.as_ref().map(|id| needed.remove(id));
        }
        let absent = needed.into_iter().min_by_key(|(_, index)| *index);
        absent.map_or(Ok(()), |(point, index)| Err(missing(index, point)))
    }
}

/// Whether an `if` holds; what does not, and where in it.
fn holds(condition: &PointCondition, seen: Option<&Seen>) -> Result<(), (String, String)> {
    if let Some(exists) = condition.exists
        && exists != seen.is_some()
    {
        let detail = if exists { "does not exist" } else { "exists" };
        return Err(("/exists".to_owned(), detail.to_owned()));
    }
    for (field, expected) in condition.payload.iter().flatten() {
        let found = seen.and_then(|seen| seen.payload.get(field));
        if !found.is_some_and(|found| expect::same(found, expected)) {
            let pointer = format!("/payload/{}", crate::model::reference::escape(field));
            let detail = match (seen, found) {
                (None, _) => "does not exist".to_owned(),
                (_, None) => format!("has no `{field}`"),
                (_, Some(_)) => format!("has another `{field}`"),
            };
            return Err((pointer, detail));
        }
    }
    Ok(())
}
