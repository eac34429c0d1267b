//! Transfers over ten hot accounts, in two stores at once, in every order: no hang, no false victim, no coin lost.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bank::{ACCOUNTS, Bank, check_circle, edges};

/// Transfers, unless the environment says otherwise.
const ROUNDS: usize = 100;
const CLIENTS: usize = 12;

#[derive(Default)]
struct History {
    /// Which accounts a transaction moved coins between.
    accounts: Mutex<HashMap<String, [i64; 2]>>,
    attempts: Mutex<BTreeMap<u64, usize>>,
    /// By when and who: the list that the sidecar keeps is short.
    deadlocks: Mutex<BTreeMap<(String, String), Value>>,
}

fn transfer(bank: &Bank) -> ([i64; 2], Value) {
    let from = rand::random_range(1..=ACCOUNTS);
    let to = (from + rand::random_range(0..ACCOUNTS - 1)) % ACCOUNTS + 1;
    let coins = rand::random_range(1..=9i64);
    let mut accounts = [(from, -coins), (to, coins)];
    let mut in_turn = |ids: [&'static str; 2]| {
        if rand::random() {
            accounts.reverse();
        }
        [(ids[0], accounts[0]), (ids[1], accounts[1])]
    };
    // Both at once, or the one store behind the other.
    let order = rand::random_range(0..3);
    let (nodes_after, rows_after) = [(None, None), (Some("r1"), None), (None, Some("n1"))][order];
    let rows = in_turn(["r1", "r2"]).map(|(id, (account, by))| bank.row(id, account, by, 5, rows_after));
    let nodes = in_turn(["n1", "n2"]).map(|(id, (account, by))| bank.node(id, account, by, nodes_after));
    let operations: Vec<Value> =
        if order == 2 { nodes.into_iter().chain(rows).collect() } else { rows.into_iter().chain(nodes).collect() };
    let retry = json!({"max_attempts": 100, "base_delay_ms": 10, "max_delay_ms": 200});
    ([from, to], json!({"operations": operations, "timeout_ms": 60000, "retry": retry}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_over_ten_hot_accounts() {
    let rounds = std::env::var("OUTRIGGER_TRANSFERS").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
    let bank = Arc::new(Bank::open("hot").await);
    let (history, next) = (Arc::new(History::default()), Arc::new(AtomicUsize::new(0)));
    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (bank, history, next) = (bank.clone(), history.clone(), next.clone());
            tokio::spawn(async move {
                while next.fetch_add(1, Ordering::Relaxed) < rounds {
                    let (accounts, body) = transfer(&bank);
                    let reply = bank.send_all_of(body).await.unwrap();
                    reply.must_be(200, "committed");
                    let id = reply.body["id"].as_str().unwrap().to_owned();
                    history.accounts.lock().unwrap().insert(id, accounts);
                    *history.attempts.lock().unwrap().entry(reply.body["attempts"].as_u64().unwrap()).or_default() += 1;
                }
            })
        })
        .collect();
    let done = Arc::new(AtomicBool::new(false));
    let watching = {
        let (bank, history, done) = (bank.clone(), history.clone(), done.clone());
        tokio::spawn(async move {
            loop {
                let last = done.load(Ordering::Relaxed);
                for record in bank.deadlocks().await {
                    let name = |member: &str| record[member].as_str().unwrap_or_default().to_owned();
                    history.deadlocks.lock().unwrap().insert((name("at"), name("victim")), record);
                }
                if last {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
    };
    for client in clients {
        client.await.unwrap();
    }
    let took = began.elapsed();
    done.store(true, Ordering::Relaxed);
    watching.await.unwrap();
    let (mut rows, mut nodes) = (0, 0);
    for account in 1..=ACCOUNTS {
        let (row, node) = bank.balances(account);
        assert_eq!(row, node, "account {account}: the stores tell different stories");
        (rows, nodes) = (rows + row, nodes + node);
    }
    assert_eq!((rows, nodes), (0, 0), "coins were made or lost");
    verify(&history);
    report(&bank, &history, rounds, took);
}

/// Every victim's circle, held against what its members wanted: who waits for whom in a store shares an account.
fn verify(history: &History) {
    let accounts = history.accounts.lock().unwrap();
    for record in history.deadlocks.lock().unwrap().values() {
        check_circle(record);
        for edge in edges(record) {
            let of =
                |who: &str| accounts.get(edge[who].as_str().unwrap()).unwrap_or_else(|| panic!("not ours: {record:#}"));
            let (waiter, holder) = (of("waiter"), of("holder"));
            assert!(waiter.iter().any(|account| holder.contains(account)), "no reason to wait: {edge:#}");
        }
    }
}

fn report(bank: &Bank, history: &History, rounds: usize, took: Duration) {
    let deadlocks = history.deadlocks.lock().unwrap();
    let mut broken: Vec<f64> = deadlocks.values().filter_map(|record| record["broken_after_ms"].as_f64()).collect();
    broken.sort_by(f64::total_cmp);
    let mut sources: BTreeMap<Vec<&str>, usize> = BTreeMap::new();
    for record in deadlocks.values() {
        let mut names: Vec<&str> = edges(record).iter().map(|edge| edge["source"].as_str().unwrap()).collect();
        names.sort_unstable();
        names.dedup();
        *sources.entry(names).or_default() += 1;
    }
    let at = |share: f64| broken.get(((broken.len() as f64 - 1.0) * share) as usize).copied().unwrap_or_default();
    println!("{rounds} transfers by {CLIENTS} clients in {took:?}; attempts {:?}", history.attempts.lock().unwrap());
    println!("{} deadlocks by source {sources:?}", deadlocks.len());
    println!("broken after ms: p50 {} p90 {} p99 {} most {}", at(0.5), at(0.9), at(0.99), at(1.0));
    for slow in deadlocks.values().filter(|record| record["broken_after_ms"].as_f64().is_some_and(|ms| ms > 1000.0)) {
        println!("slow: {slow}");
    }
    let metrics = bank.sidecar.metrics().unwrap();
    // Every run that was run again for a deadlock was the victim of one that is counted.
    let sum = |of: &str| -> f64 {
        let lines = metrics.lines().filter(|line| line.starts_with(of));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let (counted, reruns) = (sum("outrigger_deadlocks_total{"), sum("outrigger_attempts_total{reason=\"deadlock\"}"));
    println!("{counted} deadlocks counted, {reruns} runs were run again for one");
    assert!((counted - reruns).abs() < 0.5, "a victim without a deadlock:\n{metrics}");
    let reasons: Vec<&str> = metrics.lines().filter(|line| line.starts_with("outrigger_attempts_total")).collect();
    println!("{}", reasons.join("\n"));
    // A wait that only its bound ended was a circle that nobody saw.
    let missed = reasons.iter().find(|line| line.contains("lock_timeout")).and_then(|line| line.rsplit(' ').next());
    assert!(missed.is_none_or(|count| count == "0"), "circles were missed:\n{metrics}");
}
