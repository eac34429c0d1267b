//! The values that labels can take. Closed lists: no label ever takes a value from a request.

use crate::model::operator::Verb;
use crate::model::problem::Code;

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The label's text.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
        }
    };
}

labels! {
    /// How a transaction is carried out.
    Pattern {
        /// All or nothing.
        Atomic = "atomic",
    }
}

labels! {
    /// A stretch of a transaction's way (protocol.md, section 4).
    Phase {
        /// Waiting for our own locks.
        Lock = "lock",
        /// Operations in the stores' local transactions.
        Work = "work",
        /// Making redo writes absolute.
        Validate = "validate",
        /// Intent and promises, which overlap.
        Prepare = "prepare",
        /// The decider's commit, or the forced decision.
        Decide = "decide",
        /// From the decision until every store has it.
        Finish = "finish",
    }
}

labels! {
    /// Why the journal sent bytes to the disk.
    DeviceWrite {
        /// Pages of a flush, with the records that they hold.
        Flush = "flush",
        /// A segment that is filled ahead and begun.
        Prepare = "prepare",
    }
}

labels! {
    /// Why a run of a transaction began.
    AttemptReason {
        /// It was asked for.
        First = "first",
        /// An expectation was not met.
        Conflict = "conflict",
        /// It was the victim of a deadlock.
        Deadlock = "deadlock",
        /// A store could not serialize it.
        Serialization = "serialization",
        /// A lock was not to be had in time.
        LockTimeout = "lock_timeout",
    }
}

impl AttemptReason {
    /// The reason of a re-run after `code`; `None` where no re-run follows from it.
    #[must_use]
    pub fn after(code: Code) -> Option<Self> {
        match code {
            Code::Conflict => Some(Self::Conflict),
            Code::Deadlock => Some(Self::Deadlock),
            Code::Serialization => Some(Self::Serialization),
            Code::LockTimeout => Some(Self::LockTimeout),
            _ => None,
        }
    }
}

labels! {
    /// What a store was asked, as the traits of `store/` name it.
    StoreCall {
        /// Connect and find the powers.
        Probe = "probe",
        /// Begin a transaction's part (the wait for a pooled connection).
        Open = "open",
        /// Find the locks that operations need.
        Footprint = "footprint",
        /// Run operations.
        Work = "work",
        /// Make writes absolute.
        Validate = "validate",
        /// Promise.
        Prepare = "prepare",
        /// Commit, and thereby decide.
        Commit = "commit",
        /// Roll back.
        Rollback = "rollback",
        /// Carry a decision out for a promise.
        Finish = "finish",
        /// Apply absolute writes.
        Apply = "apply",
        /// Fence a run whose outcome is not known.
        Fence = "fence",
        /// Read markers.
        LookUp = "look_up",
        /// Delete markers that may go.
        Forget = "forget",
        /// Show that this log lives.
        Heartbeat = "heartbeat",
    }
}

labels! {
    /// How a store answered.
    CallResult {
        /// It did it.
        Ok = "ok",
        /// It said no.
        Refused = "refused",
        /// It gave no answer that can be relied on.
        Lost = "lost",
    }
}

impl From<Code> for CallResult {
    fn from(code: Code) -> Self {
        match code {
            Code::StoreUnavailable | Code::Timeout | Code::Internal => Self::Lost,
            _ => Self::Refused,
        }
    }
}

labels! {
    /// How recovery left a transaction that it found unfinished.
    RecoveryOutcome {
        /// Every store has it.
        Committed = "committed",
        /// No store has any of it.
        Aborted = "aborted",
        /// Its decider cannot be asked yet.
        InDoubt = "in_doubt",
        /// An operator is needed.
        NeedsIntervention = "needs_intervention",
    }
}

labels! {
    /// What became of a chunk of a batch job that was sent.
    ChunkOutcome {
        /// It is done.
        Done = "done",
        /// It was done before: its recorded answer was given.
        Replayed = "replayed",
        /// It was aborted.
        Refused = "refused",
        /// Its compensation is done.
        Undone = "undone",
        /// Its compensation was aborted, and is tried again.
        UndoRefused = "undo_refused",
    }
}

labels! {
    /// What was left over, and is gone now.
    Reaped {
        /// A lease whose time was over.
        Lease = "lease",
        /// An interactive transaction whose client went away.
        Interactive = "interactive",
        /// A prepared transaction that nobody decided in time.
        PreparedExpired = "prepared_expired",
        /// A prepared transaction in a store that our log did not know.
        PreparedOrphan = "prepared_orphan",
        /// A session of a dead life of ours in a store.
        Session = "session",
        /// A marker or participant row without a key.
        Marker = "marker",
        /// An idempotency key, in a store's marker or in the log.
        Key = "key",
    }
}

labels! {
    /// Where the waits of a deadlock are.
    DeadlockSource {
        /// In our own lock table.
        Locks = "locks",
        /// Inside PostgreSQL.
        Postgres = "postgres",
        /// Inside Neo4j.
        Neo4j = "neo4j",
        /// In more than one place: a cycle that no store can see.
        Cross = "cross",
    }
}

