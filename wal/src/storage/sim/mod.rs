//! A disk that loses what it may lose, for tests and simulators.
//!
//! The disk keeps every file twice: as the running system sees it and as the platter has it. A flush copies; a power cut
//! ([`SimDisk::crash`]) leaves of every sector (512 bytes) that was not flushed either the old or the new content, each
//! by its own coin, and of the unsynced directory operations any subset. Sectors may also reach the platter early
//! ([`SimDisk::write_back`]). Everything is drawn from one seed, so a run repeats exactly.
//!
//! Faults are injected by [`SimDisk::fail`], and [`SimDisk::fired`] says whether they struck; [`SimDisk::misdirect`] lets a
//! sector go astray, and [`SimDisk::strays`] says where it went. [`SimDisk::cut_power_at`] ends the world at the n-th operation: it and all later ones fail and change nothing.

mod content;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Access, SegmentFile, Storage, within};
use content::{Content, below, next};

/// What survives or is lost as a whole.
pub const SECTOR: u64 = 512;

const QUARANTINE: &str = "quarantine/";

/// The operation that an injected fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// [`SegmentFile::flush`]
    Flush,
    /// [`SegmentFile::write_at`]
    Write,
    /// [`SegmentFile::read_at`]
    Read,
    /// [`Storage::create`]
    Create,
    /// [`Storage::rename`]
    Rename,
    /// [`Storage::remove`]
    Remove,
    /// [`Storage::sync_dir`]
    SyncDir,
    /// [`Storage::set_aside`]
    SetAside,
}

#[derive(Clone, Debug)]
enum DirOp {
    Link(String, u64),
    Unlink(String),
    Rename(String, String, u64),
}

#[derive(Clone, Debug)]
struct Fault {
    op: Op,
    /// Calls of that operation still to let pass.
    after: u64,
    kind: io::ErrorKind,
    /// Strikes once, or from then on.
    lasting: bool,
}

#[derive(Debug, Default)]
struct State {
    rng: u64,
    next_file: u64,
    files: BTreeMap<u64, Content>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    dir_ops: Vec<DirOp>,
    operations: u64,
    cut_at: Option<u64>,
    faults: Vec<Fault>,
    fired: BTreeMap<Op, u64>,
    /// Sectors still to be flushed rightly before one goes astray.
    astray_after: Option<u64>,
    strays: Vec<String>,
}

/// A simulated disk; clones are handles of the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    locked: Arc<AtomicBool>,
}

impl SimDisk {
    /// An empty disk, all of whose chances are drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        let disk = SimDisk::default();
        disk.state().rng = seed;
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the `after + 1`-th operation `op` from now fail with `kind`; with `lasting` all later ones too.
    pub fn fail(&self, op: Op, after: u64, kind: io::ErrorKind, lasting: bool) {
        self.state().faults.push(Fault { op, after, kind, lasting });
    }

