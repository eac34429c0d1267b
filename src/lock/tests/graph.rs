//! The graph against one that is drawn anew from the table after every step, by the plain rule; and what is done about
//! the cycles that it finds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use proptest::prelude::*;

use super::{free, txn};
use crate::lock::cycle::Deadlock;
use crate::lock::shards::{Pending, Shards, Verdict};
use crate::lock::table::Listed;
use crate::lock::wait_for::{Search, WaitFor};
use crate::lock::{LockKey, Mode, Standing};
use crate::model::ids::TxnId;
use crate::model::wait::Party;

#[derive(Clone, Debug)]
enum Step {
    Ask(u8, u8, Mode),
    GiveUp(usize),
    Release(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let modes = vec![
        Mode::IntentShared,
        Mode::IntentExclusive,
        Mode::Shared,
        Mode::Shared,
        Mode::Update,
        Mode::Exclusive,
        Mode::Exclusive,
    ];
    prop_oneof![
        10 => (0..6u8, 0..4u8, prop::sample::select(modes)).prop_map(|(t, k, m)| Step::Ask(t, k, m)),
        1 => any::<usize>().prop_map(Step::GiveUp),
        1 => (0..6u8).prop_map(Step::Release),
    ]
}

type Edges = BTreeSet<(TxnId, TxnId)>;

/// Somebody at a key, as the plain rule needs it.
#[derive(Clone, Debug)]
struct At {
    txn: TxnId,
    mode: Mode,
}

/// A key as it stands: holders, and waiters in order with what they would come to hold.
#[derive(Clone, Debug, Default)]
struct Key {
    holders: Vec<At>,
    waiters: Vec<At>,
}

impl Key {
    fn holds(&self, txn: TxnId) -> bool {
        self.holders.iter().any(|holder| holder.txn == txn)
    }

    fn has_one_who_waits_twice(&self) -> bool {
        let mut txns: Vec<_> = self.waiters.iter().map(|waiter| waiter.txn).collect();
        txns.sort_unstable();
        txns.windows(2).any(|pair| pair[0] == pair[1])
    }

    /// From each waiter to every conflicting holder; and, unless it holds the key, to every earlier conflicting waiter.
    fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        for (at, waiter) in self.waiters.iter().enumerate() {
            let earlier = if self.holds(waiter.txn) { &[] } else { &self.waiters[..at] };
            for other in self.holders.iter().chain(earlier) {
                if other.txn != waiter.txn && !other.mode.is_compatible(waiter.mode) {
                    edges.insert((waiter.txn, other.txn));
                }
            }
        }
        edges
    }
}

#[derive(Default)]
struct House {
    shards: Shards,
    pending: Vec<(TxnId, Pending)>,
}

impl House {
    fn keys(&self) -> BTreeMap<LockKey, Key> {
        let mut keys = BTreeMap::new();
        let at = |(txn, mode): (TxnId, Mode)| At { txn, mode };
        self.shards.for_each_shard(|shard| {
            for Listed { key, holders, waiters } in shard.list(true).chain(shard.list(false)) {
                let key_state = Key {
                    holders: holders.into_iter().map(at).collect(),
                    waiters: waiters.into_iter().map(at).collect(),
                };
                keys.insert((*key).clone(), key_state);
            }
        });
        keys
    }

    /// Who has been refused since the last look; everybody who has been told anything waits no more.
    fn hear(&mut self) -> Vec<(TxnId, Arc<Deadlock>)> {
        let mut refused = Vec::new();
        self.pending.retain_mut(|(txn, pending)| match pending.verdict.try_recv() {
            Ok(Verdict::Granted) | Err(tokio::sync::oneshot::error::TryRecvError::Closed) => false,
            Ok(Verdict::Refused(deadlock)) => {
                refused.push((*txn, deadlock));
                false
            }
            Err(tokio::sync::oneshot::error::TryRecvError::Empty) => true,
        });
        refused
    }

