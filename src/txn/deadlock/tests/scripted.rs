//! A small store with locks of its own, which does what a test tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock;
use crate::model::commit::{Gid, MarkerNote, Verdict};
use crate::model::ids::{Run, StoreName};
use crate::model::powers::{Powers, Role};
use crate::model::problem::{Code, Problem};
use crate::model::request::{Action, BoundOp};
use crate::model::state::Outcome;
use crate::model::wait::{Party, Source, WaitEdge};
use crate::store::{Blockers, Decision, Marks, Prepares, Probe, Redoes, Session, Setback, Settled, Store, TxnContext};

/// A store in which an operation takes the exclusive lock that its text names, and then waits until the store is open.
pub(super) struct Scripted {
    pub(super) name: StoreName,
    pub(super) inside: watch::Sender<Inside>,
    /// How often it was asked who blocks whom.
    pub(super) asked: AtomicUsize,
}

#[derive(Default)]
pub(super) struct Inside {
    pub(super) held: BTreeMap<String, Run>,
    pub(super) waits: BTreeMap<Run, (String, u64)>,
    pub(super) interrupted: BTreeSet<Run>,
    /// A session of somebody else that holds this lock and waits for that transaction.
    pub(super) foreign: Option<(String, String)>,
    pub(super) last: u64,
    /// Each wait is seen in an epoch of its own at every look: a wait that keeps ending and beginning.
    pub(super) restless: bool,
    /// No operation ends while this is so: the test waits until everybody holds its first lock.
    pub(super) shut: bool,
}

impl Scripted {
    pub(super) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.into(), inside: watch::channel(Inside::default()).0, asked: AtomicUsize::new(0) })
    }

    pub(super) fn release(&self, run: Run) {
        self.inside.send_modify(|inside| {
            inside.held.retain(|_, holder| *holder != run);
            inside.waits.remove(&run);
            inside.interrupted.remove(&run);
        });
    }

    /// Takes the lock or waits for it.
    pub(super) async fn take(&self, run: Run, key: &str) -> Result<(), Problem> {
        let mut changes = self.inside.subscribe();
        loop {
            let mut answer = None;
            self.inside.send_if_modified(|inside| {
                let foreign = inside.foreign.as_ref().is_some_and(|(held, _)| held == key);
                let free = !foreign && inside.held.get(key).is_none_or(|holder| *holder == run);
                if inside.interrupted.remove(&run) {
                    inside.waits.remove(&run);
                    answer = Some(Err(Problem::new(Code::RejectedByStore, "canceled by somebody")));
                } else if free {
                    inside.waits.remove(&run);
                    inside.held.insert(key.to_owned(), run);
                    answer = Some(Ok(()));
                } else if !inside.waits.contains_key(&run) {
                    inside.last += 1;
                    inside.waits.insert(run, (key.to_owned(), inside.last));
                }
                false
            });
            match answer {
                Some(answer) => return answer,
                None => drop(changes.changed().await),
            }
        }
    }
}

pub(super) struct Part {
    pub(super) store: Arc<Scripted>,
    pub(super) run: Run,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.store.release(self.run);
    }
}

#[async_trait]
impl Session for Part {
    async fn work(&mut self, ops: &[BoundOp]) -> Result<Vec<Value>, Problem> {
        for bound in ops {
            let Action::Sql { text, .. } = &bound.op.action else { panic!("only sql here") };
            self.store.take(self.run, text).await?;
            let mut inside = self.store.inside.subscribe();
            inside.wait_for(|inside| !inside.shut).await.unwrap();
        }
        Ok(vec![json!({"rows": []}); ops.len()])
    }

    fn renew(&mut self, _deadline: Instant) {}

    async fn settle(&mut self, _part: &Settled) -> Result<(), Problem> {
        Ok(())
    }

    async fn prepare(&mut self, _gid: &Gid) -> Result<(), Problem> {
        panic!("these only read")
    }

    async fn commit(self: Box<Self>, _note: &MarkerNote) -> Decision {
        Decision::Committed(Verdict { run: self.run, store: self.store.name.clone(), outcome: Outcome::Committed })
    }

    async fn rollback(self: Box<Self>) {}
}

/// The store as the coordinator is given it.
pub(super) struct Handle(pub(super) Arc<Scripted>);

#[async_trait]
impl Store for Handle {
    fn name(&self) -> &StoreName {
        &self.0.name
    }

    fn kind(&self) -> &'static str {
        "postgres"
    }

    async fn probe(&self, _init: bool) -> Result<Probe, Problem> {
        Ok(Probe { version: "1".into(), powers: self.powers(), warnings: Vec::new() })
    }

    fn powers(&self) -> Powers {
        Powers { prepare: true, mark: true, redo: false }
    }

    async fn open(&self, context: &TxnContext, _role: Role) -> Result<Box<dyn Session>, Problem> {
        Ok(Box::new(Part { store: self.0.clone(), run: context.run }))
    }

    fn marks(&self) -> Option<&dyn Marks> {
        None
    }

    fn prepares(&self) -> Option<&dyn Prepares> {
        None
    }

    fn redoes(&self) -> Option<&dyn Redoes> {
        None
    }

    fn blockers(&self) -> Option<&dyn Blockers> {
        Some(self)
    }
}

#[async_trait]
impl Blockers for Handle {
    async fn waits(&self, waiting: &[Run]) -> Result<Vec<WaitEdge>, Setback> {
        let turn = self.0.asked.fetch_add(1, Ordering::SeqCst) as u64;
        let inside = self.0.inside.borrow();
        let edge = |waiter, holder, resource: &str, epoch| WaitEdge {
            waiter,
            holder,
            source: Source::Store(self.0.name.clone()),
            resource: resource.to_owned(),
            epoch,
            since_us: clock::now_us(),
        };
        let mut edges = Vec::new();
        for (run, (key, epoch)) in inside.waits.iter().filter(|(run, _)| waiting.contains(run)) {
            let epoch = if inside.restless { epoch + 1000 * turn } else { *epoch };
            let foreign = Party::Foreign("psql of alice".into());
            match &inside.foreign {
                Some((held, wanted)) if held == key => {
                    edges.push(edge(Party::Ours(run.txn), foreign.clone(), key, epoch));
                    let holder = inside.held.get(wanted).map(|holder| Party::Ours(holder.txn));
                    edges.extend(holder.map(|holder| edge(foreign, holder, wanted, 1)));
                }
                _ => {
                    let holder = inside.held.get(key).map(|holder| Party::Ours(holder.txn));
                    edges.extend(holder.map(|holder| edge(Party::Ours(run.txn), holder, key, epoch)));
                }
            }
        }
        Ok(edges)
    }

    async fn interrupt(&self, run: Run) -> Result<(), Setback> {
        self.0.inside.send_modify(|inside| {
            if inside.waits.contains_key(&run) {
                inside.interrupted.insert(run);
            }
        });
        Ok(())
    }
}
