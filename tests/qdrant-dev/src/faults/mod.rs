//! Faults on order: what a real server does on its bad days, when a test says so.
//!
//! Rules stand in a list. A call takes the first rule that fits it and is not spent; a rule counts its `skip` down first
//! and then its `n`. Everything that happened is counted, so that a test can ask whether its fault fired at all.

pub(crate) mod control;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tonic::{Code, Status};

/// The calls that a rule can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verb {
    Upsert,
    Delete,
    SetPayload,
    OverwritePayload,
    DeletePayload,
    ClearPayload,
    UpdateVectors,
    DeleteVectors,
    UpdateBatch,
    CreateFieldIndex,
    DeleteFieldIndex,
    Get,
    Scroll,
    Query,
    Count,
}

impl Verb {
    pub(crate) const ALL: [(&'static str, Self); 15] = [
        ("upsert", Self::Upsert),
        ("delete", Self::Delete),
        ("set_payload", Self::SetPayload),
        ("overwrite_payload", Self::OverwritePayload),
        ("delete_payload", Self::DeletePayload),
        ("clear_payload", Self::ClearPayload),
        ("update_vectors", Self::UpdateVectors),
        ("delete_vectors", Self::DeleteVectors),
        ("update_batch", Self::UpdateBatch),
        ("create_field_index", Self::CreateFieldIndex),
        ("delete_field_index", Self::DeleteFieldIndex),
        ("get", Self::Get),
        ("scroll", Self::Scroll),
        ("query", Self::Query),
        ("count", Self::Count),
    ];

    pub(crate) fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::Scroll | Self::Query | Self::Count)
    }
}

impl FromStr for Verb {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(spelled, _)| *spelled == name);
        found.map(|(_, verb)| *verb).ok_or_else(|| format!("no verb `{name}`"))
    }
}

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Refused, nothing applied.
    FailBefore,
    /// Applied, durable, and refused all the same.
    FailAfter,
    /// Never answered, nothing applied.
    DropRequest,
    /// Applied, never answered.
    DropReply,
    /// Answered as always, `ms` later.
    Delay,
    /// Answered OK with status `WaitTimeout` at once; applied `ms` later, in the queue's order.
    WaitTimeout,
    /// Refused at once; applied `ms` later, behind whatever was written meanwhile: a copy that was still on its way.
    Late,
    /// `ResourceExhausted` with `retry-after`, nothing applied.
    Exhausted,
    /// The first half of the batch applied, then refused.
    Half,
}

impl Kind {
    pub(crate) const ALL: [(&'static str, Self); 9] = [
        ("fail_before", Self::FailBefore),
        ("fail_after", Self::FailAfter),
        ("drop_request", Self::DropRequest),
        ("drop_reply", Self::DropReply),
        ("delay", Self::Delay),
        ("wait_timeout", Self::WaitTimeout),
        ("late", Self::Late),
        ("exhausted", Self::Exhausted),
        ("half", Self::Half),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(spelled, _)| *spelled == name);
        found.map(|(_, kind)| *kind).ok_or_else(|| format!("no fault `{name}`"))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    pub(crate) fault: Fault,
    /// How many calls it still hits.
    pub(crate) n: u32,
    /// How many fitting calls it lets pass before.
    pub(crate) skip: u32,
    /// Empty: every write.
    pub(crate) verbs: Vec<Verb>,
    pub(crate) collection: Option<String>,
}

/// A fault with its numbers, as one call meets it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) code: Code,
    pub(crate) time: Duration,
    pub(crate) retry_after_s: u64,
}

impl Fault {
    /// The refusal that the call gets.
    pub(crate) fn status(self) -> Status {
        if self.kind != Kind::Exhausted {
            return Status::new(self.code, format!("injected fault: {}", self.kind.name()));
        }
        let mut status = Status::resource_exhausted("Rate limiting exceeded: injected fault");
        status.metadata_mut().insert("retry-after", self.retry_after_s.into());
        status
    }
}

#[derive(Default)]
pub(crate) struct Faults(Mutex<Book>);

#[derive(Default)]
struct Book {
    rules: Vec<Rule>,
    fired: BTreeMap<Kind, u64>,
}

impl Faults {
    /// Which fault this call meets; each answer uses a rule up by one.
    pub(crate) fn next(&self, verb: Verb, collection: &str) -> Option<Fault> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |rule: &Rule| {
            let verb_fits = if rule.verbs.is_empty() { !verb.is_read() } else { rule.verbs.contains(&verb) };
            verb_fits && rule.collection.as_deref().is_none_or(|name| name == collection)
        };
        let at = book.rules.iter().position(fits)?;
        let rule = &mut book.rules[at];
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        let fault = rule.fault;
        rule.n -= 1;
        if rule.n == 0 {
            book.rules.remove(at);
        }
        *book.fired.entry(fault.kind).or_default() += 1;
        Some(fault)
    }

    pub(crate) fn arm(&self, rule: Rule) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).rules.push(rule);
    }

    /// Forgets all rules and counts.
    pub(crate) fn reset(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Book::default();
    }

    /// `{"armed": [{"fault", "n", "skip"}], "fired": {fault: times}}`
    pub(crate) fn status(&self) -> Value {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let armed: Vec<_> = book
            .rules
            .iter()
            .map(|rule| json!({"fault": rule.fault.kind.name(), "n": rule.n, "skip": rule.skip}))
            .collect();
        let fired: BTreeMap<_, _> = book.fired.iter().map(|(kind, times)| (kind.name(), times)).collect();
        json!({"armed": armed, "fired": fired})
    }
}
