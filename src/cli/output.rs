//! What is printed: text or JSON to standard output, complaints to standard error.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::process::ExitCode;

use serde_json::Value;

/// Why a command ends with another exit code than 0.
#[derive(Debug)]
pub(super) struct Stop {
    code: u8,
    message: String,
    /// The answer itself already says what is wrong.
    said: bool,
}

impl Stop {
    /// Exit code 1: found a fault.
    pub(super) fn fault(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), said: false }
    }

    /// Exit code 1, where what was printed already says why.
    pub(super) fn faults_shown() -> Self {
        Self { code: 1, message: String::new(), said: true }
    }

    /// Exit code 3: could not reach what it needs.
    pub(super) fn unreachable(message: impl Into<String>) -> Self {
        Self { code: 3, message: message.into(), said: false }
    }

    /// Whether it was out of reach: it may come back.
    pub(super) fn is_unreachable(&self) -> bool {
        self.code == 3
    }

    /// Exit code 3, where what was printed already says why.
    pub(super) fn unreachable_shown() -> Self {
        Self { code: 3, message: String::new(), said: true }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Collects an answer. Written at the end of a short command, or bit by bit by a long one.
pub(super) struct Output {
    json: bool,
    pending: String,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json, pending: String::new() }
    }

    /// Whether the answer is to be JSON.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Adds text as it is.
    pub(super) fn text(&mut self, text: &str) {
        self.pending.push_str(text);
        if self.pending.len() > 1 << 16 {
            self.flush();
        }
    }

    /// Adds a line.
    pub(super) fn line(&mut self, line: impl fmt::Display) {
        // Writing into a string cannot fail.
        let _ = writeln!(self.pending, "{line}");
        self.text("");
    }

    /// Adds a value, indented.
    pub(super) fn value(&mut self, value: &Value) {
        self.line(format_args!("{value:#}"));
    }

    /// Adds a table with aligned columns; the last one is as long as it likes.
    pub(super) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let text = table(head, rows);
        self.text(&text);
    }

    /// Writes what was added. A reader that has gone (`| head`) ends the program quietly, as it does others.
    pub(super) fn flush(&mut self) {
        let mut out = io::stdout().lock();
        let written = out.write_all(self.pending.as_bytes()).and_then(|()| out.flush());
        self.pending.clear();
        if let Err(e) = written {
            if e.kind() != io::ErrorKind::BrokenPipe {
                eprintln!("outrigger: standard output: {e}");
            }
            std::process::exit(if e.kind() == io::ErrorKind::BrokenPipe { 0 } else { 1 });
        }
    }

    /// Says why a command stops.
    pub(super) fn stop(&mut self, stop: &Stop) -> ExitCode {
        if !stop.said {
            if self.json {
                self.value(&serde_json::json!({"error": stop.message}));
            } else {
                self.flush();
                for line in stop.message.lines() {
                    eprintln!("outrigger: {line}");
                }
            }
        }
        ExitCode::from(stop.code)
    }
}

/// Columns as wide as their widest cell, two spaces between them.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = head.iter().map(|name| width(name)).collect();
    for row in rows {
        for (column, cell) in row.iter().enumerate().take(widths.len()) {
            widths[column] = widths[column].max(width(cell));
        }
    }
    let mut text = String::new();
    let mut put = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    put(&mut head.iter().copied());
    for row in rows {
        put(&mut row.iter().map(String::as_str));
    }
    text
}
