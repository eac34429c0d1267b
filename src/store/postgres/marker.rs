//! Markers and participant rows: the statements, and a row as a [`Marker`].

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::model::commit::{KeyNote, Marker};
use crate::model::ids::{Attempt, LogId, LogOwner, Lsn, Run, StoreName, TxnId};
use crate::model::state::Outcome;
use crate::store::TxnContext;

/// The first statement of a decider. No row where a later incarnation has registered. What it answers is where the row
/// stands: the note finds it there, touching no index, so that serializable transactions with neighbouring ids do not
/// seem to read what the others write.
pub(super) const MARK: &str = "INSERT INTO outrigger.decision AS d
    (txn, attempt, outcome, log_id, durable_lsn, followers, key, digest)
    SELECT $1::uuid, $2::bigint, 'committed', l.log_id, $5::bigint, $6::text[], $7::text, $8::bytea
    FROM outrigger.log l WHERE l.log_id = $3::uuid AND l.incarnation = $4::bigint
    RETURNING d.ctid::text";

/// The first statement of a preparer.
pub(super) const TAKE_PART: &str = "INSERT INTO outrigger.participant AS p (txn, attempt, log_id, durable_lsn)
    SELECT $1::uuid, $2::bigint, l.log_id, $5::bigint
    FROM outrigger.log l WHERE l.log_id = $3::uuid AND l.incarnation = $4::bigint
    RETURNING p.ctid::text";

/// What is known only at the commit.
pub(super) const NOTE: &str = "UPDATE outrigger.decision SET answer = $4::text, redo = $5::bytea
    WHERE ctid = $1::text::tid AND txn = $2::uuid AND attempt = $3::bigint";

/// Aborted, and without the key: an aborted transaction does not consume it.
pub(super) const FENCE: &str = "INSERT INTO outrigger.decision (txn, attempt, outcome, log_id, durable_lsn)
    SELECT $1::uuid, $2::bigint, 'aborted', l.log_id, $5::bigint
    FROM outrigger.log l WHERE l.log_id = $3::uuid AND l.incarnation = $4::bigint
    ON CONFLICT (txn, attempt) DO NOTHING";

macro_rules! select_marker {
    ($where:literal) => {
        concat!(
            "SELECT txn, attempt, outcome, log_id, durable_lsn, followers, key, digest, answer, redo
             FROM outrigger.decision WHERE ",
            $where
        )
    };
}

/// The marker of one run.
pub(super) const OF_RUN: &str = select_marker!("txn = $1 AND attempt = $2");
/// The markers of one transaction: a committed one first, then the latest attempt.
pub(super) const OF_TXN: &str = select_marker!("txn = $1 ORDER BY outcome = 'committed' DESC, attempt DESC LIMIT 1");
/// The marker that holds a key.
pub(super) const OF_KEY: &str = select_marker!("key = $1 AND outcome = 'committed'");

/// Those of some keys that are held.
pub(super) const HELD_KEYS: &str = "SELECT key FROM outrigger.decision WHERE key = ANY ($1) AND outcome = 'committed'";

/// A log id as the column holds it.
pub(super) fn uuid(log: LogId) -> Uuid {
    Uuid::from_bytes(log.to_bytes())
}

/// PostgreSQL has no unsigned integers. Neither an Lsn nor an incarnation ever gets beyond 2^63; should one, it is
/// still the greatest.
pub(super) fn bigint(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The parameters of [`MARK`]; [`TAKE_PART`] and [`FENCE`] take the first five.
pub(super) struct MarkParams {
    txn: Uuid,
    attempt: i64,
    log: Uuid,
    incarnation: i64,
    durable: i64,
    followers: Vec<String>,
    key: Option<String>,
    digest: Option<Vec<u8>>,
}

impl MarkParams {
    pub(super) fn new(context: &TxnContext) -> Self {
        Self {
            followers: context.followers.iter().map(|name| name.as_str().to_owned()).collect(),
            key: context.key.as_ref().map(|note| note.key.clone()),
            digest: context.key.as_ref().map(|note| note.digest.to_vec()),
            ..Self::of_fence(context.run, context.owner, context.durable)
        }
    }

    /// For [`FENCE`], which has no transaction around it.
    pub(super) fn of_fence(run: Run, owner: LogOwner, durable: Lsn) -> Self {
        Self {
            txn: run.txn.0,
            attempt: i64::from(run.attempt.0),
            log: uuid(owner.log),
            incarnation: bigint(owner.incarnation.0),
            durable: bigint(durable.as_u64()),
            followers: Vec::new(),
            key: None,
            digest: None,
        }
    }

    pub(super) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    pub(super) fn all(&self) -> [&(dyn ToSql + Sync); 8] {
        let [txn, attempt, log, incarnation, durable] = self.identity();
        [txn, attempt, log, incarnation, durable, &self.followers, &self.key, &self.digest]
    }

    pub(super) fn identity(&self) -> [&(dyn ToSql + Sync); 5] {
        [&self.txn, &self.attempt, &self.log, &self.incarnation, &self.durable]
    }
}

/// Reads a row of `outrigger.decision`; the text says what is wrong with it.
pub(super) fn read(row: &Row) -> Result<Marker, String> {
    let strange = |error: tokio_postgres::Error| format!("a marker that cannot be read: {error}");
    let outcome = match row.try_get::<_, &str>("outcome").map_err(strange)? {
        "committed" => Outcome::Committed,
        "aborted" => Outcome::Aborted,
        other => return Err(format!("a marker with the outcome {other:?}")),
    };
    let number = |name: &str| -> Result<u64, String> {
        let n: i64 = row.try_get(name).map_err(strange)?;
        u64::try_from(n).map_err(|_| format!("a marker with {name} = {n}"))
    };
    let attempt = u32::try_from(number("attempt")?).map_err(|_| "a marker with an attempt beyond all".to_owned())?;
    let key: Option<String> = row.try_get("key").map_err(strange)?;
    let digest: Option<Vec<u8>> = row.try_get("digest").map_err(strange)?;
    let key = match (key, digest) {
        (Some(key), Some(digest)) => {
            let digest = digest.try_into().map_err(|_| "a marker whose digest is not 32 bytes".to_owned())?;
            Some(KeyNote { key, digest })
        }
        _ => None,
    };
    let redo: Option<Vec<u8>> = row.try_get("redo").map_err(strange)?;
    let redo = match redo {
        Some(bytes) => {
            serde_json::from_slice(&bytes).map_err(|error| format!("a marker whose redo cannot be read: {error}"))?
        }
        None => Vec::new(),
    };
    let followers: Vec<String> = row.try_get("followers").map_err(strange)?;
    Ok(Marker {
        run: Run { txn: TxnId(row.try_get("txn").map_err(strange)?), attempt: Attempt(attempt) },
        outcome,
        log: LogId::from_bytes(row.try_get::<_, Uuid>("log_id").map_err(strange)?.into_bytes()),
        durable: Lsn::from_u64(number("durable_lsn")?),
        followers: followers.iter().map(|name| StoreName::from(name.as_str())).collect(),
        key,
        answer: row.try_get("answer").map_err(strange)?,
        redo,
    })
}
