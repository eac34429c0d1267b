//! What recovery asks of a store that marks: register, end old sessions, fence, look up, sweep.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};
use tokio_postgres::Row;
use uuid::Uuid;

use super::connect::Conn;
use super::marker::{self, MarkParams, bigint};
use super::{Postgres, errors};
use crate::model::commit::{LookUp, Marker, Verdict};
use crate::model::ids::{LogId, LogOwner, Lsn, Run, session_prefix};
use crate::model::state::Outcome;
use crate::store::{Fenced, Forgotten, Marks, OtherLog, Prepares, Setback, Sweep};

/// A log that has not been heard of for so long is not called live.
const LIVE_WITHIN: Duration = Duration::from_secs(60);
/// How long ended sessions may take to go, in one call.
const ENDING_WAIT: Duration = Duration::from_secs(5);
/// A fence that has waited this long asks who is in its way, and asks again each time.
const FENCE_LOOK: Duration = Duration::from_millis(50);
/// Rows of each table that one sweep deletes.
const SWEEP_ROWS: i64 = 1000;

const REGISTER: &str = "INSERT INTO outrigger.log AS l (log_id, incarnation, host, heartbeat)
    VALUES ($1, $2, $3, clock_timestamp())
    ON CONFLICT (log_id) DO UPDATE
    SET incarnation = excluded.incarnation, host = excluded.host, heartbeat = clock_timestamp()
    WHERE l.incarnation <= excluded.incarnation";
const IS_REGISTERED: &str = "SELECT 1 FROM outrigger.log WHERE log_id = $1 AND incarnation = $2";
const BEAT: &str = "UPDATE outrigger.log SET heartbeat = clock_timestamp() WHERE log_id = $1 AND incarnation = $2";
const OTHERS: &str = "SELECT log_id, host, greatest(extract(epoch FROM clock_timestamp() - heartbeat), 0)::bigint
    FROM outrigger.log WHERE log_id <> $1 AND heartbeat > clock_timestamp() - $2::bigint * interval '1 second'
    ORDER BY log_id";
const SESSIONS: &str = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE starts_with(application_name, $1)";
const END_SESSIONS: &str = "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = ANY($1) AND pid <> pg_backend_pid()";
/// Who stands in the way of process `$1`, as far as they are sessions of our log, ended on the spot. A fence that waits
/// for a *transaction* waits for the one that has inserted its very marker: no other row of the table can collide with
/// a row without a key. Waits of any other kind (somebody's LOCK TABLE) are none of our business.
const END_BLOCKERS: &str = "SELECT b.pid, a.application_name, CASE
        WHEN me.wait_event IN ('transactionid', 'spectoken') AND starts_with(a.application_name, $2)
        THEN pg_terminate_backend(b.pid) END
    FROM pg_stat_activity me CROSS JOIN LATERAL unnest(pg_blocking_pids(me.pid)) AS b (pid)
    LEFT JOIN pg_stat_activity a ON a.pid = b.pid WHERE me.pid = $1 AND me.wait_event_type = 'Lock'";
const LOG: &str = "SELECT log_id, host, greatest(extract(epoch FROM clock_timestamp() - heartbeat), 0)::bigint
    FROM outrigger.log WHERE log_id = $1";
const LATEST: &str = "SELECT max(durable_lsn) FROM (
    SELECT max(durable_lsn) AS durable_lsn FROM outrigger.decision WHERE log_id = $1
    UNION ALL SELECT max(durable_lsn) FROM outrigger.participant WHERE log_id = $1) AS both_of_them";
const SWEEP_DECISIONS: &str = "WITH gone AS (DELETE FROM outrigger.decision WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM outrigger.decision WHERE log_id = $1 AND durable_lsn < $2 AND created_at < clock_timestamp()
        - (CASE WHEN key IS NULL THEN $3::float8 ELSE $4::float8 END) * interval '1 second' LIMIT $5)) RETURNING key)
    SELECT count(*), count(key) FROM gone";
const SWEEP_PARTICIPANTS: &str = "DELETE FROM outrigger.participant WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM outrigger.participant WHERE log_id = $1 AND durable_lsn < $2
        AND created_at < clock_timestamp() - $3::float8 * interval '1 second' LIMIT $4))";

fn again(error: tokio_postgres::Error) -> Setback {
    errors::again(&error)
}

#[async_trait]
impl Marks for Postgres {
    async fn register(&self, owner: LogOwner) -> Result<(), Setback> {
        let (log, incarnation) = (marker::uuid(owner.log), bigint(owner.incarnation.0));
        let host = host_name();
        let rows = self
            .inner
            .admin(Some(owner), async |conn| {
                conn.client.execute(REGISTER, &[&log, &incarnation, &host]).await.map_err(again)
            })
            .await?;
        if rows == 0 {
            let why = format!(
                "{}: a later incarnation of this log than {} is registered",
                self.inner.name, owner.incarnation.0
            );
            return Err(Setback::Final(why));
        }
        *self.inner.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(owner);
        Ok(())
    }

