//! The porch: probes and Prometheus. Nothing here writes, so it may be reached from further away than the door.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Method, Response, StatusCode, Uri};

use super::{reply, route};
use crate::metrics::{self, Metrics};

const TEXT: &str = "text/plain; charset=utf-8";

/// `/metrics`, `/livez` and `/readyz`; `is_ready` answers the last one.
pub fn router(metrics: Metrics, is_ready: Arc<dyn Fn() -> bool + Send + Sync>) -> Router {
    let probe = is_ready.clone();
    let exposition = move || {
        metrics.set_ready(probe());
        let text = metrics.render();
        async move { reply::with_type(StatusCode::OK, metrics::CONTENT_TYPE, text) }
    };
    let ready = move || {
        let ready = is_ready();
        async move {
            if ready {
                reply::with_type(StatusCode::OK, TEXT, "ready\n")
            } else {
                reply::with_type(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready\n")
            }
        }
    };
    Router::new()
        .route("/metrics", get(exposition))
        .route("/livez", get(|| async { reply::with_type(StatusCode::OK, TEXT, "alive\n") }))
        .route("/readyz", get(ready))
        .fallback(route::not_found)
        .method_not_allowed_fallback(method_not_allowed)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response<Body> {
    route::wrong_method(&method, &uri, "GET, HEAD")
}
