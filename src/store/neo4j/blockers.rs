//! Who waits for whom inside Neo4j, and how a wait of ours is ended.
//!
//! The server's list of transactions names the blockers of each that is blocked, by transaction. A running statement
//! shows our tag among its parameters, so a waiter names itself. A *holder* may be idle and then shows no statement: it
//! is known by its connection, whose spot each of our links has learnt once (`link`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use neo4rs::{BoltType, query};

use super::Neo4j;
use super::control::{blockers, text, whole};
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
            let end = query(END).param("tag", &*place.tag).param("spot", place.spot.get().as_deref());
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
    /// For how long, in microseconds.
    waited_us: i64,
    /// What it waits for, for people.
    resource: String,
    epoch: u64,
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
            waited_us: whole(row, "waited").unwrap_or(0).saturating_mul(1000),
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
            let user = if user.is_empty() { "somebody" } else { user };
            let (connection, address) = spot.split_once(' ').unwrap_or((spot, "an unknown address"));
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
            for id in &waiter.blocked_by {
                let holder = by_id.get(id.as_str()).copied();
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
            since_us: clock::now_us() - waiter.waited_us,
        }
    }
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
