//! A transaction as it was asked for: checked once at the door, then trusted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ids::StoreName;
use super::problem::Problem;
use super::record::Record;
use super::reference::Template;
use super::trace::TraceId;

/// A one-shot transaction.
#[derive(Clone, Debug)]
pub struct TxnRequest {
    /// Unique while open; `None` for most.
    pub name: Option<String>,
    /// What the client asked for.
    pub pattern: PatternWish,
    /// PostgreSQL's level.
    pub isolation: Isolation,
    /// Up to the decision.
    pub timeout: Duration,
    /// Weighs against becoming the victim of a deadlock: each step as much as ten operations done.
    pub priority: i32,
    /// How to run again after an optimistic conflict.
    pub retry: RetryPolicy,
    /// Free keys to hold to the end.
    pub locks: Vec<DeclaredLock>,
    /// When to answer.
    pub wait: WaitFor,
    /// What to do, in the given order within a store. At least one.
    pub operations: Vec<Operation>,
    /// The trace of the request that asked for it: the transaction's correlation id.
    pub trace: TraceId,
}

/// A transaction that is opened now and told its operations call by call.
#[derive(Clone, Debug)]
pub struct Opening {
    /// As for one shot; `operations` may be empty, and `timeout` bounds each call.
    pub request: TxnRequest,
    /// How long it stays open after a call.
    pub lease: Duration,
    /// Whose it is: nobody else may go on with it but an operator.
    pub principal: Arc<str>,
}

/// What a client asks for with `prepare`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrepareWish {
    /// How long to wait for the verdict.
    pub ttl: Duration,
    /// What then.
    pub on_expiry: OnExpiry,
}

/// What becomes of a prepared transaction whose verdict does not come in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnExpiry {
    /// It is rolled back.
    #[default]
    Rollback,
    /// It is held for an operator.
    Hold,
}

impl OnExpiry {
    /// The word in a request.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::Hold => "hold",
        }
    }
}

/// `pattern`, folded together with `consistency` and `availability`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PatternWish {
    /// Atomic where the powers allow it, else refused (sagas are not in this version).
    #[default]
    Auto,
    /// Atomic or refused.
    Atomic,
}

/// PostgreSQL's isolation level.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// `READ COMMITTED`.
    #[default]
    ReadCommitted,
    /// `REPEATABLE READ`.
    RepeatableRead,
    /// `SERIALIZABLE`.
    Serializable,
}

/// `retry`: how often and how soon a transaction that lost a race runs again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// Runs in all; 1 = never again.
    pub max_attempts: u32,
    /// The first pause, doubled each time, with jitter.
    pub base_delay: Duration,
    /// The longest pause.
    pub max_delay: Duration,
}

impl RetryPolicy {
    /// What a request without `retry` gets.
    pub const NEVER: Self =
        Self { max_attempts: 1, base_delay: Duration::from_millis(20), max_delay: Duration::from_secs(2) };
}

/// A lock on a free key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeclaredLock {
    /// In a namespace of its own, apart from every store's.
    pub key: String,
    /// Exclusive (X) or shared (S).
    pub exclusive: bool,
}

/// `wait`: when the client is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WaitFor {
    /// Every store has it.
    #[default]
    Applied,
    /// Durable and irrevocable; the rest follows.
    Decided,
}

/// One operation. A prepared transaction keeps some in the log: members are added with a default only.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// Unique in the transaction; its index by default.
    pub id: String,
    /// Where.
    pub store: StoreName,
    /// Whether it only reads: declared, or by its first word (protocol.md, section 3).
    pub reads: bool,
    /// What.
    pub action: Action,
    /// What must hold afterwards.
    pub expect: Expect,
    /// JSON pointer to the operation in the request: `/operations/3`.
    pub pointer: String,
}

/// Gives operations without an id their place in the transaction as one, and checks that ids are unique and that every
/// reference reaches back to an earlier operation. `before`: how many operations earlier calls brought; `ran`: whether
/// one of that id was among them.
///
/// # Errors
/// `invalid_request` at the faulty member.
pub fn link(operations: &mut [Operation], before: usize, ran: impl Fn(&str) -> bool) -> Result<(), Problem> {
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(operations.len());
    for (index, operation) in operations.iter_mut().enumerate() {
        if operation.id.is_empty() {
            operation.id = (before + index).to_string();
        }
    }
    for (index, operation) in operations.iter().enumerate() {
        let id = operation.id.as_str();
        let earlier = places.insert(id, index).map(|place| format!("operation {place}"));
        if let Some(earlier) = earlier.or_else(|| ran(id).then(|| "an operation of an earlier call".to_owned())) {
            let detail = format!("`{id}` is the id of {earlier} too (an operation without one has its index)");
            return Err(Problem::invalid(format!("{}/id", operation.pointer), detail).in_operation(id));
        }
    }
    for (index, operation) in operations.iter().enumerate() {
        for reference in operation.action.template().references() {
            let target: String = reference.operation.chars().take(64).collect();
            let fault = match places.get(reference.operation.as_str()) {
                None if ran(&reference.operation) => continue,
                None => format!("there is no operation `{target}`"),
                Some(place) if *place == index => format!("`{target}` is this very operation, which has no result yet"),
                Some(place) if *place > index => format!("`{target}` comes later, so it has no result yet"),
                Some(_) => continue,
            };
            return Err(Problem::invalid(&reference.pointer, fault).in_operation(&operation.id));
        }
    }
    Ok(())
}

