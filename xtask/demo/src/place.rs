//! Where documents go: a table, a label and a collection, and the statements that both ways of writing share.

use anyhow::{Context, Result};
use qdrant_client::Qdrant;
use qdrant_client::qdrant::{CreateCollectionBuilder, Distance, VectorParamsBuilder};
use serde_json::json;
use xtask::stack::{Login, Stack, Store};

use crate::corpus::Document;
use crate::embed;

/// One way's own place in all three stores.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The table and the collection.
    pub(crate) name: &'static str,
    pub(crate) label: &'static str,
}

/// Written by the sidecar.
pub(crate) const SIDECAR: Place = Place { name: "demo_synsets", label: "Synset" };
/// Written directly.
pub(crate) const DIRECT: Place = Place { name: "demo_synsets_direct", label: "SynsetDirect" };

impl Place {
    /// `$1` name, `$2` words, `$3` gloss; the id is PostgreSQL's to give.
    pub(crate) fn insert(&self) -> String {
        format!("INSERT INTO {}(synset, words, gloss) VALUES ($1, $2, $3) RETURNING id", self.name)
    }

    /// `$id`, `$synset`, `$words`, and the relations as two lists: `$kinds`, and the targets' names in `$to`.
    ///
    /// Targets are looked up, never made: they are there already, and a `MERGE` of them would lock them twice.
    pub(crate) fn create(&self) -> String {
        let label = self.label;
        format!(
            "CREATE (n:{label} {{id: $id, synset: $synset, words: $words}}) WITH n \
             UNWIND range(0, size($to) - 1) AS i MATCH (t:{label} {{synset: $to[i]}}) \
             CREATE (n)-[:RELATED {{kind: $kinds[i]}}]->(t)"
        )
    }

    /// Makes it anew, empty, in all three stores.
    pub(crate) async fn make(&self, stack: &Stack) -> Result<()> {
        let (name, label) = (self.name, self.label);
        stack.sql(&format!(
            "DROP TABLE IF EXISTS {name};
             CREATE TABLE {name} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                                  synset text NOT NULL, words text[] NOT NULL, gloss text NOT NULL)"
        ))?;
        let mut bolt = stack.bolt()?;
        bolt.run(&format!("MATCH (n:{label}) DETACH DELETE n"), json!({}))?;
        for statement in [
            format!("CREATE CONSTRAINT {name}_id IF NOT EXISTS FOR (n:{label}) REQUIRE n.id IS UNIQUE"),
            format!("CREATE INDEX {name}_synset IF NOT EXISTS FOR (n:{label}) ON (n.synset)"),
            "CALL db.awaitIndexes(60)".to_owned(),
        ] {
            bolt.run(&statement, json!({}))?;
        }
        let qdrant = qdrant(&stack.login(Store::Qdrant)?)?;
        if qdrant.collection_exists(name).await.context("asking Qdrant for the collection")? {
            qdrant.delete_collection(name).await.context("removing the old collection")?;
        }
        let vectors = VectorParamsBuilder::new(embed::DIMENSIONS as u64, Distance::Cosine);
        let collection = CreateCollectionBuilder::new(name).vectors_config(vectors);
        qdrant.create_collection(collection).await.context("making the collection").map(drop)
    }
}

/// The relations of a document as two lists: kinds, and the names of the targets.
pub(crate) fn relations(documents: &[Document], n: usize) -> (Vec<String>, Vec<String>) {
    let relations = documents[n].relations.iter();
    relations.map(|relation| (relation.kind.clone(), documents[relation.to].synset.clone())).unzip()
}

/// A client. Does no I/O.
pub(crate) fn qdrant(login: &Login) -> Result<Qdrant> {
    Qdrant::from_url(&login.url).skip_compatibility_check().build().context("Qdrant's address")
}
