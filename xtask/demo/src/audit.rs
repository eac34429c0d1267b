//! What the three stores really hold, id by id, asked of each store itself.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::{RetrievedPoint, ScrollPointsBuilder};
use serde::Serialize;
use serde_json::json;
use xtask::stack::{Stack, Store};

use crate::corpus::Document;
use crate::place::{self, Place};

/// A store's documents: id to the synset's name.
type Held = BTreeMap<i64, String>;

/// What was found.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Audit {
    /// In all three stores, under one id and one name.
    pub(crate) whole: usize,
    /// In some stores and not in all, or under different names.
    pub(crate) orphans: usize,
    /// Of those: in which stores they are.
    pub(crate) orphans_by_stores: BTreeMap<String, usize>,
    /// Whole, and once more under another id.
    pub(crate) duplicates: usize,
    /// Acknowledged, and not whole under the acknowledged id.
    pub(crate) missing_acknowledged: usize,
    /// Relations of whole documents that Neo4j lacks.
    pub(crate) missing_relations: usize,
    /// For a reader who wants to look: some of the orphans and of the missing.
    pub(crate) examples: Vec<String>,
}

/// What the stores were asked for.
pub(crate) struct Found {
    rows: Held,
    nodes: Held,
    points: Held,
    /// Id of a node, name of the target.
    relations: BTreeSet<(i64, String)>,
}

/// Asks all three stores for everything in `place`.
pub(crate) async fn look(stack: &Stack, place: Place) -> Result<Found> {
    let text = stack.sql(&format!("SELECT id, synset FROM {} ORDER BY id", place.name))?;
    let row = |line: &str| line.split_once('|').and_then(|(id, name)| Some((id.parse().ok()?, name.to_owned())));
    let lines = text.lines().filter(|line| !line.is_empty());
    let rows = lines.map(|line| row(line).with_context(|| format!("psql answered {line:?}")));
    let mut bolt = stack.bolt()?;
    let mut pairs = |text: String| {
        let rows = bolt.run(&text, json!({}))?;
        let pair = |row: Vec<serde_json::Value>| Some((row.first()?.as_i64()?, row.get(1)?.as_str()?.to_owned()));
        rows.into_iter().map(|row| pair(row).context("a node without its id or its name")).collect::<Result<Vec<_>>>()
    };
    let label = place.label;
    let nodes = pairs(format!("MATCH (n:{label}) RETURN n.id, n.synset"))?;
    let relations = pairs(format!("MATCH (n:{label})-[:RELATED]->(t:{label}) RETURN n.id, t.synset"))?;
    Ok(Found {
        rows: rows.collect::<Result<_>>()?,
        nodes: nodes.into_iter().collect(),
        points: points(stack, place).await?,
        relations: relations.into_iter().collect(),
    })
}

async fn points(stack: &Stack, place: Place) -> Result<Held> {
    let qdrant = place::qdrant(&stack.login(Store::Qdrant)?)?;
    let (mut held, mut offset) = (Held::new(), None);
    loop {
        let mut scroll = ScrollPointsBuilder::new(place.name).limit(1000).with_payload(true);
        if let Some(offset) = offset {
            scroll = scroll.offset(offset);
        }
        let page = qdrant.scroll(scroll).await.context("reading Qdrant's points")?;
        for point in &page.result {
            let (id, name) = named(point).with_context(|| format!("a point that nobody here wrote: {point:?}"))?;
            held.insert(id, name);
        }
        offset = page.next_page_offset;
        if offset.is_none() {
            return Ok(held);
        }
    }
}

fn named(point: &RetrievedPoint) -> Option<(i64, String)> {
    let name = point.payload.get("synset")?.as_str()?.clone();
    match point.id.as_ref()?.point_id_options.as_ref()? {
        PointIdOptions::Num(id) => Some((i64::try_from(*id).ok()?, name)),
        PointIdOptions::Uuid(_) => None,
    }
}

/// Judges what was found against what was acknowledged: index of a document and its id.
pub(crate) fn judge(found: &Found, documents: &[Document], acknowledged: &BTreeMap<usize, i64>) -> Audit {
    let mut audit = Audit::default();
    let mut whole: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    let Found { rows, nodes, points, relations } = found;
    let ids: BTreeSet<i64> = rows.keys().chain(nodes.keys()).chain(points.keys()).copied().collect();
    for id in ids {
        let names = [("PostgreSQL", rows.get(&id)), ("Neo4j", nodes.get(&id)), ("Qdrant", points.get(&id))];
        if let [(_, Some(row)), (_, Some(node)), (_, Some(point))] = names
            && row == node
            && node == point
        {
            whole.entry(row).or_default().push(id);
            continue;
        }
        audit.orphans += 1;
        let stores: Vec<_> = names.iter().filter(|(_, name)| name.is_some()).map(|(store, _)| *store).collect();
        let stores = stores.join(" + ");
        audit.example(|| format!("id {id} is in {stores} only: {names:?}"));
        *audit.orphans_by_stores.entry(stores).or_default() += 1;
    }
    audit.whole = whole.values().map(Vec::len).sum();
    audit.duplicates = whole.values().map(|ids| ids.len() - 1).sum();
    for (&n, id) in acknowledged {
        let document = &documents[n];
        if !whole.get(document.synset.as_str()).is_some_and(|ids| ids.contains(id)) {
            audit.missing_acknowledged += 1;
            audit.example(|| format!("{} was acknowledged as id {id} and is not there", document.synset));
        }
    }
    for document in documents {
        for id in whole.get(document.synset.as_str()).into_iter().flatten() {
            let there = |to: usize| relations.contains(&(*id, documents[to].synset.clone()));
            let missing = document.relations.iter().filter(|relation| !there(relation.to)).count();
            audit.missing_relations += missing;
        }
    }
    audit
}

impl Audit {
    /// Nothing is lost, left over or written twice.
    pub(crate) fn is_clean(&self) -> bool {
        self.orphans + self.duplicates + self.missing_acknowledged + self.missing_relations == 0
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        const MOST: usize = 20;
        if self.examples.len() < MOST {
            self.examples.push(text());
        }
    }
}

#[cfg(test)]
mod tests;
