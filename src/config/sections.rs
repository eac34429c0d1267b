//! What each section's keys mean, their bounds and their defaults.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use outrigger_wal::{Backend, Keys};

use super::principals::Principals;
use super::reader::Section;
use super::secret::Secret;
use super::tree::Tree;
use super::{Audit, Config, Journal, Listen, Locks, Neo4j, Postgres, Qdrant, Server, Store, StoreSettings};
use crate::model::ids::StoreName;

const DAY_MS: u64 = 86_400_000;
/// No duration of a configuration is longer than this: ten years.
const LONGEST_MS: u64 = 3650 * DAY_MS;
const MIB: u64 = 1 << 20;

/// Reads everything. `None` only where what is missing has no default; then there is a fault too.
pub(super) fn read(tree: Tree, faults: &mut Vec<String>) -> Option<Config> {
    let mut root = Section::root(tree);
    let server = server(root.section("server", faults), faults);
    let journal = journal(root.section("journal", faults), faults);
    let locks = locks(root.section("locks", faults), faults);
    let audit = audit(root.section("audit", faults), faults);
    let tables = root.section("stores", faults).sections(faults);
    root.finish(faults);
    if tables.is_empty() {
        faults.push("there is no [stores.NAME]: at least one store is needed".to_owned());
    }
    let mut stores = BTreeMap::new();
    for (name, section) in tables {
        if let Some(store) = store(&name, section, server.auto_init, faults) {
            stores.insert(store.name.clone(), store);
        }
    }
    if let Some(name) = &audit.store
        && !stores.get(name).is_some_and(|store| matches!(store.settings, StoreSettings::Postgres(_)))
    {
        faults.push(format!("audit.store is `{name}`, and there is no PostgreSQL store [stores.{name}]"));
    }
    Some(Config { server, journal, locks, audit, stores }).filter(|_| faults.is_empty())
}

fn server(mut s: Section, faults: &mut Vec<String>) -> Server {
    let tcp = |ip: Ipv4Addr, port| Listen::Tcp(SocketAddr::from((ip, port)));
    let tokens = s.path("tokens_file", faults);
    let principals = tokens.and_then(|path| {
        Principals::from_file(&path).map_err(|e| faults.push(format!("{}: {e}", s.name("tokens_file")))).ok()
    });
    let server = Server {
        listen: s.parsed("listen", tcp(Ipv4Addr::LOCALHOST, 7117), faults),
        admin_listen: s.parsed("admin_listen", tcp(Ipv4Addr::UNSPECIFIED, 7118), faults),
        principals,
        max_body_bytes: s.count("max_body_bytes", 16 << 20, 1024..=256 * MIB, faults),
        max_in_flight: s.count("max_in_flight", 256, 1..=65_536, faults),
        max_open: s.count("max_open", 1000, 1..=1_000_000, faults),
        drain: s.millis("drain_ms", 10_000, 0..=3_600_000, faults),
        auto_init: s.flag("auto_init", true, faults),
    };
    if server.listen == server.admin_listen && !matches!(server.listen, Listen::Tcp(address) if address.port() == 0) {
        faults.push("server.listen and server.admin_listen are the same address".to_owned());
    }
    s.finish(faults);
    server
}

fn journal(mut s: Section, faults: &mut Vec<String>) -> Journal {
    let journal = Journal {
        dir: s.path("dir", faults).unwrap_or_else(|| "outrigger-journal".into()),
        segment_bytes: s.number("segment_bytes", 64 * MIB, MIB..=1024 * MIB, faults),
        flush_interval: std::time::Duration::from_micros(s.number("flush_interval_us", 0, 0..=1_000_000, faults)),
        retain_bytes: s.number("retain_bytes", 64 * MIB, 0..=1 << 50, faults),
        recycle: s.flag("recycle", true, faults),
        backend: backend(&mut s, faults),
        keys: keys(&mut s, faults),
        encrypt: s.flag("encrypt", true, faults),
        compress_above: Some(s.count("compress_above_bytes", 0, 0..=1 << 30, faults)).filter(|bytes| *bytes > 0),
        force_filesystem: s.flag("force_filesystem", false, faults),
        redo_copy: s.flag("redo_copy", false, faults),
        retain_ended: s.millis("retain_ended_ms", DAY_MS, 0..=LONGEST_MS, faults),
        marker_grace: s.millis("marker_grace_ms", 900_000, 0..=LONGEST_MS, faults),
        key_ttl: s.millis("key_ttl_ms", DAY_MS, 0..=LONGEST_MS, faults),
    };
    if !journal.segment_bytes.is_multiple_of(4096) {
        faults.push(format!("{} must be a multiple of 4096", s.name("segment_bytes")));
    }
    if journal.redo_copy {
        faults.push(format!("{}: the copy in the marker is not in this version", s.name("redo_copy")));
    }
    s.finish(faults);
    journal
}

