//! What the collections look like: looked up, kept for a moment, looked up again before anything is decided by it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::qdrant_client::qdrant::vectors_config::Config;
use ::qdrant_client::qdrant::{
    CollectionInfo, GetCollectionInfoRequest, ListAliasesRequest, ShardingMethod, VectorParams,
};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use tonic::{Request, Status};

use super::wire::Dial;

/// A collection may change behind our back: what is older than this is not trusted.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// What kind of vector stands under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// One vector of this size.
    Dense(u64),
    /// Any number of vectors of this size.
    Multi(u64),
    /// Indices and values.
    Sparse,
}

/// One collection.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Shape {
    /// Its own name, whatever alias was asked for.
    pub(super) collection: String,
    /// Its vectors by name; the unnamed one is "".
    pub(super) vectors: HashMap<String, Kind>,
    /// Writes must name a shard key, which ours do not.
    pub(super) custom_sharding: bool,
    /// Strict mode: most points in one upsert.
    pub(super) upsert_max: Option<u64>,
}

/// A shape, and when it was asked for.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) shape: Arc<Shape>,
    asked: Instant,
}

impl Known {
    /// Whether it may still be decided by.
    pub(super) fn is_fresh(&self) -> bool {
        self.asked.elapsed() < FRESH
    }
}

/// Shapes by the name that they were asked for.
#[derive(Default)]
pub(super) struct Catalog {
    entries: Mutex<HashMap<String, Arc<AsyncMutex<Option<Known>>>>>,
}

impl Catalog {
    /// A fresh shape. Transactions that need the same one at the same time ask once.
    ///
    /// # Errors
    /// `NotFound` where there is no such collection, else why the server could not be asked.
    pub(super) async fn shape(&self, dial: &Dial, name: &str, patience: Duration) -> Result<Known, Status> {
        let entry = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            match entries.get(name) {
                Some(entry) => entry.clone(),
                None => entries.entry(name.to_owned()).or_default().clone(),
            }
        };
        let mut known = entry.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.is_fresh()) {
            return Ok(known.clone());
        }
        let asked = Instant::now();
        match ask(dial, name, patience).await {
            Ok(shape) => {
                let fresh = Known { shape: Arc::new(shape), asked };
                *known = Some(fresh.clone());
                Ok(fresh)
            }
            Err(status) => {
                // Names that mean nothing must not pile up.
                *known = None;
                self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
                Err(status)
            }
        }
    }
}

async fn ask(dial: &Dial, name: &str, patience: Duration) -> Result<Shape, Status> {
    let (mut one, mut two) = (dial.collections(), dial.collections());
    let mut aliases = Request::new(ListAliasesRequest {});
    aliases.set_timeout(patience);
    let (aliases, info) = tokio::try_join!(two.list_aliases(aliases), info(&mut one, name, patience))?;
    let aliases = aliases.into_inner().aliases;
    match aliases.into_iter().find(|alias| alias.alias_name == name) {
        None => Ok(shape(name.to_owned(), info)),
        Some(alias) => {
            // By its own name: the alias may have been moved between the two answers.
            let info = self::info(&mut one, &alias.collection_name, patience).await?;
            Ok(shape(alias.collection_name, info))
        }
    }
}

async fn info(
    client: &mut ::qdrant_client::qdrant::collections_client::CollectionsClient<super::wire::Keyed>,
    name: &str,
    patience: Duration,
) -> Result<CollectionInfo, Status> {
    let mut request = Request::new(GetCollectionInfoRequest { collection_name: name.to_owned() });
    request.set_timeout(patience);
    let info = client.get(request).await?.into_inner().result;
    info.ok_or_else(|| Status::internal("a collection without a description"))
}

fn shape(collection: String, info: CollectionInfo) -> Shape {
    let config = info.config.unwrap_or_default();
    let strict = config.strict_mode_config.filter(|strict| strict.enabled == Some(true));
    let params = config.params.unwrap_or_default();
    let mut vectors = HashMap::new();
    match params.vectors_config.and_then(|vectors| vectors.config) {
        Some(Config::Params(one)) => drop(vectors.insert(String::new(), kind(&one))),
        Some(Config::ParamsMap(many)) => vectors.extend(many.map.into_iter().map(|(name, one)| (name, kind(&one)))),
        None => {}
    }
    let sparse = params.sparse_vectors_config.unwrap_or_default().map;
    vectors.extend(sparse.into_keys().map(|name| (name, Kind::Sparse)));
    let custom_sharding = params.sharding_method == Some(ShardingMethod::Custom.into());
    Shape { collection, vectors, custom_sharding, upsert_max: strict.and_then(|strict| strict.upsert_max_batchsize) }
}

fn kind(params: &VectorParams) -> Kind {
    if params.multivector_config.is_some() { Kind::Multi(params.size) } else { Kind::Dense(params.size) }
}
