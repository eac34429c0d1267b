//! `GET /v1/events`: [server-sent events](https://html.spec.whatwg.org/multipage/server-sent-events.html), an event a
//! step. A follower holds a connection and no place at the gate, and there are only so many of them.
//!
//! | task | on shutdown | on error |
//! |---|---|---|
//! | stream (polled by its connection) | ends at once; the client asks the next process | ends |
//! | guard | cuts the connection a moment later if it takes nothing any more | – |

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use bytes::Bytes;
use futures::Stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Response, Uri};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::api::RepairMode;
use super::route::Door;
use super::{headers, reply, wire};
use crate::journal::feed::{Batch, EventId, Follower, Item, Only};
use crate::metrics::Metrics;
use crate::model::problem::{Code, Problem};
use crate::txn::{Coordinator, FollowWish};

/// Each holds a connection and a moment of every event.
const MOST: usize = 64;
/// So often something is said, so that both sides and whatever is between them know that the other one lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A connection that has taken nothing for so long, heartbeats neither, is cut: its client is gone or asleep.
const DEAF: Duration = Duration::from_secs(60);
/// What a stop leaves a follower's connection to take the last bytes.
const PARTING: Duration = Duration::from_millis(500);
/// How long a client that was cut off waits before it asks again, in milliseconds.
const RETRY_MS: u32 = 1000;

/// Tells what happens. See [`Coordinator`], whose method this is.
pub trait Events: Send + Sync {
    /// Follows.
    ///
    /// # Errors
    /// `invalid_request`; `journal_unavailable` in repair mode.
    fn follow(&self, wish: FollowWish) -> Result<Follower, Problem>;
}

impl Events for Coordinator {
    fn follow(&self, wish: FollowWish) -> Result<Follower, Problem> {
        Self::follow(self, wish)
    }
}

impl Events for RepairMode {
    fn follow(&self, _: FollowWish) -> Result<Follower, Problem> {
        Err(self.problem())
    }
}

/// Cuts the connection that a request came by. The server puts one into every request.
#[derive(Clone, Debug, Default)]
pub(super) struct Tie(pub(super) CancellationToken);

/// The places of all followers, and when they end.
pub(super) struct Followers {
    places: Arc<Semaphore>,
    metrics: Metrics,
    shutdown: CancellationToken,
}

impl Followers {
    pub(super) fn new(metrics: Metrics, shutdown: CancellationToken) -> Self {
        Self { places: Arc::new(Semaphore::new(MOST)), metrics, shutdown }
    }
}

/// Every step of every transaction, as it happens and from where you left off: server-sent events.
///
/// An event is one step of a transaction; its `id` is `LSN-INCARNATION-STEP`, a place in the log. Whoever sends the last
/// id that it has heard (`Last-Event-ID`, or `after`) hears what came since, over restarts of the sidecar too: no event
/// twice. Steps that no record of the log says (`locked`, `worked`, …) are kept in memory only, for the last 4,096
/// events; `intended`, `decided` and `ended` are read back from the log. What cannot be told any more is announced by
/// `event: gap` with `{"lost": "steps" | "records", "after", "resume"}`. `opened` says that the sidecar was started: what
/// was open before and not `intended` did not survive. `ended` says that a run has ended; an aborted one may be followed
/// by `retried`.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "followEvents", tag = "events",
    params(
        ("transaction" = Option<String>, Query, description = "Only this transaction's, by its UUID."),
        ("name" = Option<String>, Query, description = "Only those of the transactions of this name."),
        ("after" = Option<String>, Query, description = "From behind this event on; an Lsn alone will do. Without it and without `Last-Event-ID`: from now on."),
        ("Last-Event-ID" = Option<String>, Header, description = "The last event that was heard; goes before `after`."),
    ),
    responses((status = 200, description = "Events until the client or the sidecar ends it, with a comment every 15 s. The `data` of each is an `Event`.", content_type = "text/event-stream", body = String)),
)]
pub(super) async fn follow(State(door): State<Arc<Door>>, request: Request) -> Response<Body> {
    let tie = request.extensions().get::<Tie>().cloned().unwrap_or_default();
    reply::or_problem(open(&door, request.method(), request.headers(), request.uri(), tie))
}

