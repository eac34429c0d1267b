//! Who may come in: `tokens_file`, a TOML file of `[[principal]]` with `name`, `token_sha256` and `role`.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

/// The principal of everybody where there is no `tokens_file`.
pub const ANONYMOUS: &str = "anonymous";

/// What a principal may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalRole {
    /// Runs and reads transactions.
    App,
    /// Also resolves what is stuck.
    Operator,
}

/// One who may come in.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Stands before the idempotency keys of this principal. 1 to 64 of `[A-Za-z0-9._@-]`.
    pub name: Arc<str>,
    /// SHA-256 of the bearer token.
    pub token_sha256: [u8; 32],
    /// What they may do.
    pub role: PrincipalRole,
}

/// Everybody who may come in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Principals(Arc<[Principal]>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensFile {
    #[serde(default)]
    principal: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    token_sha256: String,
    role: PrincipalRole,
}

impl Principals {
    /// The list itself.
    #[must_use]
    pub fn all(&self) -> &[Principal] {
        &self.0
    }

    /// Reads and checks a `tokens_file`.
    ///
    /// # Errors
    /// A sentence that names the file and the entry.
    pub(super) fn from_file(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        Self::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Reads the text of a `tokens_file`.
    ///
    /// # Errors
    /// A sentence that names the entry.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: TokensFile = toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())?;
        if file.principal.is_empty() {
            return Err("there is no [[principal]], so nobody could come in".to_owned());
        }
        let mut principals: Vec<Principal> = Vec::with_capacity(file.principal.len());
        for entry in file.principal {
            let fits = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
            if entry.name.is_empty() || entry.name.len() > 64 || !entry.name.chars().all(fits) {
                return Err(format!("the name `{}` is not 1 to 64 of [A-Za-z0-9._@-]", entry.name));
            }
            if principals.iter().any(|p| *p.name == *entry.name) {
                return Err(format!("the principal `{}` stands there twice", entry.name));
            }
            let token_sha256 = digest(&entry.token_sha256)
                .ok_or_else(|| format!("token_sha256 of `{}` is not 64 hex digits", entry.name))?;
            if principals.iter().any(|p| p.token_sha256 == token_sha256) {
                return Err(format!("`{}` has the token of another principal", entry.name));
            }
            principals.push(Principal { name: entry.name.into(), token_sha256, role: entry.role });
        }
        Ok(Self(principals.into()))
    }
}

fn digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}
