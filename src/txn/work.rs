//! Step 3: the operations, parallel where nothing is referenced, in the given order within a store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::timeout;

use super::core::Core;
use super::entry::{Entry, Results};
use crate::lock::{Claim, LockKey, LockRefused, Mode, WhyRefused};
use crate::metrics::StoreCall;
use crate::model::ids::StoreName;
use crate::model::powers::Role;
use crate::model::problem::{Code, Problem};
use crate::model::request::{BoundOp, DeclaredLock, Operation};
use crate::plan::Plan;
use crate::store::{Session, TxnContext};

/// One store's part of a run.
pub(super) struct Part {
    pub(super) store: StoreName,
    pub(super) role: Role,
    queue: VecDeque<Arc<Operation>>,
    /// At work elsewhere while this is `None`.
    pub(super) session: Option<Box<dyn Session>>,
    begun: bool,
}

/// After a refusal the others get this long to come to rest; then their connections are closed.
const REST: Duration = Duration::from_millis(100);

/// Opens a session in every store of the plan. Connections are taken in parallel: one slow store does not add to another.
///
/// # Errors
/// `store_unavailable`, `timeout`: nothing was begun anywhere.
pub(super) async fn open(
    core: &Arc<Core>,
    operations: &[Operation],
    role: impl Fn(&StoreName) -> Role,
    context: &TxnContext,
) -> Result<Vec<Part>, Problem> {
    let mut queues: Vec<(StoreName, VecDeque<Arc<Operation>>)> = Vec::new();
    for operation in operations {
        let operation = Arc::new(operation.clone());
        match queues.iter_mut().find(|(store, _)| *store == operation.store) {
            Some((_, queue)) => queue.push_back(operation),
            None => queues.push((operation.store.clone(), VecDeque::from([operation]))),
        }
    }
    let mut opening = Vec::new();
    for (store, queue) in queues {
        let (site, role) = (core.site(&store)?, role(&store));
        opening.push(async move {
            site.admit(context.deadline).await?;
            let session = site.call(StoreCall::Open, site.store.open(context, role)).await?;
            Ok(Part { store, role, queue, session: Some(session), begun: false })
        });
    }
    futures::future::try_join_all(opening).await
}

/// Lets more operations into a transaction that is at work: sessions for the stores that it has not met yet, as nobody
/// knows yet what they will be.
///
/// # Errors
/// As [`open`].
pub(super) async fn join(
    core: &Arc<Core>,
    operations: &[Operation],
    parts: &mut Vec<Part>,
    context: &TxnContext,
) -> Result<(), Problem> {
    let is_new = |operation: &&Operation| !parts.iter().any(|part| part.store == operation.store);
    let (new, more): (Vec<&Operation>, Vec<&Operation>) = operations.iter().partition(is_new);
    let new: Vec<Operation> = new.into_iter().cloned().collect();
    let redoes = |store: &StoreName| core.site(store).is_ok_and(|site| site.store.redoes().is_some());
    let role = |store: &StoreName| if redoes(store) { Role::Redoer } else { Role::Undecided };
    let opened = open(core, &new, role, context).await?;
    for part in parts.iter_mut() {
        let session = part.session.as_mut();
        session.into_iter().for_each(|session| session.renew(context.deadline));
        let mine = more.iter().filter(|operation| operation.store == part.store);
        part.queue.extend(mine.map(|operation| Arc::new((*operation).clone())));
    }
    parts.extend(opened);
    Ok(())
}

