//! The marking side: registering, fencing, looking up, forgetting.

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use neo4rs::query;
use tokio::time::{Instant, sleep, timeout};

use super::control::{OpenTxn, text, whole};
use super::errors::Fault;
use super::ghosts::Hunt;
use super::marker::{self, integer};
use super::values::Row;
use super::{Neo4j, Shared, TAG};
use crate::model::commit::{LookUp, Marker, Verdict};
use crate::model::ids::{LogId, LogOwner, Lsn, Run};
use crate::model::state::Outcome;
use crate::store::{Fenced, Forgotten, Marks, OtherLog, Setback, Sweep};

/// A log whose heartbeat is older than this lives no more.
const ALIVE_SECONDS: i64 = 30;
/// How long a fence may wait for its turn before it is tried again from the start.
const FENCE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a fence waits before it asks who is in its way: a commit that is on its way gets this much time.
const FENCE_LOOK: Duration = Duration::from_millis(50);
/// How long old sessions may take to be gone before we say so.
const EXORCISM: Duration = Duration::from_secs(5);
/// Markers that one sweep takes.
const SWEEP: i64 = 1000;

/// Takes the node's lock before the incarnation is read, so that two registrations cannot both win.
const LOCK_LOG: &str = "MERGE (l:OutriggerLog {id: $log}) SET l.heartbeat = datetime()";
const REGISTER: &str = "MATCH (l:OutriggerLog {id: $log}) WHERE coalesce(l.incarnation, -1) <= $incarnation \
     SET l.registered_at = CASE WHEN l.incarnation = $incarnation THEN l.registered_at ELSE datetime() END \
     SET l.incarnation = $incarnation, l.host = $host RETURN l.incarnation AS incarnation";
const HEARTBEAT: &str = "MATCH (l:OutriggerLog {id: $log}) WHERE l.incarnation = $incarnation \
     SET l.heartbeat = datetime() RETURN l.id AS id";
const OTHERS: &str = "MATCH (o:OutriggerLog) WHERE o.id <> $log \
     WITH o, duration.inSeconds(o.heartbeat, datetime()).seconds AS silent WHERE silent < $alive \
     RETURN o.id AS id, coalesce(o.host, '') AS host, silent ORDER BY id";
const LOG: &str = "MATCH (o:OutriggerLog {id: $log}) RETURN o.id AS id, coalesce(o.host, '') AS host, \
     duration.inSeconds(o.heartbeat, datetime()).seconds AS silent";
const REGISTERED_AT: &str = "MATCH (l:OutriggerLog {id: $log}) RETURN l.registered_at.epochMillis AS at";
const BY_ID: &str = "MATCH (d:OutriggerDecision {id: $id}) RETURN properties(d) AS marker";
const BY_TXN: &str = "MATCH (d:OutriggerDecision) WHERE d.id STARTS WITH $txn \
     RETURN properties(d) AS marker ORDER BY d.outcome DESC, d.id DESC LIMIT 1";
const BY_KEY: &str = "MATCH (d:OutriggerDecision {key: $key}) RETURN properties(d) AS marker";
const HELD_KEYS: &str = "UNWIND $keys AS key MATCH (d:OutriggerDecision {key: key}) RETURN d.key AS key";
/// What was swept is remembered in the log's node: a witness that outlives its markers.
const LATEST: &str = "OPTIONAL MATCH (l:OutriggerLog {id: $log}) WITH coalesce(l.durable, 0) AS swept \
     OPTIONAL MATCH (d:OutriggerDecision) WHERE d.log = $log AND d.durable >= 0 \
     RETURN swept, d.durable AS durable ORDER BY d.log DESC, d.durable DESC LIMIT 1";
const FORGET: &str = "MATCH (l:OutriggerLog {id: $log}) \
     MATCH (d:OutriggerDecision) WHERE d.log = $log AND d.durable < $below AND d.created_at < \
     datetime() - duration({milliseconds: CASE WHEN d.key IS NULL THEN $grace ELSE $key_ttl END}) \
     WITH l, d LIMIT $most WITH l, collect(d) AS gone, count(d.key) AS keys, max(d.durable) AS latest \
     SET l.durable = CASE WHEN coalesce(l.durable, -1) < latest THEN latest ELSE l.durable END \
     WITH gone, keys, size(gone) AS n FOREACH (d IN gone | DETACH DELETE d) RETURN n, keys";

impl Shared {
    fn again(&self, fault: &Fault) -> Setback {
        Setback::Again(fault.say(&self.name))
    }

    fn not_ours(&self, what: &str) -> Setback {
        Setback::Again(format!("{}: {what} is not as Outrigger writes it", self.name))
    }

