//! The contract suite and Neo4j's own checks against a real server.

// Helpers outside of `#[test]` functions are tests all the same.
#![allow(unreachable_pub, clippy::unwrap_used)]

mod blocked;
#[path = "../contract/mod.rs"]
mod contract;
mod faults;
mod records;
mod refusals;
mod values;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use outrigger::model::problem::Code;
use outrigger::model::reference::Template;
use outrigger::model::request::{Action, BoundOp, Expect, Operation};
use outrigger::store::Store;
use outrigger::store::neo4j::{Neo4j, Neo4jConfig};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use xtask::stack::{Stack, Store as Kind, Wanted};

use contract::{Subject, late, waits};

/// One at a time: ending old sessions looks at all of a user's transactions.
static TURN: Mutex<()> = Mutex::const_new(());

/// One server for all tests of this binary; it ends with the process.
static STACK: OnceLock<Stack> = OnceLock::new();

fn config() -> Neo4jConfig {
    let login = STACK
        .get_or_init(|| Stack::for_tests("store-neo4j", Wanted::only(&[Kind::Neo4j])).expect("Neo4j starts"))
        .login(Kind::Neo4j)
        .expect("the stack has Neo4j");
    Neo4jConfig {
        url: login.url,
        database: "neo4j".to_owned(),
        user: login.user,
        password: login.password,
        tls: false,
        pool_max: 16,
        connect_timeout: Duration::from_secs(5),
        session_grace: Duration::from_millis(300),
    }
}

fn op(cypher: &str, params: Value, reads: bool) -> BoundOp {
    let action = Action::Cypher { text: cypher.to_owned(), params: Template::plain(params.clone()) };
    let operation = Operation {
        id: "node".to_owned(),
        store: "graph".into(),
        reads,
        action,
        expect: Expect::default(),
        pointer: "/operations/0".to_owned(),
    };
    BoundOp { op: Arc::new(operation), values: params }
}

/// The same with an expectation of rows.
fn expecting(rows: u64, mut bound: BoundOp) -> BoundOp {
    let mut operation = (*bound.op).clone();
    operation.expect.rows = Some(rows);
    bound.op = Arc::new(operation);
    bound
}

async fn subject() -> (Subject, MutexGuard<'static, ()>) {
    let turn = TURN.lock().await;
    let store = Neo4j::new("graph".into(), config());
    store.probe(true).await.expect("the server is up");
    let subject = Subject {
        store,
        put: |name| {
            op("MERGE (t:Thing {name: $name}) SET t.count = coalesce(t.count, 0) + 1", json!({"name": name}), false)
        },
        get: |name| op("MATCH (t:Thing {name: $name}) RETURN t.name", json!({"name": name}), true),
        there: |result| result["rows"].as_array().is_some_and(|rows| rows.len() == 1),
    };
    (subject, turn)
}

macro_rules! contract {
    ($($module:ident::$check:ident $(($($more:expr),*))?;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $check() {
            let (subject, _turn) = subject().await;
            $module::$check(&subject $($(, $more)*)?).await;
        })*
    };
}

contract! {
    contract::commit_leaves_marker_and_effect;
    late::a_late_decider_leaves_its_marker;
    late::a_fence_refuses_a_late_decider;
    late::a_late_reader_leaves_nothing;
    contract::an_empty_decider_leaves_its_marker;
    contract::rollback_leaves_nothing;
    contract::drop_leaves_nothing;
    contract::drop_in_a_wait_leaves_nothing;
    contract::fenced_before_it_began;
    contract::a_fence_finds_the_commit;
    contract::a_fence_ends_its_blocker;
    contract::a_key_is_taken_once;
    contract::a_key_in_use_is_waited_for;
    contract::a_busy_sibling_is_spared;
    contract::a_newer_incarnation_shuts_the_older_out;
    contract::old_sessions_are_ended;
    contract::other_logs_are_shown;
    contract::forgetting_respects_its_bounds;
    contract::a_reader_cannot_write;
    contract::waits_are_bounded;
    contract::commit_races_fence(100);
    contract::the_first_refusal_stays(op("CREATE (n {a: 1 / $zero})", json!({"zero": 0}), false), Code::RejectedByStore);
    waits::a_wait_names_both;
    waits::a_chain_is_followed;
    waits::waits_and_attempts_are_told_apart;
    waits::an_interrupt_ends_one_wait;
    waits::late_interrupts_hit_nobody(40);
    waits::idle_holders_are_named_in_a_crowd(40);
}
