//! The ring, the ids, and that ring and log together tell everything once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use outrigger_wal::Options;
use outrigger_wal::sim::SimDisk;
use proptest::prelude::*;

use super::ring::{Look, Ring};
use super::*;
use crate::journal::Journal;
use crate::journal::prepared::{Prepared, Terms};
use crate::journal::record::{Ended, Intent};
use crate::model::commit::{Decider, Verdict};
use crate::model::ids::{Attempt, Run};
use crate::model::request::{Isolation, OnExpiry};
use crate::model::state::{Outcome, TxnState};
use crate::model::trace::TraceId;

const SOON: Duration = Duration::from_millis(1);

fn about() -> Arc<About> {
    Arc::new(About { transaction: TxnId::fresh(), name: Some("n".into()), trace: Some(TraceId::fresh()) })
}

fn step(about: &Arc<About>, kind: &'static str) -> Happening {
    Happening::step(about.clone(), Attempt::FIRST, 1, kind, TxnState::Active, None)
}

fn lsn(at: u64) -> Lsn {
    Lsn::from_u64(at)
}

fn ring(events: usize) -> Ring {
    Ring::new(Bounds { events, ..Bounds::default() }, lsn(100), Happening::opened(0, Incarnation(1)))
}

fn places(look: Look) -> Vec<(u64, u64)> {
    match look {
        Look::Next(told) => told.iter().map(|told| (told.place.lsn.as_u64(), told.place.step)).collect(),
        Look::Behind(lost) => panic!("behind {lost:?}"),
    }
}

#[test]
fn records_are_told_in_the_order_of_the_log_and_steps_at_once() {
    let (mut ring, about) = (ring(100), about());
    ring.step(step(&about, "a"));
    // Two appends at the same time: the second is done first and has to wait for the first one's place.
    let (first, second) = (ring.expect(lsn(200)), ring.expect(lsn(200)));
    let second = ring.written(second, lsn(300));
    ring.ready(second, step(&about, "second"));
    ring.step(step(&about, "b"));
    assert_eq!(places(ring.look(Place::default().max(ring_start()), 9)), [(100, 0), (100, 1), (100, 2)]);
    let first = ring.written(first, lsn(200));
    ring.step(step(&about, "c"));
    // The first one is being forced: one that was never written holds up nobody.
    let never = ring.expect(lsn(300));
    ring.withdraw(never);
    ring.ready(first, step(&about, "first"));
    ring.step(step(&about, "d"));
    let told = places(ring.look(ring_start(), 9));
    assert_eq!(told, [(100, 0), (100, 1), (100, 2), (100, 3), (200, 0), (300, 0), (300, 1)]);
    assert_eq!(ring.told(), 7);
}

fn ring_start() -> Place {
    Place { lsn: lsn(99), step: u64::MAX }
}

#[test]
fn the_ring_is_bounded_by_number_and_by_bytes_and_says_what_it_let_go() {
    let (mut ring, about) = (ring(4), about());
    for _ in 0..10 {
        ring.step(step(&about, "s"));
    }
    assert_eq!(ring.look(ring_start(), 9), Look::Behind(Place { lsn: lsn(100), step: 6 }));
    assert_eq!(places(ring.look(Place { lsn: lsn(100), step: 6 }, 9)), [(100, 7), (100, 8), (100, 9), (100, 10)]);
    assert_eq!(places(ring.look(Place { lsn: lsn(100), step: 8 }, 1)), [(100, 9)]);
    assert_eq!(places(ring.look(Place { lsn: lsn(100), step: 10 }, 1)), []);

    let bounds = Bounds { events: 1000, bytes: 8 << 10 };
    let mut ring = Ring::new(bounds, lsn(100), Happening::opened(0, Incarnation(1)));
    let long = "ä".repeat(2000);
    let loud = Happening::step(about, Attempt::FIRST, 1, "s", TxnState::Active, Some(&long));
    assert_eq!(loud.detail.as_ref().map(|detail| detail.len()), Some(1024), "cut between two characters");
    for _ in 0..100 {
        ring.step(loud.clone());
    }
    let Look::Behind(lost) = ring.look(ring_start(), 9) else { panic!("all of it is kept") };
    assert!((3..=7).contains(&(100 - lost.step)), "{lost:?}");
}

#[test]
fn an_id_reads_back_and_nothing_else_is_one() {
    for text in ["0-0-0", "4096-3-17", "18446744073709551615-1-18446744073709551615", "4096"] {
        assert_eq!(text.parse::<EventId>().map(|id| id.to_string()), Ok(text.to_owned()));
    }
    for text in ["", "-", "1-2", "1-2-3-4", "+1-2-3", "1-2-x", " 1-2-3", "1-2-18446744073709551616"] {
        assert_eq!(text.parse::<EventId>(), Err(NoEventId), "{text}");
    }
}

