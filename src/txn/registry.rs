//! All transactions that this process knows: the open ones, and the last ended ones while there is room.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Find;
use super::entry::Entry;
use crate::model::commit::KeyNote;
use crate::model::ids::{Lsn, TxnId};
use crate::model::problem::{Code, Problem};
use crate::model::state::TxnState;
use crate::model::trace::TraceId;

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Ended transactions, by number.
    pub ended: usize,
    /// Ended transactions, by age.
    pub age: Duration,
    /// Bytes of results of ended transactions, roughly.
    pub result_bytes: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { ended: 4096, age: Duration::from_secs(24 * 3600), result_bytes: 8 << 20 }
    }
}

pub(super) struct Registry {
    tables: Mutex<Tables>,
    retention: Retention,
}

#[derive(Default)]
struct Tables {
    all: BTreeMap<TxnId, Arc<Entry>>,
    open: BTreeMap<TxnId, Arc<Entry>>,
    /// The open transaction of a name, else the latest ended one.
    names: HashMap<String, TxnId>,
    /// Keys of open and of committed transactions.
    keys: HashMap<String, TxnId>,
    ended: VecDeque<(Instant, TxnId, usize)>,
    result_bytes: usize,
}

/// What stands under an idempotency key.
pub(super) enum Keyed {
    /// Nothing in memory: run it.
    Free,
    /// A transaction, open or committed.
    Known(Arc<Entry>),
}