fn backend(s: &mut Section, faults: &mut Vec<String>) -> Backend {
    match s.text("backend", faults).as_deref() {
        None | Some("mmap") => Backend::Mmap,
        Some("pwrite") => Backend::Pwrite,
        Some(other) => {
            faults.push(format!("{} must be mmap or pwrite, not `{other}`", s.name("backend")));
            Backend::default()
        }
    }
}

fn keys(s: &mut Section, faults: &mut Vec<String>) -> Option<Keys> {
    let path = s.path("encryption_key_file", faults)?;
    Keys::from_file(&path).map_err(|e| faults.push(format!("{}: {e}", s.name("encryption_key_file")))).ok()
}

fn locks(mut s: Section, faults: &mut Vec<String>) -> Locks {
    let locks = Locks {
        deadlock_timeout: s.millis("deadlock_timeout_ms", 200, 1..=3_600_000, faults),
        wait_timeout: s.millis("wait_timeout_ms", 10_000, 1..=3_600_000, faults),
        max_keys: s.count("max_keys", 100_000, 1..=100_000_000, faults),
        max_keys_per_transaction: s.count("max_keys_per_transaction", 50_000, 1..=100_000_000, faults),
    };
    s.finish(faults);
    locks
}

fn audit(mut s: Section, faults: &mut Vec<String>) -> Audit {
    let audit = Audit {
        file_bytes: s.number("file_bytes", 16 * MIB, 4096..=1024 * MIB, faults),
        keep: s.count("keep", 8, 1..=1000, faults),
        store: s.text("store", faults).map(|name| name.as_str().into()),
    };
    s.finish(faults);
    audit
}

fn store(name: &str, mut s: Section, auto_init: bool, faults: &mut Vec<String>) -> Option<Store> {
    if !StoreName::is_valid(name) {
        let why = if name == "wal" {
            "`wal` is taken: the log decides under that name"
        } else {
            "say 1 to 40 of [A-Za-z0-9_-]"
        };
        faults.push(format!("stores.{name} is no name for a store: {why}"));
    }
    let init = s.flag("init", auto_init, faults);
    let kind = s.required("kind", "postgres", faults)?;
    let settings = match kind.as_str() {
        "postgres" => postgres(&mut s, faults).map(StoreSettings::Postgres),
        "neo4j" => neo4j(&mut s, faults).map(StoreSettings::Neo4j),
        "qdrant" => qdrant(&mut s, faults).map(StoreSettings::Qdrant),
        "http" => {
            faults.push(format!("{}: services over HTTP are not in this version", s.name("kind")));
            return None;
        }
        other => {
            faults.push(format!("{} must be postgres, neo4j or qdrant, not `{other}`", s.name("kind")));
            return None;
        }
    };
    s.finish(faults);
    Some(Store { name: name.into(), init, settings: settings? })
}

/// The keys that every store has.
struct Common {
    address: Address,
    tls: bool,
    pool_max: usize,
    connect_timeout: std::time::Duration,
}

fn common(s: &mut Section, schemes: &[&str], example: &str, faults: &mut Vec<String>) -> Option<Common> {
    let tls = s.flag("tls", false, faults);
    let connect_timeout = s.millis("connect_timeout_ms", 5000, 10..=600_000, faults);
    let mut pool = s.section("pool", faults);
    let pool_max = pool.count("max", 16, 1..=10_000, faults);
    pool.finish(faults);
    let url = s.required("url", example, faults)?;
    let address = Address::parse(&url, schemes).map_err(|e| faults.push(format!("{} {e}", s.name("url")))).ok()?;
    Some(Common { address, tls, pool_max, connect_timeout })
}

/// `user` and `password_file`, else what the URL carries.
fn account(s: &mut Section, address: &Address, default: &str, faults: &mut Vec<String>) -> (String, Option<Secret>) {
    let user = s.text("user", faults).or_else(|| address.user.clone()).unwrap_or_else(|| default.to_owned());
    let password = s.secret("password_file", faults).or_else(|| address.password.clone());
    (user, password)
}

