//! The door's paths for transactions that grow call by call and wait for a verdict.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use http::{Response, StatusCode};
use serde_json::Value;

use super::api::RepairMode;
use super::handler::which;
use super::route::Door;
use super::{body, headers, jobs, openapi, reply, wire};
use crate::model::commit::KeyNote;
use crate::model::problem::Problem;
use crate::model::request::{Opening, Operation, PrepareWish, WaitFor};
use crate::model::state::Outcome;
use crate::model::view::{Answer, View};
use crate::txn::{Actor, Coordinator, Find, Opened};

type Reply = Response<Body>;

/// Goes on with open transactions. See [`Coordinator`], whose methods these are.
#[async_trait]
pub trait Conversing: Send + Sync {
    /// Opens one.
    ///
    /// # Errors
    /// As a one-shot transaction's.
    async fn open(&self, opening: Opening, key: Option<KeyNote>) -> Result<Opened, Problem>;

    /// Runs more operations; answers with the results of these.
    ///
    /// # Errors
    /// With state `active`: nothing has run. With any other: it has aborted.
    async fn operate(&self, what: &Find, operations: Vec<Operation>, actor: &Actor) -> Result<View, Problem>;

    /// Makes it outlive a crash.
    ///
    /// # Errors
    /// A store's refusal; `wrong_state`.
    async fn prepare(&self, what: &Find, wish: PrepareWish, actor: &Actor) -> Result<View, Problem>;

    /// The verdict.
    ///
    /// # Errors
    /// `wrong_state`, `not_found`.
    async fn end(&self, what: &Find, outcome: Outcome, wait: Option<WaitFor>, actor: &Actor)
    -> Result<Answer, Problem>;
}

#[async_trait]
impl Conversing for Coordinator {
    async fn open(&self, opening: Opening, key: Option<KeyNote>) -> Result<Opened, Problem> {
        Self::open(self, opening, key).await
    }

    async fn operate(&self, what: &Find, operations: Vec<Operation>, actor: &Actor) -> Result<View, Problem> {
        Self::operate(self, what, operations, actor).await
    }

    async fn prepare(&self, what: &Find, wish: PrepareWish, actor: &Actor) -> Result<View, Problem> {
        Self::prepare(self, what, wish, actor).await
    }

    async fn end(
        &self,
        what: &Find,
        outcome: Outcome,
        wait: Option<WaitFor>,
        actor: &Actor,
    ) -> Result<Answer, Problem> {
        Self::end(self, what, outcome, wait, actor).await
    }
}

#[async_trait]
impl Conversing for RepairMode {
    async fn open(&self, _: Opening, _: Option<KeyNote>) -> Result<Opened, Problem> {
        Err(self.problem())
    }

    async fn operate(&self, _: &Find, _: Vec<Operation>, _: &Actor) -> Result<View, Problem> {
        Err(self.problem())
    }

    async fn prepare(&self, _: &Find, _: PrepareWish, _: &Actor) -> Result<View, Problem> {
        Err(self.problem())
    }

    async fn end(&self, _: &Find, _: Outcome, _: Option<WaitFor>, _: &Actor) -> Result<Answer, Problem> {
        Err(self.problem())
    }
}

/// Opens a transaction that was asked for with `"interactive": true`.
pub(super) async fn open(door: &Door, opening: Opening, key: Option<KeyNote>) -> Result<Reply, Problem> {
    Ok(match door.api.open(opening, key).await? {
        Opened::New(view) => reply::made(&format!("/v1/transactions/{}", view.id), &view),
        Opened::Replayed(view) => reply::answer(&Answer::Replayed(view)),
    })
}

/// Reads a request to one transaction, carries it out by `act`, and reads a refused body to its end.
async fn attend<F>(door: &Door, id: Result<Path<String>, PathRejection>, request: Request, act: F) -> Reply
where
    F: AsyncFnOnce(Find, Option<Value>, Actor) -> Result<Reply, Problem>,
{
    let (parts, mut body) = request.into_parts();
    let done = async {
        let visitor = door.access.visitor(&parts.headers)?;
        headers::query(&parts.uri, &[])?;
        let what = which(id)?;
        let json = body::json_if_any(&mut body, &parts.headers, door.max_body_bytes).await?;
        act(what, json, visitor.actor()).await
    };
    let done = done.await;
    body::answered(done, &mut body, &parts.headers).await
}

