//! A job in memory: what it lets in, what follows from a verdict, what is undone in which order.

use outrigger_wal::Options;
use proptest::prelude::*;

use super::progress::Admission;
use super::*;
use crate::journal::Journal;
use crate::model::ids::{Lsn, TxnId};
use crate::model::job::{ChunkNote, JOB_UNDO_BYTES, MOST_PIECES, UNDO_BYTES};
use crate::model::ranges::Ranges;
use crate::model::state::TxnState;

fn job(total: Option<u64>) -> Job {
    of(JobLog::default(), total)
}

fn of(log: JobLog, total: Option<u64>) -> Job {
    let head = JobHead { name: "import-7".into(), principal: "app".into(), digest: [0; 32], total, began_us: 1 };
    Job::new(TxnId::fresh(), head, log, Lsn::ZERO)
}

fn note(job: &Job, number: u64, undo: Option<&str>) -> ChunkNote {
    ChunkNote { job: job.id, parent: "import-7".into(), number, undoes: false, undo: undo.map(str::to_owned) }
}

/// A chunk from its admission to its end.
fn run(job: &Job, number: u64, at: u64, undo: Option<&str>) {
    assert_eq!(job.admit(number, undo.is_some()), Ok(Admission::Begins));
    assert!(job.ended(Lsn::from_u64(at), &note(job, number, undo)));
    job.over(number, false);
}

fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> Code {
    result.unwrap_err().code
}

/// Judges, and enters what follows.
fn goes_to(job: &Job, verdict: JobVerdict) -> JobPhase {
    let Some(said) = job.judge(verdict).unwrap() else { panic!("{verdict:?} changes something") };
    let phase = said.phase;
    job.enter(said);
    phase
}

#[test]
fn a_chunk_is_let_in_once() {
    let job = job(Some(3));
    assert_eq!(job.admit(3, false).unwrap_err().pointer.as_deref(), Some("/chunk"));
    assert_eq!(job.admit(1, false), Ok(Admission::Begins));
    assert_eq!(code(job.admit(1, false)), Code::InFlight);
    assert_eq!((job.view().next, job.view().running), (Some(0), 1));
    job.over(1, false);
    run(&job, 1, 10, None);
    assert_eq!(job.admit(1, false), Ok(Admission::Done));
    run(&job, 0, 20, None);
    assert_eq!(job.view().next, Some(2));
    assert_eq!(job.admit(2, false), Ok(Admission::Begins));
    let view = job.view();
    assert_eq!((view.next, view.done, view.ranges, view.without_compensation), (None, 2, vec![(0, 1)], 2));
}

#[test]
fn a_commit_waits_for_every_chunk() {
    let job = job(Some(2));
    run(&job, 1, 10, None);
    let problem = job.judge(JobVerdict::Commit).unwrap_err();
    assert!(problem.code == Code::WrongState && problem.detail.contains("lacks 1 of its 2 chunks: the first is 0"));
    assert_eq!(job.admit(0, true), Ok(Admission::Begins), "a refused verdict stops nothing");
    let problem = job.judge(JobVerdict::Commit).unwrap_err();
    assert!(problem.detail.contains("at work or in doubt (0)"), "{problem}");
    job.ended(Lsn::from_u64(20), &note(&job, 0, Some("{}")));
    assert!(job.judge(JobVerdict::Commit).is_err(), "it is done, and still at work");
    job.over(0, false);
    let Some(said) = job.judge(JobVerdict::Commit).unwrap() else { panic!() };
    assert_eq!(said.phase, JobPhase::Committed);
    job.enter(said);
    assert!(matches!(job.judge(JobVerdict::Commit), Ok(None)));
    assert_eq!(code(job.judge(JobVerdict::RollBack)), Code::WrongState);
}

#[test]
fn while_its_end_is_written_no_chunk_begins() {
    let job = job(None);
    assert!(matches!(job.judge(JobVerdict::Commit), Ok(Some(_))));
    assert_eq!(code(job.admit(0, false)), Code::WrongState);
    job.reopen();
    assert_eq!(job.admit(0, false), Ok(Admission::Begins));
}

