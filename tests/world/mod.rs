//! What the end-to-end suites share: real stores, a sidecar as a child process, a client, and an audit that looks into
//! the three stores without asking the sidecar.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each suite uses its own part, and a test crate has no outside"
)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use qdrant_client::Qdrant;
use qdrant_client::qdrant::{CreateCollectionBuilder, Distance, ScrollPointsBuilder, VectorParamsBuilder};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use xtask::sidecar::{Launch, Sidecar};
use xtask::stack::{Stack, Store};

/// Real stores with a place of this test's own in each: a table, a label and a collection of the same name.
pub struct World {
    pub stack: Stack,
    pub name: String,
    dir: tempfile::TempDir,
    http: reqwest::Client,
}

/// Status, headers and body of an answer.
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Reply {
    pub fn state(&self) -> &str {
        self.body["state"].as_str().unwrap_or("")
    }

    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }

    #[track_caller]
    pub fn must_be(&self, status: u16, word: &str) {
        let seen = if self.code().is_empty() { self.state() } else { self.code() };
        assert_eq!((self.status, seen), (status, word), "{:#}", self.body);
    }
}

/// What the three stores hold of the ids that this test wrote.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Audit {
    pub rows: BTreeSet<i64>,
    pub nodes: BTreeSet<i64>,
    pub points: BTreeSet<i64>,
}

impl Audit {
    /// Ids that are in some stores and not in all.
    pub fn orphans(&self) -> BTreeSet<i64> {
        let all: BTreeSet<i64> = self.rows.iter().chain(&self.nodes).chain(&self.points).copied().collect();
        let whole = |id: &i64| self.rows.contains(id) && self.nodes.contains(id) && self.points.contains(id);
        all.into_iter().filter(|id| !whole(id)).collect()
    }
}

impl World {
    /// On the stack that all suites share.
    pub async fn new(test: &str) -> World {
        let stack = tokio::task::spawn_blocking(|| Stack::for_tests("e2e", xtask::stack::Wanted::all()));
        World::on(stack.await.unwrap().expect("the stack comes up"), test).await
    }

    /// On a given stack.
    pub async fn on(stack: Stack, test: &str) -> World {
        let name = format!("{test}_{:08x}", rand::random::<u32>());
        let http = reqwest::Client::builder().pool_max_idle_per_host(64).build().unwrap();
        let world = World { stack, name, dir: tempfile::tempdir().unwrap(), http };
        let n = &world.name;
        world.sql(&format!(
            "CREATE TABLE {n} (id bigint PRIMARY KEY, title text NOT NULL, version int NOT NULL DEFAULT 1)"
        ));
        world.cypher(&format!("CREATE CONSTRAINT {n} IF NOT EXISTS FOR (n:{n}) REQUIRE n.id IS UNIQUE"));
        let vectors = VectorParamsBuilder::new(4, Distance::Dot);
        let collection = CreateCollectionBuilder::new(n).vectors_config(vectors);
        world.qdrant().create_collection(collection).await.unwrap();
        world
    }

    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub fn sql(&self, script: &str) -> String {
        self.stack.sql(script).unwrap()
    }

    pub fn cypher(&self, text: &str) -> Vec<Vec<Value>> {
        self.stack.bolt().unwrap().run(text, json!({})).unwrap()
    }

    pub fn qdrant(&self) -> Qdrant {
        let login = self.stack.login(Store::Qdrant).unwrap();
        Qdrant::from_url(&login.url).skip_compatibility_check().build().unwrap()
    }

    /// How this test's sidecar is started: the same journal and ports each time.
    pub fn launch(&self) -> Launch {
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_outrigger"));
        Launch::over(binary, &self.stack.sidecar_config(), self.dir.path()).unwrap()
    }

    /// How another sidecar over the same stores is started: with a journal and ports of its own.
    pub fn launch_beside(&self, name: &str) -> Launch {
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_outrigger"));
        Launch::over(binary, &self.stack.sidecar_config(), &self.dir.path().join(name)).unwrap()
    }

    /// Started and ready, every store open.
    pub async fn start(&self, launch: &Launch) -> Sidecar {
        let launch = launch.clone();
        let started = tokio::task::spawn_blocking(move || {
            let mut sidecar = launch.start()?;
            sidecar.wait_ready(Duration::from_secs(20))?;
            anyhow::Ok(sidecar)
        });
        let sidecar = started.await.unwrap().unwrap();
        self.until(Duration::from_secs(20), "all stores are up", async || {
            let status = self.get(&sidecar, "/v1/status").await.body;
            status["stores"].as_object().is_some_and(|stores| stores.values().all(|store| store["state"] == "up"))
        })
        .await;
        sidecar
    }

    pub async fn get(&self, sidecar: &Sidecar, path: &str) -> Reply {
        let answer = self.http.get(format!("{}{path}", sidecar.url())).send().await.unwrap();
        read(answer).await
    }

    /// Its metrics, as Prometheus reads them.
    pub async fn metrics(&self, sidecar: &Sidecar) -> String {
        let url = format!("http://{}/metrics", sidecar.launch().porch);
        self.http.get(url).send().await.unwrap().text().await.unwrap()
    }

