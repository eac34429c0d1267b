//! Qdrant: no transactions of its own, but writes that can be repeated safely once they are made absolute. It is a
//! redoer and nothing else: its writes are validated before the decision and applied after it.
//!
//! ```text
//!   session    one transaction's work: reads at once, writes buffered; conditions: what must hold before the decision
//!     record   buffer                                         records by id; what is kept until the decision
//!     writes reads queries filters values paths ids json      Qdrant's REST bodies ⇄ its gRPC messages (pure)
//!     overlay  check  absolute                                own writes seen by id; refusals foreseen; the log's form (pure)
//!     catalog  calls                                          what collections look like; reads with a deadline
//!   redo       after the decision: one worker a collection, many transactions in one call
//!     batch  errors                                           who is confirmed; what a failure means (pure)
//!     wire                                                    connections, and how to cut them
//! ```

use std::sync::Arc;
use std::time::Duration;

use ::qdrant_client::qdrant::{HealthCheckRequest, ListCollectionsRequest};
use async_trait::async_trait;
use tokio::sync::Semaphore;
use tonic::{Request, Status};

use self::catalog::Catalog;
use self::redo::Applier;
use self::wire::Dial;
use crate::journal::slip::Decided;
use crate::model::commit::RedoWrite;
use crate::model::ids::StoreName;
use crate::model::powers::{Powers, Role};
use crate::model::problem::Problem;
use crate::model::state::Outcome;
use crate::store::{Marks, Prepares, Probe, Redoes, Session, Setback, Store, TxnContext};

mod absolute;
mod batch;
mod buffer;
mod by_ids;
mod calls;
mod catalog;
mod check;
mod conditions;
mod errors;
mod filters;
mod ids;
mod json;
mod overlay;
mod paths;
mod queries;
mod reads;
mod record;
mod redo;
mod session;
#[cfg(test)]
mod tests;
mod values;
mod wire;
mod writes;

pub use self::ids::point_key;

/// How to reach a Qdrant server.
#[derive(Clone)]
pub struct QdrantConfig {
    /// `http://host:6334`: its gRPC side.
    pub url: String,
    /// Its API key, where one is needed.
    pub api_key: Option<String>,
    /// Whether to insist on TLS (with the system's roots).
    pub tls: bool,
    /// Read calls in flight at most.
    pub pool_max: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// The deadline of each write after the decision, and how long a late copy is waited for.
    pub redo_deadline: Duration,
}

/// One configured Qdrant server.
pub struct Qdrant {
    name: StoreName,
    redo_deadline: Duration,
    server: Result<Arc<Server>, String>,
}

/// What all sessions share.
struct Server {
    name: StoreName,
    dial: Arc<Dial>,
    catalog: Catalog,
    permits: Semaphore,
    applier: Applier,
}

const POWERS: Powers = Powers { prepare: false, mark: false, redo: true };
/// How long a probe may take.
const PROBE: Duration = Duration::from_secs(5);

impl Qdrant {
    /// Does no I/O. A configuration that can reach no server is reported by each use.
    #[must_use]
    pub fn new(name: StoreName, config: &QdrantConfig) -> Arc<Self> {
        let server = Dial::new(config).map(|dial| {
            let dial = Arc::new(dial);
            Arc::new(Server {
                name: name.clone(),
                applier: Applier::new(dial.clone(), config.redo_deadline),
                dial,
                catalog: Catalog::default(),
                permits: Semaphore::new(config.pool_max.clamp(1, Semaphore::MAX_PERMITS)),
            })
        });
        Arc::new(Self { name, redo_deadline: config.redo_deadline, server })
    }

    /// Calls made after decisions, and transactions carried by them: how well they coalesce.
    #[must_use]
    pub fn redo_counts(&self) -> (u64, u64) {
        self.server.as_ref().map_or((0, 0), |server| server.applier.counts())
    }

    fn server(&self) -> Result<&Arc<Server>, Problem> {
        self.server.as_ref().map_err(|error| Problem::unavailable(&self.name, error))
    }
}

#[async_trait]
impl Store for Qdrant {
    fn name(&self) -> &StoreName {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "qdrant"
    }

    async fn probe(&self, _init: bool) -> Result<Probe, Problem> {
        let dial = &self.server()?.dial;
        let ask = async {
            let version = dial.server().health_check(Request::new(HealthCheckRequest {})).await?.into_inner().version;
            // The first needs no key: this one tells whether ours is good.
            dial.collections().list(Request::new(ListCollectionsRequest {})).await?;
            Ok::<_, Status>(version)
        };
        let answer = tokio::time::timeout(PROBE, ask).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        let version = answer.map_err(|status| {
            let code = format!("{:?}", status.code());
            Problem::unavailable(&self.name, errors::explain(&status)).with_store_code(code)
        })?;
        Ok(Probe { version, powers: POWERS, warnings: Vec::new() })
    }

    fn powers(&self) -> Powers {
        POWERS
    }

    async fn open(&self, context: &TxnContext, role: Role) -> Result<Box<dyn Session>, Problem> {
        let server = self.server()?.clone();
        Ok(Box::new(session::QdrantSession::new(server, context.clone(), role)))
    }

    fn marks(&self) -> Option<&dyn Marks> {
        None
    }

    fn prepares(&self) -> Option<&dyn Prepares> {
        None
    }

    fn redoes(&self) -> Option<&dyn Redoes> {
        Some(self)
    }
}

#[async_trait]
impl Redoes for Qdrant {
    async fn apply(&self, decided: &Decided, writes: &[RedoWrite]) -> Result<(), Setback> {
        if decided.outcome() != Outcome::Committed {
            return Err(Setback::Final(format!(
                "{} was decided to abort: nothing of it may be written",
                decided.run()
            )));
        }
        match &self.server {
            Ok(server) => server.applier.apply(writes).await,
            Err(error) => Err(Setback::Again(error.clone())),
        }
    }

    fn late_write_grace(&self) -> Duration {
        self.redo_deadline
    }
}
