//! File systems on which the log's promise is void: nothing is durable there, or a flush does not mean what it should.

use std::io;
use std::path::Path;

use rustix::fs::statfs;

/// By the magic numbers of `statfs(2)`, each with its reason.
///
/// * tmpfs and ramfs keep nothing over a power cut.
/// * overlayfs copies a file up at its first change, and a container's writable layer goes with the container; with
///   `volatile` it ignores flushes altogether.
/// * NFS, SMB and 9p: another machine's cache decides, a lock may be lost with the connection, and a shared map is not
///   coherent.
const UNFIT: [(u32, &str); 9] = [
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x794c_7630, "overlayfs"),
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB 2"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
];

/// The name of the file system that `dir` lies on (or will: the nearest folder above it that exists), if it is one of
/// those that keep no promise.
pub(crate) fn unfit(dir: &Path) -> io::Result<Option<&'static str>> {
    let mut levels = dir.ancestors().map(|level| if level.as_os_str().is_empty() { Path::new(".") } else { level });
    let place = levels.find(|level| level.exists()).unwrap_or(Path::new("."));
    // The field's type differs between architectures; a magic number has 32 bits on all of them.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a magic number has 32 bits")]
    let magic = statfs(place)?.f_type as u32;
    Ok(named(magic))
}

fn named(magic: u32) -> Option<&'static str> {
    UNFIT.iter().find(|(unfit, _)| *unfit == magic).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_told_by_their_magic() {
        assert_eq!(named(0x0102_1994), Some("tmpfs"));
        assert_eq!(named(0x794c_7630), Some("overlayfs"));
        // ext4, XFS, btrfs.
        assert_eq!([0xef53, 0x5846_5342, 0x9123_683e].map(named), [None; 3]);
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_where_its_parent_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(unfit(&dir.path().join("not/yet")).unwrap(), unfit(dir.path()).unwrap());
        if Path::new("/dev/shm").is_dir() {
            assert_eq!(unfit(Path::new("/dev/shm/outrigger/not/yet")).unwrap(), Some("tmpfs"));
        } else {
            println!("skipped: there is no /dev/shm");
        }
    }
}
