use outrigger_wal::sim::{Op, SimDisk};
use proptest::prelude::*;

use super::record::*;
use super::*;
use crate::lock::{Claim, LockKey, Mode};
use crate::model::commit::{Decider, Gid, KeyNote, RedoWrite};
use crate::model::ids::{Attempt, LogId, TxnId};
use crate::model::job::ChunkNote;
use crate::model::trace::TraceId;

mod waiting;

fn options() -> Options {
    Options { segment_bytes: 1 << 20, force_filesystem: true, ..Options::default() }
}

fn run() -> Run {
    Run { txn: TxnId::fresh(), attempt: Attempt(3) }
}

fn intent(run: Run, decider: &str) -> Intent {
    let decider = Decider::from(decider);
    let gid = Gid { log: LogId::from_bytes([7; 16]), run, durable: Lsn::from_u64(9), decider: decider.clone() };
    let claim = |key, mode| Claim { key, mode };
    Intent {
        run,
        name: Some("ingest:doc-1".into()),
        decider,
        preparers: vec![("pg".into(), gid)],
        redo: vec![RedoWrite {
            store: "vec".into(),
            resource: "docs".into(),
            keys: vec!["1".into()],
            body: vec![1, 2],
        }],
        claims: vec![
            claim(LockKey::Free("doc/1".into()), Mode::Shared),
            claim(LockKey::Resource("vec".into(), "docs".into()), Mode::IntentExclusive),
            claim(LockKey::Point("vec".into(), "docs".into(), "1".into()), Mode::Exclusive),
        ],
        key: Some(KeyNote { key: "anonymous/k".into(), digest: [5; 32] }),
        began_us: 17,
        reason: "because".into(),
        durable: Lsn::from_u64(9),
        trace: TraceId::from_bytes(&[3; 16]),
        chunk: Some(note()),
    }
}

fn skipped(store: &str) -> Skipped {
    Skipped { store: store.into(), reason: "the collection is gone".into(), by: "olga".into(), at_us: 5 }
}

fn note() -> ChunkNote {
    let (job, parent) = (TxnId(uuid::Uuid::from_u128(7)), "import-7".to_owned());
    ChunkNote { job, parent, number: 17, undoes: false, undo: Some("{}".into()) }
}

fn ended(run: Run, key: Option<(KeyNote, Option<String>)>) -> Ended {
    Ended {
        run,
        outcome: Outcome::Committed,
        name: None,
        began_us: 1,
        ended_us: 2,
        decider: Decider::Wal,
        preparers: vec!["pg".into()],
        redoers: vec!["vec".into()],
        reason: "r".into(),
        key,
        cause: Some(("conflict".into(), "x".into())),
        trace: TraceId::from_bytes(&[3; 16]),
        skipped: vec![skipped("vec")],
        chunk: None,
    }
}

#[test]
fn records_read_back() {
    let intent = intent(run(), "graph");
    assert_eq!(Intent::decode(&intent.encode(17)), Ok(intent));
    let ended = ended(run(), Some((KeyNote { key: "a/b".into(), digest: [1; 32] }, Some("{}".into()))));
    let ended = Ended { chunk: Some(note()), ..ended };
    assert_eq!(Ended::decode(&ended.encode()), Ok(ended));
}

proptest! {
    #[test]
    fn damaged_records_are_refused_or_read_but_never_panic(mut at in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
        let mut bytes = intent(run(), "graph").encode(17);
        at %= bytes.len();
        bytes[at] = byte;
        let _ = Intent::decode(&bytes);
        bytes.truncate(cut);
        let _ = Intent::decode(&bytes);
        let _ = Ended::decode(&bytes);
    }
}

#[tokio::test]
async fn what_is_open_comes_back_in_order_with_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, report) = Journal::open(dir.path(), options(), 10).unwrap();
    assert_eq!((report.replayed.open.len(), journal.owner().incarnation), (0, Incarnation(1)));
    let (silent, learnt, decided, done) = (run(), run(), run(), run());
    for r in [silent, learnt, decided, done] {
        journal.intend(&intent(r, "graph")).await.unwrap();
    }
    let verdict = Verdict { run: learnt, store: "graph".into(), outcome: Outcome::Aborted };
    assert_eq!(journal.witness(&verdict).unwrap().outcome(), Outcome::Aborted);
    let slip = journal.decide(decided, Outcome::Committed, Some("a".into())).await.unwrap();
    assert_eq!((slip.run(), slip.outcome()), (decided, Outcome::Committed));
    journal.end(&ended(done, None)).unwrap();
    journal.skip(decided, &skipped("vec")).await.unwrap();
    journal.skip(done, &skipped("vec")).await.expect("one that has ended is no fault of the log");
    journal.settle().await.unwrap();
    journal.close().unwrap();

    let (journal, report) = Journal::open(dir.path(), options(), 10).unwrap();
    assert_eq!(journal.owner().incarnation, Incarnation(2));
    let given_up: Vec<_> = report.replayed.open.iter().map(|h| h.skipped.clone()).collect();
    assert_eq!(given_up, [vec![], vec![], vec![skipped("vec")]]);
    let open = &report.replayed.open;
    let seen: Vec<_> = open.iter().map(|h| (h.intent.run, h.verdict)).collect();
    let expected = vec![(silent, None), (learnt, Some(Outcome::Aborted)), (decided, Some(Outcome::Committed))];
    assert_eq!(seen, expected);
    assert_eq!(open[2].answer.as_deref(), Some("a"));
    assert_eq!(report.replayed.ended.iter().map(|(_, e)| e.run).collect::<Vec<_>>(), vec![done]);
    assert!(journal.recall(&open[0]).is_none() && journal.recall(&open[2]).is_some());
}

