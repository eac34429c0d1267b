//! The contract as OpenAPI 3.1: paths from the handlers' own annotations, problems from the list of codes. The structs
//! here only describe what `wire` reads by hand.
#![expect(dead_code, reason = "these types are shapes for the document; nobody makes one")]

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::Operation as OpenApiOperation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Ref, ResponseBuilder};
use utoipa::{OpenApi, ToSchema};

use super::{events, handler, interactive, locks, operator, reply};
use crate::metrics::Route;
use crate::model::problem::Code;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Outrigger",
        description = "Writes across PostgreSQL, Qdrant and Neo4j happen together or not at all. An answer is one of three: it happened, it did not, or it is not known yet and here is where to ask.",
    ),
    paths(
        handler::submit, handler::list, handler::show, handler::key,
        interactive::operate, interactive::prepare, interactive::commit, interactive::roll_back,
        locks::lease, locks::renew, locks::release, locks::table, locks::wait_for, locks::deadlocks,
        operator::resolve, operator::explain, operator::orphans, operator::resolve_orphan,
        events::follow, handler::status, handler::open_api,
    ),
    components(schemas(ProblemDocument, EventData)),
    security((), ("bearer" = [])),
)]
struct Contract;

/// A transaction, a chunk of a batch job, or the opening of one. Members that are not listed are refused.
#[derive(ToSchema)]
pub(super) struct TransactionRequest {
    /// Unique while its transaction is not ended.
    #[schema(pattern = "^[A-Za-z0-9._:@-]{1,128}$")]
    name: Option<String>,
    /// `auto` (default), `atomic`; `saga` is answered with 501 by this version.
    #[schema(example = "auto")]
    pattern: Option<String>,
    /// `immediate`, `strong` or `eventual`. This version gives atomicity, or refuses.
    consistency: Option<String>,
    /// `low`, `medium` or `high`.
    availability: Option<String>,
    /// PostgreSQL's level: `read_committed` (default), `repeatable_read`, `serializable`.
    isolation: Option<String>,
    /// Up to the decision; 30000 by default.
    #[schema(minimum = 1, maximum = 600_000)]
    timeout_ms: Option<u32>,
    /// Weighs against becoming the victim of a deadlock: a step counts as much as ten operations done.
    #[schema(minimum = -1000, maximum = 1000)]
    priority: Option<i32>,
    /// Run again after a lost race: an optimistic conflict, a deadlock, a serialization failure, a lock timeout.
    retry: Option<Retry>,
    /// Keys of your own to hold to the end.
    #[schema(max_items = 256)]
    locks: Option<Vec<Lock>>,
    /// `applied` (default): every store has it; `decided`: durable and irrevocable.
    wait: Option<String>,
    /// `true`: it is opened, 201, and goes on at `/operations`, `/prepare`, `/commit` and `/rollback`; `operations` may
    /// be missing, `retry` must be, and `timeout_ms` bounds each call.
    interactive: Option<bool>,
    /// Interactive only: how long it stays open after a call; 30000 by default.
    #[schema(minimum = 100, maximum = 3_600_000)]
    lease_ms: Option<u32>,
    /// In the given order within a store; in parallel across stores where nothing is referenced. Absent where a job is
    /// opened; may be absent where an interactive transaction is; else needed.
    #[schema(min_items = 1, max_items = 1000)]
    operations: Option<Vec<Operation>>,
    /// Opens a batch job of that `name`; beside these two nothing may stand.
    job: Option<Job>,
    /// The name of the batch job of which this is a chunk.
    #[schema(pattern = "^[A-Za-z0-9._:@-]{1,128}$")]
    parent: Option<String>,
    /// Which of the job's chunks: it happens once.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    chunk: Option<u64>,
    /// What undoes the chunk when its job is rolled back.
    compensate: Option<Compensation>,
}

/// A batch job.
#[derive(ToSchema)]
struct Job {
    /// How many chunks it will have: 0 to one less. Without it the job ends when it is committed.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_992_u64)]
    chunks: Option<u64>,
}

