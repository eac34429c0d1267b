//! Accounts that stand as a row and as a node, the operations that lock one of them, and what became of a deadlock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use xtask::sidecar::{Launch, Sidecar};

use crate::world::{Reply, World};

/// How many accounts there are, numbered from 1.
pub const ACCOUNTS: i64 = 10;
/// No answer takes longer: a circle that only a lock's wait bound (10 s) ends has been missed.
pub const MUCH_SOONER: Duration = Duration::from_secs(5);

/// A bank and the sidecar before it.
pub struct Bank {
    pub world: Arc<World>,
    pub sidecar: Sidecar,
}

impl Bank {
    pub async fn open(test: &str) -> Bank {
        Self::with(test, |_, launch| launch).await
    }

    /// With another configuration.
    pub async fn with(test: &str, change: impl FnOnce(&World, Launch) -> Launch) -> Bank {
        let world = World::new(test).await;
        let n = &world.name;
        world.sql(&format!(
            "INSERT INTO {n}(id, title, version) SELECT i, 'a', 0 FROM generate_series(1, {ACCOUNTS}) i"
        ));
        world.cypher(&format!("UNWIND range(1, {ACCOUNTS}) AS i CREATE (:{n} {{id: i, balance: 0}})"));
        let launch = change(&world, world.launch());
        let sidecar = world.start(&launch).await;
        Bank { world: Arc::new(world), sidecar }
    }

    /// Adds `by` to an account's row, and naps (milliseconds) with its lock.
    pub fn row(&self, id: &str, account: i64, by: i64, nap: u32, after: Option<&str>) -> Value {
        let sql = format!(
            "WITH u AS (UPDATE {} SET version = version + $2 WHERE id = $1 RETURNING id) \
             SELECT id, pg_sleep($3::float8 / 1000)::text FROM u WHERE $4::bigint IS NOT NULL",
            self.world.name
        );
        json!({"id": id, "store": "pg", "sql": sql, "params": [account, by, nap, behind(after)]})
    }

    /// Adds `by` to an account's node.
    pub fn node(&self, id: &str, account: i64, by: i64, after: Option<&str>) -> Value {
        let cypher =
            format!("MATCH (n:{} {{id: $id}}) SET n.balance = n.balance + $by RETURN n.id AS id", self.world.name);
        let params = json!({"id": account, "by": by, "after": behind(after)});
        json!({"id": id, "store": "graph", "cypher": cypher, "params": params})
    }

    /// Sends them as one transaction, in a task of its own.
    pub fn send(&self, operations: Value) -> JoinHandle<Reply> {
        self.send_all_of(json!({"operations": operations, "timeout_ms": 20000}))
    }

    pub fn send_all_of(&self, body: Value) -> JoinHandle<Reply> {
        let (world, url) = (self.world.clone(), self.sidecar.url());
        tokio::spawn(async move { world.post(&url, &body, None).await.expect("the sidecar answers") })
    }

    /// Waits until somebody holds these accounts' rows.
    pub async fn held(&self, accounts: &[i64]) {
        for account in accounts {
            let n = &self.world.name;
            let look =
                format!("SELECT count(*) FROM (SELECT FROM {n} WHERE id = {account} FOR UPDATE SKIP LOCKED) AS free");
            self.world.until(MUCH_SOONER, "the row is held", async || self.world.sql(&look).trim() == "0").await;
        }
    }

    /// An account's row and node.
    pub fn balances(&self, account: i64) -> (i64, i64) {
        let n = &self.world.name;
        let row = self.world.sql(&format!("SELECT version FROM {n} WHERE id = {account}"));
        let node = self.world.cypher(&format!("MATCH (n:{n} {{id: {account}}}) RETURN n.balance"));
        (row.trim().parse().unwrap(), node[0][0].as_i64().unwrap())
    }

    pub async fn deadlocks(&self) -> Vec<Value> {
        self.world.get(&self.sidecar, "/v1/deadlocks").await.body["deadlocks"].as_array().unwrap().clone()
    }

    /// Awaits all of a circle: one is the victim and is told the circle, the others commit. Answers the record of it.
    pub async fn one_victim(&self, sent: Vec<JoinHandle<Reply>>, sources: &[&str]) -> Value {
        let number = sent.len();
        let mut lost = Vec::new();
        for one in sent {
            let reply = tokio::time::timeout(MUCH_SOONER, one).await.expect("the circle is broken").unwrap();
            match reply.code() {
                "" => reply.must_be(200, "committed"),
                _ => lost.push(reply),
            }
        }
        let [victim] = lost.as_slice() else {
            let bodies: Vec<&Value> = lost.iter().map(|reply| &reply.body).collect();
            panic!("{} of {number} gave way: {bodies:#?}", lost.len())
        };
        victim.must_be(409, "deadlock");
        assert_eq!(victim.body["retryable"], true);
        let records = self.deadlocks().await;
        let [record] = records.as_slice() else { panic!("not one deadlock: {records:#?}") };
        assert_eq!(record["victim"], victim.body["transaction"], "{record:#}");
        assert_eq!(record["cycle"].as_array().map(Vec::len), victim.body["cycle"].as_array().map(Vec::len));
        check_circle(record);
        let seen: BTreeSet<&str> = edges(record).iter().map(|edge| edge["source"].as_str().unwrap()).collect();
        assert_eq!(seen, sources.iter().copied().collect(), "{record:#}");
        println!("{number} in a circle over {sources:?}, broken after {} ms", record["broken_after_ms"]);
        record.clone()
    }
}

/// What makes an operation wait for another's result.
fn behind(after: Option<&str>) -> Value {
    after.map_or_else(|| json!(0), |id| json!({"$ref": format!("{id}#/rows/0/id")}))
}

pub fn edges(record: &Value) -> &[Value] {
    record["cycle"].as_array().expect("a circle has edges")
}

/// Each waits for the next, the last for the first, and the victim is one of them.
pub fn check_circle(record: &Value) {
    let edges = edges(record);
    assert!(edges.len() >= 2, "{record:#}");
    for (at, edge) in edges.iter().enumerate() {
        assert_eq!(edge["holder"], edges[(at + 1) % edges.len()]["waiter"], "{record:#}");
        assert!(edge["resource"].as_str().is_some_and(|resource| !resource.is_empty()), "{record:#}");
    }
    let waiters: BTreeSet<&str> = edges.iter().map(|edge| edge["waiter"].as_str().unwrap()).collect();
    assert_eq!(waiters.len(), edges.len(), "nobody stands in it twice: {record:#}");
    assert!(waiters.contains(record["victim"].as_str().unwrap()), "{record:#}");
}
