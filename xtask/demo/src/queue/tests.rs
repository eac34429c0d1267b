use std::time::Duration;

use super::Queue;
use crate::corpus::{Document, Relation};

fn documents(relations: &[&[usize]]) -> Vec<Document> {
    let document = |to: &&[usize]| {
        let relations = to.iter().map(|to| Relation { kind: "@".to_owned(), to: *to }).collect();
        Document { synset: String::new(), words: vec![], gloss: String::new(), relations }
    };
    relations.iter().map(document).collect()
}

#[tokio::test]
async fn nobody_gets_a_document_before_what_it_points_to() {
    let queue = Queue::new(&documents(&[&[], &[0], &[0, 1]]), [], 1);
    for n in 0..3 {
        assert_eq!(queue.take().await, Some(n));
        if n < 2 {
            let early = tokio::time::timeout(Duration::from_millis(20), queue.take()).await;
            assert!(early.is_err(), "{early:?} was given before {n} was written");
        }
        queue.finish(n);
    }
    assert_eq!(queue.take().await, None);
}

#[tokio::test]
async fn a_waiting_writer_is_woken_and_what_was_done_is_not_given_again() {
    let queue = std::sync::Arc::new(Queue::new(&documents(&[&[], &[0], &[1]]), [0], 1));
    assert_eq!(queue.take().await, Some(1));
    let other = tokio::spawn({
        let queue = queue.clone();
        async move { queue.take().await }
    });
    tokio::time::sleep(Duration::from_millis(10)).await;
    queue.finish(1);
    assert_eq!(other.await.unwrap(), Some(2));
}