    async fn marker(&self, ask: neo4rs::Query, tag: &str) -> Result<Option<Marker>, Setback> {
        let rows = self.control.ask(ask.param(TAG, tag)).await.map_err(|fault| self.again(&fault))?;
        let Some(row) = rows.first() else { return Ok(None) };
        marker::read_column(row.get("marker")).map(Some).ok_or_else(|| self.not_ours("a marker"))
    }

    /// Ends those that stand in the way of the fence with this tag, as far as they are ours: an idle session of our
    /// user, or one that runs a statement of this very run. An administrator's schema change is waited for.
    async fn end_blockers(&self, fence: &str, owner: LogOwner, run: Run) -> Result<(), Fault> {
        let open = self.control.open_transactions("").await?;
        let Some(waiter) = open.iter().find(|txn| txn.tag.as_deref() == Some(fence)) else { return Ok(()) };
        let holds = |txn: &&OpenTxn| {
            let this_run = |tag: &str| tag.starts_with(&format!("{}/", owner.log)) && tag.ends_with(&format!("/{run}"));
            let ours = match txn.tag.as_deref() {
                Some(tag) => this_run(tag),
                None => !txn.running,
            };
            waiter.blocked_by.contains(&txn.id) && txn.user == waiter.user && ours
        };
        let ids: Vec<_> = open.iter().filter(holds).map(|txn| txn.id.clone()).collect();
        self.control.terminate(&ids).await
    }
}

#[async_trait]
impl Marks for Neo4j {
    async fn register(&self, owner: LogOwner) -> Result<(), Setback> {
        let store = &self.shared;
        let tag = format!("{}/{}/register", owner.log, owner.incarnation.0);
        let lock = query(LOCK_LOG).param("log", owner.log.to_string()).param(TAG, tag.as_str());
        let register = query(REGISTER)
            .param("log", owner.log.to_string())
            .param("incarnation", integer(owner.incarnation.0))
            .param("host", host())
            .param(TAG, tag.as_str());
        let rows = store.control.ask_all(vec![lock, register]).await.map_err(|fault| store.again(&fault))?;
        if rows.is_empty() {
            let detail = format!("{}: a later incarnation of this log is registered: we are the ghost", store.name);
            return Err(Setback::Final(detail));
        }
        Ok(())
    }

    async fn heartbeat(&self, owner: LogOwner) -> Result<Vec<OtherLog>, Setback> {
        let store = &self.shared;
        let beat =
            query(HEARTBEAT).param("log", owner.log.to_string()).param("incarnation", integer(owner.incarnation.0));
        let rows = store.control.ask(beat).await.map_err(|fault| store.again(&fault))?;
        if rows.is_empty() {
            return Err(Setback::Again(format!(
                "{}: this incarnation of the log is not the registered one",
                store.name
            )));
        }
        let others = query(OTHERS).param("log", owner.log.to_string()).param("alive", ALIVE_SECONDS);
        let rows = store.control.ask(others).await.map_err(|fault| store.again(&fault))?;
        Ok(rows.iter().map(other_log).collect())
    }

    async fn log(&self, log: LogId) -> Result<Option<OtherLog>, Setback> {
        let ask = query(LOG).param("log", log.to_string());
        let rows = self.shared.control.ask(ask).await.map_err(|fault| self.shared.again(&fault))?;
        Ok(rows.first().map(other_log))
    }

    async fn end_old_sessions(&self, owner: LogOwner) -> Result<u64, Setback> {
        let store = &self.shared;
        let again = |fault: Fault| store.again(&fault);
        let rows = store.control.ask(query(REGISTERED_AT).param("log", owner.log.to_string())).await.map_err(again)?;
        let Some(registered) = rows.first().and_then(|row| whole(row, "at")) else {
            return Err(store.not_ours("the log's node"));
        };
        let asking = format!("{}/{}/sessions", owner.log, owner.incarnation.0);
        let (begun, grace) = (Instant::now(), store.config.session_grace);
        let mut hunt = Hunt::new(owner, registered, &asking, grace);
        let (mut all_told, mut ended): (Option<Instant>, HashSet<String>) = (None, HashSet::new());
        loop {
            let open = store.control.open_transactions(&asking).await.map_err(again)?;
            let seen = hunt.look(&open);
            let left = seen.due.len() + seen.waiting;
            // A COMMIT on its way belongs to a transaction that is still in the list: an empty list needs no grace. One
            // that was told to end while it committed may still land, but not after the grace.
            if left == 0 && (seen.told == 0 || all_told.get_or_insert_with(Instant::now).elapsed() >= grace) {
                return Ok(ended.len() as u64);
            }
            store.control.terminate(&seen.due).await.map_err(again)?;
            ended.extend(seen.due);
            if begun.elapsed() > grace * 2 + EXORCISM {
                return Err(Setback::Again(format!("{}: {left} sessions of an older incarnation live on", store.name)));
            }
            sleep(Duration::from_millis(25)).await;
        }
    }

