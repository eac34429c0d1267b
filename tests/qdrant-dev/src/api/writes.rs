//! The one way of every write: resolve, check, meet a fault if one is ordered, queue, wait for the flush.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use qdrant_client::qdrant::{UpdateResult, UpdateStatus};
use qdrant_edge::UpdateOperation;
use tonic::Status;

use super::Shared;
use crate::convert::updates;
use crate::errors;
use crate::faults::{Kind, Verb};
use crate::store::{Collection, Work};

pub(crate) struct Write {
    pub(crate) verb: Verb,
    pub(crate) collection: String,
    pub(crate) updates: Vec<UpdateOperation>,
    /// Qdrant's default is false: the answer is then `Acknowledged`, and a later refusal is nobody's to hear.
    pub(crate) wait: Option<bool>,
    /// Seconds after which a waiting client is told `WaitTimeout`. The write happens all the same.
    pub(crate) timeout: Option<u64>,
}

impl Shared {
    /// Applies the updates in their order, one result each. Not atomic: a refusal leaves what came before it.
    ///
    /// Cancelled (the client is gone), it still happens once it is queued.
    ///
    /// # Errors
    /// `NotFound` and `InvalidArgument` before anything is applied, the engine's refusals, and the injected faults.
    pub(crate) async fn write(&self, write: Write) -> Result<Vec<UpdateResult>, Status> {
        let collection = self.store.get(&write.collection).await?;
        write.updates.iter().try_for_each(|update| collection.schema.check(update))?;
        let Some(fault) = self.faults.next(write.verb, &collection.name) else {
            return apply(&collection, write).await;
        };
        match fault.kind {
            Kind::FailBefore | Kind::Exhausted => Err(fault.status()),
            Kind::FailAfter => {
                apply(&collection, write).await?;
                Err(fault.status())
            }
            Kind::DropRequest => pending().await,
            Kind::DropReply => {
                apply(&collection, write).await?;
                pending().await
            }
            Kind::Delay => {
                tokio::time::sleep(fault.time).await;
                apply(&collection, write).await
            }
            Kind::WaitTimeout => {
                let results = results(&collection, write.updates.len(), UpdateStatus::WaitTimeout);
                collection.submit(Work::Updates(write.updates), fault.time)?;
                Ok(results)
            }
            Kind::Late => {
                tokio::spawn(async move {
                    tokio::time::sleep(fault.time).await;
                    // The collection may be gone by then; so is the write.
                    let _ = collection.submit(Work::Updates(write.updates), Duration::ZERO);
                });
                Err(fault.status())
            }
            Kind::Half => {
                apply(&collection, Write { updates: half(write.updates), ..write }).await?;
                Err(fault.status())
            }
        }
    }

    /// What an ordered fault does to a read.
    pub(crate) async fn gate(&self, verb: Verb, collection: &Collection) -> Result<(), Status> {
        let Some(fault) = self.faults.next(verb, &collection.name) else {
            return Ok(());
        };
        match fault.kind {
            Kind::DropRequest | Kind::DropReply => pending().await,
            Kind::Delay => {
                tokio::time::sleep(fault.time).await;
                Ok(())
            }
            _ => Err(fault.status()),
        }
    }
}

async fn apply(collection: &Arc<Collection>, write: Write) -> Result<Vec<UpdateResult>, Status> {
    let count = write.updates.len();
    let done = collection.submit(Work::Updates(write.updates), Duration::ZERO)?;
    let limit = write.timeout.map_or(Duration::MAX, Duration::from_secs);
    let Ok(outcome) = tokio::time::timeout(limit, done).await else {
        return Ok(results(collection, count, UpdateStatus::WaitTimeout));
    };
    let outcome = outcome.map_err(|_| errors::internal("the collection's writer has ended"))?;
    if write.wait != Some(true) {
        return Ok(results(collection, count, UpdateStatus::Acknowledged));
    }
    outcome.map_err(errors::status)?;
    Ok(results(collection, count, UpdateStatus::Completed))
}

fn results(collection: &Collection, count: usize, status: UpdateStatus) -> Vec<UpdateResult> {
    let result = |_| UpdateResult { operation_id: Some(collection.next_operation()), status: status as i32 };
    (0..count).map(result).collect()
}

/// Half of a batch's operations, or half of an only operation's points.
fn half(mut operations: Vec<UpdateOperation>) -> Vec<UpdateOperation> {
    if operations.len() == 1 {
        return operations.pop().and_then(updates::half).into_iter().collect();
    }
    operations.truncate(operations.len() / 2);
    operations
}