fn options() -> Options {
    Options { segment_bytes: 16 << 10, inline: true, spare_segments: 1, ..Options::default() }
}

fn open(disk: &SimDisk) -> Journal {
    Journal::open_on(Arc::new(disk.clone()), options(), 10).unwrap().0
}

fn intent(run: Run) -> Intent {
    Intent {
        run,
        name: Some("job".into()),
        decider: Decider::Wal,
        preparers: Vec::new(),
        redo: Vec::new(),
        claims: Vec::new(),
        key: None,
        began_us: 1,
        reason: String::new(),
        durable: Lsn::ZERO,
        chunk: None,
        trace: TraceId::from_bytes(&[7; 16]),
    }
}

fn ended(run: Run, outcome: Outcome) -> Ended {
    Ended {
        name: Some("job".into()),
        cause: (outcome == Outcome::Aborted).then(|| ("timeout".into(), "too late".into())),
        trace: TraceId::from_bytes(&[7; 16]),
        ..Ended::of(run, outcome, 1, 2)
    }
}

fn follow(journal: &Journal, only: Only, after: Option<EventId>) -> Follower {
    journal.follow(only, Arc::new(|_| None), after).unwrap()
}

/// Everything that there is now.
async fn hear(journal: &Journal, follower: &mut Follower) -> Vec<Item> {
    let mut heard = Vec::new();
    let now = follow(journal, Only::All, None).at();
    while follower.at().place < now.place {
        heard.extend(follower.next(SOON).await.unwrap().items);
    }
    heard
}

fn events(items: &[Item]) -> Vec<(String, Happening)> {
    let event = |item: &Item| match item {
        Item::Event(id, what) => Some((id.to_string(), what.clone())),
        Item::Gap(_) => None,
    };
    items.iter().filter_map(event).collect()
}

fn kinds(items: &[Item]) -> Vec<&'static str> {
    let kind = |item: &Item| match item {
        Item::Event(_, what) => what.kind,
        Item::Gap(gap) if gap.lost == Lost::Steps => "gap of steps",
        Item::Gap(_) => "gap of records",
    };
    items.iter().map(kind).collect()
}

fn fresh() -> Run {
    Run { txn: TxnId::fresh(), attempt: Attempt(2) }
}

/// A whole life that the log decides; a step of it that no record says.
async fn live(journal: &Journal, outcome: Outcome) -> Run {
    let run = fresh();
    let about =
        Arc::new(About { transaction: run.txn, name: Some("job".into()), trace: TraceId::from_bytes(&[7; 16]) });
    journal.feed().introduce(&about);
    journal.feed().step(step(&about, "begun"));
    journal.intend(&intent(run)).await.unwrap();
    match outcome {
        Outcome::Committed => drop(journal.decide(run, outcome, None).await.unwrap()),
        Outcome::Aborted => drop(journal.abandon(run).unwrap()),
    }
    journal.end(&ended(run, outcome)).unwrap();
    journal.feed().dismiss(run.txn);
    run
}

#[tokio::test]
async fn a_record_is_told_alike_from_the_ring_and_from_the_log() {
    let disk = SimDisk::new(1);
    let journal = open(&disk);
    let start = follow(&journal, Only::All, Some("0".parse().unwrap())).at();
    let mut follower = follow(&journal, Only::All, None);
    live(&journal, Outcome::Committed).await;
    live(&journal, Outcome::Aborted).await;
    let heard = hear(&journal, &mut follower).await;
    assert_eq!(kinds(&heard), ["begun", "intended", "decided", "ended", "begun", "intended", "decided", "ended"]);
    let states: Vec<_> = events(&heard).iter().map(|(_, what)| what.state.unwrap().as_str()).collect();
    assert_eq!(states, ["active", "active", "committing", "committed", "active", "active", "aborting", "aborted"]);
    let last = &events(&heard)[7].1;
    assert_eq!(last.detail.as_deref(), Some("timeout: too late"));
    drop(follower);

    // The ring is full of something else: the same again from the log, but for the steps.
    let loud = about();
    for _ in 0..5000 {
        journal.feed().step(step(&loud, "loud"));
    }
    let mut again = follow(&journal, Only::Name("job".into()), Some(start));
    let read = hear(&journal, &mut again).await;
    assert_eq!(
        kinds(&read),
        ["gap of steps", "opened", "intended", "decided", "ended", "intended", "decided", "ended"]
    );
    let records: Vec<_> = events(&heard).into_iter().filter(|(_, what)| what.kind != "begun").collect();
    assert_eq!(&events(&read)[1..], records, "ids, times, names and all");
    assert_eq!(hear(&journal, &mut again).await, []);
    live(&journal, Outcome::Committed).await;
    assert_eq!(
        kinds(&hear(&journal, &mut again).await),
        ["begun", "intended", "decided", "ended"],
        "and live from there"
    );
}

