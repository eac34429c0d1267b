//! Who writes: the drivers themselves, or the sidecar.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use neo4rs::{Graph, query};
use qdrant_client::Qdrant;
use qdrant_client::qdrant::{CreateCollectionBuilder, Distance, PointStruct, UpsertPointsBuilder, VectorParamsBuilder};
use serde_json::{Value, json};
use tokio_postgres::NoTls;
use xtask::stack::{Stack, Store};

const DIMENSIONS: usize = 128;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rung {
    DirectSequence,
    DirectParallel,
    DirectPostgres,
    DirectPostgresQdrant,
    Postgres,
    PostgresQdrant,
    AllThree,
}

impl Rung {
    pub(crate) const ALL: [Self; 7] = [
        Self::DirectSequence,
        Self::DirectParallel,
        Self::DirectPostgres,
        Self::DirectPostgresQdrant,
        Self::Postgres,
        Self::PostgresQdrant,
        Self::AllThree,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DirectSequence => "direct, three stores in sequence",
            Self::DirectParallel => "direct, three stores in parallel",
            Self::DirectPostgres => "direct, PostgreSQL",
            Self::DirectPostgresQdrant => "direct, PostgreSQL and Qdrant in parallel",
            Self::Postgres => "Outrigger, PostgreSQL",
            Self::PostgresQdrant => "Outrigger, PostgreSQL + Qdrant",
            Self::AllThree => "Outrigger, all three",
        }
    }

    /// The rung that writes the same without any promise.
    pub(crate) fn direct(self) -> Option<Self> {
        match self {
            Self::Postgres => Some(Self::DirectPostgres),
            Self::PostgresQdrant => Some(Self::DirectPostgresQdrant),
            Self::AllThree => Some(Self::DirectParallel),
            _ => None,
        }
    }
}

/// Tables, label and collection of this run, and how to reach them.
pub(crate) struct Place {
    postgres: String,
    graph: Graph,
    qdrant: Qdrant,
    door: String,
    next: AtomicI64,
}

impl Place {
    pub(crate) async fn make(stack: &Stack, door: &str) -> Result<Place> {
        stack.sql("CREATE TABLE doc (id bigint PRIMARY KEY, title text NOT NULL)")?;
        stack.bolt()?.run("CREATE CONSTRAINT doc IF NOT EXISTS FOR (n:Doc) REQUIRE n.id IS UNIQUE", json!({}))?;
        let login = stack.login(Store::Postgres)?;
        let authority = login.url.split_once("://").context("a URL")?.1;
        let postgres = format!("postgres://{}:{}@{authority}", login.user, login.password);
        let login = stack.login(Store::Neo4j)?;
        let config = neo4rs::ConfigBuilder::default()
            .uri(&login.url)
            .user(&login.user)
            .password(&login.password)
            .max_connections(32)
            .build()?;
        let graph = Graph::connect(config)?;
        let qdrant = Qdrant::from_url(&stack.login(Store::Qdrant)?.url).skip_compatibility_check().build()?;
        let vectors = VectorParamsBuilder::new(DIMENSIONS as u64, Distance::Cosine);
        qdrant.create_collection(CreateCollectionBuilder::new("doc").vectors_config(vectors)).await?;
        Ok(Place { postgres, graph, qdrant, door: door.to_owned(), next: AtomicI64::new(1) })
    }

    /// Ready means tried; writing needs all three open.
    pub(crate) async fn wait_open(&self) -> Result<()> {
        for _ in 0..1000 {
            let status: Value = reqwest::get(format!("{}/v1/status", self.door)).await?.json().await?;
            if status["stores"].as_object().is_some_and(|stores| stores.values().all(|store| store["state"] == "up")) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the sidecar's stores do not come up")
    }
}

/// One writer with connections of its own.
pub(crate) struct Client {
    place: Arc<Place>,
    rung: Rung,
    postgres: Option<(tokio_postgres::Client, tokio_postgres::Statement)>,
    http: reqwest::Client,
}

impl Client {
    pub(crate) async fn connect(place: Arc<Place>, rung: Rung) -> Result<Client> {
        let mut postgres = None;
        if rung.direct().is_none() {
            let (client, connection) = tokio_postgres::connect(&place.postgres, NoTls).await?;
            tokio::spawn(connection);
            let statement = client.prepare("INSERT INTO doc(id, title) VALUES ($1, $2)").await?;
            postgres = Some((client, statement));
        }
        Ok(Client { place, rung, postgres, http: reqwest::Client::new() })
    }

    /// Writes one document.
    pub(crate) async fn write(&mut self) -> Result<()> {
        let id = self.place.next.fetch_add(1, Ordering::Relaxed);
        match self.rung {
            Rung::DirectSequence => {
                self.row(id).await?;
                self.node(id).await?;
                self.point(id).await
            }
            Rung::DirectParallel => {
                futures::try_join!(self.row(id), self.node(id), self.point(id))?;
                Ok(())
            }
            Rung::DirectPostgres => self.row(id).await,
            Rung::DirectPostgresQdrant => {
                futures::try_join!(self.row(id), self.point(id))?;
                Ok(())
            }
            Rung::Postgres => self.transaction(id, 1).await,
            Rung::PostgresQdrant => self.transaction(id, 2).await,
            Rung::AllThree => self.transaction(id, 3).await,
        }
    }

    async fn row(&self, id: i64) -> Result<()> {
        let (client, statement) = self.postgres.as_ref().context("a direct rung has a connection")?;
        client.execute(statement, &[&id, &title(id)]).await?;
        Ok(())
    }

    async fn node(&self, id: i64) -> Result<()> {
        let mut txn = self.place.graph.start_txn().await?;
        txn.run(query("CREATE (n:Doc {id: $id, title: $title})").param("id", id).param("title", title(id))).await?;
        txn.commit().await?;
        Ok(())
    }

    async fn point(&self, id: i64) -> Result<()> {
        let payload = qdrant_client::Payload::try_from(json!({"title": title(id)}))?;
        let point = PointStruct::new(u64::try_from(id)?, vector(id), payload);
        self.place.qdrant.upsert_points(UpsertPointsBuilder::new("doc", vec![point]).wait(true)).await?;
        Ok(())
    }

    async fn transaction(&self, id: i64, stores: usize) -> Result<()> {
        let operations = [
            json!({"store": "pg", "sql": "INSERT INTO doc(id, title) VALUES ($1, $2)", "params": [id, title(id)]}),
            json!({"store": "vectors", "collection": "doc", "upsert":
                {"points": [{"id": id, "vector": vector(id), "payload": {"title": title(id)}}]}}),
            json!({"store": "graph", "cypher": "CREATE (n:Doc {id: $id, title: $title})",
                "params": {"id": id, "title": title(id)}}),
        ];
        let body = json!({"operations": operations[..stores]});
        let answer = self.http.post(format!("{}/v1/transactions", self.place.door)).json(&body).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        if status != 200 || !text.contains("\"state\":\"committed\"") {
            bail!("{status}: {text}");
        }
        Ok(())
    }
}

fn title(id: i64) -> String {
    format!("The document number {id}")
}

fn vector(id: i64) -> Vec<f32> {
    (0..DIMENSIONS).map(|n| ((id + n as i64) % 97) as f32 / 97.0 + 0.01).collect()
}
