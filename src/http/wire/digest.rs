//! What an idempotency key stands for.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// SHA-256 over the request as canonical JSON (members sorted, no blanks) and over who asked.
pub(in crate::http) fn digest(body: &Value, principal: &str) -> [u8; 32] {
    let mut text = Vec::new();
    canonical(body, &mut text);
    let mut hash = Sha256::new();
    hash.update(&text);
    // A byte that no JSON text contains keeps the two apart.
    hash.update([0]);
    hash.update(principal.as_bytes());
    hash.finalize().into()
}

fn canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                canonical(item, out);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            out.push(b'{');
            for (index, (name, item)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                scalar(&Value::String(name.clone()), out);
                out.push(b':');
                canonical(item, out);
            }
            out.push(b'}');
        }
        plain => scalar(plain, out),
    }
}

fn scalar(value: &Value, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a value without maps can always be written to memory");
}
