//! Waiting for durability without a thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use super::Shared;
use crate::{Lsn, WalError};

/// Ready once everything below its Lsn is durable; made by [`Wal::durable`](crate::Wal::durable).
///
/// Needs no runtime. Nothing is asked of the log before the first poll; after it the flush happens whether or not the
/// future lives on, so dropping it loses nothing but the answer. Ready with [`WalError::Poisoned`] when a flush failed
/// and with [`WalError::Closed`] when the log went away first.
#[must_use = "nothing is flushed before the future is polled"]
#[derive(Debug)]
pub struct Durable {
    shared: Arc<Shared>,
    up_to: Lsn,
    /// Where the waker stands, while there is one.
    ticket: Option<u64>,
}

static TICKETS: AtomicU64 = AtomicU64::new(0);

impl Durable {
    pub(super) fn new(shared: Arc<Shared>, up_to: Lsn) -> Durable {
        let up_to = up_to.min(shared.next_lsn());
        Durable { shared, up_to, ticket: None }
    }
}

impl Future for Durable {
    type Output = Result<(), WalError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mark = &this.shared.watermark;
        if mark.durable() >= this.up_to {
            return Poll::Ready(Ok(()));
        }
        if this.shared.options.inline {
            return Poll::Ready(this.shared.flush(this.up_to));
        }
        let ticket = *this.ticket.get_or_insert_with(|| TICKETS.fetch_add(1, Ordering::Relaxed));
        mark.register(this.up_to, ticket, context.waker())
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.shared.watermark.unregister(self.up_to, ticket);
        }
    }
}