#[test]
fn what_nothing_undoes_is_listed_before_anything_is_undone() {
    let job = job(None);
    run(&job, 4, 10, Some("{}"));
    run(&job, 5, 20, None);
    assert_eq!(job.admit(9, false), Ok(Admission::Begins));
    let problem = job.judge(JobVerdict::RollBack).unwrap_err();
    assert!(problem.detail.contains("no `compensate`: 5, 9."), "{problem}");
    assert_eq!(code(job.judge(JobVerdict::MarkFailed)), Code::WrongState, "chunk 9 is at work");
    job.over(9, false);
    assert_eq!(goes_to(&job, JobVerdict::MarkFailed), JobPhase::Aborted);
    assert!(matches!(job.judge(JobVerdict::MarkFailed), Ok(None)));
    assert_eq!(code(job.judge(JobVerdict::RollBack)), Code::WrongState);
}

#[test]
fn the_last_chunk_is_undone_first_and_by_one_only() {
    let job = job(None);
    for (number, at) in [(3, 10), (1, 30), (2, 20)] {
        run(&job, number, at, Some("{}"));
    }
    assert!(job.next_undo().is_none() && !job.wants_undoing(), "nobody has rolled it back");
    assert_eq!(goes_to(&job, JobVerdict::RollBack), JobPhase::Compensating);
    assert!(matches!(job.judge(JobVerdict::RollBack), Ok(None)));
    assert_eq!(code(job.admit(7, true)), Code::WrongState);
    assert_eq!(code(job.judge(JobVerdict::Commit)), Code::WrongState);
    assert!(job.wants_undoing() && !job.wants_undoing());
    let mut order = Vec::new();
    while let Some(undo) = job.next_undo() {
        assert!(!job.all_undone());
        let note = ChunkNote { undoes: true, ..note(&job, undo.chunk, None) };
        job.works(&note);
        job.ended(Lsn::from_u64(40), &note);
        job.over(undo.chunk, true);
        order.push(undo.chunk);
    }
    assert_eq!(order, [1, 2, 3]);
    assert!(job.all_undone());
    assert_eq!((job.view().undone, job.view().next), (3, None));
}

#[test]
fn undoing_can_be_given_up_and_taken_up_again() {
    let job = job(None);
    run(&job, 0, 10, Some("{}"));
    goes_to(&job, JobVerdict::RollBack);
    assert!(job.wants_undoing());
    job.give_up(true);
    assert!(job.next_undo().is_none() && !job.wants_undoing() && !job.all_undone());
    // The verdict was not written: somebody has to go on.
    job.reopen();
    assert!(job.wants_undoing());
    assert!(job.next_undo().is_some());
    job.give_up(true);
    let Some(said) = job.judge(JobVerdict::MarkFailed).unwrap() else { panic!() };
    assert!(said.cause.as_ref().unwrap().1.contains("these chunks stay as they are: 0"), "{said:?}");
}

#[test]
fn what_it_keeps_is_bounded() {
    let every_second: Ranges = (0..MOST_PIECES as u64).map(|n| (n * 2, n * 2)).collect();
    let pieces = of(JobLog { done: every_second, ..JobLog::default() }, None);
    let last = MOST_PIECES as u64 * 2;
    assert_eq!(code(pieces.admit(last + 1, false)), Code::PayloadTooLarge);
    assert_eq!(pieces.admit(1, false), Ok(Admission::Begins), "one that closes a gap");
    let text = "x".repeat(UNDO_BYTES);
    let heavy = job(None);
    for number in 0..(JOB_UNDO_BYTES / UNDO_BYTES) as u64 {
        run(&heavy, number, number + 1, Some(&text));
    }
    assert_eq!(code(heavy.admit(1 << 40, true)), Code::PayloadTooLarge);
    assert_eq!(heavy.admit(1 << 40, false), Ok(Admission::Begins), "one that keeps nothing");
}

