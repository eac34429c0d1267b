//! The corpus through the sidecar: one transaction a document, asked again under its key until the answer is final.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Client;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::corpus::Document;
use crate::embed;
use crate::place::{self, SIDECAR};
use crate::queue::Queue;

/// While the sidecar is away, and while an outcome is open.
const ASK_AGAIN: Duration = Duration::from_millis(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// A document that gets no final answer for so long is a fault.
const DOCUMENT_LIMIT: Duration = Duration::from_secs(120);

/// What the clients were told.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Answers {
    /// Documents acknowledged as committed.
    pub(crate) committed: usize,
    /// Of those: the outcome of an earlier request whose answer was lost (`Idempotency-Replayed`).
    pub(crate) replayed: usize,
    /// Answers that said it did not happen (each was asked again).
    pub(crate) aborted: usize,
    /// Requests that got no answer: killed, or nobody there.
    pub(crate) lost: usize,
    /// Answers that it is decided but not everywhere yet, or not known yet.
    pub(crate) open: usize,
    /// Answers with a problem, by code.
    pub(crate) problems: BTreeMap<String, usize>,
}

/// What all writers share.
pub(crate) struct Ingestion {
    documents: Arc<Vec<Document>>,
    queue: Queue,
    http: Client,
    url: String,
    run: String,
    told: Mutex<(Answers, BTreeMap<usize, i64>)>,
}

impl Ingestion {
    /// Into the sidecar whose door is at `url`. Keys begin with `run`.
    pub(crate) fn new(documents: Arc<Vec<Document>>, url: String, run: String, seed: u64) -> Result<Arc<Ingestion>> {
        let http = Client::builder().timeout(ANSWER_LIMIT).build().context("making a client")?;
        let queue = Queue::new(&documents, [], seed);
        Ok(Arc::new(Ingestion { documents, queue, http, url, run, told: Mutex::default() }))
    }

    /// Starts the writers. Each ends when every document is written.
    pub(crate) fn start(self: &Arc<Self>, writers: usize) -> JoinSet<Result<()>> {
        let mut set = JoinSet::new();
        for _ in 0..writers {
            let ingestion = self.clone();
            set.spawn(async move {
                while let Some(n) = ingestion.queue.take().await {
                    let limit = tokio::time::timeout(DOCUMENT_LIMIT, ingestion.write(n)).await;
                    let name = &ingestion.documents[n].synset;
                    limit.with_context(|| format!("{name}: no final answer within {DOCUMENT_LIMIT:?}"))??;
                    ingestion.queue.finish(n);
                }
                Ok(())
            });
        }
        set
    }

    /// What was told so far.
    pub(crate) fn answers(&self) -> Answers {
        self.told(|answers, _| answers.clone())
    }

    /// Index and id of every acknowledged document.
    pub(crate) fn acknowledged(&self) -> BTreeMap<usize, i64> {
        self.told(|_, ids| ids.clone())
    }

    /// How many are acknowledged.
    pub(crate) fn written(&self) -> usize {
        self.told(|answers, _| answers.committed)
    }

    fn told<T>(&self, act: impl FnOnce(&mut Answers, &mut BTreeMap<usize, i64>) -> T) -> T {
        let (answers, ids) = &mut *self.told.lock().unwrap_or_else(PoisonError::into_inner);
        act(answers, ids)
    }

    async fn write(&self, n: usize) -> Result<()> {
        let body = transaction(&self.documents, n);
        let key = format!("{}:{}", self.run, self.documents[n].synset);
        loop {
            if self.ask(n, &body, &key).await? {
                return Ok(());
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Is the answer final?
    async fn ask(&self, n: usize, body: &Value, key: &str) -> Result<bool> {
        let request = self.http.post(format!("{}/v1/transactions", self.url)).json(body);
        let Ok(answer) = request.header("Idempotency-Key", key).send().await else {
            self.told(|answers, _| answers.lost += 1);
            return Ok(false);
        };
        let (status, replayed) = (answer.status().as_u16(), answer.headers().contains_key("idempotency-replayed"));
        let Ok(body) = answer.json::<Value>().await else {
            self.told(|answers, _| answers.lost += 1);
            return Ok(false);
        };
        let name = &self.documents[n].synset;
        match (status, body["state"].as_str(), body["code"].as_str()) {
            (200, Some("committed"), _) => {
                let id = body.pointer("/results/row/rows/0/id").and_then(Value::as_i64);
                let id = id.with_context(|| format!("{name} is committed, and its answer lacks the id: {body:#}"))?;
                self.told(|answers, ids| {
                    answers.committed += 1;
                    answers.replayed += usize::from(replayed);
                    ids.insert(n, id);
                });
                Ok(true)
            }
            (200, Some("committing"), _) | (202, _, _) => {
                self.told(|answers, _| answers.open += 1);
                Ok(false)
            }
            (_, state, Some(code)) if body["retryable"] == json!(true) => {
                self.told(|answers, _| {
                    answers.aborted += usize::from(state == Some("aborted"));
                    *answers.problems.entry(code.to_owned()).or_default() += 1;
                });
                Ok(false)
            }
            _ => bail!("{name} was refused ({status}): {body:#}"),
        }
    }
}

/// Row, node with relations, and point. The row's id flows on by reference.
fn transaction(documents: &[Document], n: usize) -> Value {
    let document = &documents[n];
    let (synset, words) = (&document.synset, &document.words);
    let (kinds, to) = place::relations(documents, n);
    let id = json!({"$ref": "row#/rows/0/id"});
    let node = json!({"id": id, "synset": synset, "words": words, "kinds": kinds, "to": to});
    let vector = embed::embed(&document.text());
    let point = json!({"id": id, "vector": vector, "payload": {"synset": synset, "words": words}});
    json!({
        "timeout_ms": 20_000,
        "retry": {"max_attempts": 5},
        "operations": [
            {"id": "row", "store": "pg", "sql": SIDECAR.insert(), "params": [synset, words, document.gloss],
             "expect": {"rows": 1}},
            {"id": "node", "store": "graph", "cypher": SIDECAR.create(), "params": node},
            {"id": "point", "store": "vectors", "collection": SIDECAR.name, "upsert": {"points": [point]}},
        ],
    })
}
