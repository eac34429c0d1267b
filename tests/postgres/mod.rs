//! What the tests of PostgreSQL share, and those that only it has.

// The crate of a test binary exports nothing, and all of it is test code.
#![allow(unreachable_pub, clippy::unwrap_used)]

mod blocked;
mod records;
mod serving;
mod statements;
mod tls;
mod values;
mod wires;

use std::sync::{Arc, OnceLock};

use outrigger::model::reference::Template;
use outrigger::model::request::{Action, BoundOp, Expect, Operation};
use outrigger::store::Store as _;
use outrigger::store::postgres::{Postgres, PostgresConfig};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};
use xtask::stack::{Stack, Store, Wanted};

use crate::contract::Subject;

/// The server to test against.
pub fn url() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    static STACK: OnceLock<Stack> = OnceLock::new();
    URL.get_or_init(|| {
        let stack = Stack::for_tests("store-postgres", Wanted::only(&[Store::Postgres])).expect("the stack comes up");
        url_of(STACK.get_or_init(|| stack))
    })
}

/// Whether the environment names the server: then there is none that a test may kill or configure.
pub fn is_external() -> bool {
    let external = std::env::var_os("OUTRIGGER_TEST_POSTGRES_URL").is_some_and(|url| !url.is_empty());
    if external {
        eprintln!("skipped: OUTRIGGER_TEST_POSTGRES_URL names a server that is not ours to restart");
    }
    external
}

/// The URL of a stack's PostgreSQL, login and all.
pub fn url_of(stack: &Stack) -> String {
    let login = stack.login(Store::Postgres).expect("it has one");
    let account = if login.password.is_empty() { login.user } else { format!("{}:{}", login.user, login.password) };
    login.url.replacen("://", &format!("://{account}@"), 1)
}

pub fn config() -> PostgresConfig {
    PostgresConfig::new(url())
}

/// A plain connection, past the adapter.
pub async fn plain(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the server is up");
    tokio::spawn(connection);
    client
}

pub fn op(sql: &str, params: Value, reads: bool) -> BoundOp {
    expecting(sql, params, reads, Expect::default())
}

pub fn expecting(sql: &str, params: Value, reads: bool, expect: Expect) -> BoundOp {
    let action = Action::Sql { text: sql.to_owned(), params: Template::plain(params.clone()) };
    let (id, store, pointer) = ("row".to_owned(), "pg".into(), "/operations/0".to_owned());
    BoundOp { op: Arc::new(Operation { id, store, reads, action, expect, pointer }), values: params }
}

/// A store of that configuration, ready to be used.
pub async fn store(config: PostgresConfig) -> Arc<Postgres> {
    let store = Postgres::new("pg".into(), config);
    store.probe(true).await.expect("the server is up");
    store
}

/// The store as the contract suite wants it. Every test has its own: connections belong to the test's runtime.
pub async fn subject() -> Subject {
    subject_of(store(config()).await).await
}

pub async fn subject_of(store: Arc<Postgres>) -> Subject {
    static TABLE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    TABLE
        .get_or_init(|| async {
            let client = plain(url()).await;
            let sql = "CREATE TABLE IF NOT EXISTS thing (name text PRIMARY KEY, count int NOT NULL)";
            client.batch_execute(sql).await.expect("the table is made");
        })
        .await;
    Subject {
        store,
        put: |name| {
            let sql = "INSERT INTO thing VALUES ($1, 1) ON CONFLICT (name) DO UPDATE SET count = thing.count + 1";
            op(sql, json!([name]), false)
        },
        get: |name| op("SELECT count FROM thing WHERE name = $1", json!([name]), true),
        there: |result| result["rows"].as_array().is_some_and(|rows| rows.len() == 1),
    }
}
