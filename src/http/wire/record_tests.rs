//! The same table for `record`.

use serde_json::json;

use super::*;
use crate::model::record::{Act, IfVersion};

#[test]
fn records_are_read() {
    let put = json!({"do": "put", "in": "accounts", "key": {"id": {"$ref": "a#/rows/0/id"}}, "set": {"x": null}});
    let record = |store: &str, mut record: Value, more: Value| {
        merge(&mut record, more);
        json!({"id": "r", "store": store, "record": record})
    };
    let body =
        json!({"operations": [sql(json!({})), record("pg", put.clone(), json!({"version": "v", "if_version": 3}))]});
    let operation = read_value(body).unwrap().operations.remove(1);
    assert!(!operation.reads);
    assert_eq!(operation.action.template().references()[0].pointer, "/operations/1/record/key/id/$ref");
    let Action::Record(read) = &operation.action else { panic!("a record") };
    assert_eq!((read.act, read.condition), (Act::Put, IfVersion::Is(3)));
    assert_eq!((read.place.as_str(), read.version.as_str()), ("accounts", "v"));
    let get = |more: Value| one(record("vec", json!({"do": "get", "in": "c", "key": {"id": 1}}), more));
    let operation = read_value(get(json!({}))).unwrap().operations.remove(0);
    let Action::Record(read) = &operation.action else { panic!("a record") };
    assert_eq!((operation.reads, read.condition, read.version.as_str()), (true, IfVersion::Any, "version"));
    for (word, condition) in [("any", IfVersion::Any), ("absent", IfVersion::Absent)] {
        let operation = read_value(get(json!({"if_version": word}))).unwrap().operations.remove(0);
        let Action::Record(read) = &operation.action else { panic!("a record") };
        assert_eq!(read.condition, condition);
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, a line a case")]
fn bad_records_get_their_pointer() {
    let record = |store: &str, record: Value| one(json!({"store": store, "record": record}));
    let good = json!({"do": "put", "in": "t", "key": {"id": 1}, "set": {"a": 2}});
    let with = |store: &str, more: Value| {
        let mut all = good.clone();
        merge(&mut all, more);
        record(store, all)
    };
    let without = |member: &str| {
        let mut all = good.clone();
        all.as_object_mut().unwrap().remove(member);
        record("graph", all)
    };
    let many: Value = (0..33).map(|n| (format!("k{n}"), json!(1))).collect::<serde_json::Map<_, _>>().into();
    let beside = |more: Value| {
        let mut operation = json!({"store": "pg", "record": good});
        merge(&mut operation, more);
        one(operation)
    };
    for (body, below) in [
        (record("pg", json!("x")), ""),
        (record("pg", json!({})), ""),
        (without("do"), ""),
        (without("in"), ""),
        (without("key"), ""),
        (with("pg", json!({"do": "post"})), "/do"),
        (with("pg", json!({"in": ""})), "/in"),
        (with("pg", json!({"in": "a\u{1}b"})), "/in"),
        (with("pg", json!({"in": {"$ref": "a"}})), "/in"),
        (with("pg", json!({"version": ""})), "/version"),
        (with("pg", json!({"version": 1})), "/version"),
        (with("pg", json!({"if_version": -1})), "/if_version"),
        (with("pg", json!({"if_version": 1.5})), "/if_version"),
        (with("pg", json!({"if_version": "latest"})), "/if_version"),
        (with("pg", json!({"if_version": null})), "/if_version"),
        (with("pg", json!({"if_version": {"$ref": "a"}})), "/if_version"),
        (with("pg", json!({"if_version": u64::MAX})), "/if_version"),
        (with("pg", json!({"key": 7})), "/key"),
        (with("pg", json!({"key": {}})), "/key"),
        (with("pg", json!({"key": many})), "/key"),
        (with("pg", json!({"key": {"$ref": "a"}})), "/key/$ref"),
        (with("pg", json!({"key": {"id": null}})), "/key/id"),
        (with("pg", json!({"key": {"id": [1]}})), "/key/id"),
        (with("pg", json!({"key": {"a/b": {"c": 1}}})), "/key/a~1b"),
        (with("pg", json!({"key": {"": 1}})), "/key/"),
        (with("pg", json!({"key": {"id": {"$ref": "zz"}}})), "/key/id/$ref"),
        (with("vec", json!({"key": {"id": 1, "b": 2}})), "/key"),
        (with("vec", json!({"key": {"uuid": 1}})), "/key"),
        (with("pg", json!({"set": [1]})), "/set"),
        (with("pg", json!({"set": {"$literal": {}}})), "/set/$literal"),
        (with("pg", json!({"set": {"id": 2}})), "/set/id"),
        (with("pg", json!({"set": {"version": 2}})), "/set/version"),
        (with("pg", json!({"version": "a"})), "/set/a"),
        (with("pg", json!({"set": {"x": {"$ref": 1}}})), "/set/x/$ref"),
        (with("pg", json!({"vector": [1]})), "/vector"),
        (with("graph", json!({"vector": [1]})), "/vector"),
        (with("pg", json!({"colour": 1})), "/colour"),
        (with("pg", json!({"do": "get"})), "/set"),
        (with("vec", json!({"do": "delete", "vector": [1]})), "/set"),
    ] {
        let problem = read_value(body.clone()).expect_err(&format!("this is faulty: {body}"));
        assert_eq!(problem.code, Code::InvalidRequest, "{body}: {problem}");
        let pointer = format!("/operations/0/record{below}");
        assert_eq!(problem.pointer.as_deref(), Some(pointer.as_str()), "{body}: {problem}");
    }
    for (more, pointer) in [
        (json!({"sql": "x"}), "/operations/0/record"),
        (json!({"params": []}), "/operations/0/params"),
        (json!({"collection": "c"}), "/operations/0/collection"),
        (json!({"read": true}), "/operations/0/read"),
        (json!({"expect": {"rows": 1}}), "/operations/0/expect/rows"),
        (json!({"expect": {"if": []}}), "/operations/0/expect/if"),
    ] {
        let problem = read_value(beside(more.clone())).expect_err("it has no place beside a record");
        assert_eq!((problem.code, problem.pointer.as_deref()), (Code::InvalidRequest, Some(pointer)), "{more}");
    }
    assert!(read_value(beside(json!({"write": true, "expect": {"equals": {"/version": 1}}}))).is_ok());
}