fn postgres(s: &mut Section, faults: &mut Vec<String>) -> Option<Postgres> {
    let example = "postgres://127.0.0.1:5432/app";
    let common = common(s, &["postgres", "postgresql"], example, faults);
    let empty = Address::default();
    let (user, password) = account(s, common.as_ref().map_or(&empty, |c| &c.address), "postgres", faults);
    let ca_pem = s.path("ca_file", faults).and_then(|path| {
        let pem = std::fs::read(&path);
        pem.map_err(|e| faults.push(format!("{}: cannot read {}: {e}", s.name("ca_file"), path.display()))).ok()
    });
    let Common { address, tls, pool_max, connect_timeout } = common?;
    if address.path.is_empty() {
        faults.push(format!("{} names no database: {example}", s.name("url")));
    }
    Some(Postgres { url: address.url, user, password, tls, ca_pem, pool_max, connect_timeout })
}

fn neo4j(s: &mut Section, faults: &mut Vec<String>) -> Option<Neo4j> {
    let schemes = ["bolt", "bolt+s", "bolt+ssc", "neo4j", "neo4j+s", "neo4j+ssc"];
    let common = common(s, &schemes, "bolt://127.0.0.1:7687", faults);
    let empty = Address::default();
    let (user, password) = account(s, common.as_ref().map_or(&empty, |c| &c.address), "neo4j", faults);
    let database = s.text("database", faults).unwrap_or_else(|| "neo4j".to_owned());
    let session_grace = s.millis("session_grace_ms", 1000, 0..=600_000, faults);
    let Common { address, tls, pool_max, connect_timeout } = common?;
    Some(Neo4j { url: address.url, database, user, password, tls, pool_max, connect_timeout, session_grace })
}

fn qdrant(s: &mut Section, faults: &mut Vec<String>) -> Option<Qdrant> {
    let common = common(s, &["http", "https"], "http://127.0.0.1:6334", faults);
    let api_key = s.secret("api_key_file", faults);
    let redo_deadline = s.millis("redo_deadline_ms", 2000, 10..=600_000, faults);
    match s.text("late_write_guard", faults).as_deref() {
        None | Some("grace") => {}
        Some("payload") => faults.push(format!(
            "{}: \"payload\" is not in this version; \"grace\" is the guard it has",
            s.name("late_write_guard")
        )),
        Some(other) => faults.push(format!("{} must be grace, not `{other}`", s.name("late_write_guard"))),
    }
    let Common { address, tls, pool_max, connect_timeout } = common?;
    if address.user.is_some() {
        faults.push(format!("{} carries a user, which Qdrant does not have: use api_key_file", s.name("url")));
    }
    Some(Qdrant { url: address.url, api_key, tls, pool_max, connect_timeout, redo_deadline })
}

/// A URL taken apart, so that whatever prints it prints no password.
#[derive(Default)]
struct Address {
    /// Without user and password.
    url: String,
    path: String,
    user: Option<String>,
    password: Option<Secret>,
}

impl Address {
    fn parse(text: &str, schemes: &[&str]) -> Result<Self, String> {
        // The text itself is never quoted: it may hold a password.
        let (scheme, rest) = text.split_once("://").ok_or_else(|| format!("must begin with {}://", schemes[0]))?;
        if !schemes.contains(&scheme) {
            return Err(format!("must begin with {}://", schemes.join(":// or ")));
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        let (account, host) = authority.rsplit_once('@').map_or((None, authority), |(a, h)| (Some(a), h));
        if host.is_empty() || host.starts_with(':') {
            return Err("names no host".to_owned());
        }
        let (user, password) = match account.map(|a| a.split_once(':').map_or((a, None), |(u, p)| (u, Some(p)))) {
            None => (None, None),
            Some((user, password)) => (Some(decode(user)?), password.map(decode).transpose()?.map(Secret::new)),
        };
        let path = tail.split(['?', '#']).next().unwrap_or("").trim_start_matches('/').to_owned();
        Ok(Self { url: format!("{scheme}://{host}{tail}"), path, user: user.filter(|u| !u.is_empty()), password })
    }
}

/// Percent-decoding, as far as user and password need it.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.push(u8::try_from(high * 16 + low).expect("two hex digits fit a byte")),
            _ => return Err("has a broken %-escape before the `@`".to_owned()),
        }
    }
    String::from_utf8(bytes).map_err(|_| "has a user or password that is not UTF-8".to_owned())
}
