//! Who answers, and which server's behaviour to expect.

use qdrant_client::qdrant::qdrant_server::Qdrant;
use qdrant_client::qdrant::{HealthCheckReply, HealthCheckRequest};
use tonic::{Request, Response, Status};

/// The engine calls itself `1.18.2-dev`. Clients compare versions, so it must parse as one.
pub(crate) const VERSION: &str = "1.18.2-qdrant-dev";

pub(crate) struct HealthApi;

#[tonic::async_trait]
impl Qdrant for HealthApi {
    async fn health_check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckReply>, Status> {
        let title = "qdrant-dev: the Qdrant engine for tests".to_owned();
        Ok(Response::new(HealthCheckReply { title, version: VERSION.to_owned(), commit: None }))
    }
}
