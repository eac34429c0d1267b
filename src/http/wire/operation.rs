//! One operation of a request.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::members::{Members, shown, wrong};
use crate::model::ids::StoreName;
use crate::model::problem::{Code, Problem};
use crate::model::reference::Template;
use crate::model::request::{Action, Expect, Operation, PointCondition, Verb};
use crate::model::statement::{first_two_words, first_word, from_first_word};

/// Statements that would end or split the transaction under our feet.
const CONTROL: [&str; 9] = ["BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "PREPARE"];
/// What only reads, judged by its first word (protocol.md, section 3).
const READS: [&str; 3] = ["SELECT", "VALUES", "SHOW"];
/// Members of sagas.
const OF_SAGAS: [&str; 4] = ["compensate", "pivot", "timeout_ms", "retry"];

/// Reads `/operations/INDEX`. One without an id has an empty one: its place gives it, once that is known.
pub(super) fn operation(
    value: Value,
    index: usize,
    store_kind: &dyn Fn(&str) -> Option<&'static str>,
) -> Result<Operation, Problem> {
    operation_at("/operations", value, index, store_kind)
}

/// Reads `LIST/INDEX`.
pub(super) fn operation_at(
    list: &str,
    value: Value,
    index: usize,
    store_kind: &dyn Fn(&str) -> Option<&'static str>,
) -> Result<Operation, Problem> {
    let mut members = Members::of(value, format!("{list}/{index}"))?;
    let id = match members.text("id")? {
        None => String::new(),
        Some(id) if super::is_name(&id) => id,
        Some(id) => {
            let detail = format!("`{}` is no id: 1 to 128 of [A-Za-z0-9._:@-]", shown(&id));
            return Err(Problem::invalid(members.pointer("id"), detail));
        }
    };
    let named = if id.is_empty() { index.to_string() } else { id.clone() };
    rest(members, id, store_kind).map_err(|problem| problem.in_operation(&named))
}

fn rest(
    mut members: Members,
    id: String,
    store_kind: &dyn Fn(&str) -> Option<&'static str>,
) -> Result<Operation, Problem> {
    let name = members.required_text("store")?;
    let kind = store_kind(&name)
        .ok_or_else(|| Problem::invalid(members.pointer("store"), format!("there is no store `{}`", shown(&name))))?;
    let store = StoreName::from(name.as_str());
    if let Some(name) = OF_SAGAS.iter().find(|name| members.has(name)) {
        let detail = format!("`{name}` belongs to sagas, which this version does not have");
        return Err(Problem::new(Code::Unsupported, detail).at(members.pointer(name)));
    }
    let (action, member) = action(&mut members, &store, kind)?;
    let reads = reads(&mut members, &action)?;
    let expect = match members.object("expect")? {
        None => Expect::default(),
        Some(expect) => self::expect(expect, &action, reads)?,
    };
    let pointer = members.at().to_owned();
    members.finish()?;
    refuse_control(&action, &format!("{pointer}/{member}"))?;
    Ok(Operation { id, store, reads, action, expect, pointer })
}

/// The one member that says what to do, which must be one for this kind of store.
fn action(members: &mut Members, store: &StoreName, kind: &str) -> Result<(Action, &'static str), Problem> {
    let later = ["http"];
    let all = ["sql", "cypher", "record"].into_iter().chain(Verb::ALL.map(|(_, name)| name)).chain(later);
    let mut found = all.filter(|name| members.has(name));
    let Some(name) = found.next() else {
        let detail = format!(
            "an operation needs `sql`, `cypher`, `record` or a Qdrant verb; for the {kind} store {store}: {}",
            wanted(kind)
        );
        return Err(Problem::invalid(members.at(), detail));
    };
    if let Some(second) = found.next() {
        let detail = format!("an operation is exactly one thing: `{name}` stands here too");
        return Err(Problem::invalid(members.pointer(second), detail));
    }
    if later.contains(&name) {
        let detail = format!("`{name}` operations are not in this version");
        return Err(Problem::new(Code::Unsupported, detail).at(members.pointer(name)));
    }
    let right_kind = match name {
        "sql" => "postgres",
        "cypher" => "neo4j",
        "record" => kind,
        _ => "qdrant",
    };
    if kind != right_kind {
        let detail = format!("{store} is a {kind} store, which does not take `{name}`: {}", wanted(kind));
        return Err(Problem::invalid(members.pointer(name), detail).in_store(store));
    }
    let action = match name {
        "sql" => {
            let text = statement(members, name)?;
            let params = match members.take("params") {
                None => Value::Array(Vec::new()),
                Some(list @ Value::Array(_)) => list,
                Some(other) => return Err(wrong(members.pointer("params"), "an array", &other)),
            };
            Action::Sql { text, params: Template::parse(params, &members.pointer("params"))? }
        }
        "record" => super::record::record(members, kind)?,
        "cypher" => Action::Cypher { text: statement(members, name)?, params: template(members, "params")? },
        verb => {
            let collection = members.required_text("collection")?;
            if collection.is_empty() || collection.len() > 255 {
                return Err(Problem::invalid(members.pointer("collection"), "a collection's name has 1 to 255 bytes"));
            }
            let verb = Verb::ALL.iter().find(|(_, name)| *name == verb).map(|(verb, _)| *verb);
            let verb = verb.expect("the name is one of Verb::ALL's");
            Action::Points { collection, verb, body: template(members, name)? }
        }
    };
    Ok((action, name))
}

fn wanted(kind: &str) -> &'static str {
    match kind {
        "postgres" => "it takes `sql` and `record`",
        "neo4j" => "it takes `cypher` and `record`",
        _ => {
            "it takes `record`, `upsert`, `delete`, `set_payload`, … or the reads `retrieve`, `scroll`, `query`, `count`"
        }
    }
}

