//! A copy of the audit log as rows, for those who would rather query than read files. The file is the log.

use async_trait::async_trait;

use super::marker::uuid;
use super::{Postgres, errors};
use crate::audit::Line;
use crate::model::ids::LogId;
use crate::store::{Audits, Setback};

/// The table, made at the first line. Rows are only ever added.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS outrigger.audit (
    at timestamptz NOT NULL,
    log_id uuid NOT NULL,
    act text NOT NULL,
    step text NOT NULL,
    who text NOT NULL,
    action text NOT NULL,
    trace text,
    transaction text,
    name text,
    store text,
    object text,
    reason text,
    before text,
    after text,
    outcome text,
    detail text
)";
const INSERT: &str = "INSERT INTO outrigger.audit
    (at, log_id, act, step, who, action, trace, transaction, name, store, object, reason, before, after, outcome, detail)
    VALUES ($1::text::timestamptz, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";
/// The table is not there.
const NO_TABLE: &str = "42P01";

#[async_trait]
impl Audits for Postgres {
    async fn keep(&self, log: LogId, line: &Line) -> Result<(), Setback> {
        let (act, log, outcome) = (&line.act, uuid(log), line.outcome.map(crate::audit::Outcome::as_str));
        self.inner
            .admin(None, async |conn| {
                let insert = || {
                    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 16] = [
                        &line.at,
                        &log,
                        &act.act,
                        &line.step,
                        &act.who,
                        &act.action,
                        &act.trace,
                        &act.transaction,
                        &act.name,
                        &act.store,
                        &act.object,
                        &act.reason,
                        &act.before,
                        &line.after,
                        &outcome,
                        &line.detail,
                    ];
                    async move { conn.client.execute(INSERT, &params).await }
                };
                let mut kept = insert().await;
                if let Err(error) = &kept
                    && errors::code(error) == Some(NO_TABLE)
                {
                    // Two at once collide in the catalogue: hence the lock that the marker tables are made under too.
                    let make = format!("BEGIN; SELECT pg_advisory_xact_lock(7117, 1); {TABLE}; COMMIT");
                    conn.client.batch_execute(&make).await.map_err(|error| Setback::Final(errors::line(&error)))?;
                    kept = insert().await;
                }
                kept.map(drop).map_err(|error| errors::again(&error))
            })
            .await
    }
}
