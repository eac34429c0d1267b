//! What a prepared transaction leaves in the log: its Intent, on what terms it waits, and what has to be run again.

use std::time::Duration;

use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::record::{Intent, IntentRecord, Unreadable, decode};
use crate::model::request::{Isolation, OnExpiry, Operation, WaitFor};

/// `kind::PREPARED`
#[derive(Clone, PartialEq, Message)]
pub struct PreparedRecord {
    /// Everything that the second half needs.
    #[prost(message, required, tag = "1")]
    pub intent: IntentRecord,
    /// Who opened it.
    #[prost(string, tag = "2")]
    pub principal: String,
    /// Microseconds since 1970.
    #[prost(int64, tag = "3")]
    pub expires_us: i64,
    /// Held for an operator then, instead of being rolled back.
    #[prost(bool, tag = "4")]
    pub hold: bool,
    /// The rest as JSON text ([`Terms`]): read by people too, and by later versions.
    #[prost(string, tag = "5")]
    pub terms: String,
    /// What a client is shown of it, as JSON text.
    #[prost(string, optional, tag = "6")]
    pub answer: Option<String>,
    /// An older record of the same promise, written again: nothing has happened.
    #[prost(bool, tag = "16")]
    pub copy: bool,
}

/// A transaction that waits for its verdict.
#[derive(Clone, PartialEq, Debug)]
pub struct Prepared {
    /// Everything that the second half needs.
    pub intent: Intent,
    /// Who opened it.
    pub principal: String,
    /// Microseconds since 1970.
    pub expires_us: i64,
    /// What then.
    pub on_expiry: OnExpiry,
    /// How to go on.
    pub terms: Terms,
    /// What a client is shown of it.
    pub answer: Option<String>,
}

/// How to go on with it, after a restart too.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Terms {
    /// Of a verdict's call, in milliseconds.
    pub timeout_ms: u64,
    /// Whether a verdict is answered as soon as it is decided.
    pub wait_decided: bool,
    /// PostgreSQL's level, where a PostgreSQL decides.
    #[serde(default)]
    pub isolation: Isolation,
    /// The deciding store's operations with real values, where it cannot promise: they are run again at the commit.
    #[serde(default)]
    pub again: Vec<Operation>,
    /// What others were told of their results, and must find the same: operation, JSON pointer, value.
    #[serde(default)]
    pub told: Vec<(String, String, Value)>,
}

impl Terms {
    /// When a verdict is answered.
    #[must_use]
    pub fn wait(&self) -> WaitFor {
        if self.wait_decided { WaitFor::Decided } else { WaitFor::Applied }
    }

    /// Of a verdict's call.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

impl Prepared {
    pub(super) fn encode(&self, at_us: i64, copy: bool) -> Vec<u8> {
        let record = PreparedRecord {
            intent: self.intent.to_record(at_us),
            principal: self.principal.clone(),
            expires_us: self.expires_us,
            hold: self.on_expiry == OnExpiry::Hold,
            terms: serde_json::to_string(&self.terms).expect("text, numbers and JSON"),
            answer: self.answer.clone(),
            copy,
        };
        record.encode_to_vec()
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, Unreadable> {
        let record: PreparedRecord = decode(payload)?;
        let terms = serde_json::from_str(&record.terms);
        Ok(Self {
            intent: Intent::from_record(record.intent)?,
            principal: record.principal,
            expires_us: record.expires_us,
            on_expiry: if record.hold { OnExpiry::Hold } else { OnExpiry::Rollback },
            terms: terms.map_err(|error| Unreadable(format!("the terms of a prepared transaction: {error}")))?,
            answer: record.answer,
        })
    }
}
