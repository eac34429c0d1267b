//! Neo4j over Bolt: marks, cannot prepare.
//!
//! The danger: Neo4j cannot promise to commit later, and a COMMIT whose answer is lost leaves nobody knowing. The
//! remedy: every transaction that decides begins by creating a node under a uniqueness constraint that no two
//! transactions can both commit (`marker`). Whoever comes later tries to create the same node: it either goes in, and
//! then the lost COMMIT can never land any more, or it is refused, and then it has landed (`recovery`).
//!
//! ```text
//!   Neo4j (Store, Marks) ── Shared ─┬─ users' links    one connection each, closed when dropped  (link)
//!                                   ├─ control         our own short statements              (control)
//!                                   └─ seats           which connection serves which run     (blockers)
//!   GraphSession (Session) ── statement, record, values ── watch (deadline, lock wait) ── link
//! ```

mod blockers;
mod control;
mod errors;
mod ghosts;
mod link;
mod marker;
mod record;
mod recovery;
mod session;
mod statement;
mod temporal;
mod values;
mod watch;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use neo4rs::query;

use self::blockers::Place;
use self::control::{Control, text, whole};
use self::errors::Fault;
use self::link::{Breaks, Links};
use self::session::GraphSession;
use self::values::ElementIds;
use crate::model::ids::{LogOwner, Run, StoreName};
use crate::model::powers::{Powers, Role};
use crate::model::problem::{Code, Problem};
use crate::store::seats::Seats;
use crate::store::{Blockers, Marks, Prepares, Probe, Redoes, Session, Store, TxnContext};

/// The parameter that every statement of ours carries, so that the server's list of transactions names them.
const TAG: &str = "__ogr";
/// How long a probe may take to reach the server.
const REACH: Duration = Duration::from_secs(2);

/// `<log id>/<incarnation>/<txn>/<attempt>`
fn tag(owner: LogOwner, run: Run) -> String {
    format!("{}/{}/{run}", owner.log, owner.incarnation.0)
}

/// What `outrigger init` runs here.
#[must_use]
pub fn statements() -> &'static [&'static str] {
    &marker::STATEMENTS
}

/// How to reach one Neo4j database.
#[derive(Clone)]
pub struct Neo4jConfig {
    /// `bolt://host:port`; `bolt+s://` for TLS. `neo4j://` is taken as `bolt://`: there is no routing.
    pub url: String,
    /// The database.
    pub database: String,
    /// Who we are there.
    pub user: String,
    /// Our password.
    pub password: String,
    /// Whether to insist on TLS with a certificate that the system trusts.
    pub tls: bool,
    /// Connections for transactions at most; seven more serve our own statements.
    pub pool_max: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a silent session of an older incarnation is given before it is ended.
    pub session_grace: Duration,
}

impl Neo4jConfig {
    /// Scheme and the rest: `("neo4j+s", "host:port")`.
    fn parts(&self) -> (&str, &str) {
        let (scheme, rest) = self.url.split_once("://").unwrap_or(("bolt", &self.url));
        (scheme, rest.split(['/', '?', '#']).next().unwrap_or(rest))
    }

    /// What the driver is given: never a scheme that routes.
    fn bolt_url(&self) -> String {
        let (scheme, rest) = self.parts();
        let secured = scheme.split_once('+').map(|(_, how)| how).or(self.tls.then_some("s"));
        let scheme = match scheme.split('+').next() {
            Some("bolt" | "neo4j") => "bolt",
            _ => scheme,
        };
        secured.map_or_else(|| format!("{scheme}://{rest}"), |how| format!("{scheme}+{how}://{rest}"))
    }

    /// `host:port`.
    fn address(&self) -> String {
        let (_, rest) = self.parts();
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if has_port { host.to_owned() } else { format!("{host}:7687") }
    }
}

