//! One transaction's work in PostgreSQL.
//!
//! The danger: a COMMIT (or PREPARE TRANSACTION) after a failed statement rolls back and *answers success*. The remedy
//! here is twofold: a session that has seen any failure can only be rolled back, and COMMIT travels behind a `SET` in
//! one message: in a failed transaction the `SET` is refused, and the server throws the rest of the message away.

mod late;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join;
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::Error;
use uuid::Uuid;

use super::flight::{Crash, Flight, Landed, Opening, Stale};
use super::guard::{self, Checked};
use super::marker::{self, MarkParams};
use super::pool::Pooled;
use super::verbs::{begin_sql, judged, literal};
use super::{Inner, errors};
use crate::model::commit::{Gid, MarkerNote, Verdict};
use crate::model::powers::Role;
use crate::model::problem::{Code, Problem};
use crate::model::request::BoundOp;
use crate::model::state::Outcome;
use crate::store::{Decision, Session, Settled, TxnContext};

/// How long a rollback's acknowledgement is waited for.
const ROLLBACK_WAIT: Duration = Duration::from_secs(5);
/// How long the answer to a commit is waited for, at least: giving up on it leaves the transaction in doubt.
const COMMIT_WAIT: Duration = Duration::from_secs(10);

/// Where a session stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Nothing was sent.
    Fresh,
    /// In a transaction in which nothing has failed.
    Open,
    /// Something failed, or a call was dropped half-way: only a rollback is left.
    Failed,
    /// Prepared: the transaction lives on without this session.
    Spent,
}

pub(super) struct PgSession {
    store: Arc<Inner>,
    conn: Pooled,
    context: TxnContext,
    role: Role,
    stage: Stage,
    /// An answer is outstanding: the connection cannot be told to roll back, only be cut.
    in_flight: bool,
    /// The first refusal: all that this session answers from then on.
    failure: Option<Problem>,
    marked_at: Option<String>,
    /// The deadline has moved since the server was last told.
    renewed: bool,
    /// DDL ran: statements prepared since may name what a rollback takes away.
    reshaped: bool,
    /// The connection must not serve another transaction.
    tainted: bool,
}

impl PgSession {
    pub(super) fn new(store: Arc<Inner>, conn: Pooled, context: TxnContext, role: Role) -> Self {
        Self {
            store,
            conn,
            context,
            role,
            stage: Stage::Fresh,
            in_flight: false,
            failure: None,
            marked_at: None,
            renewed: false,
            reshaped: false,
            tainted: false,
        }
    }

    fn opening(&self, remaining: Duration) -> Opening {
        Opening {
            begin: begin_sql(self.context.isolation, self.role, remaining, self.context.lock_wait),
            role: self.role,
            mark: MarkParams::new(&self.context),
        }
    }