/// The undoing of a chunk. `$ref` reaches the results of the chunk's own operations.
#[derive(ToSchema)]
struct Compensation {
    /// As a transaction's.
    #[schema(min_items = 1, max_items = 1000)]
    operations: Vec<Operation>,
}

/// More operations of an open transaction.
#[derive(ToSchema)]
pub(super) struct MoreOperations {
    /// Ids are unique in the whole transaction; one without an id has its place in the whole transaction as one.
    #[schema(min_items = 1, max_items = 1000)]
    operations: Vec<Operation>,
}

/// How long a prepared transaction waits for its verdict.
#[derive(ToSchema)]
pub(super) struct PrepareRequest {
    /// Milliseconds; a day by default.
    #[schema(minimum = 1000, maximum = 604_800_000)]
    prepared_ttl_ms: Option<u32>,
    /// `rollback` (default), or `hold`: it waits on, for an operator.
    on_expiry: Option<String>,
}

/// When a verdict is answered.
#[derive(ToSchema)]
pub(super) struct EndRequest {
    /// `applied` or `decided`; by default what the opening said.
    wait: Option<String>,
    /// Rolling a batch job back only: give it up, and leave its chunks as they are.
    mark_failed: Option<bool>,
}

/// How often and how soon a transaction that lost a race runs again.
#[derive(ToSchema)]
struct Retry {
    /// Runs in all; 5 by default.
    #[schema(minimum = 1, maximum = 100)]
    max_attempts: Option<u32>,
    /// The first pause, doubled each time, with jitter; 20 by default.
    #[schema(minimum = 0, maximum = 600_000)]
    base_delay_ms: Option<u32>,
    /// The longest pause; 2000 by default.
    #[schema(minimum = 0, maximum = 600_000)]
    max_delay_ms: Option<u32>,
}

/// A lock on a free key.
#[derive(ToSchema)]
struct Lock {
    /// In a namespace of its own.
    #[schema(min_length = 1, max_length = 512)]
    key: String,
    /// `exclusive` (default) or `shared`.
    mode: Option<String>,
}

/// Exactly one of `sql`, `cypher`, `record` and Qdrant's verbs. `{"$ref": "OP#/JSON/POINTER"}` stands anywhere a value of
/// `params` or of a Qdrant body may: the result of an earlier operation. `{"$literal": …}` escapes.
#[derive(ToSchema)]
struct Operation {
    /// Unique in the transaction; its index by default.
    #[schema(pattern = "^[A-Za-z0-9._:@-]{1,128}$")]
    id: Option<String>,
    /// A configured store.
    store: String,
    /// It only reads.
    read: Option<bool>,
    /// It writes, although its first word is SELECT, VALUES or SHOW.
    write: Option<bool>,
    /// One statement for PostgreSQL, `$1` style.
    sql: Option<String>,
    /// One statement for Neo4j, `$name` style.
    cypher: Option<String>,
    /// An array for `sql`, an object for `cypher`.
    params: Option<Value>,
    /// Qdrant's collection or alias.
    collection: Option<String>,
    /// Qdrant's own REST body of `PUT /points`.
    upsert: Option<Value>,
    /// Qdrant's own REST body of `POST /points/delete`.
    delete: Option<Value>,
    /// Qdrant's own REST body of `POST /points/payload`.
    set_payload: Option<Value>,
    /// Qdrant's own REST body of `PUT /points/payload`.
    overwrite_payload: Option<Value>,
    /// Qdrant's own REST body of `POST /points/payload/delete`.
    delete_payload: Option<Value>,
    /// Qdrant's own REST body of `POST /points/payload/clear`.
    clear_payload: Option<Value>,
    /// Qdrant's own REST body of `PUT /points/vectors`.
    update_vectors: Option<Value>,
    /// Qdrant's own REST body of `POST /points/vectors/delete`.
    delete_vectors: Option<Value>,
    /// Qdrant's own REST body of `POST /points`.
    retrieve: Option<Value>,
    /// Qdrant's own REST body of `POST /points/scroll`.
    scroll: Option<Value>,
    /// Qdrant's own REST body of `POST /points/query`.
    query: Option<Value>,
    /// Qdrant's own REST body of `POST /points/count`.
    count: Option<Value>,
    /// One keyed record of any of the stores.
    record: Option<Record>,
    /// What must hold, else `conflict`.
    expect: Option<Expect>,
}

