//! Server and driver errors → [`Problem`]: the one place that knows Neo4j's codes (api.md, "Problems").

use neo4rs::Error;

use crate::model::ids::StoreName;
use crate::model::problem::{Code, Problem};

/// The marker's key is held by another transaction, open or committed.
pub(super) const KEY_TAKEN: &str = "outrigger:key_taken";
/// A fence (or another session of this run) stands where the marker should go.
pub(super) const FENCED: &str = "outrigger:fenced";

/// What went wrong with one exchange.
#[derive(Debug)]
pub(super) enum Fault {
    /// The driver's word: a refusal of the server, or the connection.
    Driver(Error),
    /// The deadline came; the statement was ended.
    Deadline,
    /// It waited too long for a lock; the statement was ended.
    LockWait,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Driver(error)
    }
}

impl Fault {
    /// The server's code where the server refused.
    pub(super) fn server_code(&self) -> Option<&str> {
        match self {
            Self::Driver(Error::Neo4j(error)) => Some(error.code()),
            _ => None,
        }
    }

    /// Whether the answer to a COMMIT that failed so leaves no doubt that the transaction is gone. A database error may
    /// come after the commit reached the log, and a cluster's may come before it reached the others: those are doubt,
    /// which a fence resolves.
    pub(super) fn refuses_commit(&self) -> bool {
        self.server_code().is_some_and(|code| {
            (code.starts_with("Neo.ClientError.") || code.starts_with("Neo.TransientError.Transaction."))
                && !code.starts_with("Neo.ClientError.Cluster.")
        })
    }

    /// The problem of this fault in `store`, without its operation.
    pub(super) fn problem(&self, store: &StoreName) -> Problem {
        match self {
            Self::Deadline => {
                Problem::new(Code::Timeout, format!("{store}: the time ran out and the statement was ended"))
                    .in_store(store)
            }
            Self::LockWait => {
                Problem::new(Code::LockTimeout, format!("{store}: a lock was not to be had in time")).in_store(store)
            }
            Self::Driver(Error::Neo4j(error)) => {
                let (code, hint) = judge(error.code(), error.message());
                let hint = if hint.is_empty() { String::new() } else { format!(" ({hint})") };
                Problem::new(code, format!("{store}: {}{hint}", error.message()))
                    .in_store(store)
                    .with_store_code(error.code())
            }
            Self::Driver(Error::AuthenticationError(why)) => {
                Problem::unavailable(store, format!("the server does not accept our user and password: {why}"))
            }
            Self::Driver(error @ (Error::ParseError(_) | Error::DeserializationError(_) | Error::WriteError(_))) => {
                Problem::new(Code::RejectedByStore, format!("{store}: a value that the driver cannot carry: {error}"))
                    .in_store(store)
            }
            Self::Driver(error) => Problem::unavailable(store, error),
        }
    }

    /// As text for an operator.
    pub(super) fn say(&self, store: &StoreName) -> String {
        self.problem(store).detail
    }
}

/// The code, and a hint where the server's text needs one.
fn judge(code: &str, message: &str) -> (Code, &'static str) {
    let rest = code.strip_prefix("Neo.").unwrap_or(code);
    match rest {
        "TransientError.Transaction.DeadlockDetected" => (Code::Deadlock, ""),
        // The driver renames the server's transient `LockClientStopped` and `Terminated` to client errors.
        "TransientError.Transaction.LockAcquisitionTimeout"
        | "TransientError.Transaction.LockClientStopped"
        | "ClientError.Transaction.LockClientStopped" => (Code::LockTimeout, ""),
        "TransientError.Transaction.Terminated"
        | "ClientError.Transaction.Terminated"
        | "ClientError.Transaction.TransactionTimedOut"
        | "ClientError.Transaction.TransactionTimedOutClientConfiguration" => (Code::Timeout, ""),
        "ClientError.Statement.ParameterMissing" => (Code::InvalidRequest, ""),
        "ClientError.Statement.AccessMode" => {
            (Code::RejectedByStore, "the operation is taken for a read; declare `\"write\": true` if it writes")
        }
        "ClientError.Transaction.ForbiddenDueToTransactionType" => (
            Code::RejectedByStore,
            "Neo4j takes no schema change in a transaction that writes, as every marked one does",
        ),
        "ClientError.Security.Forbidden" => (Code::RejectedByStore, ""),
        "ClientError.General.ForbiddenOnReadOnlyDatabase" | "ClientError.Database.DatabaseNotFound" => {
            (Code::StoreUnavailable, "")
        }
        // Two codes and two texts, before and after something was written.
        _ if rest.starts_with("DatabaseError.")
            && (message.contains("IN TRANSACTIONS") || message.contains("transactional subquery")) =>
        {
            let hint = "IN TRANSACTIONS commits pieces of its own, which no transaction across stores can take back; leave it out";
            (Code::RejectedByStore, hint)
        }
        _ if rest.starts_with("ClientError.Schema.Constraint") => (Code::ConstraintViolation, ""),
        _ if rest.starts_with("ClientError.Security.") => {
            (Code::StoreUnavailable, "the server does not let our user in")
        }
        _ if rest.starts_with("ClientError.Cluster.") => (Code::StoreUnavailable, ""),
        _ if rest.starts_with("TransientError.Transaction.") => (Code::Serialization, ""),
        _ if rest.starts_with("TransientError.") => (Code::StoreUnavailable, ""),
        _ if rest.starts_with("DatabaseError.Statement.") => (Code::RejectedByStore, ""),
        _ if rest.starts_with("DatabaseError.") => (Code::StoreUnavailable, ""),
        _ => (Code::RejectedByStore, ""),
    }
}

