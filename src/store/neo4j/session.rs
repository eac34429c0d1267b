//! One transaction's work in one graph.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use neo4rs::summary::{Counters, Type};
use neo4rs::{BoltMap, Query};
use serde_json::{Map, Value, json};
use tokio::time::{Duration, Instant, timeout};

use super::blockers::Place;
use super::errors::{Fault, is_of_marker, marker_problem, may_mean_the_text};
use super::link::{Done, Link};
use super::statement::{self, Look};
use super::values::to_map;
use super::watch::watch;
use super::{Shared, TAG, marker, record};
use crate::model::commit::{Gid, MarkerNote, Verdict};
use crate::model::powers::Role;
use crate::model::problem::{Code, Problem};
use crate::model::request::{Action, BoundOp};
use crate::model::state::Outcome;
use crate::store::record::Keyed;
use crate::store::seats::Seat;
use crate::store::{Decision, Session, Settled, TxnContext, expect};

/// How long the answer to a COMMIT may take before the outcome counts as lost. A commit waits for nobody but the disk.
const COMMIT_PATIENCE: Duration = Duration::from_secs(10);

/// What follows from all that was answered so far.
enum Stage {
    /// Nothing was sent.
    Fresh,
    /// The local transaction is open, its marker written.
    Open,
    /// It can only be rolled back; the first refusal (later ones only say `Ignored`).
    Spoilt(Problem),
}

/// A session. Dropping it closes its connection, and the server rolls back.
pub(super) struct GraphSession {
    /// Left before the connection serves another.
    seat: Seat<Place>,
    store: Arc<Shared>,
    context: TxnContext,
    role: Role,
    /// On every statement, so that waiters and old sessions name themselves.
    tag: String,
    /// `None` once the connection is of no more use.
    link: Option<Link>,
    stage: Stage,
    /// The marker was written before it was known who follows.
    late_followers: bool,
    /// An operation deleted nodes: our own may be among them (`MATCH (n) DETACH DELETE n`).
    deleted: bool,
}

/// An operation that has passed every check that needs no server.
struct Ready<'a> {
    bound: &'a BoundOp,
    text: Cow<'a, str>,
    params: BoltMap,
    look: Look,
    /// Where the statement was made of a record.
    keyed: Option<Keyed<'a>>,
}

impl GraphSession {
    pub(super) fn new(store: Arc<Shared>, context: TxnContext, role: Role, link: Link) -> Self {
        let tag = super::tag(context.owner, context.run);
        let seat = store.seats.take(context.run, Place { tag: tag.as_str().into(), spot: link.spot() });
        Self {
            seat,
            store,
            context,
            role,
            tag,
            link: Some(link),
            stage: Stage::Fresh,
            late_followers: false,
            deleted: false,
        }
    }

