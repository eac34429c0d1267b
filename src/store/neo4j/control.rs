//! Short statements of our own, apart from the users' connections: they must get through when every one of those waits
//! for a lock. Here is also what the server says of its open transactions, and how one of them is ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use neo4rs::{BoltType, Error, Query, query};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::errors::Fault;
use super::link::{Breaks, Links};
use super::values::Row;
use super::{Neo4jConfig, TAG};

/// How long one of our own statements may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a look for deadlocks may take.
const LOOK: Duration = Duration::from_secs(2);

const SHOW: &str = "SHOW TRANSACTIONS YIELD transactionId, parameters, status, username, clientAddress, startTime, \
     currentQuery, currentQueryWaitTime, pageHits, pageFaults, activeLockCount \
     RETURN transactionId AS id, parameters.__ogr AS tag, status, username AS user, clientAddress AS address, \
     datetime(startTime).epochMillis AS started, currentQuery <> '' AS running, \
     pageHits, pageFaults, activeLockCount, currentQueryWaitTime.milliseconds AS waited";

/// One open transaction, as the server lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct OpenTxn {
    /// `neo4j-transaction-13`.
    pub(super) id: String,
    /// The tag of its running statement; an idle transaction shows none.
    pub(super) tag: Option<String>,
    /// Who.
    pub(super) user: String,
    /// From where, without the port.
    pub(super) host: String,
    /// When it began: milliseconds since 1970 on the store's clock.
    pub(super) started: i64,
    /// Whether a statement runs in it.
    pub(super) running: bool,
    /// Whether it was told to end. It stays in the list until its client speaks again, and can commit no more unless
    /// its commit had begun.
    pub(super) terminated: bool,
    /// Its page hits, page faults and locks: they change when it does anything.
    pub(super) traces: [i64; 3],
    /// The transactions that it waits for.
    pub(super) blocked_by: Vec<String>,
    /// For how long its statement has waited for locks, where the server says so.
    pub(super) waited: Option<Duration>,
}

/// The side entrance.
pub(super) struct Control {
    address: String,
    links: Arc<Links>,
    spare: Arc<Links>,
    /// For the deadlock detector alone.
    lookout: Arc<Links>,
    breaks: Breaks,
}

impl Control {
    pub(super) fn new(config: &Neo4jConfig, breaks: &Breaks) -> Self {
        let links = |most| Links::new(config, most, breaks);
        let breaks = breaks.clone();
        Self { address: config.address(), links: links(4), spare: links(2), lookout: links(1), breaks }
    }

    /// Runs one statement of ours in a transaction of its own and commits it. Dropped midway, its connection closes.
    pub(super) async fn ask(&self, query: Query) -> Result<Vec<Row>, Fault> {
        self.ask_within(&self.links, PATIENCE, vec![query]).await
    }

    /// Several statements in one transaction; answers the rows of the last.
    pub(super) async fn ask_all(&self, queries: Vec<Query>) -> Result<Vec<Row>, Fault> {
        self.ask_within(&self.links, PATIENCE, queries).await
    }

    /// The same with another bound: for statements that may wait for a lock.
    pub(super) async fn ask_for(&self, patience: Duration, query: Query) -> Result<Vec<Row>, Fault> {
        self.ask_within(&self.links, patience, vec![query]).await
    }

    /// The same for whoever looks for deadlocks.
    pub(super) async fn look(&self, query: Query) -> Result<Vec<Row>, Fault> {
        self.ask_within(&self.lookout, LOOK, vec![query]).await
    }

    async fn ask_within(&self, links: &Arc<Links>, patience: Duration, queries: Vec<Query>) -> Result<Vec<Row>, Fault> {
        let deadline = Instant::now() + patience;
        let Some(mut link) = links.take(deadline).await? else { return Err(Fault::Deadline) };
        let exchange = async {
            link.begin().await?;
            let mut rows = Vec::new();
            for query in queries {
                rows = link.pull(query).await?.rows;
            }
            link.commit().await?;
            Ok(rows)
        };
        match tokio::time::timeout_at(deadline, exchange).await {
            Ok(Ok(rows)) => {
                link.give_back();
                Ok(rows)
            }
            Ok(Err(error @ Error::Neo4j(_))) => {
                link.mend().await;
                Err(Fault::Driver(error))
            }
            Ok(Err(error)) => Err(Fault::Driver(error)),
            Err(_) => Err(Fault::Deadline),
        }
    }

