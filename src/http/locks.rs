//! Locks, waits and deadlocks: leases for applications, and what there is to be seen.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use http::header::ACCEPT;
use http::{HeaderMap, Response, StatusCode, Uri};
use serde_json::json;

use super::api::RepairMode;
use super::route::Door;
use super::{body, graph, headers, openapi, operator, reply, wire};
use crate::model::problem::{Code, Problem};
use crate::txn::{Actor, Coordinator, DeadlockView, KeyView, LeaseView, LeaseWish, WaitForView};

type Reply = Response<Body>;
const MOST_KEYS: usize = 1000;
/// A lease's body is small.
const LARGEST_BODY: usize = 16 << 10;

/// Leases locks and shows them. See [`Coordinator`], whose methods these are.
#[async_trait]
pub trait Locks: Send + Sync {
    /// Takes a lease.
    ///
    /// # Errors
    /// `lock_timeout`, `overloaded`.
    async fn lease(&self, wish: LeaseWish) -> Result<LeaseView, Problem>;

    /// Makes it last.
    ///
    /// # Errors
    /// `not_found`, `forbidden`.
    fn renew_lease(&self, id: &str, ttl: Option<Duration>, actor: &Actor) -> Result<LeaseView, Problem>;

    /// Gives it back.
    ///
    /// # Errors
    /// `not_found`, `forbidden`.
    fn release_lease(&self, id: &str, actor: &Actor) -> Result<(), Problem>;

    /// The lock table.
    ///
    /// # Errors
    /// `journal_unavailable` in repair mode, as the next two.
    fn locks(&self, limit: usize) -> Result<Vec<KeyView>, Problem>;

    /// Who waits for whom.
    ///
    /// # Errors
    /// As [`Self::locks`].
    async fn wait_for(&self) -> Result<WaitForView, Problem>;

    /// The last deadlocks.
    ///
    /// # Errors
    /// As [`Self::locks`].
    fn deadlocks(&self) -> Result<Vec<DeadlockView>, Problem>;
}

#[async_trait]
impl Locks for Coordinator {
    async fn lease(&self, wish: LeaseWish) -> Result<LeaseView, Problem> {
        Self::lease(self, wish).await
    }

    fn renew_lease(&self, id: &str, ttl: Option<Duration>, actor: &Actor) -> Result<LeaseView, Problem> {
        Self::renew_lease(self, id, ttl, actor)
    }

    fn release_lease(&self, id: &str, actor: &Actor) -> Result<(), Problem> {
        Self::release_lease(self, id, actor)
    }

    fn locks(&self, limit: usize) -> Result<Vec<KeyView>, Problem> {
        Ok(Self::locks(self, limit))
    }

    async fn wait_for(&self) -> Result<WaitForView, Problem> {
        Ok(Self::wait_for(self).await)
    }

    fn deadlocks(&self) -> Result<Vec<DeadlockView>, Problem> {
        Ok(Self::deadlocks(self))
    }
}

#[async_trait]
impl Locks for RepairMode {
    async fn lease(&self, _: LeaseWish) -> Result<LeaseView, Problem> {
        Err(self.problem())
    }

    fn renew_lease(&self, _: &str, _: Option<Duration>, _: &Actor) -> Result<LeaseView, Problem> {
        Err(self.problem())
    }

    fn release_lease(&self, _: &str, _: &Actor) -> Result<(), Problem> {
        Err(self.problem())
    }

    fn locks(&self, _: usize) -> Result<Vec<KeyView>, Problem> {
        Err(self.problem())
    }

    async fn wait_for(&self) -> Result<WaitForView, Problem> {
        Err(self.problem())
    }

    fn deadlocks(&self) -> Result<Vec<DeadlockView>, Problem> {
        Err(self.problem())
    }
}

/// Take a lock for a time: a lease. It ends with its time, by being released, or with the sidecar.
#[utoipa::path(
    post, path = "/v1/locks", operation_id = "takeLease", tag = "locks",
    request_body(content = openapi::LeaseRequest, content_type = "application/json"),
    responses((status = 201, description = "It is held. Send `fencing_token` along with what is done under it.", body = LeaseView, headers(("Location" = String)))),
)]
pub(super) async fn lease(State(door): State<Arc<Door>>, request: Request) -> Reply {
    let (parts, mut body) = request.into_parts();
    let taken = async {
        let visitor = door.access.visitor(&parts.headers)?;
        headers::query(&parts.uri, &[])?;
        let json = body::json(&mut body, &parts.headers, LARGEST_BODY).await?;
        let view = door.api.lease(wire::lease(json, visitor.name)?).await?;
        Ok(reply::made(&format!("/v1/locks/{}", view.lease), &view))
    };
    let taken = taken.await;
    body::answered(taken, &mut body, &parts.headers).await
}

