//! Our own lock table as clients and operators read it.

use serde::Serialize;
use utoipa::ToSchema;

use super::Coordinator;
use super::core::Core;
use crate::lock::{LockParty, Mode};

/// One key of `GET /v1/locks`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct KeyView {
    /// A free key, `store/collection`, or `store/collection/point`.
    pub key: String,
    /// The strongest mode it is held in: `intent_shared`, `intent_exclusive`, `shared`, `update`, `exclusive`.
    #[schema(value_type = String)]
    pub mode: Mode,
    /// Who holds it.
    pub holders: Vec<PartyView>,
    /// Who waits, the next one first.
    pub waiters: Vec<PartyView>,
}

/// A transaction or a lease at a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct PartyView {
    /// A transaction's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// A lease's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// What it holds, or would hold.
    #[schema(value_type = String)]
    pub mode: Mode,
}

impl Coordinator {
    /// `GET /v1/locks`: at most so many keys of our own table, contended ones first.
    #[must_use]
    pub fn locks(&self, limit: usize) -> Vec<KeyView> {
        let parties = |list: Vec<LockParty>| list.into_iter().map(|party| shown(&self.core, &party)).collect();
        let lines = self.core.locks.snapshot(limit).into_iter().map(|line| KeyView {
            key: line.key,
            mode: line.mode,
            holders: parties(line.holders),
            waiters: parties(line.waiters),
        });
        lines.collect()
    }
}

fn shown(core: &Core, party: &LockParty) -> PartyView {
    let id = Some(party.transaction.to_string());
    let is_lease = core.leases.key_of(party.transaction).is_some();
    let (transaction, lease) = if is_lease { (None, id) } else { (id, None) };
    PartyView { transaction, lease, mode: party.mode }
}
