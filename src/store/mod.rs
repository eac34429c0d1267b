//! Participants. A store is described by its powers; each power is a trait, and the contract suite tests each trait
//! against the real server.
//!
//! ```text
//!   Store ── open(context, role) ──► Session          one transaction's work in this store
//!     ├─ marks()    -> Marks         fence, look up, forget: can tell later whether it committed
//!     ├─ prepares() -> Prepares      gids: can promise
//!     └─ redoes()   -> Redoes        absolute writes after the decision
//! ```

pub mod expect;
pub mod neo4j;
pub mod postgres;
pub mod qdrant;
mod record;
mod seats;

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::audit::Line;
use crate::journal::slip::Decided;
use crate::lock::Claim;
use crate::model::commit::{Decider, Gid, KeyNote, LookUp, Marker, MarkerNote, RedoWrite, Verdict};
use crate::model::ids::{LogId, LogOwner, Lsn, Run, StoreName};
use crate::model::powers::{Powers, Role};
use crate::model::problem::Problem;
use crate::model::request::{BoundOp, Isolation};
use crate::model::wait::WaitEdge;

/// Everything about a transaction that its sessions carry.
#[derive(Clone, Debug)]
pub struct TxnContext {
    /// Which run.
    pub run: Run,
    /// Whose.
    pub owner: LogOwner,
    /// What the log had durable when this run began: written into markers and gids.
    pub durable: Lsn,
    /// Who decides; `None` when everything only reads.
    pub decider: Option<Decider>,
    /// The stores that get their part after the decision.
    pub followers: Vec<StoreName>,
    /// The idempotency key.
    pub key: Option<KeyNote>,
    /// PostgreSQL's level.
    pub isolation: Isolation,
    /// No statement may run beyond this.
    pub deadline: Instant,
    /// No lock inside a store may be waited for longer than this.
    pub lock_wait: Duration,
}

/// The part that an undecided session gets at last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    /// Any role but [`Role::Undecided`].
    pub role: Role,
    /// The stores that get their part after the decision.
    pub followers: Vec<StoreName>,
}

/// The answer to "commit, and thereby decide".
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It is committed.
    Committed(Verdict),
    /// The store refused and has rolled back: nothing of it happened there, nor ever will.
    Refused(Problem),
    /// The request may or may not have arrived: in doubt, to be fenced.
    Lost(String),
}

/// Why an act of the second half (finish, apply, fence) did not succeed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Setback {
    /// Try the identical act again: the store is down, busy, or its answer was lost.
    Again(String),
    /// The store refuses it for good, or has lost what it promised: an operator is needed.
    Final(String),
}

/// What a fence found.
#[derive(Clone, PartialEq, Debug)]
pub enum Fenced {
    /// The fence went in: nobody can commit this run any more.
    Aborted(Verdict),
    /// The run had committed: here is its marker.
    Committed(Verdict, Box<Marker>),
}

/// One store as configured.
#[async_trait]
pub trait Store: Send + Sync {
    /// Its configured name.
    fn name(&self) -> &StoreName;

    /// `postgres`, `neo4j`, `qdrant`: for people, never for decisions.
    fn kind(&self) -> &'static str;

    /// Connects (again), probes the powers and remembers them. With `init` the marker tables and constraints are
    /// created where they are missing. Cheap enough to be called every second while a store is down.
    ///
    /// # Errors
    /// `store_unavailable`, or `rejected_by_store` where marker tables are missing and may not be made.
    async fn probe(&self, init: bool) -> Result<Probe, Problem>;

    /// The powers that the last successful probe found; those that this kind can have at best before the first.
    fn powers(&self) -> Powers;

    /// Begins this transaction's part. May wait for a pooled connection, at most to `context.deadline`. Nothing needs
    /// to be sent before the first `work`.
    ///
    /// # Errors
    /// `store_unavailable`, `timeout`.
    async fn open(&self, context: &TxnContext, role: Role) -> Result<Box<dyn Session>, Problem>;

    /// The marker side; `None` where the store cannot mark.
    fn marks(&self) -> Option<&dyn Marks>;

    /// The prepare side; `None` where the kind can never prepare.
    fn prepares(&self) -> Option<&dyn Prepares>;

    /// The redo side; `None` where writes cannot be repeated.
    fn redoes(&self) -> Option<&dyn Redoes>;

    /// Where a copy of the audit log can be kept; `None` where it cannot.
    fn audits(&self) -> Option<&dyn Audits> {
        None
    }

    /// Who waits for whom in there; `None` where nobody waits inside the store (Qdrant) or it cannot tell.
    fn blockers(&self) -> Option<&dyn Blockers> {
        None
    }
}

