//! Who waits for whom inside Neo4j, and how a wait of ours is ended.
//!
//! The server's list of transactions names the blockers of each that is blocked, and theirs in turn: what is behind
//! another blocker is taken out again, so that an edge is one wait for one holder. A running statement shows our tag among its parameters, so a waiter names itself. A *holder* may be idle and then shows no statement: it
//! is known by its connection, whose spot each of our links has learnt once (`link`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use neo4rs::{BoltType, query};

use super::Neo4j;
use super::control::{blockers, text, whole};
use super::errors::Fault;
use super::link::Spot;
use super::values::Row;
use crate::clock;
use crate::model::ids::{Run, StoreName};
use crate::model::wait::{Party, Source, WaitEdge};
use crate::store::seats::{Seated, Waiting};
use crate::store::{Blockers, Setback};

/// How the server's list shows a session of ours.
#[derive(Clone)]
pub(super) struct Place {
    /// While a statement runs.
    pub(super) tag: Arc<str>,
    /// Always, once it is learnt.
    pub(super) spot: Spot,
}

const OPEN: &str = "SHOW TRANSACTIONS YIELD transactionId, parameters, status, connectionId, clientAddress, username, \
     currentQueryId, currentQueryWaitTime, activeLockCount, pageHits, pageFaults, resourceInformation \
     RETURN transactionId AS id, parameters.__ogr AS tag, status, connectionId + ' ' + clientAddress AS spot, \
     username AS user, currentQueryId AS query, activeLockCount AS locks, pageHits AS hits, pageFaults AS faults, \
     coalesce(resourceInformation.waitTimeMillis, currentQueryWaitTime.milliseconds) AS waited, \
     resourceInformation.resourceType AS kind, resourceInformation.lockMode AS mode, \
     [id IN resourceInformation.resourceIds | toString(id)] AS ids";

/// Only what is still blocked. A transaction's id is never used again, so nobody else can be hit.
const END: &str = "SHOW TRANSACTIONS YIELD transactionId AS id, parameters, status, connectionId, clientAddress \
     WHERE status STARTS WITH 'Blocked by' AND (parameters.__ogr = $tag \
     OR (parameters.__ogr IS NULL AND connectionId + ' ' + clientAddress = $spot)) \
     TERMINATE TRANSACTIONS id YIELD message RETURN message";

#[async_trait]
impl Blockers for Neo4j {
    async fn waits(&self, waiting: &[Run]) -> Result<Vec<WaitEdge>, Setback> {
        let store = &self.shared;
        let waiting = Waiting::new(waiting);
        let seats = store.seats.all();
        if !seats.iter().any(|seated| waiting.has(seated.run)) {
            return Ok(Vec::new());
        }
        let rows = store.control.look(query(OPEN)).await.map_err(|fault| Setback::Again(fault.say(&store.name)))?;
        let open: Vec<Open> = rows.iter().filter_map(Open::read).collect();
        let names = Names::new(&store.name, &waiting, store.seats.still(seats), &open);
        Ok(names.edges(&open))
    }

    async fn interrupt(&self, run: Run) -> Result<(), Setback> {
        let store = &self.shared;
        for place in store.seats.interrupt(run) {
            let end = query(END).param("tag", &*place.tag).param("spot", place.spot.get());
            store.control.look(end).await.map_err(|fault| Setback::Again(fault.say(&store.name)))?;
        }
        Ok(())
    }
}

/// One open transaction.
struct Open {
    id: String,
    tag: Option<String>,
    spot: String,
    user: String,
    blocked_by: Vec<String>,
    since_us: i64,
    /// What it waits for, for people.
    resource: String,
    epoch: u64,
}

impl Neo4j {
    /// Asks both questions of this file once, of nobody: a server that has just started takes a quarter of a second to
    /// plan each, and is not to do it while somebody waits in a circle.
    pub(super) async fn rehearse_looks(&self) -> Result<(), Fault> {
        self.shared.control.look(query(OPEN)).await?;
        self.shared.control.look(query(END).param("tag", "").param("spot", "")).await.map(drop)
    }
}

impl Open {
    fn read(row: &Row) -> Option<Self> {
        let id = text(row, "id")?;
        let (kind, mode) = (text(row, "kind").unwrap_or_default(), text(row, "mode").unwrap_or_default());
        let ids = strings(row, "ids").join(", ");
        // While it is blocked it touches no page and takes no lock, so these tell one wait of a statement from its next.
        let traces = ["locks", "hits", "faults"].map(|column| whole(row, column));
        let mut epoch = DefaultHasher::new();
        (&id, text(row, "query"), traces, &kind, &mode, &ids).hash(&mut epoch);
        Some(Self {
            id,
            tag: text(row, "tag"),
            spot: text(row, "spot").unwrap_or_default(),
            user: text(row, "user").unwrap_or_default(),
            blocked_by: blockers(&text(row, "status").unwrap_or_default()),
            since_us: clock::now_us() - whole(row, "waited").unwrap_or(0).saturating_mul(1000),
            resource: resource(&kind, &ids, &mode),
            epoch: epoch.finish(),
        })
    }
}

/// Who the open transactions are.
struct Names<'a> {
    store: &'a StoreName,
    waiting: &'a Waiting,
    by_tag: HashMap<Arc<str>, Run>,
    by_spot: HashMap<String, Run>,
}