    /// Takes all injected faults back.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.astray_after = None;
    }

    /// Lets the `after + 1`-th sector that is flushed from now on land at another place, of this file or of another one,
    /// and not at its own. The flush succeeds, and the cache shows what should be there, as after such an accident it does
    /// until the pages are dropped from it.
    pub fn misdirect(&self, after: u64) {
        self.state().astray_after = Some(after);
    }

    /// The sectors that went astray so far: whence and whither, to read.
    #[must_use]
    pub fn strays(&self) -> Vec<String> {
        self.state().strays.clone()
    }

    /// How often an injected fault struck `op`.
    #[must_use]
    pub fn fired(&self, op: Op) -> u64 {
        self.state().fired.get(&op).copied().unwrap_or(0)
    }

    /// Operations so far; the scale of [`cut_power_at`](SimDisk::cut_power_at).
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Lets operation number `operation` and all later ones fail and change nothing, as if the power were gone.
    pub fn cut_power_at(&self, operation: u64) {
        self.state().cut_at = Some(operation);
    }

    /// Lets some unflushed sectors reach the platter now, as a system under memory pressure does.
    pub fn write_back(&self) {
        let state = &mut *self.state();
        let rng = &mut state.rng;
        for content in state.files.values_mut() {
            let chance = below(rng, 4);
            content.settle(|| below(rng, 4) < chance);
        }
    }

    /// Whether the power was cut by [`cut_power_at`](SimDisk::cut_power_at).
    #[must_use]
    pub fn power_is_gone(&self) -> bool {
        self.state().power_is_gone()
    }

    /// All file names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// What a power cut now leaves: a new disk, unlocked and without faults. This one is untouched, so that several
    /// images can be drawn from one moment.
    #[must_use]
    pub fn crash(&self, seed: u64) -> SimDisk {
        let old = self.state();
        let mut rng = seed;
        // Some crashes keep all, some nothing, most a mixture: the extremes are where rules break.
        let odds = below(&mut rng, 5);
        let mut durable = old.durable_names.clone();
        for op in &old.dir_ops {
            if below(&mut rng, 4) < odds {
                op.apply(&mut durable);
            }
        }
        let mut files = BTreeMap::new();
        for (&id, content) in &old.files {
            let mut content = content.clone();
            content.settle(|| below(&mut rng, 4) < odds);
            content.seen.clone_from(&content.platter);
            content.forsaken.clear();
            files.insert(id, content);
        }
        files.retain(|id, _| durable.values().any(|named| named == id));
        let state = State {
            rng: next(&mut rng),
            next_file: old.next_file,
            files,
            names: durable.clone(),
            durable_names: durable,
            ..State::default()
        };
        SimDisk { state: Arc::new(Mutex::new(state)), locked: Arc::default() }
    }

    /// What the death of the process alone leaves: everything, also what was not flushed.
    #[must_use]
    pub fn kill(&self, seed: u64) -> SimDisk {
        let old = self.state();
        let state = State {
            rng: seed,
            next_file: old.next_file,
            files: old.files.clone(),
            names: old.names.clone(),
            durable_names: old.durable_names.clone(),
            dir_ops: old.dir_ops.clone(),
            ..State::default()
        };
        SimDisk { state: Arc::new(Mutex::new(state)), locked: Arc::default() }
    }

    /// Drops clean pages from the cache, as memory pressure does: where a flush failed, the platter's content shows.
    pub fn drop_caches(&self) {
        for content in self.state().files.values_mut() {
            content.evict(0..u64::MAX);
        }
    }

    /// The file's content as it is seen.
    #[must_use]
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(name).and_then(|id| state.files.get(id)).map(|content| content.seen.clone())
    }

    /// Overwrites part of a file, on the platter too: a flipped bit, a lost or a misdirected sector.
    ///
    /// # Panics
    /// Where there is no such file, or it is shorter.
    pub fn damage(&self, name: &str, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        let id = *state.names.get(name).expect("the file to damage exists");
        let content = state.files.get_mut(&id).expect("a name has its file");
        let range = offset as usize..offset as usize + bytes.len();
        content.seen[range.clone()].copy_from_slice(bytes);
        content.platter[range].copy_from_slice(bytes);
    }

    /// Removes a file as an accident does: at once and durably.
    pub fn lose(&self, name: &str) {
        let mut state = self.state();
        state.names.remove(name);
        state.durable_names.remove(name);
    }

    fn enter(&self, op: Op) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.operations += 1;
        if state.power_is_gone() {
            return Err(io::Error::other("the power is gone"));
        }
        let mut strikes = None;
        state.faults.retain_mut(|fault| {
            if fault.op != op || strikes.is_some() {
                return true;
            }
            if fault.after > 0 {
                fault.after -= 1;
                return true;
            }
            strikes = Some(fault.kind);
            fault.lasting
        });
        if let Some(kind) = strikes {
            *state.fired.entry(op).or_default() += 1;
            return Err(io::Error::new(kind, "injected fault"));
        }
        Ok(state)
    }
}

impl State {
    fn power_is_gone(&self) -> bool {
        self.cut_at.is_some_and(|cut| self.operations >= cut)
    }

    /// The sector at `offset` of file `id` was to be written there, and lands elsewhere.
    fn lands_elsewhere(&mut self, id: u64, offset: u64) {
        let Some(content) = self.files.get(&id) else { return };
        let sector = content.seen[offset as usize..(offset + SECTOR) as usize].to_vec();
        let files: Vec<(&str, u64)> = self.names.iter().map(|(name, &id)| (name.as_str(), id)).collect();
        let name_of = |id| files.iter().find(|(_, named)| *named == id).map_or("a removed file", |(name, _)| name);
        let there = if below(&mut self.rng, 2) == 0 || files.is_empty() {
            id
        } else {
            files[below(&mut self.rng, files.len() as u64) as usize].1
        };
        let sectors = self.files.get(&there).map_or(0, |content| content.seen.len() as u64 / SECTOR);
        if sectors < 2 {
            return;
        }
        let mut to = below(&mut self.rng, sectors) * SECTOR;
        if there == id && to == offset {
            to = (to + SECTOR) % (sectors * SECTOR);
        }
        self.strays.push(format!("{} at {offset} to {} at {to}", name_of(id), name_of(there)));
        if let Some(content) = self.files.get_mut(&there) {
            content.struck(to, &sector);
        }
    }
}

