//! PostgreSQL: marks always, prepares where `max_prepared_transactions` lets it.
//!
//! ```text
//!   mod        the participant: configuration, probe, powers      session   one transaction: begin … commit or prepare
//!   connect    one connection: TLS, settings, prepared statements  flight    statements that leave together
//!   pool       a bounded number of connections                     answers   one statement's answer
//!   schema     the marker tables                                   guard     what a statement may not be
//!   marker     markers as rows                                     verbs     BEGIN, COMMIT, PREPARE as text
//!   recovery   fences, look-ups, sweeps (Marks)                    promises  gids (Prepares)
//!   values     JSON ⇄ types                                        errors    SQLSTATE → problem
//!   record     `record` operations as SQL
//!   blockers   who waits for whom in there (Blockers)              audit     a copy of the audit log (Audits)
//! ```
//!
//! Four pools, so that no one's wait starves another: transactions may hold all of theirs while they wait for a lock
//! that only a finish (second pool) releases; a fence that blocks needs one more (third) to see who blocks it; and who
//! looks for deadlocks must see them when all of these are taken (fourth).

mod answers;
mod audit;
mod blockers;
mod connect;
mod errors;
mod flight;
mod guard;
mod marker;
mod pool;
mod promises;
mod record;
mod recovery;
mod schema;
mod session;
mod values;
mod verbs;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use self::blockers::Backend;
use self::connect::{Connector, Purpose};
use self::pool::{Pool, Pooled};
use super::seats::Seats;
use super::{Audits, Blockers, Marks, Prepares, Probe, Redoes, Session, Setback, Store, TxnContext};
use crate::model::ids::{LogOwner, StoreName};
use crate::model::powers::{Powers, Role};
use crate::model::problem::{Code, Problem};

pub use self::errors::{FENCED, KEY_TAKEN, OTHER_OWNER};
pub use self::schema::statements;

/// No result of one operation may be larger than this, as the server sends it: results are held in memory.
const MAX_RESULT_BYTES: usize = 64 << 20;
/// How long one statement of ours (a look-up, a finish) may take, its connection included.
const ADMIN_WAIT: Duration = Duration::from_secs(35);

/// How to reach a PostgreSQL server.
#[derive(Clone)]
pub struct PostgresConfig {
    /// `postgres://HOST:PORT/DATABASE`, or anything else that libpq takes.
    pub url: String,
    /// Overrides the URL's user.
    pub user: Option<String>,
    /// Overrides the URL's password.
    pub password: Option<String>,
    /// TLS, always with the server's certificate checked. `sslmode=require` in the URL means the same.
    pub tls: bool,
    /// The certificates to trust, as PEM; the machine's own where there are none.
    pub ca_pem: Option<Vec<u8>>,
    /// Connections for transactions. Up to half as many (2 to 16) for finishes and look-ups come on top, and three more.
    pub pool_max: usize,
    /// The longest that opening a connection may take.
    pub connect_timeout: Duration,
}

impl PostgresConfig {
    /// The defaults: no TLS, 16 connections, 5 seconds to connect.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            user: None,
            password: None,
            tls: false,
            ca_pem: None,
            pool_max: 16,
            connect_timeout: Duration::from_secs(5),
        }
    }

    /// Whether the URL can be read, so that a mistake is found at start and not at the first transaction.
    ///
    /// # Errors
    /// What is wrong with it, without the password.
    pub fn check(&self) -> Result<(), String> {
        connect::parse(self).map(drop)
    }
}

