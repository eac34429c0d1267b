//! The operator's hand: resolve by hand what is stuck, and explain why it is.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use http::{HeaderMap, Response, StatusCode, Uri};

use super::access::Visitor;
use super::api::RepairMode;
use super::handler::which;
use super::route::Door;
use super::{body, headers, openapi, reply, wire};
use crate::audit::{Act, Line, Outcome};
use crate::config::PrincipalRole;
use crate::model::ids::TxnId;
use crate::model::problem::Problem;
use crate::model::view::View;
use crate::txn::{Coordinator, Explanation, Find, HandWish, OrphanList, OrphanResolved, OrphanWish};

type Reply = Response<Body>;
/// A verb with its reason is small.
const LARGEST_BODY: usize = 16 << 10;

/// What operators do by hand. See [`Coordinator`], whose methods these are.
#[async_trait]
pub trait Operator: Send + Sync {
    /// Does what the table allows.
    ///
    /// # Errors
    /// `not_found`, `wrong_state`, `journal_unavailable`, `store_unavailable`.
    async fn resolve(&self, what: &Find, wish: HandWish) -> Result<View, Problem>;

    /// Says why a transaction is where it is.
    ///
    /// # Errors
    /// `not_found`, `store_unavailable`.
    async fn explain(&self, what: &Find) -> Result<Explanation, Problem>;

    /// Prepared transactions that nothing open here answers for.
    ///
    /// # Errors
    /// `journal_unavailable` in repair mode.
    async fn orphans(&self) -> Result<OrphanList, Problem>;

    /// Ends one of a dead log.
    ///
    /// # Errors
    /// `not_found`, `wrong_state`, `store_unavailable`, `journal_unavailable`.
    async fn resolve_orphan(&self, wish: OrphanWish) -> Result<OrphanResolved, Problem>;

    /// The principal of a lease that is held.
    fn lease_holder(&self, id: &str) -> Option<Arc<str>>;

    /// Writes a line of what is done by hand elsewhere than in [`Self::resolve`].
    ///
    /// # Errors
    /// `journal_unavailable` where it cannot be written.
    async fn note(&self, line: &Line) -> Result<(), Problem>;

    /// Writes down that somebody who is no operator asked for something by hand.
    ///
    /// # Errors
    /// `journal_unavailable` where it cannot be written.
    async fn note_stranger(&self, act: &Act, problem: &Problem) -> Result<(), Problem>;
}

#[async_trait]
impl Operator for Coordinator {
    async fn resolve(&self, what: &Find, wish: HandWish) -> Result<View, Problem> {
        Self::resolve(self, what, wish).await
    }

    async fn explain(&self, what: &Find) -> Result<Explanation, Problem> {
        Self::explain(self, what).await
    }

    async fn orphans(&self) -> Result<OrphanList, Problem> {
        Ok(Self::orphans(self).await)
    }

    async fn resolve_orphan(&self, wish: OrphanWish) -> Result<OrphanResolved, Problem> {
        Self::resolve_orphan(self, wish).await
    }

    fn lease_holder(&self, id: &str) -> Option<Arc<str>> {
        Self::lease_holder(self, id)
    }

    async fn note(&self, line: &Line) -> Result<(), Problem> {
        Self::note(self, line).await
    }

    async fn note_stranger(&self, act: &Act, problem: &Problem) -> Result<(), Problem> {
        Self::note_stranger(self, act, problem).await
    }
}

#[async_trait]
impl Operator for RepairMode {
    async fn resolve(&self, _: &Find, _: HandWish) -> Result<View, Problem> {
        Err(self.problem())
    }

    async fn explain(&self, _: &Find) -> Result<Explanation, Problem> {
        Err(self.problem())
    }

    async fn orphans(&self) -> Result<OrphanList, Problem> {
        Err(self.problem())
    }

    async fn resolve_orphan(&self, _: OrphanWish) -> Result<OrphanResolved, Problem> {
        Err(self.problem())
    }

    fn lease_holder(&self, _: &str) -> Option<Arc<str>> {
        None
    }

    async fn note(&self, _: &Line) -> Result<(), Problem> {
        Ok(())
    }

    async fn note_stranger(&self, _: &Act, _: &Problem) -> Result<(), Problem> {
        Ok(())
    }
}

/// Which transaction is meant, and its id where that is what was asked for.
fn asked(id: Result<Path<String>, PathRejection>) -> Result<(Find, Option<TxnId>), Problem> {
    let what = which(id)?;
    let id = if let Find::Id(id) = &what { Some(*id) } else { None };
    Ok((what, id))
}

/// Lets only operators through; others are written down.
async fn operator(door: &Door, head: &HeaderMap, action: &str, object: &str) -> Result<Visitor, Problem> {
    let visitor = door.access.visitor(head)?;
    if let Err(problem) = visitor.must_be_operator() {
        let act = Act { object: Some(object.to_owned()), ..Act::new(&visitor.name, action, headers::trace_id(head)) };
        door.api.note_stranger(&act, &problem).await?;
        return Err(problem);
    }
    Ok(visitor)
}