impl DirOp {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            DirOp::Link(name, id) => drop(names.insert(name.clone(), *id)),
            DirOp::Unlink(name) => drop(names.remove(name)),
            DirOp::Rename(from, to, id) => {
                if names.get(from) == Some(id) {
                    names.remove(from);
                }
                names.insert(to.clone(), *id);
            }
        }
    }
}

impl Storage for SimDisk {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        struct Guard(Arc<AtomicBool>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.store(false, Ordering::SeqCst);
            }
        }
        if self.locked.swap(true, Ordering::SeqCst) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Guard(Arc::clone(&self.locked))))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().filter(|name| !name.starts_with(QUARANTINE)).cloned().collect())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn SegmentFile>> {
        let mut state = self.enter(Op::Create)?;
        let id = state.next_file;
        state.next_file += 1;
        let zeros = vec![0; bytes as usize];
        state.files.insert(id, Content { seen: zeros.clone(), platter: zeros, forsaken: BTreeSet::new() });
        state.names.insert(name.to_owned(), id);
        state.dir_ops.push(DirOp::Link(name.to_owned(), id));
        Ok(Box::new(SimFile { disk: self.clone(), id, bytes }))
    }

    fn open(&self, name: &str, _access: Access) -> io::Result<Box<dyn SegmentFile>> {
        let state = self.state();
        let id = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        let bytes = state.files.get(&id).map_or(0, |content| content.seen.len() as u64);
        Ok(Box::new(SimFile { disk: self.clone(), id, bytes }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.enter(Op::Rename)?;
        let id = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), id);
        state.dir_ops.push(DirOp::Rename(from.to_owned(), to.to_owned(), id));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.enter(Op::Remove)?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.dir_ops.push(DirOp::Unlink(name.to_owned()));
        Ok(())
    }

    fn set_aside(&self, name: &str) -> io::Result<String> {
        let mut state = self.enter(Op::SetAside)?;
        let id = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        for attempt in 0.. {
            let kept =
                format!("{QUARANTINE}{name}{}", if attempt == 0 { String::new() } else { format!(".{attempt}") });
            if *state.names.entry(kept.clone()).or_insert(id) == id {
                state.durable_names.insert(kept.clone(), id);
                return Ok(kept);
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let state = &mut *self.enter(Op::SyncDir)?;
        for op in state.dir_ops.drain(..) {
            op.apply(&mut state.durable_names);
        }
        // Files without a name stay: who has one open goes on reading it, as on a real file system.
        Ok(())
    }

    fn place(&self) -> String {
        "the simulated disk".to_owned()
    }

    fn random(&self) -> u64 {
        next(&mut self.state().rng)
    }

    fn now_micros(&self) -> u64 {
        0
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: u64,
    bytes: u64,
}

impl SegmentFile for SimFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        within(self.bytes, offset, out.len())?;
        let state = self.disk.enter(Op::Read)?;
        let content = state.files.get(&self.id).ok_or(io::ErrorKind::NotFound)?;
        out.copy_from_slice(&content.seen[offset as usize..offset as usize + out.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        within(self.bytes, offset, bytes.len())?;
        let mut state = self.disk.enter(Op::Write)?;
        let content = state.files.get_mut(&self.id).ok_or(io::ErrorKind::NotFound)?;
        content.seen[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        for page in content.pages(&(offset..offset + bytes.len() as u64)) {
            content.forsaken.remove(&page);
        }
        Ok(())
    }

    fn flush(&self, range: Range<u64>) -> io::Result<()> {
        let entered = self.disk.enter(Op::Flush).map(drop);
        let mut state = self.disk.state();
        if state.power_is_gone() {
            // No system is left that could call a page clean.
            return entered;
        }
        let state = &mut *state;
        let content = state.files.get_mut(&self.id).ok_or(io::ErrorKind::NotFound)?;
        let astray_after = &mut state.astray_after;
        let mut strays = Vec::new();
        for page in content.pages(&range) {
            strays.extend(content.flush_page(page, entered.is_err(), || {
                let strikes = *astray_after == Some(0);
                *astray_after = astray_after.and_then(|after| after.checked_sub(1));
                strikes
            }));
        }
        for offset in strays {
            state.lands_elsewhere(self.id, offset);
        }
        entered
    }

    fn forget(&self, range: Range<u64>) {
        let mut state = self.disk.state();
        let Some(content) = state.files.get_mut(&self.id) else { return };
        content.evict(range);
    }
}
