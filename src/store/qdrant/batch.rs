//! Coalescing: the queued writes of many transactions as one call, and which of them its answer confirms. Pure.

use ::qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use ::qdrant_client::qdrant::points_update_operation::Operation;
use ::qdrant_client::qdrant::{PointsSelector, PointsUpdateOperation, UpdateResult, UpdateStatus};

/// Operations to send together, and for each transaction the operations that it has a part in.
#[derive(Default)]
pub(super) struct Batch {
    operations: Vec<PointsUpdateOperation>,
    parts: Vec<std::ops::Range<usize>>,
    /// The last operation is an upsert that holds one of the transaction being added.
    upserted: bool,
}

impl Batch {
    /// Adds the writes of one transaction. Upserts that follow each other become one, and so do deletions: different
    /// transactions never write the same point at the same time, their locks see to that. Two upserts of *one*
    /// transaction stay apart: they may put the same point twice.
    pub(super) fn add(&mut self, operations: Vec<Operation>) {
        self.upserted = false;
        let mut first = None;
        for operation in operations {
            let left = self.merge(operation);
            if let Some(operation) = left {
                self.upserted = matches!(operation, Operation::Upsert(_));
                self.operations.push(PointsUpdateOperation { operation: Some(operation) });
            }
            first.get_or_insert(self.operations.len() - 1);
        }
        let first = first.unwrap_or(self.operations.len());
        self.parts.push(first..self.operations.len());
    }

    /// Merges into the last operation, or gives it back.
    fn merge(&mut self, operation: Operation) -> Option<Operation> {
        let last = self.operations.last_mut().and_then(|last| last.operation.as_mut());
        match (last, operation) {
            (Some(Operation::Upsert(last)), Operation::Upsert(mut more)) if !self.upserted => {
                last.points.append(&mut more.points);
                self.upserted = true;
                None
            }
            (Some(Operation::DeletePoints(last)), Operation::DeletePoints(mut more)) => {
                match (named(&mut last.points), named(&mut more.points)) {
                    (Some(last), Some(more)) => last.append(more),
                    _ => return Some(Operation::DeletePoints(more)),
                }
                None
            }
            (_, operation) => Some(operation),
        }
    }

    /// The operations to send, and what to ask [`confirmed`] with.
    pub(super) fn split(self) -> (Vec<PointsUpdateOperation>, Vec<std::ops::Range<usize>>) {
        (self.operations, self.parts)
    }
}

fn named(selector: &mut Option<PointsSelector>) -> Option<&mut Vec<::qdrant_client::qdrant::PointId>> {
    match selector.as_mut()?.points_selector_one_of.as_mut()? {
        PointsSelectorOneOf::Points(points) => Some(&mut points.ids),
        PointsSelectorOneOf::Filter(_) => None,
    }
}

/// Whether every operation of `part` is answered with `Completed`: nothing else counts. A wait that timed out answers
/// OK as well.
pub(super) fn confirmed(part: &std::ops::Range<usize>, results: &[UpdateResult]) -> Result<(), String> {
    for index in part.clone() {
        match results.get(index).map(UpdateResult::status) {
            Some(UpdateStatus::Completed) => {}
            Some(status) => return Err(format!("answered {} and not Completed", status.as_str_name())),
            None => return Err("left an operation unanswered".to_owned()),
        }
    }
    Ok(())
}
