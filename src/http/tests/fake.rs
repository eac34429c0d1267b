//! A coordinator that does what a test tells it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outrigger_wal::Options;
use serde_json::Value;
use tokio::sync::watch;

use crate::audit::{self, Act, Line};
use crate::http::{Api, Conversing, Events, Locks, Operator};
use crate::journal::Journal;
use crate::journal::feed::Follower;
use crate::model::commit::KeyNote;
use crate::model::job::{ChunkWish, JobVerdict, JobWish};
use crate::model::operator::Verb;
use crate::model::problem::{Code, Problem};
use crate::model::request::{Opening, Operation, PrepareWish, TxnRequest, WaitFor};
use crate::model::state::{Outcome, TxnState};
use crate::model::view::{Answer, View};
use crate::txn::{
    Accepted, Actor, DeadlockView, Explanation, Find, FollowWish, HandWish, KeyView, LeaseView, LeaseWish, ListFilter,
    Opened, OrphanList, OrphanResolved, OrphanWish, Page, WaitForView,
};

/// The id of every transaction here.
pub(super) const ID: &str = "0199b000-0000-7000-8000-000000000001";

pub(super) struct Fake {
    answer: Mutex<Option<Answer>>,
    last: Mutex<Option<(TxnRequest, Option<KeyNote>)>>,
    found: Mutex<Vec<String>>,
    filter: Mutex<ListFilter>,
    submissions: AtomicUsize,
    panics: AtomicBool,
    held: watch::Sender<bool>,
    /// For its feed: the door's followers hear what a test tells there.
    journal: Journal,
    _dir: tempfile::TempDir,
    by_hand: Mutex<Vec<String>>,
    noted: Mutex<Vec<Value>>,
    /// Nothing can be written down.
    pub(super) deaf: AtomicBool,
}

impl Default for Fake {
    fn default() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 1 << 20, force_filesystem: true, ..Options::default() };
        let (journal, _) = Journal::open(dir.path(), options, 10).unwrap();
        Self {
            answer: Mutex::default(),
            last: Mutex::default(),
            found: Mutex::default(),
            filter: Mutex::default(),
            submissions: AtomicUsize::new(0),
            panics: AtomicBool::new(false),
            held: watch::channel(false).0,
            journal,
            _dir: dir,
            by_hand: Mutex::default(),
            noted: Mutex::default(),
            deaf: AtomicBool::new(false),
        }
    }
}

impl Fake {
    pub(super) fn answer_with(&self, answer: Answer) {
        *self.answer.lock().unwrap() = Some(answer);
    }

    pub(super) fn last(&self) -> (TxnRequest, Option<KeyNote>) {
        self.last.lock().unwrap().clone().expect("something was submitted")
    }

    /// What was asked for by hand.
    pub(super) fn by_hand(&self) -> Vec<String> {
        self.by_hand.lock().unwrap().clone()
    }

    /// What was written down, and forgets it.
    pub(super) fn noted(&self) -> Vec<Value> {
        std::mem::take(&mut *self.noted.lock().unwrap())
    }

    pub(super) fn found(&self) -> Vec<String> {
        self.found.lock().unwrap().clone()
    }

    pub(super) fn filter(&self) -> ListFilter {
        self.filter.lock().unwrap().clone()
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(super) fn submissions(&self) -> usize {
        self.submissions.load(Ordering::SeqCst)
    }

    pub(super) fn panic_once(&self) {
        self.panics.store(true, Ordering::SeqCst);
    }

    /// Submissions wait from now on.
    pub(super) fn hold(&self) {
        self.held.send_replace(true);
    }

    pub(super) fn let_go(&self) {
        self.held.send_replace(false);
    }

    pub(super) async fn until_submitted(&self, count: usize) {
        while self.submissions() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(super) fn view(state: TxnState) -> Box<View> {
    Box::new(View {
        guarantee: Some("atomic"),
        took_ms: Some(1.5),
        started_at: "2026-11-21T00:00:00Z".to_owned(),
        ..View::of(ID.to_owned(), state)
    })
}

#[async_trait]
impl Api for Fake {
    async fn submit(&self, request: TxnRequest, key: Option<KeyNote>) -> Answer {
        *self.last.lock().unwrap() = Some((request, key));
        self.submissions.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics.swap(false, Ordering::SeqCst), "told to panic");
        let mut held = self.held.subscribe();
        held.wait_for(|held| !held).await.unwrap();
        self.answer.lock().unwrap().take().unwrap_or_else(|| Answer::View(view(TxnState::Committed)))
    }

    async fn submit_async(&self, request: TxnRequest, key: Option<KeyNote>) -> Result<Accepted, Problem> {
        *self.last.lock().unwrap() = Some((request, key));
        Ok(Accepted::Running(ID.parse().unwrap()))
    }

    async fn open_job(&self, wish: JobWish) -> Result<(Box<View>, bool), Problem> {
        let is_new = self.submissions.fetch_add(1, Ordering::SeqCst) == 0;
        Ok((Box::new(View { name: Some(wish.name), ..*view(TxnState::Active) }), is_new))
    }

    async fn submit_chunk(&self, request: TxnRequest, wish: ChunkWish) -> Answer {
        *self.last.lock().unwrap() = Some((request, None));
        Answer::View(Box::new(View {
            parent: Some(wish.parent),
            chunk: Some(wish.number),
            ..*view(TxnState::Committed)
        }))
    }

    fn is_job(&self, what: &Find) -> bool {
        matches!(what, Find::Name(name) if name.starts_with("job-"))
    }

    async fn end_job(&self, what: &Find, verdict: JobVerdict, actor: &Actor) -> Result<View, Problem> {
        self.found.lock().unwrap().push(format!("{what:?} {verdict:?} {actor:?}"));
        Ok(*view(if verdict == JobVerdict::Commit { TxnState::Committed } else { TxnState::Compensating }))
    }

    async fn find(&self, what: &Find) -> Result<View, Problem> {
        match what {
            Find::Id(id) if id.to_string() == ID => self.found.lock().unwrap().push("Id".to_owned()),
            Find::Id(id) => return Err(Problem::new(Code::NotFound, format!("nobody knows {id}"))),
            other => self.found.lock().unwrap().push(format!("{other:?}")),
        }
        Ok(*view(TxnState::Committed))
    }

    async fn list(&self, filter: &ListFilter) -> Result<Page, Problem> {
        *self.filter.lock().unwrap() = filter.clone();
        Ok(Page { transactions: vec![*view(TxnState::Active)], next_cursor: None })
    }

    fn store_kind(&self, name: &str) -> Option<&'static str> {
        (name == "pg").then_some("postgres")
    }

    fn status(&self) -> Value {
        serde_json::json!({"stores": {}})
    }

    fn is_ready(&self) -> bool {
        true
    }
}

impl Events for Fake {
    fn follow(&self, wish: FollowWish) -> Result<Follower, Problem> {
        self.journal.follow(wish.only, Arc::new(|_| None), wish.after)
    }
}

/// Notes what it was asked among what it was asked to find.
#[async_trait]
impl Conversing for Fake {
    async fn open(&self, opening: Opening, _: Option<KeyNote>) -> Result<Opened, Problem> {
        *self.last.lock().unwrap() = Some((opening.request, None));
        Ok(Opened::New(view(TxnState::Active)))
    }

