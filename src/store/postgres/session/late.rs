//! What a session needs that lasts for many calls: new bounds for each, and its part only when all are done.
//!
//! Its marker or participant row is the *last* thing that it writes. That is as good as the first: uniqueness looks at
//! the whole table whatever the transaction has read, so a fence that came before refuses it, and one that comes after
//! waits for it.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::super::answers::{Reply, Trouble, mark};
use super::super::errors;
use super::super::flight::Opening;
use super::super::marker::{self, MarkParams};
use super::super::verbs::bounds_sql;
use super::{PgSession, Stage, out_of_time};
use crate::model::powers::Role;
use crate::model::problem::{Code, Problem};

impl PgSession {
    /// What goes before the operations of a flight.
    pub(super) fn prologue(&mut self) -> Option<Opening> {
        let remaining = self.context.deadline.saturating_duration_since(Instant::now());
        let renewed = std::mem::take(&mut self.renewed);
        if self.stage == Stage::Fresh {
            return Some(self.opening(remaining));
        }
        renewed.then(|| Opening {
            begin: bounds_sql(remaining, self.context.lock_wait),
            role: Role::Undecided,
            mark: MarkParams::new(&self.context),
        })
    }

    /// The marker or the participant row of a session that is settled late.
    pub(super) async fn identify(&mut self) -> Result<(), Problem> {
        let (text, name) = match self.role {
            Role::Decider => (marker::MARK, self.store.name.clone()),
            Role::Preparer => (marker::TAKE_PART, self.store.name.clone()),
            Role::Reader | Role::Redoer | Role::Undecided => return Ok(()),
        };
        self.stage = Stage::Failed;
        self.in_flight = true;
        let opening = self.opening(Duration::ZERO);
        let client = &self.conn.client;
        let asked = async {
            let statement = match self.conn.statements.peek(text) {
                Some(statement) => statement,
                None => client.prepare(text).await?,
            };
            mark(client, statement, &opening).await
        };
        let limit = self.context.deadline.max(Instant::now() + Duration::from_secs(1));
        let answer = timeout_at(limit, asked).await.map_err(|_| out_of_time(&self.store))?;
        self.in_flight = false;
        match answer {
            Ok(Reply::Marked(Some(at))) => {
                self.marked_at = Some(at);
                self.stage = Stage::Open;
                Ok(())
            }
            Ok(_) => Err(errors::other_owner(&name)),
            Err(Trouble::Server(error)) => Err(errors::of_marker(&name, self.context.key.is_some(), &error)),
            Err(Trouble::TooLarge) => Err(Problem::new(Code::Internal, "a marker's place is never large")),
        }
    }

    /// A reader that has written would lose it, or worse, keep it beside the decision.
    pub(super) async fn must_have_read_only(&mut self) -> Result<(), Problem> {
        self.stage = Stage::Failed;
        self.in_flight = true;
        let asked = self.conn.client.query_one("SELECT pg_current_xact_id_if_assigned() IS NOT NULL", &[]);
        let limit = self.context.deadline.max(Instant::now() + Duration::from_secs(1));
        let row = timeout_at(limit, asked).await.map_err(|_| out_of_time(&self.store))?;
        self.in_flight = false;
        let wrote = row.and_then(|row| row.try_get(0)).map_err(|error| errors::problem(&self.store.name, &error))?;
        if wrote {
            let detail = "an operation that counts as a read has written; declare it `\"write\": true`";
            return Err(Problem::new(Code::RejectedByStore, detail).in_store(&self.store.name));
        }
        self.stage = Stage::Open;
        Ok(())
    }
}
