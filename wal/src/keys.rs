//! Keys of encryption at rest, and the two operations on a record's payload.
//!
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03 over RFC 8439). What it keeps secret is the caller's payload. In the
//! clear stay the kind, the length, the Lsn and the internal records, so that whether a log is torn or damaged can be
//! decided, and repaired, without a key. All of a record's header is authenticated with the payload.
//!
//! **A nonce is never used twice with one key.** It is *salt ‖ Lsn ‖ opening*. Within one opening an Lsn is framed once:
//! the tail only grows, and a failed write ends the opening. Between openings an Lsn may be framed again: where a torn
//! tail was cut, or where a log was restored from a copy and goes on from there. The salt is the same then. So each
//! opening draws 64 random bits of its own and writes them into every record; two openings that meet at one Lsn draw the
//! same with a chance of 2⁻⁶⁴. Segments of different logs under one key differ in salt and opening, 128 random bits.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305, XNonce};

use crate::WalError;

/// Names a key in a segment's header without telling anything of it.
pub(crate) type KeyId = [u8; 16];

pub(crate) const TAG: usize = 16;
const OPENING: usize = 8;
/// Bytes that encryption adds to a payload: the opening's random number in front, the tag behind.
pub(crate) const OVERHEAD: usize = OPENING + TAG;
/// Bytes of a record's header that are authenticated: all but its CRC.
pub(crate) const AAD: usize = 28;

/// The keys that a log is read with; the first one is written with.
///
/// To change the key put the new one first and open the log anew: new segments use it, old ones are read with the old
/// one until they are released. [`stat`](crate::inspect::stat) names the key of each segment.
#[derive(Clone)]
pub struct Keys(Arc<[Key]>);

struct Key {
    id: KeyId,
    cipher: XChaCha20Poly1305,
}

impl Keys {
    /// Reads a file of keys: one a line, 64 hexadecimal digits; empty lines and lines that begin with `#` are passed over.
    ///
    /// # Errors
    /// [`WalError::Io`]; [`WalError::Options`] names the line that is no key, and never quotes it.
    pub fn from_file(path: &Path) -> Result<Keys, WalError> {
        let text = fs::read_to_string(path).map_err(WalError::io("read", path))?;
        Keys::parse(&text).map_err(|why| WalError::Options(format!("{}: {why}", path.display())))
    }

    /// The same from text.
    ///
    /// # Errors
    /// Which line is no key, without quoting it.
    pub fn parse(text: &str) -> Result<Keys, String> {
        let mut keys = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bytes = unhex(line).ok_or_else(|| format!("line {number} is not 64 hexadecimal digits"))?;
            keys.push(Key::new(&bytes));
        }
        if keys.is_empty() {
            return Err("there is no key".to_owned());
        }
        Ok(Keys(keys.into()))
    }

    pub(crate) fn first_id(&self) -> KeyId {
        self.0[0].id
    }

    pub(crate) fn has(&self, id: &KeyId) -> bool {
        self.find(id).is_some()
    }

    fn find(&self, id: &KeyId) -> Option<&Key> {
        self.0.iter().find(|key| key.id == *id)
    }

    /// Encrypts `out[at..]`, which begins with [`OPENING`] bytes of room, with the first key, and appends the tag.
    pub(crate) fn seal(&self, out: &mut Vec<u8>, at: usize, place: Place) {
        out[at..at + OPENING].copy_from_slice(&place.opening.to_le_bytes());
        let buffer = &mut out[at + OPENING..];
        let tag = self.0[0].cipher.encrypt_inout_detached(&place.nonce(), &place.aad, buffer.into());
        out.extend_from_slice(&tag.expect("a payload is bounded by a segment, far below the cipher's 256 GiB"));
    }

    /// The payload that was sealed; `None` where the key is not there, `Some(None)` where it does not fit.
    pub(crate) fn open(&self, id: &KeyId, stored: &[u8], mut place: Place) -> Option<Option<Vec<u8>>> {
        let key = self.find(id)?;
        let Some(text_len) = stored.len().checked_sub(OVERHEAD) else { return Some(None) };
        let (opening, rest) = stored.split_at(OPENING);
        place.opening = crate::format::u64_at(opening, 0);
        let (text, tag) = rest.split_at(text_len);
        let mut text = text.to_vec();
        let tag = Tag::try_from(tag).expect("what is left is as long as a tag");
        let opened = key.cipher.decrypt_inout_detached(&place.nonce(), &place.aad, text.as_mut_slice().into(), &tag);
        Some(opened.is_ok().then_some(text))
    }
}

