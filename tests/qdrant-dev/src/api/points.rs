//! Points: writes and reads.

use std::sync::Arc;
use std::time::Instant;

use qdrant_client::qdrant as api;
use qdrant_client::qdrant::points_server::Points;
use qdrant_edge::UpdateOperation;
use tonic::{Request, Response, Status};

use super::unimplemented::unimplemented_calls;
use super::writes::Write;
use super::{Shared, seconds};
use crate::convert::query::Context;
use crate::convert::{ids, index, payload, points, query, updates, vectors};
use crate::errors;
use crate::faults::Verb;

pub(crate) struct PointsApi(pub(crate) Shared);

type Reply<T> = Result<Response<T>, Status>;

impl PointsApi {
    /// A write of one operation.
    async fn one(
        &self,
        verb: Verb,
        collection: String,
        update: UpdateOperation,
        (wait, timeout): (Option<bool>, Option<u64>),
    ) -> Reply<api::PointsOperationResponse> {
        let begun = Instant::now();
        let results = self.0.write(Write { verb, collection, updates: vec![update], wait, timeout }).await?;
        let result = results.into_iter().next();
        Ok(Response::new(api::PointsOperationResponse { result, time: seconds(begun), usage: None }))
    }

    /// Queries of one collection, each resolved against what the ones before it could see too.
    async fn ask<R: Send + 'static>(
        &self,
        collection: &str,
        requests: Vec<R>,
        resolve: fn(&Context<'_>, R) -> Result<qdrant_edge::QueryRequest, Status>,
    ) -> Result<Vec<Vec<api::ScoredPoint>>, Status> {
        let collection = self.0.store.get(collection).await?;
        self.0.gate(Verb::Query, &collection).await?;
        let of = Arc::clone(&collection);
        let look = move |shard: &qdrant_edge::EdgeShard| {
            let context = Context { shard, schema: &of.schema };
            let answers = requests.into_iter().map(|request| {
                let query = resolve(&context, request)?;
                // The engine finds `offset` more than `limit`, and leaves the cutting to whoever gathers from shards.
                let offset = query.offset;
                let found = shard.query(query).map_err(errors::status)?;
                Ok(found.into_iter().skip(offset).map(points::scored).collect())
            });
            answers.collect()
        };
        collection.read(look).await
    }
}