    fn ready<'a>(&self, bound: &'a BoundOp) -> Result<Ready<'a>, Problem> {
        if let Some(keyed) = Keyed::of(bound) {
            let keyed = keyed?;
            let (text, params) = record::compile(&self.store.name, &keyed)?;
            let look = statement::look(&text).map_err(|why| Problem::new(Code::Internal, why))?;
            return Ok(Ready { bound, text: Cow::Owned(text), params, look, keyed: Some(keyed) });
        }
        let Action::Cypher { text, .. } = &bound.op.action else {
            let detail = "a graph takes `cypher` and `record` only";
            return Err(self.named(Problem::invalid(&bound.op.pointer, detail), bound));
        };
        let look = statement::look(text)
            .map_err(|why| self.named(Problem::invalid(format!("{}/cypher", bound.op.pointer), why), bound))?;
        let none = Map::new();
        let members = match &bound.values {
            Value::Object(members) => members,
            Value::Null => &none,
            _ => {
                return Err(
                    self.named(Problem::invalid(bound.pointer(""), "Cypher takes an object of parameters"), bound)
                );
            }
        };
        if let Some(name) = members.keys().find(|name| name.starts_with(TAG)) {
            let pointer = bound.pointer(&format!("/{}", crate::model::reference::escape(name)));
            return Err(self.named(Problem::invalid(pointer, format!("names that begin with `{TAG}` are ours")), bound));
        }
        let params = to_map(members)
            .map_err(|bad| self.named(Problem::invalid(bound.pointer(&bad.pointer), bad.detail), bound))?;
        Ok(Ready { bound, text: Cow::Borrowed(text), params, look, keyed: None })
    }

    fn named(&self, problem: Problem, bound: &BoundOp) -> Problem {
        problem.in_operation(&bound.op.id).in_store(&self.store.name)
    }

    /// Waits for one exchange within the transaction's bounds. What the server refused leaves the connection to be
    /// mended; anything else closes it.
    async fn exchange(&mut self, what: Exchange) -> Result<Done, Fault> {
        let Some(link) = self.link.as_mut() else { return Err(Fault::Driver(neo4rs::Error::ConnectionError)) };
        let exchange = async {
            match what {
                Exchange::BeginRun(query) => {
                    link.begin().await?;
                    link.run(query).await
                }
                Exchange::BeginPull(query) => {
                    link.begin().await?;
                    link.pull(query).await
                }
                Exchange::Run(query) => link.run(query).await,
                Exchange::Pull(query) => link.pull(query).await,
                Exchange::Read(query) => link.read(query).await,
            }
        };
        let done = watch(&self.store.control, &self.context, &self.tag, exchange).await;
        if let Err(fault) = &done
            && fault.server_code().is_none()
        {
            self.link = None;
        }
        done
    }

    /// BEGIN and the marker.
    async fn begin(&mut self) -> Result<(), Problem> {
        let marker = marker::write(&self.context, &self.tag);
        let done = self.exchange(Exchange::BeginRun(marker)).await;
        let done = done.map_err(|fault| marker_problem(&fault, &self.store.name))?;
        self.begun(&done)
    }

    /// BEGIN, the marker, and where its text allows it the first operation in the marker's statement: a statement less
    /// is a third less work for the server. `None` where the operation has still to be run.
    async fn begin_with(&mut self, ready: &Ready<'_>) -> Result<Option<Done>, Problem> {
        if !ready.look.plain {
            return self.begin().await.map(|()| None);
        }
        let both = marker::write_and(&ready.text, ready.params.clone(), &self.context, &self.tag);
        let exchange = if ready.look.rowless { Exchange::BeginRun(both) } else { Exchange::BeginPull(both) };
        let fault = match self.exchange(exchange).await {
            Ok(mut done) => {
                self.begun(&done)?;
                marker::uncount(&mut done.counters, &self.context);
                for row in &mut done.rows {
                    row.remove(marker::ONE);
                }
                return Ok(Some(done));
            }
            Err(fault) => fault,
        };
        if is_of_marker(&fault) {
            return Err(marker_problem(&fault, &self.store.name));
        }
        if !may_mean_the_text(&fault) {
            return Err(self.refusal(&fault, ready.bound));
        }
        let fit = match self.link.as_mut() {
            Some(link) => link.reset().await,
            None => false,
        };
        if !fit {
            self.link = None;
            return Err(self.refusal(&fault, ready.bound));
        }
        self.begin().await.map(|()| None)
    }

    fn begun(&mut self, done: &Done) -> Result<(), Problem> {
        if done.counters.nodes_created == 0 {
            let detail = format!("{}: another owner of this log has registered here", self.store.name);
            return Err(Problem::new(Code::JournalUnavailable, detail).in_store(&self.store.name));
        }
        self.stage = Stage::Open;
        Ok(())
    }

    async fn operate(&mut self, ready: Ready<'_>) -> Result<Value, Problem> {
        let (bound, look, keyed) = (ready.bound, ready.look, ready.keyed);
        if let Some(keyed) = keyed.as_ref().filter(|keyed| record::may_make(keyed)) {
            record::must_be_unique(&self.store, keyed, self.context.deadline).await?;
        }
        let first = if matches!(self.stage, Stage::Fresh) && self.role != Role::Reader {
            self.begin_with(&ready).await?
        } else {
            None
        };
        let done = match first {
            Some(done) => done,
            None => self.run(ready).await?,
        };
        self.show(bound, look, keyed.as_ref(), done)
    }

    async fn run(&mut self, ready: Ready<'_>) -> Result<Done, Problem> {
        let Ready { bound, text, params, look, .. } = ready;
        let query = Query::new(text.into_owned()).with_params(params).param(TAG, self.tag.as_str());
        let exchange = match self.role {
            Role::Reader => Exchange::Read(query),
            _ if look.rowless => Exchange::Run(query),
            _ => Exchange::Pull(query),
        };
        self.exchange(exchange).await.map_err(|fault| self.refusal(&fault, bound))
    }

    /// The result as the client reads it, checked against what it expected.
    fn show(&mut self, bound: &BoundOp, look: Look, keyed: Option<&Keyed<'_>>, done: Done) -> Result<Value, Problem> {
        let sly = match self.role {
            Role::Reader => matches!(done.kind, Type::Write | Type::ReadWrite),
            // It may still become a reader, and then all that it wrote goes with its marker. The kind is no help: the
            // marker's own statement writes.
            Role::Undecided => bound.op.reads && counters(&done.counters) != json!({}),
            Role::Decider | Role::Preparer | Role::Redoer => false,
        };
        if sly {
            let detail = format!("{}: the operation writes; declare `\"write\": true`", self.store.name);
            return Err(self.named(Problem::new(Code::RejectedByStore, detail), bound));
        }
        self.deleted |= done.counters.nodes_deleted > 0 || done.counters.labels_removed > 0;
        let returned = done.rows.len() as u64;
        let counted = if look.returns { returned } else { affected(&done.counters) };
        let ids = self.store.element_ids();
        let rows = done.rows.into_iter().map(|row| ids.row(row)).collect::<Result<Vec<_>, _>>().map_err(|why| {
            let detail = format!("{}: a result that cannot be shown: {why}", self.store.name);
            self.named(Problem::new(Code::RejectedByStore, detail), bound)
        })?;
        let result = match keyed {
            Some(keyed) => record::read(&self.store.name, keyed, rows, &done.counters)?,
            None => json!({"rows": rows, "counters": counters(&done.counters)}),
        };
        expect::check(&self.store.name, &bound.op, counted, &result)?;
        Ok(result)
    }

    fn refusal(&self, fault: &Fault, bound: &BoundOp) -> Problem {
        let mut problem = self.named(fault.problem(&self.store.name), bound);
        match fault.server_code() {
            Some("Neo.ClientError.Statement.ParameterMissing") => problem = problem.at(bound.pointer("")),
            Some("Neo.ClientError.Statement.TypeError")
                if !matches!(bound.op.action, Action::Record(_))
                    && problem.detail.contains("Property values can only be") =>
            {
                if let Some(name) = only_nested(&bound.values) {
                    problem.code = Code::InvalidRequest;
                    problem = problem.at(bound.pointer(&format!("/{}", crate::model::reference::escape(name))));
                }
            }
            _ => {}
        }
        problem
    }

    async fn work_all(&mut self, ops: &[BoundOp]) -> Result<Vec<Value>, Problem> {
        let ready = ops.iter().map(|op| self.ready(op)).collect::<Result<Vec<_>, _>>()?;
        let mut results = Vec::with_capacity(ready.len());
        for ready in ready {
            results.push(self.operate(ready).await?);
        }
        Ok(results)
    }

    /// Everything that must be in the transaction before COMMIT may be sent.
    async fn complete(&mut self, note: &MarkerNote) -> Result<(), Problem> {
        if let Stage::Spoilt(first) = &self.stage {
            return Err(first.clone());
        }
        if matches!(self.stage, Stage::Fresh) {
            self.begin().await?;
        }
        let followers = self.late_followers.then_some(self.context.followers.as_slice());
        if let Some(note) = marker::note(self.context.run, note, followers, &self.tag) {
            self.exchange(Exchange::Run(note)).await.map_err(|fault| fault.problem(&self.store.name))?;
        }
        if self.deleted {
            self.check_own_nodes().await?;
        }
        Ok(())
    }

    /// Without its marker a commit could not be told from an abort later, and without the log's node nothing could
    /// commit any more.
    async fn check_own_nodes(&mut self) -> Result<(), Problem> {
        let own = marker::own(&self.context, &self.tag);
        let done = self.exchange(Exchange::Pull(own)).await.map_err(|fault| fault.problem(&self.store.name))?;
        if done.rows.is_empty() {
            let detail = format!(
                "{}: an operation took away Outrigger's own nodes; spare the labels OutriggerDecision and OutriggerLog",
                self.store.name
            );
            return Err(Problem::new(Code::RejectedByStore, detail).in_store(&self.store.name));
        }
        Ok(())
    }

    async fn close(self) {
        let Some(link) = self.link else { return };
        // A transaction that was interrupted is ended by its own id: that cannot hit the connection's next.
        drop(self.seat);
        match self.stage {
            Stage::Spoilt(_) => link.mend().await,
            Stage::Open | Stage::Fresh => link.rollback().await,
        }
    }
}