/// Where a payload stands: what its nonce is made of, and what is authenticated with it.
pub(crate) struct Place {
    pub(crate) salt: u64,
    pub(crate) lsn: u64,
    pub(crate) opening: u64,
    pub(crate) aad: [u8; AAD],
}

impl Place {
    fn nonce(&self) -> XNonce {
        let mut nonce = [0; 24];
        nonce[..8].copy_from_slice(&self.salt.to_le_bytes());
        nonce[8..16].copy_from_slice(&self.lsn.to_le_bytes());
        nonce[16..].copy_from_slice(&self.opening.to_le_bytes());
        nonce.into()
    }
}

impl Key {
    fn new(bytes: &[u8; 32]) -> Key {
        let cipher = XChaCha20Poly1305::new(&(*bytes).into());
        // The tag of nothing, under a nonce that no record can have: its Lsn would be the greatest of all.
        let tag = cipher.encrypt_inout_detached(&[0xff; 24].into(), b"outrigger-wal key id", (&mut [][..]).into());
        let id = tag.expect("nothing is short enough").into();
        Key { id, cipher }
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(bytes)
}

/// A key's name as text.
pub(crate) fn id_text(id: &KeyId) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| id_text(&key.id))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(opening: u64) -> Place {
        Place { salt: 1, lsn: 2, opening, aad: [3; AAD] }
    }

    fn keys(digit: char) -> Keys {
        Keys::parse(&digit.to_string().repeat(64)).unwrap()
    }

    #[test]
    fn what_is_sealed_is_opened_and_nothing_else_is() {
        let keys = keys('a');
        let id = keys.first_id();
        let mut out = vec![9; 5];
        out.extend_from_slice(&[0; OPENING]);
        out.extend_from_slice(b"the payload");
        keys.seal(&mut out, 5, place(77));
        let stored = &out[5..];
        assert_eq!(stored.len(), 11 + OVERHEAD);
        assert!(!stored.windows(4).any(|bytes| bytes == b"payl"));
        assert_eq!(keys.open(&id, stored, place(0)), Some(Some(b"the payload".to_vec())), "the opening is in there");
        for (at, _) in stored.iter().enumerate() {
            let mut changed = stored.to_vec();
            changed[at] ^= 1;
            assert_eq!(keys.open(&id, &changed, place(0)), Some(None));
        }
        for other in [Place { salt: 8, ..place(0) }, Place { lsn: 8, ..place(0) }, Place { aad: [4; AAD], ..place(0) }]
        {
            assert_eq!(keys.open(&id, stored, other), Some(None));
        }
        assert_eq!(keys.open(&id, &stored[..20], place(0)), Some(None));
        assert_eq!(self::keys('b').open(&id, stored, place(0)), None);
        assert_ne!(self::keys('b').first_id(), id);
    }

    #[test]
    fn keys_are_read_and_never_shown() {
        let (one, two) = ("1f".repeat(32), "2E".repeat(32));
        let keys = Keys::parse(&format!("# new\n{two}\n\n  {one}\n")).unwrap();
        assert_eq!(keys.first_id(), Keys::parse(&two).unwrap().first_id());
        assert!(keys.has(&Keys::parse(&one).unwrap().first_id()));
        let shown = format!("{keys:?}");
        assert!(!shown.contains(&one) && !shown.contains("2e2e"), "{shown}");
        for (text, why) in
            [("", "no key"), ("# x\n12", "line 2"), (&"g".repeat(64), "line 1"), (&"é".repeat(32), "line 1")]
        {
            let error = Keys::parse(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
