//! Which path leads where, and what every request goes through.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::routing::{get, post, put};
use futures::FutureExt;
use http::header::{ALLOW, CACHE_CONTROL};
use http::{HeaderValue, Method, Response, Uri};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::access::Access;
use super::api::Api;
use super::events::Followers;
use super::gate::Gate;
use super::{events, handler, headers, interactive, locks, operator, reply};
use crate::config;
use crate::metrics::{Metrics, Route};
use crate::model::problem::{Code, Problem};

/// Everything that the door's handlers share.
pub struct Door {
    pub(super) api: Arc<dyn Api>,
    pub(super) access: Access,
    pub(super) max_body_bytes: usize,
    pub(super) started: Instant,
    pub(super) followers: Followers,
    metrics: Metrics,
    gate: Gate,
}

impl Door {
    /// A door to `api`, bounded as `server` says. Followers of events are sent away at `shutdown`.
    #[must_use]
    pub fn new(
        api: Arc<dyn Api>,
        access: Access,
        metrics: Metrics,
        server: &config::Server,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            api,
            access,
            max_body_bytes: server.max_body_bytes,
            started: Instant::now(),
            followers: Followers::new(metrics.clone(), shutdown),
            metrics,
            gate: Gate::new(server.max_in_flight),
        }
    }

    /// The door's paths.
    pub fn router(self) -> Router {
        let door = Arc::new(self);
        Router::new()
            .route("/v1/transactions", get(handler::list).post(handler::submit))
            .route("/v1/transactions/{id}", get(handler::show))
            .route("/v1/transactions/{id}/operations", post(interactive::operate))
            .route("/v1/transactions/{id}/prepare", post(interactive::prepare))
            .route("/v1/transactions/{id}/commit", post(interactive::commit))
            .route("/v1/transactions/{id}/rollback", post(interactive::roll_back))
            .route("/v1/transactions/{id}/resolve", post(operator::resolve))
            .route("/v1/transactions/{id}/explain", get(operator::explain))
            .route("/v1/orphans", get(operator::orphans))
            .route("/v1/orphans/resolve", post(operator::resolve_orphan))
            // A key may hold slashes.
            .route("/v1/idempotency/{*key}", get(handler::key))
            .route("/v1/locks", get(locks::table).post(locks::lease))
            .route("/v1/locks/{lease}", put(locks::renew).delete(locks::release))
            .route("/v1/wait-for", get(locks::wait_for))
            .route("/v1/deadlocks", get(locks::deadlocks))
            .route("/v1/events", get(events::follow))
            .route("/v1/status", get(handler::status))
            .route("/openapi.json", get(handler::open_api))
            .fallback(not_found)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(from_fn_with_state(Arc::clone(&door), attend))
            .with_state(door)
    }
}

fn route_of(request: &Request) -> Route {
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match path {
        "/v1/transactions" if request.method() == Method::POST => Route::Submit,
        "/v1/transactions" if reads => Route::List,
        "/v1/transactions/{id}" if reads => Route::Show,
        "/v1/transactions/{id}/operations" if request.method() == Method::POST => Route::Operate,
        "/v1/transactions/{id}/prepare" if request.method() == Method::POST => Route::Prepare,
        "/v1/transactions/{id}/commit" if request.method() == Method::POST => Route::Commit,
        "/v1/transactions/{id}/rollback" if request.method() == Method::POST => Route::Rollback,
        "/v1/transactions/{id}/resolve" if request.method() == Method::POST => Route::Resolve,
        "/v1/transactions/{id}/explain" if reads => Route::Explain,
        "/v1/orphans" if reads => Route::Orphans,
        "/v1/orphans/resolve" if request.method() == Method::POST => Route::ResolveOrphan,
        "/v1/idempotency/{*key}" if reads => Route::Key,
        "/v1/locks" if request.method() == Method::POST => Route::Lease,
        "/v1/locks" if reads => Route::Locks,
        "/v1/locks/{lease}" if request.method() == Method::PUT => Route::RenewLease,
        "/v1/locks/{lease}" if request.method() == Method::DELETE => Route::ReleaseLease,
        "/v1/wait-for" if reads => Route::WaitFor,
        "/v1/deadlocks" if reads => Route::Deadlocks,
        "/v1/events" if reads => Route::Events,
        "/v1/status" if reads => Route::Status,
        "/openapi.json" if reads => Route::OpenApi,
        _ => Route::Unknown,
    }
}

/// Around every request: a place at the gate, a span, the metrics, and a wall that a panic does not pass.
async fn attend(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response<Body> {
    let (route, began) = (route_of(&request), Instant::now());
    let parent = headers::trace_parent(request.headers());
    request.extensions_mut().insert(parent.trace);
    if let Ok(parent) = HeaderValue::from_str(&parent.to_string()) {
        request.headers_mut().insert(headers::TRACE_PARENT, parent);
    }
    let span = tracing::debug_span!("request", route = route.as_str(), trace_id = %parent.trace);
    let answer = async {
        // The status, and who waits for whom, must be readable above all when there is too much to do; and whoever waits
        // for a lease must not keep the transactions out that it waits for. A verdict frees what others wait for.
        let _place = match route {
            Route::Submit | Route::Operate | Route::List | Route::Show | Route::Key => match door.gate.enter().await {
                Ok(place) => Some(place),
                Err(problem) => return reply::problem(&problem),
            },
            Route::Prepare | Route::Commit | Route::Rollback => None,
            Route::Lease | Route::RenewLease | Route::ReleaseLease | Route::Locks | Route::WaitFor => None,
            Route::Resolve | Route::Explain | Route::Orphans | Route::ResolveOrphan => None,
            // Followers stay for as long as they like, and have a bound of their own.
            Route::Events | Route::Deadlocks | Route::Status | Route::OpenApi | Route::Unknown => None,
        };
        let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        answer.unwrap_or_else(|_| {
            tracing::error!("a defect: the handler of a request panicked");
            reply::problem(&Problem::new(Code::Internal, "a defect of Outrigger: its log says more"))
        })
    };
    let mut response = answer.instrument(span.clone()).await;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(ours) = HeaderValue::from_str(&parent.ours().to_string()) {
        response.headers_mut().insert(headers::TRACE_PARENT, ours);
    }
    let (status, took) = (response.status().as_u16(), began.elapsed());
    door.metrics.http(route, status, took);
    tracing::debug!(parent: &span, status, took_ms = took.as_secs_f64() * 1000.0, "answered");
    response
}

pub(super) async fn not_found(uri: Uri) -> Response<Body> {
    reply::problem(&Problem::new(Code::NotFound, format!("there is nothing at {}", uri.path())))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response<Body> {
    let allowed = match uri.path() {
        "/v1/transactions" | "/v1/locks" => "GET, HEAD, POST",
        path if path.starts_with("/v1/locks/") => "PUT, DELETE",
        path if path.ends_with("/resolve") => "POST",
        path if path.ends_with("/explain") => "GET, HEAD",
        path if path.starts_with("/v1/transactions/") && path.matches('/').count() == 4 => "POST",
        _ => "GET, HEAD",
    };
    wrong_method(&method, &uri, allowed)
}

pub(super) fn wrong_method(method: &Method, uri: &Uri, allowed: &'static str) -> Response<Body> {
    let detail = format!("{} does not take {method}: {allowed}", uri.path());
    let mut response = reply::problem(&Problem::new(Code::MethodNotAllowed, detail));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
