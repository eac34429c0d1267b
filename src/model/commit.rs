//! What the commit carries: gids, markers, absolute writes, verdicts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ids::{Attempt, LogId, Lsn, Run, StoreName, TxnId};
use super::state::Outcome;

/// Who decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decider {
    /// A store's own marked commit.
    Store(StoreName),
    /// The forced `Decision` in the log.
    Wal,
}

impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(name) => name.fmt(f),
            Self::Wal => f.write_str("wal"),
        }
    }
}

impl From<&str> for Decider {
    fn from(text: &str) -> Self {
        if text == "wal" { Self::Wal } else { Self::Store(text.into()) }
    }
}

/// The name of a prepared transaction:
/// `ogr1:<log id>:<txn>:<attempt>:<durable Lsn when it was sent>:<deciding store>`, at most 199 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gid {
    /// Whose it is. Gids of other logs are never touched.
    pub log: LogId,
    /// Which run.
    pub run: Run,
    /// What the log had durable when this was sent: a store as witness against a log that lost acknowledged records.
    pub durable: Lsn,
    /// Who decides: enough to fence it with nothing but the gid.
    pub decider: Decider,
}

/// What all our gids begin with.
pub const GID_PREFIX: &str = "ogr1:";

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { txn, attempt } = self.run;
        write!(f, "{GID_PREFIX}{}:{txn}:{attempt}:{}:{}", self.log, self.durable.as_u64(), self.decider)
    }
}

/// Not one of our gids.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a gid of ours")]
pub struct NotOurGid;

impl FromStr for Gid {
    type Err = NotOurGid;
    fn from_str(text: &str) -> Result<Self, NotOurGid> {
        let mut parts = text.strip_prefix(GID_PREFIX).ok_or(NotOurGid)?.split(':');
        let mut part = || parts.next().ok_or(NotOurGid);
        let gid = Self {
            log: part()?.parse().map_err(|_| NotOurGid)?,
            run: Run {
                txn: part()?.parse().map_err(|_| NotOurGid)?,
                attempt: Attempt(part()?.parse().map_err(|_| NotOurGid)?),
            },
            durable: Lsn::from_u64(part()?.parse().map_err(|_| NotOurGid)?),
            decider: Decider::from(part()?),
        };
        if parts.next().is_some() { Err(NotOurGid) } else { Ok(gid) }
    }
}

/// An idempotency key with what it stands for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyNote {
    /// `principal/key`: keys of different principals never meet.
    pub key: String,
    /// SHA-256 of the request as canonical JSON and of the principal.
    pub digest: [u8; 32],
}

/// What a marker says once it is committed (or what a fence finds).
#[derive(Clone, PartialEq, Debug)]
pub struct Marker {
    /// Which run.
    pub run: Run,
    /// Committed, or aborted (a fence).
    pub outcome: Outcome,
    /// Whose.
    pub log: LogId,
    /// The durable Lsn when it was sent.
    pub durable: Lsn,
    /// Stores that get their part after the decision (preparers and redoers).
    pub followers: Vec<StoreName>,
    /// The key, on committed ones only.
    pub key: Option<KeyNote>,
    /// The answer as JSON text, where there is a key (and it is not too large to keep).
    pub answer: Option<String>,
    /// The absolute redo writes, with `redo_copy`.
    pub redo: Vec<RedoWrite>,
}

/// What a store said of who decided what: the coordinator brings it to the journal, which mints the slip.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Which run.
    pub run: Run,
    /// The store that decided.
    pub store: StoreName,
    /// Which way.
    pub outcome: Outcome,
}

/// One absolute write: ids and values fixed, so that it can be repeated safely.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RedoWrite {
    /// Where.
    pub store: StoreName,
    /// The collection (aliases resolved).
    pub resource: String,
    /// The points it writes, in their one spelling.
    pub keys: Vec<String>,
    /// The adapter's own encoding of the write. Kept for as long as logs are: it changes by version tag only.
    pub body: Vec<u8>,
}

/// A transaction id and the key note, as sessions need them at their first statement.
#[derive(Clone, Debug)]
pub struct MarkerNote {
    /// The answer as JSON text: recorded with the decision when there is a key.
    pub answer: Option<String>,
    /// The absolute redo writes, with `redo_copy`.
    pub redo: Vec<RedoWrite>,
}

/// Where to find a transaction: its id, or its key.
#[derive(Clone, Debug)]
pub enum LookUp {
    /// Any run of it.
    Txn(TxnId),
    /// `principal/key`.
    Key(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(decider: &str) -> Gid {
        Gid {
            log: LogId::from_bytes([0xab; 16]),
            run: Run { txn: TxnId::fresh(), attempt: Attempt(u32::MAX) },
            durable: Lsn::from_u64(u64::MAX),
            decider: decider.into(),
        }
    }

    #[test]
    fn a_gid_reads_back_and_fits() {
        for decider in ["wal", "pg", &"x".repeat(40)] {
            let gid = gid(decider);
            let text = gid.to_string();
            assert!(text.len() <= 199, "{} bytes", text.len());
            assert_eq!(text.parse::<Gid>(), Ok(gid));
        }
    }

    #[test]
    fn foreign_gids_are_not_ours() {
        let long = format!("{}:extra", gid("pg"));
        for text in ["", "ogr1:", "ogr2:x", "ogr1:zz:1:2:3:pg", long.as_str()] {
            assert!(text.parse::<Gid>().is_err(), "{text}");
        }
    }
}