/// A keyed record: a row, a node or a point. Its result is `{"found", "version", "value"}`: whether it was there before,
/// and what a `get` found, a `put` made or a `delete` took away.
#[derive(ToSchema)]
struct Record {
    /// `get`, `put` or `delete`.
    #[schema(example = "put")]
    r#do: String,
    /// Table (or `schema.table`), label, or collection, spelt exactly.
    #[schema(min_length = 1, max_length = 255, example = "accounts")]
    r#in: String,
    /// Columns or properties that are unique together; `{"id": …}` in Qdrant. `$ref` may stand for each value.
    #[schema(value_type = Object)]
    key: Value,
    /// What a `put` merges. `$ref` may stand for each value.
    #[schema(value_type = Option<Object>)]
    set: Option<Value>,
    /// Qdrant's vectors of a `put`: needed where it makes the point.
    vector: Option<Value>,
    /// The column, property or payload field that counts the versions; `version` by default.
    version: Option<String>,
    /// How the record must be found, else `conflict`: a version (0 where it has none), `absent`, or `any` (default).
    if_version: Option<Value>,
}

/// An optimistic check.
#[derive(ToSchema)]
struct Expect {
    /// Returned rows where the statement returns any, else affected ones (`sql` and `cypher`).
    rows: Option<u64>,
    /// JSON pointers into the result, with the value that each must have.
    equals: Option<BTreeMap<String, Value>>,
    /// What must be so before the write (Qdrant).
    #[schema(rename = "if")]
    r#if: Option<Vec<Condition>>,
}

/// One point's condition.
#[derive(ToSchema)]
struct Condition {
    /// A whole number or a UUID.
    id: Value,
    /// Whether it must exist.
    exists: Option<bool>,
    /// Payload fields with the value that each must have.
    payload: Option<BTreeMap<String, Value>>,
}

/// The lock table.
#[derive(ToSchema)]
pub(super) struct LockTable {
    /// Contended keys first.
    locks: Vec<crate::txn::KeyView>,
}

/// The last deadlocks.
#[derive(ToSchema)]
pub(super) struct DeadlockList {
    /// Newest first.
    deadlocks: Vec<crate::txn::DeadlockView>,
}

/// A lock to be leased.
#[derive(ToSchema)]
pub(super) struct LeaseRequest {
    /// In the namespace of transactions' `locks`.
    #[schema(min_length = 1, max_length = 512)]
    key: String,
    /// `exclusive` (default) or `shared`.
    mode: Option<String>,
    /// How long it holds when it is not renewed; 30000 by default.
    #[schema(minimum = 100, maximum = 3_600_000)]
    ttl_ms: Option<u32>,
    /// How long to wait for it; 0 by default.
    #[schema(minimum = 0, maximum = 600_000)]
    wait_ms: Option<u32>,
}

/// How long a lease is to last from now; as long as at first where there is no body.
#[derive(ToSchema)]
pub(super) struct RenewRequest {
    /// Milliseconds.
    #[schema(minimum = 100, maximum = 3_600_000)]
    ttl_ms: Option<u32>,
}

/// What to do by hand, and why.
#[derive(ToSchema)]
pub(super) struct ResolveRequest {
    /// `retry`, `commit`, `rollback` or `skip`.
    action: String,
    /// Audited: 1 to 1000 characters, no control characters.
    #[schema(min_length = 1, max_length = 1000)]
    reason: String,
}

/// Which prepared transaction, what to do with it, and why.
#[derive(ToSchema)]
pub(super) struct ResolveOrphanRequest {
    /// Where it stands prepared.
    store: String,
    /// Its name, byte for byte.
    gid: String,
    /// `commit` or `rollback`.
    action: String,
    /// Audited: 1 to 1000 characters, no control characters.
    #[schema(min_length = 1, max_length = 1000)]
    reason: String,
}