enum Exchange {
    BeginRun(Query),
    BeginPull(Query),
    Run(Query),
    Pull(Query),
    Read(Query),
}

#[async_trait]
impl Session for GraphSession {
    async fn work(&mut self, ops: &[BoundOp]) -> Result<Vec<Value>, Problem> {
        if let Stage::Spoilt(first) = &self.stage {
            return Err(first.clone());
        }
        let done = self.work_all(ops).await;
        if let Err(problem) = &done {
            self.stage = Stage::Spoilt(problem.clone());
        }
        done
    }

    fn renew(&mut self, deadline: Instant) {
        self.context.deadline = deadline;
    }

    /// The marker is its first statement in any case; a reader's goes with the rollback that ends it.
    async fn settle(&mut self, part: &Settled) -> Result<(), Problem> {
        self.role = part.role;
        self.late_followers = self.context.followers != part.followers;
        self.context.followers.clone_from(&part.followers);
        Ok(())
    }

    async fn prepare(&mut self, _gid: &Gid) -> Result<(), Problem> {
        Err(Problem::new(Code::Internal, format!("{}: Neo4j cannot prepare", self.store.name))
            .in_store(&self.store.name))
    }

    async fn commit(mut self: Box<Self>, note: &MarkerNote) -> Decision {
        let verdict = Verdict { run: self.context.run, store: self.store.name.clone(), outcome: Outcome::Committed };
        if self.role == Role::Reader {
            self.close().await;
            return Decision::Committed(verdict);
        }
        if let Err(problem) = self.complete(note).await {
            // COMMIT was never sent, so it can never arrive.
            self.stage = Stage::Spoilt(problem.clone());
            self.close().await;
            return Decision::Refused(problem);
        }
        let name = self.store.name.clone();
        let Some(mut link) = self.link.take() else {
            return Decision::Refused(Problem::unavailable(&name, "the connection was lost before COMMIT"));
        };
        match timeout(COMMIT_PATIENCE, link.commit()).await {
            Ok(Ok(())) => {
                drop(self.seat);
                link.give_back();
                Decision::Committed(verdict)
            }
            Ok(Err(error)) => {
                let fault = Fault::Driver(error);
                if fault.refuses_commit() {
                    link.mend().await;
                    Decision::Refused(fault.problem(&name))
                } else {
                    Decision::Lost(fault.say(&name))
                }
            }
            Err(_) => Decision::Lost(format!("{name}: no answer to COMMIT")),
        }
    }

