//! Steps 7 and 8, the second half that the live path and recovery share: tell everybody, write the end, let go.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::atomic::ended;
use super::core::Core;
use super::entry::Entry;
use super::hand::{Skip, Word};
use super::job;
use super::retry::Backoff;
use crate::clock;
use crate::crash;
use crate::journal::record::{Ended, Intent};
use crate::journal::slip::Decided;
use crate::metrics::StoreCall;
use crate::model::commit::{Gid, RedoWrite};
use crate::model::ids::StoreName;
use crate::model::operator::Skipped;
use crate::model::problem::{Code, Problem};
use crate::model::state::{Event, Outcome};
use crate::store::Setback;

/// What a store refused for good is tried again this often: an operator may have mended the cause.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);

/// Notes who has to be told: before the state says that it is decided, so that nobody ever reads "decided, and nobody is
/// waited for" too early.
pub(super) fn note_owed(entry: &Entry, decided: &Decided, intent: &Intent) {
    let preparers = intent.preparers.iter().map(|(store, _)| store.clone());
    let all = preparers.chain(redoers(decided, intent));
    entry.owes(all.filter(|store| !entry.hand.has_skipped(store)));
}

fn redoers(decided: &Decided, intent: &Intent) -> Vec<StoreName> {
    if decided.outcome() == Outcome::Committed { intent.redoers() } else { Vec::new() }
}

/// Carries the decision to every participant, in parallel, each repeated until it acknowledges. `false`: the program is
/// stopping, and the next start goes on from the log.
pub(super) async fn tell_everybody(core: &Arc<Core>, entry: &Entry, decided: &Decided, intent: &Intent) -> bool {
    let owed = |store: &StoreName| !entry.hand.has_skipped(store);
    let telling = Telling { core, entry, decided, start: Instant::now() };
    let mut acts = Vec::new();
    for (store, gid) in intent.preparers.iter().filter(|(store, _)| owed(store)) {
        acts.push(telling.until_told(store.clone(), Act::Finish(gid.clone())));
    }
    for store in redoers(decided, intent).into_iter().filter(owed) {
        let writes = intent.redo.iter().filter(|write| write.store == store).cloned().collect();
        acts.push(telling.until_told(store, Act::Apply(writes)));
    }
    let told = join_all(acts).await;
    told.into_iter().all(|told| told)
}

/// What one store is told.
enum Act {
    /// To keep, or drop, what it promised.
    Finish(Gid),
    /// To take absolute writes.
    Apply(Vec<RedoWrite>),
}

/// Appends the end; then, in this order, the locks go.
pub(super) async fn write_end(core: &Core, entry: &Entry, decided: &Decided, intent: &Intent) -> bool {
    crash::point("before_done");
    let ended = ended(entry, decided, intent);
    // Reads and one-phase aborts promised nothing; everything else is written down.
    match append_end(core, entry, ended) {
        Ok(()) => {
            core.locks.release_all(entry.id);
            crash::point("after_done");
            true
        }
        Err(problem) => {
            tracing::error!(transaction = %entry.id, %problem, "the end cannot be written; its locks stay until the next start");
            false
        }
    }
}

/// Appends the end; whoever keeps count of ends knows of it before anybody reads that it has ended.
///
/// # Errors
/// As [`Journal::end`](crate::journal::Journal::end).
pub(super) fn append_end(core: &Core, entry: &Entry, ended: Ended) -> Result<(), Problem> {
    let lsn = core.journal.end(&ended)?;
    entry.end_is_told();
    job::note_end(core, entry, &ended, lsn);
    core.keyed().note(lsn, ended);
    Ok(())
}

struct Telling<'a> {
    core: &'a Arc<Core>,
    entry: &'a Entry,
    decided: &'a Decided,
    start: Instant,
}

