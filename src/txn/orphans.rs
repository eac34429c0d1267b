//! Orphans: prepared transactions with names of our shape that nothing open here answers for.
//!
//! The danger, as a story: a sidecar's volume is lost. PostgreSQL still holds what it had prepared, with its locks, and
//! a new sidecar with a new log knows nothing of it. Rolling it back by its age would be a guess: the graph may have
//! committed the other half. So those of *other* logs are never touched by us, only by an operator, only when that log
//! has been silent for [`ALIVE`], and only the way that the decider says: the run is fenced there first, exactly as
//! its own recovery would. Where the lost log itself was to decide, nobody can know any more, and the operator decides.
//!
//! Those of *our own* log are recovery's: it fences their decider by itself, within one sweep.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::Coordinator;
use super::core::Core;
use super::site::Site;
use crate::audit::{Act, Line, Outcome as Came};
use crate::crash;
use crate::journal::slip::Decided;
use crate::metrics::{ByHand, HandResult, StoreCall};
use crate::model::commit::{Decider, Gid};
use crate::model::ids::{LogId, StoreName};
use crate::model::problem::{Code, Problem};
use crate::model::state::Outcome;
use crate::store::{Fenced, OtherLog, Setback};

/// A log that was heard of within this may live: a slow one beats late, and its transactions are its own.
const ALIVE: Duration = Duration::from_secs(60);
/// A store that does not answer a look in this time is left out, and named.
const LOOK: Duration = Duration::from_secs(5);

/// `GET /v1/orphans`
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct OrphanList {
    /// Oldest first in each store.
    pub orphans: Vec<OrphanView>,
    /// Stores that could not be asked: theirs are missing here.
    pub unreachable: Vec<UnreachableView>,
}

/// One prepared transaction.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OrphanView {
    /// Where it stands prepared.
    pub store: String,
    /// Under which name.
    pub gid: String,
    /// The log that it is of, as 32 hex digits.
    pub log: String,
    /// Whether that is this sidecar's log.
    pub ours: bool,
    /// The transaction.
    pub transaction: String,
    /// Which run of it.
    pub attempt: u32,
    /// Who decides: a store's name as that log calls it, or `wal`.
    pub decider: String,
    /// Since it was prepared, on the store's clock.
    pub age_seconds: u64,
    /// Where that log says it runs, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Since that log was last heard of, on a store's clock; null where no store knows it.
    pub silent_seconds: Option<u64>,
    /// Whether that log may live.
    pub alive: bool,
    /// What ends it, and whether an operator may.
    pub ends_when: String,
}

/// A store that could not be asked.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UnreachableView {
    /// Which.
    pub store: String,
    /// Why.
    pub reason: String,
}

/// `POST /v1/orphans/resolve`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OrphanWish {
    /// Where it stands prepared.
    pub store: StoreName,
    /// Its name, byte for byte.
    pub gid: String,
    /// What to do.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
    /// The operator.
    pub who: Arc<str>,
    /// The trace id of the request.
    pub trace: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OrphanResolved {
    /// Where it stood prepared.
    pub store: String,
    /// Its name.
    pub gid: String,
    /// `committed` or `aborted`.
    pub outcome: &'static str,
    /// Who said so: the deciding store's name, or `operator` where the lost log was to decide.
    pub decided_by: String,
}

impl Coordinator {
    /// Every prepared transaction of our shape that nothing open here answers for.
    pub async fn orphans(&self) -> OrphanList {
        list(&self.core).await
    }

    /// Ends one of a dead log by hand. What was begun goes on when this future is dropped.
    ///
    /// # Errors
    /// `invalid_request`, `not_found`, `wrong_state` (it is ours, its log lives, or the decider says the opposite),
    /// `store_unavailable` where the decider cannot be asked; `journal_unavailable` where it cannot be audited.
    pub async fn resolve_orphan(&self, wish: OrphanWish) -> Result<OrphanResolved, Problem> {
        let core = self.core.clone();
        let resolving = tokio::spawn(async move { resolve(&core, &wish).await });
        resolving
            .await
            .unwrap_or_else(|_| Err(Problem::new(Code::Internal, "a defect of Outrigger: its log says more")))
    }
}

