//! Following what happens: the feed, seen from the coordinator.

use std::sync::Arc;

use super::Coordinator;
use crate::journal::feed::{EventId, Follower, Only, Who};
use crate::model::problem::Problem;

/// `GET /v1/events?…`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FollowWish {
    /// Which events.
    pub only: Only,
    /// The last one that was heard; none: from now on.
    pub after: Option<EventId>,
}

impl Coordinator {
    /// Follows every step of every transaction, or some of them.
    ///
    /// # Errors
    /// `invalid_request`: `after` is no id that this log has told.
    pub fn follow(&self, wish: FollowWish) -> Result<Follower, Problem> {
        let weak = Arc::downgrade(&self.core);
        let who: Who = Arc::new(move |id| Some(weak.upgrade()?.registry.get(id)?.about()));
        self.core.journal.follow(wish.only, who, wish.after)
    }
}
