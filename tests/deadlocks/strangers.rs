//! Circles that run through what is not a running transaction of ours: a session of somebody else, a prepared part.

use std::fs;

use outrigger::model::ids::TxnId;
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};
use xtask::stack::Store;

use crate::bank::{Bank, edges};
use crate::world::World;

/// The URL of `database` (or the stack's own), login and all.
fn url(world: &World, database: Option<&str>) -> String {
    let login = world.stack.login(Store::Postgres).unwrap();
    let url = login.url.replacen("://", &format!("://{}:{}@", login.user, login.password), 1);
    match database {
        Some(database) => format!("{}/{database}", url.rsplit_once('/').unwrap().0),
        None => url,
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_strangers_psql() {
    let bank = Bank::open("stranger").await;
    let psql = connect(&url(&bank.world, None)).await;
    psql.batch_execute("SET application_name = 'psql'").await.unwrap();
    let pid: i32 = psql.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let update = |account| format!("UPDATE {} SET version = version + 100 WHERE id = {account}", bank.world.name);
    psql.batch_execute(&format!("BEGIN; {}", update(1))).await.unwrap();
    // The stranger waits for the second of ours, which waits for the first in the graph, which waits for the stranger.
    let second = bank.send(json!([bank.row("r", 2, 1, 900, None), bank.node("n", 1, 1, Some("r"))]));
    bank.held(&[2]).await;
    let first = bank.send(json!([bank.node("n", 1, 1, None), bank.row("r", 1, 1, 0, Some("n"))]));
    let wanted = format!("{}; COMMIT", update(2));
    let stranger = tokio::spawn(async move { psql.batch_execute(&wanted).await });
    let record = bank.one_victim(vec![first, second], &["graph", "pg"]).await;
    stranger.await.unwrap().expect("the stranger is left alone");
    let strangers: Vec<&str> =
        edges(&record).iter().filter_map(|edge| edge["waiter"].as_str()).filter(|name| name.contains("psql")).collect();
    let user = bank.world.stack.login(Store::Postgres).unwrap().user;
    assert_eq!(strangers, [format!("pg: pid {pid}, psql of {user} at 127.0.0.1")], "{record:#}");
    assert!(record["victim"].as_str().unwrap().parse::<TxnId>().is_ok(), "the victim is ours");
}

/// Two databases of one server are two stores: the one decides, the other has promised and holds a row by nothing but
/// its gid. Who has promised is never the victim.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_prepared_part_of_ours() {
    let database = format!("second_{:08x}", rand::random::<u32>());
    let bank = Bank::with("promise", |world, launch| {
        world.sql(&format!("CREATE DATABASE {database}"));
        let mut config = fs::read_to_string(&launch.config).unwrap();
        let first = config.split("[stores.").find(|section| section.starts_with("pg]")).unwrap().to_owned();
        let login = world.stack.login(Store::Postgres).unwrap();
        let second = first
            .replacen("pg]", "[stores.pg2]", 1)
            .replace(&login.url, &format!("{}/{database}", login.url.rsplit_once('/').unwrap().0));
        config.push_str(&second);
        let path = world.dir().join("two.toml");
        fs::write(&path, config).unwrap();
        xtask::sidecar::Launch { config: path, ..launch }
    })
    .await;
    let keys = format!("{}_keys", bank.world.name);
    bank.world.sql(&format!("CREATE TABLE {keys} (owner int, key int UNIQUE DEFERRABLE INITIALLY DEFERRED)"));
    let second = connect(&url(&bank.world, Some(&database))).await;
    second
        .batch_execute("CREATE TABLE held (id int PRIMARY KEY, n int); INSERT INTO held VALUES (1, 0)")
        .await
        .unwrap();
    let key = |owner: i32, nap: u32| {
        let sql = format!(
            "WITH k AS (INSERT INTO {keys} VALUES ($1, 1) RETURNING owner AS id) \
                           SELECT id, pg_sleep($2::float8 / 1000)::text FROM k"
        );
        json!({"id": "k", "store": "pg", "sql": sql, "params": [owner, nap]})
    };
    let row = |after: Value| {
        let sql = "UPDATE held SET n = n + 1 WHERE id = 1 AND $1::int IS NOT NULL RETURNING id";
        json!({"id": "h", "store": "pg2", "sql": sql, "params": [after]})
    };
    // It has the key and will want the row.
    let late = bank.send(json!([key(1, 1200), row(json!({"$ref": "k#/rows/0/id"}))]));
    let inserted =
        format!("SELECT count(*) FROM pg_locks WHERE relation = '{keys}'::regclass AND mode = 'RowExclusiveLock'");
    let sure = std::time::Duration::from_secs(3);
    bank.world.until(sure, "the key is taken", async || bank.world.sql(&inserted).trim() != "0").await;
    // It promises the row, and its commit waits for the key.
    let promised = bank.send(json!([key(2, 0), row(json!(0))]));
    let prepared = format!("SELECT count(*) FROM pg_prepared_xacts WHERE database = '{database}'");
    bank.world.until(sure, "it is promised", async || bank.world.sql(&prepared).trim() == "1").await;
    let record = bank.one_victim(vec![late, promised], &["pg", "pg2"]).await;
    let owner = bank.world.sql(&format!("SELECT owner FROM {keys}"));
    assert_eq!(owner.trim(), "2", "who has promised commits: {record:#}");
    let n: i32 = second.query_one("SELECT n FROM held", &[]).await.unwrap().get(0);
    assert_eq!(n, 1);
}
