//! Payloads and vectors: JSON ⇄ Qdrant's types.

use std::collections::HashMap;

use ::qdrant_client::qdrant::value::Kind;
use ::qdrant_client::qdrant::vectors::VectorsOptions;
use ::qdrant_client::qdrant::{
    DenseVector, ListValue, MultiDenseVector, NamedVectors, SparseVector, Struct, Value as Wire, Vector, VectorOutput,
    Vectors, VectorsOutput, vector, vector_output, vectors_output,
};
use serde_json::{Map, Value, json};

use super::json::{Bad, Inside, Members, count, float, list, of_float};

/// How deep a payload may nest. Protobuf readers stop at 100 messages and a level of JSON costs three: a server would
/// answer a deeper one with an ambiguous error, and the write would be repeated for ever.
const DEEPEST: usize = 24;

/// One vector, whatever its kind.
pub(super) type AnyVector = vector::Vector;

/// The vectors of a point by name; the unnamed one is "".
pub(super) type Named = HashMap<String, AnyVector>;

/// Reads a payload: an object.
pub(super) fn payload(value: &Value) -> Result<HashMap<String, Wire>, Bad> {
    let map = value.as_object().ok_or_else(|| Bad::new("must be an object"))?;
    fields(map, DEEPEST)
}

fn fields(map: &Map<String, Value>, levels: usize) -> Result<HashMap<String, Wire>, Bad> {
    let one = |(key, value): (&String, &Value)| Ok((key.clone(), wire(value, levels).inside(key)?));
    map.iter().map(one).collect()
}

fn wire(value: &Value, levels: usize) -> Result<Wire, Bad> {
    let below = || levels.checked_sub(1).ok_or_else(|| Bad::new(format!("is nested deeper than {DEEPEST} levels")));
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Kind::IntegerValue(whole),
            None => Kind::DoubleValue(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => {
            let below = below()?;
            let values = items.iter().enumerate().map(|(index, item)| wire(item, below).at(index));
            Kind::ListValue(ListValue { values: values.collect::<Result<_, _>>()? })
        }
        Value::Object(map) => Kind::StructValue(Struct { fields: fields(map, below()?)? }),
    };
    Ok(Wire { kind: Some(kind) })
}

/// A payload as JSON, its keys sorted (the server sends them in no order).
pub(super) fn show_payload(payload: HashMap<String, Wire>) -> Map<String, Value> {
    let mut sorted: Vec<_> = payload.into_iter().collect();
    sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    sorted.into_iter().map(|(key, value)| (key, show(value))).collect()
}

fn show(value: Wire) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(flag),
        Some(Kind::IntegerValue(number)) => Value::from(number),
        Some(Kind::DoubleValue(number)) => {
            serde_json::Number::from_f64(number).map_or_else(|| Value::from(number.to_string()), Value::Number)
        }
        Some(Kind::StringValue(text)) => Value::String(text),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(show).collect(),
        Some(Kind::StructValue(map)) => Value::Object(show_payload(map.fields)),
    }
}

/// Reads the `vector` of a point: one (dense, or an array of dense ones), or an object of named ones.
pub(super) fn vectors(value: &Value) -> Result<Vectors, Bad> {
    let options = match value {
        Value::Object(map) => {
            let one = |(name, value): (&String, &Value)| Ok((name.clone(), on_wire(any_vector(value).inside(name)?)));
            VectorsOptions::Vectors(NamedVectors { vectors: map.iter().map(one).collect::<Result<_, Bad>>()? })
        }
        single => VectorsOptions::Vector(on_wire(any_vector(single)?)),
    };
    Ok(Vectors { vectors_options: Some(options) })
}

pub(super) fn on_wire(vector: AnyVector) -> Vector {
    Vector { vector: Some(vector), ..Vector::default() }
}

