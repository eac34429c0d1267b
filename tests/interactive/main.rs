//! Transactions that grow call by call, on real stores.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_wrap,
    clippy::too_many_lines,
    reason = "a test that panics has failed, and a table of cases is long"
)]

#[path = "../world/mod.rs"]
mod world;

mod crashes;
mod held;
mod python;
mod talk;

use serde_json::{Value, json};
use world::{Reply, World};
use xtask::sidecar::Sidecar;

/// An open transaction as its client holds it.
pub(crate) struct Open<'a> {
    pub(crate) world: &'a World,
    pub(crate) url: String,
    pub(crate) id: String,
}

impl<'a> Open<'a> {
    pub(crate) async fn new(world: &'a World, sidecar: &Sidecar, more: Value) -> Open<'a> {
        let mut body = json!({"interactive": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let opened = world.submit(sidecar, &body).await;
        opened.must_be(201, "active");
        let id = opened.body["id"].as_str().unwrap().to_owned();
        assert_eq!(opened.headers["location"], format!("/v1/transactions/{id}"));
        Open { world, url: sidecar.url(), id }
    }

    pub(crate) async fn call(&self, what: &str, body: Value) -> Reply {
        self.world.call(&self.url, &self.id, what, &body).await.expect("the sidecar answers")
    }

    pub(crate) async fn run(&self, operations: Value) -> Reply {
        self.call("operations", json!({"operations": operations})).await
    }

    pub(crate) async fn commit(&self) -> Reply {
        self.call("commit", json!({})).await
    }

    pub(crate) async fn roll_back(&self) -> Reply {
        self.call("rollback", json!({})).await
    }
}
