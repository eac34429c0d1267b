//! A result's column → JSON.

use std::collections::HashSet;
use std::error::Error;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Number, Value};
use tokio_postgres::types::{FromSql, Kind, Type};

use super::{base, numeric, time};

/// One column of one row as JSON.
pub(in crate::store::postgres) struct Cell(pub(in crate::store::postgres) Value);

impl<'a> FromSql<'a> for Cell {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        decode(base(ty), raw).map(Self).map_err(Into::into)
    }

    fn from_sql_null(_ty: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(Value::Null))
    }

    fn accepts(_ty: &Type) -> bool {
        true
    }
}

/// The server sent what its own protocol does not allow, or a JSON number beyond a double.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the value cannot be represented; cast the column to text")]
pub(in crate::store::postgres) struct Malformed;

/// How a type is read.
enum Reader {
    Bool,
    Int2,
    Int4,
    Int8,
    Unsigned,
    Float4,
    Float8,
    Numeric,
    Text,
    /// Text behind a version byte: jsonb is not among them.
    VersionedText,
    Uuid,
    Json,
    Jsonb,
    Timestamp,
    TimestampZoned,
    Date,
    Time,
    TimeZoned,
    Interval,
    Bytes,
    Net,
    Mac,
    Bits,
    Vector,
    Void,
}

fn reader(ty: &Type) -> Option<Reader> {
    Some(match *ty {
        Type::BOOL => Reader::Bool,
        Type::INT2 => Reader::Int2,
        Type::INT4 => Reader::Int4,
        Type::INT8 => Reader::Int8,
        Type::OID | Type::XID | Type::CID => Reader::Unsigned,
        Type::FLOAT4 => Reader::Float4,
        Type::FLOAT8 => Reader::Float8,
        Type::NUMERIC => Reader::Numeric,
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::CHAR | Type::UNKNOWN | Type::XML => Reader::Text,
        Type::UUID => Reader::Uuid,
        Type::JSON => Reader::Json,
        Type::JSONB => Reader::Jsonb,
        Type::JSONPATH => Reader::VersionedText,
        Type::TIMESTAMP => Reader::Timestamp,
        Type::TIMESTAMPTZ => Reader::TimestampZoned,
        Type::DATE => Reader::Date,
        Type::TIME => Reader::Time,
        Type::TIMETZ => Reader::TimeZoned,
        Type::INTERVAL => Reader::Interval,
        Type::BYTEA => Reader::Bytes,
        Type::INET | Type::CIDR => Reader::Net,
        Type::MACADDR | Type::MACADDR8 => Reader::Mac,
        Type::BIT | Type::VARBIT => Reader::Bits,
        Type::VOID => Reader::Void,
        _ => match (ty.kind(), ty.name()) {
            (Kind::Enum(_), _) | (Kind::Simple, "citext") => Reader::Text,
            (Kind::Simple, "ltree" | "lquery" | "ltxtquery") => Reader::VersionedText,
            (Kind::Simple, "vector") => Reader::Vector,
            _ => return None,
        },
    })
}

/// Whether a column of this type can be shown. Where not, casting it to text in the statement helps.
pub(in crate::store::postgres) fn is_readable(ty: &Type) -> bool {
    let ty = base(ty);
    match ty.kind() {
        Kind::Array(element) | Kind::Range(element) => is_readable(element),
        _ => reader(ty).is_some(),
    }
}

/// Names for a row's members: equal column names get `_2`, `_3`, passing over names that are there already.
pub(in crate::store::postgres) fn column_names<'a>(columns: impl Iterator<Item = &'a str>) -> Vec<String> {
    let given: Vec<&str> = columns.collect();
    let mut taken: HashSet<String> = HashSet::new();
    given
        .iter()
        .map(|name| {
            let mut fresh = (*name).to_owned();
            let mut n = 2;
            while taken.contains(&fresh) || (n > 2 && given.contains(&fresh.as_str())) {
                fresh = format!("{name}_{n}");
                n += 1;
            }
            taken.insert(fresh.clone());
            fresh
        })
        .collect()
}

