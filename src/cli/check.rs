//! `outrigger check`: is the configuration sound?

use std::path::Path;

use serde_json::json;

use super::output::{Output, Stop};
use crate::config::Config;

pub(super) fn run(path: Option<&Path>, output: &mut Output) -> Result<(), Stop> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) if output.is_json() => {
            output.value(&json!({"ok": false, "faults": error.faults, "warnings": []}));
            return Err(Stop::faults_shown());
        }
        Err(error) => return Err(Stop::fault(error.to_string())),
    };
    let warnings = config.warnings();
    if output.is_json() {
        output.value(&json!({"ok": true, "faults": [], "warnings": warnings}));
        return Ok(());
    }
    let row = |name: &str, what: String| vec![name.to_owned(), what];
    let mut rows = vec![
        row("door", config.server.listen.to_string()),
        row("porch", config.server.admin_listen.to_string()),
        row("journal", config.journal.dir.display().to_string()),
    ];
    for (name, store) in &config.stores {
        rows.push(row(&format!("stores.{name}"), format!("{} at {}", store.settings.kind(), store.settings.url())));
    }
    output.table(&["WHAT", "IS"], &rows);
    for warning in warnings {
        output.line(format_args!("warning: {warning}"));
    }
    output.line("The configuration is sound.");
    Ok(())
}
