use outrigger_wal::Options;
use proptest::prelude::*;

use super::super::Journal;
use super::*;
use crate::model::ids::{Attempt, Run};
use crate::model::state::Outcome;

use super::super::record::Ended;

fn head() -> JobHead {
    JobHead { name: "import-7".into(), principal: "app".into(), digest: [3; 32], total: Some(40), began_us: 5 }
}

fn opened() -> JobLog {
    JobLog { head: Some(head()), at_us: 5, ..JobLog::default() }
}

fn note(job: TxnId, number: u64, undo: Option<&str>) -> ChunkNote {
    ChunkNote { job, parent: "import-7".into(), number, undoes: false, undo: undo.map(str::to_owned) }
}

fn done(chunk: ChunkNote, outcome: Outcome) -> Ended {
    Ended {
        cause: (outcome == Outcome::Aborted).then(|| ("conflict".to_owned(), "why".to_owned())),
        chunk: Some(chunk),
        ..Ended::of(Run { txn: TxnId::fresh(), attempt: Attempt::FIRST }, outcome, 1, 2)
    }
}

fn at(lsn: u64) -> Lsn {
    Lsn::from_u64(lsn)
}

/// A job of which something was said: chunks in the given order, some with compensations, some undone.
fn lived(acts: &[(u64, bool, bool)]) -> JobLog {
    let (id, mut job) = (TxnId::fresh(), opened());
    for (place, (chunk, undoable, undone)) in acts.iter().enumerate() {
        job.ended(at(place as u64 * 10 + 100), &note(id, *chunk, undoable.then_some("{}")));
        if *undone {
            job.ended(at(place as u64 * 10 + 105), &ChunkNote { undoes: true, ..note(id, *chunk, None) });
        }
    }
    job
}

proptest! {
    #[test]
    fn a_job_reads_back_in_one_record_or_in_many(acts in prop::collection::vec((0u64..30, any::<bool>(), any::<bool>()), 0..40), most in 1usize..2000) {
        let (id, job) = (TxnId::fresh(), lived(&acts));
        let mut back = JobLog::default();
        for record in job.encode(id, most) {
            let (of, said) = JobLog::decode(&record).unwrap();
            prop_assert_eq!(of, id);
            back.absorb(said);
        }
        prop_assert_eq!(back, job);
    }

    /// A copy of the whole job may stand anywhere among the ends of its chunks, once or twice.
    #[test]
    fn the_order_of_what_is_said_does_not_matter(acts in prop::collection::vec((0u64..12, any::<bool>(), any::<bool>()), 0..20), copied in 0usize..20, from in 0usize..20) {
        let whole = lived(&acts);
        let (copied, from) = (copied.min(acts.len()), from.min(acts.len()));
        // The records from `from` on are left, with a copy of what was known at `copied` somewhere behind it.
        let copy = lived(&acts[..copied]);
        let id = TxnId::fresh();
        let mut back = JobLog::default();
        for (place, (chunk, undoable, undone)) in acts.iter().enumerate().skip(from.min(copied)) {
            back.ended(at(place as u64 * 10 + 100), &note(id, *chunk, undoable.then_some("{}")));
            if *undone {
                back.ended(at(place as u64 * 10 + 105), &ChunkNote { undoes: true, ..note(id, *chunk, None) });
            }
        }
        back.absorb(copy);
        prop_assert_eq!((&back.done, &back.undone), (&whole.done, &whole.undone));
        let chunks = |job: &JobLog| job.undos.values().map(|undo| undo.chunk).collect::<std::collections::BTreeSet<_>>();
        // What has been undone needs no compensation any more; of the rest each is there, or known to be missing.
        for chunk in chunks(&back) {
            prop_assert!(!back.undone.contains(chunk) && !back.bare.contains(chunk));
        }
        prop_assert!(chunks(&whole).is_subset(&chunks(&back)), "{back:?} {whole:?}");
    }

    #[test]
    fn damaged_records_are_refused_or_read_but_never_panic(mut place in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
        let mut bytes = lived(&[(1, true, false), (3, false, false)]).encode(TxnId::fresh(), 1 << 20).remove(0);
        place %= bytes.len();
        bytes[place] = byte;
        let _ = JobLog::decode(&bytes);
        bytes.truncate(cut);
        let _ = JobLog::decode(&bytes);
    }
}