fn decode(ty: &Type, raw: &[u8]) -> Result<Value, Malformed> {
    match ty.kind() {
        Kind::Array(element) => return array(base(element), Bytes(raw)),
        Kind::Range(element) => return range(base(element), Bytes(raw)).map(Value::String),
        _ => {}
    }
    let mut bytes = Bytes(raw);
    Ok(match reader(ty).ok_or(Malformed)? {
        Reader::Bool => Value::Bool(bytes.u8()? != 0),
        Reader::Int2 => bytes.i16()?.into(),
        Reader::Int4 => bytes.i32()?.into(),
        Reader::Int8 => bytes.i64()?.into(),
        Reader::Unsigned => bytes.u32()?.into(),
        Reader::Float4 => float4(f32::from_bits(bytes.u32()?)),
        Reader::Float8 => float8(f64::from_bits(bytes.u64()?)),
        Reader::Numeric => Value::String(numeric::text(bytes)?),
        Reader::Text => utf8(raw)?.into(),
        Reader::VersionedText => {
            bytes.u8()?;
            utf8(bytes.0)?.into()
        }
        Reader::Uuid => uuid::Uuid::from_slice(raw).map_err(|_| Malformed)?.hyphenated().to_string().into(),
        Reader::Json => serde_json::from_slice(raw).map_err(|_| Malformed)?,
        Reader::Jsonb => match bytes.u8()? {
            1 => serde_json::from_slice(bytes.0).map_err(|_| Malformed)?,
            _ => return Err(Malformed),
        },
        Reader::Timestamp => time::timestamp(bytes, false)?.into(),
        Reader::TimestampZoned => time::timestamp(bytes, true)?.into(),
        Reader::Date => time::date(bytes)?.into(),
        Reader::Time => time::time(bytes)?.into(),
        Reader::TimeZoned => time::time_with_zone(bytes)?.into(),
        Reader::Interval => time::interval(bytes)?.into(),
        Reader::Bytes => STANDARD.encode(raw).into(),
        Reader::Net => net(bytes)?.into(),
        Reader::Mac => raw.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":").into(),
        Reader::Bits => bits(bytes)?.into(),
        Reader::Vector => vector(bytes)?.into(),
        Reader::Void => "".into(),
    })
}

