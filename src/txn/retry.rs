//! When to try again: pauses between repeats of one act, and which refusals a whole transaction may be run again for.

use std::time::Duration;

use crate::model::problem::Code;
use crate::model::request::RetryPolicy;

/// Growing pauses with jitter, so that those who collided once do not collide again.
pub(super) struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, most }
    }

    /// For an act in a store that may be down or busy.
    pub(super) fn of_store() -> Self {
        Self::new(Duration::from_millis(20), Duration::from_secs(1))
    }

    /// The next pause: between half and all of a span that doubles each time.
    pub(super) fn next(&mut self) -> Duration {
        let span = self.next.min(self.most);
        self.next = (span * 2).min(self.most);
        span.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// The pause before run number `attempt + 1`, or `None` where the transaction may not run again.
pub(super) fn pause_before_rerun(policy: &RetryPolicy, attempt: u32, code: Code) -> Option<Duration> {
    let lost_a_race = matches!(code, Code::Conflict | Code::Deadlock | Code::Serialization | Code::LockTimeout);
    if !lost_a_race || attempt >= policy.max_attempts {
        return None;
    }
    let doubled = policy.base_delay.saturating_mul(1 << (attempt - 1).min(20));
    Some(doubled.min(policy.max_delay).mul_f64(rand::random_range(0.5..=1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut last = Duration::ZERO;
        for turn in 0..40 {
            last = backoff.next();
            assert!(last <= Duration::from_secs(1), "turn {turn}: {last:?}");
        }
        assert!(last >= Duration::from_millis(500));
    }

    #[test]
    fn only_lost_races_run_again_and_only_so_often() {
        let policy = RetryPolicy { max_attempts: 3, ..RetryPolicy::NEVER };
        for code in Code::ALL {
            let again = pause_before_rerun(&policy, 1, *code).is_some();
            let expected = matches!(code, Code::Conflict | Code::Deadlock | Code::Serialization | Code::LockTimeout);
            assert_eq!(again, expected, "{code:?}");
        }
        assert!(pause_before_rerun(&policy, 2, Code::Conflict).is_some());
        assert!(pause_before_rerun(&policy, 3, Code::Conflict).is_none());
        assert!(pause_before_rerun(&RetryPolicy::NEVER, 1, Code::Conflict).is_none());
        let forever = RetryPolicy { max_attempts: u32::MAX, ..RetryPolicy::NEVER };
        assert!(pause_before_rerun(&forever, u32::MAX - 1, Code::Conflict).is_some_and(|p| p <= forever.max_delay));
    }
}
