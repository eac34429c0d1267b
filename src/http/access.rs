//! Who is asking: bearer tokens, known by their SHA-256 alone.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::{ANONYMOUS, Principal, PrincipalRole, Principals};
use crate::model::problem::{Code, Problem};
use crate::txn::Actor;

/// The name under which the command line of this machine comes in.
const LOCAL_OPERATOR: &str = "local-operator";
const OPERATOR_FILE: &str = "operator.token";

/// Who may come in, and as whom.
#[derive(Clone, Debug)]
pub struct Access {
    principals: Vec<Principal>,
    /// Without a `tokens_file` whoever reaches the door may run transactions.
    open: bool,
}

/// Somebody who came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Visitor {
    /// Stands before this visitor's idempotency keys.
    pub name: Arc<str>,
    /// What they may do.
    pub role: PrincipalRole,
}

impl Access {
    /// From `server.tokens_file`.
    #[must_use]
    pub fn new(principals: Option<&Principals>) -> Self {
        Self { open: principals.is_none(), principals: principals.map(|p| p.all().to_vec()).unwrap_or_default() }
    }

    /// Makes a token for the command line of this machine and leaves it beside the journal, for its owner alone
    /// (mode 0600). Every start makes a new one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn leave_operator_token(&mut self, journal: &Path) -> std::io::Result<()> {
        let token: String = rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
        let path = operator_token_path(journal);
        // Made anew, so that a file of another mode or owner is never written into.
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(token.as_bytes())?;
        let token_sha256 = Sha256::digest(token.as_bytes()).into();
        self.principals.retain(|p| &*p.name != LOCAL_OPERATOR);
        self.principals.push(Principal { name: LOCAL_OPERATOR.into(), token_sha256, role: PrincipalRole::Operator });
        Ok(())
    }

    /// Who sends these headers.
    ///
    /// # Errors
    /// `unauthenticated`.
    pub fn visitor(&self, headers: &HeaderMap) -> Result<Visitor, Problem> {
        match bearer(headers).and_then(|token| self.owner(token)) {
            Some(principal) => Ok(Visitor { name: principal.name.clone(), role: principal.role }),
            None if self.open => Ok(Visitor { name: ANONYMOUS.into(), role: PrincipalRole::App }),
            None => {
                let detail = if headers.contains_key(AUTHORIZATION) {
                    "this bearer token is not known here"
                } else {
                    "a bearer token is needed: Authorization: Bearer TOKEN"
                };
                Err(Problem::new(Code::Unauthenticated, detail))
            }
        }
    }

    /// Compares with every principal, found or not, so that the time taken tells nothing.
    fn owner(&self, token: &[u8]) -> Option<&Principal> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let mut owner = None;
        for principal in &self.principals {
            if bool::from(principal.token_sha256.ct_eq(&hash)) {
                owner = Some(principal);
            }
        }
        owner
    }
}

impl Visitor {
    /// On whose things they may act.
    #[must_use]
    pub fn actor(&self) -> Actor {
        match self.role {
            PrincipalRole::Operator => Actor::Operator,
            PrincipalRole::App => Actor::Principal(self.name.clone()),
        }
    }

    /// # Errors
    /// `forbidden` for everybody but operators.
    pub fn must_be_operator(&self) -> Result<(), Problem> {
        match self.role {
            PrincipalRole::Operator => Ok(()),
            PrincipalRole::App => Err(Problem::new(Code::Forbidden, "only an operator may do that")),
        }
    }
}

/// Where [`Access::leave_operator_token`] leaves the token.
#[must_use]
pub fn operator_token_path(journal: &Path) -> PathBuf {
    journal.join(OPERATOR_FILE)
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    (scheme.eq_ignore_ascii_case(b"bearer ")).then(|| token.trim_ascii())
}