    async fn fence(&self, run: Run, owner: LogOwner, durable: Lsn) -> Result<Fenced, Setback> {
        let store = &self.shared;
        let tag = format!("{}/{}/fence/{run}", owner.log, owner.incarnation.0);
        let verdict = |outcome| Verdict { run, store: store.name.clone(), outcome };
        let deadline = Instant::now() + FENCE_PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Setback::Again(format!("{}: the fence of {run} is still waiting", store.name)));
            }
            let mut fence = pin!(store.control.ask_for(left, marker::fence(run, owner.log, durable, &tag)));
            let fenced = loop {
                match timeout(FENCE_LOOK, fence.as_mut()).await {
                    Ok(fenced) => break fenced,
                    Err(_) => store.end_blockers(&tag, owner, run).await.map_err(|fault| store.again(&fault))?,
                }
            };
            match fenced {
                Ok(_) => return Ok(Fenced::Aborted(verdict(Outcome::Aborted))),
                Err(fault) if fault.server_code().is_some_and(|code| code.ends_with("ConstraintValidationFailed")) => {
                    match store.marker(query(BY_ID).param("id", run.to_string()), &tag).await? {
                        Some(marker) if marker.outcome == Outcome::Committed => {
                            return Ok(Fenced::Committed(verdict(Outcome::Committed), Box::new(marker)));
                        }
                        Some(_) => return Ok(Fenced::Aborted(verdict(Outcome::Aborted))),
                        // It went between our two statements: fence again.
                        None => {}
                    }
                }
                Err(fault) if fault.server_code().is_some_and(|code| code.starts_with("Neo.TransientError.")) => {}
                Err(fault) => return Err(store.again(&fault)),
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn look_up(&self, what: &LookUp) -> Result<Option<Marker>, Setback> {
        let ask = match what {
            LookUp::Txn(txn) => query(BY_TXN).param("txn", format!("{txn}/")),
            LookUp::Key(key) => query(BY_KEY).param("key", key.as_str()),
        };
        self.shared.marker(ask, "outrigger/look_up").await
    }

    async fn held_keys(&self, keys: &[String]) -> Result<Vec<String>, Setback> {
        let store = &self.shared;
        let ask = query(HELD_KEYS).param("keys", keys.to_vec()).param(TAG, "outrigger/held_keys");
        let rows = store.control.ask(ask).await.map_err(|fault| store.again(&fault))?;
        Ok(rows.iter().filter_map(|row| text(row, "key")).collect())
    }

    async fn latest_durable(&self, log: LogId) -> Result<Lsn, Setback> {
        let store = &self.shared;
        let ask = query(LATEST).param("log", log.to_string()).param(TAG, "outrigger/latest_durable");
        let rows = store.control.ask(ask).await.map_err(|fault| store.again(&fault))?;
        let latest = rows.iter().flat_map(|row| [whole(row, "swept"), whole(row, "durable")]).flatten().max();
        Ok(Lsn::from_u64(latest.and_then(|latest| u64::try_from(latest).ok()).unwrap_or(0)))
    }

    async fn forget(&self, sweep: &Sweep) -> Result<Forgotten, Setback> {
        let store = &self.shared;
        let millis = |of: Duration| i64::try_from(of.as_millis()).unwrap_or(i64::MAX);
        let ask = query(FORGET)
            .param("log", sweep.log.to_string())
            .param("below", integer(sweep.below.as_u64()))
            .param("grace", millis(sweep.grace))
            .param("key_ttl", millis(sweep.key_ttl))
            .param("most", SWEEP)
            .param(TAG, "outrigger/forget");
        let rows = store.control.ask(ask).await.map_err(|fault| store.again(&fault))?;
        let count = |name| rows.first().and_then(|row| whole(row, name)).unwrap_or(0);
        let (all, keys) = (count("n"), count("keys"));
        let unsigned = |count: i64| u64::try_from(count).unwrap_or(0);
        Ok(Forgotten { markers: unsigned(all - keys), keys: unsigned(keys), more: all == SWEEP })
    }
}

/// Where we run, for people who find our log's node.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_else(|| "unknown".to_owned())
}

fn other_log(row: &Row) -> OtherLog {
    OtherLog {
        log: text(row, "id").unwrap_or_default(),
        host: text(row, "host").unwrap_or_default(),
        silent_seconds: whole(row, "silent").and_then(|silent| u64::try_from(silent).ok()).unwrap_or(0),
    }
}
