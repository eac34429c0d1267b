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
        row("audit log", audit(&config)),
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

/// Where what is done by hand is written down.
fn audit(config: &Config) -> String {
    let copy = config.audit.store.as_ref().map(|store| format!(", with a copy in {store}")).unwrap_or_default();
    let path = config.journal.dir.join(crate::audit::FILE);
    let (keep, bytes) = (config.audit.keep, config.audit.file_bytes);
    format!("{}, and {keep} full ones of {bytes} bytes{copy}", path.display())
}
