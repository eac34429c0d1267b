//! One transaction's work in Qdrant: reads run at once, writes are checked and kept until the decision.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use ::qdrant_client::qdrant::PointId;
use async_trait::async_trait;
use futures::future::try_join_all;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tonic::Status;

use super::absolute::{self, Absolute};
use super::buffer::Buffer;
use super::calls::MOST_RESOLVED;
use super::catalog::Known;
use super::errors::{bad_body, problem, rejected};
use super::json::Bad;
use super::overlay::{self, Seen, View};
use super::reads::{self, Read, With};
use super::writes::{self, Targets, Write};
use super::{Server, by_ids, check, ids};
use crate::lock::{Claim, LockKey, Mode};
use crate::model::commit::{Gid, MarkerNote, RedoWrite, Verdict};
use crate::model::powers::Role;
use crate::model::problem::{Code, Problem};
use crate::model::request::{Action, BoundOp, Verb};
use crate::model::state::Outcome;
use crate::store::expect;
use crate::store::record::Keyed;
use crate::store::{Decision, Session, Settled, TxnContext};

pub(super) struct QdrantSession {
    pub(super) server: Arc<Server>,
    pub(super) context: TxnContext,
    role: Role,
    /// Writes that `footprint` has read, by operation: `work` need not read them again.
    asked: HashMap<String, Write>,
    /// What names stand for in this transaction. An alias is resolved once.
    pub(super) names: HashMap<String, Known>,
    /// Writes by collection, in order.
    pub(super) buffer: BTreeMap<String, Buffer>,
}

impl QdrantSession {
    pub(super) fn new(server: Arc<Server>, context: TxnContext, role: Role) -> Self {
        let (asked, names, buffer) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        Self { server, context, role, asked, names, buffer }
    }

    pub(super) fn failed(&self, op: &str, status: &Status) -> Problem {
        problem(&self.server.name, status).in_operation(op)
    }

    fn bad(&self, op: &BoundOp, bad: Bad) -> Problem {
        bad_body(&self.server.name, op, bad)
    }

    pub(super) fn refused(&self, op: &str, detail: impl Into<String>) -> Problem {
        rejected(&self.server.name, op, detail)
    }

    /// The collection that an operation's name stands for.
    pub(super) async fn known(&mut self, name: &str, op: &str) -> Result<Known, Problem> {
        if let Some(known) = self.names.get(name) {
            return Ok(known.clone());
        }
        let known = self.server.shape(name, self.context.deadline).await.map_err(|status| self.failed(op, &status))?;
        self.names.insert(name.to_owned(), known.clone());
        Ok(known)
    }

    /// Points as this transaction sees them, whole.
    pub(super) async fn view(
        &self,
        collection: &str,
        points: &[PointId],
        with: &With,
        op: &str,
    ) -> Result<View, Problem> {
        let request = with.get(collection, points.to_vec());
        let stored =
            self.server.get(request, self.context.deadline).await.map_err(|status| self.failed(op, &status))?;
        let mut view: View =
            stored.into_iter().filter_map(|mut point| Some((point.id.take()?, Seen::from(point)))).collect();
        if let Some(buffer) = self.buffer.get(collection) {
            let points: HashSet<&PointId> = points.iter().collect();
            for write in buffer.touching(&points) {
                overlay::lay(&mut view, write, |point| points.contains(point));
            }
        }
        Ok(view)
    }

    pub(super) fn must_be_redoer(&self, op: &str) -> Result<(), Problem> {
        if self.role == Role::Redoer {
            return Ok(());
        }
        let detail = format!("operation `{op}` writes, and was planned as a read");
        Err(Problem::new(Code::Internal, detail).in_operation(op).in_store(&self.server.name))
    }

    /// Keeps a write until the decision.
    pub(super) fn keep(&mut self, collection: &str, write: Absolute, op: &str) {
        self.buffer.entry(collection.to_owned()).or_default().push(write, op);
    }

