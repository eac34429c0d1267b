//! Everything that is kept: collections, their aliases, and the folder they live in.

mod collection;
pub(crate) mod files;
pub(crate) mod schema;
mod writer;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
pub(crate) use collection::Collection;
use qdrant_edge::EdgeConfig;
use qdrant_edge::external::uuid::Uuid;
use tokio::sync::RwLock;
use tonic::{Code, Status};
use writer::Counts;
pub(crate) use writer::Work;

use crate::errors;

/// A change of the alias table.
pub(crate) enum AliasChange {
    Create { alias: String, collection: String },
    Rename { from: String, to: String },
    Delete { alias: String },
}

pub(crate) struct Store {
    dir: PathBuf,
    tables: RwLock<Tables>,
    counts: Arc<Counts>,
    /// Held as long as the store lives: two processes in one folder would ruin it.
    _owned: File,
}

#[derive(Default)]
struct Tables {
    collections: BTreeMap<String, Arc<Collection>>,
    /// Alias to collection.
    aliases: BTreeMap<String, String>,
}

impl Tables {
    fn resolve(&self, name: &str) -> Option<&Arc<Collection>> {
        self.collections.get(name).or_else(|| self.collections.get(self.aliases.get(name)?))
    }
}

impl Store {
    /// Owns `dir`, loads what is in it and sweeps out what a crash left half made. Blocks.
    ///
    /// # Errors
    /// When the folder is served by another process, or holds a collection that does not load.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let owned = files::own(dir)?;
        let counts = Arc::new(Counts::default());
        let mut tables = Tables::default();
        for entry in fs::read_dir(dir.join(files::COLLECTIONS))? {
            let folder = entry?.path();
            match files::read_json::<files::Manifest>(&folder.join(files::MANIFEST))? {
                Some(manifest) => {
                    let collection = Collection::load(&folder, &manifest.name, Arc::clone(&counts))
                        .with_context(|| format!("loading collection `{}`", manifest.name))?;
                    tables.collections.insert(manifest.name, Arc::new(collection));
                }
                None => fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?,
            }
        }
        let aliases: BTreeMap<String, String> = files::read_json(&dir.join(files::ALIASES))?.unwrap_or_default();
        // A crash between a collection's end and its aliases' end leaves aliases to nowhere.
        tables.aliases = aliases.into_iter().filter(|(_, name)| tables.collections.contains_key(name)).collect();
        Ok(Self { dir: dir.to_owned(), tables: RwLock::new(tables), counts, _owned: owned })
    }

    /// The collection of that name or alias.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) async fn get(&self, name: &str) -> Result<Arc<Collection>, Status> {
        self.tables.read().await.resolve(name).cloned().ok_or_else(|| errors::no_collection(name))
    }

    /// Names of collections, sorted.
    pub(crate) async fn list(&self) -> Vec<String> {
        self.tables.read().await.collections.keys().cloned().collect()
    }

    /// Makes a collection. It is durable when this returns.
    ///
    /// # Errors
    /// `AlreadyExists` for the name of a collection, `InvalidArgument` for the name of an alias or vectors that the
    /// engine refuses.
    pub(crate) async fn create(&self, name: String, config: EdgeConfig) -> Result<(), Status> {
        let mut tables = self.tables.write().await;
        if tables.collections.contains_key(&name) {
            let message = format!("Wrong input: Collection `{name}` already exists!");
            return Err(Status::new(Code::AlreadyExists, message));
        }
        if tables.aliases.contains_key(&name) {
            let message = format!("Can't create collection with name {name}. Alias with the same name already exists");
            return Err(errors::wrong_input(message));
        }
        let folder = self.dir.join(files::COLLECTIONS).join(Uuid::new_v4().to_string());
        let (counts, new) = (Arc::clone(&self.counts), name.clone());
        let made = blocking(move || Collection::create(&folder, &new, config, counts)).await?;
        tables.collections.insert(name, Arc::new(made));
        Ok(())
    }

    /// Ends a collection and its aliases. False when there is none of that name (an alias does not count).
    pub(crate) async fn delete(&self, name: &str) -> Result<bool, Status> {
        let mut tables = self.tables.write().await;
        let Some(collection) = tables.collections.remove(name) else {
            return Ok(false);
        };
        tables.aliases.retain(|_, of| of != name);
        let (path, aliases) = (self.dir.join(files::ALIASES), tables.aliases.clone());
        blocking(move || {
            collection.destroy()?;
            files::replace_json(&path, &aliases)
        })
        .await?;
        Ok(true)
    }

    /// Aliases with their collections, of one collection or of all.
    pub(crate) async fn aliases(&self, of: Option<&str>) -> Vec<(String, String)> {
        let tables = self.tables.read().await;
        let wanted = |(_, name): &(&String, &String)| of.is_none_or(|of| of == *name);
        tables.aliases.iter().filter(wanted).map(|(alias, name)| (alias.clone(), name.clone())).collect()
    }

    /// Applies all changes, or none.
    ///
    /// # Errors
    /// `NotFound` for a missing collection or alias, `AlreadyExists` for an alias named like a collection.
    pub(crate) async fn change_aliases(&self, changes: Vec<AliasChange>) -> Result<(), Status> {
        let mut tables = self.tables.write().await;
        let mut aliases = tables.aliases.clone();
        for change in changes {
            match change {
                AliasChange::Create { alias, collection } => {
                    if !tables.collections.contains_key(&collection) {
                        return Err(errors::no_collection(&collection));
                    }
                    if tables.collections.contains_key(&alias) {
                        let message = format!("Wrong input: Collection with the same name `{alias}` already exists");
                        return Err(Status::already_exists(message));
                    }
                    aliases.insert(alias, collection);
                }
                AliasChange::Rename { from, to } => {
                    let collection = aliases.remove(&from).ok_or_else(|| no_alias(&from))?;
                    aliases.insert(to, collection);
                }
                AliasChange::Delete { alias } => {
                    aliases.remove(&alias);
                }
            }
        }
        let (path, table) = (self.dir.join(files::ALIASES), aliases.clone());
        blocking(move || files::replace_json(&path, &table)).await?;
        tables.aliases = aliases;
        Ok(())
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Lets every accepted write finish and closes the engine. Blocks.
    pub(crate) async fn close(&self) {
        let collections: Vec<_> = std::mem::take(&mut self.tables.write().await.collections).into_values().collect();
        let closed = blocking(move || {
            collections.iter().for_each(|collection| collection.close());
            Ok(())
        });
        if let Err(error) = closed.await {
            eprintln!("qdrant-dev: closing: {error}");
        }
    }
}

fn no_alias(name: &str) -> Status {
    Status::not_found(format!("Not found: Alias {name} does not exists!"))
}

/// Runs `work` where it may block. What fails in there is this server's fault, never the client's.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T, Status> {
    let outcome = tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(anyhow!("{panic}")));
    outcome.map_err(|error| errors::internal(format!("{error:#}")))
}
