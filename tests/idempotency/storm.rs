//! Sixteen clients send the same request with the same key at once, round after round, while their sidecar is killed:
//! each round leaves one effect, and everybody who gets an answer gets the same one.
//!
//! `OUTRIGGER_ROUNDS=100` runs that many rounds of each plan; `OUTRIGGER_SEED` repeats the kills.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tokio::time::Instant;
use xtask::sidecar::{Launch, Sidecar};

use crate::once::{Decides, effects, prepare, request};
use crate::world::World;

const CLIENTS: usize = 16;
/// Rounds of each plan where nobody asks for more.
const FEW: i64 = 2;
/// No round may take longer: a client that never gets an answer is a failure too.
const ROUND: Duration = Duration::from_secs(60);

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a client met on its way to its answer.
#[derive(Default, Debug)]
struct Met {
    hung_up: usize,
    in_flight: usize,
    other: usize,
    replayed: usize,
}

/// Sends it until the answer is final; now to this sidecar, now to that.
async fn client(world: Arc<World>, urls: Vec<String>, body: Arc<Value>, key: String, first: usize) -> (Value, Met) {
    let mut met = Met::default();
    for turn in first.. {
        match world.post(&urls[turn % urls.len()], &body, Some(&key)).await {
            Ok(reply) if reply.status == 200 && reply.state() == "committed" => {
                met.replayed += usize::from(reply.headers.contains_key("idempotency-replayed"));
                return (reply.body, met);
            }
            Ok(reply) if reply.code() == "in_flight" => {
                assert_eq!((reply.status, reply.headers["retry-after"].to_str().unwrap()), (409, "1"));
                met.in_flight += 1;
            }
            Ok(reply) => {
                let open = reply.status == 202 || reply.state() == "committing";
                assert!(open || reply.body["retryable"] == true, "{key}: {} {:#}", reply.status, reply.body);
                met.other += 1;
            }
            Err(_) => met.hung_up += 1,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    unreachable!("the turns do not end")
}

/// Where the next life of the sidecar ends: at a named place, or after some milliseconds of a round; or not at all.
#[derive(Clone, Copy, Debug)]
enum Fate {
    At(&'static str),
    After(u64),
    Lives,
}

fn fate(random: &mut StdRng, decides: Decides) -> Fate {
    let places: &[&str] = match decides {
        Decides::Log => &["before_intent", "after_verdict", "mid_finish", "before_done", "after_done"],
        Decides::Postgres => &["after_intent", "after_decide", "after_verdict", "mid_finish", "before_done"],
        Decides::Neo4j => &["after_intent", "after_prepare", "after_decide", "mid_finish", "before_done", "after_done"],
    };
    match random.random_range(0..4) {
        0 => Fate::Lives,
        1 => Fate::After(random.random_range(0..40)),
        _ => Fate::At(places[random.random_range(0..places.len())]),
    }
}

/// One plan's rounds.
struct Storm {
    world: Arc<World>,
    decides: Decides,
    launch: Launch,
    urls: Vec<String>,
    sidecar: Option<Sidecar>,
    kills: usize,
    met: Met,
}

impl Storm {
    /// Everybody sends the request of `mark`; the sidecar meets its fate meanwhile and is started again. Answers what
    /// each client was told.
    async fn round(&mut self, mark: i64, fate: Fate) -> Vec<(Value, Met)> {
        if self.sidecar.is_none() || matches!(fate, Fate::At(_)) {
            drop(self.sidecar.take());
            let armed = match fate {
                Fate::At(place) => self.launch.with("OUTRIGGER_CRASH_AT", place),
                Fate::After(_) | Fate::Lives => self.launch.clone(),
            };
            let mut life = armed.start().unwrap();
            // What the round before left may make its recovery pass the place: then it is not ready, but dead.
            let _ = tokio::task::block_in_place(|| life.wait_ready(Duration::from_secs(20)));
            self.sidecar = Some(life);
        }
        let body = Arc::new(request(&self.world, self.decides, mark));
        let key = format!("{}-{mark}", self.world.name);
        let send = |n| tokio::spawn(client(self.world.clone(), self.urls.clone(), body.clone(), key.clone(), n));
        let clients: Vec<_> = (0..CLIENTS).map(send).collect();
        if let Fate::After(millis) = fate {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            self.sidecar = None;
        }
        let mut answered = pin!(tokio::time::timeout(ROUND, futures::future::join_all(clients)));
        let answers = loop {
            tokio::select! {
                answers = &mut answered => break answers,
                () = tokio::time::sleep(Duration::from_millis(5)) => {
                    let alive = self.sidecar.as_mut().is_some_and(|life| life.wait_end(Duration::ZERO).unwrap().is_none());
                    if !alive {
                        self.kills += 1;
                        self.sidecar = Some(self.world.start(&self.launch).await);
                    }
                }
            }
        };
        answers.expect("everybody is answered in time").into_iter().map(Result::unwrap).collect()
    }

    /// One effect, and one answer to everybody.
    async fn check(&mut self, mark: i64, fate: Fate, answers: Vec<(Value, Met)>) {
        let at = format!("{:?} round {mark}, {fate:?}", self.decides);
        let first = answers[0].0.clone();
        assert!(first["results"].is_object(), "{at}: {first:#}");
        assert_eq!(first["plan"]["decider"], self.decides.word());
        for (answer, met) in answers {
            for member in ["id", "results", "state", "attempts"] {
                assert_eq!(answer[member], first[member], "{at}");
            }
            self.met.hung_up += met.hung_up;
            self.met.in_flight += met.in_flight;
            self.met.other += met.other;
            self.met.replayed += met.replayed;
        }
        assert_eq!(effects(&self.world, mark).await, self.decides.once(), "{at}");
    }
}

/// Rounds of one plan. `sibling`: a second sidecar over the same stores, which nobody kills, gets half of the requests.
async fn storm(decides: Decides, sibling: bool) {
    let seed = setting("OUTRIGGER_SEED").unwrap_or_else(rand::random::<u64>);
    let rounds = setting("OUTRIGGER_ROUNDS").unwrap_or(FEW);
    println!("{decides:?}: OUTRIGGER_SEED={seed} repeats the kills of these {rounds} rounds");
    let mut random = StdRng::seed_from_u64(seed);
    let world = Arc::new(World::new(&format!("storm_{}", decides.word())).await);
    prepare(&world);
    let launch = world.launch();
    let other = match sibling {
        true => Some(world.start(&world.launch_beside("sibling")).await),
        false => None,
    };
    let mut urls = vec![format!("http://{}", launch.door)];
    urls.extend(other.as_ref().map(Sidecar::url));
    let (sidecar, kills, met, began) = (None, 0, Met::default(), Instant::now());
    let mut storm = Storm { world: world.clone(), decides, launch, urls, sidecar, kills, met };
    for mark in 1..=rounds {
        let fate = fate(&mut random, decides);
        let answers = storm.round(mark, fate).await;
        storm.check(mark, fate, answers).await;
    }
    // The last one may have a fate before it yet.
    drop(storm.sidecar);
    let sidecar = world.start(&storm.launch).await;
    world.recovered(&sidecar).await;
    for mark in 1..=rounds {
        assert_eq!(effects(&world, mark).await, decides.once(), "{decides:?} round {mark}, at the end");
    }
    assert_eq!(world.prepared(&sidecar).await, 0);
    let took = began.elapsed();
    println!("{decides:?}: {rounds} rounds of {CLIENTS}, {} kills, in {took:.1?}; {:?}", storm.kills, storm.met);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_decides() {
    storm(Decides::Log, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_decides_for_two_sidecars() {
    storm(Decides::Postgres, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neo4j_decides_for_two_sidecars() {
    storm(Decides::Neo4j, true).await;
}