#[tokio::test]
async fn what_waits_for_its_verdict_is_told_once_however_often_its_record_is_written() {
    let disk = SimDisk::new(1);
    let journal = open(&disk);
    let mut follower = follow(&journal, Only::All, None);
    let start = follower.at();
    let run = fresh();
    let prepared = Prepared {
        intent: intent(run),
        principal: "p".into(),
        expires_us: 1,
        on_expiry: OnExpiry::Rollback,
        terms: Terms {
            timeout_ms: 1,
            wait_decided: false,
            isolation: Isolation::ReadCommitted,
            again: Vec::new(),
            told: Vec::new(),
        },
        answer: None,
    };
    journal.promise(&prepared).await.unwrap();
    journal.promise_again(&prepared).await.unwrap();
    journal.put_to(&prepared.intent).await.unwrap();
    journal.rule(run, Outcome::Committed, None).await.unwrap();
    journal.end(&ended(run, Outcome::Committed)).unwrap();
    let heard = events(&hear(&journal, &mut follower).await);
    let states: Vec<_> = heard.iter().map(|(_, what)| (what.kind, what.state.unwrap().as_str())).collect();
    assert_eq!(
        states,
        [("prepared", "prepared"), ("intended", "prepared"), ("decided", "committing"), ("ended", "committed")]
    );
    let loud = about();
    for _ in 0..5000 {
        journal.feed().step(step(&loud, "loud"));
    }
    let mut again = follow(&journal, Only::Transaction(run.txn), Some(start));
    let read = events(&hear(&journal, &mut again).await);
    // Nobody knew the transaction's name when its verdict was told; whoever reads the log does.
    assert_eq!(read[2].1.about.as_ref().unwrap().name.as_deref(), Some("job"));
    let ids = |events: &[(String, Happening)]| {
        events.iter().map(|(id, what)| (id.clone(), what.kind, what.state)).collect::<Vec<_>>()
    };
    assert_eq!(ids(&read), ids(&heard));
}

#[tokio::test]
async fn whoever_reads_too_slowly_is_told_what_is_missing() {
    let disk = SimDisk::new(1);
    let journal = open(&disk);
    let mut slow = follow(&journal, Only::All, None);
    let loud = about();
    journal.feed().step(step(&loud, "heard"));
    assert_eq!(kinds(&hear(&journal, &mut slow).await), ["heard"]);
    let here = slow.at();
    for _ in 0..6000 {
        journal.feed().step(step(&loud, "missed"));
    }
    live(&journal, Outcome::Committed).await;
    let heard = hear(&journal, &mut slow).await;
    assert_eq!(heard[0], Item::Gap(Gap { lost: Lost::Steps, after: here, resume: here }));
    // The ring still holds the end of it all.
    assert_eq!(heard.len(), 1 + 4096);
    assert_eq!(kinds(&heard)[4093..], ["begun", "intended", "decided", "ended"]);
}

#[tokio::test]
async fn where_segments_are_gone_the_gap_names_what_is_left() {
    let disk = SimDisk::new(1);
    let journal = open(&disk);
    let mut follower = follow(&journal, Only::All, None);
    live(&journal, Outcome::Committed).await;
    let first = events(&hear(&journal, &mut follower).await);
    let mut copied = ended(fresh(), Outcome::Committed);
    copied.key = Some((crate::model::commit::KeyNote { key: "a/k".into(), digest: [1; 32] }, None));
    journal.end(&copied).unwrap();
    while journal.stats().segments < 6 {
        live(&journal, Outcome::Committed).await;
    }
    journal.checkpoint(journal.next_lsn(), std::slice::from_ref(&copied)).await.unwrap();
    let left = journal.stats().oldest_lsn;
    live(&journal, Outcome::Committed).await;
    for _ in 0..5000 {
        journal.feed().step(step(&about(), "loud"));
    }
    let after: EventId = first[1].0.parse().unwrap();
    let mut late = follow(&journal, Only::Name("job".into()), Some(after));
    let heard = hear(&journal, &mut late).await;
    assert_eq!(kinds(&heard)[..2], ["gap of steps", "gap of records"]);
    let Item::Gap(gap) = &heard[1] else { panic!("{:?}", heard[1]) };
    assert_eq!((gap.after, gap.resume.place.lsn), (after, lsn(left.as_u64() - 1)));
    let told = events(&heard);
    assert!(
        told.iter().all(|(_, what)| what.about.as_ref().is_none_or(|a| a.transaction != copied.run.txn)),
        "an end that a checkpoint wrote again has not happened again"
    );
    // Whoever asks again from where the gap says misses nothing and hears of no gap.
    let mut again = follow(&journal, Only::Name("job".into()), Some(gap.resume));
    let read = hear(&journal, &mut again).await;
    assert_eq!((kinds(&read)[0], &read[1..]), ("gap of steps", &heard[2..]));
}

