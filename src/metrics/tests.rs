//! The text that Prometheus reads.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::model::problem::Code;

fn metrics() -> Metrics {
    Metrics::new(&["pg".into(), "vec".into()])
}

#[test]
fn every_family_of_the_contract_is_there_at_zero() {
    let text = metrics().render();
    for family in [
        "transactions_total",
        "transaction_duration_seconds",
        "transaction_phase_seconds",
        "transactions_open",
        "transaction_oldest_seconds",
        "attempts_total",
        "store_requests_total",
        "store_request_seconds",
        "store_up",
        "store_prepared_oldest_seconds",
        "redo_pending",
        "visibility_lag_seconds",
        "locks_held",
        "locks_waiting",
        "lock_wait_seconds",
        "deadlocks_total",
        "deadlock_check_seconds",
        "journal_append_bytes_total",
        "journal_flush_seconds",
        "journal_flush_batch_records",
        "journal_segments",
        "journal_bytes",
        "journal_oldest_live_seconds",
        "journal_poisoned",
        "recovery_seconds",
        "recovery_transactions_total",
        "reaped_total",
        "reaper_sweep_seconds",
        "journal_keys",
        "http_requests_total",
        "http_request_seconds",
        "event_followers",
        "events_total",
        "interventions_open",
        "resolutions_total",
        "audit_failures_total",
        "jobs_open",
        "job_chunks_total",
        "ready",
        "build_info",
    ] {
        assert!(text.contains(&format!("# TYPE outrigger_{family} ")), "{family} is missing");
    }
    for line in [
        r#"outrigger_transactions_total{outcome="aborted",pattern="atomic"} 0"#,
        r#"outrigger_transaction_phase_seconds_count{phase="decide"} 0"#,
        r#"outrigger_transactions_open{state="in_doubt"} 0"#,
        r#"outrigger_store_requests_total{operation="prepare",result="lost",store="vec"} 0"#,
        r#"outrigger_store_up{store="pg"} 0"#,
        r#"outrigger_http_requests_total{route="POST /v1/transactions",status="504"} 0"#,
        "outrigger_journal_poisoned 0",
        r#"outrigger_resolutions_total{action="skip",result="refused"} 0"#,
        r#"outrigger_audit_failures_total{place="table"} 0"#,
        r#"outrigger_job_chunks_total{outcome="undo_refused"} 0"#,
        r#"outrigger_reaped_total{what="lease"} 0"#,
        r#"outrigger_reaped_total{what="interactive"} 0"#,
        r#"outrigger_reaped_total{what="prepared_expired"} 0"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing");
    }
    assert!(!text.contains(r#"state="committed""#), "an ended state is not open");
}

#[test]
fn what_happens_is_counted_where_it_belongs() {
    let m = metrics();
    let second = Duration::from_secs(1);
    m.transaction_ended(Pattern::Atomic, Outcome::Committed, second);
    m.phase(Phase::Work, second);
    m.set_open(TxnState::NeedsIntervention, 3, second * 9);
    m.store_call(&"pg".into(), StoreCall::Commit, CallResult::from(Code::StoreUnavailable), second);
    m.store_call(&"pg".into(), StoreCall::Work, CallResult::from(Code::ConstraintViolation), second);
    m.journal_flushed(Duration::from_micros(80), 7);
    m.journal_wrote(DeviceWrite::Flush, 4096);
    m.set_journal_damaged();
    m.http(Route::Submit, 200, second);
    m.reaped(Reaped::PreparedOrphan, 200);
    m.attempt(AttemptReason::after(Code::Conflict).unwrap());
    m.deadlock_broken(DeadlockSource::Cross);
    m.deadlock_checked(DeadlockSource::Neo4j, Duration::from_millis(6));
    let text = m.render();
    for line in [
        r#"outrigger_transactions_total{outcome="committed",pattern="atomic"} 1"#,
        r#"outrigger_transaction_phase_seconds_sum{phase="work"} 1"#,
        r#"outrigger_transactions_open{state="needs_intervention"} 3"#,
        r#"outrigger_transaction_oldest_seconds{state="needs_intervention"} 9"#,
        "outrigger_interventions_open 3",
        r#"outrigger_store_requests_total{operation="commit",result="lost",store="pg"} 1"#,
        r#"outrigger_store_requests_total{operation="work",result="refused",store="pg"} 1"#,
        r#"outrigger_journal_flush_batch_records_bucket{le="8"} 1"#,
        r#"outrigger_journal_flush_batch_records_bucket{le="4"} 0"#,
        r#"outrigger_journal_device_bytes_total{purpose="flush"} 4096"#,
        r#"outrigger_journal_device_bytes_total{purpose="prepare"} 0"#,
        "outrigger_journal_damaged 1",
        r#"outrigger_reaped_total{what="prepared_orphan"} 200"#,
        r#"outrigger_http_requests_total{route="POST /v1/transactions",status="200"} 1"#,
        r#"outrigger_attempts_total{reason="conflict"} 1"#,
        r#"outrigger_deadlocks_total{source="cross"} 1"#,
        r#"outrigger_deadlock_check_seconds_bucket{source="neo4j",le="0.01"} 1"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing");
    }
    assert_eq!(AttemptReason::after(Code::ConstraintViolation), None);
}

#[test]
fn gauges_are_refreshed_at_each_rendering() {
    let m = metrics();
    let calls = AtomicU64::new(0);
    m.refresh_with(move |m| m.set_locks(usize::try_from(calls.fetch_add(1, Ordering::Relaxed)).unwrap(), 5));
    assert!(m.render().contains("outrigger_locks_held 0\n"));
    let text = m.render();
    assert!(text.contains("outrigger_locks_held 1\n") && text.contains("outrigger_locks_waiting 5\n"));
}

#[test]
fn the_number_of_series_does_not_grow_with_use() {
    let m = metrics();
    let series = |m: &Metrics| m.render().lines().filter(|l| !l.starts_with('#')).count();
    let before = series(&m);
    for route in Route::ALL {
        route.statuses().into_iter().for_each(|status| m.http(*route, status, Duration::ZERO));
    }
    for call in StoreCall::ALL {
        CallResult::ALL.iter().for_each(|r| m.store_call(&"vec".into(), *call, *r, Duration::ZERO));
    }
    for state in OPEN_STATES {
        m.set_open(state, 1, Duration::ZERO);
    }
    assert_eq!(series(&m), before);
}