    async fn write(&mut self, op: &BoundOp, name: &str, verb: Verb) -> Result<Value, Problem> {
        let id = &op.op.id;
        self.must_be_redoer(id)?;
        let write = match self.asked.remove(id) {
            Some(write) => write,
            None => writes::read(verb, &op.values).map_err(|bad| self.bad(op, bad))?,
        };
        let shape = self.known(name, id).await?.shape;
        check::fits(&write.change, &shape).map_err(|detail| self.refused(id, detail))?;
        let points = match write.targets {
            Targets::Points(points) => points,
            Targets::Where(filter) => {
                if self.buffer.contains_key(&shape.collection) {
                    let detail = "a write by filter cannot see what this transaction wrote to the same collection \
                                  before: put it first, or name the points";
                    let problem = Problem::new(Code::Unsupported, detail).at(op.pointer("/filter"));
                    return Err(problem.in_operation(id).in_store(&self.server.name));
                }
                let found = self.server.resolve(&shape.collection, filter, self.context.deadline).await;
                found.map_err(|status| self.failed(id, &status))?.ok_or_else(|| {
                    let detail = format!("the filter matches more than {MOST_RESOLVED} points: split the write");
                    self.refused(id, detail)
                })?
            }
        };
        let write = Absolute::new(write.change, points);
        let affected = write.points.len();
        if affected > 0 {
            self.keep(&shape.collection, write, id);
        }
        // Whether it is applied is for the coordinator to say: here it is not.
        Ok(json!({"affected": affected, "applied": false}))
    }

    /// Reads, all at the same time: none of them changes what another sees.
    async fn read_all(&mut self, ops: &[(&BoundOp, &str, Verb)]) -> Result<Vec<Value>, Problem> {
        let mut reads = Vec::with_capacity(ops.len());
        for (op, name, verb) in ops {
            // Its own name matters only where our own writes could be meant by another.
            let collection = if self.buffer.is_empty() {
                (*name).to_owned()
            } else {
                self.known(name, &op.op.id).await?.shape.collection.clone()
            };
            let read = reads::read(*verb, &op.values, &collection).map_err(|bad| self.bad(op, bad))?;
            reads.push((op.op.id.as_str(), collection, read));
        }
        let this = &*self;
        try_join_all(reads.into_iter().map(|(op, collection, read)| this.read(op, collection, read))).await
    }

    async fn read(&self, op: &str, collection: String, read: Read) -> Result<Value, Problem> {
        let until = self.context.deadline;
        let failed = |status: Status| self.failed(op, &status);
        let own = self.buffer.contains_key(&collection);
        let mut result = match read {
            Read::Count(request) if own && let Some(points) = by_ids::listed(request.filter.as_ref()) => {
                return Ok(json!({"count": self.view(&collection, &points, &With::NOTHING, op).await?.len()}));
            }
            Read::Scroll(request, with) if own && let Some(points) = by_ids::scrolled(&request) => {
                let mut view = self.view(&collection, &points, &With::ALL, op).await?;
                let found = points.into_iter().filter_map(|point| {
                    let shown = with.show(Some(&point), with.cut(view.remove(&point)?));
                    Some((point, Value::Object(shown)))
                });
                return Ok(by_ids::page(found.collect(), request.limit));
            }
            Read::Retrieve(points, with) => return self.retrieve(op, &collection, points, &with).await,
            Read::Scroll(request, with) => with.show_page(self.server.scroll(request, until).await.map_err(failed)?),
            Read::Query(request, with) => {
                let points = self.server.query(*request, until).await.map_err(failed)?;
                json!({"points": points.into_iter().map(|point| with.show_scored(point)).collect::<Vec<_>>()})
            }
            Read::Count(request) => json!({"count": self.server.count(request, until).await.map_err(failed)?}),
        };
        if own {
            result["sees_own_writes"] = Value::Bool(false);
        }
        Ok(result)
    }

    async fn retrieve(&self, op: &str, collection: &str, points: Vec<PointId>, with: &With) -> Result<Value, Problem> {
        let own = self.buffer.contains_key(collection);
        // Our own writes need whole points to be laid over; what was not asked for is taken away afterwards.
        let mut view = self.view(collection, &points, if own { &With::ALL } else { with }, op).await?;
        let mut found: Vec<Map<String, Value>> = Vec::with_capacity(view.len());
        for point in &points {
            if let Some(seen) = view.remove(point) {
                found.push(with.show(Some(point), if own { with.cut(seen) } else { seen }));
            }
        }
        Ok(json!({"points": found}))
    }

    fn expected(&self, op: &BoundOp, result: &Value) -> Result<(), Problem> {
        let counted = match result.get("points").and_then(Value::as_array) {
            Some(points) => points.len() as u64,
            None => result.get("affected").or_else(|| result.get("count")).and_then(Value::as_u64).unwrap_or(0),
        };
        expect::check(&self.server.name, &op.op, counted, result)
    }

    fn parts<'a>(&self, op: &'a BoundOp) -> Result<(&'a str, Verb), Problem> {
        match &op.op.action {
            Action::Points { collection, verb, .. } => Ok((collection, *verb)),
            Action::Sql { .. } | Action::Cypher { .. } | Action::Record(_) => {
                let detail = format!("{} is a Qdrant: it takes no statements", self.server.name);
                Err(Problem::invalid(&op.op.pointer, detail).in_operation(&op.op.id).in_store(&self.server.name))
            }
        }
    }
}