    async fn heartbeat(&self, owner: LogOwner) -> Result<Vec<OtherLog>, Setback> {
        let (log, incarnation) = (marker::uuid(owner.log), bigint(owner.incarnation.0));
        let seconds = bigint(LIVE_WITHIN.as_secs());
        let rows = self
            .inner
            .admin(Some(owner), async |conn| {
                conn.client.execute(BEAT, &[&log, &incarnation]).await.map_err(again)?;
                conn.client.query(OTHERS, &[&log, &seconds]).await.map_err(again)
            })
            .await?;
        rows.iter().map(|row| other_log(row).map_err(again)).collect()
    }

    async fn log(&self, log: LogId) -> Result<Option<OtherLog>, Setback> {
        let id = marker::uuid(log);
        let row = self.inner.admin(None, async |conn| conn.client.query_opt(LOG, &[&id]).await.map_err(again)).await?;
        row.map(|row| other_log(&row).map_err(again)).transpose()
    }

    async fn end_old_sessions(&self, owner: LogOwner) -> Result<u64, Setback> {
        let prefix = session_prefix(owner.log);
        self.inner
            .admin(Some(owner), async |conn| {
                let until = Instant::now() + ENDING_WAIT;
                let mut ended: HashSet<i32> = HashSet::new();
                loop {
                    let old = old_sessions(conn, &prefix, owner).await?;
                    if old.is_empty() {
                        return Ok(ended.len() as u64);
                    }
                    if Instant::now() >= until {
                        return Err(Setback::Again(format!(
                            "sessions of older incarnations live on: {}",
                            old.join(", ")
                        )));
                    }
                    for row in conn.client.query(END_SESSIONS, &[&old]).await.map_err(again)? {
                        ended.insert(row.try_get(0).map_err(again)?);
                    }
                    sleep(Duration::from_millis(20)).await;
                }
            })
            .await
    }

    async fn fence(&self, run: Run, owner: LogOwner, durable: Lsn) -> Result<Fenced, Setback> {
        let verdict = |outcome| Verdict { run, store: self.inner.name.clone(), outcome };
        let marker = self
            .inner
            .admin(Some(owner), async |conn| {
                if self.insert_fence(conn, run, owner, durable).await? == 1 {
                    return Ok(None);
                }
                let (txn, attempt): (Uuid, i64) = (run.txn.0, run.attempt.0.into());
                match conn.client.query_opt(marker::OF_RUN, &[&txn, &attempt]).await.map_err(again)? {
                    Some(row) => marker::read(&row).map(Some).map_err(Setback::Again),
                    None => Err(self.no_fence(conn, owner).await),
                }
            })
            .await?;
        Ok(match marker {
            Some(marker) if marker.outcome == Outcome::Committed => {
                Fenced::Committed(verdict(Outcome::Committed), Box::new(marker))
            }
            _ => Fenced::Aborted(verdict(Outcome::Aborted)),
        })
    }

    async fn look_up(&self, what: &LookUp) -> Result<Option<Marker>, Setback> {
        let row = self
            .inner
            .admin(None, async |conn| {
                let found = match what {
                    LookUp::Txn(txn) => conn.client.query_opt(marker::OF_TXN, &[&txn.0]).await,
                    LookUp::Key(key) => conn.client.query_opt(marker::OF_KEY, &[key]).await,
                };
                found.map_err(again)
            })
            .await?;
        row.map(|row| marker::read(&row).map_err(Setback::Again)).transpose()
    }

    async fn held_keys(&self, keys: &[String]) -> Result<Vec<String>, Setback> {
        let rows = self
            .inner
            .admin(None, async |conn| conn.client.query(marker::HELD_KEYS, &[&keys]).await.map_err(again))
            .await?;
        rows.iter().map(|row| row.try_get(0).map_err(again)).collect()
    }

    async fn latest_durable(&self, log: LogId) -> Result<Lsn, Setback> {
        let id = marker::uuid(log);
        let row =
            self.inner.admin(None, async |conn| conn.client.query_one(LATEST, &[&id]).await.map_err(again)).await?;
        let rows: Option<i64> = row.try_get(0).map_err(again)?;
        let gids = self.prepared(log).await?;
        let latest = gids.iter().map(|(gid, _)| gid.durable).max().unwrap_or(Lsn::ZERO);
        Ok(latest.max(Lsn::from_u64(rows.and_then(|lsn| u64::try_from(lsn).ok()).unwrap_or(0))))
    }