/// The locks that can be known before any work: declared keys, and points whose ids are in the request.
pub(super) async fn known_claims(
    core: &Core,
    locks: &[DeclaredLock],
    results: &Results,
    parts: &mut [Part],
) -> Result<Vec<Claim>, Problem> {
    let declared = locks.iter().map(|lock| Claim {
        key: LockKey::Free(lock.key.clone()),
        mode: if lock.exclusive { Mode::Exclusive } else { Mode::Shared },
    });
    let mut claims: Vec<Claim> = declared.collect();
    for part in parts.iter_mut().filter(|part| part.role == Role::Redoer) {
        let known = part.queue.iter().filter(|operation| needs(operation).is_empty());
        let known: Vec<BoundOp> = known.map(|operation| bind(operation, results)).collect::<Result<_, _>>()?;
        if let Some(session) = &mut part.session {
            let site = core.site(&part.store)?;
            claims.extend(site.call(StoreCall::Footprint, session.footprint(&known)).await?);
        }
    }
    Ok(claims)
}

/// The operations that take effect only after the decision, with their stores.
pub(super) fn redone<'a>(
    operations: impl IntoIterator<Item = &'a Operation>,
    plan: &Plan,
) -> BTreeMap<String, StoreName> {
    let after = |operation: &&Operation| !operation.reads && plan.role(&operation.store) == Role::Redoer;
    operations.into_iter().filter(after).map(|operation| (operation.id.clone(), operation.store.clone())).collect()
}

/// A batch's session on its way back, with what came of it.
struct Back {
    part: usize,
    session: Box<dyn Session>,
    outcome: Result<Fruit, Problem>,
}

/// What a batch brought: each operation's id with its result, and the locks that were taken on the way.
struct Fruit {
    results: Vec<(String, serde_json::Value)>,
    locked: Vec<Claim>,
}

/// Runs every operation that is queued; `results` are those of earlier calls, and come back with the new ones. Sessions that were at work when something else refused may be gone afterwards: dropped, so that
/// their servers roll back.
///
/// # Errors
/// The first refusal.
pub(super) async fn run(
    core: &Arc<Core>,
    entry: &Arc<Entry>,
    context: &TxnContext,
    parts: &mut [Part],
    claims: &mut Vec<Claim>,
    mut results: Results,
) -> Result<Results, Problem> {
    let mut running: FuturesUnordered<BoxFuture<'static, Back>> = FuturesUnordered::new();
    let mut refusal: Option<Problem> = None;
    loop {
        if refusal.is_none() {
            match send(core, entry, context, parts, &results, &running) {
                Ok(batches) => running.extend(batches),
                Err(problem) => refusal = Some(problem),
            }
        }
        let next = match refusal {
            None => running.next().await,
            Some(_) => timeout(REST, running.next()).await.unwrap_or_default(),
        };
        let Some(back) = next else { break };
        parts[back.part].session = Some(back.session);
        match back.outcome {
            Ok(fruit) => {
                entry.did(fruit.results.len());
                results.extend(fruit.results);
                claims.extend(fruit.locked);
            }
            Err(problem) => refusal = Some(refusal.unwrap_or(problem)),
        }
    }
    match refusal {
        Some(problem) => Err(problem),
        None => Ok(results),
    }
}

/// Gives every idle session the operations whose references are all known.
fn send(
    core: &Arc<Core>,
    entry: &Arc<Entry>,
    context: &TxnContext,
    parts: &mut [Part],
    results: &Results,
    running: &FuturesUnordered<BoxFuture<'static, Back>>,
) -> Result<Vec<BoxFuture<'static, Back>>, Problem> {
    let mut batches = Vec::new();
    for (index, part) in parts.iter_mut().enumerate() {
        if part.session.is_none() {
            continue;
        }
        let mut batch = Vec::new();
        while let Some(operation) = part.queue.front() {
            if !needs(operation).iter().all(|id| results.contains_key(*id)) {
                break;
            }
            batch.push(bind(operation, results)?);
            part.queue.pop_front();
        }
        // A store that waits for another's results can begin and write its marker meanwhile.
        let begin_early = !part.begun && matches!(part.role, Role::Decider | Role::Preparer);
        if batch.is_empty() && !begin_early {
            continue;
        }
        part.begun = true;
        if let Some(session) = part.session.take() {
            batches.push(work(core.clone(), entry.clone(), context.clone(), index, part, session, batch));
        }
    }
    if batches.is_empty() && running.is_empty() && parts.iter().any(|part| !part.queue.is_empty()) {
        // The door refuses forward references and circles, so this is a defect; it must not hang.
        return Err(Problem::new(Code::Internal, "operations wait for results that nobody will give"));
    }
    Ok(batches)
}