#[test]
fn the_transaction_of_a_job_goes_where_its_phase_says() {
    for (phase, state) in [
        (JobPhase::Open, TxnState::Active),
        (JobPhase::Compensating, TxnState::Compensating),
        (JobPhase::Committed, TxnState::Committed),
        (JobPhase::Compensated, TxnState::Compensated),
        (JobPhase::Aborted, TxnState::Aborted),
    ] {
        let entry = Entry::from_past(TxnId::fresh(), None, None, None, Lsn::ZERO, 0);
        stand(&entry, phase, None);
        assert_eq!(entry.state(), state);
        assert_eq!(phase.has_ended(), state.has_ended());
    }
}

/// A job that the log has left far behind is written again, once, and nothing is lost when the old segments go.
#[tokio::test]
async fn a_job_moves_on_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { segment_bytes: 1 << 20, force_filesystem: true, ..Options::default() };
    let id = {
        let (journal, _) = Journal::open(dir.path(), options(), 10).unwrap();
        let place = journal.next_lsn();
        let head = JobHead { name: "n".into(), principal: "app".into(), digest: [0; 32], total: None, began_us: 1 };
        let log = JobLog { head: Some(head.clone()), at_us: 1, ..JobLog::default() };
        let job = Job::new(TxnId::fresh(), head, log.clone(), place);
        journal.note_job(job.id, &log).await.unwrap();
        run(&job, 0, 7, Some("{}"));
        assert_eq!(job.carry(&journal, journal.next_lsn()), Ok(place), "it is not far behind: it holds the log");
        for _ in 0..24 {
            // Anything large: a job that nobody knows.
            let large = JobLog { cause: Some(("x".repeat(900 << 10), String::new())), ..JobLog::default() };
            journal.copy_job(TxnId::fresh(), &large).unwrap();
        }
        let needed = journal.next_lsn();
        assert_eq!(job.carry(&journal, needed), Ok(needed), "it is written again and holds nothing");
        let copied = journal.next_lsn();
        assert_eq!((job.carry(&journal, needed), journal.next_lsn()), (Ok(needed), copied), "once is enough");
        let before = journal.stats().segments;
        journal.checkpoint(needed, &[]).await.unwrap();
        assert!(journal.stats().segments + 10 < before, "{} of {before}", journal.stats().segments);
        journal.close().unwrap();
        job.id
    };
    let (_, report) = Journal::open(dir.path(), options(), 10).unwrap();
    let (_, job) = &report.replayed.jobs[&id];
    assert!(job.head.is_some() && job.done.contains(0) && job.undos.len() == 1, "{job:?}");
}

proptest! {
    /// Whatever is sent, refused and done in whatever order: what is done is done once, and `next` is never done.
    #[test]
    fn chunks_are_done_once(acts in prop::collection::vec((0u64..8, any::<bool>()), 0..60)) {
        let job = job(Some(8));
        let mut done = std::collections::BTreeSet::new();
        for (at, (number, commits)) in acts.into_iter().enumerate() {
            match job.admit(number, true) {
                Ok(Admission::Done) => prop_assert!(done.contains(&number)),
                Ok(Admission::Begins) => {
                    prop_assert!(!done.contains(&number));
                    if commits {
                        job.ended(Lsn::from_u64(at as u64), &note(&job, number, Some("{}")));
                        done.insert(number);
                    } else {
                        job.refused(&note(&job, number, None), "conflict", "why");
                    }
                    job.over(number, false);
                }
                Err(problem) => prop_assert!(false, "{problem}"),
            }
            let view = job.view();
            prop_assert_eq!(view.done, done.len() as u64);
            prop_assert_eq!(view.next, (0..8).find(|number| !done.contains(number)));
            prop_assert!(view.failed.is_none_or(|failed| !done.contains(&failed.chunk)));
        }
    }
}