async fn list(core: &Core) -> OrphanList {
    let looking = core.sites.values().filter(|site| site.store.prepares().is_some()).map(|site| async move {
        let prepares = site.store.prepares()?;
        let found = timeout(LOOK, prepares.prepared_by_all()).await;
        Some((site.name().clone(), found.unwrap_or_else(|_| Err(Setback::Again("no answer in time".to_owned())))))
    });
    let mut answer = OrphanList::default();
    let mut found = Vec::new();
    for (store, gids) in join_all(looking).await.into_iter().flatten() {
        match gids {
            Ok(gids) => found.extend(gids.into_iter().map(|(gid, age)| (store.clone(), gid, age))),
            Err(Setback::Again(reason) | Setback::Final(reason)) => {
                answer.unreachable.push(UnreachableView { store: store.to_string(), reason });
            }
        }
    }
    // Asked after the scan, as recovery does: what has ended since is no orphan.
    found.retain(|(_, gid, _)| {
        !is_ours(core, gid) || core.registry.get(gid.run.txn).is_none_or(|e| e.state().has_ended())
    });
    let logs: BTreeSet<String> = found.iter().map(|(_, gid, _)| gid.log.to_string()).collect();
    let mut known = BTreeMap::new();
    for log in logs {
        if let Some((_, gid, _)) = found.iter().find(|(_, gid, _)| gid.log.to_string() == log) {
            let heard = heard_of(core, gid.log).await;
            known.insert(log, heard.into_iter().filter_map(Result::ok).flatten().min_by_key(|log| log.silent_seconds));
        }
    }
    answer.orphans = found
        .into_iter()
        .map(|(store, gid, age)| {
            let heard = known.get(&gid.log.to_string()).cloned().flatten();
            view(core, &store, &gid, age, heard)
        })
        .collect();
    answer
}

fn is_ours(core: &Core, gid: &Gid) -> bool {
    gid.log == core.journal.owner().log
}

fn view(core: &Core, store: &StoreName, gid: &Gid, age: u64, heard: Option<OtherLog>) -> OrphanView {
    let ours = is_ours(core, gid);
    let silent = heard.as_ref().map(|log| log.silent_seconds);
    let alive = ours || silent.is_some_and(|silent| silent < ALIVE.as_secs());
    let ends_when = if ours {
        "recovery of this log fences its decider and ends it, within one sweep".to_owned()
    } else if alive {
        "its log may live and ends it; an operator may once it has been silent for a minute".to_owned()
    } else {
        match &gid.decider {
            Decider::Wal => {
                "its log was to decide and is gone: an operator decides (or `recover --once`, where the log is \
                             still to be had)"
                    .to_owned()
            }
            Decider::Store(decider) => format!("an operator, the way that {decider} says: it is fenced there first"),
        }
    };
    OrphanView {
        store: store.to_string(),
        gid: gid.to_string(),
        log: gid.log.to_string(),
        ours,
        transaction: gid.run.txn.to_string(),
        attempt: gid.run.attempt.0,
        decider: gid.decider.to_string(),
        age_seconds: age,
        host: heard.map(|log| log.host).filter(|host| !host.is_empty()),
        silent_seconds: silent,
        alive,
        ends_when,
    }
}

/// What every store that marks has heard of a log.
async fn heard_of(core: &Core, log: LogId) -> Vec<Result<Option<OtherLog>, Problem>> {
    let asking = core.sites.values().filter_map(|site| site.store.marks().map(|marks| (site, marks)));
    join_all(asking.map(|(site, marks)| async move {
        let heard = timeout(LOOK, marks.log(log)).await;
        let heard = heard.unwrap_or_else(|_| Err(Setback::Again("no answer in time".to_owned())));
        heard.map_err(|(Setback::Again(why) | Setback::Final(why))| Problem::unavailable(site.name(), why))
    }))
    .await
}

async fn resolve(core: &Arc<Core>, wish: &OrphanWish) -> Result<OrphanResolved, Problem> {
    let by_hand = match wish.outcome {
        Outcome::Committed => ByHand::OrphanCommit,
        Outcome::Aborted => ByHand::OrphanRollback,
    };
    let act = Act {
        store: Some(wish.store.to_string()),
        object: Some(wish.gid.clone()),
        reason: Some(wish.reason.clone()),
        before: Some("prepared".to_owned()),
        ..Act::new(&wish.who, by_hand.as_str(), wish.trace.as_deref())
    };
    match checked(core, wish, &act).await {
        Ok(done) => {
            core.metrics.resolved(by_hand, HandResult::Done);
            tracing::warn!(
                who = %wish.who, store = %wish.store, gid = wish.gid, outcome = done.outcome, decided_by = done.decided_by,
                reason = wish.reason, "a prepared transaction of a dead log was ended by hand"
            );
            if let Err(problem) =
                core.note(&Line::answered(&act, Came::Done, Some(done.outcome), Some(&done.decided_by))).await
            {
                tracing::error!(gid = wish.gid, %problem, "done by hand, and what came of it is not in the audit log");
            }
            Ok(done)
        }
        Err(problem) => {
            core.metrics.resolved(by_hand, HandResult::Refused);
            core.note(&Line::answered(&act, Came::Refused, None, Some(&problem.detail))).await?;
            Err(problem)
        }
    }
}

