//! The bodies of what operators ask for by hand: a verb and its reason.

use std::sync::Arc;

use serde_json::Value;

use super::members::Members;
use crate::model::operator::Verb;
use crate::model::problem::Problem;
use crate::model::state::Outcome;
use crate::txn::OrphanWish;

const LONGEST_REASON: usize = 1000;

/// Reads `{"action", "reason"}`.
///
/// # Errors
/// `invalid_request` with a pointer.
pub(in crate::http) fn hand(body: Value) -> Result<(Verb, String), Problem> {
    let mut members = Members::of(body, "")?;
    let verb = action(&mut members, &Verb::ALL)?;
    let reason = reason(&mut members)?;
    members.finish()?;
    Ok((verb, reason))
}

/// Reads `{"store", "gid", "action", "reason"}`.
///
/// # Errors
/// `invalid_request` with a pointer.
pub(in crate::http) fn orphan(body: Value, who: Arc<str>, trace: Option<String>) -> Result<OrphanWish, Problem> {
    let mut members = Members::of(body, "")?;
    let store = members.required_text("store")?;
    let gid = members.required_text("gid")?;
    let outcome = match action(&mut members, &[Verb::Commit, Verb::Rollback])? {
        Verb::Commit => Outcome::Committed,
        _ => Outcome::Aborted,
    };
    let reason = reason(&mut members)?;
    members.finish()?;
    Ok(OrphanWish { store: store.as_str().into(), gid, outcome, reason, who, trace })
}

fn action(members: &mut Members, verbs: &[Verb]) -> Result<Verb, Problem> {
    members.require("action")?;
    let words: Vec<_> = verbs.iter().map(|verb| (verb.as_str(), *verb)).collect();
    match members.word("action", &words)? {
        Some(verb) => Ok(verb),
        None => Err(Problem::invalid("/action", "an action is needed")),
    }
}

/// The reason that every act by hand must have: it is what the next person reads.
fn reason(members: &mut Members) -> Result<String, Problem> {
    let reason = members.required_text("reason")?;
    let count = reason.chars().count();
    if reason.trim().is_empty() || count > LONGEST_REASON || reason.chars().any(char::is_control) {
        let detail = format!("a reason has 1 to {LONGEST_REASON} characters, and no control characters among them");
        return Err(Problem::invalid(members.pointer("reason"), detail));
    }
    Ok(reason)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_verb_needs_its_reason() {
        let (verb, reason) = hand(json!({"action": "skip", "reason": "the collection is gone"})).unwrap();
        assert_eq!((verb, &*reason), (Verb::Skip, "the collection is gone"));
        assert!(hand(json!({"action": "retry", "reason": "ä".repeat(1000)})).is_ok());
        for (body, pointer) in [
            (json!("skip"), ""),
            (json!({"reason": "r"}), ""),
            (json!({"action": "skip"}), ""),
            (json!({"action": "force", "reason": "r"}), "/action"),
            (json!({"action": null, "reason": "r"}), "/action"),
            (json!({"action": "skip", "reason": ""}), "/reason"),
            (json!({"action": "skip", "reason": "  "}), "/reason"),
            (json!({"action": "skip", "reason": "a\nb"}), "/reason"),
            (json!({"action": "skip", "reason": 1}), "/reason"),
            (json!({"action": "skip", "reason": "a".repeat(1001)}), "/reason"),
            (json!({"action": "skip", "reason": "r", "force": true}), "/force"),
        ] {
            assert_eq!(hand(body.clone()).unwrap_err().pointer.as_deref(), Some(pointer), "{body}");
        }
    }

    #[test]
    fn an_orphan_is_named_whole_and_only_committed_or_rolled_back() {
        let read = |body: Value| orphan(body, "olga".into(), None);
        let wish = read(json!({"store": "pg", "gid": "ogr1:x", "action": "rollback", "reason": "r"})).unwrap();
        assert_eq!((wish.store.as_str(), &*wish.gid, wish.outcome), ("pg", "ogr1:x", Outcome::Aborted));
        for (body, pointer) in [
            (json!({"gid": "g", "action": "commit", "reason": "r"}), ""),
            (json!({"store": "pg", "action": "commit", "reason": "r"}), ""),
            (json!({"store": "pg", "gid": "g", "action": "skip", "reason": "r"}), "/action"),
            (json!({"store": "pg", "gid": "g", "action": "commit"}), ""),
            (json!({"store": "pg", "gid": "g", "action": "commit", "reason": "r", "force": 1}), "/force"),
        ] {
            assert_eq!(read(body.clone()).unwrap_err().pointer.as_deref(), Some(pointer), "{body}");
        }
    }
}
