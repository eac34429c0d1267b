use std::collections::BTreeMap;

use super::{Found, Held, judge};
use crate::corpus::{Document, Relation};

fn documents() -> Vec<Document> {
    let document = |name: &str, to: &[usize]| Document {
        synset: name.to_owned(),
        words: vec![],
        gloss: String::new(),
        relations: to.iter().map(|to| Relation { kind: "@".to_owned(), to: *to }).collect(),
    };
    vec![document("a", &[]), document("b", &[0])]
}

fn held(of: &[(i64, &str)]) -> Held {
    of.iter().map(|(id, name)| (*id, (*name).to_owned())).collect()
}

fn whole() -> Found {
    let all = [(1, "a"), (2, "b")];
    let relations = [(2, "a".to_owned())].into();
    Found { rows: held(&all), nodes: held(&all), points: held(&all), relations }
}

#[test]
fn what_is_whole_is_clean() {
    let audit = judge(&whole(), &documents(), &BTreeMap::from([(0, 1), (1, 2)]));
    assert!(audit.is_clean(), "{audit:?}");
    assert_eq!(audit.whole, 2);
}

#[test]
fn every_fault_is_seen() {
    let acknowledged = BTreeMap::from([(0, 1), (1, 2)]);
    let see = |spoil: fn(&mut Found)| {
        let mut found = whole();
        spoil(&mut found);
        judge(&found, &documents(), &acknowledged)
    };
    let audit = see(|found| drop(found.points.remove(&2)));
    assert_eq!((audit.orphans, audit.missing_acknowledged), (1, 1), "half there");
    assert_eq!(audit.orphans_by_stores, BTreeMap::from([("PostgreSQL + Neo4j".to_owned(), 1)]));
    let audit = see(|found| drop(found.nodes.insert(2, "a".to_owned())));
    assert_eq!(audit.orphans, 1, "one id, two names");
    let audit = see(|found| found.relations.clear());
    assert_eq!((audit.orphans, audit.missing_relations), (0, 1), "the relation is part of it");
    let audit = see(|found| {
        for store in [&mut found.rows, &mut found.nodes, &mut found.points] {
            store.insert(7, "a".to_owned());
        }
    });
    assert_eq!((audit.orphans, audit.duplicates, audit.whole), (0, 1, 3), "whole, but twice");
    let audit = see(|found| {
        for store in [&mut found.rows, &mut found.nodes, &mut found.points] {
            store.remove(&1);
        }
    });
    assert_eq!((audit.orphans, audit.missing_acknowledged), (0, 1), "gone without a trace");
}
