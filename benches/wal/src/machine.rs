//! Where it was measured, and when.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;

/// Whether a folder's file system keeps nothing when the power goes.
pub(crate) fn is_in_memory(dir: &Path) -> Result<bool> {
    let kind = rustix::fs::statfs(dir)?.f_type as u64;
    Ok(kind == TMPFS || kind == RAMFS)
}

/// Processor, memory, kernel, file system and date.
pub(crate) fn describe(dir: &Path) -> Result<Value> {
    let processor = std::fs::read_to_string("/proc/cpuinfo")?;
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let holds = |line: &&str| line.split(' ').nth(1).is_some_and(|place| dir.starts_with(place));
    let mount = mounts.lines().filter(holds).max_by_key(|line| line.split(' ').nth(1).map(str::len));
    Ok(json!({
        "processor": processor.map_or("unknown", |(_, name)| name.trim()),
        "cores": std::thread::available_parallelism()?.get(),
        "memory_gib": (rustix::system::sysinfo().totalram >> 20) as f64 / 1024.0,
        "kernel": rustix::system::uname().release().to_string_lossy(),
        "file_system": mount.and_then(|line| line.split(' ').nth(2)).unwrap_or("unknown"),
        "at": jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
    }))
}

/// The same as a sentence.
pub(crate) fn line(machine: &Value) -> String {
    let text = |member: &str| machine[member].as_str().unwrap_or("unknown").to_owned();
    format!(
        "{}: {}, {} cores, {:.0} GiB, Linux {}, {}.",
        text("at"),
        text("processor"),
        machine["cores"],
        machine["memory_gib"].as_f64().unwrap_or(0.0),
        text("kernel"),
        text("file_system"),
    )
}
