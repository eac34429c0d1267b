//! A transaction as clients read it: one shape for the answer, the look-up and the list.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::job::JobView;
use super::operator::Skipped;
use super::problem::Problem;
use super::state::TxnState;

/// A transaction: what `POST /v1/transactions` and `GET /v1/transactions/{id}` answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct View {
    /// UUIDv7.
    pub id: String,
    /// As given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The trace id of the request that asked for it (W3C Trace Context): 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// `active`, `prepared`, `in_doubt`, `committing`, `committed`, `aborting`, `aborted` or `needs_intervention`; of a
    /// batch job also `compensating` and `compensated`.
    #[schema(value_type = String)]
    pub state: TxnState,
    /// `atomic`, or `read_only`; of a prepared transaction `prepared` (whatever the verdict, every store has promised to
    /// follow it) or `prepared_unless_refused` (the deciding store cannot promise: its part is run again at the commit,
    /// and what it refuses then aborts everything); of a batch job `chunks`: each chunk is atomic, the job as a whole is
    /// not. Absent before there is a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guarantee: Option<&'static str>,
    /// What was chosen and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanView>,
    /// Each operation's result by its id, while kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub results: Option<BTreeMap<String, Value>>,
    /// Runs so far.
    pub attempts: u32,
    /// Why it was run again, one word an extra run: `conflict`, `deadlock`, `serialization`, `lock_timeout`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub retried_for: Vec<&'static str>,
    /// Stores that do not have the decision yet.
    pub pending: Vec<String>,
    /// Milliseconds from submission to the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<f64>,
    /// RFC 3339 UTC.
    pub started_at: String,
    /// RFC 3339 UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Of an open interactive transaction: it is aborted at this time (RFC 3339 UTC) unless a call renews it before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_expires_at: Option<String>,
    /// Of a prepared one: when its time runs out (RFC 3339 UTC) and what happens then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepared: Option<PreparedView>,
    /// Each store's part, where it is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub participants: Vec<ParticipantView>,
    /// What happened when.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Step>,
    /// Why it aborted, or what stands in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub cause: Option<Value>,
    /// Parts that an operator gave up: their stores will never have them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// Of a batch job: how far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobView>,
    /// Of a chunk, or of its compensation: the job's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Which chunk of its job it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u64>,
    /// Which chunk of its job it undoes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undoes: Option<u64>,
}

impl View {
    /// One of which nothing is known but who it is and where it stands.
    #[must_use]
    pub fn of(id: String, state: TxnState) -> Self {
        Self {
            id,
            name: None,
            trace_id: None,
            state,
            guarantee: None,
            plan: None,
            results: None,
            attempts: 1,
            retried_for: Vec::new(),
            pending: Vec::new(),
            took_ms: None,
            started_at: String::new(),
            ended_at: None,
            lease_expires_at: None,
            prepared: None,
            participants: Vec::new(),
            timeline: Vec::new(),
            cause: None,
            skipped: Vec::new(),
            job: None,
            parent: None,
            chunk: None,
            undoes: None,
        }
    }
}

/// How long a prepared transaction waits for its verdict.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct PreparedView {
    /// RFC 3339 UTC.
    pub expires_at: String,
    /// `rollback`, or `hold`: it waits on, for an operator.
    pub on_expiry: &'static str,
    /// Whether that time has come.
    pub expired: bool,
}

/// The plan of an answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct PlanView {
    /// `atomic`.
    pub pattern: &'static str,
    /// A store's name, `wal`, or null for reads only.
    pub decider: Option<String>,
    /// Stores that promise first.
    pub prepared: Vec<String>,
    /// Stores that get absolute writes after the decision.
    pub redo: Vec<String>,
    /// Why.
    pub reason: String,
}

/// One store's part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct ParticipantView {
    /// The store.
    pub store: String,
    /// `reader`, `decider`, `preparer` or `redoer`.
    pub role: &'static str,
    /// Whether it still has to be told.
    pub pending: bool,
    /// Its last setback, while it is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// One line of a timeline.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Step {
    /// RFC 3339 UTC, microseconds.
    pub at: String,
    /// `begun`, `locked`, `worked`, `validated`, `intended`, `prepared`, `decided`, `finished`, `retried`, `in_doubt`, …
    pub step: &'static str,
    /// More, where there is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How a submission ended for the client who waited.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It happened (`committed`, `committing`, `needs_intervention`), or it is not known yet (`in_doubt`).
    View(Box<View>),
    /// It happened long ago: the same key asked again. `Idempotency-Replayed: true`.
    Replayed(Box<View>),
    /// It did not happen.
    Problem(Box<Problem>),
}
