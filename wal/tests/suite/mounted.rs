//! Small file systems of our own, behind loop devices. Where the machine does not allow them, the tests that ask for one
//! say so and end.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FallocateFlags, fallocate};

const PIECE: usize = 4096;

/// A file system of a few MiB; unmounted at the end.
pub(crate) struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// ext4, with room for less than `mebibytes`; `None`, and a message, where mounting is not allowed here.
    pub(crate) fn new(mebibytes: u64) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        SmallDisk::on(&image, mebibytes, &[], dir)
    }

    /// Nothing but memory, and not more of it than `mebibytes`.
    fn in_memory(mebibytes: u64) -> Option<SmallDisk> {
        let disk = SmallDisk::unmounted(tempfile::tempdir().unwrap());
        let options = format!("size={mebibytes}m");
        disk.mount(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]))
    }

    fn on(image: &Path, mebibytes: u64, features: &[&str], dir: tempfile::TempDir) -> Option<SmallDisk> {
        File::create(image).unwrap().set_len(mebibytes << 20).unwrap();
        let disk = SmallDisk::unmounted(dir);
        if !quiet(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-F"]).args(features).arg(image)) {
            println!("skipped: this machine makes no file system in a file");
            return None;
        }
        disk.mount(Command::new("mount").args(["-o", "loop"]).arg(image))
    }

    fn unmounted(dir: tempfile::TempDir) -> SmallDisk {
        fs::create_dir(dir.path().join("mounted")).unwrap();
        SmallDisk { dir }
    }

    fn mount(self, command: &mut Command) -> Option<SmallDisk> {
        if quiet(command.arg(self.mounted())) {
            return Some(self);
        }
        println!("skipped: this machine does not mount a file system");
        None
    }

    pub(crate) fn mounted(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Not mounted is no fault: then there is nothing to do.
        let _ = Command::new("umount").arg(self.mounted()).stderr(Stdio::null()).status();
    }
}

fn quiet(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Takes all the room that is left in `dir`, as another program might.
pub(crate) fn eat(dir: &Path) {
    let mut left = 1 << 20;
    while left > 0 {
        let name = dir.join(format!("eaten-{left}-{}", fs::read_dir(dir).unwrap().count()));
        if fs::write(name, vec![1; left]).is_err() {
            left /= 2;
        }
    }
}

/// Gives it back.
pub(crate) fn free(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("eaten") {
            fs::remove_file(path).unwrap();
        }
    }
}

/// A disk that promises more than it has, like a thin volume: the file system on it believes in its blocks, and what
/// they were to be kept on runs out. Then the kernel itself fails writes that nobody has touched.
pub(crate) struct ThinDisk {
    // In this order: the upper one is unmounted first.
    upper: SmallDisk,
    below: SmallDisk,
}

impl ThinDisk {
    pub(crate) fn new(mebibytes: u64) -> Option<ThinDisk> {
        let below = SmallDisk::in_memory(mebibytes + 8)?;
        // Without a journal and without threads of its own, the file system writes what the log writes, and nothing else;
        // and its blocks are as large as what they are kept in.
        let features = ["-b", "4096", "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard"];
        let upper = SmallDisk::on(&below.mounted().join("image"), mebibytes, &features, tempfile::tempdir().unwrap())?;
        Some(ThinDisk { upper, below })
    }

    pub(crate) fn mounted(&self) -> PathBuf {
        self.upper.mounted()
    }

    /// From here on no page that is zeros on the disk can be written; all others can.
    pub(crate) fn exhaust(&self) {
        rustix::fs::syncfs(File::open(self.mounted()).unwrap()).unwrap();
        let image = File::options().read(true).write(true).open(self.below.mounted().join("image")).unwrap();
        let (mut piece, mut kept) = ([0; PIECE], 0);
        for at in (0..image.metadata().unwrap().len()).step_by(PIECE) {
            image.read_exact_at(&mut piece, at).unwrap();
            if piece == [0; PIECE] {
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&image, hole, at, PIECE as u64).unwrap();
            } else {
                kept += 1;
            }
        }
        assert_eq!(image.metadata().unwrap().blocks() * 512 / PIECE as u64, kept, "what is zeros is a hole");
        eat(&self.below.mounted());
        let full = fs::write(self.below.mounted().join("one more"), [1; PIECE]).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }

    /// There is room again.
    pub(crate) fn replenish(&self) {
        free(&self.below.mounted());
    }
}