/// Acts on a lease; where an operator acts on another's, that is written down before and after.
pub(super) async fn on_lease<T>(
    door: &Door,
    head: &HeaderMap,
    visitor: &Visitor,
    action: &str,
    lease: &str,
    act: impl FnOnce() -> Result<T, Problem>,
) -> Result<T, Problem> {
    let holder = door.api.lease_holder(lease).filter(|holder| *holder != visitor.name);
    let Some(holder) = holder.filter(|_| visitor.role == PrincipalRole::Operator) else { return act() };
    let noted = Act {
        object: Some(lease.to_owned()),
        before: Some(format!("held by {holder}")),
        ..Act::new(&visitor.name, action, headers::trace_id(head))
    };
    door.api.note(&Line::asked(&noted)).await?;
    let done = act();
    let line = match &done {
        Ok(_) => Line::answered(&noted, Outcome::Done, None, None),
        Err(problem) => Line::answered(&noted, Outcome::Refused, None, Some(&problem.detail)),
    };
    // It is done, and that it was asked for stands in the file: a failure of the second line is logged and counted there.
    let _ = door.api.note(&line).await;
    done
}

/// Resolve by hand what is stuck. Operators only; a reason is demanded and audited.
#[utoipa::path(
    post, path = "/v1/transactions/{id}/resolve", operation_id = "resolveTransaction", tag = "operator",
    params(("id" = String, Path, description = "A UUID, or `name:THE-NAME`.")),
    request_body(content = openapi::ResolveRequest, content_type = "application/json"),
    responses((status = 200, description = "It was taken, or was so already: the transaction as it stands now.", body = View)),
)]
pub(super) async fn resolve(
    State(door): State<Arc<Door>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Reply {
    let (parts, mut body) = request.into_parts();
    let resolved = resolve_inner(&door, id, &parts.uri, &parts.headers, &mut body).await;
    body::answered(resolved, &mut body, &parts.headers).await
}

async fn resolve_inner(
    door: &Door,
    id: Result<Path<String>, PathRejection>,
    uri: &Uri,
    head: &HeaderMap,
    body: &mut Body,
) -> Result<Reply, Problem> {
    let named = id.as_ref().map(|Path(id)| id.as_str()).unwrap_or_default();
    let visitor = operator(door, head, "resolve", named).await?;
    headers::query(uri, &[])?;
    let (what, asked) = asked(id)?;
    let (verb, reason) = wire::hand(body::json(body, head, LARGEST_BODY).await?)?;
    let trace = headers::trace_id(head).map(str::to_owned);
    let wish = HandWish { verb, reason, who: visitor.name, trace };
    Ok(match door.api.resolve(&what, wish).await {
        Ok(view) => reply::found(&view),
        Err(problem) => reply::unknown(&problem, asked),
    })
}

/// Why is it where it is: who decides, what was promised to whom, what would end it, and what an operator may do.
#[utoipa::path(
    get, path = "/v1/transactions/{id}/explain", operation_id = "explainTransaction", tag = "operator",
    params(("id" = String, Path, description = "A UUID, or `name:THE-NAME`.")),
    responses((status = 200, description = "The explanation; `summary` says all of it in sentences.", body = Explanation)),
)]
pub(super) async fn explain(
    State(door): State<Arc<Door>>,
    id: Result<Path<String>, PathRejection>,
    head: HeaderMap,
    uri: Uri,
) -> Reply {
    let explained = async {
        door.access.visitor(&head)?;
        headers::query(&uri, &[])?;
        let (what, asked) = asked(id)?;
        Ok(match door.api.explain(&what).await {
            Ok(explanation) => reply::json(StatusCode::OK, &explanation),
            Err(problem) => reply::unknown(&problem, asked),
        })
    };
    reply::or_problem(explained.await)
}

/// Prepared transactions of Outrigger's shape that nothing open here answers for: of this log, and of others.
#[utoipa::path(
    get, path = "/v1/orphans", operation_id = "listOrphans", tag = "operator",
    responses((status = 200, description = "All of them, and the stores that could not be asked.", body = OrphanList)),
)]
pub(super) async fn orphans(State(door): State<Arc<Door>>, head: HeaderMap, uri: Uri) -> Reply {
    let listed = async {
        door.access.visitor(&head)?;
        headers::query(&uri, &[])?;
        Ok(reply::json(StatusCode::OK, &door.api.orphans().await?))
    };
    reply::or_problem(listed.await)
}

/// End by hand a prepared transaction of a log that is dead, the way that its decider says. Operators only.
#[utoipa::path(
    post, path = "/v1/orphans/resolve", operation_id = "resolveOrphan", tag = "operator",
    request_body(content = openapi::ResolveOrphanRequest, content_type = "application/json"),
    responses((status = 200, description = "It is ended.", body = OrphanResolved)),
)]
pub(super) async fn resolve_orphan(State(door): State<Arc<Door>>, request: Request) -> Reply {
    let (parts, mut body) = request.into_parts();
    let resolved = async {
        let visitor = operator(&door, &parts.headers, "resolve_orphan", "").await?;
        headers::query(&parts.uri, &[])?;
        let json = body::json(&mut body, &parts.headers, LARGEST_BODY).await?;
        let trace = headers::trace_id(&parts.headers).map(str::to_owned);
        let wish = wire::orphan(json, visitor.name, trace)?;
        Ok(reply::json(StatusCode::OK, &door.api.resolve_orphan(wish).await?))
    };
    let resolved = resolved.await;
    body::answered(resolved, &mut body, &parts.headers).await
}