    fn check(&self) {
        let keys = self.keys();
        for (key, state) in &keys {
            for (at, one) in state.holders.iter().enumerate() {
                let fits = |other: &At| other.mode.is_compatible(one.mode);
                assert!(state.holders[at + 1..].iter().all(fits), "{key} is held by two that exclude each other");
            }
        }
        let plain: Edges = keys.values().flat_map(Key::edges).collect();
        let drawn: Edges = self.shards.contended().graph.edges().map(|hop| (hop.waiter, hop.holder)).collect();
        assert!(drawn.is_subset(&plain), "an edge for which there is no reason: {drawn:?} of {plain:?}");
        assert_eq!(closure(&drawn), closure(&plain), "somebody can be reached in one graph and not in the other");
        assert!(closure(&plain).iter().all(|(from, to)| from != to), "a cycle was not found: {plain:?}");
        let waiters: usize = keys.values().map(|key| key.waiters.len()).sum();
        let holders: usize = keys.values().map(|key| key.holders.len()).sum();
        assert_eq!((self.shards.waiting(), self.shards.held()), (waiters, holders));
        assert_eq!(waiters, self.pending.len(), "a wake-up was lost");
        assert_eq!(self.shards.contended().waits.len(), waiters);
    }

    /// What is wrong with the news of a step, given how everything stood before it and with the wait that it added.
    fn check_refusals(&self, refused: &[(TxnId, Arc<Deadlock>)], before: Option<&Edges>) {
        let Some((_, first)) = refused.first() else { return };
        for (victim, deadlock) in refused {
            assert_eq!(*victim, deadlock.victim);
            assert_eq!(deadlock.scores.first().map(|score| score.transaction), Some(*victim));
            assert!(deadlock.scores.windows(2).all(|pair| pair[0].score <= pair[1].score));
            let next = deadlock.cycle.iter().cycle().skip(1);
            for (edge, next) in deadlock.cycle.iter().zip(next) {
                assert_eq!(edge.holder, next.waiter, "the edges are no circle: {:?}", deadlock.cycle);
            }
            let members: BTreeSet<_> = deadlock.cycle.iter().map(|edge| edge.waiter.clone()).collect();
            assert_eq!(members.len(), deadlock.scores.len());
            assert!(members.contains(&Party::Ours(*victim)));
        }
        // Who comes to hold a key that it waits for too goes ahead of others: that draws edges which nobody foresees here.
        let Some(before) = before else { return };
        for edge in &first.cycle {
            let (Party::Ours(waiter), Party::Ours(holder)) = (&edge.waiter, &edge.holder) else { panic!("{edge:?}") };
            assert!(before.contains(&(*waiter, *holder)), "{edge:?} was not there: a false victim");
        }
    }
}

/// Everybody who can be reached from everybody, by brute force.
fn closure(edges: &Edges) -> Edges {
    let mut all = edges.clone();
    loop {
        let step: Edges = all
            .iter()
            .flat_map(|(from, middle)| all.iter().filter(move |(m, _)| m == middle).map(|(_, to)| (*from, *to)))
            .collect();
        let before = all.len();
        all.extend(step);
        if all.len() == before {
            return all;
        }
    }
}

/// Everything that stands, and the new wait at the end of its queue; for one that can be granted more of what it holds
/// at once, also what others wait for then.
fn hypothetical(keys: &BTreeMap<LockKey, Key>, txn: TxnId, key: &LockKey, mode: Mode) -> Edges {
    let mut keys = keys.clone();
    let state = keys.entry(key.clone()).or_default();
    let held = state.holders.iter().find(|holder| holder.txn == txn).map(|holder| holder.mode);
    let wanted = held.map_or(mode, |held| held.join(mode));
    // Upgrades stand before newcomers.
    let upgrades = state.waiters.iter().filter(|waiter| state.holds(waiter.txn)).count();
    let place = if held.is_some() { upgrades } else { state.waiters.len() };
    let mut granted = state.clone();
    state.waiters.insert(place, At { txn, mode: wanted });
    let fits = granted.holders.iter().all(|holder| holder.txn == txn || holder.mode.is_compatible(wanted));
    granted.holders.iter_mut().filter(|holder| fits && holder.txn == txn).for_each(|holder| holder.mode = wanted);
    keys.values().chain([&granted]).flat_map(Key::edges).collect()
}

