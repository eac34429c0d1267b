//! TLS, with a certificate that is checked. Needs `openssl` on the machine, to make one.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrigger::model::powers::Role;
use outrigger::model::problem::Code;
use outrigger::store::Store as _;
use outrigger::store::postgres::{Postgres, PostgresConfig};
use serde_json::json;
use xtask::stack::{Stack, Store, Wanted};

use super::{is_external, op, plain, url_of};
use crate::contract::Subject;

fn openssl(dir: &Path, args: &str) {
    let output = Command::new("openssl").current_dir(dir).args(args.split_whitespace()).output().expect("openssl runs");
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `ca.pem`, and `server.crt` with `server.key` for 127.0.0.1 and localhost.
fn certificates(dir: &Path) {
    std::fs::write(dir.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1").unwrap();
    let ca = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem \
        -addext basicConstraints=critical,CA:TRUE";
    openssl(dir, ca);
    openssl(dir, "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr");
    let sign =
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt";
    openssl(dir, sign);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_believed_only_with_a_certificate() {
    if is_external() {
        return;
    }
    let made = tempfile::tempdir().unwrap();
    certificates(made.path());
    let wanted = Wanted::only(&[Store::Postgres]);
    let stack = tokio::task::spawn_blocking(|| Stack::fresh("pg-tls", wanted).unwrap()).await.unwrap();
    let client = plain(&url_of(&stack)).await;
    for file in ["server.key", "server.crt"] {
        // Written by the server itself: the key must be its own, and nobody else's to read.
        let content = STANDARD.encode(std::fs::read(made.path().join(file)).unwrap());
        let put = format!("COPY (SELECT '{content}') TO PROGRAM 'umask 077 && base64 -d > {file}'");
        client.batch_execute(&put).await.unwrap();
    }
    client.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ca = std::fs::read(made.path().join("ca.pem")).unwrap();
    let with = |tls, ca_pem| PostgresConfig { tls, ca_pem, ..PostgresConfig::new(url_of(&stack)) };
    let store = Postgres::new("pg".into(), with(true, Some(ca)));
    store.probe(true).await.unwrap();
    let subject = Subject { store, put: |_| unreachable!(), get: |_| unreachable!(), there: |_| unreachable!() };
    let owner = subject.registered().await;
    let context = subject.context(owner, crate::contract::fresh_run());
    let mut session = subject.store.open(&context, Role::Reader).await.unwrap();
    let sql = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let result = session.work(&[op(sql, json!([]), true)]).await.unwrap();
    assert_eq!(result[0]["rows"][0]["ssl"], json!(true), "{result:?}");
    // A cancellation travels the same way: a dropped session stops what it had running.
    let busy = [op("SELECT pg_sleep(20)", json!([]), true)];
    assert!(tokio::time::timeout(Duration::from_millis(300), session.work(&busy)).await.is_err());
    drop(session);
    let mut asleep = 1_i64;
    for _ in 0..50 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'";
        asleep = client.query_one(sql, &[]).await.unwrap().get(0);
        if asleep == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(asleep, 0, "it runs on");
    // The machine's own certificates know nothing of this one.
    let problem = Postgres::new("pg".into(), with(true, None)).probe(false).await.unwrap_err();
    assert_eq!(problem.code, Code::StoreUnavailable);
    assert!(problem.detail.contains("certificate") || problem.detail.contains("TLS"), "{problem}");
    tokio::task::spawn_blocking(move || drop(stack)).await.unwrap();
}