impl Registry {
    pub(super) fn new(retention: Retention) -> Self {
        Self { tables: Mutex::default(), retention }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a transaction in. `durable` is asked inside the lock, so that no sweep can pass it by; so is `recorded`, for
    /// the key, so that of those who come with one key at once only one is let in.
    ///
    /// # Errors
    /// `name_in_use`; `in_flight` and `idempotency_mismatch` where the key is taken; what `recorded` says.
    pub(super) fn begin(
        &self,
        name: Option<String>,
        key: Option<KeyNote>,
        priority: i32,
        trace: TraceId,
        durable: impl FnOnce() -> Lsn,
        recorded: impl FnOnce(&KeyNote) -> Result<(), Problem>,
    ) -> Result<Arc<Entry>, Problem> {
        let mut tables = self.tables();
        if let Some(note) = &key {
            match tables.keyed(note)? {
                Keyed::Known(entry) => return Err(in_flight(&entry)),
                Keyed::Free => recorded(note)?,
            }
        }
        if let Some(open) = name.as_ref().and_then(|name| tables.names.get(name)).and_then(|id| tables.open.get(id)) {
            let detail = format!("the open transaction {} has the name `{}`", open.id, name.unwrap_or_default());
            return Err(Problem::new(Code::NameInUse, detail).at("/name"));
        }
        let entry = Arc::new(Entry::new(TxnId::fresh(), name, key, priority, trace, durable()));
        tables.insert(&entry);
        tables.open.insert(entry.id, entry.clone());
        Ok(entry)
    }

    /// What stands under this key.
    ///
    /// # Errors
    /// `idempotency_mismatch`: the key was used for another request.
    pub(super) fn keyed(&self, note: &KeyNote) -> Result<Keyed, Problem> {
        self.tables().keyed(note)
    }

    /// Frees the keys of transactions that ended before `time` (microseconds since 1970).
    pub(super) fn expire_keys(&self, time: i64) {
        let mut tables = self.tables();
        let Tables { ended, all, keys, .. } = &mut *tables;
        for (_, id, _) in ended.iter() {
            if let Some(entry) = all.get(id)
                && let Some(note) = &entry.key
                && entry.ended_us().is_some_and(|ended| ended < time)
                && keys.get(&note.key) == Some(id)
            {
                keys.remove(&note.key);
            }
        }
    }

    /// Takes back a beginning of which nothing was written down.
    pub(super) fn withdraw(&self, entry: &Arc<Entry>) {
        let mut tables = self.tables();
        tables.open.remove(&entry.id);
        tables.forget(entry.id);
    }

    /// Takes in an open transaction that recovery found.
    pub(super) fn adopt(&self, entry: &Arc<Entry>) {
        let mut tables = self.tables();
        tables.insert(entry);
        tables.open.insert(entry.id, entry.clone());
    }

    /// Takes in one that has ended; or moves it there.
    pub(super) fn end(&self, entry: &Arc<Entry>) {
        let mut tables = self.tables();
        tables.open.remove(&entry.id);
        if !tables.all.contains_key(&entry.id) {
            tables.insert(entry);
        }
        // An aborted transaction does not consume its key.
        if entry.state() == TxnState::Aborted
            && let Some(note) = &entry.key
            && tables.keys.get(&note.key) == Some(&entry.id)
        {
            tables.keys.remove(&note.key);
        }
        let weight = entry.weight();
        tables.result_bytes += weight;
        tables.ended.push_back((Instant::now(), entry.id, weight));
        tables.trim(&self.retention);
    }

    pub(super) fn trim(&self) {
        self.tables().trim(&self.retention);
    }

    pub(super) fn get(&self, id: TxnId) -> Option<Arc<Entry>> {
        self.tables().all.get(&id).cloned()
    }

    /// Whatever is asked for, while memory holds it.
    pub(super) fn find(&self, what: &Find) -> Option<Arc<Entry>> {
        match what {
            Find::Id(id) => self.get(*id),
            Find::Name(name) => self.named(name),
            Find::Key(key) => self.by_key(key),
        }
    }

    pub(super) fn named(&self, name: &str) -> Option<Arc<Entry>> {
        let tables = self.tables();
        tables.names.get(name).and_then(|id| tables.all.get(id)).cloned()
    }

    pub(super) fn by_key(&self, key: &str) -> Option<Arc<Entry>> {
        let tables = self.tables();
        tables.keys.get(key).and_then(|id| tables.all.get(id)).cloned()
    }

    pub(super) fn open(&self) -> Vec<Arc<Entry>> {
        self.tables().open.values().cloned().collect()
    }

    pub(super) fn open_count(&self) -> usize {
        self.tables().open.len()
    }

    /// The lowest durable Lsn that an open transaction's markers may carry; `otherwise` (asked inside the lock) when
    /// none is open.
    pub(super) fn oldest_durable(&self, otherwise: impl FnOnce() -> Lsn) -> Lsn {
        let tables = self.tables();
        // A batch job has no marker of its own: its chunks have.
        let oldest = tables.open.values().filter(|entry| entry.job().is_none()).map(|entry| entry.durable).min();
        oldest.unwrap_or_else(otherwise)
    }

    /// The oldest place in the log that recovering what is open would need, batch jobs apart; `otherwise` (asked inside the
    /// lock) when nothing is.
    pub(super) fn oldest_pin(&self, otherwise: impl FnOnce() -> Lsn) -> Lsn {
        let tables = self.tables();
        let oldest = tables.open.values().filter(|entry| entry.job().is_none()).map(|entry| entry.pin()).min();
        oldest.unwrap_or_else(otherwise)
    }

    /// Newest first, from before `cursor`.
    pub(super) fn page(
        &self,
        cursor: Option<TxnId>,
        mut fits: impl FnMut(&Entry) -> bool,
        limit: usize,
    ) -> Vec<Arc<Entry>> {
        let tables = self.tables();
        let before = |id: &TxnId| cursor.is_none_or(|cursor| *id < cursor);
        let newest_first = tables.all.iter().rev().filter(|(id, _)| before(id)).map(|(_, entry)| entry);
        newest_first.filter(|entry| fits(entry)).take(limit).cloned().collect()
    }
}

pub(super) fn in_flight(entry: &Entry) -> Problem {
    let detail = format!("transaction {} runs with this Idempotency-Key", entry.id);
    Problem::new(Code::InFlight, detail).of(entry.id, entry.state())
}

pub(super) fn mismatch(id: &TxnId) -> Problem {
    let detail = format!("this Idempotency-Key was used for another request (transaction {id})");
    Problem::new(Code::IdempotencyMismatch, detail)
}

impl Tables {
    fn keyed(&self, note: &KeyNote) -> Result<Keyed, Problem> {
        let Some(entry) = self.keys.get(&note.key).and_then(|id| self.all.get(id)) else {
            return Ok(Keyed::Free);
        };
        match &entry.key {
            Some(known) if known.digest != note.digest => Err(mismatch(&entry.id)),
            _ => Ok(Keyed::Known(entry.clone())),
        }
    }