fn open(door: &Door, method: &Method, head: &HeaderMap, uri: &Uri, tie: Tie) -> Result<Response<Body>, Problem> {
    door.access.visitor(head)?;
    let wish = wish(head, uri)?;
    let place = Arc::clone(&door.followers.places).try_acquire_owned();
    let place = place.map_err(|_| Problem::new(Code::Overloaded, format!("{MOST} already follow the events")))?;
    let follower = door.api.follow(wish)?;
    let body =
        if method == Method::HEAD { Body::empty() } else { Body::from_stream(stream(door, follower, place, tie)) };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // For proxies that collect answers before they pass them on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn wish(head: &HeaderMap, uri: &Uri) -> Result<FollowWish, Problem> {
    let fault = |detail: &str| Problem::new(Code::InvalidRequest, detail);
    let (mut only, mut after) = (Only::All, None);
    for (name, value) in headers::query(uri, &["transaction", "name", "after"])? {
        match name.as_str() {
            "after" => after = Some(value),
            _ if only != Only::All => return Err(fault("say `transaction` or `name`, not both")),
            "transaction" => {
                only = Only::Transaction(value.parse().map_err(|_| fault("`transaction` must be a UUID"))?);
            }
            _ if wire::is_name(&value) => only = Only::Name(value),
            _ => return Err(fault("`name` is no name: 1 to 128 of [A-Za-z0-9._:@-]")),
        }
    }
    if let Some(last) = head.get("last-event-id").filter(|last| !last.is_empty()) {
        let last = last.to_str().map_err(|_| fault("`Last-Event-ID` is no id of an event"))?;
        after = Some(last.to_owned());
    }
    let after: Option<EventId> = after.map(|id| id.parse().map_err(|e| fault(&format!("`{id}`: {e}")))).transpose()?;
    Ok(FollowWish { only, after })
}

/// What a stream needs for as long as it lives.
struct Telling {
    follower: Follower,
    shutdown: CancellationToken,
    /// Batches that the connection took.
    taken: Arc<AtomicU64>,
    begun: bool,
    metrics: Metrics,
    _place: OwnedSemaphorePermit,
    /// Its drop tells the guard.
    _alive: oneshot::Sender<()>,
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.metrics.follower_left();
    }
}

fn stream(
    door: &Door,
    follower: Follower,
    place: OwnedSemaphorePermit,
    tie: Tie,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + use<> {
    let Followers { metrics, shutdown, .. } = &door.followers;
    let (alive, gone) = oneshot::channel();
    let taken = Arc::new(AtomicU64::new(0));
    metrics.follower_came();
    tokio::spawn(guard(gone, shutdown.clone(), taken.clone(), tie));
    let telling = Telling {
        follower,
        shutdown: shutdown.clone(),
        taken,
        begun: false,
        metrics: metrics.clone(),
        _place: place,
        _alive: alive,
    };
    futures::stream::unfold(telling, |mut telling| async move {
        let text = telling.next().await?;
        Some((Ok(Bytes::from(text)), telling))
    })
}

impl Telling {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        self.taken.fetch_add(1, Ordering::Relaxed);
        if !self.begun {
            self.begun = true;
            // The id alone dispatches nothing: a client that is cut off before the first event asks again from here.
            return Some(format!("retry: {RETRY_MS}\nid: {}\n\n", self.follower.at()));
        }
        let batch = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return None,
            batch = self.follower.next(HEARTBEAT) => batch,
        };
        match batch {
            Ok(batch) => Some(lines(&batch)),
            Err(problem) => {
                tracing::warn!(%problem, "a follower of the events is left");
                None
            }
        }
    }
}

pub(super) fn lines(batch: &Batch) -> String {
    // Writing into a string cannot fail, and neither can these shapes as JSON.
    let mut text = String::new();
    for item in &batch.items {
        let _ = match item {
            Item::Event(id, what) => {
                let data = serde_json::to_string(what).unwrap_or_default();
                write!(text, "id: {id}\ndata: {data}\n\n")
            }
            Item::Gap(gap) => write!(text, "event: gap\nid: {}\ndata: {}\n\n", gap.resume, gap.data()),
        };
    }
    if batch.items.is_empty() {
        // With the place: whoever follows one transaction of many need not go through all the others again.
        let _ = write!(text, ": heartbeat\nid: {}\n\n", batch.at);
    }
    text
}

/// Sees to it that a follower who takes nothing any more holds up neither a stop nor somebody else's place.
async fn guard(mut gone: oneshot::Receiver<()>, shutdown: CancellationToken, taken: Arc<AtomicU64>, tie: Tie) {
    let deaf = async {
        loop {
            let before = taken.load(Ordering::Relaxed);
            tokio::time::sleep(DEAF).await;
            if taken.load(Ordering::Relaxed) == before {
                return;
            }
        }
    };
    tokio::select! {
        _ = &mut gone => return,
        () = deaf => {}
        () = shutdown.cancelled() => {
            if tokio::time::timeout(PARTING, &mut gone).await.is_ok() {
                return;
            }
        }
    }
    tie.0.cancel();
}
