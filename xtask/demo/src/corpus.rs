//! WordNet's nouns as documents: each synset with its words, its gloss, and its relations to synsets before it.
//!
//! They are taken breadth first from the root (`entity`) along "has kind" and "has instance", so that any first thousand
//! hang together and every document but the first has something to point to.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// What the reader is told.
pub(crate) const NAME: &str = "WordNet 3.0, noun synsets breadth first from `entity` (Debian's wordnet-base)";

/// One document: a row, a node with relations, and a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Document {
    /// The synset's name: part of speech and offset, as `n00001740`.
    pub(crate) synset: String,
    pub(crate) words: Vec<String>,
    pub(crate) gloss: String,
    /// Sorted by the target's name: writers that meet at several nodes meet in the same order.
    pub(crate) relations: Vec<Relation>,
}

/// A relation to a document earlier in the corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Relation {
    /// WordNet's pointer symbol.
    pub(crate) kind: String,
    /// Index of the target in the corpus.
    pub(crate) to: usize,
}

impl Document {
    /// What is embedded.
    pub(crate) fn text(&self) -> String {
        format!("{}: {}", self.words.join(", "), self.gloss)
    }
}

/// The first `count` documents of the dictionary in `dir`.
///
/// # Errors
/// `data.noun` can't be read, is not what it should be, or holds fewer.
pub(crate) fn read(dir: &Path, count: usize) -> Result<Vec<Document>> {
    let path = dir.join("data.noun");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    parse(&text, count).with_context(|| format!("in {}", path.display()))
}

/// A line of the file.
struct Entry<'a> {
    offset: &'a str,
    words: Vec<String>,
    gloss: &'a str,
    /// Symbol and offset of relations to other nouns.
    pointers: Vec<(&'a str, &'a str)>,
}

fn parse(text: &str, count: usize) -> Result<Vec<Document>> {
    // The licence stands at the top, its lines indented.
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ') && !line.is_empty()).collect();
    let at = |line: &&str| line.split(' ').next().map(str::to_owned);
    let by_offset: HashMap<String, usize> = lines.iter().enumerate().filter_map(|(n, l)| Some((at(l)?, n))).collect();
    ensure!(lines.len() >= count, "there are only {} synsets, {count} were asked for", lines.len());
    let mut chosen: Vec<Entry<'_>> = Vec::with_capacity(count);
    let mut seen = vec![false; lines.len()];
    let mut queue = VecDeque::new();
    // What hangs from no root comes after, in the file's order.
    for root in 0..lines.len() {
        queue.push_back(root);
        while let Some(next) = queue.pop_front() {
            if chosen.len() == count {
                return Ok(connect(chosen));
            }
            if std::mem::replace(&mut seen[next], true) {
                continue;
            }
            let entry = entry(lines[next]).with_context(|| format!("the synset {}", lines[next]))?;
            let below = entry.pointers.iter().filter(|(symbol, _)| symbol.starts_with('~'));
            queue.extend(below.filter_map(|(_, offset)| by_offset.get(*offset)));
            chosen.push(entry);
        }
    }
    Ok(connect(chosen))
}

/// `offset lex_filenum ss_type w_cnt word lex_id … p_cnt symbol offset pos source/target … | gloss`: counts of words in
/// hexadecimal, of pointers in decimal.
fn entry(line: &str) -> Result<Entry<'_>> {
    let (head, gloss) = line.split_once(" | ").context("has no gloss")?;
    let mut fields = head.split_ascii_whitespace();
    let mut next = || fields.next().context("ends too early");
    let offset = next()?;
    let (_file, _kind) = (next()?, next()?);
    let count = usize::from_str_radix(next()?, 16).context("its number of words")?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        words.push(next()?.replace('_', " "));
        next()?;
    }
    let count: usize = next()?.parse().context("its number of pointers")?;
    let mut pointers = Vec::with_capacity(count);
    for _ in 0..count {
        let (symbol, to, part_of_speech, _between_words) = (next()?, next()?, next()?, next()?);
        if part_of_speech == "n" {
            pointers.push((symbol, to));
        }
    }
    Ok(Entry { offset, words, gloss: gloss.trim(), pointers })
}

/// Relations among the chosen, each told by the later of the two: one a pair, the first that WordNet names.
fn connect(chosen: Vec<Entry<'_>>) -> Vec<Document> {
    let index: HashMap<&str, usize> = chosen.iter().enumerate().map(|(n, entry)| (entry.offset, n)).collect();
    let describe = |(n, entry): (usize, &Entry<'_>)| {
        let mut relations: Vec<Relation> = Vec::new();
        for (symbol, offset) in &entry.pointers {
            if let Some(&to) = index.get(offset).filter(|to| **to < n)
                && relations.iter().all(|known| known.to != to)
            {
                relations.push(Relation { kind: (*symbol).to_owned(), to });
            }
        }
        relations.sort_by_key(|relation| chosen[relation.to].offset);
        let synset = format!("n{}", entry.offset);
        Document { synset, words: entry.words.clone(), gloss: entry.gloss.to_owned(), relations }
    };
    chosen.iter().enumerate().map(describe).collect()
}

#[cfg(test)]
mod tests;