/// Run more operations of an open transaction. Reads see what it wrote; `$ref` reaches back to earlier calls.
#[utoipa::path(
    post, path = "/v1/transactions/{id}/operations", operation_id = "runOperations", tag = "transactions",
    params(("id" = String, Path, description = "A UUID, or `name:THE-NAME`.")),
    request_body(content = openapi::MoreOperations, content_type = "application/json"),
    responses((status = 200, description = "They have run; `results` are theirs. The lease begins anew. A problem with `state: active` has run nothing, and the transaction goes on; any other problem has aborted it.", body = View)),
)]
pub(super) async fn operate(
    State(door): State<Arc<Door>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Reply {
    attend(&door, id, request, async |what, json, actor| {
        let json = json.unwrap_or_else(|| serde_json::json!({}));
        let operations = wire::more_operations(json, &|store| door.api.store_kind(store))?;
        Ok(reply::json(StatusCode::OK, &door.api.operate(&what, operations, &actor).await?))
    })
    .await
}

/// Make an open transaction outlive crashes: from here on it waits for its verdict.
#[utoipa::path(
    post, path = "/v1/transactions/{id}/prepare", operation_id = "prepareTransaction", tag = "transactions",
    params(("id" = String, Path, description = "A UUID, or `name:THE-NAME`.")),
    request_body(content = Option<openapi::PrepareRequest>, content_type = "application/json"),
    responses((status = 200, description = "It is prepared; `guarantee` says whether a store may still refuse at the commit. Asked again, it answers the same.", body = View)),
)]
pub(super) async fn prepare(
    State(door): State<Arc<Door>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Reply {
    attend(&door, id, request, async |what, json, actor| {
        let wish = wire::prepare(json)?;
        Ok(reply::json(StatusCode::OK, &door.api.prepare(&what, wish, &actor).await?))
    })
    .await
}

/// Commit an open or prepared transaction, or a batch job whose chunks are done. Asked again, it answers the same outcome.
#[utoipa::path(
    post, path = "/v1/transactions/{id}/commit", operation_id = "commitTransaction", tag = "transactions",
    params(("id" = String, Path, description = "A UUID, or `name:THE-NAME`.")),
    request_body(content = Option<openapi::EndRequest>, content_type = "application/json"),
    responses(
        (status = 200, description = "It happened: `committed`, `committing` or `needs_intervention`.", body = View),
        (status = 202, description = "`in_doubt`: not known yet, ask at `Location`.", body = View, headers(("Location" = String), ("Retry-After" = u32))),
    ),
)]
pub(super) async fn commit(
    State(door): State<Arc<Door>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Reply {
    end(&door, id, request, Outcome::Committed).await
}

/// Roll an open or prepared transaction back, or undo a batch job. Asked again, it answers the same outcome.
#[utoipa::path(
    post, path = "/v1/transactions/{id}/rollback", operation_id = "rollbackTransaction", tag = "transactions",
    params(("id" = String, Path, description = "A UUID, or `name:THE-NAME`.")),
    request_body(content = Option<openapi::EndRequest>, content_type = "application/json"),
    responses(
        (status = 200, description = "It did not happen: `aborted`, or `aborting` (irrevocable; `pending` names who has to be told). A batch job: `compensated`, or (`mark_failed`) `aborted`, and its chunks stay.", body = View),
        (status = 202, description = "`in_doubt`: not known yet; or `compensating`: a batch job is being undone. Ask at `Location`.", body = View, headers(("Location" = String), ("Retry-After" = u32))),
    ),
)]
pub(super) async fn roll_back(
    State(door): State<Arc<Door>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Reply {
    end(&door, id, request, Outcome::Aborted).await
}

async fn end(door: &Door, id: Result<Path<String>, PathRejection>, request: Request, outcome: Outcome) -> Reply {
    attend(door, id, request, async |what, json, actor| {
        if door.api.is_job(&what) {
            return jobs::end(door, &what, outcome, json, &actor).await;
        }
        let wait = wire::end(json)?;
        Ok(reply::answer(&door.api.end(&what, outcome, wait, &actor).await?))
    })
    .await
}
