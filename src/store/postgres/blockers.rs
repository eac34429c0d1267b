//! Who waits for whom inside PostgreSQL, and how a wait of ours is ended.
//!
//! `pg_blocking_pids` says who is in the way of a waiting backend: holders, and waiters before it in the queue. A
//! prepared transaction has no backend and shows as pid 0: it is found by its locks, since whoever stands in the way
//! holds the very lock that is waited for. One that carries a gid of ours is a transaction of ours.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, Row};

use super::connect::Conn;
use super::{Inner, Postgres, errors, on};
use crate::clock;
use crate::model::commit::Gid;
use crate::model::ids::{LogOwner, Run, StoreName};
use crate::model::wait::{Party, Source, WaitEdge};
use crate::store::seats::{Seated, Waiting};
use crate::store::{Blockers, Setback};

/// How long one look (or one interruption) may take, its connection included.
const LOOK: Duration = Duration::from_secs(2);

/// What the detector's connection calls itself: the same before and after the log is known, so that it is there when it
/// is needed. A ghost of it harms nobody: it only looks, and cancels what carries its own incarnation's name.
const LOOKOUT: &str = "outrigger/lookout";

/// A backend, as sure as it can be named: pids are used again.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub(super) pid: i32,
    /// What its connection calls itself.
    pub(super) session_name: Arc<str>,
}

/// The waits of the processes `$1`, and of whoever is in their way, as far as that goes. The functions and views each
/// look at another moment: an edge counts only when it is seen again. `waitstart` is there from PostgreSQL 14 on.
const WAITS: &str = "
WITH RECURSIVE edge (waiter, holder) AS (
    SELECT w, h FROM unnest($1) AS w, unnest(pg_blocking_pids(w)) AS h
    UNION
    SELECT e.holder, h FROM edge e, unnest(pg_blocking_pids(e.holder)) AS h WHERE e.holder <> 0
), lock AS MATERIALIZED (
    SELECT *, (locktype, database, relation, page, tuple, virtualxid, transactionid, classid, objid, objsubid)::text
        AS object FROM pg_locks
)
SELECT e.waiter, e.holder, a.application_name AS waiter_name, a.usename::text AS waiter_user,
    host(a.client_addr) AS waiter_host, b.application_name AS holder_name, b.usename::text AS holder_user,
    host(b.client_addr) AS holder_host, w.object, w.locktype, w.mode, held.mode AS held_mode, x.gid, spot.page, spot.tuple,
    (extract(epoch FROM coalesce((to_jsonb(w) ->> 'waitstart')::timestamptz, a.query_start)) * 1000000)::bigint AS since,
    CASE WHEN coalesce(w.database, spot.database) = (SELECT oid FROM pg_database WHERE datname = current_database())
        THEN coalesce(w.relation, spot.relation)::regclass::text END AS relation
FROM edge e
JOIN lock w ON w.pid = e.waiter AND NOT w.granted
LEFT JOIN pg_stat_activity a ON a.pid = e.waiter
LEFT JOIN pg_stat_activity b ON b.pid = e.holder
LEFT JOIN lock held ON e.holder = 0 AND held.pid IS NULL AND held.granted AND held.object = w.object
LEFT JOIN lock own ON own.pid IS NULL AND own.locktype = 'transactionid'
    AND own.virtualtransaction = held.virtualtransaction
LEFT JOIN pg_prepared_xacts x ON x.transaction = own.transactionid
LEFT JOIN LATERAL (SELECT t.database, t.relation, t.page, t.tuple FROM lock t
    WHERE t.pid = e.waiter AND t.locktype = 'tuple' ORDER BY t.granted LIMIT 1) AS spot ON true";

/// Only what still waits, and still is who it was.
const CANCEL: &str = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
    WHERE pid = $1 AND application_name = $2 AND wait_event_type = 'Lock'";