#[tokio::test]
async fn a_checkpoint_frees_segments_and_loses_neither_incarnation_nor_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path(), options(), 10).unwrap();
    let note = KeyNote { key: "anonymous/k".into(), digest: [5; 32] };
    let keyed = ended(run(), Some((note, Some("answer".into()))));
    journal.end(&keyed).unwrap();
    let mut big = intent(run(), "wal");
    big.redo[0].body = vec![0; 600 << 10];
    for _ in 0..6 {
        big.run = run();
        journal.intend(&big).await.unwrap();
        journal.end(&ended(big.run, None)).unwrap();
    }
    let before = journal.stats().segments;
    journal.checkpoint(journal.next_lsn(), std::slice::from_ref(&keyed)).await.unwrap();
    assert!(journal.stats().segments < before, "{} of {before} segments are left", journal.stats().segments);
    journal.close().unwrap();
    let (journal, report) = Journal::open(dir.path(), options(), 10).unwrap();
    assert_eq!(journal.owner().incarnation, Incarnation(2));
    assert!(report.replayed.open.is_empty());
    assert_eq!(report.replayed.keyed["anonymous/k"].1, keyed);
}

#[test]
fn a_second_owner_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Journal::open(dir.path(), options(), 10).unwrap();
    assert!(matches!(Journal::open(dir.path(), options(), 10), Err(OpenError::Wal(WalError::Locked { .. }))));
}

/// The whole way from the disk to the problem that a client reads.
#[tokio::test]
async fn a_full_disk_turns_new_runs_away_with_507_and_lets_open_ones_end() {
    let disk = SimDisk::new(1);
    let options = Options { segment_bytes: 16 << 10, inline: true, spare_segments: 1, ..Options::default() };
    let (journal, _) = Journal::open_on(Arc::new(disk.clone()), options.clone(), 10).unwrap();
    disk.fail(Op::Create, 3, std::io::ErrorKind::StorageFull, true);
    let mut open = Vec::new();
    let refused = loop {
        let run = run();
        match journal.intend(&intent(run, "wal")).await {
            Ok(()) => open.push(run),
            Err(problem) => break problem,
        }
        assert!(open.len() < 1_000, "the disk becomes full");
    };
    assert!(disk.fired(Op::Create) > 0);
    assert_eq!((refused.code, refused.code.status(), refused.code.as_str()), (Code::JournalFull, 507, "journal_full"));
    assert!(!journal.is_poisoned());
    // Decisions are new too. Some are smaller than what was refused and still fit; the first one that does not is refused
    // before anything is written, so its run may still be aborted.
    let mut undecided = None;
    for (index, run) in open.iter().enumerate() {
        match journal.decide(*run, Outcome::Committed, None).await {
            Ok(_) => {}
            Err(Undecided::NotWritten(problem)) => {
                assert_eq!(problem.code, Code::JournalFull);
                undecided = Some(index);
                break;
            }
            Err(Undecided::Unknown(problem)) => panic!("{problem:?}"),
        }
    }
    let undecided = undecided.expect("there is no room for all of them");
    for run in open[undecided..].iter().take(20) {
        journal.abandon(*run).expect("what is open can end");
        journal
            .end(&Ended { run: *run, outcome: Outcome::Aborted, ..ended(*run, None) })
            .expect("what is open can end");
    }
    journal.settle().await.unwrap();
    // An operator makes room: everything goes on by itself.
    disk.heal();
    journal.intend(&intent(run(), "wal")).await.unwrap();
    drop(journal);
    let (_, report) = Journal::open_on(Arc::new(disk.crash(1)), options, 10).unwrap();
    assert!(report.wal.records > open.len() as u64);
}
