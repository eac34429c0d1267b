//! One answer of a flight: what is sent, and how its reply is read.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use futures::TryStreamExt as _;
use serde_json::{Map, Value};
use tokio_postgres::{Client, Error, Statement};

use super::MAX_RESULT_BYTES;
use super::flight::Opening;
use super::values::{self, Cell, Param};
use crate::model::powers::Role;

/// An answer of the flight.
pub(super) enum Reply {
    Begun,
    Marked(Option<String>),
    Rows(Vec<Value>, u64),
}

pub(super) enum Trouble {
    Server(Error),
    TooLarge,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Server(error)
    }
}

pub(super) type Answer<'a> = Pin<Box<dyn Future<Output = Result<Reply, Trouble>> + Send + 'a>>;

pub(super) async fn begin(client: &Client, sql: &str) -> Result<Reply, Trouble> {
    client.batch_execute(sql).await?;
    Ok(Reply::Begun)
}

pub(super) async fn mark(client: &Client, statement: Statement, opening: &Opening) -> Result<Reply, Trouble> {
    let row = match opening.role {
        Role::Decider => client.query_opt(&statement, &opening.mark.all()).await?,
        _ => client.query_opt(&statement, &opening.mark.identity()).await?,
    };
    Ok(Reply::Marked(row.map(|row| row.try_get(0)).transpose()?))
}

/// One operation: its rows as JSON objects, and how many rows it says it touched.
pub(super) async fn run(client: &Client, statement: Statement, params: &[Param]) -> Result<Reply, Trouble> {
    let mut stream = pin!(client.query_raw(&statement, params).await?);
    let names = values::column_names(statement.columns().iter().map(tokio_postgres::Column::name));
    let mut rows = Vec::new();
    let mut size = 0;
    let mut trouble = None;
    while let Some(row) = stream.try_next().await? {
        size += row.raw_size_bytes();
        if trouble.is_some() {
            continue;
        }
        if size > MAX_RESULT_BYTES {
            // The rest is read and dropped: the answers behind it are still to come.
            rows = Vec::new();
            trouble = Some(Trouble::TooLarge);
            continue;
        }
        let mut object = Map::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            match row.try_get::<_, Cell>(index) {
                Ok(cell) => drop(object.insert(name.clone(), cell.0)),
                Err(error) => trouble = Some(Trouble::Server(error)),
            }
        }
        rows.push(Value::Object(object));
    }
    match trouble {
        Some(trouble) => Err(trouble),
        None => Ok(Reply::Rows(rows, stream.rows_affected().unwrap_or(0))),
    }
}

/// Sends every request before it waits for any answer: tokio-postgres sends at a future's first poll, and answers come
/// in the order of the requests.
pub(super) async fn in_order<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut waiting: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, slot) in waiting.iter_mut().zip(&mut done) {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                *slot = Some(output);
            }
        }
        Poll::Ready(())
    })
    .await;
    let mut outputs = Vec::with_capacity(done.len());
    for (future, slot) in waiting.iter_mut().zip(done) {
        outputs.push(match slot {
            Some(output) => output,
            None => future.await,
        });
    }
    outputs
}
