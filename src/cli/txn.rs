//! `outrigger txn list|show|watch|explain|resolve`: what the running sidecar knows of transactions, and what to do by hand.

use std::path::Path;

use clap::Subcommand;
use jiff::Timestamp;
use serde_json::{Value, json};

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
        /// Only this state: active, prepared, in_doubt, committing, committed, aborting, aborted, needs_intervention,
        /// compensating, compensated
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
    /// Say why one is where it is: who decides, what was promised, what would end it
    Explain {
        #[command(flatten)]
        door: DoorArgs,
        /// Its id, or name:THE-NAME
        id: String,
    },
    /// Resolve by hand one that is stuck; refused where it would contradict a decision
    Resolve {
        #[command(flatten)]
        door: DoorArgs,
        /// Its id, or name:THE-NAME
        id: String,
        /// retry: do it now. commit, rollback: the verdict. skip: give up what a store refuses for good
        #[arg(value_parser = ["retry", "commit", "rollback", "skip"])]
        action: String,
        /// Why; it is kept in the audit log
        #[arg(long)]
        reason: String,
    },
}

pub(super) fn run(what: &Txn, config: Option<&Path>, output: &mut Output) -> Result<(), Stop> {
    let (Txn::List { door, .. }
    | Txn::Show { door, .. }
    | Txn::Watch { door, .. }
    | Txn::Explain { door, .. }
    | Txn::Resolve { door, .. }) = what;
    let client = Client::new(door, config)?;
    if let Txn::Watch { id, .. } = what {
        return runtime::block_on(watch(&client, id.as_deref(), output));
    }
    let answer = runtime::block_on(async {
        match what {
            Txn::Resolve { action, reason, .. } => {
                client.post(&path(what), &json!({"action": action, "reason": reason})).await
            }
            _ => client.get(&path(what)).await,
        }
    })?;
    if output.is_json() {
        output.value(&answer);
        return Ok(());
    }
    match what {
        Txn::List { .. } => list(&answer, output),
        Txn::Show { .. } | Txn::Watch { .. } | Txn::Resolve { .. } => show(&answer, output),
        Txn::Explain { .. } => explain(&answer, output),
    }
    Ok(())
}

fn path(what: &Txn) -> String {
    match what {
        Txn::Watch { id: None, .. } => "/v1/transactions".to_owned(),
        Txn::Show { id, .. } | Txn::Watch { id: Some(id), .. } => format!("/v1/transactions/{}", encode(id)),
        Txn::Explain { id, .. } => format!("/v1/transactions/{}/explain", encode(id)),
        Txn::Resolve { id, .. } => format!("/v1/transactions/{}/resolve", encode(id)),
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
    for name in ["parent", "chunk", "undoes"] {
        fact(name, text(&txn[name]));
    }
    for (name, value) in progress(&txn["job"]) {
        fact(name, value);
    }
    fact("cause", if txn["cause"].is_null() { dash() } else { txn["cause"].to_string() });
    for line in super::output::table(&["", ""], &facts).lines().skip(1) {
        output.line(line);
    }
    section(output, "participants", &txn["participants"], &["store", "role", "pending", "last_error"]);
    section(output, "given up", &txn["skipped"], &["store", "by", "at", "reason"]);
    section(output, "timeline", &txn["timeline"], &["at", "step", "detail"]);
    if let Some(results) = txn["results"].as_object().filter(|results| !results.is_empty()) {
        output.line("\nresults");
        for (operation, result) in results {
            output.line(format_args!("  {operation}  {result}"));
        }
    }
}

fn explain(answer: &Value, output: &mut Output) {
    output.line(format_args!("{} is {}", text(&answer["transaction"]), text(&answer["state"])));
    for sentence in answer["summary"].as_array().map_or(&[][..], Vec::as_slice) {
        output.line(format_args!("  {}", text(sentence)));
    }
    section(output, "an operator's verbs", &answer["operator"], &["action", "allowed", "does"]);
}

/// How far a batch job is.
fn progress(job: &Value) -> Vec<(&'static str, String)> {
    if job.is_null() {
        return Vec::new();
    }
    let done = match (job["done"].as_u64(), job["chunks"].as_u64()) {
        (Some(done), Some(chunks)) => {
            #[expect(clippy::cast_precision_loss, reason = "a share for people")]
            let share = done as f64 * 100.0 / chunks as f64;
            format!("{done} of {chunks} chunks ({share:.0} %)")
        }
        (done, _) => format!("{} chunks", done.unwrap_or_default()),
    };
    let range = |range: &Value| match (&range[0], &range[1]) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    let mut ranges: Vec<String> = job["ranges"].as_array().map_or(&[][..], Vec::as_slice).iter().map(range).collect();
    if let Some(more) = job["more_ranges"].as_u64() {
        ranges.push(format!("and {more} ranges more"));
    }
    let failed = &job["failed"];
    let refusal = || format!("chunk {}: {}: {}", failed["chunk"], text(&failed["code"]), text(&failed["detail"]));
    vec![
        ("done", done),
        ("ranges", if ranges.is_empty() { dash() } else { ranges.join(", ") }),
        ("next", text(&job["next"])),
        ("running", text(&job["running"])),
        ("without_compensation", text(&job["without_compensation"])),
        ("undone", text(&job["undone"])),
        ("failed", if failed.is_null() { dash() } else { refusal() }),
    ]
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_shows_how_far_it_is() {
        let job = json!({"chunks": 40, "done": 17, "ranges": [[0, 15], [18, 18]], "next": 16, "running": 1,
            "without_compensation": 0, "failed": {"chunk": 16, "code": "conflict", "detail": "rows"}});
        let shown: std::collections::BTreeMap<_, _> = progress(&job).into_iter().collect();
        assert_eq!(shown["done"], "17 of 40 chunks (42 %)");
        assert_eq!((shown["ranges"].as_str(), shown["next"].as_str()), ("0-15, 18", "16"));
        assert_eq!((shown["failed"].as_str(), shown["undone"].as_str()), ("chunk 16: conflict: rows", "-"));
        assert!(progress(&Value::Null).is_empty());
        let endless = json!({"chunks": null, "done": 3, "ranges": [], "next": null, "more_ranges": 2});
        let shown: std::collections::BTreeMap<_, _> = progress(&endless).into_iter().collect();
        assert_eq!((shown["done"].as_str(), shown["ranges"].as_str()), ("3 chunks", "and 2 ranges more"));
        assert_eq!(shown["next"], "-");
    }
}