/// What sessions and the marking side share.
struct Shared {
    name: StoreName,
    config: Neo4jConfig,
    control: Control,
    ids: RwLock<ElementIds>,
    /// What keeps records apart.
    unique: tokio::sync::Mutex<record::Unique>,
    seats: Arc<Seats<Place>>,
}

impl Shared {
    fn element_ids(&self) -> ElementIds {
        self.ids.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn problem(&self, fault: &Fault) -> Problem {
        fault.problem(&self.name)
    }
}

/// One Neo4j database as a participant.
pub struct Neo4j {
    shared: Arc<Shared>,
    links: Arc<Links>,
}

impl Neo4j {
    /// A participant that connects when it is first needed. Does no I/O.
    #[must_use]
    pub fn new(name: StoreName, config: Neo4jConfig) -> Arc<Self> {
        let breaks = Breaks::default();
        let links = Links::that_learn(&config, config.pool_max, &breaks);
        let control = Control::new(&config, &breaks);
        let shared = Shared {
            name,
            config,
            control,
            ids: RwLock::default(),
            unique: tokio::sync::Mutex::default(),
            seats: Seats::new(),
        };
        Arc::new(Self { shared: Arc::new(shared), links })
    }

    /// The uniqueness constraints and the index, made where they are missing and `init` says so.
    async fn ensure_marks(&self, init: bool) -> Result<(), Problem> {
        let missing = self.missing().await?;
        if missing.is_empty() {
            return Ok(());
        }
        let store = &self.shared;
        if !init {
            let detail = format!(
                "{}: the uniqueness constraints on {} are missing; `outrigger init` makes them",
                store.name,
                missing.join(", ")
            );
            return Err(Problem::new(Code::RejectedByStore, detail).in_store(&store.name));
        }
        for statement in marker::STATEMENTS {
            // Two that start at once may meet here: what counts is what stands afterwards.
            if let Err(fault) = store.control.ask(query(statement)).await
                && fault.server_code().is_none()
            {
                return Err(store.problem(&fault));
            }
        }
        let missing = self.missing().await?;
        if missing.is_empty() {
            return Ok(());
        }
        let detail = format!("{}: the constraints on {} could not be made", store.name, missing.join(", "));
        Err(Problem::new(Code::RejectedByStore, detail).in_store(&store.name))
    }

    async fn missing(&self) -> Result<Vec<String>, Problem> {
        let show = "SHOW CONSTRAINTS YIELD type, labelsOrTypes AS labels, properties WHERE size(labels) = 1 \
             AND size(properties) = 1 AND type IN ['UNIQUENESS', 'NODE_KEY', 'NODE_PROPERTY_UNIQUENESS'] \
             RETURN labels[0] AS label, properties[0] AS property";
        let rows = self.shared.control.ask(query(show)).await.map_err(|fault| self.shared.problem(&fault))?;
        let found: BTreeSet<_> =
            rows.iter().filter_map(|row| Some((text(row, "label")?, text(row, "property")?))).collect();
        let lacking = marker::UNIQUE.iter().filter(|(label, property)| {
            !found.iter().any(|(have_label, have)| have_label == label && have == property)
        });
        Ok(lacking.map(|(label, property)| format!(":{label}({property})")).collect())
    }

    /// Makes a node, looks at its id both ways, and unmakes it.
    async fn learn_ids(&self) -> Result<(), Problem> {
        let ask = query("CREATE (n) RETURN elementId(n) AS element, id(n) AS number");
        let rows = self.shared.control.rehearse(ask).await.map_err(|fault| self.shared.problem(&fault))?;
        let learnt =
            rows.first().and_then(|row| Some(ElementIds::learn(&text(row, "element")?, whole(row, "number")?)));
        *self.shared.ids.write().unwrap_or_else(PoisonError::into_inner) = learnt.unwrap_or_default();
        Ok(())
    }
}

#[async_trait]
impl Store for Neo4j {
    fn name(&self) -> &StoreName {
        &self.shared.name
    }

    fn kind(&self) -> &'static str {
        "neo4j"
    }