#[async_trait]
impl Session for QdrantSession {
    async fn footprint(&mut self, ops: &[BoundOp]) -> Result<Vec<Claim>, Problem> {
        let store = self.server.name.clone();
        let mut claims = Vec::new();
        for op in ops {
            if let Some(keyed) = Keyed::of(op) {
                claims.extend(self.record_claims(&keyed?).await?);
                continue;
            }
            let (name, verb) = self.parts(op)?;
            let conditions = self.condition_points(op)?;
            if verb.reads() && conditions.is_empty() {
                continue;
            }
            let id = &op.op.id;
            let collection = self.known(name, id).await?.shape.collection.clone();
            let whole = |mode| Claim { key: LockKey::Resource(store.clone(), collection.clone()), mode };
            let one = |point: &PointId, mode| {
                let key = LockKey::Point(store.clone(), collection.clone(), ids::spell(point));
                Claim { key, mode }
            };
            if !conditions.is_empty() {
                claims.push(whole(Mode::IntentShared));
                claims.extend(conditions.iter().map(|point| one(point, Mode::Shared)));
            }
            if verb.reads() {
                continue;
            }
            let write = writes::read(verb, &op.values).map_err(|bad| self.bad(op, bad))?;
            match &write.targets {
                Targets::Where(_) => claims.push(whole(Mode::Exclusive)),
                Targets::Points(points) => {
                    claims.push(whole(Mode::IntentExclusive));
                    claims.extend(points.iter().map(|point| one(point, Mode::Exclusive)));
                }
            }
            self.asked.insert(id.clone(), write);
        }
        Ok(claims)
    }

    async fn work(&mut self, ops: &[BoundOp]) -> Result<Vec<Value>, Problem> {
        let mut results = Vec::with_capacity(ops.len());
        let mut left = ops;
        while let Some(op) = left.first() {
            let mut run = Vec::new();
            for op in left {
                if Keyed::of(op).is_some() {
                    break;
                }
                let (name, verb) = self.parts(op)?;
                if !verb.reads() || !op.op.expect.conditions.is_empty() {
                    break;
                }
                run.push((op, name, verb));
            }
            let taken = run.len().max(1);
            if let Some(keyed) = Keyed::of(op) {
                results.push(self.record(&keyed?).await?);
            } else if run.is_empty() {
                let (name, verb) = self.parts(op)?;
                self.check_conditions(op, name).await?;
                if verb.reads() {
                    results.extend(self.read_all(&[(op, name, verb)]).await?);
                } else {
                    results.push(self.write(op, name, verb).await?);
                }
            } else {
                results.extend(self.read_all(&run).await?);
            }
            for (op, result) in left[..taken].iter().zip(&results[results.len() - taken..]) {
                self.expected(op, result)?;
            }
            left = &left[taken..];
        }
        Ok(results)
    }

    fn renew(&mut self, deadline: Instant) {
        self.context.deadline = deadline;
    }

    async fn settle(&mut self, part: &Settled) -> Result<(), Problem> {
        self.role = part.role;
        Ok(())
    }

    async fn validate(&mut self) -> Result<Vec<RedoWrite>, Problem> {
        self.recheck().await?;
        try_join_all(self.buffer.iter().map(|(name, buffer)| self.check_existence(name, buffer))).await?;
        let (store, names) = (&self.server.name, &self.names);
        let buffers = std::mem::take(&mut self.buffer).into_iter();
        let encoded = buffers.filter_map(|(collection, buffer)| {
            let known = names.values().find(|known| known.shape.collection == collection)?;
            Some(absolute::encode(store, &known.shape, buffer.writes))
        });
        Ok(encoded.flatten().collect())
    }

    async fn prepare(&mut self, _gid: &Gid) -> Result<(), Problem> {
        let detail = format!("{} cannot prepare and was asked to", self.server.name);
        Err(Problem::new(Code::Internal, detail).in_store(&self.server.name))
    }

    async fn commit(self: Box<Self>, _note: &MarkerNote) -> Decision {
        if self.role == Role::Reader {
            let store = self.server.name.clone();
            return Decision::Committed(Verdict { run: self.context.run, store, outcome: Outcome::Committed });
        }
        let detail = format!("{} cannot decide and was asked to", self.server.name);
        Decision::Refused(Problem::new(Code::Internal, detail).in_store(&self.server.name))
    }

    /// Nothing has been written: dropping what is kept is all.
    async fn rollback(self: Box<Self>) {}
}
