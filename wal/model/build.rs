//! Writes the log's watermark as it is, and once for each mutant with one step of it wrong, for `src/lib.rs` to include.
//! A mutant whose place is not found exactly once ends the build: it would be the original, and nothing would be shown.

use std::path::Path;
use std::{env, fs};

const SOURCE: &str = "../src/log/watermark.rs";

/// What is wrong, what stands there, and what stands there in the mutant.
const MUTANTS: [(&str, &str, &str); 8] = [
    ("two_leaders", "state.leading = true;\n", "\n"),
    (
        "never_steps_down",
        "let mut state = self.state();\n        state.leading = false;",
        "let mut state = self.state();",
    ),
    ("wakes_nobody", "drop(state);\n        self.advanced.notify_all();", "drop(state);"),
    (
        "publishes_after_the_lock",
        "self.durable.fetch_max(durable.as_u64(), Ordering::AcqRel);\n        \
         let waiting = state.tasks.split_off(&(durable, u64::MAX));\n        \
         let served = std::mem::replace(&mut state.tasks, waiting);\n        drop(state);",
        "let waiting = state.tasks.split_off(&(durable, u64::MAX));\n        \
         let served = std::mem::replace(&mut state.tasks, waiting);\n        drop(state);\n        \
         self.durable.fetch_max(durable.as_u64(), Ordering::AcqRel);",
    ),
    (
        "registers_without_a_second_look",
        "let mut state = self.state();\n        if self.durable() >= up_to {\n            return Poll::Ready(Ok(()));\n        }\n",
        "let mut state = self.state();\n",
    ),
    (
        "leads_on_after_a_failure",
        "let poisoned = self.poison(cause);\n        \
         // Only now: nobody may lead between the failure and its being known.\n        \
         self.state().leading = false;",
        "self.state().leading = false;\n        let poisoned = self.poison(cause);",
    ),
    (
        "tells_no_task_of_a_failure",
        "tasks.into_values().for_each(Waker::wake);\n    }\n\n    /// Returns",
        "drop(tasks);\n    }\n\n    /// Returns",
    ),
    ("reads_the_watermark_relaxed", "self.durable.load(Ordering::Acquire)", "self.durable.load(Ordering::Relaxed)"),
];

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    let source = fs::read_to_string(SOURCE).expect("the log's watermark is read");
    // An included file may not open with a module's documentation.
    let source: String =
        source.lines().filter(|line| !line.starts_with("//!")).map(|line| format!("{line}\n")).collect();
    let out = env::var_os("OUT_DIR").expect("cargo says where to write");
    let write = |name: &str, text: &str| {
        fs::write(Path::new(&out).join(format!("{name}.rs")), text).expect("a variant is written");
    };
    write("as_it_is", &source);
    for (name, before, after) in MUTANTS {
        assert_eq!(source.matches(before).count(), 1, "{name}: the place to change is not there exactly once");
        write(name, &source.replace(before, after));
    }
}
