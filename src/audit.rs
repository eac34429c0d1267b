//! Who did what by hand: one JSON object a line, appended beside the journal and on the disk before the act is answered.
//!
//! ```text
//!   audit.jsonl ──full──► audit.jsonl.1 ──► audit.jsonl.2 … ──► gone after `keep` of them       mode 0600, never rewritten
//! ```
//!
//! A verb that is taken leaves two lines with the same `act`: one with step `asked` *before* anything is done, and one
//! with step `answered`, with what came of it. So a crash in between leaves a witness, and where the file cannot be
//! written the verb is refused: nobody acts by hand unseen. What is refused leaves its one line `answered`.
//!
//! The danger of a bounded log: whoever may not do anything could fill it with refusals until what others did is gone.
//! So of those who are no operators only so many lines a minute are kept; the rest is in the metrics and the log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::clock;
use crate::config;
use crate::metrics::{AuditPlace, Metrics};
use crate::model::ids::StoreName;
use crate::model::problem::{Code, Problem};

/// The newest file's name.
pub const FILE: &str = "audit.jsonl";
/// Lines of refused strangers that are kept in one [`WINDOW`].
const MOST_STRANGERS: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);

/// One act by hand: what its lines say. Texts are as they were given.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Act {
    /// The same on all lines of this act.
    pub act: String,
    /// The principal.
    pub who: String,
    /// `retry`, `commit`, `rollback`, `skip`, `orphan_commit`, `orphan_rollback`, `lease_renew`, `lease_release`.
    pub action: String,
    /// The trace id of the request's `traceparent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// The transaction, as it was named or found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The store of an orphan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// An orphan's gid, or a lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Why, in the operator's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The state before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

impl Act {
    /// An act of `who`, with an id of its own.
    #[must_use]
    pub fn new(who: &str, action: &str, trace: Option<&str>) -> Self {
        let act = uuid::Uuid::now_v7().to_string();
        Self { act, who: who.into(), action: action.into(), trace: trace.map(Into::into), ..Self::default() }
    }
}

/// What came of an act.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done, or is on its way and cannot be stopped.
    Done,
    /// It was so already.
    Already,
    /// It was refused; nothing was done.
    Refused,
}

impl Outcome {
    /// The word in the line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Already => "already",
            Self::Refused => "refused",
        }
    }
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// RFC 3339 UTC, microseconds.
    pub at: String,
    /// `asked` or `answered`.
    pub step: &'static str,
    /// The act.
    #[serde(flatten)]
    pub act: Act,
    /// The state after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// What came of it, once that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// More, where there is more: why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Line {
    fn new(act: &Act, step: &'static str) -> Self {
        let at = clock::rfc3339(clock::now_us());
        Self { at, step, act: act.clone(), after: None, outcome: None, detail: None }
    }

    /// Before anything is done.
    #[must_use]
    pub fn asked(act: &Act) -> Self {
        Self::new(act, "asked")
    }

    /// Once it is known what came of it.
    #[must_use]
    pub fn answered(act: &Act, outcome: Outcome, after: Option<&str>, detail: Option<&str>) -> Self {
        let (after, detail) = (after.map(Into::into), detail.map(Into::into));
        Self { outcome: Some(outcome), after, detail, ..Self::new(act, "answered") }
    }
}

/// The audit log. Cheap to clone; opened by its first line.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    path: PathBuf,
    file_bytes: u64,
    keep: usize,
    copy: Option<StoreName>,
    metrics: Metrics,
    open: Mutex<Option<Open>>,
    /// Since when, and how many strangers were written down since then.
    strangers: Mutex<(Instant, u32)>,
}

struct Open {
    file: File,
    bytes: u64,
}

impl Audit {
    /// The audit log in `dir`. Does no I/O.
    #[must_use]
    pub fn new(dir: &Path, settings: &config::Audit, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            path: dir.join(FILE),
            file_bytes: settings.file_bytes,
            keep: settings.keep,
            copy: settings.store.clone(),
            metrics,
            open: Mutex::default(),
            strangers: Mutex::new((Instant::now(), 0)),
        }))
    }

    /// Appends a line and waits until it is on the disk.
    ///
    /// # Errors
    /// `journal_unavailable`, saying that nothing was done. Cancellation: the line may or may not be written.
    pub async fn write(&self, line: &Line) -> Result<(), Problem> {
        let mut text = serde_json::to_vec(line).map_err(|error| self.failed(&error.to_string()))?;
        text.push(b'\n');
        let inner = self.0.clone();
        let written = tokio::task::spawn_blocking(move || inner.append(&text)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.failed(&error.to_string())),
            Err(panicked) => Err(self.failed(&panicked.to_string())),
        }
    }

    /// The store that gets a copy.
    #[must_use]
    pub fn copy(&self) -> Option<&StoreName> {
        self.0.copy.as_ref()
    }

    /// The copy lacks a line: the file has it, so that is no reason to refuse anything.
    pub fn copy_failed(&self, store: &StoreName, why: &str) {
        self.0.metrics.audit_failed(AuditPlace::Table);
        tracing::warn!(%store, why, "the copy of the audit log lacks a line; the file has it");
    }

    /// Whether the refusal of somebody who is no operator is to be written: not when there are too many of them.
    #[must_use]
    pub fn hears_stranger(&self, line: &Line) -> bool {
        let welcome = {
            let mut strangers = self.0.strangers.lock().unwrap_or_else(PoisonError::into_inner);
            if strangers.0.elapsed() >= WINDOW {
                *strangers = (Instant::now(), 0);
            }
            strangers.1 = strangers.1.saturating_add(1);
            strangers.1 <= MOST_STRANGERS
        };
        tracing::warn!(who = line.act.who, action = line.act.action, "refused: not an operator");
        welcome
    }

    fn failed(&self, why: &str) -> Problem {
        self.0.metrics.audit_failed(AuditPlace::File);
        let path = self.0.path.display();
        tracing::error!(%path, why, "the audit log cannot be written");
        let detail = format!("the audit log {path} cannot be written ({why}), and nothing is done by hand unrecorded");
        Problem::new(Code::JournalUnavailable, detail)
    }
}

impl Inner {
    fn append(&self, line: &[u8]) -> io::Result<()> {
        let mut slot = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = match slot.take() {
            Some(open) => open,
            None => self.open_file()?,
        };
        if open.bytes > 0 && open.bytes + line.len() as u64 > self.file_bytes {
            drop(open);
            self.rotate()?;
            open = self.open_file()?;
        }
        open.file.write_all(line)?;
        open.file.sync_data()?;
        open.bytes += line.len() as u64;
        // After a failure it stays closed: the next line opens it again and finds what stands there.
        *slot = Some(open);
        Ok(())
    }

    fn open_file(&self) -> io::Result<Open> {
        let is_new = !self.path.exists();
        let mut file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(&self.path)?;
        if is_new {
            self.sync_folder()?;
        } else {
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
        }
        let mut bytes = file.seek(SeekFrom::End(0))?;
        if bytes > 0 {
            // A crash may have left half a line: the next one gets a line of its own.
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                bytes += 1;
            }
        }
        Ok(Open { file, bytes })
    }

    /// Moves every full file one place on; the oldest goes.
    fn rotate(&self) -> io::Result<()> {
        let place = |n: usize| PathBuf::from(format!("{}.{n}", self.path.display()));
        for n in (1..self.keep).rev() {
            match fs::rename(place(n), place(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, place(1))?;
        self.sync_folder()
    }

    fn sync_folder(&self) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests;
