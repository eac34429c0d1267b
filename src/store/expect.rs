//! `expect`: what an operation's result must be. What fails is a `conflict`, and the whole transaction aborts.

use serde_json::{Number, Value};

use crate::model::ids::StoreName;
use crate::model::problem::{Code, Problem};
use crate::model::request::Operation;

/// Checks `expect.rows` against `counted` and `expect.equals` against `result`.
///
/// # Errors
/// `conflict`, naming the operation, what was expected and what was found.
pub fn check(store: &StoreName, op: &Operation, counted: u64, result: &Value) -> Result<(), Problem> {
    let conflict = |member: String, detail: String| {
        let pointer = format!("{}/expect/{member}", op.pointer);
        Problem::new(Code::Conflict, detail).at(pointer).in_operation(&op.id).in_store(store)
    };
    if let Some(expected) = op.expect.rows
        && expected != counted
    {
        let detail = format!("operation `{}` was expected to give {expected} rows and gave {counted}", op.id);
        return Err(conflict("rows".to_owned(), detail));
    }
    for (path, expected) in &op.expect.equals {
        let found = result.pointer(path);
        if !found.is_some_and(|found| same(found, expected)) {
            let found = found.map_or_else(|| "nothing".to_owned(), |value| shortened(&value.to_string()));
            let expected = shortened(&expected.to_string());
            let detail = format!("operation `{}` was expected to have {expected} at `{path}` and has {found}", op.id);
            return Err(conflict(format!("equals/{}", crate::model::reference::escape(path)), detail));
        }
    }
    Ok(())
}

/// Equal as JSON values: numbers by what they are worth (`7` is `7.0`), objects in any order.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => same_number(a, b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn same_number(a: &Number, b: &Number) -> bool {
    let whole = |n: &Number| n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from));
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a.as_f64() == b.as_f64(),
    }
}

/// A problem's detail is for people: a value of a megabyte is not.
pub(super) fn shortened(text: &str) -> String {
    const LONGEST: usize = 200;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::reference::Template;
    use crate::model::request::{Action, Expect};

    fn op(rows: Option<u64>, equals: &[(&str, Value)]) -> Operation {
        let equals = equals.iter().map(|(path, value)| ((*path).to_owned(), value.clone())).collect();
        Operation {
            id: "o".to_owned(),
            store: "pg".into(),
            reads: true,
            action: Action::Sql { text: String::new(), params: Template::plain(json!([])) },
            expect: Expect { rows, equals, conditions: Vec::new() },
            pointer: "/operations/0".to_owned(),
        }
    }

    #[test]
    fn what_was_expected_and_found_is_named() {
        let store = "pg".into();
        let result = json!({"rows": [{"a/b": 7}]});
        assert!(check(&store, &op(Some(1), &[("/rows/0/a~1b", json!(7.0))]), 1, &result).is_ok());
        let problem = check(&store, &op(Some(2), &[]), 1, &result).unwrap_err();
        assert_eq!((problem.code, problem.pointer.as_deref()), (Code::Conflict, Some("/operations/0/expect/rows")));
        let problem = check(&store, &op(None, &[("/rows/0/a~1b", json!("7"))]), 1, &result).unwrap_err();
        assert!(problem.detail.contains("\"7\"") && problem.detail.ends_with("has 7"), "{}", problem.detail);
        let problem = check(&store, &op(None, &[("/rows/1", json!(null))]), 1, &result).unwrap_err();
        assert!(problem.detail.ends_with("has nothing"), "{}", problem.detail);
    }

    #[test]
    fn numbers_are_compared_exactly_where_they_are_whole() {
        assert!(!same(&json!(9_007_199_254_740_993_i64), &json!(9_007_199_254_740_992_i64)));
        assert!(same(&json!(u64::MAX), &json!(u64::MAX)) && !same(&json!(-1), &json!(u64::MAX)));
        assert!(same(&json!({"a": 1, "b": [1.0]}), &json!({"b": [1], "a": 1})));
    }
}
