//! The coordinator (being written): the public face that the door and the command line are written against.

use std::sync::Arc;

use serde::Serialize;

use crate::model::commit::KeyNote;
use crate::model::ids::TxnId;
use crate::model::problem::Problem;
use crate::model::request::TxnRequest;
use crate::model::state::TxnState;
use crate::model::view::{Answer, View};

/// Runs transactions. Cheap to clone.
#[derive(Clone)]
pub struct Coordinator {
    _inner: Arc<()>,
}

/// Which transaction.
#[derive(Clone, Debug)]
pub enum Find {
    /// By id.
    Id(TxnId),
    /// The open one of that name, else the latest ended one.
    Name(String),
    /// By idempotency key (`principal/key`).
    Key(String),
}

/// `GET /v1/transactions?…`
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Only these states.
    pub state: Option<TxnState>,
    /// Only this name.
    pub name: Option<String>,
    /// Only those in which this store takes part.
    pub store: Option<String>,
    /// Only those begun longer ago than this.
    pub older_than_ms: Option<u64>,
    /// At most so many (1 to 1000).
    pub limit: usize,
    /// Where the last page ended.
    pub cursor: Option<TxnId>,
}

/// One page, newest first.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Page {
    /// The transactions.
    pub transactions: Vec<View>,
    /// Give this as `cursor` for the next page; null at the end.
    pub next_cursor: Option<String>,
}

impl Coordinator {
    /// Runs a transaction to its end, or to where its end is not known yet. Each runs in a task of its own: dropping
    /// this future never harms the protocol.
    pub async fn submit(&self, request: TxnRequest, key: Option<KeyNote>) -> Answer {
        unreachable!("{request:?} {key:?}")
    }

    /// The same without waiting (`Prefer: respond-async`).
    ///
    /// # Errors
    /// What can be refused at once: `name_in_use`, `overloaded`, `impossible_guarantee`, `store_unavailable`, …
    pub fn submit_async(&self, request: TxnRequest, key: Option<KeyNote>) -> Result<TxnId, Problem> {
        unreachable!("{request:?} {key:?}")
    }

    /// Finds a transaction in memory, else in the stores' markers.
    ///
    /// # Errors
    /// `not_found` with state unknown; `store_unavailable` where a store that might know could not be asked.
    pub async fn find(&self, what: &Find) -> Result<View, Problem> {
        unreachable!("{what:?}")
    }

    /// Lists what is in memory, newest first.
    #[must_use]
    pub fn list(&self, filter: &ListFilter) -> Page {
        unreachable!("{filter:?}")
    }

    /// The kind of each configured store (`postgres`, `neo4j`, `qdrant`), for the check of a request.
    #[must_use]
    pub fn store_kind(&self, name: &str) -> Option<&'static str> {
        unreachable!("{name}")
    }

    /// `GET /v1/status`, all of it but the version and the uptime.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        unreachable!()
    }

    /// Whether `/readyz` may say yes.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        unreachable!()
    }

    /// Takes no new transactions, waits until the open ones have ended or `limit` has passed.
    pub async fn drain(&self, limit: std::time::Duration) {
        unreachable!("{limit:?}")
    }
}