fn statement(members: &mut Members, name: &str) -> Result<String, Problem> {
    let text = members.required_text(name)?;
    if text.trim().is_empty() {
        return Err(Problem::invalid(members.pointer(name), "the statement is empty"));
    }
    Ok(text)
}

/// An object whose values may be references; it cannot be one itself, for a store needs to know its members' names.
fn template(members: &mut Members, name: &str) -> Result<Template, Problem> {
    let pointer = members.pointer(name);
    match members.take(name) {
        None => Ok(Template::plain(Value::Object(Map::new()))),
        Some(Value::Object(map)) => {
            for special in ["$ref", "$literal"] {
                if map.contains_key(special) {
                    let detail = format!("`{special}` may stand for the values in here, not for the whole");
                    return Err(Problem::invalid(format!("{pointer}/{special}"), detail));
                }
            }
            Template::parse(Value::Object(map), &pointer)
        }
        Some(other) => Err(wrong(pointer, "an object", &other)),
    }
}

fn reads(members: &mut Members, action: &Action) -> Result<bool, Problem> {
    let (read, write) = (members.flag("read")?, members.flag("write")?);
    let declared = match (read, write) {
        (Some(read), Some(write)) if read == write => {
            return Err(Problem::invalid(members.pointer("write"), "`read` and `write` contradict each other"));
        }
        (Some(read), _) => Some(read),
        (None, Some(write)) => Some(!write),
        (None, None) => None,
    };
    let (what, always) = match action {
        Action::Sql { text, .. } => return Ok(declared.unwrap_or_else(|| is_one_of(first_word(text), &READS))),
        Action::Cypher { .. } => return Ok(declared.unwrap_or(false)),
        Action::Points { verb, .. } => (verb.as_str(), verb.reads()),
        Action::Record(record) => (record.act.as_str(), record.act.reads()),
    };
    if declared.is_some_and(|declared| declared != always) {
        let name = if read.is_some() { "read" } else { "write" };
        let does = if always { "reads" } else { "writes" };
        return Err(Problem::invalid(members.pointer(name), format!("`{what}` {does}, always")));
    }
    Ok(always)
}

