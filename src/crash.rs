//! Named places where a test makes the process die as `kill -9` would: `OUTRIGGER_CRASH_AT=after_decide` or
//! `after_decide:7` for the seventh time that it is passed. Only in builds with debug assertions; a release build has
//! no such places.

/// Every place, in the order of a transaction's life; first of all that a batch job was opened or its end written.
pub const POINTS: [&str; 16] = [
    "after_job",
    "before_settle",
    "before_promise",
    "after_promise",
    "before_verdict",
    "before_intent",
    "after_intent",
    "after_prepare",
    "after_decide",
    "after_verdict",
    "mid_finish",
    "before_skip",
    "after_skip",
    "before_done",
    "after_done",
    "after_orphan_verdict",
];

/// Dies here if a test asked for it.
#[inline]
pub fn point(name: &'static str) {
    #[cfg(debug_assertions)]
    armed::pass(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WISH: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let wish = std::env::var("OUTRIGGER_CRASH_AT").ok()?;
        let (name, count) = wish.split_once(':').unwrap_or((&wish, "1"));
        Some((name.to_owned(), count.parse().ok()?))
    });
    static PASSED: AtomicU64 = AtomicU64::new(0);

    pub(super) fn pass(name: &'static str) {
        let Some((wish, count)) = WISH.as_ref() else { return };
        if wish == name && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *count {
            // Nothing is unwound, flushed or closed: this is `kill -9`.
            let me = rustix::process::getpid();
            let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
            std::process::abort();
        }
    }
}