labels! {
    /// What an operator did by hand.
    ByHand {
        /// Hastened a transaction.
        Retry = "retry",
        /// Had one commit.
        Commit = "commit",
        /// Had one rolled back.
        Rollback = "rollback",
        /// Gave a refused part up.
        Skip = "skip",
        /// Committed a prepared transaction of another log.
        OrphanCommit = "orphan_commit",
        /// Rolled one back.
        OrphanRollback = "orphan_rollback",
    }
}

impl From<Verb> for ByHand {
    fn from(verb: Verb) -> Self {
        match verb {
            Verb::Retry => Self::Retry,
            Verb::Commit => Self::Commit,
            Verb::Rollback => Self::Rollback,
            Verb::Skip => Self::Skip,
        }
    }
}

labels! {
    /// What came of it.
    HandResult {
        /// It was done.
        Done = "done",
        /// It was so already.
        Already = "already",
        /// It was refused, or could not be done.
        Refused = "refused",
    }
}

labels! {
    /// Where an audit line was lost.
    AuditPlace {
        /// The file: the act was refused.
        File = "file",
        /// The table: the file has it.
        Table = "table",
    }
}

labels! {
    /// A path of the door with its method.
    Route {
        /// Run one.
        Submit = "POST /v1/transactions",
        /// List them.
        List = "GET /v1/transactions",
        /// Look one up.
        Show = "GET /v1/transactions/{id}",
        /// Run more operations of an open one.
        Operate = "POST /v1/transactions/{id}/operations",
        /// Make one outlive a crash.
        Prepare = "POST /v1/transactions/{id}/prepare",
        /// The verdict.
        Commit = "POST /v1/transactions/{id}/commit",
        /// The other verdict.
        Rollback = "POST /v1/transactions/{id}/rollback",
        /// Resolve one by hand.
        Resolve = "POST /v1/transactions/{id}/resolve",
        /// Say why it is where it is.
        Explain = "GET /v1/transactions/{id}/explain",
        /// List prepared transactions that nothing open answers for.
        Orphans = "GET /v1/orphans",
        /// End one of a dead log by hand.
        ResolveOrphan = "POST /v1/orphans/resolve",
        /// Look up a key's outcome.
        Key = "GET /v1/idempotency/{key}",
        /// Take a lease.
        Lease = "POST /v1/locks",
        /// Renew one.
        RenewLease = "PUT /v1/locks/{lease}",
        /// Release one.
        ReleaseLease = "DELETE /v1/locks/{lease}",
        /// Our lock table.
        Locks = "GET /v1/locks",
        /// Who waits for whom.
        WaitFor = "GET /v1/wait-for",
        /// The last deadlocks.
        Deadlocks = "GET /v1/deadlocks",
        /// Follow the events.
        Events = "GET /v1/events",
        /// The status.
        Status = "GET /v1/status",
        /// The contract.
        OpenApi = "GET /openapi.json",
        /// Whatever the door does not know.
        Unknown = "unknown",
    }
}

impl Route {
    /// The statuses that it can answer with: its own, those of every route, and those of the problems that may meet it.
    #[must_use]
    pub fn statuses(self) -> Vec<u16> {
        let mut statuses = match self {
            Self::Submit => {
                let mut all: Vec<u16> = Code::ALL.iter().map(|code| code.status()).collect();
                all.extend([200, 201, 202]);
                all.retain(|status| *status != 405);
                all
            }
            Self::Operate | Self::Prepare | Self::Commit | Self::Rollback => {
                let mut all: Vec<u16> = Code::ALL.iter().map(|code| code.status()).collect();
                all.extend([200, 202]);
                all.retain(|status| *status != 405);
                all
            }
            Self::List | Self::Events => vec![200, 400, 401, 429, 500, 503],
            Self::Resolve | Self::ResolveOrphan => vec![200, 400, 401, 403, 404, 409, 413, 415, 500, 503, 507],
            Self::Explain => vec![200, 400, 401, 404, 500, 503],
            Self::Orphans => vec![200, 400, 401, 500, 503],
            Self::Show | Self::Key => vec![200, 400, 401, 404, 429, 500, 503],
            Self::Lease => vec![201, 400, 401, 409, 413, 415, 429, 500, 503],
            Self::RenewLease => vec![200, 400, 401, 403, 404, 413, 415, 500, 503],
            Self::ReleaseLease => vec![204, 400, 401, 403, 404, 500, 503],
            Self::Locks | Self::WaitFor | Self::Deadlocks => vec![200, 400, 401, 500, 503],
            Self::Status => vec![200, 400, 401, 500],
            Self::OpenApi => vec![200, 400, 500],
            Self::Unknown => vec![404, 405],
        };
        statuses.sort_unstable();
        statuses.dedup();
        statuses
    }
}
