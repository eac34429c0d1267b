//! JSON → [`TxnRequest`]: checked here once, and trusted from here on.
//!
//! A client that gets something wrong is told what and where: every refusal carries the JSON pointer of the faulty
//! member (a missing one points to its parent). Nothing is guessed and nothing unknown is passed over, because a
//! misspelt `expect` would otherwise be a check that silently never happens.

mod digest;
mod hand;
mod interactive;
mod job;
mod json;
mod lease;
mod members;
mod operation;
mod record;

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::Value;

pub(super) use digest::digest;
pub(super) use hand::{hand, orphan};
pub(super) use interactive::{end, operations as more_operations, prepare};
pub(super) use job::{Chunk, Opening, check_undo, chunk, is_chunk, job, opens_job};
pub(super) use job::{commit as commit_job, roll_back as roll_back_job};
pub(super) use json::parse;
pub(super) use lease::{lease, renewal};

use crate::model::problem::{Code, Problem};
use crate::model::request::{DeclaredLock, Isolation, Operation, PatternWish, RetryPolicy, TxnRequest, WaitFor, link};
use crate::model::trace::TraceId;
use members::{Members, shown};

/// Operations in one transaction.
pub(super) const MAX_OPERATIONS: usize = 1000;
/// Declared locks of one transaction.
pub(super) const MAX_LOCKS: usize = 256;
/// Bytes of a lock's key.
const MAX_LOCK_KEY: usize = 512;
/// The longest `timeout_ms`.
const MAX_TIMEOUT_MS: u32 = 600_000;
/// `timeout_ms` where there is none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether `text` can name a transaction or an operation.
pub(super) fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._:@-".contains(c);
    !text.is_empty() && text.len() <= 128 && text.chars().all(fits)
}

/// What `POST /v1/transactions` asks for.
#[derive(Debug)]
pub(super) enum Asked {
    /// All operations at once.
    OneShot(TxnRequest),
    /// Opened now, told its operations call by call, and open so long after each.
    Interactive(TxnRequest, Duration),
}

impl Asked {
    /// The same, of the trace that its request belongs to.
    pub(super) fn of(mut self, trace: Option<&TraceId>) -> Self {
        let (Self::OneShot(request) | Self::Interactive(request, _)) = &mut self;
        request.trace = trace.copied().unwrap_or(request.trace);
        self
    }
}

/// Reads the body of `POST /v1/transactions`; `store_kind` knows the configured stores.
///
/// # Errors
/// `invalid_request` with a pointer; `unsupported` for what is in the contract and not in this version.
pub(super) fn request(body: Value, store_kind: &dyn Fn(&str) -> Option<&'static str>) -> Result<Asked, Problem> {
    let mut members = Members::of(body, "")?;
    if members.flag("interactive")? == Some(true) {
        return interactive::open(members, store_kind);
    }
    one_shot(members, store_kind).map(Asked::OneShot)
}

fn one_shot(mut members: Members, store_kind: &dyn Fn(&str) -> Option<&'static str>) -> Result<TxnRequest, Problem> {
    members.require("operations")?;
    let retry = members.object("retry")?.map_or(Ok(RetryPolicy::NEVER), retry)?;
    let request = common(&mut members, retry, store_kind)?;
    members.finish()?;
    if request.operations.is_empty() {
        return Err(Problem::invalid("/operations", "there is no operation: at least one is needed"));
    }
    Ok(request)
}

/// What every transaction can say of itself.
fn common(
    members: &mut Members,
    retry: RetryPolicy,
    store_kind: &dyn Fn(&str) -> Option<&'static str>,
) -> Result<TxnRequest, Problem> {
    let name = members.text("name")?;
    if let Some(name) = name.as_deref().filter(|name| !is_name(name)) {
        let detail = format!("`{}` is no name: 1 to 128 of [A-Za-z0-9._:@-]", shown(name));
        return Err(Problem::invalid("/name", detail));
    }
    let pattern = pattern(members)?;
    let isolations = [
        ("read_committed", Isolation::ReadCommitted),
        ("repeatable_read", Isolation::RepeatableRead),
        ("serializable", Isolation::Serializable),
    ];
    let isolation = members.word("isolation", &isolations)?.unwrap_or_default();
    let timeout = members.millis("timeout_ms", 1..=MAX_TIMEOUT_MS)?.unwrap_or(DEFAULT_TIMEOUT);
    let priority = members.number("priority", -1000..=1000)?.unwrap_or(0);
    let priority = i32::try_from(priority).unwrap_or(0);
    let locks = members.list("locks", MAX_LOCKS)?.unwrap_or_default();
    let locks = locks.into_iter().enumerate().map(|(index, item)| lock(item, index)).collect::<Result<_, _>>()?;
    let wait = wait(members)?.unwrap_or_default();
    let items = members.list("operations", MAX_OPERATIONS)?.unwrap_or_default();
    let operations = operations(items, store_kind)?;
    // Whoever knows the request's own trace puts it in this one's place.
    let trace = TraceId::fresh();
    Ok(TxnRequest { name, pattern, isolation, timeout, priority, retry, locks, wait, operations, trace })
}

