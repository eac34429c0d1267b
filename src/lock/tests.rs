//! The table against a brute-force reading of its rules, and the shell under many tasks that give up at random.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::manager::LockParty;
use super::table::{Asked, Table, Ticket};
use super::*;
use crate::model::ids::TxnId;

fn txn(n: u8) -> TxnId {
    TxnId(uuid::Uuid::from_u128(u128::from(n)))
}

fn free(n: u8) -> LockKey {
    LockKey::Free(n.to_string())
}

fn claim(n: u8, mode: Mode) -> Claim {
    Claim { key: free(n), mode }
}

#[test]
fn modes_form_a_lattice_that_agrees_with_compatibility() {
    for a in Mode::ALL {
        assert_eq!(a.join(a), a);
        for b in Mode::ALL {
            assert_eq!(a.is_compatible(b), b.is_compatible(a), "{a:?} {b:?}");
            assert_eq!(a.join(b), b.join(a), "{a:?} {b:?}");
            for c in Mode::ALL {
                assert_eq!(a.join(b).join(c), a.join(b.join(c)), "{a:?} {b:?} {c:?}");
                let both = a.is_compatible(c) && b.is_compatible(c);
                assert!(both || !a.join(b).is_compatible(c), "{a:?}+{b:?} lets {c:?} in, which one of them forbids");
            }
        }
    }
    assert!(Mode::Update.is_compatible(Mode::Shared) && !Mode::Update.is_compatible(Mode::Update));
    assert!(Mode::IntentExclusive.is_compatible(Mode::IntentExclusive));
}

#[derive(Clone, Debug)]
enum Step {
    Ask(u8, u8, Mode),
    GiveUp(usize),
    Release(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5u8, 0..3u8, prop::sample::select(Mode::ALL.to_vec())).prop_map(|(t, k, m)| Step::Ask(t, k, m)),
        2 => any::<usize>().prop_map(Step::GiveUp),
        2 => (0..5u8).prop_map(Step::Release),
    ]
}

/// What the test knows by itself: who asked for what and has been told what.
#[derive(Default)]
struct Model {
    held: HashMap<(TxnId, LockKey), Mode>,
    /// In the order of arrival.
    waits: Vec<(Ticket, TxnId, Mode)>,
}

impl Model {
    fn grant(&mut self, txn: TxnId, key: &LockKey, mode: Mode) {
        let held = self.held.entry((txn, key.clone())).or_insert(mode);
        *held = held.join(mode);
    }

    fn told(&mut self, granted: &[u64]) {
        for number in granted {
            let at = self.waits.iter().position(|(t, ..)| t.number == *number).expect("granted what nobody waits for");
            let (ticket, txn, mode) = self.waits.remove(at);
            let upgrade = self.held.contains_key(&(txn, (*ticket.key).clone()));
            let overtaken = self.waits[..at]
                .iter()
                .any(|(t, other, _)| t.key == ticket.key && !self.held.contains_key(&(*other, (*ticket.key).clone())));
            assert!(upgrade || !overtaken, "{ticket:?} overtook an earlier newcomer");
            assert!(upgrade || !self.upgrade_waits(&ticket.key), "{ticket:?} overtook an upgrade");
            self.grant(txn, &ticket.key, mode);
        }
    }

    fn allows(&self, key: &LockKey, txn: TxnId, mode: Mode) -> bool {
        self.held.iter().all(|((t, k), held)| k != key || *t == txn || held.is_compatible(mode))
    }

    fn upgrade_waits(&self, key: &LockKey) -> bool {
        self.waits.iter().any(|(ticket, txn, _)| *ticket.key == *key && self.held.contains_key(&(*txn, key.clone())))
    }

    fn check(&self, table: &Table) {
        for ((txn, key), mode) in &self.held {
            assert!(self.allows(key, *txn, *mode), "{key} is held by two that exclude each other");
        }
        for (at, (ticket, txn, mode)) in self.waits.iter().enumerate() {
            let key = &*ticket.key;
            let held = self.held.get(&(*txn, key.clone()));
            let blocked = !self.allows(key, *txn, held.map_or(*mode, |h| h.join(*mode)));
            let stands_behind = || self.waits[..at].iter().any(|(t, ..)| t.key == ticket.key);
            let reason = blocked || (held.is_none() && (self.upgrade_waits(key) || stands_behind()));
            assert!(reason, "{ticket:?} of {txn} waits for nothing");
        }
        assert_eq!((table.held(), table.waiting()), (self.held.len(), self.waits.len()));
    }