#[test]
fn a_refusal_is_told_until_its_chunk_is_done() {
    let (id, mut job) = (TxnId::fresh(), opened());
    job.refused(&note(id, 4, None), ("conflict".into(), "why".into()));
    assert_eq!(job.failed.as_ref().map(|failed| failed.chunk), Some(4));
    assert!(job.ended(at(9), &note(id, 4, None)) && job.failed.is_none());
    job.refused(&note(id, 4, None), ("conflict".into(), "late".into()));
    assert!(job.failed.is_none(), "it is done: a late refusal says nothing");
}

fn options() -> Options {
    Options { segment_bytes: 1 << 20, force_filesystem: true, ..Options::default() }
}

#[tokio::test]
async fn a_job_comes_back_with_what_is_done_and_in_which_order() {
    let dir = tempfile::tempdir().unwrap();
    let id = TxnId::fresh();
    {
        let (journal, _) = Journal::open(dir.path(), options(), 10).unwrap();
        journal.note_job(id, &opened()).await.unwrap();
        for chunk in [2, 0, 1] {
            journal.end(&done(note(id, chunk, Some("{}")), Outcome::Committed)).unwrap();
        }
        journal.end(&done(note(id, 3, Some("{}")), Outcome::Aborted)).unwrap();
        journal.close().unwrap();
    }
    let (journal, report) = Journal::open(dir.path(), options(), 10).unwrap();
    let (_, job) = &report.replayed.jobs[&id];
    assert_eq!((job.head.as_ref(), job.done.as_slice(), job.phase), (Some(&head()), &[(0, 2)][..], JobPhase::Open));
    assert_eq!(job.undos.values().map(|undo| undo.chunk).collect::<Vec<_>>(), [2, 0, 1], "the order of completion");
    assert_eq!(job.failed.as_ref().map(|failed| (failed.chunk, failed.code.as_str())), Some((3, "conflict")));
    assert!(report.replayed.ended.iter().all(|(_, ended)| ended.chunk.as_ref().unwrap().undo.is_none()));
    let end = JobLog { phase: JobPhase::Committed, at_us: 9, ..JobLog::default() };
    journal.note_job(id, &end).await.unwrap();
    journal.close().unwrap();
    drop(journal);
    let (_, report) = Journal::open(dir.path(), options(), 10).unwrap();
    assert!(report.replayed.jobs.is_empty());
    let (of, ended) = &report.replayed.ended_jobs[0];
    assert_eq!((*of, ended.phase, ended.at_us, ended.done.count()), (id, JobPhase::Committed, 9, 3));
}

#[tokio::test]
async fn a_copy_lets_old_segments_go_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let id = TxnId::fresh();
    let text = format!("\"{}\"", "x".repeat(50 << 10));
    let before = {
        let (journal, _) = Journal::open(dir.path(), options(), 10).unwrap();
        let mut job = opened();
        journal.note_job(id, &opened()).await.unwrap();
        for chunk in 0..60 {
            let note = note(id, chunk, Some(&text));
            let lsn = journal.end(&done(note.clone(), Outcome::Committed)).unwrap();
            job.ended(lsn, &note);
        }
        let before = journal.stats().segments;
        // A chunk that ends while the job is copied: only its own end, which stands before the copy, tells of it.
        let needed = journal.end(&done(note(id, 60, Some("{}")), Outcome::Committed)).unwrap();
        journal.copy_job(id, &job).unwrap();
        journal.checkpoint(needed, &[]).await.unwrap();
        assert!(journal.stats().segments < before + 3, "{} after {before}", journal.stats().segments);
        journal.close().unwrap();
        job
    };
    let (_, report) = Journal::open(dir.path(), options(), 10).unwrap();
    let (place, job) = &report.replayed.jobs[&id];
    let first = job.undos.values().map(|undo| undo.chunk).find(|chunk| *chunk == 60);
    assert!(
        first.is_some() && job.undos.iter().any(|(lsn, undo)| undo.chunk == 60 && lsn >= place),
        "{place} is too late"
    );
    assert_eq!((job.head.as_ref(), job.done.as_slice()), (Some(&head()), &[(0, 60)][..]));
    let order = |job: &JobLog| job.undos.iter().map(|(lsn, undo)| (*lsn, undo.chunk)).take(60).collect::<Vec<_>>();
    assert_eq!(order(job), order(&before));
    assert_eq!(job.undos.len(), 61);
}
