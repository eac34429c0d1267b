//! The bodies of a transaction that grows call by call.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use super::members::Members;
use super::{Asked, MAX_OPERATIONS, common, operation, wait};
use crate::model::problem::Problem;
use crate::model::request::{OnExpiry, Operation, PrepareWish, RetryPolicy, WaitFor};

const LEASE_MS: RangeInclusive<u32> = 100..=3_600_000;
const DEFAULT_LEASE: Duration = Duration::from_secs(30);
/// A second to a week.
const PREPARED_TTL_MS: RangeInclusive<u32> = 1000..=604_800_000;
const DEFAULT_PREPARED_TTL: Duration = Duration::from_secs(24 * 3600);

/// Reads an opening: `"interactive": true`.
///
/// # Errors
/// `invalid_request` with a pointer; `unsupported`.
pub(super) fn open(mut members: Members, store_kind: &dyn Fn(&str) -> Option<&'static str>) -> Result<Asked, Problem> {
    if members.has("retry") {
        let detail = "an interactive transaction cannot be run again by the sidecar, which does not know what its client \
                      did with the results";
        return Err(Problem::invalid(members.pointer("retry"), detail));
    }
    let lease = members.millis("lease_ms", LEASE_MS)?.unwrap_or(DEFAULT_LEASE);
    let request = common(&mut members, RetryPolicy::NEVER, store_kind)?;
    members.finish()?;
    Ok(Asked::Interactive(request, lease))
}

/// Reads `{"operations": […]}` of a later call. Ids, and references to earlier calls, are checked where those are known.
///
/// # Errors
/// `invalid_request` with a pointer.
pub(in crate::http) fn operations(
    body: Value,
    store_kind: &dyn Fn(&str) -> Option<&'static str>,
) -> Result<Vec<Operation>, Problem> {
    let mut members = Members::of(body, "")?;
    members.require("operations")?;
    let items = members.list("operations", MAX_OPERATIONS)?.unwrap_or_default();
    members.finish()?;
    if items.is_empty() {
        return Err(Problem::invalid("/operations", "there is no operation: at least one is needed"));
    }
    items.into_iter().enumerate().map(|(index, item)| operation::operation(item, index, store_kind)).collect()
}

/// Reads the body of `/prepare`; none is an empty one.
///
/// # Errors
/// `invalid_request` with a pointer.
pub(in crate::http) fn prepare(body: Option<Value>) -> Result<PrepareWish, Problem> {
    let mut members = Members::of(body.unwrap_or_else(|| serde_json::json!({})), "")?;
    let ttl = members.millis("prepared_ttl_ms", PREPARED_TTL_MS)?.unwrap_or(DEFAULT_PREPARED_TTL);
    let words = [OnExpiry::Rollback, OnExpiry::Hold].map(|what| (what.as_str(), what));
    let on_expiry = members.word("on_expiry", &words)?.unwrap_or_default();
    members.finish()?;
    Ok(PrepareWish { ttl, on_expiry })
}

/// Reads the body of `/commit` and `/rollback`: when to answer, where that is to be other than at the opening.
///
/// # Errors
/// `invalid_request` with a pointer.
pub(in crate::http) fn end(body: Option<Value>) -> Result<Option<WaitFor>, Problem> {
    let mut members = Members::of(body.unwrap_or_else(|| serde_json::json!({})), "")?;
    let wait = wait(&mut members)?;
    members.finish()?;
    Ok(wait)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::request;
    use super::*;

    fn kinds(name: &str) -> Option<&'static str> {
        (name == "pg").then_some("postgres")
    }

    #[test]
    fn an_opening_may_bring_operations_and_has_a_lease() {
        let Asked::Interactive(opened, lease) = request(json!({"interactive": true}), &kinds).unwrap() else {
            panic!("it asked for an interactive one")
        };
        assert!(opened.operations.is_empty());
        assert_eq!(lease, DEFAULT_LEASE);
        let body = json!({"interactive": true, "lease_ms": 100, "operations": [{"store": "pg", "sql": "SELECT 1"}]});
        let Asked::Interactive(opened, lease) = request(body, &kinds).unwrap() else { panic!("interactive") };
        assert_eq!((opened.operations[0].id.as_str(), lease), ("0", Duration::from_millis(100)));
        for (body, pointer) in [
            (json!({"interactive": true, "retry": {}}), "/retry"),
            (json!({"interactive": true, "lease_ms": 99}), "/lease_ms"),
            (json!({"interactive": 1}), "/interactive"),
            (json!({"lease_ms": 1000, "operations": [{"store": "pg", "sql": "SELECT 1"}]}), "/lease_ms"),
        ] {
            let problem = request(body.clone(), &kinds).unwrap_err();
            assert_eq!(problem.pointer.as_deref(), Some(pointer), "{body}");
        }
    }

    #[test]
    fn later_calls_are_read_or_pointed_at() {
        let read = operations(json!({"operations": [{"store": "pg", "sql": "SELECT 1"}]}), &kinds).unwrap();
        assert_eq!(read[0].id, "", "its place in the transaction is not known here");
        for (body, pointer) in [
            (json!({}), ""),
            (json!({"operations": []}), "/operations"),
            (json!({"operations": [{"store": "x", "sql": ""}]}), "/operations/0/store"),
        ] {
            assert_eq!(operations(body.clone(), &kinds).unwrap_err().pointer.as_deref(), Some(pointer), "{body}");
        }
        let wish = prepare(None).unwrap();
        assert_eq!((wish.ttl, wish.on_expiry), (DEFAULT_PREPARED_TTL, OnExpiry::Rollback));
        let wish = prepare(Some(json!({"prepared_ttl_ms": 1000, "on_expiry": "hold"}))).unwrap();
        assert_eq!((wish.ttl, wish.on_expiry), (Duration::from_secs(1), OnExpiry::Hold));
        for (body, pointer) in [
            (json!({"prepared_ttl_ms": 999}), "/prepared_ttl_ms"),
            (json!({"on_expiry": "commit"}), "/on_expiry"),
            (json!({"name": "x"}), "/name"),
            (json!([]), ""),
        ] {
            assert_eq!(prepare(Some(body.clone())).unwrap_err().pointer.as_deref(), Some(pointer), "{body}");
        }
        assert_eq!(end(None).unwrap(), None);
        assert_eq!(end(Some(json!({"wait": "decided"}))).unwrap(), Some(WaitFor::Decided));
        assert_eq!(end(Some(json!({"why": "x"}))).unwrap_err().pointer.as_deref(), Some("/why"));
    }
}
