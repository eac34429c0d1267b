//! Connections: how they are opened, what each carries, how one ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{PostgresConfig, errors};
use crate::model::ids::StoreName;
use crate::model::problem::{Code, Problem};

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// Transactions. Read-only unless a transaction says otherwise: should a BEGIN ever fail in a pipeline, what
    /// follows it would commit by itself, one statement at a time; this way it is refused.
    Work,
    /// Single statements of ours: fences, finishes, look-ups.
    Admin,
}

/// Opens connections to one server.
pub(super) struct Connector {
    store: StoreName,
    /// `Err`: the configuration makes no sense.
    config: Result<tokio_postgres::Config, String>,
    tls: Result<Option<MakeRustlsConnect>, String>,
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(store: StoreName, config: &PostgresConfig) -> Self {
        let parsed = parse(config);
        let wants_tls = config.tls || matches!(&parsed, Ok(parsed) if parsed.get_ssl_mode() == SslMode::Require);
        let tls = if wants_tls { tls(config.ca_pem.as_deref()).map(Some) } else { Ok(None) };
        Self { store, config: parsed, tls, timeout: config.connect_timeout }
    }

    /// Connects under `session_name`, at most within the configured time.
    pub(super) async fn connect(&self, session_name: &str, purpose: Purpose) -> Result<Conn, Problem> {
        let nonsense =
            |why: &String| Problem::new(Code::RejectedByStore, format!("{}: {why}", self.store)).in_store(&self.store);
        let mut config = self.config.as_ref().map_err(nonsense)?.clone();
        let tls = self.tls.as_ref().map_err(nonsense)?;
        config.application_name(session_name);
        let opening = async {
            let (client, driver) = match tls {
                Some(tls) => {
                    let (client, connection) = config.ssl_mode(SslMode::Require).connect(tls.clone()).await?;
                    (client, tokio::spawn(async move { drop(connection.await) }))
                }
                None => {
                    let (client, connection) = config.ssl_mode(SslMode::Disable).connect(NoTls).await?;
                    (client, tokio::spawn(async move { drop(connection.await) }))
                }
            };
            let mut conn = Conn::new(client, driver, session_name, tls.clone());
            conn.set_up(purpose).await?;
            Ok(conn)
        };
        match tokio::time::timeout(self.timeout, opening).await {
            Ok(Ok(conn)) => Ok(conn),
            // Whatever it says (wrong password, no such database), nothing of the request can be done there now.
            Ok(Err(error)) => Err(Problem {
                code: Code::StoreUnavailable,
                retry_after: Some(1),
                ..errors::problem(&self.store, &error)
            }),
            Err(_) => Err(Problem::unavailable(&self.store, format!("no connection within {:?}", self.timeout))),
        }
    }
}

/// Reads the URL and what the configuration lays over it.
pub(super) fn parse(config: &PostgresConfig) -> Result<tokio_postgres::Config, String> {
    let mut parsed: tokio_postgres::Config =
        config.url.parse().map_err(|error| format!("the url is not one of PostgreSQL: {error}"))?;
    if parsed.get_hosts().is_empty() && parsed.get_hostaddrs().is_empty() {
        return Err("the url names no host".to_owned());
    }
    if let Some(user) = &config.user {
        parsed.user(user);
    }
    if let Some(password) = &config.password {
        parsed.password(password);
    }
    parsed.connect_timeout(config.connect_timeout);
    // A peer that vanished without a word is noticed within half a minute, idle or not.
    parsed.tcp_user_timeout(Duration::from_secs(30));
    parsed.keepalives_idle(Duration::from_secs(15)).keepalives_interval(Duration::from_secs(5));
    Ok(parsed)
}

