//! A directory of a real file system.

use std::any::Any;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FlockOperation, fadvise, flock};
use rustix::io::{ReadWriteFlags, preadv2};

use super::mmap::MmapFile;
use super::pwrite::PwriteFile;
use super::{Access, SegmentFile, Storage, within};
use crate::format::PAGE;
use crate::options::Backend;

/// Zeros are written in pieces of this size, one system call each: larger writes make the page cache use larger
/// folios, and a store into a shared map dirties, and a flush writes, the whole folio (1 MiB a record was measured).
const ZERO_PIECE: u64 = PAGE;
/// After so many zeros they are sent to the disk, so that preparing a spare does not pile up one long flush in front of
/// the flushes that somebody waits for.
const ZERO_FLUSH: u64 = 1 << 20;

/// So much is looked for in the page cache at once.
const LOOK: u64 = 64 << 10;

/// Where repair puts what it takes out of the log.
const QUARANTINE: &str = "quarantine";

/// A directory of a real file system, as [`Wal::open`](crate::Wal::open) uses it: for those who put something in
/// between, as tests do.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    backend: Backend,
}

impl Directory {
    /// Names a directory; nothing is touched.
    #[must_use]
    pub fn new(path: &Path, backend: Backend) -> Directory {
        Directory { path: path.to_owned(), backend }
    }

    /// Makes the directory, if need be, and its name durable.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn make(&self) -> io::Result<()> {
        let missing: Vec<&Path> = self.path.ancestors().take_while(|level| !level.exists()).collect();
        fs::create_dir_all(&self.path)?;
        for level in missing {
            let parent = level.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    }

    fn wrap(&self, file: File, bytes: u64) -> io::Result<Box<dyn SegmentFile>> {
        Ok(match self.backend {
            Backend::Mmap => Box::new(MmapFile::new(file, bytes)?),
            Backend::Pwrite => Box::new(PwriteFile::new(file, bytes)),
        })
    }
}

impl Storage for Directory {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        // The lock is on the directory itself: there is no lock file to delete by mistake, and it ends with the process.
        let dir = File::open(&self.path)?;
        flock(&dir, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(Lock(dir)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn SegmentFile>> {
        let path = self.path.join(name);
        let make = || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            zero_fill(&file, bytes)?;
            self.wrap(file, bytes)
        };
        make().inspect_err(|_| drop(fs::remove_file(&path)))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn SegmentFile>> {
        let write = access == Access::Write;
        let file = OpenOptions::new().read(true).write(write).open(self.path.join(name))?;
        let bytes = file.metadata()?.len();
        if write { self.wrap(file, bytes) } else { Ok(Box::new(ReadOnly { file, bytes })) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn set_aside(&self, name: &str) -> io::Result<String> {
        let folder = self.path.join(QUARANTINE);
        fs::create_dir_all(&folder)?;
        File::open(&self.path)?.sync_all()?;
        let source = self.path.join(name);
        let identity = fs::metadata(&source)?.ino();
        // An earlier repair may have set a segment of this number aside.
        for attempt in 0u32.. {
            let kept = if attempt == 0 { name.to_owned() } else { format!("{name}.{attempt}") };
            match fs::hard_link(&source, folder.join(&kept)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if fs::metadata(folder.join(&kept))?.ino() != identity {
                        continue;
                    }
                }
                Err(error) => return Err(error),
            }
            File::open(&folder)?.sync_all()?;
            return Ok(format!("{QUARANTINE}/{kept}"));
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

/// Unlocks by name, not only by closing: a child that was forked meanwhile and has not yet become another program holds
/// a copy of the descriptor, and with it the lock.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // What a failure leaves, closing ends.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

fn zero_fill(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = [0; ZERO_PIECE as usize];
    let mut at = 0;
    while at < bytes {
        let piece = ZERO_PIECE.min(bytes - at);
        file.write_all_at(&zeros[..piece as usize], at)?;
        at += piece;
        if at.is_multiple_of(ZERO_FLUSH) {
            file.sync_data()?;
        }
    }
    // The length and the allocation are metadata: they must be durable before the file is used.
    file.sync_all()
}

/// A file that is only read.
#[derive(Debug)]
struct ReadOnly {
    file: File,
    bytes: u64,
}

impl SegmentFile for ReadOnly {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        within(self.bytes, offset, out.len())?;
        self.file.read_exact_at(out, offset)
    }

    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file is open for reading"))
    }

    fn flush(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn forget(&self, range: Range<u64>) {
        forget(&self.file, range);
    }
}

/// Drops the range from the page cache where it is clean; best effort.
pub(super) fn forget(file: &File, range: Range<u64>) {
    if let Some(len) = NonZeroU64::new(range.end.saturating_sub(range.start)) {
        // A refusal costs memory, nothing else.
        let _ = fadvise(file, range.start, Some(len), Advice::DontNeed);
    }
}

/// Whether the file has one name and all of it is in the page cache.
pub(super) fn is_at_hand(file: &File, bytes: u64) -> bool {
    if !file.metadata().is_ok_and(|found| found.nlink() == 1) {
        return false;
    }
    let mut piece = vec![0; LOOK as usize];
    (0..bytes).step_by(LOOK as usize).all(|at| {
        let wanted = LOOK.min(bytes - at) as usize;
        // Ends where something would have to be read.
        let held = preadv2(file, &mut [IoSliceMut::new(&mut piece[..wanted])], at, ReadWriteFlags::NOWAIT);
        held.is_ok_and(|held| held == wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_ended_is_not_kept_by_a_copy_of_its_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path(), Backend::Mmap);
        let guard = directory.lock().unwrap();
        // What a fork has until it becomes another program.
        let copy = guard.downcast_ref::<Lock>().unwrap().0.try_clone().unwrap();
        assert_eq!(directory.lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(guard);
        drop(directory.lock().expect("the copy keeps nothing"));
        drop(copy);
    }
}
