//! `outrigger wal repair`: says what can be done for a log that does not open, and does it when told to.
//!
//! It cuts a torn tail and sets damaged segments aside, whole; it never edits a damaged file, and what is lost stays
//! lost. Hence the dry run unless somebody says `--yes`.

use std::path::Path;

use outrigger_wal::repair::{self, Plan, Remedy, Repaired};
use serde_json::{Map, Value, json};

use super::{damages, fault_line, stop};
use crate::cli::output::{Output, Stop};

pub(super) fn run(dir: &Path, yes: bool, output: &mut Output) -> Result<(), Stop> {
    let plan = repair::plan(dir).map_err(|e| stop(&e))?;
    let repaired = if yes && plan.acts() { Some(repair::carry_out(dir, &plan).map_err(|e| stop(&e))?) } else { None };
    if output.is_json() {
        output.value(&as_json(&plan, repaired.as_ref()));
    } else {
        show(&plan, repaired.as_ref(), output);
    }
    // A torn tail is no fault, whether it was cut or not; damage is one until it has been set aside.
    match (&plan.remedy, repaired) {
        (Remedy::Beyond { .. }, _) | (Remedy::Quarantine { .. }, None) => Err(Stop::faults_shown()),
        _ => Ok(()),
    }
}

fn show(plan: &Plan, repaired: Option<&Repaired>, output: &mut Output) {
    for damage in &plan.damage {
        output.line(fault_line(damage));
    }
    let text = plan.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    output.line(format_args!("{first}{}.", letters.as_str()));
    match repaired {
        Some(done) if done.quarantined.is_empty() => output.line("Done."),
        Some(done) => output.line(format_args!("Done. Set aside: {}", done.quarantined.join(", "))),
        None if plan.acts() => output.line("Nothing was changed. `outrigger wal repair --yes` does it."),
        None => {}
    }
}

fn as_json(plan: &Plan, repaired: Option<&Repaired>) -> Value {
    let remedy = match &plan.remedy {
        Remedy::Nothing => json!({"remedy": "nothing"}),
        Remedy::Cut { torn_bytes } => json!({"remedy": "cut", "torn_bytes": torn_bytes}),
        Remedy::Quarantine { segments, anew } => {
            json!({"remedy": "quarantine", "segments": segments, "written_anew": anew})
        }
        Remedy::Beyond { why } => json!({"remedy": "beyond", "why": why}),
        _ => json!({"remedy": "unknown"}),
    };
    let mut members: Map<String, Value> = match remedy {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    let rest = json!({
        "acts": plan.acts(),
        "done": repaired.is_some(),
        "quarantined": repaired.map(|done| &done.quarantined),
        "log_id": plan.log_id.map(|id| id.to_string()),
        "kept_records": plan.kept_records,
        "kept_to": plan.kept_to.as_u64(),
        "lost": {"from": plan.lost.start.as_u64(), "to": plan.lost.end.as_u64()},
        "acknowledged_to": plan.acknowledged_to.as_u64(),
        "set_aside_records": plan.set_aside_records,
        "damage": damages(&plan.damage),
        "summary": plan.to_string(),
    });
    if let Value::Object(rest) = rest {
        members.extend(rest);
    }
    Value::Object(members)
}
