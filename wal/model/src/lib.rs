//! The log's group commit (`wal/src/log/watermark.rs`, the very file) over loom's types: every interleaving of a few
//! threads up to a bounded number of preemptions, and every value that a weaker memory than x86's may show.
//!
//! A model that finds nothing may be blind. So each step that matters is changed once (`build.rs` has the list), and the
//! checks must find each of these mutants.
//!
//! Not modelled: the flushing thread's sleep (`asleep` and `appends`), since loom takes a sequentially consistent access
//! for a weaker one and would find faults that cannot be.
#![cfg(test)]

use std::process::Command;

use outrigger_wal::{Lsn, WalError};

mod sync;

/// One variant of the watermark, with the checks over it.
macro_rules! variant {
    ($name:ident) => {
        #[path = "."]
        mod $name {
            use crate::sync;
            #[allow(dead_code, unreachable_pub, reason = "the log uses what no check does")]
            mod watermark {
                include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
            }
            #[path = "checks.rs"]
            #[allow(dead_code, reason = "a mutant is put to the check that finds it")]
            #[allow(clippy::duplicate_mod, reason = "the same checks over each variant")]
            pub(super) mod checks;
        }
    };
    // A mutant, with the check that finds it.
    ($name:ident, $check:ident) => {
        variant!($name);
        #[test]
        #[ignore = "a mutant: it fails, in a process of its own"]
        fn $name() {
            $name::checks::$check();
        }
    };
}

variant!(as_it_is);
variant!(two_leaders, threads_share_flushes);
variant!(never_steps_down, threads_share_flushes);
variant!(wakes_nobody, threads_share_flushes);
variant!(reads_the_watermark_relaxed, what_is_called_durable_is_seen);
variant!(publishes_after_the_lock, a_task_is_served_beside_a_leader);
variant!(registers_without_a_second_look, a_task_is_served_beside_a_leader);
variant!(leads_on_after_a_failure, a_failure_is_final);
variant!(tells_no_task_of_a_failure, a_failure_is_told_to_a_task);

/// Each mutant with what loom, or the check, says of it.
const MUTANTS: [(&str, &str); 8] = [
    ("two_leaders", "Concurrent write accesses"),
    ("never_steps_down", "deadlock"),
    ("wakes_nobody", "deadlock"),
    ("reads_the_watermark_relaxed", "called durable and not on the disk"),
    ("publishes_after_the_lock", "deadlock"),
    ("registers_without_a_second_look", "deadlock"),
    ("leads_on_after_a_failure", "flushed after a failure"),
    ("tells_no_task_of_a_failure", "deadlock"),
];

/// In processes of their own: a deadlock that loom finds ends the whole process.
#[test]
fn every_mutant_is_found() {
    for (name, says) in MUTANTS {
        let output = Command::new(std::env::current_exe().expect("the test knows its program"))
            .args([name, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .output()
            .expect("the test is started again");
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        assert!(text.contains("running 1 test"), "{name}: {text}");
        assert!(!output.status.success() && text.contains(says), "{name} was not found: {text}");
    }
}

#[test]
fn threads_share_flushes() {
    as_it_is::checks::threads_share_flushes();
}

#[test]
fn what_is_called_durable_is_seen() {
    as_it_is::checks::what_is_called_durable_is_seen();
}

#[test]
fn a_task_is_served_beside_a_leader() {
    as_it_is::checks::a_task_is_served_beside_a_leader();
}

#[test]
fn a_failure_is_final() {
    as_it_is::checks::a_failure_is_final();
}

#[test]
fn a_failure_is_told_to_a_task() {
    as_it_is::checks::a_failure_is_told_to_a_task();
}
