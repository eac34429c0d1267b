//! The `record` member of an operation.

use serde_json::{Map, Value};

use super::members::{Members, shown, wrong};
use crate::model::problem::Problem;
use crate::model::record::{Act, IfVersion, Record};
use crate::model::reference::Template;
use crate::model::request::Action;

/// Bytes of the name of a place or of a field. Stores have tighter bounds of their own.
const LONGEST_NAME: usize = 255;
/// Members of a key: PostgreSQL's unique indexes have no more columns.
const MOST_KEYS: usize = 32;
/// Members of `set`.
const MOST_FIELDS: usize = 1000;
/// The version field where none is named.
const VERSION: &str = "version";

/// Reads `record`, which is there.
pub(super) fn record(members: &mut Members, kind: &str) -> Result<Action, Problem> {
    let pointer = members.pointer("record");
    let mut members = Members::of(members.take("record").unwrap_or_default(), &pointer)?;
    members.require("do")?;
    let act = members.word("do", &Act::ALL)?.unwrap_or(Act::Get);
    let place = members.required_text("in")?;
    named(&members, "in", &place)?;
    let version = members.text("version")?.unwrap_or_else(|| VERSION.to_owned());
    named(&members, "version", &version)?;
    let condition = condition(&mut members)?;
    let key = key(&mut members, kind)?;
    let mut body = Map::new();
    for name in ["set", "vector"] {
        if members.has(name) && act != Act::Put {
            return Err(Problem::invalid(members.pointer(name), format!("only a `put` has `{name}`")));
        }
    }
    if members.has("vector") && kind != "qdrant" {
        return Err(Problem::invalid(members.pointer("vector"), "only Qdrant's records have a `vector`"));
    }
    if act == Act::Put {
        body.insert("set".to_owned(), Value::Object(set(&mut members, &key, &version)?));
    }
    body.insert("key".to_owned(), Value::Object(key));
    body.extend(members.take("vector").map(|vector| ("vector".to_owned(), vector)));
    members.finish()?;
    let body = Template::parse(Value::Object(body), &pointer)?;
    Ok(Action::Record(Record { act, place, body, version, condition }))
}

fn named(members: &Members, member: &str, name: &str) -> Result<(), Problem> {
    if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
        let detail = format!("a name has 1 to {LONGEST_NAME} bytes and no control characters");
        return Err(Problem::invalid(members.pointer(member), detail));
    }
    Ok(())
}

fn condition(members: &mut Members) -> Result<IfVersion, Problem> {
    const WANTED: &str = "a version (a whole number, 0 or more), \"absent\" or \"any\"";
    let Some(value) = members.take("if_version") else { return Ok(IfVersion::Any) };
    match (&value, value.as_i64()) {
        (_, Some(version)) if version >= 0 => Ok(IfVersion::Is(version)),
        (Value::String(word), _) if word == "absent" => Ok(IfVersion::Absent),
        (Value::String(word), _) if word == "any" => Ok(IfVersion::Any),
        _ => Err(wrong(members.pointer("if_version"), WANTED, &value)),
    }
}

/// An object whose members are known by name here: no reference may stand for the whole of it.
fn fields(members: &mut Members, name: &str, most: usize) -> Result<Option<Members>, Problem> {
    let Some(object) = members.object(name)? else { return Ok(None) };
    if let Some(special) = ["$ref", "$literal"].iter().find(|special| object.has(special)) {
        let detail = format!("`{special}` may stand for the values in here, not for the whole");
        return Err(Problem::invalid(object.pointer(special), detail));
    }
    let names = object.names();
    if names.len() > most {
        return Err(Problem::invalid(object.at(), format!("{} members are too many: at most {most}", names.len())));
    }
    names.iter().try_for_each(|name| named(&object, name, name))?;
    Ok(Some(object))
}

fn key(members: &mut Members, kind: &str) -> Result<Map<String, Value>, Problem> {
    members.require("key")?;
    let at = members.pointer("key");
    let Some(key) = fields(members, "key", MOST_KEYS)? else { return Ok(Map::new()) };
    let names = key.names();
    if kind == "qdrant" && names != ["id"] {
        return Err(Problem::invalid(at, "the key of a point is its id: {\"id\": …}"));
    }
    if names.is_empty() {
        return Err(Problem::invalid(at, "a key has at least one member"));
    }
    let key = key.rest();
    for (name, value) in &key {
        let stands_for_another = |map: &Map<String, Value>| map.contains_key("$ref") || map.contains_key("$literal");
        let fits = match value {
            Value::Null | Value::Array(_) => false,
            Value::Object(map) => stands_for_another(map),
            _ => true,
        };
        if !fits {
            let pointer = format!("{at}/{}", crate::model::reference::escape(name));
            return Err(wrong(pointer, "a number, text, true or false", value));
        }
    }
    Ok(key)
}

fn set(members: &mut Members, key: &Map<String, Value>, version: &str) -> Result<Map<String, Value>, Problem> {
    let Some(set) = fields(members, "set", MOST_FIELDS)? else { return Ok(Map::new()) };
    for name in set.names() {
        let why = if name == version {
            "counts the versions: a `put` sets it by itself"
        } else if key.contains_key(name) {
            "is part of the key, which a `put` does not change"
        } else {
            continue;
        };
        return Err(Problem::invalid(set.pointer(name), format!("`{}` {why}", shown(name))));
    }
    Ok(set.rest())
}