fn wait(members: &mut Members) -> Result<Option<WaitFor>, Problem> {
    members.word("wait", &[("applied", WaitFor::Applied), ("decided", WaitFor::Decided)])
}

/// `pattern`, `consistency` and `availability`, folded into what this version can do about them: atomic, or refused.
/// Asking for availability is granted with more than was asked for, and `plan.reason` says so.
fn pattern(members: &mut Members) -> Result<PatternWish, Problem> {
    #[derive(Clone, Copy)]
    enum Word {
        Auto,
        Atomic,
        Saga,
    }
    let word = members.word("pattern", &[("auto", Word::Auto), ("atomic", Word::Atomic), ("saga", Word::Saga)])?;
    let consistency = members.word("consistency", &[("immediate", true), ("strong", false), ("eventual", false)])?;
    members.word("availability", &[("low", ()), ("medium", ()), ("high", ())])?;
    match (word.unwrap_or(Word::Auto), consistency) {
        (Word::Saga, _) => {
            let detail = "sagas are not in this version: `auto` and `atomic` are";
            Err(Problem::new(Code::Unsupported, detail).at("/pattern"))
        }
        (Word::Atomic, _) | (Word::Auto, Some(true)) => Ok(PatternWish::Atomic),
        (Word::Auto, _) => Ok(PatternWish::Auto),
    }
}

fn retry(mut members: Members) -> Result<RetryPolicy, Problem> {
    let attempts = members.number("max_attempts", 1..=100)?.unwrap_or(5);
    let max_delay = members.millis("max_delay_ms", 0..=MAX_TIMEOUT_MS)?;
    let base_delay = members.millis("base_delay_ms", 0..=MAX_TIMEOUT_MS)?;
    let (base_delay, max_delay) = match (base_delay, max_delay) {
        (Some(base), Some(max)) if base > max => {
            let detail = "`base_delay_ms` is longer than `max_delay_ms`";
            return Err(Problem::invalid(members.pointer("base_delay_ms"), detail));
        }
        (Some(base), max) => (base, max.unwrap_or(RetryPolicy::NEVER.max_delay.max(base))),
        (None, max) => {
            let max = max.unwrap_or(RetryPolicy::NEVER.max_delay);
            (RetryPolicy::NEVER.base_delay.min(max), max)
        }
    };
    members.finish()?;
    Ok(RetryPolicy { max_attempts: u32::try_from(attempts).unwrap_or(1), base_delay, max_delay })
}

fn lock(item: Value, index: usize) -> Result<DeclaredLock, Problem> {
    let mut members = Members::of(item, format!("/locks/{index}"))?;
    let lock = key_and_mode(&mut members)?;
    members.finish()?;
    Ok(lock)
}

fn key_and_mode(members: &mut Members) -> Result<DeclaredLock, Problem> {
    let key = members.required_text("key")?;
    if key.is_empty() || key.len() > MAX_LOCK_KEY || key.chars().any(char::is_control) {
        let detail = format!("a key has 1 to {MAX_LOCK_KEY} bytes and no control characters");
        return Err(Problem::invalid(members.pointer("key"), detail));
    }
    let exclusive = members.word("mode", &[("exclusive", true), ("shared", false)])?.unwrap_or(true);
    Ok(DeclaredLock { key, exclusive })
}

fn operations(items: Vec<Value>, store_kind: &dyn Fn(&str) -> Option<&'static str>) -> Result<Vec<Operation>, Problem> {
    let read = items.into_iter().enumerate().map(|(index, item)| operation::operation(item, index, store_kind));
    let mut operations: Vec<Operation> = read.collect::<Result<_, _>>()?;
    link(&mut operations, 0, |_| false)?;
    Ok(operations)
}
