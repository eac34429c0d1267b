//! The marker node, its log's node, and the statements that make them unique.
//!
//! ```text
//! (:OutriggerLog {id, incarnation, host, heartbeat, registered_at, durable})
//! (:OutriggerDecision {id: "txn/attempt", txn, outcome, log, durable, followers, key?, digest?, answer?, redo?, created_at})
//! ```
//!
//! A session cannot commit without having met its marker's id: the marker is its first statement. Whoever creates the
//! node of that id first wins; a second `CREATE` waits while the first is open and fails when it has committed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use neo4rs::summary::Counters;
use neo4rs::{BoltMap, BoltType, Query, query};
use serde::{Deserialize, Serialize};

use super::TAG;
use crate::model::commit::{KeyNote, Marker, MarkerNote, RedoWrite};
use crate::model::ids::{Attempt, LogId, Lsn, Run, StoreName};
use crate::model::state::Outcome;
use crate::store::TxnContext;

/// What `outrigger init` creates, in this order.
pub(super) const STATEMENTS: [&str; 4] = [
    "CREATE CONSTRAINT outrigger_decision_id IF NOT EXISTS FOR (d:OutriggerDecision) REQUIRE d.id IS UNIQUE",
    "CREATE CONSTRAINT outrigger_decision_key IF NOT EXISTS FOR (d:OutriggerDecision) REQUIRE d.key IS UNIQUE",
    "CREATE CONSTRAINT outrigger_log_id IF NOT EXISTS FOR (l:OutriggerLog) REQUIRE l.id IS UNIQUE",
    "CREATE INDEX outrigger_decision_sweep IF NOT EXISTS FOR (d:OutriggerDecision) ON (d.log, d.durable)",
];

/// The label and the properties of each uniqueness constraint without which nothing here holds.
pub(super) const UNIQUE: [(&str, &str); 3] =
    [("OutriggerDecision", "id"), ("OutriggerDecision", "key"), ("OutriggerLog", "id")];

const WRITE: &str = "MATCH (__ogr_l:OutriggerLog {id: $__ogr_log}) WHERE __ogr_l.incarnation = $__ogr_incarnation \
     CREATE (:OutriggerDecision {id: $__ogr_id, txn: $__ogr_txn, outcome: 'committed', log: $__ogr_log, \
     durable: $__ogr_durable, followers: $__ogr_followers, key: $__ogr_key, digest: $__ogr_digest, \
     created_at: datetime()})";

/// Stands between the marker and an operation in one text; a column of this name is never the operation's.
pub(super) const ONE: &str = "__ogr_one";

const FENCE: &str = "CREATE (:OutriggerDecision {id: $id, txn: $txn, outcome: 'aborted', log: $log, \
     durable: $durable, followers: [], created_at: datetime()})";

const NOTE: &str = "MATCH (d:OutriggerDecision {id: $id}) \
     SET d.answer = $answer, d.redo = $redo, d.followers = coalesce($followers, d.followers)";

const OWN: &str = "MATCH (d:OutriggerDecision {id: $id}) MATCH (l:OutriggerLog {id: $log}) RETURN d.id AS id";

/// The first statement of a decider's transaction. It creates no node where the log's registered incarnation is another.
pub(super) fn write(context: &TxnContext, tag: &str) -> Query {
    with_marker(query(WRITE), context, tag)
}

/// The marker and an operation in one text. The marker's node is made before any clause of the operation runs, and
/// where it is not made (another incarnation) there is no row for the operation to run on.
pub(super) fn write_and(text: &str, params: BoltMap, context: &TxnContext, tag: &str) -> Query {
    let both = format!("{WRITE} WITH 1 AS {ONE}\n{text}");
    with_marker(Query::new(both).with_params(params), context, tag)
}

/// What the marker adds to a statement's counters.
pub(super) fn uncount(counters: &mut Counters, context: &TxnContext) {
    let properties = if context.key.is_some() { 9 } else { 7 };
    counters.nodes_created = counters.nodes_created.saturating_sub(1);
    counters.labels_added = counters.labels_added.saturating_sub(1);
    counters.properties_set = counters.properties_set.saturating_sub(properties);
}

fn with_marker(query: Query, context: &TxnContext, tag: &str) -> Query {
    let Run { txn, .. } = context.run;
    let followers = names(&context.followers);
    let (key, digest) = context.key.as_ref().map(|note| (note.key.clone(), hex(&note.digest))).unzip();
    query
        .param("__ogr_log", context.owner.log.to_string())
        .param("__ogr_incarnation", integer(context.owner.incarnation.0))
        .param("__ogr_id", context.run.to_string())
        .param("__ogr_txn", txn.to_string())
        .param("__ogr_durable", integer(context.durable.as_u64()))
        .param("__ogr_followers", followers)
        .param("__ogr_key", key)
        .param("__ogr_digest", digest)
        .param(TAG, tag)
}

fn names(stores: &[StoreName]) -> Vec<String> {
    stores.iter().map(|store| store.as_str().to_owned()).collect()
}

/// One row where both the marker and the log's node still stand.
pub(super) fn own(context: &TxnContext, tag: &str) -> Query {
    query(OWN).param("id", context.run.to_string()).param("log", context.owner.log.to_string()).param(TAG, tag)
}