impl<'a> Names<'a> {
    /// A tag that runs elsewhere than its link believes sets the link right: the driver replaces a broken connection
    /// without a word.
    fn new(store: &'a StoreName, waiting: &'a Waiting, seats: Vec<Seated<Place>>, open: &[Open]) -> Self {
        let (mut by_tag, mut by_spot) = (HashMap::new(), HashMap::new());
        for Seated { run, key, .. } in seats {
            if let Some(txn) = open.iter().find(|txn| txn.tag.as_deref() == Some(&*key.tag)) {
                key.spot.set(&txn.spot);
            }
            if let Some(spot) = key.spot.get() {
                by_spot.insert(spot, run);
            }
            by_tag.insert(key.tag, run);
        }
        Self { store, waiting, by_tag, by_spot }
    }

    fn run(&self, txn: &Open) -> Option<Run> {
        match &txn.tag {
            Some(tag) => self.by_tag.get(tag.as_str()).copied(),
            None => self.by_spot.get(&txn.spot).copied(),
        }
    }

    fn party(&self, txn: &Open) -> Party {
        let ours = self.run(txn).and_then(|run| self.waiting.party(run));
        ours.unwrap_or_else(|| {
            let Open { id, user, spot, .. } = txn;
            let user = if user.is_empty() { "somebody" } else { user.as_str() };
            let (connection, address) = spot.split_once(' ').unwrap_or((spot.as_str(), "an unknown address"));
            Party::Foreign(format!("{}: {id} of {user} at {address} ({connection})", self.store).into())
        })
    }

    /// The waits of those that are asked about, and of whoever is in their way.
    fn edges(&self, open: &[Open]) -> Vec<WaitEdge> {
        let by_id: HashMap<&str, &Open> = open.iter().map(|txn| (txn.id.as_str(), txn)).collect();
        let asked = open.iter().filter(|txn| self.run(txn).is_some_and(|run| self.waiting.has(run)));
        let mut to_follow: VecDeque<&Open> = asked.collect();
        let mut followed: HashSet<&str> = HashSet::new();
        let mut edges = Vec::new();
        while let Some(waiter) = to_follow.pop_front() {
            if !followed.insert(&waiter.id) {
                continue;
            }
            for id in nearest(waiter, &by_id) {
                let holder = by_id.get(id).copied();
                to_follow.extend(holder);
                let party = holder.map_or_else(|| self.unseen(id), |holder| self.party(holder));
                edges.push(self.edge(waiter, party));
            }
        }
        edges.retain(|edge| edge.waiter != edge.holder);
        edges
    }

    /// It has ended since, or our user may not see it.
    fn unseen(&self, id: &str) -> Party {
        Party::Foreign(format!("{}: {id}, which is not shown to us", self.store).into())
    }

    fn edge(&self, waiter: &Open, holder: Party) -> WaitEdge {
        WaitEdge {
            waiter: self.party(waiter),
            holder,
            source: Source::Store(self.store.clone()),
            resource: waiter.resource.clone(),
            epoch: waiter.epoch,
            since_us: waiter.since_us,
        }
    }
}

/// The blockers of `waiter` that it does not only wait for because another one does. (A knot inside Neo4j, where two
/// are behind each other, keeps all: Neo4j is about to break it by itself.)
fn nearest<'a>(waiter: &'a Open, by_id: &HashMap<&str, &'a Open>) -> Vec<&'a str> {
    let behind = |one: &str, other: &str| by_id.get(one).is_some_and(|one| one.blocked_by.iter().any(|id| id == other));
    let all = || waiter.blocked_by.iter().map(String::as_str);
    let farther = |id: &str| all().any(|other| other != id && behind(other, id) && !behind(id, other));
    all().filter(|id| !farther(id)).collect()
}

/// `node 17 (EXCLUSIVE)`.
fn resource(kind: &str, ids: &str, mode: &str) -> String {
    if kind.is_empty() {
        return "a lock".to_owned();
    }
    format!("{} {ids} ({mode})", kind.to_lowercase().replace('_', " "))
}

/// A column of texts.
fn strings(row: &Row, column: &str) -> Vec<String> {
    let Some(BoltType::List(list)) = row.get(column) else { return Vec::new() };
    let texts = list.value.iter().filter_map(|item| match item {
        BoltType::String(text) => Some(text.value.clone()),
        _ => None,
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(id: &str, blocked_by: &[&str]) -> Open {
        Open {
            id: id.to_owned(),
            tag: None,
            spot: format!("bolt-{id} here"),
            user: String::new(),
            blocked_by: blocked_by.iter().map(|id| (*id).to_owned()).collect(),
            since_us: 0,
            resource: String::new(),
            epoch: 0,
        }
    }

    #[test]
    fn blockers_of_blockers_are_left_out() {
        // a waits for b, b for c and d; x and y for each other.
        let all = [
            open("a", &["b", "c", "d", "gone"]),
            open("b", &["c", "d"]),
            open("c", &[]),
            open("d", &[]),
            open("x", &["y"]),
            open("y", &["x"]),
            open("z", &["x", "y"]),
        ];
        let by_id: HashMap<&str, &Open> = all.iter().map(|txn| (txn.id.as_str(), txn)).collect();
        let nearest = |id: &str| nearest(by_id[id], &by_id);
        assert_eq!(nearest("a"), ["b", "gone"]);
        assert_eq!(nearest("b"), ["c", "d"]);
        assert_eq!(nearest("z"), ["x", "y"]);
        assert_eq!((nearest("x"), nearest("c")), (vec!["y"], vec![]));
    }

    #[test]
    fn strangers_have_one_name() {
        let (store, waiting) = (StoreName::from("graph"), Waiting::new(&[]));
        let names = Names::new(&store, &waiting, Vec::new(), &[]);
        let mut txn = open("7", &[]);
        assert_eq!(names.party(&txn).to_string(), "graph: 7 of somebody at here (bolt-7)");
        txn.user = "alice".to_owned();
        txn.spot = String::new();
        assert_eq!(names.party(&txn).to_string(), "graph: 7 of alice at an unknown address ()");
    }
}
