//! What the door needs of whoever runs the transactions: the coordinator in life, a fake in the door's tests, and
//! [`RepairMode`] where the log is corrupt.

use async_trait::async_trait;
use serde_json::Value;

use super::events::Events;
use super::interactive::Conversing;
use super::locks::Locks;
use super::operator::Operator;
use crate::model::commit::KeyNote;
use crate::model::job::{ChunkWish, JobVerdict, JobWish};
use crate::model::problem::{Code, Problem};
use crate::model::request::TxnRequest;
use crate::model::view::{Answer, View};
use crate::txn::{Accepted, Actor, Coordinator, Find, ListFilter, Page};

/// Runs transactions and knows of them. See [`Coordinator`], whose methods these are.
#[async_trait]
pub trait Api: Locks + Conversing + Operator + Events {
    /// Runs a transaction to its end, or to where its end is not known yet. Dropping the future harms nothing.
    async fn submit(&self, request: TxnRequest, key: Option<KeyNote>) -> Answer;

    /// The same without waiting.
    ///
    /// # Errors
    /// What can be refused at once.
    async fn submit_async(&self, request: TxnRequest, key: Option<KeyNote>) -> Result<Accepted, Problem>;

    /// Opens a batch job; `true`: it is new.
    ///
    /// # Errors
    /// `name_in_use`, `overloaded`, `journal_full`, `journal_unavailable`.
    async fn open_job(&self, wish: JobWish) -> Result<(Box<View>, bool), Problem>;

    /// Runs a chunk of a batch job.
    async fn submit_chunk(&self, request: TxnRequest, wish: ChunkWish) -> Answer;

    /// Whether that is a batch job.
    fn is_job(&self, what: &Find) -> bool;

    /// Ends a batch job.
    ///
    /// # Errors
    /// `not_found`, `forbidden`, `wrong_state`, `journal_unavailable`.
    async fn end_job(&self, what: &Find, verdict: JobVerdict, actor: &Actor) -> Result<View, Problem>;

    /// Finds a transaction.
    ///
    /// # Errors
    /// `not_found`, `store_unavailable`.
    async fn find(&self, what: &Find) -> Result<View, Problem>;

    /// Lists what is in memory, newest first.
    ///
    /// # Errors
    /// `journal_unavailable` in repair mode.
    async fn list(&self, filter: &ListFilter) -> Result<Page, Problem>;

    /// The kind of a configured store.
    fn store_kind(&self, name: &str) -> Option<&'static str>;

    /// The members of `GET /v1/status`, without version and uptime.
    fn status(&self) -> Value;

    /// Whether `/readyz` may say yes.
    fn is_ready(&self) -> bool;
}

#[async_trait]
impl Api for Coordinator {
    async fn submit(&self, request: TxnRequest, key: Option<KeyNote>) -> Answer {
        Self::submit(self, request, key).await
    }

    async fn submit_async(&self, request: TxnRequest, key: Option<KeyNote>) -> Result<Accepted, Problem> {
        Self::submit_async(self, request, key).await
    }

    async fn open_job(&self, wish: JobWish) -> Result<(Box<View>, bool), Problem> {
        Self::open_job(self, wish).await
    }

    async fn submit_chunk(&self, request: TxnRequest, wish: ChunkWish) -> Answer {
        Self::submit_chunk(self, request, wish).await
    }

    fn is_job(&self, what: &Find) -> bool {
        Self::is_job(self, what)
    }

    async fn end_job(&self, what: &Find, verdict: JobVerdict, actor: &Actor) -> Result<View, Problem> {
        Self::end_job(self, what, verdict, actor).await
    }

    async fn find(&self, what: &Find) -> Result<View, Problem> {
        Self::find(self, what).await
    }

    async fn list(&self, filter: &ListFilter) -> Result<Page, Problem> {
        Ok(Self::list(self, filter))
    }

    fn store_kind(&self, name: &str) -> Option<&'static str> {
        Self::store_kind(self, name)
    }

    fn status(&self) -> Value {
        Self::status(self)
    }

    fn is_ready(&self) -> bool {
        Self::is_ready(self)
    }
}

/// The log is corrupt: nothing is run, and the status says why.
pub struct RepairMode {
    /// What is wrong, for people.
    pub reason: String,
    /// The configured stores with their kinds, so that a request is still checked first.
    pub stores: Vec<(String, &'static str)>,
}

impl RepairMode {
    pub(super) fn problem(&self) -> Problem {
        Problem::new(Code::JournalUnavailable, format!("repair mode: {}", self.reason))
    }
}

#[async_trait]
impl Api for RepairMode {
    async fn submit(&self, _: TxnRequest, _: Option<KeyNote>) -> Answer {
        Answer::Problem(Box::new(self.problem()))
    }

    async fn submit_async(&self, _: TxnRequest, _: Option<KeyNote>) -> Result<Accepted, Problem> {
        Err(self.problem())
    }

    async fn open_job(&self, _: JobWish) -> Result<(Box<View>, bool), Problem> {
        Err(self.problem())
    }

    async fn submit_chunk(&self, _: TxnRequest, _: ChunkWish) -> Answer {
        Answer::Problem(Box::new(self.problem()))
    }

    fn is_job(&self, _: &Find) -> bool {
        false
    }

    async fn end_job(&self, _: &Find, _: JobVerdict, _: &Actor) -> Result<View, Problem> {
        Err(self.problem())
    }

    async fn find(&self, _: &Find) -> Result<View, Problem> {
        Err(self.problem())
    }

    async fn list(&self, _: &ListFilter) -> Result<Page, Problem> {
        Err(self.problem())
    }

    fn store_kind(&self, name: &str) -> Option<&'static str> {
        self.stores.iter().find(|(store, _)| store == name).map(|(_, kind)| *kind)
    }

    fn status(&self) -> Value {
        serde_json::json!({"state": "repair", "reason": self.reason})
    }

    fn is_ready(&self) -> bool {
        false
    }
}
