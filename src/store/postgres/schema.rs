//! The tables that markers live in.

use tokio_postgres::Client;

use super::errors;
use crate::model::ids::StoreName;
use crate::model::problem::{Code, Problem};

/// What `outrigger init` runs, in this order, where something is missing. Each may be repeated. The copy of the audit log
/// (`outrigger.audit`) is no marker's: where it alone is missing, its first line makes it.
///
/// * `log`: one row a log: who may write markers in its name, and who lives.
/// * `decision`: the markers. A fence is a row with outcome `aborted`; only committed rows carry a key.
/// * `participant`: written inside what is prepared: it tells a finished promise from a lost one.
const STATEMENTS: &[&str] = &[
    "CREATE SCHEMA IF NOT EXISTS outrigger",
    "CREATE TABLE IF NOT EXISTS outrigger.log (
    log_id uuid PRIMARY KEY,
    incarnation bigint NOT NULL,
    host text NOT NULL,
    heartbeat timestamptz NOT NULL DEFAULT clock_timestamp()
)",
    "CREATE TABLE IF NOT EXISTS outrigger.decision (
    txn uuid NOT NULL,
    attempt bigint NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('committed', 'aborted')),
    log_id uuid NOT NULL,
    durable_lsn bigint NOT NULL,
    followers text[] NOT NULL DEFAULT '{}',
    key text,
    digest bytea,
    answer text,
    redo bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT decision_pkey PRIMARY KEY (txn, attempt)
)",
    "CREATE UNIQUE INDEX IF NOT EXISTS decision_key ON outrigger.decision (key)
    WHERE outcome = 'committed' AND key IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS decision_sweep ON outrigger.decision (log_id, durable_lsn)",
    "CREATE TABLE IF NOT EXISTS outrigger.participant (
    txn uuid NOT NULL,
    attempt bigint NOT NULL,
    log_id uuid NOT NULL,
    durable_lsn bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT participant_pkey PRIMARY KEY (txn, attempt)
)",
    "CREATE INDEX IF NOT EXISTS participant_sweep ON outrigger.participant (log_id, durable_lsn)",
    super::audit::TABLE,
];

/// The statements that `outrigger init` runs, for `--print`.
#[must_use]
pub fn statements() -> &'static [&'static str] {
    STATEMENTS
}

const IS_COMPLETE: &str = "SELECT to_regclass('outrigger.log') IS NOT NULL
    AND to_regclass('outrigger.decision') IS NOT NULL AND to_regclass('outrigger.decision_key') IS NOT NULL
    AND to_regclass('outrigger.decision_sweep') IS NOT NULL
    AND to_regclass('outrigger.participant') IS NOT NULL AND to_regclass('outrigger.participant_sweep') IS NOT NULL";

/// Sees to the tables. A role that may not create them is fine where they are there.
pub(super) async fn ensure(store: &StoreName, client: &Client, init: bool) -> Result<(), Problem> {
    let refused = |error: tokio_postgres::Error| errors::problem(store, &error);
    if client.query_one(IS_COMPLETE, &[]).await.map_err(refused)?.get(0) {
        return Ok(());
    }
    if !init {
        let detail = format!("{store}: the marker tables are missing: run `outrigger init`");
        return Err(Problem::new(Code::RejectedByStore, detail).in_store(store));
    }
    // IF NOT EXISTS alone is no defence: two at once collide in the catalogue's unique indexes. Hence the lock (a
    // constant of ours, in the space of advisory locks of this database).
    let all = STATEMENTS.join(";\n");
    client
        .batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock(7117, 1);\n{all};\nCOMMIT"))
        .await
        .map_err(|error| errors::problem(store, &error))
}
