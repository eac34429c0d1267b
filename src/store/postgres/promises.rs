//! Prepared transactions: finishing them, listing them.

use async_trait::async_trait;
use uuid::Uuid;

use super::verbs::literal;
use super::{Postgres, errors};
use crate::journal::slip::Decided;
use crate::model::commit::{GID_PREFIX, Gid};
use crate::model::ids::LogId;
use crate::model::state::Outcome;
use crate::store::{Prepares, Setback};

const TOOK_PART: &str = "SELECT 1 FROM outrigger.participant WHERE txn = $1 AND attempt = $2";
/// `pg_prepared_xacts` shows the whole cluster's.
const PREPARED: &str = "SELECT gid, greatest(extract(epoch FROM clock_timestamp() - prepared), 0)::bigint
    FROM pg_prepared_xacts WHERE starts_with(gid, $1) AND database = current_database() ORDER BY prepared";

#[async_trait]
impl Prepares for Postgres {
    async fn finish(&self, decided: &Decided, gid: &Gid) -> Result<(), Setback> {
        if decided.run() != gid.run {
            return Err(Setback::Final(format!("the decision about {} says nothing of {gid}", decided.run())));
        }
        let commits = decided.outcome() == Outcome::Committed;
        let verb = if commits { "COMMIT PREPARED" } else { "ROLLBACK PREPARED" };
        let sql = format!("{verb} {}", literal(&gid.to_string()));
        self.inner
            .admin(None, async |conn| {
                let Err(error) = conn.client.batch_execute(&sql).await else { return Ok(()) };
                match errors::code(&error) {
                    Some("42704") if commits => {
                        // Gone: finished before (its participant row is there), or lost (it is not).
                        let (txn, attempt): (Uuid, i64) = (gid.run.txn.0, gid.run.attempt.0.into());
                        let row = conn.client.query_opt(TOOK_PART, &[&txn, &attempt]).await;
                        match row.map_err(|error| errors::again(&error))? {
                            Some(_) => Ok(()),
                            None => Err(Setback::Final(format!(
                                "{gid} was promised and is lost: neither prepared nor committed there \
                                 (a fail-over, or a restored backup?)"
                            ))),
                        }
                    }
                    Some("42704") => Ok(()),
                    // Not ours to finish with this role; prepared in another database of the cluster.
                    Some("42501" | "0A000") => Err(Setback::Final(errors::line(&error))),
                    _ => Err(errors::again(&error)),
                }
            })
            .await
    }

    async fn prepared(&self, log: LogId) -> Result<Vec<(Gid, u64)>, Setback> {
        self.prepared_with(&format!("{GID_PREFIX}{log}:")).await
    }

    async fn prepared_by_all(&self) -> Result<Vec<(Gid, u64)>, Setback> {
        self.prepared_with(GID_PREFIX).await
    }
}

impl Postgres {
    /// What stands prepared under a name that begins so.
    async fn prepared_with(&self, prefix: &str) -> Result<Vec<(Gid, u64)>, Setback> {
        let rows = self
            .inner
            .admin(None, async |conn| {
                conn.client.query(PREPARED, &[&prefix]).await.map_err(|error| errors::again(&error))
            })
            .await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            let gid: &str = row.try_get(0).map_err(|error| errors::again(&error))?;
            let age: i64 = row.try_get(1).map_err(|error| errors::again(&error))?;
            // What has our prefix but is no gid of this version stays untouched.
            if let Ok(gid) = gid.parse() {
                found.push((gid, u64::try_from(age).unwrap_or(0)));
            }
        }
        Ok(found)
    }
}
