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
    let mut notes = Notes { numbers: Numbers { text, at: 0 }, duplicate: false, trail: Vec::new(), oversized: None };
    // serde_json itself gives up at 128 levels, long before any stack does.
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = Seed(&mut notes).deserialize(&mut deserializer).and_then(|value| {
        deserializer.end()?;
        Ok(value)
    });
    match parsed {
        Ok(value) => Ok(value),
        Err(_) if notes.duplicate => {
            let pointer: String = notes.trail.iter().rev().map(|token| format!("/{}", escape(token))).collect();
            Err(Problem::invalid(pointer, "this member stands twice in its object"))
        }
        Err(e) => Err(not_json(match notes.oversized {
            Some(at) => {
                let (line, column) = place(body, at);
                format!("the integer at line {line}, column {column} does not fit 64 bits: send it as text")
            }
            None => format!("the body is not JSON: {e}"),
        })),
    }
}

fn not_json(detail: String) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}

/// What the visitor knows beyond serde's events, and what it cannot say through serde's error.
struct Notes<'t> {
    numbers: Numbers<'t>,
    duplicate: bool,
    /// The way to the duplicate, innermost first: written while the error travels up, so that good input pays nothing.
    trail: Vec<String>,
    /// Where an integer of more than 64 bits stands.
    oversized: Option<usize>,
}

/// The numbers of a JSON text as they are written, in the order in which serde visits them. serde_json's own floats may
/// be off by one in the last place, and its integers beyond 64 bits silently become such floats: what an application
/// sends must reach the store as it was sent.
struct Numbers<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Numbers<'t> {
    /// The next number and where it stands; empty at the end of the text.
    fn next(&mut self) -> (usize, &'t str) {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b'"' => self.at = after_string(bytes, self.at),
                b'-' | b'0'..=b'9' => break,
                _ => self.at += 1,
            }
        }
        let from = self.at.min(bytes.len());
        let of_number = |b: &u8| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
        let length = bytes[from..].iter().take_while(|b| of_number(b)).count();
        self.at = from + length;
        (from, &self.text[from..self.at])
    }
}

struct Seed<'a, 't>(&'a mut Notes<'t>);

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
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
        self.0.numbers.next();
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        self.0.numbers.next();
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        let (at, written) = self.0.numbers.next();
        let is_integer = !written.contains(['.', 'e', 'E']);
        if is_integer && written.parse::<i64>().is_err() && written.parse::<u64>().is_err() {
            self.0.oversized = Some(at);
            return Err(E::custom("an integer of more than 64 bits"));
        }
        let exact = written.parse().unwrap_or(value);
        Number::from_f64(exact).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
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
