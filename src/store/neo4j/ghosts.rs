//! The hunt for older sessions of our log among the open transactions, by what can be seen of them.
//!
//! One that runs a statement shows its tag. An idle one shows none: of our user, from our host, begun before we
//! registered, it may be a dead session of ours or a sibling's between two statements. Only what does nothing at all for
//! the whole grace is taken for dead.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::control::OpenTxn;
use crate::model::ids::LogOwner;

/// One hunt: every look at the list of open transactions goes through the same one.
pub(super) struct Hunt {
    owner: LogOwner,
    /// When this incarnation registered: milliseconds since 1970 on the store's clock.
    registered: i64,
    /// The tag of our own asking, by which we learn how the server sees us.
    asking: String,
    grace: Duration,
    /// Those that were seen to be somebody else's.
    foreign: HashSet<String>,
    /// The silent ones: since when, and by what traces we know that they still are.
    silent: HashMap<String, (Instant, [i64; 3])>,
}

/// What one look found.
pub(super) struct Seen {
    /// Those to be told to end now.
    pub(super) due: Vec<String>,
    /// How many more may have to be.
    pub(super) waiting: usize,
    /// Those that were told and still stand in the list.
    pub(super) told: usize,
}

impl Hunt {
    pub(super) fn new(owner: LogOwner, registered: i64, asking: &str, grace: Duration) -> Self {
        let (foreign, silent) = (HashSet::new(), HashMap::new());
        Self { owner, registered, asking: asking.to_owned(), grace, foreign, silent }
    }

    /// Sorts one list of the server's.
    pub(super) fn look(&mut self, open: &[OpenTxn]) -> Seen {
        let me = open.iter().find(|txn| txn.tag.as_deref() == Some(self.asking.as_str()));
        let prefix = format!("{}/", self.owner.log);
        let mut seen = Seen { due: Vec::new(), waiting: 0, told: 0 };
        let mut still_silent = HashMap::new();
        for txn in open {
            let incarnation = txn.tag.as_deref().map(|tag| {
                let rest = tag.strip_prefix(&prefix)?;
                rest.split('/').next()?.parse::<u64>().ok()
            });
            let due = match incarnation {
                Some(Some(incarnation)) if incarnation < self.owner.incarnation.0 => true,
                Some(_) => {
                    self.foreign.insert(txn.id.clone());
                    continue;
                }
                None => {
                    let like_me = me.is_none_or(|me| me.user == txn.user && me.host == txn.host);
                    let ours = !txn.running && txn.started < self.registered && like_me;
                    if !ours || self.foreign.contains(&txn.id) {
                        continue;
                    }
                    let before = self.silent.get(&txn.id).filter(|(_, traces)| *traces == txn.traces);
                    let since = before.map_or_else(Instant::now, |(since, _)| *since);
                    still_silent.insert(txn.id.clone(), (since, txn.traces));
                    since.elapsed() >= self.grace
                }
            };
            match (txn.terminated, due) {
                (true, _) => seen.told += 1,
                (false, true) => seen.due.push(txn.id.clone()),
                (false, false) => seen.waiting += 1,
            }
        }
        self.silent = still_silent;
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{Incarnation, LogId};

    const AGES: Duration = Duration::from_secs(3600);

    fn txn(id: &str, tag: Option<&str>, started: i64, traces: i64) -> OpenTxn {
        OpenTxn {
            id: id.to_owned(),
            tag: tag.map(str::to_owned),
            user: "us".to_owned(),
            host: "here".to_owned(),
            started,
            running: tag.is_some(),
            terminated: false,
            traces: [traces, 0, 0],
            blocked_by: Vec::new(),
            waited: None,
        }
    }

    fn hunt(grace: Duration) -> (Hunt, String) {
        let owner = LogOwner { log: LogId::from_bytes([1; 16]), incarnation: Incarnation(5) };
        (Hunt::new(owner, 100, "asking", grace), owner.log.to_string())
    }

    #[test]
    fn those_that_name_an_older_incarnation_are_due_at_once() {
        let (mut hunt, log) = hunt(AGES);
        let tags = [format!("{log}/4/t/1"), format!("{log}/5/t/1"), format!("{log}x/4/t/1"), format!("{log}/x")];
        let open: Vec<_> = (0..4).map(|at| txn(&at.to_string(), Some(&tags[at]), 0, 0)).collect();
        let seen = hunt.look(&open);
        assert_eq!((seen.due, seen.waiting, seen.told), (vec!["0".to_owned()], 0, 0));
        let mut told = open[0].clone();
        told.terminated = true;
        let seen = hunt.look(&[told]);
        assert_eq!((seen.due.len(), seen.waiting, seen.told), (0, 0, 1));
    }

    #[test]
    fn the_silent_are_due_after_the_grace_unless_they_stir() {
        let (mut patient, _) = hunt(AGES);
        assert_eq!(patient.look(&[txn("a", None, 99, 0), txn("young", None, 100, 0)]).waiting, 1);
        let (mut hasty, _) = hunt(Duration::from_millis(20));
        hasty.look(&[txn("a", None, 0, 1), txn("b", None, 0, 1), txn("c", None, 0, 1)]);
        std::thread::sleep(Duration::from_millis(25));
        // `b` has done something, and `c` shows itself to be another log's.
        let seen = hasty.look(&[txn("a", None, 0, 1), txn("b", None, 0, 2), txn("c", Some("other/1/t/1"), 0, 1)]);
        assert_eq!((seen.due, seen.waiting), (vec!["a".to_owned()], 1));
        assert_eq!(hasty.look(&[txn("c", None, 0, 1)]).waiting, 0, "it stays another's");
    }

    #[test]
    fn other_users_other_hosts_and_running_strangers_are_left_alone() {
        let (mut hunt, _) = hunt(Duration::ZERO);
        let me = txn("me", Some("asking"), 200, 0);
        let mut open = vec![me; 4];
        for (at, stranger) in open.iter_mut().enumerate().skip(1) {
            *stranger = txn(&at.to_string(), None, 0, 0);
        }
        open[1].user = "they".to_owned();
        open[2].host = "there".to_owned();
        open[3].running = true;
        let seen = hunt.look(&open);
        assert_eq!((seen.due.len(), seen.waiting, seen.told), (0, 0, 0));
    }
}
