//! `record`: the keyed form of an operation, the same for every store. A record is a row, a node or a point that is
//! found by a key and counts its own versions, so that "write if nobody has written since I looked" is one operation
//! (optimistic concurrency control; Kung and Robinson 1981).

use serde::{Deserialize, Serialize};

use super::reference::Template;

/// What a `record` operation does, with the values that may still be references.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Which act.
    pub act: Act,
    /// Table, label or collection, as written.
    pub place: String,
    /// A template of an object: `key` always, `set` and `vector` where they were given.
    pub body: Template,
    /// The column, property or payload field that counts the versions.
    pub version: String,
    /// What must be so before the act.
    pub condition: IfVersion,
}

/// `do`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Reads it.
    Get,
    /// Merges `set` into it, or makes it, and counts its version up.
    Put,
    /// Takes it away.
    Delete,
}

impl Act {
    /// Every act with its word in a request.
    pub const ALL: [(&'static str, Self); 3] = [("get", Self::Get), ("put", Self::Put), ("delete", Self::Delete)];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, act)| *act == self).map_or("", |(word, _)| word)
    }

    /// Whether it only reads.
    #[must_use]
    pub fn reads(self) -> bool {
        self == Self::Get
    }
}

/// `if_version`: the record as it must be found. One without a version counts as 0; a put that makes one gives it 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfVersion {
    /// Whatever is there, or nothing.
    Any,
    /// There is none.
    Absent,
    /// It is there, at this version.
    Is(i64),
}

impl IfVersion {
    /// Whether a record of version `found` (`None`: there is no record) is as it must be.
    #[must_use]
    pub fn holds(self, found: Option<i64>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Is(version) => found == Some(version),
        }
    }
}
