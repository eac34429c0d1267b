//! `outrigger txn list|show|watch`: what the running sidecar knows of transactions.

use std::path::Path;

use clap::Subcommand;
use jiff::Timestamp;
use serde_json::Value;

use super::client::{Client, DoorArgs, encode};
use super::output::{Output, Stop};
use super::runtime;
use super::watch::watch;

#[derive(Subcommand, Debug)]
pub(super) enum Txn {
    /// List transactions, newest first
    List {
        #[command(flatten)]
        door: DoorArgs,
        /// Only this state: active, prepared, in_doubt, committing, committed, aborting, aborted, needs_intervention
        #[arg(long)]
        state: Option<String>,
        /// Only this name
        #[arg(long)]
        name: Option<String>,
        /// Only those in which this store takes part
        #[arg(long)]
        store: Option<String>,
        /// Only those begun longer ago than this
        #[arg(long, value_name = "MS")]
        older_than_ms: Option<u64>,
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
        limit: u64,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Show one transaction
    Show {
        #[command(flatten)]
        door: DoorArgs,
        /// Its id, or name:THE-NAME
        id: String,
    },
    /// Follow what happens, a line an event, until the transaction has ended
    Watch {
        #[command(flatten)]
        door: DoorArgs,
        /// Its id, or name:THE-NAME; none: every transaction, until interrupted
        id: Option<String>,
    },
}

pub(super) fn run(what: &Txn, config: Option<&Path>, output: &mut Output) -> Result<(), Stop> {
    let (Txn::List { door, .. } | Txn::Show { door, .. } | Txn::Watch { door, .. }) = what;
    let client = Client::new(door, config)?;
    if let Txn::Watch { id, .. } = what {
        return runtime::block_on(watch(&client, id.as_deref(), output));
    }
    let answer = runtime::block_on(client.get(&path(what)))?;
    if output.is_json() {
        output.value(&answer);
        return Ok(());
    }
    match what {
        Txn::List { .. } => list(&answer, output),
        Txn::Show { .. } | Txn::Watch { .. } => show(&answer, output),
    }
    Ok(())
}

fn path(what: &Txn) -> String {
    match what {
        Txn::Watch { id: None, .. } => "/v1/transactions".to_owned(),
        Txn::Show { id, .. } | Txn::Watch { id: Some(id), .. } => format!("/v1/transactions/{}", encode(id)),
        Txn::List { state, name, store, older_than_ms, limit, cursor, .. } => {
            let mut path = format!("/v1/transactions?limit={limit}");
            let older = older_than_ms.map(|ms| ms.to_string());
            let filters = [
                ("state", state.as_deref()),
                ("name", name.as_deref()),
                ("store", store.as_deref()),
                ("older_than_ms", older.as_deref()),
                ("cursor", cursor.as_deref()),
            ];
            for (name, value) in filters {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={}", encode(value)));
                }
            }
            path
        }
    }
}

fn list(page: &Value, output: &mut Output) {
    let transactions = page["transactions"].as_array().map_or(&[][..], Vec::as_slice);
    let rows: Vec<Vec<String>> = transactions.iter().map(row).collect();
    if rows.is_empty() {
        output.line("No transactions.");
        return;
    }
    output.table(&["ID", "STATE", "AGE", "TOOK", "DECIDER", "PENDING", "NAME"], &rows);
    if let Some(cursor) = page["next_cursor"].as_str() {
        output.line(format_args!("More: --cursor {cursor}"));
    }
}

fn row(txn: &Value) -> Vec<String> {
    vec![
        text(&txn["id"]),
        text(&txn["state"]),
        txn["started_at"].as_str().map_or_else(dash, age),
        txn["took_ms"].as_f64().map_or_else(dash, |ms| format!("{ms:.1} ms")),
        text(&txn["plan"]["decider"]),
        joined(&txn["pending"]),
        text(&txn["name"]),
    ]
}

fn show(txn: &Value, output: &mut Output) {
    let mut facts: Vec<Vec<String>> = Vec::new();
    let mut fact = |name: &str, value: String| {
        if value != "-" {
            facts.push(vec![format!("{name}:"), value]);
        }
    };
    for name in ["id", "name", "state", "guarantee", "started_at", "ended_at", "attempts"] {
        fact(name, text(&txn[name]));
    }
    fact("retried_for", joined(&txn["retried_for"]));
    fact("took", txn["took_ms"].as_f64().map_or_else(dash, |ms| format!("{ms:.1} ms")));
    let plan = &txn["plan"];
    fact("pattern", text(&plan["pattern"]));
    fact("decider", text(&plan["decider"]));
    fact("prepared", joined(&plan["prepared"]));
    fact("redo", joined(&plan["redo"]));
    fact("reason", text(&plan["reason"]));
    fact("pending", joined(&txn["pending"]));
    fact("cause", if txn["cause"].is_null() { dash() } else { txn["cause"].to_string() });
    for line in super::output::table(&["", ""], &facts).lines().skip(1) {
        output.line(line);
    }
    section(output, "participants", &txn["participants"], &["store", "role", "pending", "last_error"]);
    section(output, "timeline", &txn["timeline"], &["at", "step", "detail"]);
    if let Some(results) = txn["results"].as_object().filter(|results| !results.is_empty()) {
        output.line("\nresults");
        for (operation, result) in results {
            output.line(format_args!("  {operation}  {result}"));
        }
    }
}

fn section(output: &mut Output, title: &str, items: &Value, columns: &[&str]) {
    let Some(items) = items.as_array().filter(|items| !items.is_empty()) else { return };
    let rows: Vec<_> = items.iter().map(|item| columns.iter().map(|column| text(&item[*column])).collect()).collect();
    output.line(format_args!("\n{title}"));
    for line in super::output::table(
        &columns.iter().map(|c| c.to_uppercase()).collect::<Vec<_>>().iter().map(String::as_str).collect::<Vec<_>>(),
        &rows,
    )
    .lines()
    {
        output.line(format_args!("  {line}"));
    }
}

fn dash() -> String {
    "-".to_owned()
}

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => dash(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn joined(list: &Value) -> String {
    let items: Vec<String> = list.as_array().map_or(&[][..], Vec::as_slice).iter().map(text).collect();
    if items.is_empty() { dash() } else { items.join(", ") }
}

/// How long ago a time was, roughly.
fn age(at: &str) -> String {
    let Ok(at) = at.parse::<Timestamp>() else { return dash() };
    let seconds = Timestamp::now().as_second().saturating_sub(at.as_second()).max(0);
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