/// Reads one vector of any kind.
pub(super) fn any_vector(value: &Value) -> Result<AnyVector, Bad> {
    match value {
        Value::Array(items) if items.first().is_some_and(Value::is_array) => {
            let rows = list(value, |row| Ok(DenseVector { data: list(row, float)? }))?;
            Ok(AnyVector::MultiDense(MultiDenseVector { vectors: rows }))
        }
        Value::Array(_) => Ok(AnyVector::Dense(DenseVector { data: list(value, float)? })),
        Value::Object(map) if map.contains_key("indices") || map.contains_key("values") => sparse(value),
        Value::Object(map) if ["text", "image", "object"].iter().any(|kind| map.contains_key(*kind)) => {
            Err(Bad::unsupported("vectors made by the server's inference are not in this version: give the numbers"))
        }
        _ => Err(Bad::new("must be a vector: numbers, arrays of numbers, or `{\"indices\": […], \"values\": […]}`")),
    }
}

fn sparse(value: &Value) -> Result<AnyVector, Bad> {
    let mut members = Members::of(value)?;
    let index = |value: &Value| u32::try_from(count(value)?).map_err(|_| Bad::new("does not fit into 32 bits"));
    let indices = members.need("indices", |value| list(value, index))?;
    let values = members.need("values", |value| list(value, float))?;
    members.done()?;
    if indices.len() != values.len() {
        return Err(Bad::new(format!("has {} indices and {} values", indices.len(), values.len())));
    }
    let mut sorted = indices.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Bad::new("names an index twice"));
    }
    Ok(AnyVector::Sparse(SparseVector { values, indices }))
}

/// The vectors of a point that is to be written, by name.
pub(super) fn by_name(vectors: &Vectors) -> impl Iterator<Item = (&str, &AnyVector)> {
    let (one, many) = match &vectors.vectors_options {
        Some(VectorsOptions::Vector(one)) => (one.vector.as_ref(), None),
        Some(VectorsOptions::Vectors(named)) => (None, Some(&named.vectors)),
        None => (None, None),
    };
    let many = many.into_iter().flatten();
    let many = many.filter_map(|(name, vector)| Some((name.as_str(), vector.vector.as_ref()?)));
    one.map(|vector| ("", vector)).into_iter().chain(many)
}

/// The vectors of a point that the server sent, by name.
pub(super) fn sent(vectors: Option<VectorsOutput>) -> Named {
    let any = |vector: VectorOutput| match vector.into_vector() {
        vector_output::Vector::Dense(dense) => AnyVector::Dense(dense),
        vector_output::Vector::Sparse(sparse) => AnyVector::Sparse(sparse),
        vector_output::Vector::MultiDense(multi) => AnyVector::MultiDense(multi),
    };
    match vectors.and_then(|vectors| vectors.vectors_options) {
        Some(vectors_output::VectorsOptions::Vector(one)) => HashMap::from([(String::new(), any(one))]),
        Some(vectors_output::VectorsOptions::Vectors(named)) => {
            named.vectors.into_iter().map(|(name, vector)| (name, any(vector))).collect()
        }
        None => HashMap::new(),
    }
}

/// Vectors as Qdrant's REST API shows them: the unnamed one alone, else an object. `None`: there are none.
pub(super) fn show_vectors(vectors: &Named) -> Option<Value> {
    if let (Some(single), 1) = (vectors.get(""), vectors.len()) {
        return Some(show_vector(single));
    }
    let mut names: Vec<_> = vectors.keys().collect();
    names.sort_unstable();
    let shown: Map<_, _> = names.into_iter().map(|name| (name.clone(), show_vector(&vectors[name]))).collect();
    (!shown.is_empty()).then_some(Value::Object(shown))
}

fn show_vector(vector: &AnyVector) -> Value {
    let dense = |data: &[f32]| -> Value { data.iter().copied().map(of_float).collect() };
    match vector {
        AnyVector::Dense(one) => dense(&one.data),
        AnyVector::MultiDense(multi) => multi.vectors.iter().map(|row| dense(&row.data)).collect(),
        AnyVector::Sparse(sparse) => json!({"indices": sparse.indices, "values": dense(&sparse.values)}),
        AnyVector::Document(_) | AnyVector::Image(_) | AnyVector::Object(_) => Value::Null,
    }
}
