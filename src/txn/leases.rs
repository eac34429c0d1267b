//! Locks that applications lease: a free key, held for a time that its holder renews.
//!
//! The danger: a holder stops (a long pause, a cut network), its lease runs out, somebody else is granted the key, and the
//! first one wakes up and writes as if it still held it. No lock service can prevent that from its side. The remedy is a
//! *fencing token*, a number that only grows from one grant to the next: the holder sends it along with what it does, and
//! whoever is written to refuses a number below one it has seen (Gray & Cheriton 1989, "Leases"; Burrows 2006, "The
//! Chubby lock service", sequencers).
//!
//! ```text
//!   52              32 31                  0
//!   │  incarnation    │  grants since then  │     the token: below 2^53, so that JSON readers keep every digit
//! ```
//!
//! The log's incarnation is forced at each open, so the token grows over restarts without a record of its own. Leases
//! themselves end with the process: after a restart a key may be granted anew while the old holder still counts on its
//! time, and the token is what tells the two apart. A lease holds its key in the same table as transactions do, under an
//! id of its own; it has nothing else, so it is never the victim of a deadlock, but whoever waits for it may be.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use utoipa::ToSchema;

use super::actor::Actor;
use super::core::Core;
use super::{Coordinator, work};
use crate::clock;
use crate::lock::{Claim, LockKey, Mode, Standing};
use crate::metrics::Reaped;
use crate::model::ids::TxnId;
use crate::model::problem::{Code, Problem};

/// Leases that are held or waited for at the same time.
const MOST: usize = 10_000;
/// Bits of the token for grants within one incarnation.
const GRANT_BITS: u32 = 32;
/// Incarnations that fit above them.
const MOST_INCARNATIONS: u64 = 1 << 21;

/// `POST /v1/locks`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseWish {
    /// A free key, in the namespace of transactions' `locks`.
    pub key: String,
    /// Exclusive (X) or shared (S).
    pub exclusive: bool,
    /// How long it holds when it is not renewed.
    pub ttl: Duration,
    /// How long to wait for the key.
    pub wait: Duration,
    /// Whose it is: nobody else renews or releases it but an operator.
    pub principal: Arc<str>,
}

/// A lease as its holder reads it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct LeaseView {
    /// Its id, for renewing and releasing it.
    pub lease: String,
    /// Grows from grant to grant, over restarts too. Send it with what you do under the lock.
    pub fencing_token: u64,
    /// The key.
    pub key: String,
    /// `exclusive` or `shared`.
    pub mode: &'static str,
    /// RFC 3339 UTC, by the sidecar's clock, for people.
    pub expires_at: String,
}

/// All of them.
#[derive(Default)]
pub(super) struct Leases {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    live: HashMap<TxnId, Lease>,
    grants: u64,
}

struct Lease {
    wish: LeaseWish,
    /// `None` while it waits.
    granted: Option<Granted>,
}

struct Granted {
    token: u64,
    expires: Instant,
    /// Ends what waits for the expiry.
    expiry: AbortHandle,
}

impl Leases {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key that a lease of this id holds or waits for.
    pub(super) fn key_of(&self, id: TxnId) -> Option<String> {
        self.table().live.get(&id).map(|lease| lease.wish.key.clone())
    }

    /// Leases that are held or waited for.
    pub(super) fn count(&self) -> usize {
        self.table().live.len()
    }

    fn expires(&self, id: TxnId) -> Option<Instant> {
        self.table().live.get(&id)?.granted.as_ref().map(|granted| granted.expires)
    }

    /// Strikes it if its time is over. The caller lets go of the key.
    fn strike_if_over(&self, id: TxnId) -> bool {
        let mut table = self.table();
        let granted = table.live.get(&id).and_then(|lease| lease.granted.as_ref());
        let over = granted.is_some_and(|granted| granted.expires <= Instant::now());
        over && table.live.remove(&id).is_some()
    }
}

/// The number of a grant.
fn token(incarnation: u64, grants: u64) -> Option<u64> {
    (incarnation < MOST_INCARNATIONS && grants < 1 << GRANT_BITS).then_some((incarnation << GRANT_BITS) | grants)
}

/// A lease that is being taken. Dropped before it is granted, it leaves nothing.
struct Taking<'a> {
    core: &'a Arc<Core>,
    id: TxnId,
    done: bool,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.core.leases.table().live.remove(&self.id);
            self.core.locks.release_all(self.id);
        }
    }
}

impl Coordinator {
    /// Takes a key for a time. Dropping the future gives it up, granted or not.
    ///
    /// # Errors
    /// `lock_timeout` where it was waited for in vain; `deadlock` is never a lease's; `overloaded` where there are too
    /// many; what keeps new transactions out keeps new leases out.
    pub async fn lease(&self, wish: LeaseWish) -> Result<LeaseView, Problem> {
        let core = &self.core;
        core.check_open()?;
        let id = TxnId::fresh();
        {
            let mut table = core.leases.table();
            if table.live.len() >= MOST {
                return Err(Problem::new(Code::Overloaded, format!("{MOST} leases are held or waited for")));
            }
            table.live.insert(id, Lease { wish: wish.clone(), granted: None });
        }
        let mut taking = Taking { core, id, done: false };
        let mode = if wish.exclusive { Mode::Exclusive } else { Mode::Shared };
        let claim = Claim { key: LockKey::Free(wish.key.clone()), mode };
        // It holds nothing that anybody in a circle could wait for: whoever does gives way.
        let standing = Standing { began_us: clock::now_us(), work: 0, priority: i32::MAX };
        let start = Instant::now();
        let locked = core.locks.acquire_all(id, standing, vec![claim], start + wish.wait).await;
        core.metrics.lock_wait(start.elapsed());
        locked.map_err(|refused| work::refusal(&refused))?;
        let view = grant(core, id, &wish)?;
        taking.done = true;
        Ok(view)
    }