    /// All operations, in as few flights as their meaning allows: what follows DDL is prepared after it ran.
    async fn fly(&mut self, checked: &[Checked<'_>]) -> Result<Vec<Value>, Crash> {
        let mut results = Vec::with_capacity(checked.len());
        let mut at = 0;
        loop {
            let length = checked[at..].iter().position(|op| op.reshapes).map_or(checked.len() - at, |index| index + 1);
            let opening = self.prologue();
            self.stage = Stage::Failed;
            self.conn.at_rest = false;
            self.in_flight = true;
            let flight = Flight {
                store: &self.store.name,
                conn: &mut self.conn,
                opening: opening.as_ref(),
                checked: &checked[at..at + length],
                reads: self.role == Role::Reader,
                keep: !self.reshaped,
            };
            let landed = flight.fly().await;
            self.in_flight = false;
            let Landed { results: some, marked_at } = landed?;
            self.stage = Stage::Open;
            results.extend(some);
            self.marked_at = marked_at.or(self.marked_at.take());
            self.reshaped |= checked[at..at + length].iter().any(|op| op.reshapes);
            at += length;
            if at == checked.len() {
                return Ok(results);
            }
        }
    }

    /// What `work` does, refusals first that need no server.
    async fn check_and_fly(&mut self, ops: &[BoundOp]) -> Result<Vec<Value>, Problem> {
        let checked = ops.iter().map(|op| guard::check(&self.store.name, op)).collect::<Result<Vec<_>, _>>();
        let checked = checked.map_err(|problem| problem.in_store(&self.store.name))?;
        self.tainted |= checked.iter().any(|op| op.taints);
        let deadline = self.context.deadline;
        if deadline <= Instant::now() {
            return Err(out_of_time(&self.store));
        }
        // The server's own timeout speaks first where it can: it says which operation it was.
        let flown = timeout_at(deadline + Duration::from_millis(100), self.fly_afresh(&checked)).await;
        flown.unwrap_or_else(|_| Err(out_of_time(&self.store)))
    }

    /// Again from the start where a statement prepared long ago may no longer fit: nobody has seen a result yet. First
    /// without the one that is suspected, then without any.
    async fn fly_afresh(&mut self, checked: &[Checked<'_>]) -> Result<Vec<Value>, Problem> {
        let fresh = self.stage == Stage::Fresh;
        let mut suspected = false;
        loop {
            let Crash { mut problem, stale } = match self.fly(checked).await {
                Ok(results) => return Ok(results),
                Err(crash) => crash,
            };
            match stale {
                Stale::No => return Err(problem),
                Stale::One(text) if !suspected => self.conn.statements.forget(&text),
                Stale::One(_) | Stale::Any => self.conn.statements.forget_all(),
            }
            suspected = true;
            if !fresh || self.roll_back_here().await.is_err() {
                // Too late to do it here: the client has seen results of this run. Another run will be fine.
                if matches!(problem.store_code.as_deref(), Some("0A000" | "26000")) {
                    problem.code = Code::Serialization;
                }
                return Err(problem);
            }
            self.stage = Stage::Fresh;
            self.marked_at = None;
            self.reshaped = false;
        }
    }

    /// `ROLLBACK` on this connection. On success it is at rest.
    async fn roll_back_here(&mut self) -> Result<(), ()> {
        self.in_flight = true;
        let answer = timeout(ROLLBACK_WAIT, self.conn.client.batch_execute("ROLLBACK")).await;
        match answer {
            Ok(Ok(())) => {
                self.in_flight = false;
                self.conn.at_rest = true;
                Ok(())
            }
            _ => Err(()),
        }
    }

    fn verdict(&self, outcome: Outcome) -> Verdict {
        Verdict { run: self.context.run, store: self.store.name.clone(), outcome }
    }

    /// What stands in the way of prepare and commit; begins where nothing has begun.
    async fn ready_to_end(&mut self) -> Result<(), Problem> {
        match self.stage {
            Stage::Open => Ok(()),
            Stage::Fresh => self.work(&[]).await.map(drop),
            Stage::Failed | Stage::Spent => Err(self.why_ended()),
        }
    }

    /// Why there is nothing more to do here.
    fn why_ended(&self) -> Problem {
        let detail = match self.stage {
            Stage::Spent => "the transaction is prepared already",
            _ => "a call was given up half-way: the transaction can only be rolled back",
        };
        let other = || Problem::new(Code::Internal, detail).in_store(&self.store.name);
        self.failure.clone().unwrap_or_else(other)
    }

    /// Sends the note (where there is one) and the commit, together; answers each.
    async fn send_commit(&self, note: &MarkerNote) -> Result<(Result<(), Error>, Result<(), Error>), Error> {
        let client = &self.conn.client;
        let commit = judged(&self.conn.sync, "COMMIT");
        let wants_note = self.role == Role::Decider && (note.answer.is_some() || !note.redo.is_empty());
        let (Some(at), true) = (&self.marked_at, wants_note) else {
            return Ok((Ok(()), client.batch_execute(&commit).await));
        };
        let statement = match self.conn.statements.peek(marker::NOTE) {
            Some(statement) => statement,
            None => client.prepare(marker::NOTE).await?,
        };
        let redo = (!note.redo.is_empty()).then(|| serde_json::to_vec(&note.redo).expect("names, keys and bytes"));
        let (txn, attempt): (Uuid, i64) = (self.context.run.txn.0, self.context.run.attempt.0.into());
        let noting = async {
            let rows = client.execute(&statement, &[at, &txn, &attempt, &note.answer, &redo]).await?;
            debug_assert_eq!(rows, 1, "the marker stands where its insert said");
            Ok(())
        };
        // `join` polls, and so sends, in this order.
        Ok(join(noting, client.batch_execute(&commit)).await)
    }

    /// Reads the answers to a commit.
    fn read_commit(&mut self, noted: Result<(), Error>, committed: Result<(), Error>) -> Decision {
        match (noted, committed) {
            (Ok(()), Ok(())) => {
                self.conn.at_rest = true;
                Decision::Committed(self.verdict(Outcome::Committed))
            }
            // A failed note has failed the transaction: whatever became of the commit, it cannot have succeeded.
            (Err(error), _) if errors::is_verdict(&error) => {
                Decision::Refused(errors::of_marker(&self.store.name, false, &error))
            }
            (_, Err(error)) if errors::is_verdict(&error) => {
                Decision::Refused(errors::problem(&self.store.name, &error))
            }
            (Err(error), _) | (_, Err(error)) => Decision::Lost(errors::line(&error)),
        }
    }

    /// The promise may stand or not: at least let nobody make it any more once we have said that it failed.
    async fn end_lost_backend(&self) {
        let until = Instant::now() + Duration::from_secs(2);
        let pid = self.conn.pid;
        let name = self.conn.session_name.clone();
        let _ = timeout_at(until, self.store.end_backend(pid, &name)).await;
    }
}

#[async_trait]
impl Session for PgSession {
    async fn work(&mut self, ops: &[BoundOp]) -> Result<Vec<Value>, Problem> {
        if !matches!(self.stage, Stage::Fresh | Stage::Open) {
            return Err(self.why_ended());
        }
        if ops.is_empty() && self.stage == Stage::Open {
            return Ok(Vec::new());
        }
        let result = self.check_and_fly(ops).await;
        if let Err(problem) = &result {
            self.stage = Stage::Failed;
            self.failure = Some(problem.clone());
        }
        result
    }

    fn renew(&mut self, deadline: Instant) {
        self.context.deadline = deadline;
        self.renewed = true;
    }

    async fn settle(&mut self, part: &Settled) -> Result<(), Problem> {
        self.role = part.role;
        self.context.followers.clone_from(&part.followers);
        let settled = match (self.stage, self.role) {
            // What it becomes goes in with its first flight.
            (Stage::Fresh, _) => Ok(()),
            (Stage::Failed | Stage::Spent, _) => Err(self.why_ended()),
            (Stage::Open, Role::Reader) => self.must_have_read_only().await,
            (Stage::Open, _) => self.identify().await,
        };
        if let Err(problem) = &settled {
            self.failure.get_or_insert_with(|| problem.clone());
        }
        settled
    }

    async fn prepare(&mut self, gid: &Gid) -> Result<(), Problem> {
        self.ready_to_end().await?;
        self.stage = Stage::Failed;
        self.in_flight = true;
        let gid = gid.to_string();
        let sql = judged(&self.conn.sync, &format!("PREPARE TRANSACTION {}", literal(&gid)));
        let limit = self.context.deadline.max(Instant::now() + Duration::from_secs(1));
        match timeout_at(limit, self.conn.client.batch_execute(&sql)).await {
            Ok(Ok(())) => {
                self.in_flight = false;
                self.stage = Stage::Spent;
                self.conn.at_rest = !self.tainted;
                Ok(())
            }
            Ok(Err(error)) if errors::is_verdict(&error) => {
                self.in_flight = false;
                let problem = errors::problem(&self.store.name, &error);
                self.failure = Some(problem.clone());
                Err(problem)
            }
            lost => {
                let why = match lost {
                    Ok(Err(error)) => errors::line(&error),
                    _ => "no answer in time".to_owned(),
                };
                self.end_lost_backend().await;
                let why = format!("the answer to PREPARE TRANSACTION was lost: {why}");
                Err(Problem::unavailable(&self.store.name, why))
            }
        }
    }

    async fn commit(mut self: Box<Self>, note: &MarkerNote) -> Decision {
        if self.role == Role::Reader && self.stage == Stage::Fresh {
            return Decision::Committed(self.verdict(Outcome::Committed));
        }
        if let Err(problem) = self.ready_to_end().await {
            self.rollback().await;
            return Decision::Refused(problem);
        }
        self.stage = Stage::Failed;
        self.in_flight = true;
        let limit = self.context.deadline.max(Instant::now() + COMMIT_WAIT);
        let (noted, committed) = match timeout_at(limit, self.send_commit(note)).await {
            Ok(Ok(answers)) => answers,
            // The note could not be prepared: COMMIT was never sent.
            Ok(Err(error)) => {
                let problem = errors::of_marker(&self.store.name, false, &error);
                self.rollback().await;
                return Decision::Refused(problem);
            }
            Err(_) => return Decision::Lost("no answer to COMMIT in time".to_owned()),
        };
        self.in_flight = false;
        let decision = self.read_commit(noted, committed);
        match decision {
            Decision::Refused(_) => self.rollback().await,
            Decision::Committed(_) if self.tainted => self.conn.discard(),
            Decision::Committed(_) | Decision::Lost(_) => {}
        }
        decision
    }

    async fn rollback(mut self: Box<Self>) {
        match self.stage {
            Stage::Fresh | Stage::Spent => {}
            Stage::Open | Stage::Failed => {
                if self.in_flight {
                    // Something runs there still: stop it, then see it rolled back. The connection is not used again:
                    // the cancellation may arrive late and would hit the next transaction.
                    self.conn.cancel().await;
                    self.tainted = true;
                }
                let _ = self.roll_back_here().await;
            }
        }
        if self.tainted {
            self.conn.discard();
        }
    }
}

fn out_of_time(store: &Inner) -> Problem {
    Problem::new(Code::Timeout, format!("{}: the transaction's time ran out", store.name)).in_store(&store.name)
}