impl Telling<'_> {
    async fn once(&self, store: &StoreName, act: &Act) -> Result<(), Setback> {
        let site = self.core.site(store).map_err(|problem| Setback::Final(problem.detail))?;
        match act {
            Act::Finish(gid) => match site.store.prepares() {
                Some(prepares) => site.call(StoreCall::Finish, prepares.finish(self.decided, gid)).await,
                None => Err(Setback::Final(format!("{store} cannot prepare any more, and {gid} is owed to it"))),
            },
            Act::Apply(writes) => match site.store.redoes() {
                Some(redoes) => site.call(StoreCall::Apply, redoes.apply(self.decided, writes)).await,
                None => Err(Setback::Final(format!("{store} takes no redo writes any more"))),
            },
        }
    }

    async fn until_told(&self, store: StoreName, act: Act) -> bool {
        let mut backoff = Backoff::of_store();
        let mut refused_before = false;
        let mut ear = self.entry.hand.ear();
        loop {
            let reached = async {
                if let Ok(site) = self.core.site(&store) {
                    site.reached().await;
                }
            };
            tokio::select! {
                () = reached => {}
                () = self.core.stop.cancelled() => return false,
                word = ear.word(&store, refused_before) => match word {
                    Word::Skip(skip) if self.give_up(&store, &skip).await => return true,
                    Word::Skip(_) | Word::Again => continue,
                }
            }
            ear.heed();
            let pause = match self.once(&store, &act).await {
                Ok(()) => {
                    self.entry.told(&store);
                    if matches!(act, Act::Apply(_)) {
                        self.core.metrics.visible(&store, self.start.elapsed());
                    }
                    crash::point("mid_finish");
                    if refused_before {
                        self.entry.step("mended", Some(store.to_string()));
                        self.settled(&store);
                    }
                    return true;
                }
                Err(Setback::Again(why)) => {
                    self.entry.set_back(&store, &why);
                    backoff.next()
                }
                Err(Setback::Final(why)) => {
                    self.entry.set_back(&store, &why);
                    if !refused_before {
                        self.needs_operator(&store, &why);
                        refused_before = true;
                    }
                    REFUSED_AGAIN
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.core.stop.cancelled() => return false,
                word = ear.word(&store, refused_before) => match word {
                    Word::Skip(skip) if self.give_up(&store, &skip).await => return true,
                    Word::Skip(_) | Word::Again => {}
                }
            }
        }
    }

    /// An operator gives this store's part up. `false`: the log does not take it, so it is tried on.
    async fn give_up(&self, store: &StoreName, skip: &Skip) -> bool {
        let given_up = give_up(self.core, self.entry, self.decided, store, skip).await;
        if given_up {
            self.settled(store);
        }
        given_up
    }

    fn needs_operator(&self, store: &StoreName, why: &str) {
        tracing::error!(
            transaction = %self.entry.id, %store, why,
            "decided, and the store refuses its part for good: an operator is needed; it is tried again every {} s",
            REFUSED_AGAIN.as_secs()
        );
        self.entry.step("refused", Some(format!("{store}: {why}")));
        self.entry.refused_for(Problem::new(Code::RejectedByStore, why).in_store(store));
        // An abort that a store refuses is no broken promise: it stays `aborting` and is repeated.
        if self.entry.hand.refuse(store) && self.decided.outcome() == Outcome::Committed {
            self.entry.take(Event::Refused);
        }
    }

    /// The store has its part, or need not have it any more.
    fn settled(&self, store: &StoreName) {
        if self.entry.hand.settle(store) && self.decided.outcome() == Outcome::Committed {
            self.entry.take(Event::Retried);
        }
    }
}

/// Gives one store's part up: written down, forced, and only then no longer owed, so that a restart does not try it
/// again. `false`: the log does not take the record, and nothing is given up.
pub(super) async fn give_up(core: &Core, entry: &Entry, decided: &Decided, store: &StoreName, skip: &Skip) -> bool {
    let (reason, by) = (skip.reason.clone(), skip.by.clone());
    let skipped = Skipped { store: store.clone(), reason, by, at_us: clock::now_us() };
    crash::point("before_skip");
    let forced = core.journal.skip(decided.run(), &skipped).await;
    crash::point("after_skip");
    let done = forced.is_ok();
    if done {
        tracing::warn!(
            transaction = %entry.id, %store, by = skipped.by, reason = skipped.reason,
            "an operator gave up what the store refuses: it will never have it"
        );
        entry.step("skipped", Some(format!("{store}: {}", skipped.reason)));
        entry.hand.give_up(skipped);
        entry.told(store);
    }
    skip.answer(forced);
    done
}
