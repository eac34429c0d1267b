//! Coalescing: the queued writes of many transactions as one call, and which of them its answer confirms. Pure.

use ::qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use ::qdrant_client::qdrant::points_update_operation::Operation;
use ::qdrant_client::qdrant::{PointId, PointsSelector, PointsUpdateOperation, UpdateResult, UpdateStatus};

/// Operations to send together, and for each transaction the operations that it has a part in.
///
/// Operations of one kind become one across transactions. Each transaction keeps its own order: its next operation goes
/// into a later place than its last one. Between transactions no order has to be kept: those that are unfinished at the
/// same time write different points, their locks see to that.
#[derive(Default)]
pub(super) struct Batch {
    operations: Vec<PointsUpdateOperation>,
    parts: Vec<Vec<usize>>,
    /// The last place of each kind that takes more points.
    latest: [Option<usize>; KINDS],
}

const KINDS: usize = 5;

impl Batch {
    /// Adds the writes of one transaction, in order.
    pub(super) fn add(&mut self, operations: Vec<Operation>) {
        let mut places: Vec<usize> = Vec::with_capacity(operations.len());
        for operation in operations {
            let kind = kind(&operation);
            let after = |place: &usize| places.last().is_none_or(|last| place > last);
            let place = kind.and_then(|kind| self.latest[kind]).filter(after);
            let left = match place {
                Some(place) => merge(self.operations[place].operation.as_mut(), operation),
                None => Some(operation),
            };
            match (left, place) {
                (None, Some(place)) => places.push(place),
                (left, _) => {
                    self.operations.push(PointsUpdateOperation { operation: left });
                    let place = self.operations.len() - 1;
                    if let Some(kind) = kind {
                        self.latest[kind] = Some(place);
                    }
                    places.push(place);
                }
            }
        }
        self.parts.push(places);
    }

    /// The operations to send, and for each transaction what to ask [`confirmed`] with.
    pub(super) fn split(self) -> (Vec<PointsUpdateOperation>, Vec<Vec<usize>>) {
        (self.operations, self.parts)
    }
}

/// Kinds that take more points. A payload belongs to its points: those that set one stay apart.
fn kind(operation: &Operation) -> Option<usize> {
    match operation {
        Operation::Upsert(_) => Some(0),
        Operation::DeletePoints(_) => Some(1),
        Operation::ClearPayload(_) => Some(2),
        Operation::UpdateVectors(_) => Some(3),
        Operation::DeleteVectors(_) => Some(4),
        _ => None,
    }
}

/// Takes the points of `more` over, or gives it back.
fn merge(into: Option<&mut Operation>, more: Operation) -> Option<Operation> {
    match (into, more) {
        (Some(Operation::Upsert(into)), Operation::Upsert(mut more)) => {
            into.points.append(&mut more.points);
            None
        }
        (Some(Operation::UpdateVectors(into)), Operation::UpdateVectors(mut more)) => {
            into.points.append(&mut more.points);
            None
        }
        (Some(Operation::DeletePoints(into)), Operation::DeletePoints(mut more)) => {
            let taken = take_over(&mut into.points, &mut more.points);
            (!taken).then_some(Operation::DeletePoints(more))
        }
        (Some(Operation::ClearPayload(into)), Operation::ClearPayload(mut more)) => {
            let taken = take_over(&mut into.points, &mut more.points);
            (!taken).then_some(Operation::ClearPayload(more))
        }
        (Some(Operation::DeleteVectors(into)), Operation::DeleteVectors(mut more)) => {
            let taken = into.vectors == more.vectors && take_over(&mut into.points_selector, &mut more.points_selector);
            (!taken).then_some(Operation::DeleteVectors(more))
        }
        (_, more) => Some(more),
    }
}

fn take_over(into: &mut Option<PointsSelector>, more: &mut Option<PointsSelector>) -> bool {
    match (named(into), named(more)) {
        (Some(into), Some(more)) => {
            into.append(more);
            true
        }
        _ => false,
    }
}

fn named(selector: &mut Option<PointsSelector>) -> Option<&mut Vec<PointId>> {
    match selector.as_mut()?.points_selector_one_of.as_mut()? {
        PointsSelectorOneOf::Points(points) => Some(&mut points.ids),
        PointsSelectorOneOf::Filter(_) => None,
    }
}

/// Whether every one of a transaction's operations is answered with `Completed`: nothing else counts. A wait that timed
/// out answers OK as well.
///
/// # Errors
/// What was answered instead.
pub(super) fn confirmed(part: &[usize], results: &[UpdateResult]) -> Result<(), String> {
    for place in part {
        match results.get(*place).map(UpdateResult::status) {
            Some(UpdateStatus::Completed) => {}
            Some(status) => return Err(format!("answered {} and not Completed", status.as_str_name())),
            None => return Err("left an operation unanswered".to_owned()),
        }
    }
    Ok(())
}