fn play(steps: Vec<Step>) -> usize {
    let mut house = House::default();
    let mut victims = 0;
    for (at, step) in steps.iter().enumerate() {
        let keys = house.keys();
        let mut before: Edges = keys.values().flat_map(Key::edges).collect();
        let mut twice = keys.values().any(Key::has_one_who_waits_twice);
        match *step {
            Step::Ask(t, k, mode) => {
                let (txn, key) = (txn(t.into()), free(k));
                before = hypothetical(&keys, txn, &key, mode);
                twice |= keys.get(&key).is_some_and(|key| key.waiters.iter().any(|waiter| waiter.txn == txn));
                let standing = Standing { began_us: i64::from(t), work: at as u32 % 3, priority: 0 };
                if let Some(pending) = house.shards.ask(txn, standing, key, mode) {
                    house.pending.push((txn, pending));
                }
            }
            Step::GiveUp(at) if !house.pending.is_empty() => {
                let (_, pending) = house.pending.remove(at % house.pending.len());
                assert!(house.shards.give_up(pending.number));
                assert!(!house.shards.give_up(pending.number), "given up twice");
            }
            Step::GiveUp(_) => {}
            Step::Release(t) => house.shards.release_all(txn(t.into())),
        }
        let refused = house.hear();
        let asks = matches!(step, Step::Ask(..));
        assert!(asks || twice || refused.is_empty(), "only who asks can close a circle");
        house.check_refusals(&refused, (!twice).then_some(&before));
        house.check();
        // Where somebody waits twice for one key, letting go may close another circle: its wait became an upgrade.
        let mut gone: Vec<TxnId> = refused.iter().map(|(txn, _)| *txn).collect();
        while let Some(victim) = gone.pop() {
            victims += 1;
            house.shards.release_all(victim);
            gone.extend(house.hear().iter().map(|(txn, _)| *txn));
            house.check();
        }
    }
    for t in 0..6 {
        house.shards.release_all(txn(t));
        house.hear();
        house.check();
    }
    assert!(house.pending.is_empty() && house.keys().is_empty());
    assert!(house.shards.contended().graph.is_empty(), "the graph kept somebody");
    victims
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
    #[test]
    fn the_graph_is_the_tables_and_no_cycle_outlives_its_moment(steps in prop::collection::vec(step(), 1..80)) {
        play(steps);
    }
}

fn standing(began_us: i64) -> Standing {
    Standing { began_us, work: 0, priority: 0 }
}

fn asks(house: &mut House, t: u128, who: Standing, k: u8, mode: Mode) {
    if let Some(pending) = house.shards.ask(txn(t), who, free(k), mode) {
        house.pending.push((txn(t), pending));
    }
}

#[test]
fn the_victim_need_not_be_the_one_who_closes_the_circle() {
    for (loser, scores) in [(1, [0, 5]), (2, [5, 0])] {
        let mut house = House::default();
        let who = |t: usize| Standing { began_us: 0, work: scores[t - 1], priority: 0 };
        asks(&mut house, 1, who(1), 1, Mode::Exclusive);
        asks(&mut house, 2, who(2), 2, Mode::Exclusive);
        asks(&mut house, 1, who(1), 2, Mode::Shared);
        asks(&mut house, 2, who(2), 1, Mode::Shared);
        let refused = house.hear();
        assert_eq!(refused.len(), 1, "one victim");
        assert_eq!(refused[0].0, txn(loser));
        assert_eq!(refused[0].1.cycle.len(), 2);
        let resources: BTreeSet<_> = refused[0].1.cycle.iter().map(|edge| edge.resource.as_str()).collect();
        assert_eq!(resources, BTreeSet::from(["1", "2"]));
        house.shards.release_all(txn(loser));
        house.hear();
        assert!(house.pending.is_empty(), "the other one goes on");
    }
}

#[test]
fn two_readers_who_both_want_to_write_are_a_deadlock() {
    let mut house = House::default();
    asks(&mut house, 1, standing(1), 1, Mode::Shared);
    asks(&mut house, 2, standing(2), 1, Mode::Shared);
    asks(&mut house, 1, standing(1), 1, Mode::Exclusive);
    asks(&mut house, 2, standing(2), 1, Mode::Exclusive);
    let refused = house.hear();
    assert_eq!(refused.iter().map(|(txn, _)| *txn).collect::<Vec<_>>(), [txn(2)], "among equals the youngest");
}

#[test]
fn a_circle_that_only_the_order_of_a_queue_closes_costs_nobody_anything() {
    let mut house = House::default();
    asks(&mut house, 1, standing(1), 1, Mode::Shared);
    asks(&mut house, 2, standing(2), 1, Mode::Exclusive);
    asks(&mut house, 3, standing(3), 2, Mode::Exclusive);
    // 3 reads what 1 reads, and stands behind 2, who waits for 1.
    asks(&mut house, 3, standing(3), 1, Mode::Shared);
    assert_eq!(house.pending.len(), 2);
    asks(&mut house, 1, standing(1), 2, Mode::Shared);
    assert!(house.hear().is_empty(), "nobody had to give way");
    house.check();
    assert_eq!(house.pending.iter().map(|(txn, _)| *txn).collect::<Vec<_>>(), [txn(2), txn(1)], "3 was let pass");
    house.shards.release_all(txn(3));
    house.hear();
    house.shards.release_all(txn(1));
    house.hear();
    assert!(house.pending.is_empty());
}

