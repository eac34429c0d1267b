//! Taking an object apart member by member: what is there must be right, and what is left is unknown.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::model::problem::Problem;
use crate::model::reference::escape;

/// The members of one object of a request.
pub(super) struct Members {
    /// JSON pointer to the object.
    at: String,
    left: Map<String, Value>,
}

impl Members {
    /// # Errors
    /// `invalid_request` where `value` is no object.
    pub(super) fn of(value: Value, at: impl Into<String>) -> Result<Self, Problem> {
        let at = at.into();
        match value {
            Value::Object(left) => Ok(Self { at, left }),
            other => Err(wrong(at, "an object", &other)),
        }
    }

    /// JSON pointer to the object.
    pub(super) fn at(&self) -> &str {
        &self.at
    }

    /// JSON pointer to one of its members.
    pub(super) fn pointer(&self, name: &str) -> String {
        format!("{}/{}", self.at, escape(name))
    }

    /// Whether a member is there (still).
    pub(super) fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// The names of the members that are (still) there.
    pub(super) fn names(&self) -> Vec<&str> {
        self.left.keys().map(String::as_str).collect()
    }

    /// A member as it is.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.left.shift_remove(name)
    }

    /// A member that must be there: its absence is its parent's fault.
    pub(super) fn require(&self, name: &str) -> Result<(), Problem> {
        if self.has(name) { Ok(()) } else { Err(Problem::invalid(&self.at, format!("`{name}` is missing here"))) }
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(self.pointer(name), "text", &other)),
        }
    }

    pub(super) fn required_text(&mut self, name: &str) -> Result<String, Problem> {
        self.require(name)?;
        Ok(self.text(name)?.unwrap_or_default())
    }

    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong(self.pointer(name), "true or false", &other)),
        }
    }

    /// A whole number within bounds.
    pub(super) fn number(&mut self, name: &str, bounds: RangeInclusive<i64>) -> Result<Option<i64>, Problem> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_i64() {
            Some(number) if bounds.contains(&number) => Ok(Some(number)),
            _ => {
                let (least, most) = (bounds.start(), bounds.end());
                Err(wrong(self.pointer(name), &format!("a whole number from {least} to {most}"), &value))
            }
        }
    }

    /// Milliseconds within bounds.
    pub(super) fn millis(&mut self, name: &str, bounds: RangeInclusive<u32>) -> Result<Option<Duration>, Problem> {
        let number = self.number(name, i64::from(*bounds.start())..=i64::from(*bounds.end()))?;
        Ok(number.map(|ms| Duration::from_millis(ms.unsigned_abs())))
    }

    /// One word of a list.
    pub(super) fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*meaning));
        }
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        Err(Problem::invalid(self.pointer(name), format!("`{}` is none of {}", shown(&text), known.join(", "))))
    }

    /// An array of at most `most` items.
    pub(super) fn list(&mut self, name: &str, most: usize) -> Result<Option<Vec<Value>>, Problem> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) if items.len() <= most => Ok(Some(items)),
            Some(Value::Array(items)) => {
                let detail = format!("{} items are too many: at most {most}", items.len());
                Err(Problem::invalid(self.pointer(name), detail))
            }
            Some(other) => Err(wrong(self.pointer(name), "an array", &other)),
        }
    }

    pub(super) fn object(&mut self, name: &str) -> Result<Option<Members>, Problem> {
        let pointer = self.pointer(name);
        self.take(name).map(|value| Members::of(value, pointer)).transpose()
    }

    /// What is left, whatever it is called.
    pub(super) fn rest(self) -> Map<String, Value> {
        self.left
    }

    /// # Errors
    /// `invalid_request` at the first member that nobody asked for.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => {
                let detail = format!("`{}` is not a member that can stand here", shown(name));
                Err(Problem::invalid(self.pointer(name), detail))
            }
        }
    }
}

/// `invalid_request`: `found` stands where `wanted` should.
pub(super) fn wrong(pointer: impl Into<String>, wanted: &str, found: &Value) -> Problem {
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("the text `{}`", shown(text)),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(map) if map.contains_key("$ref") => {
            return Problem::invalid(pointer, format!("a `$ref` cannot stand here: this must be {wanted}"));
        }
        Value::Object(_) => "an object".to_owned(),
    };
    Problem::invalid(pointer, format!("this must be {wanted}, not {found}"))
}

/// A client's text as far as it is fit for a sentence.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        text.to_owned()
    } else {
        format!("{}…", text.chars().take(MOST).collect::<String>())
    }
}
