//! The file, the environment over it, and every complaint.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use outrigger_wal::Backend;

use super::*;

const THREE: &str = r#"
    [stores.pg]
    kind = "postgres"
    url = "postgres://127.0.0.1:5432/app"
    [stores.graph]
    kind = "neo4j"
    url = "bolt://127.0.0.1:7687"
    [stores.Vec-1]
    kind = "qdrant"
    url = "http://127.0.0.1:6334"
"#;

fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::parse(text, env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))))
}

fn faults(text: &str, env: &[(&str, &str)]) -> String {
    load(text, env).expect_err("this configuration is faulty").to_string()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = load(THREE, &[]).unwrap();
    let Server { listen, admin_listen, principals, max_body_bytes, max_in_flight, max_open, auto_init, .. } =
        config.server;
    assert_eq!(listen.to_string(), "127.0.0.1:7117");
    assert_eq!(admin_listen.to_string(), "0.0.0.0:7118");
    assert!(principals.is_none() && auto_init);
    assert_eq!((max_body_bytes, max_in_flight, max_open), (16 << 20, 256, 1000));
    assert_eq!(config.journal.segment_bytes, 64 << 20);
    assert_eq!(config.journal.flush_interval, Duration::ZERO);
    assert_eq!((config.journal.backend, config.journal.compress_above), (Backend::Mmap, None));
    assert!(config.journal.recycle);
    assert!(config.journal.keys.is_none() && config.journal.encrypt && !config.journal.force_filesystem);
    assert_eq!(config.journal.key_ttl, Duration::from_hours(24));
    assert_eq!(config.journal.marker_grace, Duration::from_mins(15));
    assert_eq!(config.journal.retain_ended, Duration::from_hours(24));
    assert_eq!(config.locks.wait_timeout, Duration::from_secs(10));
    assert_eq!(config.locks.deadlock_timeout, Duration::from_millis(200));
    let StoreSettings::Neo4j(graph) = &config.stores[&StoreName::from("graph")].settings else { panic!() };
    assert_eq!((graph.database.as_str(), graph.user.as_str(), graph.pool_max), ("neo4j", "neo4j", 16));
    assert_eq!(graph.session_grace, Duration::from_secs(1));
    let StoreSettings::Qdrant(vec) = &config.stores[&StoreName::from("Vec-1")].settings else { panic!() };
    assert_eq!(vec.redo_deadline, Duration::from_secs(2));
}

#[test]
fn the_environment_overrides_and_keeps_store_names() {
    let env = [
        ("OUTRIGGER__SERVER__LISTEN", "unix:/run/o.sock"),
        ("OUTRIGGER__SERVER__AUTO_INIT", "false"),
        ("OUTRIGGER__JOURNAL__SEGMENT_BYTES", "1048576"),
        ("OUTRIGGER__STORES__VEC_1__REDO_DEADLINE_MS", "500"),
        ("OUTRIGGER__STORES__PG__POOL__MAX", "3"),
        ("OUTRIGGER__STORES__NEW__KIND", "qdrant"),
        ("OUTRIGGER__STORES__NEW__URL", "http://127.0.0.1:1"),
        ("OUTRIGGER_CONFIG", "elsewhere"),
        ("PATH", "/bin"),
    ];
    let config = load(THREE, &env).unwrap();
    assert_eq!(config.server.listen, Listen::Unix("/run/o.sock".into()));
    assert_eq!(config.journal.segment_bytes, 1 << 20);
    let StoreSettings::Qdrant(vec) = &config.stores[&StoreName::from("Vec-1")].settings else { panic!() };
    assert_eq!(vec.redo_deadline, Duration::from_millis(500));
    let StoreSettings::Postgres(pg) = &config.stores[&StoreName::from("pg")].settings else { panic!() };
    assert_eq!(pg.pool_max, 3);
    assert!(config.stores.contains_key(&StoreName::from("new")));
    assert!(config.stores.values().all(|store| !store.init), "a store follows server.auto_init");
}

