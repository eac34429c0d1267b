//! PostgreSQL: the contract suite, and what only it can do, on a real server.
//!
//! The server is the stack's; or the one that `OUTRIGGER_TEST_POSTGRES_URL` names: a superuser's, a throw-away database.

mod contract;
mod postgres;

use contract::{late, promises, waits};
use outrigger::model::problem::Code;
use postgres::{op, subject};
use serde_json::json;

macro_rules! contract {
    ($($module:ident::$check:ident $(($($more:expr),*))?;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $check() {
            $module::$check(&subject().await $($(, $more)*)?).await;
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
    contract::a_newer_incarnation_shuts_the_older_out;
    contract::old_sessions_are_ended;
    contract::a_busy_sibling_is_spared;
    contract::other_logs_are_shown;
    contract::forgetting_respects_its_bounds;
    contract::a_reader_cannot_write;
    contract::waits_are_bounded;
    contract::commit_races_fence(100);
    contract::the_first_refusal_stays(op("SELECT 1 / $1::int", json!([0]), false), Code::RejectedByStore);
    promises::a_promise_is_kept_either_way;
    promises::a_lost_promise_is_told;
    promises::gids_are_of_one_log;
    promises::participant_rows_are_swept;
    promises::ghosts_and_failures_promise_nothing;
    promises::promises_survive_dropped_sessions(10);
    waits::a_wait_names_both;
    waits::a_chain_is_followed;
    waits::waits_and_attempts_are_told_apart;
    waits::an_interrupt_ends_one_wait;
    waits::late_interrupts_hit_nobody(40);
    waits::idle_holders_are_named_in_a_crowd(40);
}
