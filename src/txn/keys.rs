//! Idempotency keys that only the log remembers: those of committed runs that the log itself decided.
//!
//! Where a store decides, the key stands in its marker, and whoever tries it again meets it there. Where the log does,
//! the run's `Done` record is its only memory: this table holds those records while their time lasts, and the janitor
//! carries them forward before it lets their segments go.
//!
//! ```text
//!   released            oldest key                                    next
//!   │░░░░░░░░░░░░░░░░░░░░│■░░░■░░░░░░░░■░░░░░░░░░░░░■■░░░░░░░░░░░░░░░░░│     ■ a key's record  ░ what nobody needs
//!   └── goes for nothing ┘└── goes once it is more than twice the ■ ───┘
//! ```
//!
//! Carrying forward costs the log bytes of its own. As in a log-structured file system (Rosenblum & Ousterhout 1992, the
//! cost of cleaning), it pays only where most of what is let go is garbage: so it waits until the stretch is more than
//! twice what is carried, and an idle log stays as it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::journal::record::Ended;
use crate::model::commit::KeyNote;
use crate::model::ids::Lsn;

/// What all of them may take in memory, roughly. Beyond it a new one is refused: forgetting an old one would break a
/// promise.
const MOST_BYTES: u64 = 256 << 20;
/// What one takes besides its texts.
const EACH: u64 = 512;

/// The table. Its owner guards it.
#[derive(Default)]
pub(super) struct Keys {
    runs: HashMap<Arc<str>, (Lsn, Ended)>,
    places: BTreeMap<Lsn, Arc<str>>,
    /// By when they ended: microseconds since 1970.
    ages: BTreeSet<(i64, Arc<str>)>,
    /// Those of chunks among them: their jobs know that they are done, so all that is lost with one is its answer.
    chunks: BTreeSet<(i64, Arc<str>)>,
    bytes: u64,
}

impl Keys {
    /// What replay found.
    pub(super) fn new(found: impl IntoIterator<Item = (Lsn, Ended)>) -> Self {
        let mut keys = Self::default();
        found.into_iter().for_each(|(place, ended)| keys.note(place, ended));
        keys
    }

    /// Remembers a run by its key, with the place of its record; one without a key is none of this table's business.
    pub(super) fn note(&mut self, place: Lsn, mut ended: Ended) {
        let Some((note, _)) = &ended.key else { return };
        let key: Arc<str> = note.key.as_str().into();
        // What would undo a chunk is kept by its job.
        ended.chunk.iter_mut().for_each(|chunk| chunk.undo = None);
        self.forget(&key);
        self.bytes += weight(&ended);
        self.places.insert(place, key.clone());
        self.ages.insert((ended.ended_us, key.clone()));
        if ended.chunk.is_some() {
            self.chunks.insert((ended.ended_us, key.clone()));
        }
        self.runs.insert(key, (place, ended));
    }

    /// A record that was written again stands at `place` now.
    pub(super) fn moved(&mut self, place: Lsn, ended: Ended) {
        let known = ended.key.as_ref().and_then(|(note, _)| self.get(&note.key));
        if known.is_some_and(|known| known.run == ended.run) {
            self.note(place, ended);
        }
    }

    fn forget(&mut self, key: &str) {
        let Some((key, (place, ended))) = self.runs.remove_entry(key) else { return };
        self.bytes -= weight(&ended);
        self.places.remove(&place);
        let age = (ended.ended_us, key);
        self.ages.remove(&age);
        self.chunks.remove(&age);
    }

    pub(super) fn get(&self, key: &str) -> Option<&Ended> {
        self.runs.get(key).map(|(_, ended)| ended)
    }

    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether there is no room for another.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= MOST_BYTES
    }

    /// Forgets those that ended before `time` (microseconds since 1970); answers how many.
    pub(super) fn expire(&mut self, time: i64) -> u64 {
        let mut gone = 0;
        while let Some((_, key)) = self.ages.first().filter(|(ended, _)| *ended < time).cloned() {
            self.forget(&key);
            gone += 1;
        }
        gone
    }

    /// Forgets those of chunks that ended before `time`: a job may have a million of them.
    pub(super) fn let_chunks_go(&mut self, time: i64) {
        while let Some((_, key)) = self.chunks.first().filter(|(ended, _)| *ended < time).cloned() {
            self.forget(&key);
        }
    }

    /// Up to where the log may be let go, and which records have to be written again for it. Nothing else needs what
    /// stands below `needed`; everything below `released` is gone already; segments are so long.
    pub(super) fn carry(&self, released: Lsn, needed: Lsn, segment: u64) -> (Lsn, Vec<Ended>) {
        let stretch = needed.as_u64().saturating_sub(released.as_u64());
        if stretch <= 2 * self.bytes + segment {
            let oldest = self.places.keys().next().copied();
            return (oldest.map_or(needed, |oldest| oldest.min(needed)), Vec::new());
        }
        let below = self.places.range(..needed).filter_map(|(_, key)| self.runs.get(key));
        (needed, below.map(|(_, ended)| ended.clone()).collect())
    }
}