/// What the sidecar is and has. More members may come.
#[derive(ToSchema)]
pub(super) struct Status {
    /// The program's version.
    version: String,
    /// Since its start.
    uptime_seconds: u64,
    /// What `/readyz` says.
    ready: bool,
}

/// The `data` of an event of `/v1/events`. Every member each time, null where there is nothing.
#[derive(ToSchema)]
#[schema(as = Event)]
struct EventData {
    /// RFC 3339 UTC.
    at: String,
    /// The transaction; null where the event concerns all: the log was `opened`.
    transaction: Option<String>,
    /// Its name.
    name: Option<String>,
    /// `opened`, `begun`, `locked`, `worked`, `validated`, `intended`, `prepared`, `in_doubt`, `decided`, `refused`,
    /// `mended`, `recovered`, `retried`, `ended`. More may come.
    kind: String,
    /// Where the transaction stands now, as in `View`.
    state: Option<String>,
    /// Which run of it.
    attempt: Option<u32>,
    /// Its correlation id: the trace id of the request that asked for it.
    trace_id: Option<String>,
    /// More, where there is more.
    detail: Option<String>,
}

/// RFC 9457. Nothing of its request has happened.
#[derive(ToSchema)]
#[schema(as = Problem)]
struct ProblemDocument {
    /// `urn:outrigger:problem:CODE`
    r#type: String,
    /// What the code means.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What is wrong, for people.
    detail: String,
    /// What to switch on.
    code: String,
    /// Whether the same request may succeed when it is sent again.
    retryable: bool,
    /// The transaction, when there was one.
    transaction: Option<String>,
    /// Its state; `unknown` where nobody knows the transaction that was asked for.
    state: Option<String>,
    /// The operation's id.
    operation: Option<String>,
    /// The store that refused.
    store: Option<String>,
    /// The store's own code: SQLSTATE, Neo4j code, gRPC code.
    store_code: Option<String>,
    /// JSON pointer to the request's faulty member.
    pointer: Option<String>,
    /// Runs of the transaction, where it was run more than once.
    attempts: Option<u32>,
    /// Why it was run again, one code an extra run.
    retried_for: Option<Vec<String>>,
    /// Of a `deadlock`: who waited for whom, in a circle.
    cycle: Option<Vec<Edge>>,
}

/// One edge of a circle of waits.
#[derive(ToSchema)]
struct Edge {
    /// Who waits: a transaction's id, or the name of somebody else's session.
    waiter: String,
    /// Who is in the way.
    holder: String,
    /// Who says so: `locks`, or a store's name.
    source: String,
    /// What is waited for, for people.
    resource: String,
    /// RFC 3339 UTC: since when.
    since: String,
}

/// The whole document.
pub(super) fn document() -> utoipa::openapi::OpenApi {
    let mut document = Contract::openapi();
    for (path, item) in &mut document.paths.paths {
        let operations =
            [("GET", &mut item.get), ("POST", &mut item.post), ("PUT", &mut item.put), ("DELETE", &mut item.delete)];
        for (method, operation) in operations {
            let name = format!("{method} {path}");
            let route = Route::ALL.iter().find(|route| route.as_str() == name);
            if let (Some(operation), Some(route)) = (operation, route) {
                add_problems(operation, *route);
            }
        }
    }
    if let Some(components) = &mut document.components {
        components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
    document
}

fn add_problems(operation: &mut OpenApiOperation, route: Route) {
    for status in route.statuses() {
        let codes: Vec<_> = Code::ALL.iter().filter(|code| code.status() == status).collect();
        if codes.is_empty() {
            continue;
        }
        let described: Vec<_> = codes.iter().map(|code| format!("`{}`: {}", code.as_str(), code.title())).collect();
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response =
            ResponseBuilder::new().description(described.join(". ")).content(reply::PROBLEM_JSON, content).build();
        operation.responses.responses.insert(status.to_string(), response.into());
    }
}
