//! The process that writes directly. It reads its task from standard input, and prints `index id;` for each document
//! that all three stores have acknowledged. It ends when it has written all, and when standard input closes.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use neo4rs::{ConfigBuilder, Graph, query};
use qdrant_client::qdrant::{PointStruct, UpdateStatus, UpsertPointsBuilder};
use qdrant_client::{Payload, Qdrant};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};
use xtask::stack::Login;

use crate::corpus::Document;
use crate::embed;
use crate::place::{self, DIRECT};
use crate::queue::Queue;

/// What it is told.
#[derive(Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) postgres: Login,
    pub(crate) neo4j: Login,
    pub(crate) qdrant: Login,
    pub(crate) documents: Vec<Document>,
    /// Indexes of those that were acknowledged before.
    pub(crate) done: Vec<usize>,
    pub(crate) writers: usize,
    pub(crate) seed: u64,
}

struct Shared {
    documents: Vec<Document>,
    queue: Queue,
    graph: Graph,
    qdrant: Qdrant,
}

/// The process's `main`.
pub(crate) async fn run() -> Result<()> {
    let mut stdin = BufReader::new(tokio::io::stdin());
    let mut line = String::new();
    stdin.read_line(&mut line).await.context("reading the task")?;
    let task: Task = serde_json::from_str(&line).context("reading the task")?;
    tokio::select! {
        written = write_all(task) => written,
        // Whoever started us is gone.
        _ = async { while stdin.read_u8().await.is_ok() {} } => Ok(()),
    }
}

async fn write_all(task: Task) -> Result<()> {
    let Login { url, user, password, .. } = &task.neo4j;
    let config = ConfigBuilder::default().uri(url).user(user).password(password).db("neo4j");
    let graph = Graph::connect(config.max_connections(task.writers).build()?).context("Neo4j's address")?;
    let qdrant = place::qdrant(&task.qdrant)?;
    let queue = Queue::new(&task.documents, task.done, task.seed);
    let shared = Arc::new(Shared { documents: task.documents, queue, graph, qdrant });
    let mut writers = JoinSet::new();
    for _ in 0..task.writers {
        let postgres = connect(&task.postgres).await?;
        let shared = shared.clone();
        writers.spawn(async move {
            while let Some(n) = shared.queue.take().await {
                let id = shared.write(&postgres, n).await?;
                // One write: a kill leaves all of the line in the pipe or none of it.
                let mut stdout = tokio::io::stdout();
                stdout.write_all(format!("{n} {id};\n").as_bytes()).await.context("acknowledging")?;
                stdout.flush().await.context("acknowledging")?;
                shared.queue.finish(n);
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.context("a writer panicked")??;
    }
    Ok(())
}

impl Shared {
    async fn write(&self, postgres: &Client, n: usize) -> Result<i64> {
        let document = &self.documents[n];
        let (synset, words) = (&document.synset, &document.words);
        let row = postgres.query_one(&DIRECT.insert(), &[synset, words, &document.gloss]).await;
        let id: i64 = row.with_context(|| format!("inserting {synset}"))?.get(0);

        let (kinds, to) = place::relations(&self.documents, n);
        let create = query(&DIRECT.create()).param("id", id).param("synset", synset.as_str());
        let create = create.param("words", words.clone()).param("kinds", kinds).param("to", to);
        // The driver repeats by itself what a deadlock ended.
        let mut rows = self.graph.execute(create).await.with_context(|| format!("creating {synset}"))?;
        while rows.next().await.with_context(|| format!("creating {synset}"))?.is_some() {}

        let payload = Payload::try_from(json!({"synset": synset, "words": words})).context("a payload")?;
        let point = PointStruct::new(id.unsigned_abs(), embed::embed(&document.text()), payload);
        let upsert = UpsertPointsBuilder::new(DIRECT.name, vec![point]).wait(true);
        let done = self.qdrant.upsert_points(upsert).await.with_context(|| format!("upserting {synset}"))?;
        let status = done.result.map(|result| result.status());
        ensure!(status == Some(UpdateStatus::Completed), "upserting {synset}: {status:?}");
        Ok(id)
    }
}

async fn connect(login: &Login) -> Result<Client> {
    let mut config: tokio_postgres::Config = login.url.parse().context("PostgreSQL's address")?;
    config.user(&login.user).password(&login.password);
    let (client, connection) = config.connect(NoTls).await.context("connecting to PostgreSQL")?;
    // Its end shows as an error of the next query.
    tokio::spawn(connection);
    Ok(client)
}