#[async_trait]
impl Blockers for Postgres {
    async fn waits(&self, waiting: &[Run]) -> Result<Vec<WaitEdge>, Setback> {
        let waiting = Waiting::new(waiting);
        let seats = self.inner.seats.all();
        let pids: Vec<i32> =
            seats.iter().filter(|seated| waiting.has(seated.run)).map(|seated| seated.key.pid).collect();
        if pids.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.inner.wait_rows(&pids).await?;
        let names = Names::new(&self.inner, &waiting, self.inner.seats.still(seats));
        let mut edges = Vec::with_capacity(rows.len());
        for row in &rows {
            let edge = names.edge(row).map_err(again)?;
            edges.extend(edge.filter(|edge| !edges.contains(edge)));
        }
        Ok(edges)
    }

    async fn interrupt(&self, run: Run) -> Result<(), Setback> {
        for Backend { pid, session_name } in self.inner.seats.interrupt(run) {
            let name = &*session_name;
            let cancel = async |conn: &Conn| {
                conn.client.query_typed(CANCEL, &[(&pid, Type::INT4), (&name, Type::TEXT)]).await.map_err(again)
            };
            self.inner.look(cancel).await?;
        }
        Ok(())
    }
}

impl Inner {
    async fn wait_rows(&self, pids: &[i32]) -> Result<Vec<Row>, Setback> {
        let ask = async |conn: &Conn| conn.client.query_typed(WAITS, &[(&pids, Type::INT4_ARRAY)]).await.map_err(again);
        self.look(ask).await
    }

    /// Asks once, of nobody: whether we may, and so that the connection stands when it is needed.
    pub(super) async fn rehearse_look(&self) -> Result<(), Setback> {
        self.wait_rows(&[]).await.map(drop)
    }

    /// One short statement on the detector's own connection: it must get through when all others are taken.
    async fn look<T, F>(&self, act: F) -> Result<T, Setback>
    where
        F: AsyncFnOnce(&Conn) -> Result<T, Setback>,
    {
        on(&self.lookout, LOOKOUT, LOOK, act).await
    }
}

fn again(error: Error) -> Setback {
    errors::again(&error)
}

/// Who the server's processes and gids are.
struct Names<'a> {
    store: &'a StoreName,
    owner: Option<LogOwner>,
    waiting: &'a Waiting,
    by_pid: HashMap<i32, Seated<Backend>>,
}

impl<'a> Names<'a> {
    fn new(store: &'a Inner, waiting: &'a Waiting, seats: Vec<Seated<Backend>>) -> Self {
        let owner = *store.owner.lock().unwrap_or_else(PoisonError::into_inner);
        // Those seated later stand behind, and win: their connection's predecessor of that pid is dead.
        let by_pid = seats.into_iter().map(|seated| (seated.key.pid, seated)).collect();
        Self { store: &store.name, owner, waiting, by_pid }
    }

    /// One row of [`WAITS`]. `None` where nobody waits for anybody in it after all.
    fn edge(&self, row: &Row) -> Result<Option<WaitEdge>, Error> {
        let (waiter, holder): (i32, i32) = (row.try_get("waiter")?, row.try_get("holder")?);
        let (object, mode): (String, String) = (row.try_get("object")?, row.try_get("mode")?);
        let held: Option<String> = row.try_get("held_mode")?;
        if held.is_some_and(|held| !conflict(&mode, &held)) {
            return Ok(None);
        }
        let waiter_party = self.session(waiter, row, ["waiter_name", "waiter_user", "waiter_host"])?;
        let holder_party = match holder {
            0 => self.prepared(row.try_get("gid")?),
            pid => self.session(pid, row, ["holder_name", "holder_user", "holder_host"])?,
        };
        if waiter_party == holder_party {
            return Ok(None);
        }
        let since: Option<i64> = row.try_get("since")?;
        let mut epoch = DefaultHasher::new();
        (waiter, since, object, &mode).hash(&mut epoch);
        Ok(Some(WaitEdge {
            waiter: waiter_party,
            holder: holder_party,
            source: Source::Store(self.store.clone()),
            resource: resource(row, &mode)?,
            epoch: epoch.finish(),
            since_us: since.unwrap_or_else(clock::now_us),
        }))
    }

