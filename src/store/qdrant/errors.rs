//! What Qdrant's answers mean: for a client who waits (a problem), and for a write after the decision (a setback).

use std::time::Duration;

use tonic::{Code as Grpc, Status};

use super::json::Bad;
use crate::model::ids::StoreName;
use crate::model::problem::{Code, Problem};
use crate::model::request::BoundOp;

/// What the failure of a write after the decision asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It may have been applied, may still be, or may never: the identical write again.
    Ambiguous,
    /// Nothing more happens to it; the identical write again after this long.
    Later(Duration),
    /// The server refuses this call, and will do so again.
    Refused,
}

/// The longest that a server may keep us waiting by `retry-after`: the coordinator asks again with backoff anyway.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Sorts the failure of a redo call.
pub(super) fn judge(status: &Status) -> Verdict {
    match status.code() {
        Grpc::ResourceExhausted => Verdict::Later(retry_after(status).min(LONGEST_PAUSE)),
        // "Not now": the collection is read-only, or locked.
        Grpc::FailedPrecondition | Grpc::Aborted => Verdict::Later(Duration::ZERO),
        Grpc::InvalidArgument
        | Grpc::NotFound
        | Grpc::AlreadyExists
        | Grpc::Unauthenticated
        | Grpc::PermissionDenied
        | Grpc::OutOfRange
        | Grpc::Unimplemented => Verdict::Refused,
        Grpc::Ok
        | Grpc::Cancelled
        | Grpc::Unknown
        | Grpc::DeadlineExceeded
        | Grpc::Internal
        | Grpc::Unavailable
        | Grpc::DataLoss => Verdict::Ambiguous,
    }
}

fn retry_after(status: &Status) -> Duration {
    let seconds = status.metadata().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1))
}

/// What happened, in the words of whoever knows best: `transport error` helps nobody.
pub(super) fn explain(status: &Status) -> String {
    let source = std::error::Error::source(status);
    source.map_or_else(|| status.message().to_owned(), super::wire::root)
}

/// The failure of a call before the decision, where nothing has been written.
pub(super) fn problem(store: &StoreName, status: &Status) -> Problem {
    let code = match status.code() {
        Grpc::DeadlineExceeded | Grpc::Cancelled => Code::Timeout,
        Grpc::Unavailable | Grpc::Internal | Grpc::Unknown | Grpc::DataLoss => Code::StoreUnavailable,
        // "Not now", as after the decision.
        Grpc::FailedPrecondition | Grpc::Aborted => Code::StoreUnavailable,
        Grpc::ResourceExhausted => Code::Overloaded,
        Grpc::Unimplemented => Code::Unsupported,
        _ => Code::RejectedByStore,
    };
    let mut problem = Problem::new(code, format!("{store}: {}", explain(status)))
        .in_store(store)
        .with_store_code(format!("{:?}", status.code()));
    if code == Code::Overloaded {
        problem.retry_after = u32::try_from(retry_after(status).as_secs()).ok();
    }
    problem
}

/// What is wrong with an operation's body.
pub(super) fn bad_body(store: &StoreName, op: &BoundOp, bad: Bad) -> Problem {
    let problem = Problem::invalid(op.pointer(&bad.pointer), format!("operation `{}`: {}", op.op.id, bad.detail));
    let code = if bad.unsupported { Code::Unsupported } else { Code::InvalidRequest };
    Problem { code, ..problem }.in_operation(&op.op.id).in_store(store)
}

/// What Qdrant would refuse, said before the decision.
pub(super) fn rejected(store: &StoreName, op_id: &str, detail: impl Into<String>) -> Problem {
    Problem::new(Code::RejectedByStore, detail).in_operation(op_id).in_store(store)
}
