//! Reading JSON bodies strictly: every fault knows its JSON pointer, and a member that nobody reads is a fault.

use serde_json::{Map, Value};

use crate::model::reference::escape;

/// What is wrong with a body, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bad {
    /// JSON pointer from the body's root.
    pub(super) pointer: String,
    /// One sentence.
    pub(super) detail: String,
    /// Not wrong, but not in this version.
    pub(super) unsupported: bool,
}

impl Bad {
    pub(super) fn new(detail: impl Into<String>) -> Self {
        Self { pointer: String::new(), detail: detail.into(), unsupported: false }
    }

    pub(super) fn unsupported(detail: impl Into<String>) -> Self {
        Self { unsupported: true, ..Self::new(detail) }
    }
}

/// Says where a fault happened, from the inside out.
pub(super) trait Inside {
    fn inside(self, token: &str) -> Self;
    fn at(self, index: usize) -> Self;
}

impl<T> Inside for Result<T, Bad> {
    fn inside(self, token: &str) -> Self {
        self.map_err(|bad| Bad { pointer: format!("/{}{}", escape(token), bad.pointer), ..bad })
    }

    fn at(self, index: usize) -> Self {
        self.map_err(|bad| Bad { pointer: format!("/{index}{}", bad.pointer), ..bad })
    }
}

/// The members of an object, each to be taken once. `null` counts as absent, as it does for Qdrant.
pub(super) struct Members<'a> {
    map: &'a Map<String, Value>,
    taken: Vec<&'static str>,
}

impl<'a> Members<'a> {
    pub(super) fn of(value: &'a Value) -> Result<Self, Bad> {
        let map = value.as_object().ok_or_else(|| Bad::new("must be an object"))?;
        Ok(Self { map, taken: Vec::new() })
    }

    pub(super) fn take(&mut self, name: &'static str) -> Option<&'a Value> {
        self.taken.push(name);
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Takes a member and reads it.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, Bad>,
    ) -> Result<Option<T>, Bad> {
        self.take(name).map(|value| read(value).inside(name)).transpose()
    }

    /// The same for a member that must be there.
    pub(super) fn need<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, Bad>,
    ) -> Result<T, Bad> {
        self.read(name, read)?.ok_or_else(|| Bad::new(format!("lacks `{name}`")))
    }

    /// Refuses whatever nobody took.
    pub(super) fn done(self) -> Result<(), Bad> {
        match self.map.keys().find(|key| !self.taken.contains(&key.as_str())) {
            None => Ok(()),
            Some(unknown) => Err(Bad::new("is not known here")).inside(unknown),
        }
    }
}

/// Every item of an array.
pub(super) fn list<'a, T>(value: &'a Value, read: impl Fn(&'a Value) -> Result<T, Bad>) -> Result<Vec<T>, Bad> {
    let items = value.as_array().ok_or_else(|| Bad::new("must be an array"))?;
    items.iter().enumerate().map(|(index, item)| read(item).at(index)).collect()
}

/// Every item of an array, or the one thing that stands there without it.
pub(super) fn one_or_many<'a, T>(value: &'a Value, read: impl Fn(&'a Value) -> Result<T, Bad>) -> Result<Vec<T>, Bad> {
    if value.is_array() { list(value, read) } else { Ok(vec![read(value)?]) }
}

pub(super) fn text(value: &Value) -> Result<String, Bad> {
    value.as_str().map(str::to_owned).ok_or_else(|| Bad::new("must be text"))
}

pub(super) fn flag(value: &Value) -> Result<bool, Bad> {
    value.as_bool().ok_or_else(|| Bad::new("must be true or false"))
}

pub(super) fn count(value: &Value) -> Result<u64, Bad> {
    value.as_u64().ok_or_else(|| Bad::new("must be a whole number, 0 or more"))
}

pub(super) fn small_count(value: &Value) -> Result<u32, Bad> {
    let number = count(value)?;
    u32::try_from(number).map_err(|_| Bad::new("is too large"))
}

pub(super) fn number(value: &Value) -> Result<f64, Bad> {
    value.as_f64().ok_or_else(|| Bad::new("must be a number"))
}

/// A number as vectors hold it. What does not fit into 32 bits of floating point is refused, not made infinite.
#[expect(clippy::cast_possible_truncation, reason = "vectors are f32: rounding is what is asked for")]
pub(super) fn float(value: &Value) -> Result<f32, Bad> {
    let narrow = number(value)? as f32;
    if narrow.is_finite() { Ok(narrow) } else { Err(Bad::new("does not fit into a 32 bit float")) }
}

/// The shortest JSON number that reads back as the same `f32`: 0.1 and not 0.10000000149011612.
pub(super) fn of_float(number: f32) -> Value {
    match number.to_string().parse::<f64>() {
        Ok(short) if short.is_finite() => Value::from(short),
        _ => Value::from(number.to_string()),
    }
}