/// What an operation does, with the values that may still be references.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// PostgreSQL.
    Sql {
        /// One statement, `$1` style.
        text: String,
        /// A template of an array.
        params: Template,
    },
    /// Neo4j.
    Cypher {
        /// One statement, `$name` style.
        text: String,
        /// A template of an object.
        params: Template,
    },
    /// Qdrant.
    Points {
        /// Collection or alias.
        collection: String,
        /// Which verb.
        verb: Verb,
        /// Qdrant's own REST body: a template of an object.
        body: Template,
    },
    /// Any of them: one keyed record.
    Record(Record),
}

impl Action {
    /// The values, in which references may stand.
    #[must_use]
    pub fn template(&self) -> &Template {
        match self {
            Self::Sql { params, .. } | Self::Cypher { params, .. } => params,
            Self::Points { body, .. } | Self::Record(Record { body, .. }) => body,
        }
    }

    /// The same with `values` in the place of its template: no reference is left.
    #[must_use]
    pub fn filled(mut self, values: Value) -> Self {
        let template = match &mut self {
            Self::Sql { params, .. } | Self::Cypher { params, .. } => params,
            Self::Points { body, .. } | Self::Record(Record { body, .. }) => body,
        };
        *template = Template::plain(values);
        self
    }
}

/// Qdrant's verbs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// `PUT /points`
    Upsert,
    /// `POST /points/delete`
    Delete,
    /// `POST /points/payload`
    SetPayload,
    /// `PUT /points/payload`
    OverwritePayload,
    /// `POST /points/payload/delete`
    DeletePayload,
    /// `POST /points/payload/clear`
    ClearPayload,
    /// `PUT /points/vectors`
    UpdateVectors,
    /// `POST /points/vectors/delete`
    DeleteVectors,
    /// `POST /points`
    Retrieve,
    /// `POST /points/scroll`
    Scroll,
    /// `POST /points/query`
    Query,
    /// `POST /points/count`
    Count,
}

impl Verb {
    /// Every verb with its member name in a request.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::Upsert, "upsert"),
        (Self::Delete, "delete"),
        (Self::SetPayload, "set_payload"),
        (Self::OverwritePayload, "overwrite_payload"),
        (Self::DeletePayload, "delete_payload"),
        (Self::ClearPayload, "clear_payload"),
        (Self::UpdateVectors, "update_vectors"),
        (Self::DeleteVectors, "delete_vectors"),
        (Self::Retrieve, "retrieve"),
        (Self::Scroll, "scroll"),
        (Self::Query, "query"),
        (Self::Count, "count"),
    ];

    /// The member name in a request.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(verb, _)| *verb == self).map_or("", |(_, name)| name)
    }

    /// Whether it only reads.
    #[must_use]
    pub fn reads(self) -> bool {
        matches!(self, Self::Retrieve | Self::Scroll | Self::Query | Self::Count)
    }
}

/// `expect` and Qdrant's `if`: an optimistic check; what fails it is a `conflict`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Expect {
    /// Returned rows where the statement returns any, else affected ones.
    pub rows: Option<u64>,
    /// JSON pointers into the operation's result, and the value each must have.
    pub equals: Vec<(String, Value)>,
    /// Qdrant only: what must be so before the write.
    pub conditions: Vec<PointCondition>,
}

/// One member of Qdrant's `if`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PointCondition {
    /// The point (number or UUID text).
    pub id: Value,
    /// Whether it must exist.
    pub exists: Option<bool>,
    /// Payload fields that must have these values.
    pub payload: Option<Map<String, Value>>,
}

impl Action {
    /// The same with real values in place of references.
    #[must_use]
    pub fn with(mut self, values: Value) -> Self {
        match &mut self {
            Self::Sql { params, .. } | Self::Cypher { params, .. } => *params = Template::plain(values),
            Self::Points { body, .. } | Self::Record(Record { body, .. }) => *body = Template::plain(values),
        }
        self
    }
}

/// An operation with every reference replaced: what a session is given.
#[derive(Clone, Debug)]
pub struct BoundOp {
    /// The operation as asked.
    pub op: std::sync::Arc<Operation>,
    /// Its parameters or body with real values (array for SQL, else object: as [`Action`] says).
    pub values: Value,
}

impl BoundOp {
    /// JSON pointer to a place in the parameters or body: `/operations/3/params/0`.
    #[must_use]
    pub fn pointer(&self, rest: &str) -> String {
        let member = match &self.op.action {
            Action::Sql { .. } | Action::Cypher { .. } => "params",
            Action::Points { verb, .. } => verb.as_str(),
            Action::Record(_) => "record",
        };
        format!("{}/{member}{rest}", self.op.pointer)
    }
}