/// The side of a store that keeps a copy of the audit log.
#[async_trait]
pub trait Audits: Send + Sync {
    /// Appends one line of `log`.
    ///
    /// # Errors
    /// [`Setback::Again`], [`Setback::Final`]: the copy lacks this line.
    async fn keep(&self, log: LogId, line: &Line) -> Result<(), Setback>;
}

/// The side of a store that sees who waits for whom inside it, and can end a wait of ours.
#[async_trait]
pub trait Blockers: Send + Sync {
    /// The edges of every wait that one of the runs in `waiting` is part of, followed through sessions of others that
    /// wait themselves. Costs the store a query or two: asked only while somebody has waited for long.
    ///
    /// # Errors
    /// [`Setback::Again`].
    async fn waits(&self, waiting: &[Run]) -> Result<Vec<WaitEdge>, Setback>;

    /// Ends what this run waits for in here: its statement fails, and its session can be rolled back at once. Harmless
    /// when it does not wait (any more).
    ///
    /// # Errors
    /// [`Setback::Again`].
    async fn interrupt(&self, run: Run) -> Result<(), Setback>;
}

/// What probing found.
#[derive(Clone, Debug, Serialize)]
pub struct Probe {
    /// The server's version.
    pub version: String,
    /// What it can do.
    pub powers: Powers,
    /// What is lost or risky, loudly: `max_prepared_transactions is 0: …`.
    pub warnings: Vec<String>,
}

/// One transaction's work in one store. Dropped without an end: the connection is closed, never pooled again, so that
/// the server rolls back.
#[async_trait]
pub trait Session: Send {
    /// The locks of ours that these operations need before they may run (Qdrant writes; aliases resolved, ids in their
    /// one spelling). Stores with locks of their own need none.
    ///
    /// # Errors
    /// `invalid_request`, `rejected_by_store`, `store_unavailable`: the transaction aborts.
    async fn footprint(&mut self, _ops: &[BoundOp]) -> Result<Vec<Claim>, Problem> {
        Ok(Vec::new())
    }

    /// Runs operations in order, in one pipelined round trip where the client allows it, and answers one result each.
    /// The first call also begins the local transaction and writes the marker (role Decider) or participant row
    /// (Preparer) as its first statement. Checks every operation's `expect`.
    ///
    /// # Errors
    /// The first refusal, naming its operation and pointer. The session can then only be rolled back.
    async fn work(&mut self, ops: &[BoundOp]) -> Result<Vec<Value>, Problem>;

    /// The next calls may take until `deadline`: a transaction that lasts for many calls has a new one for each.
    fn renew(&mut self, deadline: Instant);

    /// Gives a session that was opened as [`Role::Undecided`] its part, now that it is known who decides: the marker or
    /// the participant row, or what became known since, goes in before the commit. As good as first: until then nobody
    /// could have committed anything.
    ///
    /// # Errors
    /// As `work`; `rejected_by_store` where it becomes a reader and has written.
    async fn settle(&mut self, part: &Settled) -> Result<(), Problem>;

    /// Makes the writes absolute and checks them, so that afterwards they cannot be refused (Redoer only).
    ///
    /// # Errors
    /// As `work`.
    async fn validate(&mut self) -> Result<Vec<RedoWrite>, Problem> {
        Ok(Vec::new())
    }

    /// Promises to commit (Preparer only). After success the session is spent; the promise lives under `gid`.
    ///
    /// # Errors
    /// The refusal, or `store_unavailable` when the answer was lost (the promise may or may not stand under `gid`).
    async fn prepare(&mut self, gid: &Gid) -> Result<(), Problem>;

    /// Commits, and thereby decides (Decider), or ends a read-only transaction (Reader). `note` goes into the marker.
    async fn commit(self: Box<Self>, note: &MarkerNote) -> Decision;

    /// Rolls back and waits for the acknowledgement; closes the connection where none comes. Idempotent in effect.
    async fn rollback(self: Box<Self>);
}

/// The side of a store that can tell later whether a transaction committed.
#[async_trait]
pub trait Marks: Send + Sync {
    /// Registers the log (id, incarnation, host) so that markers of older incarnations are refused from now on, and
    /// sets the heartbeat. Idempotent.
    ///
    /// # Errors
    /// [`Setback::Again`]; [`Setback::Final`] where a *later* incarnation of this log is registered: we are the ghost.
    async fn register(&self, owner: LogOwner) -> Result<(), Setback>;

    /// Renews the heartbeat and answers other live logs over this store (id, host, seconds since their heartbeat).
    ///
    /// # Errors
    /// [`Setback::Again`].
    async fn heartbeat(&self, owner: LogOwner) -> Result<Vec<OtherLog>, Setback>;

