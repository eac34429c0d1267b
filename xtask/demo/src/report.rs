//! What is shown at the end: a table side by side, or the same as JSON.

use serde::Serialize;

use crate::audit::Audit;
use crate::through::Answers;
use crate::voyage::Restart;
use crate::{corpus, embed};

/// Bounds that the demo holds the sidecar to.
const READY_BOUND_MS: f64 = 1000.0;
const RSS_PEAK_BOUND: u64 = 100 << 20;
const RSS_IDLE_BOUND: u64 = 30 << 20;

/// Everything that was measured.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) documents: usize,
    pub(crate) writers: usize,
    pub(crate) kills: usize,
    pub(crate) corpus: &'static str,
    pub(crate) embedding: &'static str,
    /// No orphan, no duplicate, nothing acknowledged is missing, nothing left prepared or locked.
    pub(crate) passed: bool,
    /// Bounds on time and memory that were broken, in words. A busy machine can do that.
    pub(crate) over_bounds: Vec<String>,
    pub(crate) outrigger: Outrigger,
    pub(crate) direct: Direct,
}

/// Through the sidecar.
#[derive(Serialize)]
pub(crate) struct Outrigger {
    #[serde(flatten)]
    pub(crate) answers: Answers,
    pub(crate) recovered_committed: u64,
    pub(crate) recovered_aborted: u64,
    pub(crate) restarts: Vec<Restart>,
    pub(crate) ready_ms_max: f64,
    pub(crate) prepared_left: usize,
    pub(crate) locks_left: u64,
    pub(crate) rss_anon_idle_bytes: u64,
    pub(crate) rss_anon_peak_bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) documents_per_second: f64,
    pub(crate) audit: Audit,
}

/// By direct writes.
#[derive(Serialize)]
pub(crate) struct Direct {
    pub(crate) kills: usize,
    pub(crate) acknowledged: usize,
    pub(crate) seconds: f64,
    pub(crate) documents_per_second: f64,
    pub(crate) audit: Audit,
}

impl Outrigger {
    /// What must hold on every machine.
    pub(crate) fn is_clean(&self, documents: usize) -> bool {
        let whole = self.audit.is_clean() && self.audit.whole == documents && self.answers.committed == documents;
        whole && self.prepared_left == 0 && self.locks_left == 0
    }

    /// What must hold where the machine has time for us.
    pub(crate) fn over_bounds(&self) -> Vec<String> {
        let mut over = Vec::new();
        if self.ready_ms_max >= READY_BOUND_MS {
            over.push(format!("ready after {:.0} ms", self.ready_ms_max));
        }
        if self.rss_anon_peak_bytes >= RSS_PEAK_BOUND {
            over.push(format!("peak RssAnon {}", mib(self.rss_anon_peak_bytes)));
        }
        if self.rss_anon_idle_bytes >= RSS_IDLE_BOUND {
            over.push(format!("idle RssAnon {}", mib(self.rss_anon_idle_bytes)));
        }
        over
    }
}

impl Report {
    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut lines = vec![
            format!(
                "{} documents, {} writers, {} kills -9, seed {}",
                self.documents, self.writers, self.kills, self.seed
            ),
            format!("corpus: {}", corpus::NAME),
            format!("vectors: {}", embed::NAME),
            String::new(),
            format!("{:<36}{:>14}{:>16}  must be", "", "Outrigger", "direct writes"),
        ];
        let mut line = |name: &str, outrigger: String, direct: String, must: &str| {
            lines.push(format!("{name:<36}{outrigger:>14}{direct:>16}  {must}").trim_end().to_owned());
        };
        let (o, d) = (&self.outrigger, &self.direct);
        let none = || "-".to_owned();
        line("killed", o.restarts.len().to_string(), d.kills.to_string(), "");
        line("acknowledged as committed", o.answers.committed.to_string(), d.acknowledged.to_string(), "");
        line("  of those replayed by their key", o.answers.replayed.to_string(), none(), "");
        line("aborted, then asked again", o.answers.aborted.to_string(), none(), "");
        line("requests without an answer", o.answers.lost.to_string(), none(), "");
        line("committed by recovery", o.recovered_committed.to_string(), none(), "");
        line("aborted by recovery", o.recovered_aborted.to_string(), none(), "");
        line("whole in all three stores", o.audit.whole.to_string(), d.audit.whole.to_string(), "");
        line("orphans", o.audit.orphans.to_string(), d.audit.orphans.to_string(), "0");
        for stores in
            o.audit.orphans_by_stores.keys().chain(
                d.audit.orphans_by_stores.keys().filter(|stores| !o.audit.orphans_by_stores.contains_key(*stores)),
            )
        {
            let count = |audit: &Audit| audit.orphans_by_stores.get(stores).copied().unwrap_or(0).to_string();
            line(&format!("  only in {stores}"), count(&o.audit), count(&d.audit), "");
        }
        line("whole, but twice", o.audit.duplicates.to_string(), d.audit.duplicates.to_string(), "0");
        let missing = |audit: &Audit| audit.missing_acknowledged.to_string();
        line("acknowledged, yet missing", missing(&o.audit), missing(&d.audit), "0");
        let relations = |audit: &Audit| audit.missing_relations.to_string();
        line("relations missing", relations(&o.audit), relations(&d.audit), "0");
        line("prepared transactions left", o.prepared_left.to_string(), none(), "0");
        line("locks left", o.locks_left.to_string(), none(), "0");
        for (n, restart) in o.restarts.iter().enumerate() {
            let name = format!("kill {} (at {}): ready in", n + 1, restart.at_documents);
            line(&name, format!("{:.0} ms", restart.ready_ms), none(), "< 1000 ms");
            line("  of those, log read, door open", format!("{:.0} ms", restart.door_ms), none(), "");
            line("  all that was open ended in", format!("{:.0} ms", restart.recovered_ms), none(), "");
        }
        line("RssAnon idle", mib(o.rss_anon_idle_bytes), none(), "< 30 MiB");
        line("RssAnon peak", mib(o.rss_anon_peak_bytes), none(), "< 100 MiB");
        let speed = |speed: f64| format!("{speed:.1}");
        line("documents/s, kills included", speed(o.documents_per_second), speed(d.documents_per_second), "");
        lines.extend(self.remarks());
        lines.join("\n")
    }

    fn remarks(&self) -> Vec<String> {
        let mut remarks = vec![
            String::new(),
            "Direct writes: a row, then a node, then a point, by one process with as many writers, killed at the same"
                .into(),
            "documents and started again with what was not acknowledged. Development builds of sidecar and Qdrant."
                .into(),
        ];
        remarks.extend(self.over_bounds.iter().map(|what| format!("OVER ITS BOUND: {what}")));
        remarks.extend(self.outrigger.audit.examples.iter().map(|what| format!("FAULT: {what}")));
        let verdict = if self.passed { "passed: every document is in all three stores, once" } else { "FAILED" };
        remarks.push(verdict.to_owned());
        remarks
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
