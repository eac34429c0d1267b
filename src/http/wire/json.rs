//! Bytes → JSON, strictly: UTF-8, no member twice, no integer that would silently lose digits, bounded depth.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::model::problem::{Code, Problem};
use crate::model::reference::escape;

/// Reads a whole body.
///
/// # Errors
/// `invalid_request`: with line and column where it is not JSON, with the pointer where a member stands twice.
pub(in crate::http) fn parse(body: &[u8]) -> Result<Value, Problem> {
    let text = std::str::from_utf8(body).map_err(|e| {
        let (line, column) = place(body, e.valid_up_to());
        not_json(format!("the body is not UTF-8 from line {line}, column {column} on"))
    })?;
    let mut notes = Notes::default();
    // serde_json itself gives up at 128 levels, long before any stack does.
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = Seed(&mut notes).deserialize(&mut deserializer).and_then(|value| {
        deserializer.end()?;
        Ok(value)
    });
    match parsed {
        Ok(value) if notes.huge => match oversized_integer(body) {
            Some(at) => {
                let (line, column) = place(body, at);
                Err(not_json(format!(
                    "the integer at line {line}, column {column} does not fit 64 bits and would lose digits: send it as text"
                )))
            }
            None => Ok(value),
        },
        Ok(value) => Ok(value),
        Err(_) if notes.duplicate => {
            let pointer: String = notes.trail.iter().rev().map(|token| format!("/{}", escape(token))).collect();
            Err(Problem::invalid(pointer, "this member stands twice in its object"))
        }
        Err(e) => Err(not_json(format!("the body is not JSON: {e}"))),
    }
}

fn not_json(detail: String) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}

/// What the visitor cannot say through serde's error.
#[derive(Default)]
struct Notes {
    duplicate: bool,
    /// The way to the duplicate, innermost first: written while the error travels up, so that good input pays nothing.
    trail: Vec<String>,
    /// A number was so large that it may have been an integer of more than 64 bits.
    huge: bool,
}

struct Seed<'a>(&'a mut Notes);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        self.0.huge |= value.abs() >= 9.2e18;
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            match items.next_element_seed(Seed(self.0)) {
                Ok(Some(item)) => list.push(item),
                Ok(None) => return Ok(Value::Array(list)),
                Err(e) => {
                    if self.0.duplicate {
                        self.0.trail.push(list.len().to_string());
                    }
                    return Err(e);
                }
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if map.contains_key(&key) {
                self.0.duplicate = true;
                self.0.trail.push(key);
                return Err(de::Error::custom("a member stands twice"));
            }
            match members.next_value_seed(Seed(self.0)) {
                Ok(value) => drop(map.insert(key, value)),
                Err(e) => {
                    if self.0.duplicate {
                        self.0.trail.push(key);
                    }
                    return Err(e);
                }
            }
        }
        Ok(Value::Object(map))
    }
}

/// Where the first integer stands that fits neither `i64` nor `u64`. `body` is JSON already.
fn oversized_integer(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < body.len() {
        match body[at] {
            b'"' => at = after_string(body, at),
            b'-' | b'0'..=b'9' => {
                let of_number = |b: &u8| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let end = body[at..].iter().position(|b| !of_number(b)).map_or(body.len(), |length| at + length);
                let number = std::str::from_utf8(&body[at..end]).unwrap_or_default();
                let is_integer = !number.contains(['.', 'e', 'E']);
                if is_integer && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
                    return Some(at);
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    None
}

/// The place behind the string that begins at `at`.
fn after_string(body: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while at < body.len() && body[at] != b'"' {
        at += if body[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// Line and column (in bytes, from 1) of an offset.
fn place(body: &[u8], offset: usize) -> (usize, usize) {
    let before = &body[..offset.min(body.len())];
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
    (line, column)
}
