//! What a lock costs: alone, at the moment of blocking, and in the longest circle.
//!
//! `cargo bench -p locks-bench`. Goals on two cores: taken and released alone under 1 µs; blocking, with the look for a
//! circle, under 5 µs beside 1,000 waiters; a circle of 100,000 found and broken within 50 ms.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench stops where anything goes wrong")]

use std::hint::black_box;
use std::pin::Pin;
use std::time::{Duration, Instant as Clock};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use futures::FutureExt;
use futures::future::BoxFuture;
use outrigger::lock::wait_for::{Search, WaitFor};
use outrigger::lock::{Claim, Limits, LockKey, LockManager, LockRefused, Mode, Standing, WhyRefused};
use outrigger::model::ids::TxnId;
use tokio::time::Instant;

const NEW: Standing = Standing { began_us: 0, work: 0, priority: 0 };
const LIMITS: Limits = Limits { max_keys: usize::MAX, max_keys_per_txn: usize::MAX };

fn txn(n: usize) -> TxnId {
    TxnId(uuid::Uuid::from_u128(n as u128))
}

fn exclusive(n: usize) -> Vec<Claim> {
    vec![Claim { key: LockKey::Free(n.to_string()), mode: Mode::Exclusive }]
}

fn late() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

fn take(locks: &LockManager, n: usize, claims: Vec<Claim>, until: Instant) {
    locks.acquire_all(txn(n), NEW, claims, until).now_or_never().unwrap().unwrap();
}

type Wait = BoxFuture<'static, Result<(), LockRefused>>;

/// Asks, and waits.
fn block(locks: &LockManager, n: usize, claims: Vec<Claim>, until: Instant) -> Wait {
    let locks = locks.clone();
    let mut wait: Wait = Box::pin(async move { locks.acquire_all(txn(n), NEW, claims, until).await });
    assert!(Pin::new(&mut wait).now_or_never().is_none(), "it should wait");
    wait
}

fn alone(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _guard = runtime.enter();
    let locks = LockManager::new(LIMITS);
    let until = late();
    c.bench_function("take one key and release it, nobody else there", |b| {
        b.iter_batched(
            || exclusive(7),
            |claims| {
                take(&locks, 1, claims, until);
                locks.release_all(black_box(txn(1)));
            },
            BatchSize::SmallInput,
        );
    });
    // A table that is in use: 50,000 keys of other transactions.
    for n in 100..50_100 {
        take(&locks, n, exclusive(n), until);
    }
    c.bench_function("the same beside 50,000 held keys", |b| {
        b.iter_batched(
            || exclusive(7),
            |claims| {
                take(&locks, 1, claims, until);
                locks.release_all(black_box(txn(1)));
            },
            BatchSize::SmallInput,
        );
    });
}

fn blocking(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _guard = runtime.enter();
    let until = late();
    // A thousand waiters, each for the one before it.
    let locks = LockManager::new(LIMITS);
    (0..=1000).for_each(|n| take(&locks, n, exclusive(n), until));
    let _chain: Vec<Wait> = (1..=1000).map(|n| block(&locks, n, exclusive(n - 1), until)).collect();
    c.bench_function("block behind a chain of 1,000 and give up", |b| {
        b.iter_batched(|| exclusive(1000), |claims| drop(block(&locks, 2000, claims, until)), BatchSize::SmallInput);
    });
    // A thousand waiters for one key.
    let locks = LockManager::new(LIMITS);
    take(&locks, 0, exclusive(0), until);
    let _queue: Vec<Wait> = (1..=1000).map(|n| block(&locks, n, exclusive(0), until)).collect();
    c.bench_function("block as number 1,001 at one key and give up", |b| {
        b.iter_batched(|| exclusive(0), |claims| drop(block(&locks, 2000, claims, until)), BatchSize::SmallInput);
    });
    // The search alone where it must look: somebody waits for the one who blocks.
    let mut graph = WaitFor::default();
    (0..1000).for_each(|n| assert!(graph.point(n as u64, txn(n), &[txn(n + 1)])));
    c.bench_function("search a chain of 1,000 from its far end", |b| {
        b.iter(|| assert_eq!(graph.cycle_through(black_box(txn(1)), usize::MAX), Search::None));
    });
}

/// From the moment that the circle closes until its victim has heard of it.
fn longest_circle(length: usize) -> Duration {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async {
        let locks = LockManager::new(LIMITS);
        let until = late();
        (0..length).for_each(|n| take(&locks, n, exclusive(n), until));
        let mut waits: Vec<Wait> = (1..length).map(|n| block(&locks, n, exclusive(n - 1), until)).collect();
        // Among equals the youngest gives way, which is the last one of the chain.
        let victim = waits.pop().unwrap();
        let start = Clock::now();
        let last = block(&locks, 0, exclusive(length - 1), until);
        let refused = victim.await.unwrap_err();
        let took = start.elapsed();
        let WhyRefused::Deadlock(deadlock) = refused.why else { panic!("{refused}") };
        assert_eq!(deadlock.cycle.len(), length);
        drop((waits, last));
        took
    })
}

fn circles(c: &mut Criterion) {
    let mut group = c.benchmark_group("a circle of 100,000");
    group.sample_size(10);
    group.bench_function("closed, found, victim told", |b| {
        b.iter_custom(|rounds| (0..rounds).map(|_| longest_circle(100_000)).sum());
    });
    let mut graph = WaitFor::default();
    (0..100_000).for_each(|n| assert!(graph.point(n as u64, txn(n), &[txn((n + 1) % 100_000)])));
    group.bench_function("the search alone", |b| {
        b.iter(|| assert!(matches!(graph.cycle_through(black_box(txn(1)), usize::MAX), Search::Cycle(_))));
    });
    group.finish();
}

criterion_group!(benches, alone, blocking, circles);
criterion_main!(benches);
