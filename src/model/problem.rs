//! Why something did not happen: one list of codes for the whole program (api.md, "Problems").

use std::collections::BTreeSet;
use std::fmt;

use super::ids::{StoreName, TxnId};
use super::state::TxnState;
use super::wait::WaitEdge;

macro_rules! codes {
    ($($name:ident $text:literal $status:literal $retryable:literal $title:literal;)*) => {
        /// What went wrong, as clients switch on it.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Code { $(#[doc = $title] $name,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// The `code` member and the end of the `type` URN.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$name => $text,)* } }
            /// The HTTP status it answers with.
            #[must_use]
            pub fn status(self) -> u16 { match self { $(Self::$name => $status,)* } }
            /// Whether the same request may succeed when it is sent again.
            #[must_use]
            pub fn retryable(self) -> bool { match self { $(Self::$name => $retryable,)* } }
            /// The `title` member.
            #[must_use]
            pub fn title(self) -> &'static str { match self { $(Self::$name => $title,)* } }
        }
    };
}

codes! {
    InvalidRequest "invalid_request" 400 false "The request is not valid";
    Unauthenticated "unauthenticated" 401 false "Who is asking is not known";
    Forbidden "forbidden" 403 false "That is not for this principal";
    NotFound "not_found" 404 false "There is no such thing";
    MethodNotAllowed "method_not_allowed" 405 false "That path does not take this method";
    Conflict "conflict" 409 true "An expectation was not met";
    Deadlock "deadlock" 409 true "The transaction was the victim of a deadlock";
    LockTimeout "lock_timeout" 409 true "A lock was not to be had in time";
    Serialization "serialization" 409 true "The store could not serialize the transaction";
    NameInUse "name_in_use" 409 false "An open transaction has that name";
    WrongState "wrong_state" 409 false "The transaction's state does not allow that";
    RolledBack "rolled_back" 409 false "It was rolled back, as it was asked to be";
    InFlight "in_flight" 409 true "A request with the same key is running";
    ConstraintViolation "constraint_violation" 422 false "A constraint of a store forbids it";
    RejectedByStore "rejected_by_store" 422 false "A store refused an operation";
    ImpossibleGuarantee "impossible_guarantee" 422 false "These stores cannot give that guarantee together";
    IdempotencyMismatch "idempotency_mismatch" 422 false "The key was used for another request";
    PayloadTooLarge "payload_too_large" 413 false "The request is too large";
    UnsupportedMediaType "unsupported_media_type" 415 false "The body must be application/json";
    Overloaded "overloaded" 429 true "Too much is in flight";
    Internal "internal" 500 false "A defect of Outrigger";
    Unsupported "unsupported" 501 false "This version cannot do that";
    StoreUnavailable "store_unavailable" 503 true "A store could not be reached";
    JournalUnavailable "journal_unavailable" 503 true "The journal takes no records";
    Timeout "timeout" 504 true "The transaction did not get ready in time and was aborted";
    JournalFull "journal_full" 507 true "The journal's disk is full";
}

/// A refusal with everything that a caller needs to act on it. Nothing of its request has happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// What kind.
    pub code: Code,
    /// One or two sentences for a human being.
    pub detail: String,
    /// The transaction, when there was one.
    pub transaction: Option<TxnId>,
    /// Its state.
    pub state: Option<TxnState>,
    /// The operation's id.
    pub operation: Option<String>,
    /// The store that refused.
    pub store: Option<StoreName>,
    /// The store's own code: SQLSTATE, Neo4j code, gRPC code.
    pub store_code: Option<String>,
    /// JSON pointer to the request's faulty member.
    pub pointer: Option<String>,
    /// Seconds after which a retry makes sense.
    pub retry_after: Option<u32>,
    /// Why the transaction was run again before, one code a run: it was tried once more often than this list is long.
    pub retried_for: Vec<&'static str>,
    /// Of a transaction that has aborted already: why it did, as its view says it.
    pub cause: Option<Box<serde_json::Value>>,
    /// Of a deadlock: who waited for whom, in a circle.
    pub cycle: Vec<WaitEdge>,
}

impl Problem {
    /// A problem with nothing but its code and its sentence.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let retry_after = matches!(
            code,
            Code::InFlight | Code::Overloaded | Code::StoreUnavailable | Code::JournalUnavailable | Code::JournalFull
        )
        .then_some(1);
        Self {
            code,
            detail: detail.into(),
            transaction: None,
            state: None,
            operation: None,
            store: None,
            store_code: None,
            pointer: None,
            retry_after,
            retried_for: Vec::new(),
            cause: None,
            cycle: Vec::new(),
        }
    }

    /// `invalid_request` at `pointer`.
    #[must_use]
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, detail).at(pointer)
    }

    /// `store_unavailable` for `store`.
    #[must_use]
    pub fn unavailable(store: &StoreName, detail: impl fmt::Display) -> Self {
        Self::new(Code::StoreUnavailable, format!("{store}: {detail}")).in_store(store)
    }

    /// Names the request's faulty member.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    /// Names the operation.
    #[must_use]
    pub fn in_operation(mut self, id: &str) -> Self {
        self.operation = Some(id.to_owned());
        self
    }

    /// Names the store.
    #[must_use]
    pub fn in_store(mut self, store: &StoreName) -> Self {
        self.store = Some(store.clone());
        self
    }

    /// Adds the store's own code.
    #[must_use]
    pub fn with_store_code(mut self, code: impl Into<String>) -> Self {
        self.store_code = Some(code.into());
        self
    }

    /// `deadlock`: this transaction gives way, so that the others in `cycle` go on.
    #[must_use]
    pub fn deadlock(cycle: &[WaitEdge]) -> Self {
        let places: BTreeSet<String> = cycle.iter().map(|edge| edge.source.to_string()).collect();
        let places: Vec<String> = places.into_iter().collect();
        let detail = format!(
            "{} waits in a circle (in {}), and this transaction gave way so that the others go on",
            cycle.len(),
            places.join(", ")
        );
        Self { cycle: cycle.to_vec(), ..Self::new(Code::Deadlock, detail) }
    }

    /// Names the transaction and where it stands.
    #[must_use]
    pub fn of(mut self, txn: TxnId, state: TxnState) -> Self {
        self.transaction = Some(txn);
        self.state = Some(state);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl std::error::Error for Problem {}