fn tls(ca_pem: Option<&[u8]>) -> Result<MakeRustlsConnect, String> {
    let mut roots = rustls::RootCertStore::empty();
    match ca_pem {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| format!("the CA file is not PEM: {error}"))?;
                roots.add(certificate).map_err(|error| format!("a CA certificate is not usable: {error}"))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err("TLS is asked for, but there is no CA certificate to trust".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("no TLS version in common with this build: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// One open connection. Dropped while it is not at rest, it is cut, so that the server rolls back.
pub(super) struct Conn {
    pub(super) client: Client,
    pub(super) statements: Statements,
    /// The server's process.
    pub(super) pid: i32,
    /// What `synchronous_commit` is held at: `on`, or stricter where the server is set stricter.
    pub(super) sync: String,
    /// What it called itself when it connected.
    pub(super) session_name: Arc<str>,
    /// Nothing is under way and no transaction is open.
    pub(super) at_rest: bool,
    driver: JoinHandle<()>,
    tls: Option<MakeRustlsConnect>,
}

impl Conn {
    fn new(client: Client, driver: JoinHandle<()>, session_name: &str, tls: Option<MakeRustlsConnect>) -> Self {
        Self {
            client,
            statements: Statements::default(),
            pid: 0,
            sync: "on".to_owned(),
            session_name: session_name.into(),
            at_rest: false,
            driver,
            tls,
        }
    }

    /// Pins what must not depend on the server's or the role's settings, and learns the process id. A session whose
    /// client has vanished must not go on waiting for locks: where the server can, it looks every two seconds.
    async fn set_up(&mut self, purpose: Purpose) -> Result<(), tokio_postgres::Error> {
        let purposely = match purpose {
            Purpose::Work => "set_config('default_transaction_read_only', 'on', false)",
            Purpose::Admin => {
                "set_config('default_transaction_read_only', 'off', false),
                 set_config('default_transaction_isolation', 'read committed', false),
                 set_config('statement_timeout', '30s', false), set_config('lock_timeout', '10s', false)"
            }
        };
        let where_known = match purpose {
            Purpose::Work => "('client_connection_check_interval', '2s')",
            // The planner cannot know how short the server's lists of sessions and locks are: it would compile for a
            // second what runs for a few milliseconds.
            Purpose::Admin => "('client_connection_check_interval', '2s'), ('jit', 'off')",
        };
        let sql = format!(
            "SELECT pg_backend_pid() AS pid, set_config('synchronous_commit',
                CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false) AS sync,
             (SELECT count(set_config(name, value, false)) FROM pg_settings
                JOIN (VALUES {where_known}) AS wanted (name, value) USING (name)),
             {purposely}"
        );
        for message in self.client.simple_query(&sql).await? {
            if let SimpleQueryMessage::Row(row) = message {
                self.pid = row.try_get("pid")?.and_then(|pid| pid.parse().ok()).unwrap_or_default();
                row.try_get("sync")?.unwrap_or("on").clone_into(&mut self.sync);
            }
        }
        self.at_rest = true;
        Ok(())
    }

    /// Whether the server (or the network) has ended it.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed() || self.driver.is_finished()
    }

    /// Asks the server to cancel what runs here; bounded, and never an error: it may have ended already.
    pub(super) fn cancel(&self) -> impl Future<Output = ()> + Send + 'static {
        let (token, tls) = (self.client.cancel_token(), self.tls.clone());
        async move {
            let asking = async {
                match tls {
                    Some(tls) => drop(token.cancel_query(tls).await),
                    None => drop(token.cancel_query(NoTls).await),
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(2), asking).await;
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if self.at_rest {
            // The driver says goodbye to the server by itself once the client is gone.
            return;
        }
        // The driver would wait for the answers that are still to come (a lock wait, say): cut the socket instead, and
        // ask the server to stop, since it may not look at the socket for a while.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(self.cancel());
        }
        self.driver.abort();
    }
}

/// The prepared statements of one connection: the least recently used goes when there are too many, since texts come
/// from requests.
#[derive(Default)]
pub(super) struct Statements {
    by_text: HashMap<Arc<str>, (Statement, u64)>,
    clock: u64,
}

impl Statements {
    const MOST: usize = 256;

    pub(super) fn get(&mut self, text: &str) -> Option<Statement> {
        self.clock += 1;
        let (statement, used) = self.by_text.get_mut(text)?;
        *used = self.clock;
        Some(statement.clone())
    }

    /// Without counting it as a use.
    pub(super) fn peek(&self, text: &str) -> Option<Statement> {
        self.by_text.get(text).map(|(statement, _)| statement.clone())
    }

    pub(super) fn keep(&mut self, text: &str, statement: Statement) {
        if self.by_text.len() >= Self::MOST
            && let Some(oldest) = self.by_text.iter().min_by_key(|(_, (_, used))| *used).map(|(text, _)| text.clone())
        {
            self.by_text.remove(&oldest);
        }
        self.clock += 1;
        self.by_text.insert(text.into(), (statement, self.clock));
    }

    pub(super) fn forget(&mut self, text: &str) {
        self.by_text.remove(text);
    }

    pub(super) fn forget_all(&mut self) {
        self.by_text.clear();
    }
}