/// What is known only at the end (`followers` where they were not at the beginning); `None` where there is nothing to
/// add.
pub(super) fn note(run: Run, note: &MarkerNote, followers: Option<&[StoreName]>, tag: &str) -> Option<Query> {
    if note.answer.is_none() && note.redo.is_empty() && followers.is_none() {
        return None;
    }
    let redo = (!note.redo.is_empty()).then(|| redo_text(&note.redo));
    Some(
        query(NOTE)
            .param("id", run.to_string())
            .param("answer", note.answer.clone())
            .param("redo", redo)
            .param("followers", followers.map(names))
            .param(TAG, tag),
    )
}

/// The marker that stands in a commit's way for good.
pub(super) fn fence(run: Run, log: LogId, durable: Lsn, tag: &str) -> Query {
    query(FENCE)
        .param("id", run.to_string())
        .param("txn", run.txn.to_string())
        .param("log", log.to_string())
        .param("durable", integer(durable.as_u64()))
        .param(TAG, tag)
}

/// Bolt has no unsigned integers; what lies beyond (no log grows so long) stays at the top.
pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Reads a marker from its properties; `None` where they are not what we write.
pub(super) fn read(properties: &BoltMap) -> Option<Marker> {
    let text = |name: &str| properties.get::<String>(name).ok();
    let (txn, attempt) = text("id").and_then(|id| {
        let (txn, attempt) = id.split_once('/')?;
        Some((txn.parse().ok()?, Attempt(attempt.parse().ok()?)))
    })?;
    let outcome = match text("outcome")?.as_str() {
        "committed" => Outcome::Committed,
        "aborted" => Outcome::Aborted,
        _ => return None,
    };
    let key = match (text("key"), text("digest")) {
        (Some(key), Some(digest)) => Some(KeyNote { key, digest: unhex(&digest)? }),
        _ => None,
    };
    let followers = properties.get::<Vec<String>>("followers").unwrap_or_default();
    Some(Marker {
        run: Run { txn, attempt },
        outcome,
        log: text("log")?.parse().ok()?,
        durable: Lsn::from_u64(u64::try_from(properties.get::<i64>("durable").ok()?).ok()?),
        followers: followers.iter().map(|name| StoreName::from(name.as_str())).collect(),
        key,
        answer: text("answer"),
        redo: match text("redo") {
            Some(text) => read_redo(&text)?,
            None => Vec::new(),
        },
    })
}

/// The same from a column that holds `properties(d)`.
pub(super) fn read_column(value: Option<&BoltType>) -> Option<Marker> {
    match value {
        Some(BoltType::Map(properties)) => read(properties),
        _ => None,
    }
}

/// A redo write as text: JSON numbers for every byte of a body would be four times as long.
#[derive(Serialize, Deserialize)]
struct RedoText {
    store: StoreName,
    resource: String,
    keys: Vec<String>,
    body: String,
}

fn redo_text(writes: &[RedoWrite]) -> String {
    let texts: Vec<RedoText> = writes
        .iter()
        .map(|write| RedoText {
            store: write.store.clone(),
            resource: write.resource.clone(),
            keys: write.keys.clone(),
            body: STANDARD.encode(&write.body),
        })
        .collect();
    serde_json::to_string(&texts).expect("strings become JSON")
}

fn read_redo(text: &str) -> Option<Vec<RedoWrite>> {
    let texts: Vec<RedoText> = serde_json::from_str(text).ok()?;
    let write = |text: RedoText| {
        let body = STANDARD.decode(&text.body).ok()?;
        Some(RedoWrite { store: text.store, resource: text.resource, keys: text.keys, body })
    };
    texts.into_iter().map(write).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::TxnId;

    #[test]
    fn digests_and_redo_writes_read_back() {
        let digest: [u8; 32] = std::array::from_fn(|at| (at * 9) as u8);
        assert_eq!(unhex(&hex(&digest)), Some(digest));
        assert_eq!(unhex("zz"), None);
        let write = RedoWrite {
            store: "vectors".into(),
            resource: "docs".to_owned(),
            keys: vec!["1".to_owned()],
            body: vec![0, 255, 7],
        };
        assert_eq!(read_redo(&redo_text(std::slice::from_ref(&write))), Some(vec![write]));
    }

    #[test]
    fn properties_that_are_not_ours_are_no_marker() {
        let good = || {
            let mut map = BoltMap::new();
            for (name, value) in [
                ("id", format!("{}/3", TxnId::fresh())),
                ("outcome", "aborted".to_owned()),
                ("log", LogId::from_bytes([7; 16]).to_string()),
            ] {
                map.put(name.into(), value.into());
            }
            map.put("durable".into(), 9_i64.into());
            map
        };
        let marker = read(&good()).unwrap();
        assert_eq!(
            (marker.run.attempt, marker.outcome, marker.durable),
            (Attempt(3), Outcome::Aborted, Lsn::from_u64(9))
        );
        for (name, value) in [
            ("id", "x".into()),
            ("outcome", "maybe".into()),
            ("log", BoltType::from(7_i64)),
            ("durable", (-1_i64).into()),
        ] {
            let mut map = good();
            map.put(name.into(), value);
            assert!(read(&map).is_none(), "{name}");
        }
    }
}