    fn insert(&mut self, entry: &Arc<Entry>) {
        self.all.insert(entry.id, entry.clone());
        if let Some(name) = &entry.name {
            self.names.insert(name.clone(), entry.id);
        }
        if let Some(note) = &entry.key {
            self.keys.insert(note.key.clone(), entry.id);
        }
    }

    fn trim(&mut self, retention: &Retention) {
        // Results first: who asks for an old transaction wants to know how it ended.
        let mut surplus = self.result_bytes.saturating_sub(retention.result_bytes);
        for (_, id, weight) in self.ended.iter_mut().filter(|(_, _, weight)| *weight > 0) {
            if surplus == 0 {
                break;
            }
            if let Some(entry) = self.all.get(id) {
                entry.drop_results();
            }
            surplus = surplus.saturating_sub(*weight);
            self.result_bytes -= *weight;
            *weight = 0;
        }
        while let Some((at, id, weight)) = self.ended.front().copied() {
            if self.ended.len() <= retention.ended && at.elapsed() < retention.age {
                break;
            }
            self.ended.pop_front();
            self.result_bytes -= weight;
            self.forget(id);
        }
    }

    fn forget(&mut self, id: TxnId) {
        let Some(entry) = self.all.remove(&id) else { return };
        if let Some(name) = &entry.name
            && self.names.get(name) == Some(&id)
        {
            self.names.remove(name);
        }
        if let Some(note) = &entry.key
            && self.keys.get(&note.key) == Some(&id)
        {
            self.keys.remove(&note.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::state::Event;

    fn note(digest: u8) -> KeyNote {
        KeyNote { key: "p/k".to_owned(), digest: [digest; 32] }
    }

    fn begin(registry: &Registry, digest: u8) -> Result<Arc<Entry>, Code> {
        let begun = registry.begin(None, Some(note(digest)), 0, TraceId::fresh(), || Lsn::ZERO, |_| Ok(()));
        begun.map_err(|problem| problem.code)
    }

    fn end(registry: &Registry, entry: &Arc<Entry>, event: Event) {
        entry.take(event);
        entry.take(Event::Finished);
        entry.closed(1000);
        registry.end(entry);
    }

    #[test]
    fn of_those_who_come_with_one_key_one_is_let_in() {
        let registry = Registry::new(Retention::default());
        let first = begin(&registry, 1).unwrap();
        assert_eq!(begin(&registry, 1).err(), Some(Code::InFlight));
        assert_eq!(begin(&registry, 2).err(), Some(Code::IdempotencyMismatch));
        // An aborted transaction does not consume its key.
        end(&registry, &first, Event::DecidedAbort);
        let second = begin(&registry, 2).unwrap();
        end(&registry, &second, Event::DecidedCommit);
        assert_eq!(begin(&registry, 2).err(), Some(Code::InFlight), "who has looked before it ended looks again");
        registry.expire_keys(1000);
        assert!(matches!(registry.keyed(&note(2)), Ok(Keyed::Known(_))), "its time is not over");
        registry.expire_keys(1001);
        assert!(begin(&registry, 3).is_ok());
    }

    #[test]
    fn what_the_log_remembers_is_asked_inside_the_lock() {
        let registry = Registry::new(Retention::default());
        let refusal = |_: &KeyNote| Err(Problem::new(Code::InFlight, "the log knows it"));
        let refused = registry.begin(None, Some(note(1)), 0, TraceId::fresh(), || Lsn::ZERO, refusal);
        assert_eq!(refused.err().map(|problem| problem.code), Some(Code::InFlight));
        assert_eq!(registry.open_count(), 0);
        assert!(
            registry.begin(None, None, 0, TraceId::fresh(), || Lsn::ZERO, refusal).is_ok(),
            "without a key nobody is asked"
        );
    }
}