    /// Rolls back whatever these statements did, and answers the rows of the last.
    pub(super) async fn rehearse(&self, query: Query) -> Result<Vec<Row>, Fault> {
        let Some(mut link) = self.links.take(Instant::now() + PATIENCE).await? else { return Err(Fault::Deadline) };
        let exchange = async {
            link.begin().await?;
            link.pull(query).await
        };
        let done = timeout(PATIENCE, exchange).await.map_err(|_| Fault::Deadline)??;
        link.rollback().await;
        Ok(done.rows)
    }

    /// Whether anybody listens at the server's address. Finds a dead server in a moment where a statement would wait.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn reach(&self, within: Duration) -> Result<(), Fault> {
        let error = match timeout(within, TcpStream::connect(&self.address)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(detail)) => Error::IOError { detail },
            Err(_) => Error::ConnectionTimedOut,
        };
        self.breaks.fetch_add(1, Ordering::Relaxed);
        Err(Fault::Driver(error))
    }

    /// Every open transaction, our own asking included: it carries `tag`.
    pub(super) async fn open_transactions(&self, tag: &str) -> Result<Vec<OpenTxn>, Fault> {
        let rows = self.ask_within(&self.spare, PATIENCE, vec![query(SHOW).param(TAG, tag)]).await?;
        Ok(rows.iter().filter_map(open_txn).collect())
    }

    /// Ends these transactions. One that is gone already, or just committing, is left as it is.
    pub(super) async fn terminate(&self, ids: &[String]) -> Result<(), Fault> {
        if ids.is_empty() {
            return Ok(());
        }
        let terminate = "TERMINATE TRANSACTIONS $ids YIELD message RETURN count(message) AS n";
        self.ask_within(&self.spare, PATIENCE, vec![query(terminate).param("ids", ids.to_vec())]).await.map(|_| ())
    }

    /// Ends the transaction whose running statement carries `tag`.
    pub(super) async fn terminate_tagged(&self, tag: &str) -> Result<(), Fault> {
        let open = self.open_transactions("").await?;
        let ids: Vec<_> = open.into_iter().filter(|txn| txn.tag.as_deref() == Some(tag)).map(|txn| txn.id).collect();
        self.terminate(&ids).await
    }
}

fn open_txn(row: &Row) -> Option<OpenTxn> {
    let status = text(row, "status").unwrap_or_default();
    Some(OpenTxn {
        id: text(row, "id")?,
        tag: text(row, "tag"),
        user: text(row, "user").unwrap_or_default(),
        host: host_of(&text(row, "address").unwrap_or_default()),
        started: whole(row, "started").unwrap_or(i64::MAX),
        running: matches!(row.get("running"), Some(BoltType::Boolean(running)) if running.value),
        terminated: status.starts_with("Terminated"),
        traces: ["pageHits", "pageFaults", "activeLockCount"].map(|column| whole(row, column).unwrap_or(0)),
        blocked_by: blockers(&status),
        waited: whole(row, "waited").and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis),
    })
}

/// `Blocked by: [neo4j-transaction-13, neo4j-transaction-14]`.
pub(super) fn blockers(status: &str) -> Vec<String> {
    let Some(list) = status.strip_prefix("Blocked by:") else { return Vec::new() };
    let list = list.trim().trim_start_matches('[').trim_end_matches(']');
    list.split(',').map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

/// `127.0.0.1:57602` and `[::1]:57602` without the port.
fn host_of(address: &str) -> String {
    address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned()
}

/// A text column.
pub(super) fn text(row: &Row, column: &str) -> Option<String> {
    match row.get(column) {
        Some(BoltType::String(text)) => Some(text.value.clone()),
        _ => None,
    }
}

/// An integer column.
pub(super) fn whole(row: &Row, column: &str) -> Option<i64> {
    match row.get(column) {
        Some(BoltType::Integer(whole)) => Some(whole.value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blockers_are_read_from_the_status() {
        assert_eq!(blockers("Running"), Vec::<String>::new());
        assert_eq!(blockers("Blocked by: []"), Vec::<String>::new());
        assert_eq!(blockers("Blocked by: [neo4j-transaction-13, a-2]"), ["neo4j-transaction-13", "a-2"]);
    }

    #[test]
    fn hosts_lose_their_port() {
        assert_eq!(host_of("127.0.0.1:57602"), "127.0.0.1");
        assert_eq!(host_of("[::1]:1"), "[::1]");
        assert_eq!(host_of(""), "");
    }
}