    async fn forget(&self, sweep: &Sweep) -> Result<Forgotten, Setback> {
        let (log, below) = (marker::uuid(sweep.log), bigint(sweep.below.as_u64()));
        let (grace, ttl) = (sweep.grace.as_secs_f64(), sweep.key_ttl.as_secs_f64());
        self.inner
            .admin(None, async |conn| {
                let client = &conn.client;
                let decisions = client.query_one(SWEEP_DECISIONS, &[&log, &below, &grace, &ttl, &SWEEP_ROWS]).await;
                let decisions = decisions.map_err(again)?;
                let count = |column| -> Result<u64, Setback> {
                    let count: i64 = decisions.try_get(column).map_err(again)?;
                    Ok(u64::try_from(count).unwrap_or(0))
                };
                let (all, keys, most) = (count(0)?, count(1)?, u64::try_from(SWEEP_ROWS).unwrap_or(0));
                let participants = client.execute(SWEEP_PARTICIPANTS, &[&log, &below, &grace, &SWEEP_ROWS]).await;
                let participants = participants.map_err(again)?;
                let more = all == most || participants == most;
                Ok(Forgotten { markers: all - keys + participants, keys, more })
            })
            .await
    }
}

impl Postgres {
    /// Inserts the fence; while it blocks, ends whoever of ours holds this marker. How many rows went in.
    async fn insert_fence(&self, conn: &Conn, run: Run, owner: LogOwner, durable: Lsn) -> Result<u64, Setback> {
        let params = MarkParams::of_fence(run, owner, durable);
        let identity = params.identity();
        let mut inserting = pin!(conn.client.execute(marker::FENCE, &identity));
        let prefix = session_prefix(owner.log);
        let mut in_the_way = String::new();
        loop {
            match tokio::time::timeout(FENCE_LOOK, inserting.as_mut()).await {
                Ok(Ok(rows)) => return Ok(rows),
                Ok(Err(error)) if in_the_way.is_empty() => return Err(again(error)),
                Ok(Err(error)) => {
                    return Err(Setback::Again(format!("{} (in the way: {in_the_way})", errors::line(&error))));
                }
                Err(_) => {
                    // A failed look is no reason to give the fence up: the next one may succeed.
                    if let Ok(seen) = self.end_blockers(conn.pid, &prefix).await {
                        in_the_way = seen;
                    }
                }
            }
        }
    }

    /// Who blocks process `pid`, for people; those that are sessions of ours are ended.
    async fn end_blockers(&self, pid: i32, prefix: &str) -> Result<String, Setback> {
        let rows = self
            .inner
            .watch(async |conn| conn.client.query(END_BLOCKERS, &[&pid, &prefix]).await.map_err(again))
            .await?;
        let mut names = Vec::with_capacity(rows.len());
        for row in &rows {
            let (pid, name): (i32, Option<&str>) = (row.try_get(0).map_err(again)?, row.try_get(1).map_err(again)?);
            names.push(match (pid, name) {
                (0, _) => "a prepared transaction".to_owned(),
                (pid, name) => format!("process {pid} ({})", name.unwrap_or("of another role")),
            });
        }
        Ok(names.join(", "))
    }

    /// Why neither the fence went in nor a marker is there.
    async fn no_fence(&self, conn: &Conn, owner: LogOwner) -> Setback {
        let params = (marker::uuid(owner.log), bigint(owner.incarnation.0));
        match conn.client.query_opt(IS_REGISTERED, &[&params.0, &params.1]).await {
            Ok(None) => Setback::Again(format!("{}: this incarnation is not the registered owner", self.inner.name)),
            Ok(Some(_)) => Setback::Again(format!("{}: the marker went away while it was fenced", self.inner.name)),
            Err(error) => errors::again(&error),
        }
    }
}

/// The names of sessions of `owner`'s log with an older incarnation.
async fn old_sessions(conn: &Conn, prefix: &str, owner: LogOwner) -> Result<Vec<String>, Setback> {
    let rows = conn.client.query(SESSIONS, &[&prefix]).await.map_err(again)?;
    let mut old = Vec::new();
    for row in rows {
        let name: String = row.try_get(0).map_err(again)?;
        let incarnation = name.strip_prefix(prefix).and_then(|rest| rest.parse::<u64>().ok());
        if incarnation.is_some_and(|incarnation| incarnation < owner.incarnation.0) {
            old.push(name);
        }
    }
    Ok(old)
}

fn other_log(row: &Row) -> Result<OtherLog, tokio_postgres::Error> {
    let (log, silent): (Uuid, i64) = (row.try_get(0)?, row.try_get(2)?);
    Ok(OtherLog {
        log: log.simple().to_string(),
        host: row.try_get(1)?,
        silent_seconds: u64::try_from(silent).unwrap_or(0),
    })
}

/// What this machine calls itself; for people.
fn host_name() -> String {
    let named = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    let named = named.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    named.unwrap_or_else(|| "unknown".to_owned())
}
