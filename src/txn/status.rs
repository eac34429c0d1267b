//! `GET /v1/status`, but for the version and the uptime, which the door knows.

use std::sync::PoisonError;

use serde_json::{Value, json};

use super::core::Core;
use super::job;
use super::site::{Gate, Site};
use crate::model::state::TxnState;

pub(super) fn of(core: &Core) -> Value {
    let stores: serde_json::Map<_, _> = core.sites.iter().map(|(name, site)| (name.to_string(), store(site))).collect();
    let mut open: serde_json::Map<_, _> = TxnState::ALL
        .into_iter()
        .filter(|state| !state.has_ended())
        .map(|state| (state.as_str().to_owned(), json!(0)))
        .collect();
    for entry in core.registry.open().iter().filter(|entry| entry.job().is_none()) {
        let count = open.get(entry.state().as_str()).and_then(Value::as_u64).unwrap_or(0);
        open.insert(entry.state().as_str().to_owned(), json!(count + 1));
    }
    let (jobs, compensating) = job::count(core);
    let stats = core.journal.stats();
    let owner = core.journal.owner();
    let report = core.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
    json!({
        "state": if core.lost_log().is_some() { "refusing" } else if core.is_ready() { "ready" } else { "starting" },
        "reason": core.lost_log(),
        "log": {"id": owner.log.to_string(), "incarnation": owner.incarnation.0},
        "stores": stores,
        "journal": {
            "segments": stats.segments,
            "bytes": stats.bytes,
            "oldest_live_lsn": core.registry.oldest_pin(|| core.journal.next_lsn()).as_u64(),
            "durable_lsn": core.journal.durable_lsn().as_u64(),
            "next_lsn": core.journal.next_lsn().as_u64(),
            "last_flush_seconds": stats.last_flush.as_secs_f64(),
            "flushes": stats.flushes,
            "records": stats.appended_records,
            "poisoned": stats.poisoned,
        },
        "locks": {"held": core.locks.held(), "waiting": core.locks.waiting(), "leases": core.leases.count()},
        "transactions": open,
        "jobs": {"open": jobs, "compensating": compensating},
        "recovery": report,
    })
}

fn store(site: &Site) -> Value {
    let (probe, others) = site.seen();
    let (state, reason) = match site.gate() {
        Gate::Open => ("up", None),
        Gate::Starting | Gate::Reached => ("recovering", None),
        Gate::Down(why) => ("down", Some(why)),
    };
    let warnings = probe.as_ref().map(|probe| probe.warnings.clone()).unwrap_or_default();
    json!({
        "kind": site.store.kind(),
        "state": state,
        "reason": reason,
        "version": probe.as_ref().map(|probe| probe.version.clone()),
        "powers": site.store.powers(),
        "warnings": warnings,
        "other_logs": others,
    })
}