    /// Another log as it registered here, with the seconds since its last heartbeat; `None`: it never did.
    ///
    /// # Errors
    /// [`Setback::Again`].
    async fn log(&self, log: LogId) -> Result<Option<OtherLog>, Setback>;

    /// Ends all sessions of this log with an older incarnation than `owner`'s and waits until they are gone; answers how
    /// many it ended.
    ///
    /// # Errors
    /// [`Setback::Again`] while some live on.
    async fn end_old_sessions(&self, owner: LogOwner) -> Result<u64, Setback>;

    /// Inserts the marker of `run` with outcome `aborted` and without a key, or finds it committed. Blocks while an old
    /// session holds it, and ends exactly the blockers that the store names when they are ours.
    ///
    /// # Errors
    /// [`Setback::Again`].
    async fn fence(&self, run: Run, owner: LogOwner, durable: Lsn) -> Result<Fenced, Setback>;

    /// Reads markers; proves nothing about their absence. Committed ones first.
    ///
    /// # Errors
    /// [`Setback::Again`].
    async fn look_up(&self, what: &LookUp) -> Result<Option<Marker>, Setback>;

    /// Those of `keys` that committed markers hold, whoever's.
    ///
    /// # Errors
    /// [`Setback::Again`].
    async fn held_keys(&self, keys: &[String]) -> Result<Vec<String>, Setback>;

    /// The latest durable Lsn of this log that any marker (or gid) here names: a witness against a log that lost
    /// acknowledged records.
    ///
    /// # Errors
    /// [`Setback::Again`].
    async fn latest_durable(&self, log: LogId) -> Result<Lsn, Setback>;

    /// Deletes markers and participant rows of `sweep.log` sent before `sweep.below`, old enough on the store's clock;
    /// a bounded number a call.
    ///
    /// # Errors
    /// [`Setback::Again`].
    async fn forget(&self, sweep: &Sweep) -> Result<Forgotten, Setback>;
}

/// Which markers may go (protocol.md, "When a marker may go").
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// Whose.
    pub log: LogId,
    /// Every transaction that noted a durable Lsn below this has ended, durably.
    pub below: Lsn,
    /// Least age of a marker without a key.
    pub grace: Duration,
    /// Least age of one with a key: its TTL plus the longest life of a transaction.
    pub key_ttl: Duration,
}

/// What one call of [`Marks::forget`] deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Forgotten {
    /// Markers without a key, and participant rows.
    pub markers: u64,
    /// Markers with a key.
    pub keys: u64,
    /// Whether it stopped at its bound, so that there may be more.
    pub more: bool,
}

/// Another log that lives over the same store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct OtherLog {
    /// Its id as 32 hex digits.
    pub log: String,
    /// Where it says it runs.
    pub host: String,
    /// Seconds since its last heartbeat, on the store's clock.
    pub silent_seconds: u64,
}

/// The side of a store that can promise.
#[async_trait]
pub trait Prepares: Send + Sync {
    /// Carries the decision out for `gid`: `COMMIT PREPARED` or `ROLLBACK PREPARED`. Idempotent: a gid that is gone is
    /// success after a commit only if the participant row is there, and after an abort always.
    ///
    /// # Errors
    /// [`Setback::Again`]; [`Setback::Final`] when a promise to commit was lost.
    async fn finish(&self, decided: &Decided, gid: &Gid) -> Result<(), Setback>;

    /// All gids of this log that stand prepared, with their age in seconds on the store's clock.
    ///
    /// # Errors
    /// [`Setback::Again`].
    async fn prepared(&self, log: LogId) -> Result<Vec<(Gid, u64)>, Setback>;

    /// The same of every log, oldest first: for people. Nobody touches those of others but an operator.
    ///
    /// # Errors
    /// [`Setback::Again`].
    async fn prepared_by_all(&self) -> Result<Vec<(Gid, u64)>, Setback>;
}

/// The side of a store that takes absolute writes.
#[async_trait]
pub trait Redoes: Send + Sync {
    /// Applies the writes of one transaction in order, and answers when the store has them durably. Writes of
    /// different transactions may travel in one call. Repeating is harmless.
    ///
    /// Dropping the future may leave the writes on their way.
    ///
    /// # Errors
    /// [`Setback::Again`] when it is not certain that all were applied; [`Setback::Final`] when the store refuses.
    async fn apply(&self, decided: &Decided, writes: &[RedoWrite]) -> Result<(), Setback>;

    /// How long a write that an *earlier* process sent may still land. After a crash the points of redo writes stay
    /// locked at least this long from the start of this process, even when they have been repeated successfully. (Within
    /// one process `apply` itself answers no sooner than a repeat is safe.)
    fn late_write_grace(&self) -> Duration {
        Duration::ZERO
    }
}
