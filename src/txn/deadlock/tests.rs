//! The detector over two small stores with locks of their own: what it finds and breaks, whom it spares, and that it
//! asks nobody anything while nobody waits for long.

mod scripted;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use outrigger_wal::Options;
use serde_json::json;

use self::scripted::{Handle, Scripted};
use super::*;
use crate::journal::Journal;
use crate::lock::{Limits, LockManager};
use crate::metrics::Metrics;
use crate::model::reference::Template;
use crate::model::request::{
    Action, DeclaredLock, Expect, Isolation, Operation, PatternWish, RetryPolicy, TxnRequest, WaitFor,
};
use crate::model::trace::TraceId;
use crate::model::view::{Answer, View};
use crate::txn::{Configured, Coordinator, Makings, Retention, Settings};

const TIMEOUT: Duration = Duration::from_millis(40);

struct House {
    coordinator: Coordinator,
    a: Arc<Scripted>,
    b: Arc<Scripted>,
    _dir: tempfile::TempDir,
}

impl House {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 1 << 20, ..Options::default() };
        let (journal, opened) = Journal::open(dir.path(), options, 10).unwrap();
        let (a, b) = (Scripted::new("a"), Scripted::new("b"));
        let configured = |store: &Arc<Scripted>| Configured { store: Arc::new(Handle(store.clone())), init: false };
        let settings = Settings {
            lock_wait: Duration::from_secs(10),
            deadlock_timeout: TIMEOUT,
            max_open: 100,
            retention: Retention::default(),
            marker_grace: Duration::from_secs(60),
            key_ttl: Duration::from_secs(60),
            sweep_every: Duration::from_secs(60),
        };
        let audit = crate::config::Audit { file_bytes: 1 << 20, keep: 1, store: None };
        let coordinator = Coordinator::start(Makings {
            audit: crate::audit::Audit::new(std::path::Path::new("/nonexistent"), &audit, Metrics::new(&[])),
            journal,
            opened,
            stores: vec![configured(&a), configured(&b)],
            locks: LockManager::new(Limits { max_keys: 1000, max_keys_per_txn: 100 }),
            metrics: Metrics::new(&["a".into(), "b".into()]),
            settings,
            since: Instant::now(),
        });
        while !coordinator.is_ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self { coordinator, a, b, _dir: dir }
    }

    /// Runs operations `store:key`, each after the one before it, under declared locks.
    fn run(&self, wish: Wish) -> tokio::task::JoinHandle<Answer> {
        let coordinator = self.coordinator.clone();
        tokio::spawn(async move { coordinator.submit(wish.request(), None).await })
    }

    fn shut(&self, shut: bool) {
        [&self.a, &self.b].iter().for_each(|store| store.inside.send_modify(|inside| inside.shut = shut));
    }

    /// Starts all of them so that each holds its first lock before any asks for its second.
    async fn meet(&self, wishes: Vec<Wish>) -> Vec<tokio::task::JoinHandle<Answer>> {
        self.shut(true);
        let held = || self.a.inside.borrow().held.len() + self.b.inside.borrow().held.len();
        let mut running = Vec::new();
        for wish in wishes {
            running.push(self.run(wish));
            while held() < running.len() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        self.shut(false);
        running
    }

    fn asked(&self) -> usize {
        self.a.asked.load(Ordering::SeqCst) + self.b.asked.load(Ordering::SeqCst)
    }
}

#[derive(Clone, Default)]
struct Wish {
    steps: Vec<&'static str>,
    locks: Vec<&'static str>,
    priority: i32,
    attempts: u32,
}