fn work(
    core: Arc<Core>,
    entry: Arc<Entry>,
    context: TxnContext,
    index: usize,
    part: &Part,
    mut session: Box<dyn Session>,
    batch: Vec<BoundOp>,
) -> BoxFuture<'static, Back> {
    let (store, role) = (part.store.clone(), part.role);
    Box::pin(async move {
        let outcome = one_batch(&core, &entry, &context, &store, role, session.as_mut(), &batch).await;
        Back { part: index, session, outcome }
    })
}

async fn one_batch(
    core: &Core,
    entry: &Entry,
    context: &TxnContext,
    store: &StoreName,
    role: Role,
    session: &mut dyn Session,
    batch: &[BoundOp],
) -> Result<Fruit, Problem> {
    let mut locked = Vec::new();
    if role == Role::Redoer {
        // Points whose ids are results are locked as soon as they are known.
        let late: Vec<BoundOp> = batch.iter().filter(|bound| !needs(&bound.op).is_empty()).cloned().collect();
        if !late.is_empty() {
            locked = core.site(store)?.call(StoreCall::Footprint, session.footprint(&late)).await?;
            lock(core, entry, context, locked.clone()).await?;
        }
    }
    let site = core.site(store)?;
    let _flight = core.detector.in_flight(store, context.run);
    let values = site.call(StoreCall::Work, session.work(batch)).await?;
    let ids = batch.iter().map(|bound| bound.op.id.clone());
    Ok(Fruit { results: ids.zip(values).collect(), locked })
}

/// Takes locks for a run, at most to its deadline.
///
/// # Errors
/// `lock_timeout` naming the key; `deadlock`; `overloaded` where the table is full; `payload_too_large`.
pub(super) async fn lock(core: &Core, entry: &Entry, context: &TxnContext, claims: Vec<Claim>) -> Result<(), Problem> {
    if claims.is_empty() {
        return Ok(());
    }
    let until = context.deadline.min(tokio::time::Instant::now() + context.lock_wait);
    let start = tokio::time::Instant::now();
    let locked = core.locks.acquire_all(context.run.txn, entry.standing(), claims, until).await;
    core.metrics.lock_wait(start.elapsed());
    locked.map_err(|refused| {
        if let WhyRefused::Deadlock(deadlock) = &refused.why {
            // Told by the table itself, unless the detector has told it before.
            entry.condemn(deadlock);
        }
        refusal(&refused)
    })
}

/// A lock that was not to be had, as a client reads it.
pub(super) fn refusal(refused: &LockRefused) -> Problem {
    match &refused.why {
        WhyRefused::Deadlock(deadlock) => Problem::deadlock(&deadlock.cycle),
        WhyRefused::TableFull => Problem::new(Code::Overloaded, format!("the lock table is full, at {}", refused.key)),
        WhyRefused::TooMany(most) => {
            let detail = format!("it would hold more than the {most} locks that one transaction may have");
            Problem::new(Code::PayloadTooLarge, detail)
        }
        WhyRefused::Timeout | WhyRefused::Released => {
            let waited = refused.waited.as_millis();
            Problem::new(Code::LockTimeout, format!("the lock {} was not to be had in {waited} ms", refused.key))
        }
    }
}

fn needs(operation: &Operation) -> BTreeSet<&str> {
    operation.action.template().needs()
}

pub(super) fn bind(
    operation: &Arc<Operation>,
    results: &BTreeMap<String, serde_json::Value>,
) -> Result<BoundOp, Problem> {
    let bound = operation.action.template().bind(|id| results.get(id));
    let values = bound.map_err(|problem| problem.in_operation(&operation.id))?;
    Ok(BoundOp { op: operation.clone(), values })
}
