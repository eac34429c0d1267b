//! Reading segments: from a window over the file, to the walk along one segment's records, to the survey of all of them.
//! Recovery, readers and the offline tools all read through here, so they cannot disagree on what a log contains.

mod survey;
mod walk;
mod window;

pub(crate) use survey::{Fault, How, Survey, survey};
pub(crate) use walk::{Step, Walk, strongest_witness};

use std::io;

use crate::WalError;
use crate::format::{HeaderFault, PAGE, SALT_AT, SegmentHeader, VERSION};
use crate::storage::{SegmentFile, Storage};

/// A segment's number with its file name, in order of numbers. Other files are not ours and are left alone.
pub(crate) fn list(storage: &dyn Storage) -> Result<Vec<(u64, String)>, WalError> {
    let names = storage.list().map_err(WalError::io("list", storage.place()))?;
    let mut found: Vec<(u64, String)> =
        names.into_iter().filter_map(|name| Some((SegmentHeader::number_of(&name)?, name))).collect();
    found.sort_unstable();
    Ok(found)
}

/// Reads a header page and holds it against the file. The inner error says what is wrong with it.
pub(crate) fn header(
    file: &dyn SegmentFile,
    name: &str,
    number: u64,
) -> Result<Result<SegmentHeader, &'static str>, WalError> {
    let mut page = vec![0; PAGE.min(file.bytes()) as usize];
    file.read_at(0, &mut page).map_err(WalError::io("read", name))?;
    match SegmentHeader::decode(&page) {
        Ok(header) if header.number != number => Ok(Err("the header names another segment")),
        Ok(header) if header.bytes != file.bytes() => {
            Ok(Err("the file does not have the length that the header states"))
        }
        Ok(header) => Ok(Ok(header)),
        Err(HeaderFault::Damaged(detail)) => Ok(Err(detail)),
        Err(HeaderFault::Version(found)) => {
            Err(WalError::Unsupported { segment: name.to_owned(), found, supported: VERSION })
        }
    }
}

/// Whether an open file is still the segment that it was. Its owner may have released it and be using it again: then it
/// lost its name first, then its header was changed, and only then its records.
pub(crate) fn is_still(
    storage: &dyn Storage,
    file: &dyn SegmentFile,
    header: &SegmentHeader,
) -> Result<bool, WalError> {
    let mut salt = [0; 8];
    file.read_at(SALT_AT, &mut salt).map_err(WalError::io("read", header.name()))?;
    Ok(u64::from_le_bytes(salt) == header.salt || list(storage)?.iter().any(|(number, _)| *number == header.number))
}

/// Whether an open failed because the file is gone.
pub(crate) fn is_gone(error: &WalError) -> bool {
    matches!(error, WalError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests;