impl fmt::Debug for PostgresConfig {
    /// Without the secrets: the URL may hold one too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig").field("user", &self.user).field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// A PostgreSQL database as a participant.
pub struct Postgres {
    inner: Arc<Inner>,
}

/// What sessions share with their store.
struct Inner {
    name: StoreName,
    connector: Arc<Connector>,
    /// For transactions.
    work: Arc<Pool>,
    /// For single statements of ours.
    admin: Arc<Pool>,
    /// For looking at what the others wait for.
    watch: Arc<Pool>,
    /// For the deadlock detector alone.
    lookout: Arc<Pool>,
    /// Which connection of `work` serves which run.
    seats: Arc<Seats<Backend>>,
    /// Who registered last: calls that are given no owner speak in its name.
    owner: Mutex<Option<LogOwner>>,
    /// As the last probe found it; hoped for before the first.
    can_prepare: AtomicBool,
}

impl Postgres {
    /// The participant `name`. Does no I/O: what is wrong with the configuration shows at the first connect.
    #[must_use]
    pub fn new(name: StoreName, config: PostgresConfig) -> Arc<Self> {
        let connector = Arc::new(Connector::new(name.clone(), &config));
        let pool = |purpose, max| Pool::new(name.clone(), connector.clone(), purpose, max);
        let inner = Inner {
            work: pool(Purpose::Work, config.pool_max),
            admin: pool(Purpose::Admin, config.pool_max.div_ceil(2).clamp(2, 16)),
            watch: pool(Purpose::Admin, 2),
            lookout: pool(Purpose::Admin, 1),
            seats: Seats::new(),
            connector,
            name,
            owner: Mutex::default(),
            can_prepare: AtomicBool::new(true),
        };
        Arc::new(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    /// The name for connections of calls that are given no owner.
    fn session_name(&self) -> String {
        let owner = *self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        owner.map_or_else(|| "outrigger".to_owned(), |owner| owner.session_name())
    }

    /// One statement of ours (or a few that stand alone), on a connection in `owner`'s name, within bounds. Every
    /// statement commits by itself.
    async fn admin<T, F>(&self, owner: Option<LogOwner>, act: F) -> Result<T, Setback>
    where
        F: AsyncFnOnce(&connect::Conn) -> Result<T, Setback>,
    {
        on(&self.admin, &owner.map_or_else(|| self.session_name(), |owner| owner.session_name()), ADMIN_WAIT, act).await
    }

    /// The same, without having to wait behind acts that block.
    async fn watch<T, F>(&self, act: F) -> Result<T, Setback>
    where
        F: AsyncFnOnce(&connect::Conn) -> Result<T, Setback>,
    {
        on(&self.watch, &self.session_name(), ADMIN_WAIT, act).await
    }

    /// Ends the server's process `pid` if it still is the session of that name, and waits until it is gone.
    async fn end_backend(&self, pid: i32, session_name: &str) -> Result<(), Setback> {
        self.watch(async |conn| {
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND application_name = $2";
            loop {
                let rows =
                    conn.client.query(sql, &[&pid, &session_name]).await.map_err(|error| errors::again(&error))?;
                if rows.is_empty() {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }
}

/// Lends a connection of `pool` to `act` for at most `limit`; it goes back where every answer has arrived.
async fn on<T, F>(pool: &Arc<Pool>, session_name: &str, limit: Duration, act: F) -> Result<T, Setback>
where
    F: AsyncFnOnce(&connect::Conn) -> Result<T, Setback>,
{
    let until = Instant::now() + limit;
    let acting = async {
        let got: Result<Pooled, Problem> = pool.get(session_name, until).await;
        let mut conn = got.map_err(|problem| Setback::Again(problem.detail))?;
        conn.at_rest = false;
        let result = act(&conn).await;
        conn.at_rest = true;
        result
    };
    tokio::time::timeout_at(until, acting)
        .await
        .unwrap_or_else(|_| Err(Setback::Again(format!("no answer within {limit:?}"))))
}

const PROBE: &str = "SELECT current_setting('server_version'), current_setting('max_prepared_transactions')::int,
    current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on', pg_is_in_recovery()";

#[async_trait]
impl Store for Postgres {
    fn name(&self) -> &StoreName {
        &self.inner.name
    }

    fn kind(&self) -> &'static str {
        "postgres"
    }

    async fn probe(&self, init: bool) -> Result<Probe, Problem> {
        let inner = &self.inner;
        let mut conn = inner.connector.connect(&inner.session_name(), Purpose::Admin).await?;
        conn.at_rest = false;
        let refused = |error: tokio_postgres::Error| errors::problem(&inner.name, &error);
        let row = conn.client.query_one(PROBE, &[]).await.map_err(refused)?;
        let version: String = row.try_get(0).map_err(refused)?;
        let slots: i32 = row.try_get(1).map_err(refused)?;
        let (fsync, pages): (bool, bool) = (row.try_get(2).map_err(refused)?, row.try_get(3).map_err(refused)?);
        if row.try_get(4).map_err(refused)? {
            return Err(Problem::unavailable(&inner.name, "the server is a standby and takes no writes"));
        }
        schema::ensure(&inner.name, &conn.client, init).await?;
        let mut warnings = Vec::new();
        if slots == 0 {
            let cost = "it cannot promise to commit, so at most it can decide; set it and restart PostgreSQL";
            warnings.push(format!("max_prepared_transactions is 0: {cost}"));
        }
        for (on, name) in [(fsync, "fsync"), (pages, "full_page_writes")] {
            if !on {
                warnings
                    .push(format!("{name} is off: a crash of the machine can lose or damage committed transactions"));
            }
        }
        if let Err(Setback::Again(why) | Setback::Final(why)) = inner.rehearse_look().await {
            warnings.push(format!("deadlocks that run through it will not be seen: {why}"));
        }
        inner.can_prepare.store(slots > 0, Ordering::Relaxed);
        conn.at_rest = true;
        inner.admin.adopt(conn);
        Ok(Probe { version, powers: self.powers(), warnings })
    }

    fn powers(&self) -> Powers {
        Powers { prepare: self.inner.can_prepare.load(Ordering::Relaxed), mark: true, redo: false }
    }

    async fn open(&self, context: &TxnContext, role: Role) -> Result<Box<dyn Session>, Problem> {
        if role == Role::Redoer {
            return Err(Problem::new(Code::Internal, "PostgreSQL has no redo writes").in_store(&self.inner.name));
        }
        let mut conn = self.inner.work.get(&context.owner.session_name(), context.deadline).await?;
        conn.sit(&self.inner.seats, context.run);
        Ok(Box::new(session::PgSession::new(self.inner.clone(), conn, context.clone(), role)))
    }

    fn marks(&self) -> Option<&dyn Marks> {
        Some(self)
    }

    fn prepares(&self) -> Option<&dyn Prepares> {
        Some(self)
    }

    fn redoes(&self) -> Option<&dyn Redoes> {
        None
    }

    fn blockers(&self) -> Option<&dyn Blockers> {
        Some(self)
    }

    fn audits(&self) -> Option<&dyn Audits> {
        Some(self)
    }
}