fn weight(ended: &Ended) -> u64 {
    let texts = ended
        .key
        .as_ref()
        .map_or(0, |(KeyNote { key, .. }, answer)| key.len() + answer.as_ref().map_or(0, String::len));
    EACH + texts as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::commit::Decider;
    use crate::model::ids::{Attempt, Run, TxnId};
    use crate::model::job::ChunkNote;
    use crate::model::state::Outcome;

    fn ended(key: &str, ended_us: i64) -> Ended {
        let note = KeyNote { key: key.to_owned(), digest: [7; 32] };
        Ended {
            run: Run { txn: TxnId::fresh(), attempt: Attempt::FIRST },
            outcome: Outcome::Committed,
            name: None,
            began_us: 0,
            ended_us,
            decider: Decider::Wal,
            preparers: Vec::new(),
            redoers: Vec::new(),
            reason: String::new(),
            key: Some((note, Some("{}".to_owned()))),
            cause: None,
            trace: None,
            skipped: Vec::new(),
            chunk: None,
        }
    }

    fn at(place: u64) -> Lsn {
        Lsn::from_u64(place)
    }

    #[test]
    fn keys_go_in_the_order_of_their_ends_and_leave_nothing() {
        let mut keys = Keys::new([(at(10), ended("a", 1)), (at(20), ended("b", 3)), (at(30), ended("c", 2))]);
        assert_eq!((keys.expire(1), keys.expire(3), keys.len()), (0, 2, 1));
        assert!(keys.get("b").is_some() && keys.get("c").is_none());
        // The same key again, after its time: the record of the second time is the one that counts.
        keys.note(at(40), ended("b", 9));
        assert_eq!((keys.len(), keys.expire(9), keys.expire(10)), (1, 0, 1));
        assert_eq!((keys.bytes, keys.places.len(), keys.ages.len()), (0, 0, 0));
    }

    #[test]
    fn chunks_go_sooner_and_their_compensations_at_once() {
        let undo = Some("{}".to_owned());
        let note = ChunkNote { job: TxnId::fresh(), parent: "n".into(), number: 1, undoes: false, undo };
        let chunk = Ended { chunk: Some(note), ..ended("job/1", 2) };
        let mut keys = Keys::new([(at(10), ended("a", 1)), (at(20), chunk), (at(30), ended("b", 3))]);
        assert_eq!(keys.get("job/1").unwrap().chunk.as_ref().unwrap().undo, None);
        keys.let_chunks_go(2);
        assert_eq!(keys.len(), 3);
        keys.let_chunks_go(9);
        assert!(keys.get("job/1").is_none() && keys.len() == 2);
        assert_eq!((keys.expire(9), keys.bytes, keys.chunks.len()), (2, 0, 0));
    }

    #[test]
    fn records_are_carried_only_where_most_of_the_rest_is_garbage() {
        let mut keys = Keys::new((0..10).map(|n: u64| (at(1000 + n), ended(&n.to_string(), 5))));
        let live = keys.bytes;
        assert_eq!(keys.carry(at(0), at(2 * live + 100), 100), (at(1000), Vec::new()), "it waits at the oldest key");
        assert_eq!(keys.carry(at(0), at(500), 100).0, at(500), "what is needed is a bound too");
        let (below, copies) = keys.carry(at(0), at(2 * live + 101), 100);
        assert_eq!((below, copies.len()), (at(2 * live + 101), 10));
        // Carried: nothing more is to be gained until the log has grown again.
        for (n, copy) in copies.into_iter().enumerate() {
            keys.moved(at(below.as_u64() + n as u64), copy);
        }
        assert_eq!(keys.bytes, live);
        assert!(keys.carry(below, at(below.as_u64() + live + 100), 100).1.is_empty());
        let (_, copies) = Keys::new([(at(5), ended("a", 1)), (at(9000), ended("b", 1))]).carry(at(0), at(8000), 10);
        assert_eq!(copies.len(), 1, "what stands above is not touched");
    }
}