fn is_one_of(word: &str, words: &[&str]) -> bool {
    words.iter().any(|w| w.eq_ignore_ascii_case(word))
}

fn refuse_control(action: &Action, pointer: &str) -> Result<(), Problem> {
    let (first, second) = match action {
        Action::Sql { text, .. } => first_two_words(text),
        Action::Cypher { text, .. } => (first_word(from_first_word(text).trim_start_matches(':')), ""),
        Action::Points { .. } | Action::Record(_) => return Ok(()),
    };
    let sets = first.eq_ignore_ascii_case("SET") && is_one_of(second, &["TRANSACTION", "SESSION"]);
    if sets || is_one_of(first, &CONTROL) {
        let word = first.to_ascii_uppercase();
        return Err(Problem::invalid(pointer, format!("{word} is not an operation: begin and end are Outrigger's")));
    }
    Ok(())
}

fn expect(mut members: Members, action: &Action, reads: bool) -> Result<Expect, Problem> {
    let on_points = matches!(action, Action::Points { .. });
    if on_points && members.has("rows") {
        return Err(Problem::invalid(members.pointer("rows"), "`rows` is for `sql` and `cypher`: Qdrant has points"));
    }
    if matches!(action, Action::Record(_)) && members.has("rows") {
        return Err(Problem::invalid(members.pointer("rows"), "a record is one: its `if_version` says how it must be"));
    }
    if members.has("if") && (!on_points || reads) {
        return Err(Problem::invalid(members.pointer("if"), "`if` guards Qdrant's writes, and nothing else"));
    }
    let rows = members.number("rows", 0..=i64::MAX)?.map(i64::unsigned_abs);
    let mut equals = Vec::new();
    if let Some(wanted) = members.object("equals")? {
        let at = wanted.at().to_owned();
        for (path, value) in wanted.rest() {
            let pointer = format!("{at}/{}", crate::model::reference::escape(&path));
            if !path.is_empty() && !path.starts_with('/') {
                return Err(Problem::invalid(pointer, "a JSON pointer begins with `/`"));
            }
            refuse_references(&value, &pointer)?;
            equals.push((path, value));
        }
    }
    let pointer = members.pointer("if");
    let mut conditions = Vec::new();
    for (index, item) in members.list("if", 10_000)?.unwrap_or_default().into_iter().enumerate() {
        conditions.push(condition(Members::of(item, format!("{pointer}/{index}"))?)?);
    }
    members.finish()?;
    Ok(Expect { rows, equals, conditions })
}

fn condition(mut members: Members) -> Result<PointCondition, Problem> {
    members.require("id")?;
    let id = members.take("id").unwrap_or_default();
    let is_point = id.is_u64() || id.as_str().is_some_and(|text| Uuid::parse_str(text).is_ok());
    if !is_point {
        return Err(wrong(members.pointer("id"), "a point's id (a whole number or a UUID)", &id));
    }
    let exists = members.flag("exists")?;
    let payload = members.object("payload")?.map(Members::rest);
    if let Some(payload) = &payload {
        if exists == Some(false) {
            let detail = "a point that must not exist has no payload to compare";
            return Err(Problem::invalid(members.pointer("payload"), detail));
        }
        refuse_references(&Value::Object(payload.clone()), &members.pointer("payload"))?;
    } else if exists.is_none() {
        return Err(Problem::invalid(members.at(), "`exists` or `payload` is missing here"));
    }
    members.finish()?;
    Ok(PointCondition { id, exists, payload })
}

/// `expect` compares with what the client knows, so a `$ref` there is a misunderstanding, not a value.
fn refuse_references(value: &Value, pointer: &str) -> Result<(), Problem> {
    let template = Template::parse(value.clone(), pointer)?;
    match template.references().first() {
        None => Ok(()),
        Some(reference) => Err(Problem::invalid(&reference.pointer, "a `$ref` cannot stand in `expect`")),
    }
}
