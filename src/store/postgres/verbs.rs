//! What begins and ends a transaction, as text.

use std::time::Duration;

use crate::model::powers::Role;
use crate::model::request::Isolation;

/// BEGIN alone cannot fail; the settings behind it can, and then fail the transaction that is open by then. (As options
/// of BEGIN they would fail it, and what follows in the pipeline would run outside any transaction.)
pub(super) fn begin_sql(isolation: Isolation, role: Role, remaining: Duration, lock_wait: Duration) -> String {
    let level = match isolation {
        Isolation::ReadCommitted => "READ COMMITTED",
        Isolation::RepeatableRead => "REPEATABLE READ",
        Isolation::Serializable => "SERIALIZABLE",
    };
    let bounds = bounds_sql(remaining, lock_wait);
    let access = if role == Role::Reader { "READ ONLY" } else { "READ WRITE" };
    format!("BEGIN; SET TRANSACTION ISOLATION LEVEL {level}, {access}; {bounds}")
}

/// How long each statement may take from here on.
pub(super) fn bounds_sql(remaining: Duration, lock_wait: Duration) -> String {
    // The settings are ints of milliseconds; 0 means "no limit".
    let millis = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX).max(1);
    let statement = millis(remaining);
    // Where the transaction's time runs out first, it is that which the client is to be told.
    let lock = if lock_wait < remaining { millis(lock_wait) } else { 0 };
    format!("SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {lock}")
}

/// `SET …; verb` in one message: where the transaction has failed, the `SET` is refused and the verb never runs.
/// The settings themselves: a durable acknowledgement, whatever an operation has set; and no timeout, since cancelling
/// the wait for a standby would report as done what is not safe yet.
pub(super) fn judged(sync: &str, verb: &str) -> String {
    let sync = if sync == "remote_apply" { "remote_apply" } else { "on" };
    format!("SET LOCAL synchronous_commit = {sync}; SET LOCAL statement_timeout = 0; {verb}")
}

/// A text as an SQL literal. (Gids hold nothing that would need it; nobody has to know.)
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