    async fn rollback(self: Box<Self>) {
        self.close().await;
    }
}

/// The parameter that alone can be the property value that Neo4j refuses: a map, or a list that is not flat.
fn only_nested(values: &Value) -> Option<&str> {
    let mut suspects = values.as_object()?.iter().filter(|(_, value)| record::is_nested(value));
    let (name, _) = suspects.next()?;
    suspects.next().is_none().then_some(name)
}

/// `expect.rows` where a statement returns nothing: nodes and relationships created and deleted; where there are none,
/// properties set and labels changed. Neo4j does not count matched elements.
fn affected(counters: &Counters) -> u64 {
    let elements = counters.nodes_created
        + counters.nodes_deleted
        + counters.relationships_created
        + counters.relationships_deleted;
    if elements > 0 { elements } else { counters.properties_set + counters.labels_added + counters.labels_removed }
}

/// Those that are not zero.
fn counters(counters: &Counters) -> Value {
    let all = [
        ("nodes_created", counters.nodes_created),
        ("nodes_deleted", counters.nodes_deleted),
        ("relationships_created", counters.relationships_created),
        ("relationships_deleted", counters.relationships_deleted),
        ("properties_set", counters.properties_set),
        ("labels_added", counters.labels_added),
        ("labels_removed", counters.labels_removed),
        ("indexes_added", counters.indexes_added),
        ("indexes_removed", counters.indexes_removed),
        ("constraints_added", counters.constraints_added),
        ("constraints_removed", counters.constraints_removed),
        ("system_updates", counters.system_updates),
    ];
    let some = all.into_iter().filter(|(_, count)| *count > 0);
    Value::Object(some.map(|(name, count)| (name.to_owned(), count.into())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faulty_parameter_is_named_only_where_it_is_certain() {
        assert_eq!(only_nested(&json!({"a": 1, "b": {"c": 1}})), Some("b"));
        assert_eq!(only_nested(&json!({"a": [1, [2]], "b": [1]})), Some("a"));
        assert_eq!(only_nested(&json!({"a": {}, "b": {}})), None);
        assert_eq!(only_nested(&json!({"a": 1})), None);
        assert_eq!(only_nested(&json!(null)), None);
    }

    #[test]
    fn what_a_statement_without_rows_affected() {
        let none = Counters::default();
        assert_eq!(affected(&none), 0);
        assert_eq!(affected(&Counters { properties_set: 3, labels_added: 1, ..none }), 4);
        assert_eq!(affected(&Counters { nodes_created: 1, properties_set: 3, ..none }), 1);
        assert_eq!(counters(&Counters { nodes_created: 1, ..none }), json!({"nodes_created": 1}));
    }
}
