//! `{"$ref": "OP#/JSON/POINTER"}`: values that are results of earlier operations, and `{"$literal": …}`, which escapes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::problem::Problem;

/// A JSON value in which references may stand. Written down it is its plain value: only what is bound is kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(from = "Value", into = "Value")]
pub struct Template {
    value: Value,
    references: Vec<Reference>,
    literals: bool,
}

/// One `$ref`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    /// The operation it points to.
    pub operation: String,
    /// The JSON pointer into that operation's result; empty = the whole.
    pub path: String,
    /// Where in the request the `$ref` stands.
    pub pointer: String,
}

impl Template {
    /// Reads the references of `value`, which stands at `pointer` in the request.
    ///
    /// # Errors
    /// `invalid_request` where a `$ref` or `$literal` has company or a wrong shape.
    pub fn parse(value: Value, pointer: &str) -> Result<Self, Problem> {
        let mut found = Found::default();
        found.walk(&value, pointer)?;
        Ok(Self { value, references: found.references, literals: found.literals })
    }

    /// A template without references (tests, recovery).
    #[must_use]
    pub fn plain(value: Value) -> Self {
        Self { value, references: Vec::new(), literals: false }
    }

    /// Its references, in the order of the text.
    #[must_use]
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// The operations that it needs results of.
    #[must_use]
    pub fn needs(&self) -> BTreeSet<&str> {
        self.references.iter().map(|r| r.operation.as_str()).collect()
    }

    /// The value as written, references and all.
    #[must_use]
    pub fn raw(&self) -> &Value {
        &self.value
    }

    /// The value with every reference replaced; `result_of` gives an operation's result.
    ///
    /// # Errors
    /// `invalid_request` with the pointer of a `$ref` that finds nothing.
    pub fn bind<'a>(&self, result_of: impl Fn(&str) -> Option<&'a Value>) -> Result<Value, Problem> {
        if self.references.is_empty() && !self.literals {
            return Ok(self.value.clone());
        }
        let mut references = self.references.iter();
        fill(&self.value, &mut references, &result_of)
    }
}

impl From<Value> for Template {
    fn from(value: Value) -> Self {
        Self::plain(value)
    }
}

impl From<Template> for Value {
    fn from(template: Template) -> Self {
        template.value
    }
}

#[derive(Default)]
struct Found {
    references: Vec<Reference>,
    literals: bool,
}

impl Found {
    fn walk(&mut self, value: &Value, pointer: &str) -> Result<(), Problem> {
        match value {
            Value::Array(items) => {
                // A vector of a thousand numbers has no use for a thousand pointers.
                let may_hold = |item: &&Value| item.is_array() || item.is_object();
                for (index, item) in items.iter().enumerate().filter(|(_, item)| may_hold(item)) {
                    self.walk(item, &format!("{pointer}/{index}"))?;
                }
            }
            Value::Object(map) => {
                for special in ["$ref", "$literal"] {
                    if map.contains_key(special) && map.len() > 1 {
                        return Err(Problem::invalid(pointer, format!("nothing may stand beside `{special}`")));
                    }
                }
                if let Some(target) = map.get("$ref") {
                    let reference = parse_reference(target, pointer)?;
                    self.references.push(reference);
                } else if map.contains_key("$literal") {
                    self.literals = true;
                } else {
                    for (key, item) in map {
                        self.walk(item, &format!("{pointer}/{}", escape(key)))?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn parse_reference(target: &Value, pointer: &str) -> Result<Reference, Problem> {
    let at = || format!("{pointer}/$ref");
    let text =
        target.as_str().ok_or_else(|| Problem::invalid(at(), "`$ref` takes text: \"OPERATION#/json/pointer\""))?;
    let (operation, path) = text.split_once('#').unwrap_or((text, ""));
    if operation.is_empty() {
        return Err(Problem::invalid(at(), "`$ref` names no operation before the `#`"));
    }
    if !path.is_empty() && !path.starts_with('/') {
        return Err(Problem::invalid(at(), "what follows the `#` is a JSON pointer and begins with `/`"));
    }
    Ok(Reference { operation: operation.to_owned(), path: path.to_owned(), pointer: at() })
}

fn fill<'a, 'r>(
    value: &Value,
    references: &mut impl Iterator<Item = &'r Reference>,
    result_of: &impl Fn(&str) -> Option<&'a Value>,
) -> Result<Value, Problem> {
    Ok(match value {
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| fill(item, references, result_of)).collect::<Result<_, _>>()?)
        }
        Value::Object(map) if map.contains_key("$ref") => {
            let reference = references.next().expect("parse met every $ref in this very order");
            let result = result_of(&reference.operation);
            let found = result.and_then(|result| result.pointer(&reference.path));
            found.cloned().ok_or_else(|| {
                let (operation, path) = (&reference.operation, &reference.path);
                Problem::invalid(&reference.pointer, format!("the result of `{operation}` has nothing at `{path}`"))
            })?
        }
        Value::Object(map) => match map.get("$literal") {
            Some(literal) => literal.clone(),
            None => {
                let filled = map.iter().map(|(key, item)| Ok((key.clone(), fill(item, references, result_of)?)));
                Value::Object(filled.collect::<Result<Map<_, _>, Problem>>()?)
            }
        },
        plain => plain.clone(),
    })
}

/// A member name as a token of a JSON pointer (RFC 6901).
#[must_use]
pub fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_found_and_filled() {
        let template =
            Template::parse(json!({"a": [{"$ref": "doc#/rows/0/id"}], "b": {"$ref": "doc"}}), "/operations/1/params")
                .unwrap();
        assert_eq!(template.references()[0].pointer, "/operations/1/params/a/0/$ref");
        let doc = json!({"rows": [{"id": 7}]});
        let bound = template.bind(|op| (op == "doc").then_some(&doc)).unwrap();
        assert_eq!(bound, json!({"a": [7], "b": {"rows": [{"id": 7}]}}));
    }

    #[test]
    fn a_pointer_that_finds_nothing_names_its_place() {
        let template = Template::parse(json!([{"$ref": "doc#/rows/9/id"}]), "/operations/1/params").unwrap();
        let doc = json!({"rows": []});
        let problem = template.bind(|_| Some(&doc)).unwrap_err();
        assert_eq!(problem.pointer.as_deref(), Some("/operations/1/params/0/$ref"));
    }

    #[test]
    fn literal_escapes_deeply() {
        let template = Template::parse(json!([{"$literal": {"x": {"$ref": "no"}}}]), "").unwrap();
        assert!(template.references().is_empty());
        assert_eq!(template.bind(|_| None).unwrap(), json!([{"x": {"$ref": "no"}}]));
    }

    #[test]
    fn company_and_wrong_shapes_are_refused() {
        for bad in [
            json!({"$ref": "a", "x": 1}),
            json!({"$literal": 1, "$ref": "a"}),
            json!({"$ref": 1}),
            json!({"$ref": "#/a"}),
            json!({"$ref": "a#b"}),
        ] {
            assert!(Template::parse(bad.clone(), "").is_err(), "{bad}");
        }
    }
}
