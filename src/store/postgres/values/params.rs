//! JSON → a parameter.

use std::error::Error;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, BytesMut};
use serde_json::{Number, Value};
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type};

use super::base;

/// A value as it is sent: already checked against its parameter's type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::store::postgres) enum Param {
    /// SQL's NULL.
    Null,
    /// For the type's input function.
    Text(String),
    /// Bytes as they are.
    Bytes(Vec<u8>),
}

impl ToSql for Param {
    fn to_sql(&self, _ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Text(text) => out.put_slice(text.as_bytes()),
            Self::Bytes(bytes) => out.put_slice(bytes),
        }
        Ok(IsNull::No)
    }

    fn accepts(_ty: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.to_sql(ty, out)
    }

    fn encode_format(&self, _ty: &Type) -> Format {
        match self {
            Self::Bytes(_) => Format::Binary,
            Self::Null | Self::Text(_) => Format::Text,
        }
    }
}

/// A value that its parameter cannot take: where below the parameter (`/1/0` in an array), and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::store::postgres) struct Unfit {
    pub(in crate::store::postgres) below: String,
    pub(in crate::store::postgres) why: String,
}

impl Unfit {
    fn new(why: impl Into<String>) -> Self {
        Self { below: String::new(), why: why.into() }
    }

    fn inside(mut self, index: usize) -> Self {
        self.below = format!("/{index}{}", self.below);
        self
    }
}

/// `value` for a parameter of type `ty`. JSON's null is SQL's NULL, for `json` too.
pub(in crate::store::postgres) fn encode(ty: &Type, value: &Value) -> Result<Param, Unfit> {
    let ty = base(ty);
    if value.is_null() {
        return Ok(Param::Null);
    }
    if let Some(element) = element_of(ty) {
        let Value::Array(items) = value else {
            return Err(Unfit::new(format!("{} takes an array", ty.name())));
        };
        let mut out = String::new();
        array(element, items, &mut out, 0)?;
        return Ok(Param::Text(out));
    }
    if *ty == Type::BYTEA {
        return Ok(Param::Bytes(bytes(value)?));
    }
    scalar(ty, value).map(Param::Text)
}

/// The element type of what is written as a JSON array. The two vectors of the catalogue are arrays by kind but have a
/// text form of their own.
fn element_of(ty: &Type) -> Option<&Type> {
    match ty.kind() {
        Kind::Array(element) if *ty != Type::INT2_VECTOR && *ty != Type::OID_VECTOR => Some(base(element)),
        _ => None,
    }
}

/// The text of one value that is neither null nor an array.
fn scalar(ty: &Type, value: &Value) -> Result<String, Unfit> {
    match *ty {
        Type::BOOL => match value {
            Value::Bool(yes) => Ok(if *yes { "t" } else { "f" }.to_owned()),
            _ => Err(Unfit::new("bool takes true or false")),
        },
        Type::INT2 => integer(ty, value, i16::MIN.into(), i16::MAX.into()),
        Type::INT4 => integer(ty, value, i32::MIN.into(), i32::MAX.into()),
        Type::INT8 => integer(ty, value, i64::MIN, i64::MAX),
        Type::OID => integer(ty, value, 0, u32::MAX.into()),
        Type::FLOAT4 | Type::FLOAT8 => match value {
            Value::Number(number) => Ok(number.to_string()),
            Value::String(text) if matches!(text.as_str(), "NaN" | "Infinity" | "-Infinity") => Ok(text.clone()),
            _ => Err(Unfit::new(format!("{} takes a number, \"NaN\", \"Infinity\" or \"-Infinity\"", ty.name()))),
        },
        Type::NUMERIC => match value {
            Value::Number(number) => Ok(number.to_string()),
            Value::String(text) => clean(text),
            _ => Err(Unfit::new("numeric takes a number, or one as text")),
        },
        Type::JSON | Type::JSONB => Ok(value.to_string()),
        _ => match value {
            Value::String(text) => clean(text),
            _ => Err(Unfit::new(format!("{} takes text, not {}", ty.name(), kind_of(value)))),
        },
    }
}

/// Whole numbers, and for `bigint` also their text: JSON readers that know only doubles lose digits above 2^53.
fn integer(ty: &Type, value: &Value, least: i64, most: i64) -> Result<String, Unfit> {
    let found = match value {
        Value::Number(number) => whole(number),
        Value::String(text) if *ty == Type::INT8 => text.parse().ok(),
        _ => None,
    };
    match found {
        Some(n) if (least..=most).contains(&n) => Ok(n.to_string()),
        _ => {
            let or_text = if *ty == Type::INT8 { ", or one as text" } else { "" };
            Err(Unfit::new(format!("{} takes a whole number from {least} to {most}{or_text}", ty.name())))
        }
    }
}

fn whole(number: &Number) -> Option<i64> {
    number.as_i64()
}

/// PostgreSQL's texts hold every character but U+0000.
fn clean(text: &str) -> Result<String, Unfit> {
    if text.contains('\0') {
        return Err(Unfit::new("PostgreSQL cannot store the character U+0000"));
    }
    Ok(text.to_owned())
}

fn bytes(value: &Value) -> Result<Vec<u8>, Unfit> {
    let text = value.as_str().ok_or_else(|| Unfit::new("bytea takes padded standard base64"))?;
    STANDARD.decode(text).map_err(|error| Unfit::new(format!("bytea takes padded standard base64: {error}")))
}

/// PostgreSQL's array literal: `{"a",NULL,{…}}`. Whether it is rectangular the server says.
fn array(element: &Type, items: &[Value], out: &mut String, depth: usize) -> Result<(), Unfit> {
    /// PostgreSQL's own bound (MAXDIM).
    const DEEPEST: usize = 6;
    if depth == DEEPEST {
        return Err(Unfit::new(format!("an array has at most {DEEPEST} dimensions")));
    }
    // An array inside an array of JSON is an element; everywhere else it is a dimension.
    let takes_arrays = matches!(*element, Type::JSON | Type::JSONB);
    let delimiter = if *element == Type::BOX { ';' } else { ',' };
    out.push('{');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(delimiter);
        }
        let inside = |unfit: Unfit| unfit.inside(index);
        match item {
            Value::Null => out.push_str("NULL"),
            Value::Array(inner) if !takes_arrays => array(element, inner, out, depth + 1).map_err(inside)?,
            _ if *element == Type::BYTEA => {
                out.push_str("\"\\\\x");
                for byte in bytes(item).map_err(inside)? {
                    let _ = write!(out, "{byte:02x}");
                }
                out.push('"');
            }
            _ => quote(&scalar(element, item).map_err(inside)?, out),
        }
    }
    out.push('}');
    Ok(())
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