    /// Whose a lease is.
    #[must_use]
    pub fn lease_holder(&self, id: &str) -> Option<Arc<str>> {
        let id = read_id(id).ok()?;
        self.core.leases.table().live.get(&id).map(|lease| lease.wish.principal.clone())
    }

    /// Makes a lease last for `ttl` from now (its first `ttl` where that is `None`).
    ///
    /// # Errors
    /// `not_found` where it is over or never was; `forbidden` where it is another's.
    pub fn renew_lease(&self, id: &str, ttl: Option<Duration>, actor: &Actor) -> Result<LeaseView, Problem> {
        let (id, mut table) = (read_id(id)?, self.core.leases.table());
        let lease = table.live.get_mut(&id).ok_or_else(unknown)?;
        may_act(lease, actor)?;
        let ttl = ttl.unwrap_or(lease.wish.ttl);
        let now = Instant::now();
        // One that is over and not yet struck is over all the same.
        let granted = lease.granted.as_mut().filter(|granted| granted.expires > now).ok_or_else(unknown)?;
        granted.expires = now + ttl;
        let token = granted.token;
        Ok(view(id, token, &lease.wish, ttl))
    }

    /// Lets go of the key.
    ///
    /// # Errors
    /// As [`Self::renew_lease`].
    pub fn release_lease(&self, id: &str, actor: &Actor) -> Result<(), Problem> {
        let id = read_id(id)?;
        {
            let mut table = self.core.leases.table();
            let lease = table.live.get(&id).ok_or_else(unknown)?;
            may_act(lease, actor)?;
            let granted = lease.granted.as_ref().filter(|granted| granted.expires > Instant::now());
            granted.ok_or_else(unknown)?.expiry.abort();
            table.live.remove(&id);
        }
        self.core.locks.release_all(id);
        Ok(())
    }
}

/// Numbers the grant and starts its time. Later than the grant itself: whoever is granted the key next has a greater
/// number.
fn grant(core: &Arc<Core>, id: TxnId, wish: &LeaseWish) -> Result<LeaseView, Problem> {
    let mut table = core.leases.table();
    table.grants += 1;
    let token = token(core.journal.owner().incarnation.0, table.grants).ok_or_else(|| {
        Problem::new(Code::Overloaded, "the fencing token has no number left: start the sidecar again, or on a new log")
    })?;
    let expires = Instant::now() + wish.ttl;
    let expiry = tokio::spawn(expire(core.clone(), id)).abort_handle();
    let Some(lease) = table.live.get_mut(&id) else { return Err(unknown()) };
    lease.granted = Some(Granted { token, expires, expiry });
    Ok(view(id, token, wish, wish.ttl))
}

/// Waits until the time of a lease is over, however often it is renewed meanwhile.
async fn expire(core: Arc<Core>, id: TxnId) {
    while let Some(expires) = core.leases.expires(id) {
        tokio::select! {
            () = sleep_until(expires) => {}
            () = core.stop.cancelled() => return,
        }
        if core.leases.strike_if_over(id) {
            tracing::debug!(lease = %id, "a lease ran out");
            core.locks.release_all(id);
            core.metrics.reaped(Reaped::Lease, 1);
            return;
        }
    }
}

fn view(id: TxnId, token: u64, wish: &LeaseWish, ttl: Duration) -> LeaseView {
    let expires_us = clock::now_us().saturating_add(i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX));
    LeaseView {
        lease: id.to_string(),
        fencing_token: token,
        key: wish.key.clone(),
        mode: if wish.exclusive { "exclusive" } else { "shared" },
        expires_at: clock::rfc3339(expires_us),
    }
}

fn may_act(lease: &Lease, actor: &Actor) -> Result<(), Problem> {
    actor.must_be(&lease.wish.principal, "that lease is another principal's")
}

fn read_id(text: &str) -> Result<TxnId, Problem> {
    text.parse().map_err(|_| unknown())
}

fn unknown() -> Problem {
    Problem::new(Code::NotFound, "there is no such lease: it has run out, was released, or never was")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_grow_over_restarts_and_fit_a_double() {
        let order =
            [token(1, 1), token(1, 2), token(1, (1 << 32) - 1), token(2, 1), token((1 << 21) - 1, u64::from(u32::MAX))];
        assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?}");
        assert!(order[4].is_some_and(|token| token < 1 << 53));
        assert_eq!((token(1 << 21, 1), token(1, 1 << 32)), (None, None), "never a smaller one");
    }
}
