//! From what is configured to participants.

use std::sync::Arc;

use crate::config::{Config, Secret, Store, StoreSettings};
use crate::store::neo4j::{self, Neo4j, Neo4jConfig};
use crate::store::postgres::{self, Postgres, PostgresConfig};
use crate::store::qdrant::{Qdrant, QdrantConfig};
use crate::txn::Configured;

/// Every configured store, by name. Does no I/O.
#[must_use]
pub fn build(config: &Config) -> Vec<Configured> {
    config.stores.values().map(|store| Configured { store: participant(store), init: store.init }).collect()
}

/// What `init` runs in such a store; nothing where there are no markers.
#[must_use]
pub fn statements(settings: &StoreSettings) -> &'static [&'static str] {
    match settings {
        StoreSettings::Postgres(_) => postgres::statements(),
        StoreSettings::Neo4j(_) => neo4j::statements(),
        StoreSettings::Qdrant(_) => &[],
    }
}

fn participant(store: &Store) -> Arc<dyn crate::store::Store> {
    let name = store.name.clone();
    let exposed = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
    match &store.settings {
        StoreSettings::Postgres(s) => Postgres::new(
            name,
            PostgresConfig {
                url: s.url.clone(),
                user: Some(s.user.clone()),
                password: exposed(&s.password),
                tls: s.tls,
                ca_pem: s.ca_pem.clone(),
                pool_max: s.pool_max,
                connect_timeout: s.connect_timeout,
            },
        ),
        StoreSettings::Neo4j(s) => Neo4j::new(
            name,
            Neo4jConfig {
                url: s.url.clone(),
                database: s.database.clone(),
                user: s.user.clone(),
                password: exposed(&s.password).unwrap_or_default(),
                tls: s.tls,
                pool_max: s.pool_max,
                connect_timeout: s.connect_timeout,
                session_grace: s.session_grace,
            },
        ),
        StoreSettings::Qdrant(s) => Qdrant::new(
            name,
            &QdrantConfig {
                url: s.url.clone(),
                api_key: exposed(&s.api_key),
                tls: s.tls,
                pool_max: s.pool_max,
                connect_timeout: s.connect_timeout,
                redo_deadline: s.redo_deadline,
            },
        ),
    }
}