/// Whether this refusal is the marker's own, not an operation's.
pub(super) fn is_of_marker(fault: &Fault) -> bool {
    match fault {
        Fault::Driver(Error::Neo4j(error)) => {
            error.code().ends_with(".Schema.ConstraintValidationFailed")
                && error.message().contains("label `OutriggerDecision`")
        }
        _ => false,
    }
}

/// Whether the server may have meant the text that we made of marker and operation: then the two are tried apart, so
/// that what the client reads is about its own text.
pub(super) fn may_mean_the_text(fault: &Fault) -> bool {
    fault
        .server_code()
        .is_some_and(|code| code.starts_with("Neo.ClientError.Statement.") || code.starts_with("Neo.DatabaseError."))
}

/// A refused marker. Its two constraints mean two different things, and both end this run.
pub(super) fn marker_problem(fault: &Fault, store: &StoreName) -> Problem {
    if !is_of_marker(fault) {
        return fault.problem(store);
    }
    if fault.say(store).contains("property `key`") {
        let detail = format!("{store}: a transaction with the same idempotency key is running or has committed");
        return Problem::new(Code::InFlight, detail).in_store(store).with_store_code(KEY_TAKEN);
    }
    let detail = format!("{store}: this run was fenced by a recovery of its log and can no longer commit");
    Problem::new(Code::JournalUnavailable, detail).in_store(store).with_store_code(FENCED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_judged_as_the_contract_says() {
        for (code, expected) in [
            ("Neo.TransientError.Transaction.DeadlockDetected", Code::Deadlock),
            ("Neo.TransientError.Transaction.LockAcquisitionTimeout", Code::LockTimeout),
            ("Neo.ClientError.Transaction.LockClientStopped", Code::LockTimeout),
            ("Neo.TransientError.Transaction.Outdated", Code::Serialization),
            ("Neo.TransientError.General.MemoryPoolOutOfMemoryError", Code::StoreUnavailable),
            ("Neo.ClientError.Schema.ConstraintValidationFailed", Code::ConstraintViolation),
            ("Neo.ClientError.Schema.ConstraintAlreadyExists", Code::ConstraintViolation),
            ("Neo.ClientError.Statement.SyntaxError", Code::RejectedByStore),
            ("Neo.ClientError.Statement.TypeError", Code::RejectedByStore),
            ("Neo.ClientError.Statement.ParameterMissing", Code::InvalidRequest),
            ("Neo.ClientError.Transaction.Terminated", Code::Timeout),
            ("Neo.ClientError.Security.Unauthorized", Code::StoreUnavailable),
            ("Neo.ClientError.Security.Forbidden", Code::RejectedByStore),
            ("Neo.DatabaseError.General.UnknownError", Code::StoreUnavailable),
            ("Neo.DatabaseError.Statement.ExecutionFailed", Code::RejectedByStore),
            ("something else", Code::RejectedByStore),
        ] {
            assert_eq!(judge(code, "").0, expected, "{code}");
        }
        let (code, hint) =
            judge("Neo.DatabaseError.Transaction.TransactionStartFailed", "'CALL { ... } IN TRANSACTIONS' …");
        assert!(code == Code::RejectedByStore && !hint.is_empty());
    }

    #[test]
    fn a_lost_connection_is_never_a_refusal() {
        let fault = Fault::Driver(Error::IOError { detail: std::io::ErrorKind::UnexpectedEof.into() });
        assert!(!fault.refuses_commit());
        assert_eq!(fault.problem(&"graph".into()).code, Code::StoreUnavailable);
        assert!(!Fault::Deadline.refuses_commit() && !Fault::Driver(Error::ConnectionTimedOut).refuses_commit());
    }
}
