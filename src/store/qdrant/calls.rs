//! Reads: each with a deadline, a bounded number at a time, tried a second time when the connection broke under it.

use std::error::Error as _;
use std::future::Future;
use std::time::Duration;

use ::qdrant_client::qdrant::points_client::PointsClient;
use ::qdrant_client::qdrant::{
    CountPoints, Filter, GetPoints, PointId, QueryPoints, RetrievedPoint, ScoredPoint, ScrollPoints, ScrollResponse,
};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Response, Status};

use super::Server;
use super::catalog::Known;
use super::reads::With;
use super::wire::Keyed;

/// Points asked for at once when a filter is resolved.
const PAGE: u32 = 1000;
/// Most points that one write by filter may change: each is named in the log.
pub(super) const MOST_RESOLVED: usize = 10_000;

impl Server {
    /// Points by id; those that do not exist are not in the answer.
    pub(super) async fn get(&self, request: GetPoints, until: Instant) -> Result<Vec<RetrievedPoint>, Status> {
        let answer = self.read(until, request, |mut client, request| async move { client.get(request).await }).await;
        answer.map(|answer| answer.result)
    }

    pub(super) async fn scroll(&self, request: ScrollPoints, until: Instant) -> Result<ScrollResponse, Status> {
        self.read(until, request, |mut client, request| async move { client.scroll(request).await }).await
    }

    pub(super) async fn query(&self, request: QueryPoints, until: Instant) -> Result<Vec<ScoredPoint>, Status> {
        let answer = self.read(until, request, |mut client, request| async move { client.query(request).await }).await;
        answer.map(|answer| answer.result)
    }

    pub(super) async fn count(&self, request: CountPoints, until: Instant) -> Result<u64, Status> {
        let answer = self.read(until, request, |mut client, request| async move { client.count(request).await }).await;
        answer.map(|answer| answer.result.unwrap_or_default().count)
    }

    /// What a collection looks like, as known for no longer than a moment.
    pub(super) async fn shape(&self, name: &str, until: Instant) -> Result<Known, Status> {
        let patience = until.saturating_duration_since(Instant::now());
        let shape = self.catalog.shape(&self.dial, name, patience);
        timeout_at(until, shape).await.unwrap_or_else(|_| Err(too_late()))
    }

    /// The points that a filter matches now. `None`: too many.
    pub(super) async fn resolve(
        &self,
        collection: &str,
        filter: Filter,
        until: Instant,
    ) -> Result<Option<Vec<PointId>>, Status> {
        let mut request = ScrollPoints {
            collection_name: collection.to_owned(),
            filter: Some(filter),
            limit: Some(PAGE),
            with_payload: Some(With::NOTHING.payload_selector()),
            with_vectors: Some(With::NOTHING.vectors_selector()),
            ..ScrollPoints::default()
        };
        let mut found = Vec::new();
        loop {
            let page = self.scroll(request.clone(), until).await?;
            found.extend(page.result.into_iter().filter_map(|point| point.id));
            if found.len() > MOST_RESOLVED {
                return Ok(None);
            }
            if page.next_page_offset.is_none() {
                return Ok(Some(found));
            }
            request.offset = page.next_page_offset;
        }
    }

    async fn read<Q: Clone, A, F>(
        &self,
        until: Instant,
        message: Q,
        call: impl Fn(PointsClient<Keyed>, Request<Q>) -> F,
    ) -> Result<A, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let permit = timeout_at(until, self.permits.acquire()).await.map_err(|_| too_late())?;
        let _permit = permit.map_err(|_| Status::unavailable("shutting down"))?;
        let once = || async {
            let mut request = Request::new(message.clone());
            request.set_timeout(until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
            let answer = timeout_at(until, call(self.dial.points(), request)).await;
            answer.unwrap_or_else(|_| Err(too_late()))
        };
        let answer = match once().await {
            // The server was restarted, or the connection lost: a new one is made now.
            Err(status) if status.code() == Code::Unavailable || status.source().is_some() => once().await,
            answer => answer,
        };
        answer.map(Response::into_inner)
    }
}

fn too_late() -> Status {
    Status::deadline_exceeded("no answer in time")
}