/// Renew a lease: it lasts for `ttl_ms` from now.
#[utoipa::path(
    put, path = "/v1/locks/{lease}", operation_id = "renewLease", tag = "locks",
    params(("lease" = String, Path, description = "Its id.")),
    request_body(content = Option<openapi::RenewRequest>, content_type = "application/json"),
    responses((status = 200, description = "It is still held, with the same token.", body = LeaseView)),
)]
pub(super) async fn renew(
    State(door): State<Arc<Door>>,
    lease: Result<Path<String>, PathRejection>,
    request: Request,
) -> Reply {
    let (parts, mut body) = request.into_parts();
    let renewed = async {
        let visitor = door.access.visitor(&parts.headers)?;
        headers::query(&parts.uri, &[])?;
        let json = body::json_if_any(&mut body, &parts.headers, LARGEST_BODY).await?;
        let ttl = json.map_or(Ok(None), wire::renewal)?;
        let id = lease.map(|Path(id)| id).unwrap_or_default();
        let renew = || door.api.renew_lease(&id, ttl, &visitor.actor());
        let view = operator::on_lease(&door, &parts.headers, &visitor, "lease_renew", &id, renew).await?;
        Ok(reply::json(StatusCode::OK, &view))
    };
    reply::or_problem(renewed.await)
}

/// Release a lease.
#[utoipa::path(
    delete, path = "/v1/locks/{lease}", operation_id = "releaseLease", tag = "locks",
    params(("lease" = String, Path, description = "Its id.")),
    responses((status = 204, description = "It is released.")),
)]
pub(super) async fn release(
    State(door): State<Arc<Door>>,
    lease: Result<Path<String>, PathRejection>,
    head: HeaderMap,
    uri: Uri,
) -> Reply {
    let released = async {
        let visitor = door.access.visitor(&head)?;
        headers::query(&uri, &[])?;
        let id = lease.map(|Path(id)| id).unwrap_or_default();
        let release = || door.api.release_lease(&id, &visitor.actor());
        operator::on_lease(&door, &head, &visitor, "lease_release", &id, release).await?;
        Ok(reply::nothing())
    };
    reply::or_problem(released.await)
}

/// Our own lock table: who holds and who waits, contended keys first.
#[utoipa::path(
    get, path = "/v1/locks", operation_id = "listLocks", tag = "locks",
    params(("limit" = Option<u64>, Query, description = "At most so many keys: 1 to 1000, 1000 by default.", minimum = 1, maximum = 1000)),
    responses((status = 200, description = "`{\"locks\": […]}`", body = openapi::LockTable)),
)]
pub(super) async fn table(State(door): State<Arc<Door>>, head: HeaderMap, uri: Uri) -> Reply {
    let shown = || {
        door.access.visitor(&head)?;
        let mut limit = MOST_KEYS;
        for (_, value) in headers::query(&uri, &["limit"])? {
            let read = value.parse().ok().filter(|limit| (1..=MOST_KEYS).contains(limit));
            let fault = || Problem::new(Code::InvalidRequest, format!("`limit` must be from 1 to {MOST_KEYS}"));
            limit = read.ok_or_else(fault)?;
        }
        Ok(reply::json(StatusCode::OK, &json!({"locks": door.api.locks(limit)?})))
    };
    reply::or_problem(shown())
}

/// Who waits for whom, in our own table and inside the stores: JSON, or a picture.
#[utoipa::path(
    get, path = "/v1/wait-for", operation_id = "getWaitForGraph", tag = "locks",
    params(("Accept" = Option<String>, Header, description = "`application/json` (default), `text/vnd.graphviz` or `image/svg+xml`.")),
    responses((status = 200, description = "The graph.", content(
        (WaitForView = "application/json"), (String = "text/vnd.graphviz"), (String = "image/svg+xml")))),
)]
pub(super) async fn wait_for(State(door): State<Arc<Door>>, head: HeaderMap, uri: Uri) -> Reply {
    let shown = async {
        door.access.visitor(&head)?;
        headers::query(&uri, &[])?;
        let view = door.api.wait_for().await?;
        Ok(match graph::wanted(head.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default()) {
            graph::Form::Json => reply::json(StatusCode::OK, &view),
            graph::Form::Dot => reply::with_type(StatusCode::OK, "text/vnd.graphviz", graph::dot(&view)),
            graph::Form::Svg => reply::with_type(StatusCode::OK, "image/svg+xml", graph::svg(&view)),
        })
    };
    reply::or_problem(shown.await)
}

/// The last hundred deadlocks, newest first: who waited for whom in a circle, the scores, who gave way.
#[utoipa::path(
    get, path = "/v1/deadlocks", operation_id = "listDeadlocks", tag = "locks",
    responses((status = 200, description = "`{\"deadlocks\": […]}`", body = openapi::DeadlockList)),
)]
pub(super) async fn deadlocks(State(door): State<Arc<Door>>, head: HeaderMap, uri: Uri) -> Reply {
    let shown = || {
        door.access.visitor(&head)?;
        headers::query(&uri, &[])?;
        Ok(reply::json(StatusCode::OK, &json!({"deadlocks": door.api.deadlocks()?})))
    };
    reply::or_problem(shown())
}