    async fn probe(&self, init: bool) -> Result<Probe, Problem> {
        let store = &self.shared;
        store.control.reach(REACH).await.map_err(|fault| store.problem(&fault))?;
        let components = "CALL dbms.components() YIELD name, versions, edition WHERE name = 'Neo4j Kernel' \
             RETURN versions[0] AS version, edition";
        let rows = store.control.ask(query(components)).await.map_err(|fault| store.problem(&fault))?;
        let version = rows.first().and_then(|row| text(row, "version")).unwrap_or_default();
        let edition = rows.first().and_then(|row| text(row, "edition")).unwrap_or_default();
        self.ensure_marks(init).await?;
        self.learn_ids().await?;
        let mut warnings = Vec::new();
        if self.rehearse_looks().await.is_err() {
            warnings.push(
                "our user may not list transactions: sessions that stand in recovery's way cannot be ended, and a \
                 statement that waits for a lock is ended only at the transaction's deadline, even in a deadlock"
                    .to_owned(),
            );
        }
        if self.shared.config.parts().0.starts_with("neo4j") {
            warnings.push("neo4j:// is taken as bolt://: this server is used alone, without routing".to_owned());
        }
        Ok(Probe { version: format!("{version} {edition}").trim().to_owned(), powers: self.powers(), warnings })
    }

    fn powers(&self) -> Powers {
        Powers { prepare: false, mark: true, redo: false }
    }

    async fn open(&self, context: &TxnContext, role: Role) -> Result<Box<dyn Session>, Problem> {
        let store = &self.shared;
        if !matches!(role, Role::Reader | Role::Decider | Role::Undecided) {
            let detail = format!("{}: Neo4j can neither prepare nor redo", store.name);
            return Err(Problem::new(Code::Internal, detail).in_store(&store.name));
        }
        match self.links.take(context.deadline).await {
            Ok(Some(link)) => Ok(Box::new(GraphSession::new(store.clone(), context.clone(), role, link))),
            Ok(None) => {
                let detail = format!("{}: no connection became free in time", store.name);
                Err(Problem::new(Code::Timeout, detail).in_store(&store.name))
            }
            Err(error) => Err(store.problem(&Fault::Driver(error))),
        }
    }

    fn marks(&self) -> Option<&dyn Marks> {
        Some(self)
    }

    fn prepares(&self) -> Option<&dyn Prepares> {
        None
    }

    fn redoes(&self) -> Option<&dyn Redoes> {
        None
    }

    fn blockers(&self) -> Option<&dyn Blockers> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str, tls: bool) -> Neo4jConfig {
        Neo4jConfig {
            url: url.to_owned(),
            database: "neo4j".to_owned(),
            user: "neo4j".to_owned(),
            password: String::new(),
            tls,
            pool_max: 1,
            connect_timeout: REACH,
            session_grace: REACH,
        }
    }

    #[test]
    fn urls_never_route_and_keep_their_tls() {
        for (url, tls, bolt, address) in [
            ("bolt://h:1", false, "bolt://h:1", "h:1"),
            ("neo4j://h", false, "bolt://h", "h:7687"),
            ("neo4j://h", true, "bolt+s://h", "h:7687"),
            ("neo4j+ssc://h:2/?x=1", true, "bolt+ssc://h:2", "h:2"),
            ("[::1]:7", false, "bolt://[::1]:7", "[::1]:7"),
            ("[::1]", false, "bolt://[::1]", "[::1]:7687"),
        ] {
            let config = config(url, tls);
            assert_eq!((config.bolt_url().as_str(), config.address().as_str()), (bolt, address), "{url}");
        }
    }

    #[tokio::test]
    async fn a_url_that_is_none_is_a_problem_and_no_panic() {
        for url in ["", "http://x", "bolt://", "bolt://:::"] {
            let store = Neo4j::new("graph".into(), config(url, false));
            assert!(store.probe(false).await.is_err(), "{url}");
        }
    }
}
