//! Collections and their aliases.

use std::time::Instant;

use qdrant_client::qdrant as api;
use qdrant_client::qdrant::alias_operations::Action;
use qdrant_client::qdrant::collections_server::Collections;
use tonic::{Request, Response, Status};

use super::unimplemented::unimplemented_calls;
use super::{Shared, seconds};
use crate::convert;
use crate::errors;
use crate::store::AliasChange;

/// The longest name that Qdrant takes.
const NAME_AT_MOST: usize = 255;

pub(crate) struct CollectionsApi(pub(crate) Shared);

#[tonic::async_trait]
impl Collections for CollectionsApi {
    async fn get(
        &self,
        request: Request<api::GetCollectionInfoRequest>,
    ) -> Result<Response<api::GetCollectionInfoResponse>, Status> {
        let begun = Instant::now();
        let collection = self.0.store.get(&request.into_inner().collection_name).await?;
        let info = collection.read(|shard| Ok(convert::collections::info(&shard.config(), &shard.info()))).await?;
        Ok(Response::new(api::GetCollectionInfoResponse { result: Some(info), time: seconds(begun) }))
    }

    async fn list(
        &self,
        _: Request<api::ListCollectionsRequest>,
    ) -> Result<Response<api::ListCollectionsResponse>, Status> {
        let begun = Instant::now();
        let names = self.0.store.list().await;
        let collections = names.into_iter().map(|name| api::CollectionDescription { name }).collect();
        Ok(Response::new(api::ListCollectionsResponse { collections, time: seconds(begun) }))
    }

    async fn create(
        &self,
        request: Request<api::CreateCollection>,
    ) -> Result<Response<api::CollectionOperationResponse>, Status> {
        let begun = Instant::now();
        let request = request.into_inner();
        let config = convert::collections::config(&request)?;
        refuse_name(&request.collection_name)?;
        self.0.store.create(request.collection_name, config).await?;
        Ok(done(true, begun))
    }

    /// Accepted for a collection that exists; nothing that it can change has an effect here.
    async fn update(
        &self,
        request: Request<api::UpdateCollection>,
    ) -> Result<Response<api::CollectionOperationResponse>, Status> {
        let begun = Instant::now();
        self.0.store.get(&request.into_inner().collection_name).await?;
        Ok(done(true, begun))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteCollection>,
    ) -> Result<Response<api::CollectionOperationResponse>, Status> {
        let begun = Instant::now();
        let deleted = self.0.store.delete(&request.into_inner().collection_name).await?;
        Ok(done(deleted, begun))
    }

    async fn update_aliases(
        &self,
        request: Request<api::ChangeAliases>,
    ) -> Result<Response<api::CollectionOperationResponse>, Status> {
        let begun = Instant::now();
        let actions = request.into_inner().actions;
        let changes = actions.into_iter().map(alias_change).collect::<Result<_, _>>()?;
        self.0.store.change_aliases(changes).await?;
        Ok(done(true, begun))
    }

    async fn list_collection_aliases(
        &self,
        request: Request<api::ListCollectionAliasesRequest>,
    ) -> Result<Response<api::ListAliasesResponse>, Status> {
        let begun = Instant::now();
        let collection = self.0.store.get(&request.into_inner().collection_name).await?;
        let aliases = self.0.store.aliases(Some(&collection.name)).await;
        Ok(Response::new(api::ListAliasesResponse { aliases: described(aliases), time: seconds(begun) }))
    }

    async fn list_aliases(
        &self,
        _: Request<api::ListAliasesRequest>,
    ) -> Result<Response<api::ListAliasesResponse>, Status> {
        let begun = Instant::now();
        let aliases = self.0.store.aliases(None).await;
        Ok(Response::new(api::ListAliasesResponse { aliases: described(aliases), time: seconds(begun) }))
    }

    async fn collection_exists(
        &self,
        request: Request<api::CollectionExistsRequest>,
    ) -> Result<Response<api::CollectionExistsResponse>, Status> {
        let begun = Instant::now();
        let exists = self.0.store.get(&request.into_inner().collection_name).await.is_ok();
        let result = Some(api::CollectionExists { exists });
        Ok(Response::new(api::CollectionExistsResponse { result, time: seconds(begun) }))
    }

    unimplemented_calls! {
        collection_cluster_info(api::CollectionClusterInfoRequest) -> api::CollectionClusterInfoResponse;
        update_collection_cluster_setup(api::UpdateCollectionClusterSetupRequest)
            -> api::UpdateCollectionClusterSetupResponse;
        create_shard_key(api::CreateShardKeyRequest) -> api::CreateShardKeyResponse;
        delete_shard_key(api::DeleteShardKeyRequest) -> api::DeleteShardKeyResponse;
        list_shard_keys(api::ListShardKeysRequest) -> api::ListShardKeysResponse;
    }
}

fn done(result: bool, begun: Instant) -> Response<api::CollectionOperationResponse> {
    Response::new(api::CollectionOperationResponse { result, time: seconds(begun) })
}

fn described(aliases: Vec<(String, String)>) -> Vec<api::AliasDescription> {
    let describe = |(alias_name, collection_name)| api::AliasDescription { alias_name, collection_name };
    aliases.into_iter().map(describe).collect()
}

fn alias_change(operation: api::AliasOperations) -> Result<AliasChange, Status> {
    match operation.action {
        Some(Action::CreateAlias(create)) => {
            refuse_name(&create.alias_name)?;
            Ok(AliasChange::Create { alias: create.alias_name, collection: create.collection_name })
        }
        Some(Action::RenameAlias(rename)) => {
            refuse_name(&rename.new_alias_name)?;
            Ok(AliasChange::Rename { from: rename.old_alias_name, to: rename.new_alias_name })
        }
        Some(Action::DeleteAlias(delete)) => Ok(AliasChange::Delete { alias: delete.alias_name }),
        None => Err(Status::invalid_argument("Malformed AliasOperation type")),
    }
}

fn refuse_name(name: &str) -> Result<(), Status> {
    let forbidden = |c: char| r#"<>:"/\|?*"#.contains(c) || c.is_control();
    if name.is_empty() || name.len() > NAME_AT_MOST || name.contains(forbidden) {
        return Err(errors::wrong_input(format!("`{}` is no name for a collection", name.escape_debug())));
    }
    Ok(())
}