    async fn operate(&self, what: &Find, operations: Vec<Operation>, _: &Actor) -> Result<View, Problem> {
        self.found.lock().unwrap().push(format!("{what:?} operations {}", operations.len()));
        Ok(*view(TxnState::Active))
    }

    async fn prepare(&self, what: &Find, wish: PrepareWish, _: &Actor) -> Result<View, Problem> {
        self.found.lock().unwrap().push(format!("{what:?} prepare {:?} {}", wish.ttl, wish.on_expiry.as_str()));
        Ok(*view(TxnState::Prepared))
    }

    async fn end(
        &self,
        what: &Find,
        outcome: Outcome,
        wait: Option<WaitFor>,
        actor: &Actor,
    ) -> Result<Answer, Problem> {
        self.found.lock().unwrap().push(format!("{what:?} {} {wait:?} {actor:?}", outcome.as_str()));
        Ok(self.answer.lock().unwrap().take().unwrap_or_else(|| Answer::View(view(TxnState::Committed))))
    }
}

#[async_trait]
impl Operator for Fake {
    async fn resolve(&self, what: &Find, wish: HandWish) -> Result<View, Problem> {
        self.by_hand.lock().unwrap().push(format!("{} {} {what:?}", wish.who, wish.verb.as_str()));
        match wish.verb {
            Verb::Rollback => {
                Err(Problem::new(Code::WrongState, "decided").of(ID.parse().unwrap(), TxnState::Committed))
            }
            _ => self.find(what).await,
        }
    }

    async fn explain(&self, what: &Find) -> Result<Explanation, Problem> {
        let view = self.find(what).await?;
        Ok(Explanation {
            transaction: view.id,
            name: None,
            state: view.state,
            summary: vec!["It is so.".to_owned()],
            decider: None,
            promises: Vec::new(),
            waits_for: Vec::new(),
            ends_when: "It has ended.".to_owned(),
            operator: Vec::new(),
            setbacks: Vec::new(),
            skipped: Vec::new(),
        })
    }

    async fn orphans(&self) -> Result<OrphanList, Problem> {
        Ok(OrphanList::default())
    }

    async fn resolve_orphan(&self, wish: OrphanWish) -> Result<OrphanResolved, Problem> {
        self.by_hand.lock().unwrap().push(format!("{} {:?} {} in {}", wish.who, wish.outcome, wish.gid, wish.store));
        Err(Problem::new(Code::WrongState, "its log may live"))
    }

    fn lease_holder(&self, id: &str) -> Option<Arc<str>> {
        (id == "anns").then(|| "ann".into())
    }

    async fn note(&self, line: &Line) -> Result<(), Problem> {
        self.noted.lock().unwrap().push(serde_json::to_value(line).unwrap());
        if self.deaf.load(Ordering::SeqCst) { Err(Problem::new(Code::JournalUnavailable, "no ink")) } else { Ok(()) }
    }

    async fn note_stranger(&self, act: &Act, problem: &Problem) -> Result<(), Problem> {
        self.note(&Line::answered(act, audit::Outcome::Refused, None, Some(problem.code.as_str()))).await
    }
}

#[async_trait]
impl Locks for Fake {
    async fn lease(&self, _: LeaseWish) -> Result<LeaseView, Problem> {
        Err(Problem::new(Code::LockTimeout, "never here"))
    }

    fn renew_lease(&self, _: &str, _: Option<Duration>, _: &Actor) -> Result<LeaseView, Problem> {
        Err(Problem::new(Code::NotFound, "never here"))
    }

    fn release_lease(&self, _: &str, _: &Actor) -> Result<(), Problem> {
        Err(Problem::new(Code::NotFound, "never here"))
    }

    fn locks(&self, _: usize) -> Result<Vec<KeyView>, Problem> {
        Ok(Vec::new())
    }

    async fn wait_for(&self) -> Result<WaitForView, Problem> {
        Ok(WaitForView { nodes: Vec::new(), edges: Vec::new() })
    }

    fn deadlocks(&self) -> Result<Vec<DeadlockView>, Problem> {
        Ok(Vec::new())
    }
}