/// JSON knows no NaN and no infinity: they are text.
fn float8(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => "NaN".into(),
        None if value > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

/// By way of its shortest text: 0.1 as a single is 0.1, not 0.10000000149011612.
fn float4(value: f32) -> Value {
    float8(if value.is_finite() { value.to_string().parse().unwrap_or(f64::from(value)) } else { f64::from(value) })
}

fn utf8(raw: &[u8]) -> Result<String, Malformed> {
    std::str::from_utf8(raw).map(str::to_owned).map_err(|_| Malformed)
}

fn net(mut raw: Bytes<'_>) -> Result<String, Malformed> {
    let (family, mask, is_cidr, length) = (raw.u8()?, raw.u8()?, raw.u8()?, raw.u8()?);
    let address = raw.take(length.into())?;
    let (text, widest) = match (family, address) {
        (2, address) => (<[u8; 4]>::try_from(address).map(|a| std::net::Ipv4Addr::from(a).to_string()), 32),
        (3, address) => (<[u8; 16]>::try_from(address).map(|a| std::net::Ipv6Addr::from(a).to_string()), 128),
        _ => return Err(Malformed),
    };
    let text = text.map_err(|_| Malformed)?;
    Ok(if is_cidr != 0 || mask != widest { format!("{text}/{mask}") } else { text })
}

fn bits(mut raw: Bytes<'_>) -> Result<String, Malformed> {
    let count = usize::try_from(raw.i32()?).map_err(|_| Malformed)?;
    if raw.0.len() < count.div_ceil(8) {
        return Err(Malformed);
    }
    Ok((0..count).map(|at| if raw.0[at / 8] & (0x80 >> (at % 8)) == 0 { '0' } else { '1' }).collect())
}

/// pgvector's `vector`, as it writes itself.
fn vector(mut raw: Bytes<'_>) -> Result<String, Malformed> {
    let (count, _unused) = (raw.u16()?, raw.u16()?);
    let parts =
        (0..count).map(|_| Ok(f32::from_bits(raw.u32()?).to_string())).collect::<Result<Vec<_>, Malformed>>()?;
    Ok(format!("[{}]", parts.join(",")))
}

/// Nested JSON arrays, one level a dimension. Lower bounds other than 1 are not shown.
fn array(element: &Type, mut raw: Bytes<'_>) -> Result<Value, Malformed> {
    let dimensions = raw.i32()?;
    let (_has_null, _element) = (raw.i32()?, raw.u32()?);
    if !(0..=6).contains(&dimensions) {
        return Err(Malformed);
    }
    let mut lengths = Vec::new();
    for _ in 0..dimensions {
        lengths.push(usize::try_from(raw.i32()?).map_err(|_| Malformed)?);
        let _lower_bound = raw.i32()?;
    }
    if lengths.is_empty() { Ok(Value::Array(Vec::new())) } else { dimension(element, &lengths, &mut raw) }
}

fn dimension(element: &Type, lengths: &[usize], raw: &mut Bytes<'_>) -> Result<Value, Malformed> {
    let (length, inner) = lengths.split_first().ok_or(Malformed)?;
    let mut items = Vec::new();
    for _ in 0..*length {
        items.push(if inner.is_empty() {
            raw.nullable()?.map_or(Ok(Value::Null), |bytes| decode(element, bytes))?
        } else {
            dimension(element, inner, raw)?
        });
    }
    Ok(Value::Array(items))
}

/// `[1,10)`, `(,"a b"]`, `empty`.
fn range(element: &Type, mut raw: Bytes<'_>) -> Result<String, Malformed> {
    const EMPTY: u8 = 1;
    const LOWER_INCLUSIVE: u8 = 2;
    const UPPER_INCLUSIVE: u8 = 4;
    const LOWER_INFINITE: u8 = 8;
    const UPPER_INFINITE: u8 = 16;
    let flags = raw.u8()?;
    let has = |flag: u8| flags & flag != 0;
    if has(EMPTY) {
        return Ok("empty".to_owned());
    }
    let mut bound = |infinite: bool| -> Result<String, Malformed> {
        if infinite {
            return Ok(String::new());
        }
        let text = match decode(element, raw.nullable()?.ok_or(Malformed)?)? {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let plain = !text.is_empty() && !text.contains([',', '"', '\\', '(', ')', '[', ']', ' ']);
        Ok(if plain { text } else { format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")) })
    };
    let (lower, upper) = (bound(has(LOWER_INFINITE))?, bound(has(UPPER_INFINITE))?);
    let (open, close) = (if has(LOWER_INCLUSIVE) { '[' } else { '(' }, if has(UPPER_INCLUSIVE) { ']' } else { ')' });
    Ok(format!("{open}{lower},{upper}{close}"))
}

/// Big-endian bytes that are taken from the front.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

macro_rules! integers {
    ($($name:ident $int:ty;)*) => {$(
        pub(super) fn $name(&mut self) -> Result<$int, Malformed> {
            let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
            self.0 = rest;
            Ok(<$int>::from_be_bytes(*taken))
        }
    )*};
}

impl<'a> Bytes<'a> {
    integers! { u8 u8; u16 u16; u32 u32; u64 u64; i16 i16; i32 i32; i64 i64; }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A length and so many bytes; -1 is null.
    fn nullable(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.i32()? {
            -1 => Ok(None),
            length => self.take(usize::try_from(length).map_err(|_| Malformed)?).map(Some),
        }
    }
}