    /// # Errors
    /// The sidecar died or hung up: nothing is known.
    pub async fn post(&self, url: &str, body: &Value, key: Option<&str>) -> Result<Reply, reqwest::Error> {
        let mut request = self.http.post(format!("{url}/v1/transactions")).json(body);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        Ok(read(request.send().await?).await)
    }

    /// A call to an open transaction: `operations`, `prepare`, `commit`, `rollback`.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub async fn call(&self, url: &str, id: &str, what: &str, body: &Value) -> Result<Reply, reqwest::Error> {
        let request = self.http.post(format!("{url}/v1/transactions/{id}/{what}")).json(body);
        Ok(read(request.send().await?).await)
    }

    pub async fn submit(&self, sidecar: &Sidecar, body: &Value) -> Reply {
        self.post(&sidecar.url(), body, None).await.expect("the sidecar answers")
    }

    pub async fn send_raw(&self, sidecar: &Sidecar, content_type: &str, body: Vec<u8>) -> Reply {
        let request = self.http.post(format!("{}/v1/transactions", sidecar.url()));
        read(request.header("content-type", content_type).body(body).send().await.unwrap()).await
    }

    /// An operation that inserts the row `id`.
    pub fn row(&self, id: i64) -> Value {
        let sql = format!("INSERT INTO {}(id, title) VALUES ($1, $2) RETURNING id", self.name);
        json!({"id": "row", "store": "pg", "sql": sql, "params": [id, format!("title {id}")]})
    }

    /// One that creates the node `id`.
    pub fn node(&self, id: &Value) -> Value {
        let cypher = format!("CREATE (n:{} {{id: $id}})", self.name);
        json!({"id": "node", "store": "graph", "cypher": cypher, "params": {"id": id}})
    }

    /// One that upserts the point `id`.
    pub fn point(&self, id: &Value) -> Value {
        let points = json!([{"id": id, "vector": [0.1, 0.2, 0.3, 0.4], "payload": {"title": "t"}}]);
        json!({"id": "point", "store": "vectors", "collection": self.name, "upsert": {"points": points}})
    }

    /// A document in the given stores, by their names in the plan: `pg`, `graph`, `vectors`.
    pub fn document(&self, id: i64, stores: &[&str]) -> Value {
        let of_row = if stores.contains(&"pg") { json!({"$ref": "row#/rows/0/id"}) } else { json!(id) };
        let operations: Vec<Value> = stores
            .iter()
            .map(|store| match *store {
                "pg" => self.row(id),
                "graph" => self.node(&of_row),
                _ => self.point(&of_row),
            })
            .collect();
        json!({"operations": operations, "timeout_ms": 20000})
    }

    /// What the stores hold now.
    pub async fn audit(&self) -> Audit {
        let rows = self.sql(&format!("SELECT id FROM {} ORDER BY id", self.name));
        let nodes = self.cypher(&format!("MATCH (n:{}) RETURN n.id", self.name));
        let mut points = BTreeSet::new();
        let (qdrant, mut offset) = (self.qdrant(), None);
        loop {
            let mut scroll = ScrollPointsBuilder::new(&self.name).limit(1000);
            if let Some(offset) = offset {
                scroll = scroll.offset(offset);
            }
            let page = qdrant.scroll(scroll).await.unwrap();
            points.extend(page.result.iter().filter_map(|point| match point.id.as_ref()?.point_id_options.as_ref()? {
                qdrant_client::qdrant::point_id::PointIdOptions::Num(n) => i64::try_from(*n).ok(),
                qdrant_client::qdrant::point_id::PointIdOptions::Uuid(_) => None,
            }));
            offset = page.next_page_offset;
            if offset.is_none() {
                break;
            }
        }
        Audit {
            rows: rows.split_whitespace().filter_map(|id| id.parse().ok()).collect(),
            nodes: nodes.iter().filter_map(|row| row[0].as_i64()).collect(),
            points,
        }
    }

    /// Prepared transactions that any log of ours left in PostgreSQL for this sidecar's log.
    pub async fn prepared(&self, sidecar: &Sidecar) -> usize {
        let log = self.get(sidecar, "/v1/status").await.body["log"]["id"].as_str().unwrap().to_owned();
        let count = self.sql(&format!("SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'ogr1:{log}:%'"));
        count.trim().parse().unwrap()
    }

    /// Waits until recovery has ended everything that the last start found.
    pub async fn recovered(&self, sidecar: &Sidecar) -> Value {
        let mut report = Value::Null;
        self.until(Duration::from_secs(30), "recovery is done", async || {
            let status = self.get(sidecar, "/v1/status").await.body;
            report = status["recovery"].clone();
            let open = status["transactions"].as_object().unwrap().values().all(|count| *count == 0);
            open && report["remaining"] == 0
        })
        .await;
        report
    }

    /// Polls `done` until it holds; answers how long that took.
    #[track_caller]
    pub fn until(
        &self,
        limit: Duration,
        what: &str,
        mut done: impl AsyncFnMut() -> bool,
    ) -> impl Future<Output = Duration> {
        let what = what.to_owned();
        async move {
            let began = Instant::now();
            while !done().await {
                assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            began.elapsed()
        }
    }
}

async fn read(answer: reqwest::Response) -> Reply {
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let text = answer.text().await.unwrap_or_default();
    Reply { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
}