    fn forget(&mut self, txn: TxnId, ended: &[u64]) {
        let mine: Vec<_> = self.waits.iter().filter(|(_, t, _)| *t == txn).map(|(t, ..)| t.number).collect();
        assert_eq!(mine, ended, "release_all must end exactly the waits of its transaction");
        self.waits.retain(|(_, t, _)| *t != txn);
        self.held.retain(|(t, _), _| *t != txn);
    }
}

fn play(steps: Vec<Step>) {
    let (mut table, mut model) = (Table::default(), Model::default());
    let release = |table: &mut Table, model: &mut Model, txn: TxnId| {
        let (mut granted, mut ended) = (Vec::new(), Vec::new());
        table.release_all(txn, &mut granted, &mut ended);
        model.forget(txn, &ended);
        model.told(&granted);
    };
    for step in steps {
        match step {
            Step::Ask(t, k, mode) => match table.request(txn(t), Arc::new(free(k)), mode) {
                Asked::Granted => model.grant(txn(t), &free(k), mode),
                Asked::Waits(ticket) => model.waits.push((ticket, txn(t), mode)),
            },
            Step::GiveUp(at) if !model.waits.is_empty() => {
                let (ticket, ..) = model.waits.remove(at % model.waits.len());
                let mut granted = Vec::new();
                assert!(table.cancel(&ticket, &mut granted));
                assert!(!table.cancel(&ticket, &mut Vec::new()), "cancelled twice");
                model.told(&granted);
            }
            Step::GiveUp(_) => {}
            Step::Release(t) => release(&mut table, &mut model, txn(t)),
        }
        model.check(&table);
    }
    for t in 0..5 {
        release(&mut table, &mut model, txn(t));
        model.check(&table);
    }
    assert!(model.waits.is_empty() && table.list(10).is_empty(), "something is left behind");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn nobody_excluded_holds_and_nobody_waits_for_nothing(steps in prop::collection::vec(step(), 1..60)) {
        play(steps);
    }
}

