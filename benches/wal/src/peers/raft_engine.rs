//! raft-engine: TiKV's log of Raft entries and small values.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use raft_engine::{Config, Engine, LogBatch, ReadableSize, RecoveryMode};

use super::{Log, Peer, Purpose, Task, blocking};

pub(crate) struct RaftEngine {
    name: &'static str,
    settings: &'static str,
    recovery: RecoveryMode,
}

pub(super) const DEFAULT: RaftEngine = RaftEngine {
    name: "raft-engine",
    settings: "`write(batch, sync = true)` of one `put`; `prefill_for_recycle` with 256 MiB, no compression; recovery \
               mode `TolerateTailCorruption` (its default)",
    recovery: RecoveryMode::TolerateTailCorruption,
};
pub(super) const ABSOLUTE: RaftEngine = RaftEngine {
    name: "raft-engine, absolute",
    settings: "the same with recovery mode `AbsoluteConsistency`",
    recovery: RecoveryMode::AbsoluteConsistency,
};

/// Raft groups have tables of their own in memory; writers that share one would wait for each other there.
const GROUPS: u64 = 64;
/// Values stay in memory until their key is written again. So many are more than a damaged log has.
const KEYS: u64 = 1 << 16;

impl RaftEngine {
    fn config(&self, dir: &Path) -> Config {
        Config {
            dir: dir.to_string_lossy().into_owned(),
            recovery_mode: self.recovery,
            batch_compression_threshold: ReadableSize(0),
            ..Config::default()
        }
    }
}

impl Peer for RaftEngine {
    fn name(&self) -> &'static str {
        self.name
    }

    fn settings(&self) -> &'static str {
        self.settings
    }

    fn open(&self, dir: &Path, purpose: Purpose) -> Result<Arc<dyn Log>> {
        let mut config = self.config(dir);
        match purpose {
            Purpose::Speed => {
                config.target_file_size = ReadableSize::mb(64);
                config.prefill_for_recycle = true;
                config.prefill_limit = Some(ReadableSize::mb(256));
            }
            Purpose::Damage { .. } => config.target_file_size = ReadableSize::mb(1),
        }
        Ok(Arc::new(Engine::open(config)?))
    }

    fn read(&self, dir: &Path, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let engine = Engine::open(Config { target_file_size: ReadableSize::mb(1), ..self.config(dir) })?;
        for group in engine.raft_groups() {
            engine.scan_raw_messages(group, None, None, false, |_, value| {
                each(value);
                true
            })?;
        }
        Ok(())
    }
}

impl Log for Engine {
    fn append(&self, number: u64, payload: &[u8]) -> Result<()> {
        let mut batch = LogBatch::with_capacity(1);
        batch.put(number % GROUPS, (number % KEYS).to_be_bytes().to_vec(), payload.to_vec())?;
        self.write(&mut batch, true)?;
        Ok(())
    }

    fn append_task(self: Arc<Self>, number: u64, payload: Vec<u8>) -> Task {
        blocking(self, number, payload)
    }
}
