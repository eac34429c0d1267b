//! `outrigger orphans list|resolve`: prepared transactions that nothing open answers for, and ending those of dead logs.

use std::path::Path;

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{Client, DoorArgs};
use super::output::{Output, Stop};
use super::runtime;
use super::txn::text;

#[derive(Subcommand, Debug)]
pub(super) enum Orphans {
    /// List them: of this sidecar's log, and of others
    List {
        #[command(flatten)]
        door: DoorArgs,
    },
    /// End by hand one of a dead log, the way that its decider says
    Resolve {
        #[command(flatten)]
        door: DoorArgs,
        /// The store in which it stands prepared
        store: String,
        /// Its name, as the list shows it
        gid: String,
        /// What to do
        #[arg(value_parser = ["commit", "rollback"])]
        action: String,
        /// Why; it is kept in the audit log
        #[arg(long)]
        reason: String,
    },
}

pub(super) fn run(what: &Orphans, config: Option<&Path>, output: &mut Output) -> Result<(), Stop> {
    let (Orphans::List { door } | Orphans::Resolve { door, .. }) = what;
    let client = Client::new(door, config)?;
    let answer = runtime::block_on(async {
        match what {
            Orphans::List { .. } => client.get("/v1/orphans").await,
            Orphans::Resolve { store, gid, action, reason, .. } => {
                let body = json!({"store": store, "gid": gid, "action": action, "reason": reason});
                client.post("/v1/orphans/resolve", &body).await
            }
        }
    })?;
    if output.is_json() {
        output.value(&answer);
        return Ok(());
    }
    match what {
        Orphans::List { .. } => list(&answer, output),
        Orphans::Resolve { .. } => {
            let [gid, store, outcome, by] = ["gid", "store", "outcome", "decided_by"].map(|m| text(&answer[m]));
            output.line(format_args!("{gid} in {store} is {outcome}, as {by} decided."));
        }
    }
    Ok(())
}

fn list(answer: &Value, output: &mut Output) {
    let items = |member: &str| answer[member].as_array().cloned().unwrap_or_default();
    let orphans = items("orphans");
    if orphans.is_empty() {
        output.line("No orphans.");
    }
    let rows: Vec<_> = orphans
        .iter()
        .map(|orphan| {
            let whose = match (orphan["ours"].as_bool(), orphan["alive"].as_bool()) {
                (Some(true), _) => "this one's",
                (_, Some(true)) => "another's, may live",
                _ => "another's, silent",
            };
            let age = format!("{} s", text(&orphan["age_seconds"]));
            vec![text(&orphan["store"]), age, whose.to_owned(), text(&orphan["decider"]), text(&orphan["gid"])]
        })
        .collect();
    if !rows.is_empty() {
        output.table(&["STORE", "AGE", "LOG", "DECIDER", "GID"], &rows);
    }
    for orphan in &orphans {
        output.line(format_args!("{}: {}.", text(&orphan["gid"]), text(&orphan["ends_when"])));
    }
    for store in items("unreachable") {
        output.line(format_args!("warning: {} could not be asked: {}", text(&store["store"]), text(&store["reason"])));
    }
}