#[tokio::test]
async fn an_id_that_this_log_has_not_told_is_refused() {
    let disk = SimDisk::new(1);
    drop(open(&disk));
    let journal = open(&disk);
    let last = follow(&journal, Only::All, None).at();
    let beyond = Place { step: last.place.step + 1, ..last.place };
    for id in [
        EventId { place: beyond, ..last },
        EventId { incarnation: Some(Incarnation(3)), ..last },
        EventId { place: Place { lsn: Lsn::MAX, step: 0 }, incarnation: None },
    ] {
        let refused = journal.follow(Only::All, Arc::new(|_| None), Some(id)).err().unwrap();
        assert_eq!(refused.code, crate::model::problem::Code::InvalidRequest, "{id}");
    }
}

/// One thing that a test does.
#[derive(Clone, Debug)]
enum Act {
    Step,
    Life(bool),
    Forced,
    Listen,
    Crash(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Step),
        4 => any::<bool>().prop_map(Act::Life),
        2 => Just(Act::Forced),
        4 => Just(Act::Listen),
        1 => any::<u64>().prop_map(Act::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is appended, forced, heard and lost by power cuts: a follower who asks again with its last id hears every
    /// record that is still in the log exactly once, in order, and never one twice.
    #[test]
    fn nothing_is_told_twice_and_nothing_is_left_out(acts in proptest::collection::vec(act(), 1..40), seed in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(history(acts, seed))?;
    }
}

async fn history(acts: Vec<Act>, seed: u64) -> Result<(), TestCaseError> {
    let mut disk = SimDisk::new(seed);
    let mut journal = open(&disk);
    let mut last = follow(&journal, Only::All, None).at();
    // What was heard: by transaction and kind, with the Lsn of its record.
    let mut heard: BTreeMap<(TxnId, &'static str), u64> = BTreeMap::new();
    for act in acts {
        match act {
            Act::Step => journal.feed().step(step(&about(), "step")),
            Act::Life(true) => drop(live(&journal, Outcome::Committed).await),
            // Nothing of this one is forced: a power cut may take it though it was heard.
            Act::Life(false) => {
                let run = fresh();
                journal.append_intent(&intent(run)).unwrap();
                journal.witness(&Verdict { run, store: "pg".into(), outcome: Outcome::Committed }).unwrap();
                journal.end(&ended(run, Outcome::Committed)).unwrap();
            }
            Act::Forced => journal.settle().await.unwrap(),
            Act::Listen => {
                // A client that asks anew each time.
                let mut follower = follow(&journal, Only::All, Some(last));
                listen(&journal, &mut follower, &mut heard).await?;
                last = follower.at();
            }
            Act::Crash(seed) => {
                drop(journal);
                disk = disk.crash(seed);
                journal = open(&disk);
                // What the crash took was heard, and is gone.
                let there = in_the_log(&journal).await;
                heard.retain(|what, _| there.contains_key(what));
            }
        }
    }
    let mut follower = follow(&journal, Only::All, Some(last));
    listen(&journal, &mut follower, &mut heard).await?;
    let there = in_the_log(&journal).await;
    let missing: BTreeSet<_> = there.keys().filter(|what| !heard.contains_key(what)).collect();
    // What the first follower was too late for: it began at "now", behind nothing.
    prop_assert!(missing.is_empty(), "never heard: {missing:?}");
    Ok(())
}

async fn listen(
    journal: &Journal,
    follower: &mut Follower,
    heard: &mut BTreeMap<(TxnId, &'static str), u64>,
) -> Result<(), TestCaseError> {
    for item in hear(journal, follower).await {
        if let Item::Event(id, Happening { about: Some(about), kind, .. }) = item
            && kind != "step"
            && kind != "begun"
        {
            let before = heard.insert((about.transaction, kind), id.place.lsn.as_u64());
            prop_assert!(before.is_none(), "{kind} of {} is told twice", about.transaction);
        }
    }
    Ok(())
}

/// Every record's event that a follower from the very beginning hears, once each.
async fn in_the_log(journal: &Journal) -> BTreeMap<(TxnId, &'static str), u64> {
    let mut all = BTreeMap::new();
    let mut follower = follow(journal, Only::All, Some("0".parse().unwrap()));
    listen(journal, &mut follower, &mut all).await.unwrap();
    all
}