#[test]
fn a_writer_is_not_passed_for_ever() {
    let mut house = House::default();
    asks(&mut house, 1, standing(1), 1, Mode::Shared);
    asks(&mut house, 2, standing(2), 1, Mode::Exclusive);
    let mut passed = 0;
    for round in 0..40u8 {
        let (reader, key) = (txn(100 + u128::from(round)), 10 + round);
        let who = standing(100);
        assert!(house.shards.ask(reader, who, free(key), Mode::Exclusive).is_none());
        let pending = house.shards.ask(reader, who, free(1), Mode::Shared).expect("it stands behind the writer");
        house.pending.push((reader, pending));
        if let Some(pending) = house.shards.ask(txn(1), standing(1), free(key), Mode::Shared) {
            house.pending.push((txn(1), pending));
        }
        let refused = house.hear();
        house.check();
        passed += usize::from(refused.is_empty());
        // Either way the round ends: the reader lets go, or it was the victim.
        house.shards.release_all(reader);
        house.hear();
        house.check();
    }
    assert_eq!(passed, 16, "a bounded number passes, then somebody else gives way");
}

#[test]
fn a_chain_of_a_hundred_thousand_overflows_no_stack() {
    const LENGTH: u128 = 100_000;
    let work = || {
        let shards = Shards::default();
        let key = |n: u128| LockKey::Free(n.to_string());
        let mut pending: HashMap<TxnId, Pending> = HashMap::new();
        for n in 0..LENGTH {
            assert!(shards.ask(txn(n), standing(n as i64), key(n), Mode::Exclusive).is_none());
        }
        for n in 1..LENGTH {
            let wait = shards.ask(txn(n), standing(n as i64), key(n - 1), Mode::Exclusive);
            pending.insert(txn(n), wait.expect("the one before holds it"));
        }
        assert!(!shards.take_owed_sweep(), "whoever is not waited for needs no search");
        // The first one waits for the last one: the longest circle there can be.
        let wait = shards.ask(txn(0), standing(0), key(LENGTH - 1), Mode::Exclusive);
        pending.insert(txn(0), wait.expect("the last one holds it"));
        assert!(shards.take_owed_sweep(), "too far for the moment of blocking");
        shards.sweep();
        let victim = txn(LENGTH - 1);
        let heard = pending.get_mut(&victim).unwrap().verdict.try_recv();
        let Ok(Verdict::Refused(deadlock)) = heard else { panic!("{heard:?}") };
        assert_eq!((deadlock.victim, deadlock.cycle.len()), (victim, LENGTH as usize));
        // Everybody is served in turn once it has let go.
        shards.release_all(victim);
        for n in 0..LENGTH - 1 {
            let heard = pending.get_mut(&txn(n)).unwrap().verdict.try_recv();
            assert_eq!(heard.ok(), Some(Verdict::Granted), "{n}");
            shards.release_all(txn(n));
        }
        assert!(shards.contended().graph.is_empty());
        assert_eq!((shards.held(), shards.waiting()), (0, 0));
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn a_search_stops_at_its_budget_and_says_so() {
    let mut graph = WaitFor::default();
    for n in 0..100u128 {
        assert!(graph.point(n as u64, txn(n), &[txn((n + 1) % 100)]));
    }
    assert!(!graph.point(7, txn(7), &[txn(8)]), "it points there already");
    assert_eq!(graph.cycle_through(txn(5), 99), Search::OutOfBudget);
    let Search::Cycle(hops) = graph.cycle_through(txn(5), 100) else { panic!("there is a cycle") };
    assert_eq!((hops.len(), hops[0].waiter, hops[99].holder), (100, txn(5), txn(5)));
    graph.forget(50);
    assert_eq!(graph.cycle_through(txn(5), 1000), Search::None);
    assert_eq!(graph.cycle_through(txn(51), 0), Search::None, "nobody waits for it any more: nothing is visited");
    (0..100).for_each(|wait| graph.forget(wait));
    assert!(graph.is_empty());
}