#[tonic::async_trait]
impl Points for PointsApi {
    async fn upsert(&self, request: Request<api::UpsertPoints>) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let update = updates::upsert(request.points, request.update_filter, request.update_mode)?;
        self.one(Verb::Upsert, request.collection_name, update, (request.wait, request.timeout)).await
    }

    async fn delete(&self, request: Request<api::DeletePoints>) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let update = updates::delete(request.points)?;
        self.one(Verb::Delete, request.collection_name, update, (request.wait, request.timeout)).await
    }

    async fn set_payload(&self, request: Request<api::SetPayloadPoints>) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let update = updates::set_payload(request.payload, request.key, request.points_selector)?;
        self.one(Verb::SetPayload, request.collection_name, update, (request.wait, request.timeout)).await
    }

    async fn overwrite_payload(&self, request: Request<api::SetPayloadPoints>) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let update = updates::overwrite_payload(request.payload, request.key, request.points_selector)?;
        self.one(Verb::OverwritePayload, request.collection_name, update, (request.wait, request.timeout)).await
    }

    async fn delete_payload(&self, request: Request<api::DeletePayloadPoints>) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let update = updates::delete_payload(&request.keys, request.points_selector)?;
        self.one(Verb::DeletePayload, request.collection_name, update, (request.wait, request.timeout)).await
    }

    async fn clear_payload(&self, request: Request<api::ClearPayloadPoints>) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let update = updates::clear_payload(request.points)?;
        self.one(Verb::ClearPayload, request.collection_name, update, (request.wait, request.timeout)).await
    }

    async fn update_vectors(&self, request: Request<api::UpdatePointVectors>) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let update = updates::update_vectors(request.points, request.update_filter)?;
        self.one(Verb::UpdateVectors, request.collection_name, update, (request.wait, request.timeout)).await
    }

    async fn delete_vectors(&self, request: Request<api::DeletePointVectors>) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let update = updates::delete_vectors(request.points_selector, request.vectors)?;
        self.one(Verb::DeleteVectors, request.collection_name, update, (request.wait, request.timeout)).await
    }

    async fn update_batch(&self, request: Request<api::UpdateBatchPoints>) -> Reply<api::UpdateBatchResponse> {
        let begun = Instant::now();
        let request = request.into_inner();
        let updates = request.operations.into_iter().map(updates::operation).collect::<Result<Vec<_>, _>>()?;
        let (collection, wait, timeout) = (request.collection_name, request.wait, request.timeout);
        let result = self.0.write(Write { verb: Verb::UpdateBatch, collection, updates, wait, timeout }).await?;
        Ok(Response::new(api::UpdateBatchResponse { result, time: seconds(begun), usage: None }))
    }

    async fn create_field_index(
        &self,
        request: Request<api::CreateFieldIndexCollection>,
    ) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let update = index::create(&request)?;
        self.one(Verb::CreateFieldIndex, request.collection_name, update, (request.wait, request.timeout)).await
    }

    async fn delete_field_index(
        &self,
        request: Request<api::DeleteFieldIndexCollection>,
    ) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let update = index::delete(&request.field_name)?;
        self.one(Verb::DeleteFieldIndex, request.collection_name, update, (request.wait, request.timeout)).await
    }

    async fn get(&self, request: Request<api::GetPoints>) -> Reply<api::GetResponse> {
        let begun = Instant::now();
        let request = request.into_inner();
        let ids = ids::all_from_api(request.ids)?;
        let with_payload = payload::selector(request.with_payload, false)?;
        let with_vectors = vectors::selector(request.with_vectors);
        let collection = self.0.store.get(&request.collection_name).await?;
        self.0.gate(Verb::Get, &collection).await?;
        let look = move |shard: &qdrant_edge::EdgeShard| {
            shard.retrieve(&ids, Some(with_payload), Some(with_vectors)).map_err(errors::status)
        };
        let result = collection.read(look).await?.into_iter().map(points::retrieved).collect();
        Ok(Response::new(api::GetResponse { result, time: seconds(begun), usage: None }))
    }

    async fn scroll(&self, request: Request<api::ScrollPoints>) -> Reply<api::ScrollResponse> {
        let begun = Instant::now();
        let mut request = request.into_inner();
        let collection = self.0.store.get(&std::mem::take(&mut request.collection_name)).await?;
        let request = query::scroll(request)?;
        self.0.gate(Verb::Scroll, &collection).await?;
        let (found, next) = collection.read(move |shard| shard.scroll(request).map_err(errors::status)).await?;
        Ok(Response::new(api::ScrollResponse {
            next_page_offset: next.map(ids::to_api),
            result: found.into_iter().map(points::retrieved).collect(),
            time: seconds(begun),
            usage: None,
        }))
    }

    async fn count(&self, request: Request<api::CountPoints>) -> Reply<api::CountResponse> {
        let begun = Instant::now();
        let mut request = request.into_inner();
        let collection = self.0.store.get(&std::mem::take(&mut request.collection_name)).await?;
        let request = query::count(request)?;
        self.0.gate(Verb::Count, &collection).await?;
        let count = collection.read(move |shard| shard.count(request).map_err(errors::status)).await?;
        let result = Some(api::CountResult { count: count as u64 });
        Ok(Response::new(api::CountResponse { result, time: seconds(begun), usage: None }))
    }

    async fn query(&self, request: Request<api::QueryPoints>) -> Reply<api::QueryResponse> {
        let begun = Instant::now();
        let mut request = request.into_inner();
        let collection = std::mem::take(&mut request.collection_name);
        let mut answers = self.ask(&collection, vec![request], |context, one| context.query(one)).await?;
        let result = answers.pop().unwrap_or_default();
        Ok(Response::new(api::QueryResponse { result, time: seconds(begun), usage: None }))
    }

    async fn query_batch(&self, request: Request<api::QueryBatchPoints>) -> Reply<api::QueryBatchResponse> {
        let begun = Instant::now();
        let request = request.into_inner();
        let answers =
            self.ask(&request.collection_name, request.query_points, |context, one| context.query(one)).await?;
        let result = answers.into_iter().map(|result| api::BatchResult { result }).collect();
        Ok(Response::new(api::QueryBatchResponse { result, time: seconds(begun), usage: None }))
    }

    async fn search(&self, request: Request<api::SearchPoints>) -> Reply<api::SearchResponse> {
        let begun = Instant::now();
        let mut request = request.into_inner();
        let collection = std::mem::take(&mut request.collection_name);
        let mut answers = self.ask(&collection, vec![request], |context, one| context.search(one)).await?;
        let result = answers.pop().unwrap_or_default();
        Ok(Response::new(api::SearchResponse { result, time: seconds(begun), usage: None }))
    }

    async fn search_batch(&self, request: Request<api::SearchBatchPoints>) -> Reply<api::SearchBatchResponse> {
        let begun = Instant::now();
        let request = request.into_inner();
        let answers =
            self.ask(&request.collection_name, request.search_points, |context, one| context.search(one)).await?;
        let result = answers.into_iter().map(|result| api::BatchResult { result }).collect();
        Ok(Response::new(api::SearchBatchResponse { result, time: seconds(begun), usage: None }))
    }

    unimplemented_calls! {
        create_vector_name(api::CreateVectorNameRequest) -> api::PointsOperationResponse;
        delete_vector_name(api::DeleteVectorNameRequest) -> api::PointsOperationResponse;
        search_groups(api::SearchPointGroups) -> api::SearchGroupsResponse;
        recommend(api::RecommendPoints) -> api::RecommendResponse;
        recommend_batch(api::RecommendBatchPoints) -> api::RecommendBatchResponse;
        recommend_groups(api::RecommendPointGroups) -> api::RecommendGroupsResponse;
        discover(api::DiscoverPoints) -> api::DiscoverResponse;
        discover_batch(api::DiscoverBatchPoints) -> api::DiscoverBatchResponse;
        query_groups(api::QueryPointGroups) -> api::QueryGroupsResponse;
        facet(api::FacetCounts) -> api::FacetResponse;
        search_matrix_pairs(api::SearchMatrixPoints) -> api::SearchMatrixPairsResponse;
        search_matrix_offsets(api::SearchMatrixPoints) -> api::SearchMatrixOffsetsResponse;
    }
}