    /// Ours where a seat says so and the process still calls itself what that seat's connection did.
    fn session(&self, pid: i32, row: &Row, [name, user, host]: [&str; 3]) -> Result<Party, Error> {
        let name: Option<&str> = row.try_get(name)?;
        let seated = self.by_pid.get(&pid).filter(|seated| name == Some(&*seated.key.session_name));
        if let Some(party) = seated.and_then(|seated| self.waiting.party(seated.run)) {
            return Ok(party);
        }
        let (user, host): (Option<&str>, Option<&str>) = (row.try_get(user)?, row.try_get(host)?);
        let name = name.filter(|name| !name.is_empty()).unwrap_or("a session");
        let (user, host) = (user.unwrap_or("another role"), host.unwrap_or("this machine"));
        Ok(Party::Foreign(format!("{}: pid {pid}, {name} of {user} at {host}", self.store).into()))
    }

    fn prepared(&self, gid: Option<&str>) -> Party {
        let ours =
            gid.and_then(|gid| gid.parse::<Gid>().ok()).filter(|gid| self.owner.is_some_and(|o| o.log == gid.log));
        if let Some(party) = ours.and_then(|gid| self.waiting.party(gid.run)) {
            return party;
        }
        let name = gid.map_or_else(String::new, |gid| format!(" {gid}"));
        Party::Foreign(format!("{}: the prepared transaction{name}", self.store).into())
    }
}

/// What is waited for, for people. A row shows only while the waiter is next in its line; whoever waits for a
/// transaction's end otherwise has met a row or a key that it wrote.
fn resource(row: &Row, mode: &str) -> Result<String, Error> {
    let relation: Option<&str> = row.try_get("relation")?;
    let (page, tuple): (Option<i32>, Option<i16>) = (row.try_get("page")?, row.try_get("tuple")?);
    let kind: &str = row.try_get("locktype")?;
    Ok(match (kind, relation, page, tuple) {
        (_, Some(relation), Some(page), Some(tuple)) => format!("row ({page},{tuple}) of {relation}"),
        ("transactionid", ..) => "a row or key that the other has written".to_owned(),
        (kind, Some(relation), ..) => format!("{kind} {relation} ({mode})"),
        (kind, ..) => format!("{kind} ({mode})"),
    })
}

/// The table of PostgreSQL's manual, "Explicit Locking": each mode with those that it conflicts with, in its order of
/// strength.
const MODES: [(&str, u8); 8] = [
    ("AccessShareLock", 0b1000_0000),
    ("RowShareLock", 0b1100_0000),
    ("RowExclusiveLock", 0b1111_0000),
    ("ShareUpdateExclusiveLock", 0b1111_1000),
    ("ShareLock", 0b1110_1100),
    ("ShareRowExclusiveLock", 0b1111_1100),
    ("ExclusiveLock", 0b1111_1110),
    ("AccessExclusiveLock", 0b1111_1111),
];

/// A mode that we do not know conflicts with all.
fn conflict(wanted: &str, held: &str) -> bool {
    let of = |mode: &str| MODES.iter().position(|(name, _)| *name == mode);
    match (of(wanted), of(held)) {
        (Some(wanted), Some(held)) => MODES[wanted].1 & (1 << held) != 0,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicts_are_mutual_and_as_the_manual_says() {
        for (a, _) in MODES {
            for (b, _) in MODES {
                assert_eq!(conflict(a, b), conflict(b, a), "{a} {b}");
            }
            assert!(conflict(a, "AccessExclusiveLock") && conflict(a, "one of a later version"));
        }
        let count: u32 = MODES.iter().map(|(_, mask)| mask.count_ones()).sum();
        assert_eq!(count, 38, "the manual's table has 38 crosses");
        for (a, b) in
            [("RowExclusiveLock", "RowExclusiveLock"), ("AccessShareLock", "ExclusiveLock"), ("ShareLock", "ShareLock")]
        {
            assert!(!conflict(a, b), "{a} {b}");
        }
        assert!(conflict("ShareUpdateExclusiveLock", "ShareUpdateExclusiveLock"));
    }
}
