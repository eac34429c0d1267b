//! Stores that the environment names by URL: the same suites against servers that are not ours.

use std::env;

use super::{Login, Store};

/// The login of `store` if `OUTRIGGER_TEST_<STORE>_URL` is set. User and password come from the URL, or from
/// `…_USER` and `…_PASSWORD`, which win; a URL's credentials are taken out of it.
pub(super) fn login(store: Store) -> Option<Login> {
    let prefix = format!("OUTRIGGER_TEST_{}_", store.name().to_uppercase());
    let read = |what: &str| env::var(format!("{prefix}{what}")).ok().filter(|value| !value.is_empty());
    let (url, user, password) = split(&read("URL")?);
    let user = read("USER").unwrap_or(user);
    let password = read("PASSWORD").unwrap_or(password);
    Some(Login { url, user, password, faults: read("FAULTS") })
}

/// `scheme://user:password@host/…` → the URL without credentials, the user, the password.
fn split(url: &str) -> (String, String, String) {
    let plain = || (url.to_owned(), String::new(), String::new());
    let Some((scheme, rest)) = url.split_once("://") else { return plain() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some((credentials, host)) = rest[..end].rsplit_once('@') else { return plain() };
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    (format!("{scheme}://{host}{}", &rest[end..]), decode(user), decode(password))
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.filter(|_| bytes[at] == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests;