#[test]
fn every_fault_is_reported_and_names_its_key() {
    let text = faults(
        r#"
        colour = 1
        [server]
        listen = "localhost"
        max_inflight = 5
        drain_ms = -1
        auto_init = "yes"
        [journal]
        segment_bytes = 1000
        redo_copy = true
        [locks]
        wait_timeout_ms = 1.5
        [stores.wal]
        kind = "postgres"
        url = "postgres://h/d"
        [stores.pg]
        kind = "postgres"
        url = "postgres://h"
        api_key_file = "x"
        [stores.g]
        kind = "neo4j"
        url = "http://h"
        [stores.v]
        kind = "qdrant"
        late_write_guard = "payload"
        [stores.w]
        kind = "mysql"
        [stores.h]
        kind = "http"
        "#,
        &[("OUTRIGGER__JOURNAL__DRI", "x"), ("OUTRIGGER__SERVER__MAX_OPEN", "many"), ("OUTRIGGER__SERVER", "x")],
    );
    for part in [
        "colour is not a key",
        "server.listen: `localhost` is no address",
        "server.max_inflight is not a key: server knows",
        "server.drain_ms must be a whole number from 0 to 3600000, not -1",
        "server.auto_init must be true or false, not `yes`",
        "journal.segment_bytes must be a whole number from 1048576 to 1073741824, not 1000",
        "journal.redo_copy: the copy in the marker is not in this version",
        "locks.wait_timeout_ms must be a whole number, not float",
        "stores.wal is no name",
        "stores.pg.url names no database",
        "stores.pg.api_key_file is not a key",
        "stores.g.url must begin with bolt://",
        "stores.v.url is missing",
        "stores.v.late_write_guard: \"payload\" is not in this version",
        "stores.w.kind must be postgres, neo4j or qdrant, not `mysql`",
        "stores.h.kind: services over HTTP are not in this version",
        "journal.dri (from OUTRIGGER__JOURNAL__DRI) is not a key",
        "server.max_open (from OUTRIGGER__SERVER__MAX_OPEN) must be a whole number",
        "OUTRIGGER__SERVER overrides a value with a table",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

#[test]
fn no_stores_and_no_toml_are_faults() {
    assert!(faults("", &[]).contains("at least one store"));
    assert!(faults("[server", &[]).contains("line 1"));
    assert!(faults("stores = 1", &[]).contains("stores is a table"));
    assert!(faults(THREE, &[("OUTRIGGER__JOURNAL__SEGMENT_BYTES", "1048577")]).contains("multiple of 4096"));
    assert!(
        faults(THREE, &[("OUTRIGGER__STORES__PG__CA_FILE", "/nowhere")]).contains("stores.pg.ca_file: cannot read")
    );
    assert!(faults(THREE, &[("OUTRIGGER__JOURNAL__BACKEND", "fast")]).contains("must be mmap or pwrite, not `fast`"));
    let short = file("abc123\n");
    let text = faults(THREE, &[("OUTRIGGER__JOURNAL__ENCRYPTION_KEY_FILE", short.path().to_str().unwrap())]);
    assert!(text.contains("line 1 is not 64 hexadecimal digits") && !text.contains("abc123"), "{text}");
    assert!(faults(THREE, &[("OUTRIGGER__STORES__PG____X", "1")]).contains("empty part"));
}

#[test]
fn the_journal_is_encrypted_where_a_key_is_given() {
    let key = file(&format!("# 2026\n{}\n", "5e".repeat(32)));
    let env = [
        ("OUTRIGGER__JOURNAL__ENCRYPTION_KEY_FILE", key.path().to_str().unwrap()),
        ("OUTRIGGER__JOURNAL__BACKEND", "pwrite"),
        ("OUTRIGGER__JOURNAL__COMPRESS_ABOVE_BYTES", "4096"),
    ];
    let config = load(THREE, &env).unwrap();
    assert_eq!((config.journal.backend, config.journal.compress_above), (Backend::Pwrite, Some(4096)));
    assert!(config.journal.keys.is_some() && !format!("{config:?}").contains("5e5e5e5e"));
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let password = file("hunter2\n");
    let text = format!("{THREE}\n[stores.graph.pool]\nmax = 2\n");
    let env = [("OUTRIGGER__STORES__GRAPH__PASSWORD_FILE", password.path().to_str().unwrap())];
    let config = load(&text, &env).unwrap();
    let StoreSettings::Neo4j(graph) = &config.stores[&StoreName::from("graph")].settings else { panic!() };
    assert_eq!(graph.password.as_ref().map(Secret::expose), Some("hunter2"));
    assert!(!format!("{config:?}").contains("hunter2"));

    let gone = faults(&text, &[("OUTRIGGER__STORES__GRAPH__PASSWORD_FILE", "/nowhere/pw")]);
    assert!(gone.contains("stores.graph.password_file: cannot read /nowhere/pw"), "{gone}");
    let empty = file("\n");
    let env = [("OUTRIGGER__STORES__GRAPH__PASSWORD_FILE", empty.path().to_str().unwrap())];
    assert!(faults(&text, &env).contains("is empty"));
}

#[test]
fn a_password_in_a_url_is_taken_out_of_it() {
    let env = [("OUTRIGGER__STORES__PG__URL", "postgres://me:p%40ss@db:5432/app?x=1")];
    let config = load(THREE, &env).unwrap();
    let StoreSettings::Postgres(pg) = &config.stores[&StoreName::from("pg")].settings else { panic!() };
    assert_eq!(pg.url, "postgres://db:5432/app?x=1");
    assert_eq!((pg.user.as_str(), pg.password.as_ref().map(Secret::expose)), ("me", Some("p@ss")));
    let broken = faults(THREE, &[("OUTRIGGER__STORES__PG__URL", "postgres://me:p%4@db/app")]);
    assert!(broken.contains("%-escape") && !broken.contains("p%4"), "{broken}");
}

#[test]
fn tokens_files_are_checked() {
    let hash = "ab".repeat(32);
    let good = file(&format!("[[principal]]\nname = \"app\"\ntoken_sha256 = \"{hash}\"\nrole = \"operator\"\n"));
    let env = [("OUTRIGGER__SERVER__TOKENS_FILE", good.path().to_str().unwrap())];
    let principals = load(THREE, &env).unwrap().server.principals.unwrap();
    assert_eq!(principals.all()[0].token_sha256, [0xab; 32]);
    assert_eq!(principals.all()[0].role, PrincipalRole::Operator);
    for (text, part) in [
        (String::new(), "nobody could come in"),
        (format!("[[principal]]\nname = \"a/b\"\ntoken_sha256 = \"{hash}\"\nrole = \"app\""), "is not 1 to 64"),
        ("[[principal]]\nname = \"a\"\ntoken_sha256 = \"zz\"\nrole = \"app\"".to_owned(), "64 hex digits"),
        (format!("[[principal]]\nname = \"a\"\ntoken_sha256 = \"{hash}\"\nrole = \"king\""), "king"),
        (format!("[[principal]]\nname = \"a\"\ntoken_sha256 = \"{hash}\"\nrole = \"app\"\nx = 1"), "unknown field `x`"),
    ] {
        let error = Principals::parse(&text).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let twice = format!("[[principal]]\nname = \"a\"\ntoken_sha256 = \"{hash}\"\nrole = \"app\"\n").repeat(2);
    assert!(Principals::parse(&twice).unwrap_err().contains("twice"));
}

#[test]
fn an_open_door_beyond_loopback_is_warned_of() {
    let config = load(THREE, &[("OUTRIGGER__SERVER__LISTEN", "0.0.0.0:7117")]).unwrap();
    assert_eq!(config.warnings().len(), 1);
    assert!(load(THREE, &[]).unwrap().warnings().is_empty());
    let same = [("OUTRIGGER__SERVER__LISTEN", "0.0.0.0:7118")];
    assert!(faults(THREE, &same).contains("same address"));
}

#[test]
fn the_audit_log_has_bounds_and_a_store_that_can_hold_it() {
    let audit = load(THREE, &[]).unwrap().audit;
    assert_eq!(audit, Audit { file_bytes: 16 << 20, keep: 8, store: None });
    let text = format!("[audit]\nfile_bytes = 4096\nkeep = 1\nstore = \"pg\"\n{THREE}");
    assert_eq!(load(&text, &[]).unwrap().audit, Audit { file_bytes: 4096, keep: 1, store: Some("pg".into()) });
    for (key, value, fault) in [
        ("FILE_BYTES", "100", "audit.file_bytes"),
        ("KEEP", "0", "audit.keep"),
        ("STORE", "graph", "there is no PostgreSQL store [stores.graph]"),
        ("STORE", "nowhere", "there is no PostgreSQL store [stores.nowhere]"),
        ("KEP", "1", "audit.kep"),
    ] {
        let found = faults(THREE, &[(&format!("OUTRIGGER__AUDIT__{key}"), value)]);
        assert!(found.contains(fault), "{key}: {found}");
    }
}