fn wish(steps: &[&'static str]) -> Wish {
    Wish { steps: steps.to_vec(), attempts: 1, ..Wish::default() }
}

impl Wish {
    fn request(&self) -> TxnRequest {
        let operation = |(at, step): (usize, &&str)| {
            let (store, key) = step.split_once(':').unwrap();
            let before = if at == 0 { json!([]) } else { json!([{"$ref": (at - 1).to_string()}]) };
            Operation {
                id: at.to_string(),
                store: store.into(),
                reads: true,
                action: Action::Sql { text: key.to_owned(), params: Template::parse(before, "").unwrap() },
                expect: Expect::default(),
                pointer: format!("/operations/{at}"),
            }
        };
        TxnRequest {
            name: None,
            pattern: PatternWish::Auto,
            isolation: Isolation::ReadCommitted,
            timeout: Duration::from_secs(30),
            priority: self.priority,
            retry: RetryPolicy { max_attempts: self.attempts, ..RetryPolicy::NEVER },
            locks: self.locks.iter().map(|key| DeclaredLock { key: (*key).to_owned(), exclusive: true }).collect(),
            wait: WaitFor::Applied,
            operations: self.steps.iter().enumerate().map(operation).collect(),
            trace: TraceId::fresh(),
        }
    }
}

fn committed(answer: Answer) -> Box<View> {
    match answer {
        Answer::View(view) if view.state.as_str() == "committed" => view,
        other => panic!("{other:?}"),
    }
}

fn refused(answer: Answer) -> Box<Problem> {
    match answer {
        Answer::Problem(problem) => problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_circle_through_two_stores_is_broken() {
    let house = House::new().await;
    let mut running = house.meet(vec![wish(&["a:x", "b:y"]), wish(&["b:y", "a:x"])]).await;
    let problem = refused(running.remove(1).await.unwrap());
    assert_eq!((problem.code, problem.cycle.len()), (Code::Deadlock, 2), "{problem:?}");
    let sources: BTreeSet<_> = problem.cycle.iter().map(|edge| edge.source.to_string()).collect();
    assert_eq!(sources, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    committed(running.remove(0).await.unwrap());
    let past = house.coordinator.deadlocks();
    assert_eq!((past.len(), past[0].source, past[0].scores.len()), (1, "cross", 2));
    assert_eq!(past[0].victim, problem.transaction.map(|id| id.to_string()), "the younger one");
    assert!(past[0].broken_after_ms.is_some());
    assert!(house.coordinator.wait_for().await.edges.is_empty());
}

#[tokio::test]
async fn a_circle_through_our_table_and_a_store_is_broken() {
    let house = House::new().await;
    house.a.inside.send_modify(|inside| inside.shut = true);
    // Holds our `k` and the store's `z`, and will wait for `x` in the store.
    let first = house.run(Wish { locks: vec!["k"], ..wish(&["a:z", "a:x"]) });
    while house.a.inside.borrow().held.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Waits for `k`; that it holds `x` is a word of the test's, since nobody takes a lock in a store before ours.
    let second = house.run(Wish { locks: vec!["k"], ..wish(&["a:w"]) });
    while house.coordinator.core.locks.waiting() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let waiter = house.coordinator.core.registry.open().into_iter().max_by_key(|entry| entry.id).unwrap().run();
    house.a.inside.send_modify(|inside| {
        inside.held.insert("x".to_owned(), waiter);
        inside.shut = false;
    });
    let problem = refused(second.await.unwrap());
    assert_eq!((problem.code, problem.cycle.len()), (Code::Deadlock, 2), "{problem:?}");
    let sources: BTreeSet<_> = problem.cycle.iter().map(|edge| edge.source.to_string()).collect();
    assert_eq!(sources, BTreeSet::from(["a".to_owned(), "locks".to_owned()]));
    house.a.release(waiter);
    committed(first.await.unwrap());
    assert_eq!(house.coordinator.deadlocks()[0].source, "cross");
}

#[tokio::test]
async fn three_in_a_circle_cost_one_victim_and_the_others_commit() {
    let house = House::new().await;
    let all = [wish(&["a:x", "b:y"]), wish(&["b:y", "a:z"]), wish(&["a:z", "a:x"])];
    let running = house.meet(all.to_vec()).await;
    let mut victims = 0;
    for run in running {
        match run.await.unwrap() {
            Answer::Problem(problem) => {
                assert_eq!((problem.code, problem.cycle.len()), (Code::Deadlock, 3));
                victims += 1;
            }
            other => drop(committed(other)),
        }
    }
    assert_eq!(victims, 1);
}

#[tokio::test]
async fn priority_spares_and_a_retry_runs_the_victim_again() {
    let house = House::new().await;
    // The younger one would lose, were it not for its priority.
    let wishes = vec![Wish { attempts: 3, ..wish(&["a:x", "b:y"]) }, Wish { priority: 1, ..wish(&["b:y", "a:x"]) }];
    let mut running = house.meet(wishes).await;
    committed(running.remove(1).await.unwrap());
    let view = committed(running.remove(0).await.unwrap());
    assert_eq!((view.attempts, view.retried_for), (2, vec!["deadlock"]));
    let past = house.coordinator.deadlocks();
    assert_eq!((past.len(), &past[0].victim), (1, &Some(view.id)));
    assert_eq!(past[0].scores.iter().map(|score| score.score).collect::<Vec<_>>(), [10, 110]);
}

#[tokio::test]
async fn somebody_elses_session_is_never_the_victim() {
    let house = House::new().await;
    house.a.inside.send_modify(|inside| inside.foreign = Some(("theirs".to_owned(), "ours".to_owned())));
    let problem = refused(house.run(wish(&["a:ours", "a:theirs"])).await.unwrap());
    assert_eq!(problem.code, Code::Deadlock);
    assert!(problem.cycle.iter().any(|edge| edge.waiter.to_string() == "psql of alice"), "{problem:?}");
    assert_eq!(house.coordinator.deadlocks()[0].scores.len(), 1, "only ours is scored");
}

#[tokio::test]
async fn a_wait_that_is_not_the_same_at_the_second_look_is_no_deadlock() {
    let house = House::new().await;
    house.a.inside.send_modify(|inside| inside.restless = true);
    let running = house.meet(vec![wish(&["a:x", "b:y"]), wish(&["b:y", "a:x"])]).await;
    while house.asked() < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(house.coordinator.deadlocks().is_empty(), "a phantom was believed");
    house.a.inside.send_modify(|inside| inside.restless = false);
    let mut refused = 0;
    for run in running {
        refused += usize::from(matches!(run.await.unwrap(), Answer::Problem(_)));
    }
    assert_eq!(refused, 1);
}

#[tokio::test]
async fn a_circle_in_which_nobody_of_ours_can_give_way_is_said_once_and_left() {
    let house = House::new().await;
    house.shut(true);
    let running = [house.run(wish(&["a:x", "b:y"])), house.run(wish(&["b:y", "a:x"]))];
    while house.a.inside.borrow().held.is_empty() || house.b.inside.borrow().held.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for entry in house.coordinator.core.registry.open() {
        entry.beyond_recall().unwrap();
    }
    house.shut(false);
    while house.asked() < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let past = house.coordinator.deadlocks();
    assert_eq!((past.len(), &past[0].victim, past[0].broken_after_ms), (1, &None, None));
    let shown = house.coordinator.wait_for().await;
    assert_eq!((shown.nodes.len(), shown.edges.len()), (2, 2));
    assert!(shown.nodes.iter().all(|node| node.state == "active"));
    running.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn nobody_is_asked_anything_while_nobody_waits_for_long() {
    let house = House::new().await;
    for _ in 0..20 {
        committed(house.run(wish(&["a:x", "b:y"])).await.unwrap());
    }
    tokio::time::sleep(3 * TIMEOUT).await;
    assert_eq!(house.asked(), 0);
    assert_eq!(house.coordinator.core.detector.flights.due(TIMEOUT, None), Due::Never);
    // A long wait that is no circle: asked while it lasts, and not a moment longer.
    house.a.inside.send_modify(|inside| inside.foreign = Some(("x".to_owned(), "nothing".to_owned())));
    let waits = house.run(wish(&["a:x"]));
    while house.asked() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    house.a.inside.send_modify(|inside| inside.foreign = None);
    committed(waits.await.unwrap());
    tokio::time::sleep(TIMEOUT).await;
    let asked = house.asked();
    tokio::time::sleep(5 * TIMEOUT).await;
    assert_eq!(house.asked(), asked);
    assert!(house.coordinator.deadlocks().is_empty());
}

#[test]
fn circles_are_found_in_a_long_chain_without_recursion() {
    let edge = |from: usize, to: usize| WaitEdge {
        waiter: Party::Foreign(from.to_string().into()),
        holder: Party::Foreign(to.to_string().into()),
        source: Source::Locks,
        resource: String::new(),
        epoch: 1,
        since_us: 0,
    };
    let work = move || {
        let mut edges: Vec<_> = (0..20_000).map(|n| edge(n, n + 1)).collect();
        assert!(cycles::find(&edges).is_empty());
        edges.extend([edge(20_000, 0), edge(3, 2), edge(7, 7)]);
        let found = cycles::find(&edges);
        assert_eq!(found.len(), 1, "one of the knot");
        assert_eq!(found[0].first().map(|edge| &edge.waiter), found[0].last().map(|edge| &edge.holder));
        edges.truncate(10);
        edges.push(edge(5, 4));
        let found = cycles::find(&edges);
        assert_eq!((found.len(), found[0].len()), (1, 2));
        assert_eq!(cycles::seen_twice(&edges[..3], edges.clone()).len(), 3);
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}
