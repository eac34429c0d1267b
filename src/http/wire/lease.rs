//! The bodies of `POST /v1/locks` and `PUT /v1/locks/{lease}`.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::key_and_mode;
use super::members::Members;
use crate::model::problem::Problem;
use crate::model::request::DeclaredLock;
use crate::txn::LeaseWish;

const TTL_MS: RangeInclusive<u32> = 100..=3_600_000;
const DEFAULT_TTL: Duration = Duration::from_secs(30);
const LONGEST_WAIT_MS: u32 = 600_000;

/// Reads a wish for a lease.
///
/// # Errors
/// `invalid_request` with a pointer.
pub(in crate::http) fn lease(body: Value, principal: Arc<str>) -> Result<LeaseWish, Problem> {
    let mut members = Members::of(body, "")?;
    let DeclaredLock { key, exclusive } = key_and_mode(&mut members)?;
    let ttl = members.millis("ttl_ms", TTL_MS)?.unwrap_or(DEFAULT_TTL);
    let wait = members.millis("wait_ms", 0..=LONGEST_WAIT_MS)?.unwrap_or_default();
    members.finish()?;
    Ok(LeaseWish { key, exclusive, ttl, wait, principal })
}

/// Reads for how long a lease is to be renewed.
///
/// # Errors
/// `invalid_request` with a pointer.
pub(in crate::http) fn renewal(body: Value) -> Result<Option<Duration>, Problem> {
    let mut members = Members::of(body, "")?;
    let ttl = members.millis("ttl_ms", TTL_MS)?;
    members.finish()?;
    Ok(ttl)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn leases_are_read_or_pointed_at() {
        let wish = lease(json!({"key": "a"}), "p".into()).unwrap();
        assert_eq!((wish.exclusive, wish.ttl, wish.wait), (true, DEFAULT_TTL, Duration::ZERO));
        let wish = lease(json!({"key": "a", "mode": "shared", "ttl_ms": 100, "wait_ms": 5}), "p".into()).unwrap();
        assert_eq!(
            (wish.exclusive, wish.ttl, wish.wait),
            (false, Duration::from_millis(100), Duration::from_millis(5))
        );
        for (body, pointer) in [
            (json!([]), ""),
            (json!({}), ""),
            (json!({"key": ""}), "/key"),
            (json!({"key": "a\n"}), "/key"),
            (json!({"key": "a", "mode": "update"}), "/mode"),
            (json!({"key": "a", "ttl_ms": 99}), "/ttl_ms"),
            (json!({"key": "a", "ttl_ms": 3_600_001}), "/ttl_ms"),
            (json!({"key": "a", "wait_ms": -1}), "/wait_ms"),
            (json!({"key": "a", "ttl": 1}), "/ttl"),
        ] {
            let problem = lease(body.clone(), "p".into()).unwrap_err();
            assert_eq!(problem.pointer.as_deref(), Some(pointer), "{body}");
        }
        assert_eq!(renewal(json!({})).unwrap(), None);
        assert_eq!(renewal(json!({"ttl_ms": 7000})).unwrap(), Some(Duration::from_secs(7)));
        assert_eq!(renewal(json!({"ttl_ms": 0})).unwrap_err().pointer.as_deref(), Some("/ttl_ms"));
        assert_eq!(renewal(json!({"key": "a"})).unwrap_err().pointer.as_deref(), Some("/key"));
    }
}