fn manager() -> LockManager {
    LockManager::new(Limits { max_keys: 10_000 })
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[tokio::test]
async fn a_wait_ends_when_the_holder_lets_go() {
    let locks = manager();
    locks.acquire_all(txn(1), vec![claim(1, Mode::Exclusive)], soon()).await.unwrap();
    let waiter = tokio::spawn({
        let locks = locks.clone();
        async move { locks.acquire_all(txn(2), vec![claim(1, Mode::Shared), claim(0, Mode::Shared)], soon()).await }
    });
    while locks.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let shown = locks.snapshot(10);
    assert_eq!((shown[0].key.as_str(), shown[0].mode), ("1", Mode::Exclusive), "{shown:?}");
    assert_eq!(shown[0].waiters, vec![LockParty { transaction: txn(2), mode: Mode::Shared }]);
    assert_eq!(shown[1].key, "0", "taken before it waited: {shown:?}");
    locks.release_all(txn(1));
    waiter.await.unwrap().unwrap();
    assert_eq!((locks.held(), locks.waiting()), (2, 0));
    locks.release_all(txn(2));
    assert!(locks.snapshot(10).is_empty());
}

#[tokio::test]
async fn time_runs_out_and_what_was_taken_stays() {
    let locks = manager();
    locks.acquire_all(txn(1), vec![claim(5, Mode::Exclusive)], soon()).await.unwrap();
    let until = Instant::now() + Duration::from_millis(30);
    let wish = vec![claim(5, Mode::Update), claim(3, Mode::Exclusive)];
    let refused = locks.acquire_all(txn(2), wish, until).await.unwrap_err();
    assert_eq!((&refused.key, refused.too_many), (&free(5), false));
    assert!(refused.waited >= Duration::from_millis(30));
    assert_eq!((locks.held(), locks.waiting()), (2, 0), "key 3 stays held");
    locks.release_all(txn(2));
    locks.release_all(txn(1));
    assert_eq!(locks.held(), 0);
}

#[tokio::test]
async fn the_table_is_bounded_and_recovery_is_not() {
    let locks = LockManager::new(Limits { max_keys: 2 });
    locks.retake(txn(1), (0..4).map(|n| claim(n, Mode::Exclusive)).collect());
    locks.retake(txn(2), vec![claim(0, Mode::Exclusive)]);
    assert_eq!(locks.held(), 5, "what was held before the crash is held again, whoever else holds it");
    let refused = locks.acquire_all(txn(3), vec![claim(9, Mode::Shared)], soon()).await.unwrap_err();
    assert!(refused.too_many);
    locks.release_all(txn(1));
    locks.acquire_all(txn(3), vec![claim(9, Mode::Shared)], soon()).await.unwrap();
}

#[tokio::test]
async fn a_dropped_wait_leaves_the_queue_and_lets_the_next_one_in() {
    let locks = manager();
    locks.acquire_all(txn(1), vec![claim(1, Mode::Shared)], soon()).await.unwrap();
    let wish = |t: u8, mode| {
        let locks = locks.clone();
        tokio::spawn(async move { locks.acquire_all(txn(t), vec![claim(1, mode)], soon()).await })
    };
    let writer = wish(2, Mode::Exclusive);
    while locks.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let reader = wish(3, Mode::Shared);
    while locks.waiting() == 1 {
        tokio::task::yield_now().await;
    }
    writer.abort();
    reader.await.unwrap().unwrap();
    assert_eq!((locks.held(), locks.waiting()), (2, 0), "the reader stood behind the writer that went away");
}

#[tokio::test]
async fn releasing_ends_a_wait_of_ones_own() {
    let locks = manager();
    locks.acquire_all(txn(1), vec![claim(1, Mode::Exclusive)], soon()).await.unwrap();
    let waiter = tokio::spawn({
        let locks = locks.clone();
        async move { locks.acquire_all(txn(2), vec![claim(1, Mode::Shared)], soon()).await }
    });
    while locks.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    locks.release_all(txn(2));
    assert_eq!(waiter.await.unwrap().unwrap_err().key, free(1));
    assert_eq!((locks.held(), locks.waiting()), (1, 0));
}

#[tokio::test]
async fn equal_claims_are_joined() {
    let locks = manager();
    let twice = vec![claim(1, Mode::Shared), claim(1, Mode::IntentExclusive)];
    locks.acquire_all(txn(1), twice, soon()).await.unwrap();
    assert_eq!(locks.snapshot(1)[0].mode, Mode::Exclusive);
    assert_eq!(locks.held(), 1);
}

/// Readers count up, a writer counts far down: seen from inside a lock the sum tells who else is in.
async fn one_client(seed: u64, locks: LockManager, inside: Arc<Vec<AtomicI64>>) -> u32 {
    use rand::{RngExt, SeedableRng};
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let mut served = 0;
    for round in 0..150u32 {
        let me = TxnId::fresh();
        let mut claims: Vec<(usize, bool)> = (0..3).map(|_| (rng.random_range(0..4), rng.random_bool(0.5))).collect();
        claims.sort_unstable();
        claims.dedup_by_key(|(key, _)| *key);
        let mode = |writes| if writes { Mode::Exclusive } else { Mode::Shared };
        let wish = claims.iter().map(|(key, writes)| claim(u8::try_from(*key).unwrap(), mode(*writes))).collect();
        let patience = Duration::from_micros(rng.random_range(0..400));
        let take = locks.acquire_all(me, wish, soon());
        let got = if round % 2 == 0 {
            take.await.expect("twenty seconds are enough for everybody");
            true
        } else {
            tokio::time::timeout(patience, take).await.is_ok_and(|answer| answer.is_ok())
        };
        if got {
            served += 1;
            for (key, writes) in &claims {
                let before = inside[*key].fetch_add(if *writes { -1000 } else { 1 }, Ordering::SeqCst);
                assert!(
                    if *writes { before == 0 } else { before >= 0 },
                    "two that exclude each other are in: {before}"
                );
            }
            tokio::task::yield_now().await;
            for (key, writes) in &claims {
                inside[*key].fetch_sub(if *writes { -1000 } else { 1 }, Ordering::SeqCst);
            }
        }
        locks.release_all(me);
    }
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_clients_who_give_up_at_random_lose_no_wake_up() {
    let locks = manager();
    let inside: Arc<Vec<AtomicI64>> = Arc::new((0..4).map(|_| AtomicI64::new(0)).collect());
    let clients: Vec<_> = (0..16).map(|seed| tokio::spawn(one_client(seed, locks.clone(), inside.clone()))).collect();
    for client in clients {
        let served = client.await.unwrap();
        assert!(served >= 75, "every patient round is served: {served}");
    }
    assert_eq!((locks.held(), locks.waiting()), (0, 0));
    assert!(locks.snapshot(10).is_empty());
}
