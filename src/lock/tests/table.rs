//! The pure table against a brute-force reading of its rules.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::{free, txn};
use crate::lock::queue::Admitted;
use crate::lock::table::{Asked, Table, Taken};
use crate::lock::{LockKey, Mode};
use crate::model::ids::TxnId;

#[derive(Clone, Debug)]
enum Step {
    Ask(u8, u8, Mode),
    Take(u8, u8, Mode),
    GiveUp(usize),
    Release(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let mode = || prop::sample::select(Mode::ALL.to_vec());
    prop_oneof![
        5 => (0..5u8, 0..3u8, mode()).prop_map(|(t, k, m)| Step::Ask(t, k, m)),
        1 => (0..5u8, 0..3u8, mode()).prop_map(|(t, k, m)| Step::Take(t, k, m)),
        2 => any::<usize>().prop_map(Step::GiveUp),
        2 => (0..5u8).prop_map(Step::Release),
    ]
}

/// A wait as the test knows it.
#[derive(Clone, Debug)]
struct Wait {
    number: u64,
    key: Arc<LockKey>,
    txn: TxnId,
    mode: Mode,
}

/// What the test knows by itself: who asked for what and has been told what.
#[derive(Default)]
struct Model {
    table: Table,
    held: HashMap<(TxnId, LockKey), Mode>,
    /// In the order of arrival.
    waits: Vec<Wait>,
    last: u64,
}

impl Model {
    fn grant(&mut self, txn: TxnId, key: &LockKey, mode: Mode) {
        let held = self.held.entry((txn, key.clone())).or_insert(mode);
        *held = held.join(mode);
    }

    fn holds(&self, txn: TxnId, key: &LockKey) -> Option<Mode> {
        self.held.get(&(txn, key.clone())).copied()
    }

    fn allows(&self, key: &LockKey, txn: TxnId, mode: Mode) -> bool {
        self.held.iter().all(|((t, k), held)| k != key || *t == txn || held.is_compatible(mode))
    }

    /// Whether an upgrade that waits, or a newcomer among the first `before` waits, stands in the way of `mode`.
    fn stands_behind(&self, key: &LockKey, mode: Mode, before: usize) -> bool {
        self.waits.iter().enumerate().filter(|(_, wait)| *wait.key == *key).any(|(at, wait)| {
            match self.holds(wait.txn, key) {
                Some(held) => !held.join(wait.mode).is_compatible(mode),
                None => at < before && !wait.mode.is_compatible(mode),
            }
        })
    }

    fn told(&mut self, admitted: &[Admitted]) {
        for Admitted { waiter, new } in admitted {
            let at = self.waits.iter().position(|wait| wait.number == waiter.number);
            let at = at.expect("granted what nobody waits for");
            let wait = self.waits.remove(at);
            let upgrade = self.holds(wait.txn, &wait.key).is_some();
            assert_eq!(*new, !upgrade);
            assert!(upgrade || !self.stands_behind(&wait.key, wait.mode, at), "{wait:?} overtook somebody in its way");
            self.grant(wait.txn, &wait.key, wait.mode);
        }
    }

    fn check(&self) {
        for ((txn, key), mode) in &self.held {
            assert!(self.allows(key, *txn, *mode), "{key} is held by two that exclude each other");
        }
        for (at, wait) in self.waits.iter().enumerate() {
            let held = self.holds(wait.txn, &wait.key);
            let blocked = !self.allows(&wait.key, wait.txn, held.map_or(wait.mode, |held| held.join(wait.mode)));
            let reason = blocked || (held.is_none() && self.stands_behind(&wait.key, wait.mode, at));
            assert!(reason, "{wait:?} waits for nothing");
        }
        let listed = || [true, false].into_iter().flat_map(|contended| self.table.list(contended));
        assert_eq!(listed().map(|row| row.holders.len()).sum::<usize>(), self.held.len());
        assert_eq!(listed().map(|row| row.waiters.len()).sum::<usize>(), self.waits.len());
    }

    fn ask(&mut self, txn: TxnId, key: LockKey, mode: Mode) {
        self.last += 1;
        let (number, key) = (self.last, Arc::new(key));
        match self.table.request(txn, &key, mode, number) {
            Asked::Granted { new, promoted } => {
                assert_eq!(new, self.holds(txn, &key).is_none());
                assert_eq!(promoted, new && self.waits.iter().any(|wait| wait.txn == txn && wait.key == key));
                self.grant(txn, &key, mode);
                let mut admitted = Vec::new();
                self.table.admit(&key, &mut admitted);
                assert!(promoted || admitted.is_empty());
                self.told(&admitted);
            }
            Asked::Waits(_) => self.waits.push(Wait { number, key, txn, mode }),
        }
    }

    fn take(&mut self, txn: TxnId, key: LockKey, mode: Mode) {
        let key = Arc::new(key);
        let held = self.holds(txn, &key);
        match self.table.take(txn, &key, mode) {
            Taken::New => assert_eq!(held, None),
            Taken::Again => assert!(held.is_some()),
            Taken::Contended => return,
        }
        self.grant(txn, &key, mode);
    }

    fn give_up(&mut self, at: usize) {
        let wait = self.waits.remove(at);
        assert!(self.table.withdraw(&wait.key, wait.number).is_some());
        assert_eq!(self.table.withdraw(&wait.key, wait.number), None, "withdrawn twice");
        let mut admitted = Vec::new();
        self.table.admit(&wait.key, &mut admitted);
        self.told(&admitted);
    }

    fn release(&mut self, txn: TxnId) {
        while let Some(at) = self.waits.iter().position(|wait| wait.txn == txn) {
            self.give_up(at);
        }
        let keys: Vec<_> = self.held.keys().filter(|(t, _)| *t == txn).map(|(_, key)| key.clone()).collect();
        for key in keys {
            self.held.remove(&(txn, key.clone()));
            if self.table.give_back(txn, &key) {
                assert!(
                    self.waits.iter().all(|wait| *wait.key != key),
                    "somebody waits for {key} and was not asked in"
                );
                continue;
            }
            let mut admitted = Vec::new();
            self.table.release(txn, &key, &mut admitted);
            self.told(&admitted);
        }
    }
}

fn play(steps: Vec<Step>) {
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Ask(t, k, mode) => model.ask(txn(t.into()), free(k), mode),
            Step::Take(t, k, mode) => model.take(txn(t.into()), free(k), mode),
            Step::GiveUp(at) if !model.waits.is_empty() => model.give_up(at % model.waits.len()),
            Step::GiveUp(_) => {}
            Step::Release(t) => model.release(txn(t.into())),
        }
        model.check();
    }
    for t in 0..5 {
        model.release(txn(t));
        model.check();
    }
    assert!(model.waits.is_empty() && model.table.list(true).chain(model.table.list(false)).next().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn nobody_excluded_holds_nobody_waits_for_nothing_and_nobody_overtakes(steps in prop::collection::vec(step(), 1..60)) {
        play(steps);
    }
}