async fn checked(core: &Arc<Core>, wish: &OrphanWish, act: &Act) -> Result<OrphanResolved, Problem> {
    let refused = |detail: String| Problem::new(Code::WrongState, detail);
    let gid: Gid = wish.gid.parse().map_err(|_| Problem::invalid("/gid", "that is not a gid of Outrigger's"))?;
    let unknown = || Problem::invalid("/store", format!("there is no store `{}` that can prepare", wish.store));
    let site = core.sites.get(&wish.store).ok_or_else(unknown)?;
    let prepares = site.store.prepares().ok_or_else(unknown)?;
    if is_ours(core, &gid) {
        let detail = "that is this sidecar's own: recovery fences its decider and ends it by itself, and a hand could only \
                      contradict what it finds";
        return Err(refused(detail.to_owned()));
    }
    let setback = |(Setback::Again(why) | Setback::Final(why))| Problem::unavailable(&wish.store, why);
    let standing = prepares.prepared_by_all().await.map_err(setback)?;
    if !standing.iter().any(|(standing, _)| *standing == gid) {
        return Err(Problem::new(Code::NotFound, format!("{} holds no such prepared transaction", wish.store)));
    }
    // Every store that marks must have been asked: one that is away could be the one that hears it.
    for heard in heard_of(core, gid.log).await {
        if let Some(log) = heard?.filter(|log| log.silent_seconds < ALIVE.as_secs()) {
            let OtherLog { log, host, silent_seconds } = log;
            return Err(refused(format!(
                "its log {log} (at {host}) was heard of {silent_seconds} s ago and may live: it ends its own; stop it, and ask \
                 again a minute later"
            )));
        }
    }
    let decider = decider(core, &gid).await?;
    core.note(&Line::asked(act)).await?;
    let (decided, decided_by) = verdict(core, &gid, decider, wish.outcome).await?;
    crash::point("after_orphan_verdict");
    site.call(StoreCall::Finish, prepares.finish(&decided, &gid)).await.map_err(setback)?;
    let outcome = decided.outcome().as_str();
    Ok(OrphanResolved { store: wish.store.to_string(), gid: wish.gid.clone(), outcome, decided_by })
}

/// The store that decides, if one does. The name in the gid is the other log's: that it is the same store here is
/// believed only where that log has registered there.
async fn decider<'a>(core: &'a Core, gid: &Gid) -> Result<Option<&'a Arc<Site>>, Problem> {
    let Decider::Store(name) = &gid.decider else { return Ok(None) };
    let cannot = |why: &str| {
        let detail =
            format!("{name} decides about it, and {why}: only {name} can say what came of it, so nobody may guess");
        Problem::new(Code::WrongState, detail)
    };
    let site = core.sites.get(name).ok_or_else(|| cannot("is not in this sidecar's configuration"))?;
    let marks = site.store.marks().ok_or_else(|| cannot("is a store here that cannot mark"))?;
    match marks.log(gid.log).await {
        Ok(Some(_)) => Ok(Some(site)),
        Ok(None) => Err(cannot("the store of that name here has never seen that log")),
        Err(Setback::Again(why) | Setback::Final(why)) => Err(Problem::unavailable(name, why)),
    }
}

/// What is true of that run: what the fence in its decider finds, else what the operator says.
async fn verdict(
    core: &Core,
    gid: &Gid,
    decider: Option<&Arc<Site>>,
    wanted: Outcome,
) -> Result<(Decided, String), Problem> {
    let Some(site) = decider else {
        return Ok((core.journal.adjudge(gid.run, wanted)?, "operator".to_owned()));
    };
    let marks = site.store.marks().ok_or_else(|| Problem::new(Code::Internal, "a decider that cannot mark"))?;
    let fenced =
        site.call(StoreCall::Fence, marks.fence(gid.run, core.journal.owner(), core.journal.durable_lsn())).await;
    let found = match fenced {
        Ok(Fenced::Aborted(verdict) | Fenced::Committed(verdict, _)) => verdict,
        Err(Setback::Again(why) | Setback::Final(why)) => return Err(Problem::unavailable(site.name(), why)),
    };
    if found.outcome != wanted {
        let detail =
            format!("{} decided about it, and says {}: only that may be done", site.name(), found.outcome.as_str());
        return Err(Problem::new(Code::WrongState, detail).in_store(site.name()));
    }
    Ok((core.journal.witness(&found)?, site.name().to_string()))
}
