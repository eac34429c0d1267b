//! The modes, the victims, and the async shell under many tasks that give up at random.

mod graph;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::model::ids::TxnId;

fn txn(n: u128) -> TxnId {
    TxnId(uuid::Uuid::from_u128(n))
}

const NEW: Standing = Standing { began_us: 0, work: 0, priority: 0 };

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

fn manager() -> LockManager {
    LockManager::new(Limits { max_keys: 10_000, max_keys_per_txn: 100 })
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[tokio::test]
async fn a_wait_ends_when_the_holder_lets_go() {
    let locks = manager();
    locks.acquire_all(txn(1), NEW, vec![claim(1, Mode::Exclusive)], soon()).await.unwrap();
    let waiter = tokio::spawn({
        let locks = locks.clone();
        async move { locks.acquire_all(txn(2), NEW, vec![claim(1, Mode::Shared), claim(0, Mode::Shared)], soon()).await }
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
    locks.acquire_all(txn(1), NEW, vec![claim(5, Mode::Exclusive)], soon()).await.unwrap();
    let until = Instant::now() + Duration::from_millis(30);
    let wish = vec![claim(5, Mode::Update), claim(3, Mode::Exclusive)];
    let refused = locks.acquire_all(txn(2), NEW, wish, until).await.unwrap_err();
    assert_eq!((&refused.key, &refused.why), (&free(5), &WhyRefused::Timeout));
    assert!(refused.waited >= Duration::from_millis(30));
    assert_eq!((locks.held(), locks.waiting()), (2, 0), "key 3 stays held");
    locks.release_all(txn(2));
    locks.release_all(txn(1));
    assert_eq!(locks.held(), 0);
}

#[tokio::test]
async fn the_table_is_bounded_and_recovery_is_not() {
    let locks = LockManager::new(Limits { max_keys: 2, max_keys_per_txn: 100 });
    locks.retake(txn(1), (0..4).map(|n| claim(n, Mode::Exclusive)).collect());
    locks.retake(txn(2), vec![claim(0, Mode::Exclusive)]);
    assert_eq!(locks.held(), 5, "what was held before the crash is held again, whoever else holds it");
    let refused = locks.acquire_all(txn(3), NEW, vec![claim(9, Mode::Shared)], soon()).await.unwrap_err();
    assert_eq!(refused.why, WhyRefused::TableFull);
    locks.release_all(txn(1));
    locks.acquire_all(txn(3), NEW, vec![claim(9, Mode::Shared)], soon()).await.unwrap();
}

#[tokio::test]
async fn one_transaction_may_not_fill_the_table() {
    let locks = LockManager::new(Limits { max_keys: 1000, max_keys_per_txn: 3 });
    let wish = |keys: std::ops::Range<u8>| keys.map(|n| claim(n, Mode::Shared)).collect::<Vec<_>>();
    locks.acquire_all(txn(1), NEW, wish(0..2), soon()).await.unwrap();
    let refused = locks.acquire_all(txn(1), NEW, wish(2..4), soon()).await.unwrap_err();
    assert_eq!((refused.why, locks.held()), (WhyRefused::TooMany(3), 2));
    locks.acquire_all(txn(2), NEW, wish(2..4), soon()).await.unwrap();
}

#[tokio::test]
async fn a_dropped_wait_leaves_the_queue_and_lets_the_next_one_in() {
    let locks = manager();
    locks.acquire_all(txn(1), NEW, vec![claim(1, Mode::Shared)], soon()).await.unwrap();
    let wish = |t: u128, mode| {
        let locks = locks.clone();
        tokio::spawn(async move { locks.acquire_all(txn(t), NEW, vec![claim(1, mode)], soon()).await })
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
    locks.acquire_all(txn(1), NEW, vec![claim(1, Mode::Exclusive)], soon()).await.unwrap();
    let waiter = tokio::spawn({
        let locks = locks.clone();
        async move { locks.acquire_all(txn(2), NEW, vec![claim(1, Mode::Shared)], soon()).await }
    });
    while locks.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    locks.release_all(txn(2));
    let refused = waiter.await.unwrap().unwrap_err();
    assert_eq!((refused.key, refused.why), (free(1), WhyRefused::Released));
    assert_eq!((locks.held(), locks.waiting()), (1, 0));
}

#[test]
fn who_has_least_to_lose_gives_way() {
    let second = 1_000_000;
    let now = 100 * second;
    let of = |age: i64, work, priority| Standing { began_us: now - age * second, work, priority };
    assert_eq!(of(7, 3, -1).score(now), 7 + 30 - 100);
    assert_eq!(
        Standing { began_us: now + 5, ..NEW }.score(now),
        0,
        "a clock that was set back makes nobody younger than new"
    );
    let victim = |members: &[Standing]| {
        let members = members.iter().enumerate().map(|(n, standing)| (txn(n as u128), *standing));
        rank(members, now)[0].transaction
    };
    assert_eq!(victim(&[of(50, 0, 0), of(3, 0, 0), of(20, 0, 0)]), txn(1), "the youngest");
    assert_eq!(victim(&[of(3, 9, 0), of(50, 1, 0)]), txn(1), "work counts more than age");
    assert_eq!(victim(&[of(3, 0, 1), of(50, 4, 0)]), txn(1), "and priority more than either");
    assert_eq!(victim(&[of(14, 0, 0), of(4, 1, 0)]), txn(1), "equal scores: the younger one");
    assert_eq!(victim(&[NEW, NEW]), txn(1), "born in the same moment: the later id");
}

#[tokio::test]
async fn a_circle_ends_at_once_and_says_who_waited_for_whom() {
    let locks = manager();
    locks.acquire_all(txn(1), NEW, vec![claim(1, Mode::Exclusive)], soon()).await.unwrap();
    locks.acquire_all(txn(2), NEW, vec![claim(2, Mode::Exclusive)], soon()).await.unwrap();
    let first = tokio::spawn({
        let locks = locks.clone();
        async move { locks.acquire_all(txn(1), NEW, vec![claim(2, Mode::Shared)], soon()).await }
    });
    while locks.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(locks.edges().len(), 1);
    let refused = locks.acquire_all(txn(2), NEW, vec![claim(1, Mode::Shared)], soon()).await.unwrap_err();
    let WhyRefused::Deadlock(deadlock) = refused.why else { panic!("{refused:?}") };
    assert_eq!((deadlock.victim, deadlock.cycle.len(), deadlock.scores.len()), (txn(2), 2, 2));
    locks.release_all(txn(2));
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn whoever_sees_more_can_refuse_a_wait_and_only_that_wait() {
    let locks = manager();
    locks.acquire_all(txn(1), NEW, vec![claim(1, Mode::Exclusive)], soon()).await.unwrap();
    let waiter = tokio::spawn({
        let locks = locks.clone();
        async move { locks.acquire_all(txn(2), NEW, vec![claim(1, Mode::Shared)], soon()).await }
    });
    while locks.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let cycle = locks.edges();
    let epoch = cycle[0].epoch;
    let deadlock = Arc::new(Deadlock { cycle, scores: Vec::new(), victim: txn(2) });
    assert!(!locks.refuse(txn(2), epoch + 1, &deadlock), "another wait");
    assert!(!locks.refuse(txn(1), epoch, &deadlock), "another's wait");
    assert!(locks.refuse(txn(2), epoch, &deadlock));
    assert_eq!(waiter.await.unwrap().unwrap_err().why, WhyRefused::Deadlock(deadlock.clone()));
    assert!(!locks.refuse(txn(2), epoch, &deadlock), "it is over");
    assert!(locks.edges().is_empty());
}

#[tokio::test]
async fn equal_claims_are_joined() {
    let locks = manager();
    let twice = vec![claim(1, Mode::Shared), claim(1, Mode::IntentExclusive)];
    locks.acquire_all(txn(1), NEW, twice, soon()).await.unwrap();
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
        let take = locks.acquire_all(me, NEW, wish, soon());
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

/// Takes keys one by one in any order, which closes circles all the time, and gives way when told to.
async fn one_careless_client(seed: u64, locks: LockManager) -> u32 {
    use rand::{RngExt, SeedableRng};
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let mut gave_way = 0;
    for round in 0..60 {
        let me = TxnId::fresh();
        let standing = Standing { began_us: round, ..NEW };
        let keys: Vec<u8> = (0..3).map(|_| rng.random_range(0..5)).collect();
        for key in keys {
            let mode = if rng.random_bool(0.5) { Mode::Exclusive } else { Mode::Shared };
            match locks.acquire_all(me, standing, vec![claim(key, mode)], soon()).await {
                Ok(()) => tokio::task::yield_now().await,
                Err(refused) => {
                    let seen = matches!(refused.why, WhyRefused::Deadlock(_));
                    assert!(seen, "{refused}: a circle that nobody saw: {:#?}", locks.snapshot(10));
                    gave_way += 1;
                    break;
                }
            }
        }
        locks.release_all(me);
    }
    gave_way
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn careless_clients_get_through_since_every_circle_is_broken() {
    let locks = manager();
    let clients: Vec<_> = (0..12).map(|seed| tokio::spawn(one_careless_client(seed, locks.clone()))).collect();
    let mut gave_way = 0;
    for client in clients {
        gave_way += client.await.unwrap();
    }
    assert!(gave_way > 0, "they never met: the test shows nothing");
    assert_eq!((locks.held(), locks.waiting()), (0, 0));
    assert!(locks.edges().is_empty());
}
