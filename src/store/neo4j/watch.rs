//! Our own bounds on a statement: the driver and Bolt 4.4 have none for explicit transactions.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use neo4rs::Error;
use tokio::time::{Instant, sleep_until, timeout};

use super::control::Control;
use super::errors::Fault;
use crate::store::TxnContext;

/// A statement that is slower than this makes us look whether the server is there at all.
const PULSE: Duration = Duration::from_millis(500);
/// How long the look may take before the server counts as gone.
const REACH: Duration = Duration::from_secs(2);
/// How long a statement that was told to end may take to say so.
const FAREWELL: Duration = Duration::from_millis(500);
/// The server counts waits in milliseconds and from a moment after we do.
const SLACK: Duration = Duration::from_millis(20);

/// Waits for `exchange` at most to the context's deadline, and no longer than its `lock_wait` for a lock inside the
/// store. What overstays is ended on the server (found by its `tag`); the connection must then be closed by the caller,
/// as it must whenever this future is dropped.
pub(super) async fn watch<T>(
    control: &Control,
    context: &TxnContext,
    tag: &str,
    exchange: impl Future<Output = Result<T, Error>>,
) -> Result<T, Fault> {
    let mut exchange = pin!(exchange);
    let begun = Instant::now();
    let (mut look, mut pulse) = (begun + context.lock_wait, begun + PULSE);
    loop {
        let until = look.min(pulse);
        match meanwhile(exchange.as_mut(), context.deadline, sleep_until(until)).await {
            Meanwhile::Answered(answer) => return answer.map_err(Fault::from),
            Meanwhile::Late => return Err(end(control, tag, exchange, Fault::Deadline).await),
            Meanwhile::Aside(()) => {}
        }
        if until == look {
            match meanwhile(exchange.as_mut(), context.deadline, waited(control, tag)).await {
                Meanwhile::Answered(answer) => return answer.map_err(Fault::from),
                Meanwhile::Late => return Err(end(control, tag, exchange, Fault::Deadline).await),
                Meanwhile::Aside(Some(waited)) if waited + SLACK >= context.lock_wait => {
                    return Err(end(control, tag, exchange, Fault::LockWait).await);
                }
                // It waits since later than its start: look again when its time is up.
                Meanwhile::Aside(Some(waited)) => look = Instant::now() + (context.lock_wait - waited),
                Meanwhile::Aside(None) => look = Instant::now() + context.lock_wait.max(PULSE),
            }
        } else {
            match meanwhile(exchange.as_mut(), context.deadline, control.reach(REACH)).await {
                Meanwhile::Answered(answer) => return answer.map_err(Fault::from),
                Meanwhile::Late => return Err(end(control, tag, exchange, Fault::Deadline).await),
                Meanwhile::Aside(reached) => reached?,
            }
            pulse = Instant::now() + PULSE * 2;
        }
    }
}

enum Meanwhile<T, A> {
    Answered(T),
    Aside(A),
    Late,
}

/// Polls the exchange on while something else is awaited, both at most to `deadline`.
async fn meanwhile<T, A>(
    exchange: Pin<&mut impl Future<Output = T>>,
    deadline: Instant,
    aside: impl Future<Output = A>,
) -> Meanwhile<T, A> {
    tokio::select! {
        biased;
        answer = exchange => Meanwhile::Answered(answer),
        () = sleep_until(deadline) => Meanwhile::Late,
        aside = aside => Meanwhile::Aside(aside),
    }
}

/// How long the tagged statement has waited for a lock, where it waits for one now. A server that does not say since
/// when is taken to mean since the beginning.
async fn waited(control: &Control, tag: &str) -> Option<Duration> {
    let open = control.open_transactions("").await.ok()?;
    let ours = open.into_iter().find(|txn| txn.tag.as_deref() == Some(tag))?;
    (!ours.blocked_by.is_empty()).then(|| ours.waited.unwrap_or(Duration::MAX / 2))
}

/// Ends the statement on the server and hears its last word, if it comes soon.
async fn end<T>(control: &Control, tag: &str, exchange: Pin<&mut impl Future<Output = T>>, fault: Fault) -> Fault {
    let farewell = async {
        // Closing the connection ends it too, but later: the server must notice first. What fails here is caught there.
        let _ = control.terminate_tagged(tag).await;
    };
    let both = async { tokio::join!(exchange, farewell) };
    let _ = timeout(FAREWELL, both).await;
    fault
}
