//! A table of bad requests, each with the code and the pointer that its client gets; and that nothing ever panics.

#[path = "record_tests.rs"]
mod record;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::request::{Action, Verb};

fn kinds(store: &str) -> Option<&'static str> {
    match store {
        "pg" => Some("postgres"),
        "graph" => Some("neo4j"),
        "vec" => Some("qdrant"),
        _ => None,
    }
}

fn read(body: &str) -> Result<TxnRequest, Problem> {
    read_value(parse(body.as_bytes())?)
}

fn read_value(body: Value) -> Result<TxnRequest, Problem> {
    match request(body, &kinds)? {
        Asked::OneShot(request) => Ok(request),
        Asked::Interactive(..) => panic!("nobody asked for an interactive one"),
    }
}

fn one(operation: Value) -> Value {
    json!({"operations": [operation]})
}

/// One SQL operation with further members.
fn sql(more: Value) -> Value {
    let mut operation = json!({"id": "a", "store": "pg", "sql": "UPDATE t SET x = 1"});
    merge(&mut operation, more);
    operation
}

fn merge(into: &mut Value, more: Value) {
    let (Value::Object(into), Value::Object(more)) = (into, more) else { panic!("two objects") };
    into.extend(more);
}

/// The request around one good operation, with further members.
fn with(more: Value) -> Value {
    let mut body = one(sql(json!({})));
    merge(&mut body, more);
    body
}

#[test]
fn the_example_of_the_contract_is_read() {
    let request = read(
        r#"{
        "name": "ingest:doc-42", "pattern": "auto", "consistency": "strong", "availability": "medium",
        "isolation": "serializable", "timeout_ms": 5000, "priority": -7,
        "retry": {"max_attempts": 5, "base_delay_ms": 20, "max_delay_ms": 2000},
        "locks": [{"key": "doc/42", "mode": "exclusive"}, {"key": "b", "mode": "shared"}],
        "wait": "decided",
        "operations": [
          {"id": "doc", "store": "pg", "sql": "INSERT INTO documents(title) VALUES ($1) RETURNING id",
           "params": ["Moby Dick"], "expect": {"rows": 1, "equals": {"/rows/0/id": 7}}},
          {"id": "node", "store": "graph", "cypher": "MERGE (d:Document {id: $id})",
           "params": {"id": {"$ref": "doc#/rows/0/id"}, "title": "Moby Dick"}},
          {"id": "vec", "store": "vec", "collection": "docs", "expect": {"if": [{"id": 42, "exists": true}]},
           "upsert": {"points": [{"id": {"$ref": "doc#/rows/0/id"}, "vector": [0.1, 0.2], "payload": {"title": "x"}}]}},
          {"store": "pg", "sql": "/* a read */ (SELECT 1)"},
          {"store": "pg", "sql": "SELECT f()", "write": true},
          {"store": "vec", "collection": "docs", "count": {}}
        ]}"#,
    )
    .unwrap();
    assert_eq!(request.name.as_deref(), Some("ingest:doc-42"));
    assert_eq!((request.isolation, request.wait), (Isolation::Serializable, WaitFor::Decided));
    assert_eq!((request.timeout, request.retry.max_attempts), (Duration::from_secs(5), 5));
    assert_eq!(request.priority, -7);
    assert_eq!(request.locks[1], DeclaredLock { key: "b".into(), exclusive: false });
    let reads: Vec<_> = request.operations.iter().map(|op| op.reads).collect();
    assert_eq!(reads, [false, false, false, true, false, true]);
    let ids: Vec<_> = request.operations.iter().map(|op| op.id.as_str()).collect();
    assert_eq!(ids, ["doc", "node", "vec", "3", "4", "5"]);
    assert_eq!(request.operations[2].pointer, "/operations/2");
    assert_eq!(request.operations[0].expect.equals, [("/rows/0/id".to_owned(), json!(7))]);
    let Action::Points { verb, body, .. } = &request.operations[2].action else { panic!("a Qdrant verb") };
    assert_eq!((*verb, body.references().len()), (Verb::Upsert, 1));
    assert_eq!(body.references()[0].pointer, "/operations/2/upsert/points/0/id/$ref");
}

#[test]
fn a_request_of_one_operation_gets_the_defaults() {
    let request = read_value(one(json!({"store": "graph", "cypher": "RETURN 1"}))).unwrap();
    assert_eq!((request.pattern, request.isolation), (PatternWish::Auto, Isolation::ReadCommitted));
    assert_eq!((request.timeout, request.retry), (Duration::from_secs(30), RetryPolicy::NEVER));
    assert_eq!(request.wait, WaitFor::Applied);
    assert!(!request.operations[0].reads, "Cypher is a write unless it is declared");
    let retry = read_value(with(json!({"retry": {"max_delay_ms": 5}}))).unwrap().retry;
    assert_eq!((retry.max_attempts, retry.base_delay), (5, Duration::from_millis(5)));
}

#[test]
fn pattern_consistency_and_availability_are_folded() {
    for (more, wish) in [
        (json!({"pattern": "atomic"}), PatternWish::Atomic),
        (json!({"consistency": "immediate", "availability": "high"}), PatternWish::Atomic),
        (json!({"availability": "high"}), PatternWish::Auto),
        (json!({"consistency": "eventual", "availability": "low"}), PatternWish::Auto),
    ] {
        assert_eq!(read_value(with(more.clone())).unwrap().pattern, wish, "{more}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, a line a case")]
fn bad_requests_get_their_pointer() {
    let graph = |more: Value| {
        let mut operation = json!({"store": "graph", "cypher": "CREATE (n)"});
        merge(&mut operation, more);
        one(operation)
    };
    let vec = |more: Value| {
        let mut operation = json!({"store": "vec", "collection": "c"});
        merge(&mut operation, more);
        one(operation)
    };
    let upsert = |more: Value| {
        let mut operation = json!({"upsert": {"points": []}});
        merge(&mut operation, more);
        vec(operation)
    };
    let two = |second: Value| json!({"operations": [sql(json!({})), second]});
    let cases = vec![
        // The request.
        (json!([]), ""),
        (json!("text"), ""),
        (json!({}), ""),
        (json!({"operations": []}), "/operations"),
        (json!({"operations": {}}), "/operations"),
        (json!({"operations": [1]}), "/operations/0"),
        (with(json!({"colour": 1})), "/colour"),
        (with(json!({"a/b~c": 1})), "/a~1b~0c"),
        (with(json!({"name": ""})), "/name"),
        (with(json!({"name": "a b"})), "/name"),
        (with(json!({"name": "x".repeat(129)})), "/name"),
        (with(json!({"name": null})), "/name"),
        (with(json!({"name": {"$ref": "a#/rows"}})), "/name"),
        (with(json!({"pattern": "optimistic"})), "/pattern"),
        (with(json!({"consistency": "weak"})), "/consistency"),
        (with(json!({"availability": 1})), "/availability"),
        (with(json!({"isolation": "SERIALIZABLE"})), "/isolation"),
        (with(json!({"timeout_ms": 0})), "/timeout_ms"),
        (with(json!({"timeout_ms": 600_001})), "/timeout_ms"),
        (with(json!({"timeout_ms": 1.5})), "/timeout_ms"),
        (with(json!({"timeout_ms": "1"})), "/timeout_ms"),
        (with(json!({"timeout_ms": u64::MAX})), "/timeout_ms"),
        (with(json!({"priority": 1001})), "/priority"),
        (with(json!({"wait": "later"})), "/wait"),
        (with(json!({"interactive": "yes"})), "/interactive"),
        (with(json!({"lease_ms": 5})), "/lease_ms"),
        (with(json!({"retry": 3})), "/retry"),
        (with(json!({"retry": {"max_attempts": 0}})), "/retry/max_attempts"),
        (with(json!({"retry": {"max_attempts": 101}})), "/retry/max_attempts"),
        (with(json!({"retry": {"base_delay_ms": 9, "max_delay_ms": 8}})), "/retry/base_delay_ms"),
        (with(json!({"retry": {"forever": true}})), "/retry/forever"),
        (with(json!({"locks": {}})), "/locks"),
        (with(json!({"locks": [{}]})), "/locks/0"),
        (with(json!({"locks": [{"key": ""}]})), "/locks/0/key"),
        (with(json!({"locks": [{"key": "a\nb"}]})), "/locks/0/key"),
        (with(json!({"locks": [{"key": {"$ref": "a"}}]})), "/locks/0/key"),
        (with(json!({"locks": [{"key": "a", "mode": "U"}]})), "/locks/0/mode"),
        (with(json!({"locks": [{"key": "a", "ttl": 1}]})), "/locks/0/ttl"),
        (with(json!({"locks": vec![json!({"key": "a"}); 257]})), "/locks"),
        (json!({"operations": vec![json!({"store": "pg", "sql": "x"}); 1001]}), "/operations"),
        // The operation.
        (one(json!({"sql": "x"})), "/operations/0"),
        (one(json!({"store": "pg"})), "/operations/0"),
        (one(json!({"store": "nowhere", "sql": "x"})), "/operations/0/store"),
        (one(json!({"store": 1, "sql": "x"})), "/operations/0/store"),
        (one(sql(json!({"id": "a#b"}))), "/operations/0/id"),
        (one(sql(json!({"id": 1}))), "/operations/0/id"),
        (one(sql(json!({"cypher": "x"}))), "/operations/0/cypher"),
        (one(sql(json!({"upsert": {}}))), "/operations/0/upsert"),
        (one(sql(json!({"collection": "c"}))), "/operations/0/collection"),
        (one(sql(json!({"if": []}))), "/operations/0/if"),
        (one(sql(json!({"parms": []}))), "/operations/0/parms"),
        (one(json!({"store": "pg", "cypher": "x"})), "/operations/0/cypher"),
        (one(json!({"store": "graph", "sql": "x"})), "/operations/0/sql"),
        (one(json!({"store": "vec", "sql": "x"})), "/operations/0/sql"),
        (one(json!({"store": "pg", "upsert": {}})), "/operations/0/upsert"),
        (one(json!({"store": "pg", "sql": " \n"})), "/operations/0/sql"),
        (one(json!({"store": "pg", "sql": ["x"]})), "/operations/0/sql"),
        (one(json!({"store": "pg", "sql": {"$ref": "a"}})), "/operations/0/sql"),
        (one(sql(json!({"params": {}}))), "/operations/0/params"),
        (one(sql(json!({"params": {"$ref": "a"}}))), "/operations/0/params"),
        (one(sql(json!({"params": [{"$ref": 1}]}))), "/operations/0/params/0/$ref"),
        (one(sql(json!({"params": [{"$ref": "a", "b": 1}]}))), "/operations/0/params/0"),
        (one(sql(json!({"read": true, "write": true}))), "/operations/0/write"),
        (one(sql(json!({"read": "yes"}))), "/operations/0/read"),
        (graph(json!({"params": []})), "/operations/0/params"),
        (graph(json!({"params": {"$ref": "a"}})), "/operations/0/params/$ref"),
        (vec(json!({})), "/operations/0"),
        (vec(json!({"upsert": []})), "/operations/0/upsert"),
        (vec(json!({"upsert": {"$literal": {}}})), "/operations/0/upsert/$literal"),
        (one(json!({"store": "vec", "upsert": {}})), "/operations/0"),
        (one(json!({"store": "vec", "collection": "", "upsert": {}})), "/operations/0/collection"),
        (vec(json!({"upsert": {}, "delete": {}})), "/operations/0/delete"),
        (upsert(json!({"params": []})), "/operations/0/params"),
        (upsert(json!({"read": true})), "/operations/0/read"),
        (vec(json!({"count": {}, "write": true})), "/operations/0/write"),
        // Control verbs.
        (one(json!({"store": "pg", "sql": "-- x\n COMMIT"})), "/operations/0/sql"),
        (one(json!({"store": "pg", "sql": "prepare transaction 'x'"})), "/operations/0/sql"),
        (one(json!({"store": "pg", "sql": "SET TRANSACTION READ ONLY"})), "/operations/0/sql"),
        (one(json!({"store": "graph", "cypher": ":begin"})), "/operations/0/cypher"),
        (one(json!({"store": "graph", "cypher": "rollback"})), "/operations/0/cypher"),
        // `expect`.
        (one(sql(json!({"expect": []}))), "/operations/0/expect"),
        (one(sql(json!({"expect": {"row": 1}}))), "/operations/0/expect/row"),
        (one(sql(json!({"expect": {"rows": -1}}))), "/operations/0/expect/rows"),
        (one(sql(json!({"expect": {"rows": {"$ref": "a"}}}))), "/operations/0/expect/rows"),
        (one(sql(json!({"expect": {"equals": {"rows": 1}}}))), "/operations/0/expect/equals/rows"),
        (one(sql(json!({"expect": {"equals": {"/a": {"$ref": "a"}}}}))), "/operations/0/expect/equals/~1a/$ref"),
        (one(sql(json!({"expect": {"if": []}}))), "/operations/0/expect/if"),
        (upsert(json!({"expect": {"rows": 1}})), "/operations/0/expect/rows"),
        (upsert(json!({"expect": {"if": [{"exists": true}]}})), "/operations/0/expect/if/0"),
        (upsert(json!({"expect": {"if": [{"id": 1}]}})), "/operations/0/expect/if/0"),
        (upsert(json!({"expect": {"if": [{"id": "x", "exists": true}]}})), "/operations/0/expect/if/0/id"),
        (upsert(json!({"expect": {"if": [{"id": -1, "exists": true}]}})), "/operations/0/expect/if/0/id"),
        (
            upsert(json!({"expect": {"if": [{"id": 1, "exists": false, "payload": {}}]}})),
            "/operations/0/expect/if/0/payload",
        ),
        (vec(json!({"count": {}, "expect": {"if": []}})), "/operations/0/expect/if"),
        // References.
        (one(sql(json!({"params": [{"$ref": "zz#/rows"}]}))), "/operations/0/params/0/$ref"),
        (one(sql(json!({"params": [{"$ref": "a#/rows"}]}))), "/operations/0/params/0/$ref"),
        (
            json!({"operations": [sql(json!({"params": [1, [{"$ref": "b"}]]})), sql(json!({"id": "b"}))]}),
            "/operations/0/params/1/0/$ref",
        ),
        (two(sql(json!({}))), "/operations/1/id"),
        (json!({"operations": [sql(json!({"id": "1"})), {"store": "pg", "sql": "x"}]}), "/operations/1/id"),
    ];
    for (body, pointer) in cases {
        let problem = read_value(body.clone()).expect_err(&format!("this is faulty: {body}"));
        assert_eq!(problem.code, Code::InvalidRequest, "{body}: {problem}");
        assert_eq!(problem.pointer.as_deref(), Some(pointer), "{body}: {problem}");
        assert!(!problem.detail.is_empty());
    }
}

#[test]
fn what_later_versions_have_is_said_plainly() {
    for (body, pointer) in [
        (with(json!({"pattern": "saga"})), "/pattern"),
        (one(sql(json!({"compensate": "auto"}))), "/operations/0/compensate"),
        (one(sql(json!({"pivot": true}))), "/operations/0/pivot"),
        (one(json!({"store": "pg", "http": {}})), "/operations/0/http"),
    ] {
        let problem = read_value(body.clone()).expect_err("not in this version");
        assert_eq!((problem.code, problem.pointer.as_deref()), (Code::Unsupported, Some(pointer)), "{body}");
    }
    assert!(read_value(with(json!({"interactive": false}))).is_ok());
}

#[test]
fn problems_name_their_operation() {
    let problem = read_value(one(sql(json!({"expect": {"rows": "1"}})))).unwrap_err();
    assert_eq!(problem.operation.as_deref(), Some("a"));
}

#[test]
fn what_is_not_json_gets_line_and_column() {
    for (body, part) in [
        (&b""[..], "line 1 column 0"),
        (b"{\n  \"a\": nope}", "line 2 column"),
        (b"{\"a\": NaN}", "line 1 column"),
        (b"{\"a\": 1} {}", "line 1 column"),
        (b"{\"a\": 1e999}", "line 1 column"),
        (b"{\"a\": 1,}", "line 1 column"),
        (b"{\n\"a\": \"\xff\"}", "line 2, column 7"),
        (b"{\"a\": \"\\ud800\"}", "line 1 column"),
        (b"{\"a\": [1,\n 18446744073709551616]}", "line 2, column 2"),
        (b"{\"a\": -9223372036854775809}", "line 1, column 7"),
    ] {
        let problem = parse(body).expect_err("this is not JSON that we take");
        let text = String::from_utf8_lossy(body);
        assert_eq!(problem.code, Code::InvalidRequest);
        assert!(problem.detail.contains(part), "{text}: {}", problem.detail);
    }
    // What serde_json alone reads as …124.
    let exact = parse(br#"{"1.5": "2\" 3", "a": [-0, 7, {"b": 947343.5048828125}]}"#).unwrap();
    assert_eq!(exact["a"][2]["b"].to_string(), "947343.5048828125");
    // Floats may be as large as they like, and digits inside text are no number.
    let kept = parse(br#"{"a": 1e300, "b": "18446744073709551616", "c": 18446744073709551615}"#).unwrap();
    assert_eq!(kept["c"], json!(u64::MAX));
}

#[test]
fn depth_is_bounded() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let body = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
        let problem = parse(body.as_bytes()).expect_err("far too deep");
        assert!(problem.detail.contains("recursion limit"), "{}", problem.detail);
        let body = format!("{}1{}", open.repeat(100), close.repeat(100));
        assert!(parse(body.as_bytes()).is_ok());
    }
}

#[test]
fn a_member_that_stands_twice_is_pointed_at() {
    for (body, pointer) in [
        (r#"{"a": 1, "a": 1}"#, "/a"),
        (r#"{"x": [0, {"y/z": {"k": 1, "k": 2}}]}"#, "/x/1/y~1z/k"),
        (r#"[[], [{"k": 1, "\u006b": 2}]]"#, "/1/0/k"),
    ] {
        let problem = parse(body.as_bytes()).expect_err("a duplicate");
        assert_eq!((problem.code, problem.pointer.as_deref()), (Code::InvalidRequest, Some(pointer)), "{body}");
    }
}

#[test]
fn the_digest_knows_order_from_meaning() {
    let of = |body: &str, who: &str| digest(&parse(body.as_bytes()).unwrap(), who);
    let one = of(r#"{"a": {"x": 1, "y": [1, 2]}, "b": "é"}"#, "app");
    assert_eq!(one, of(r#"{ "b":"\u00e9", "a":{"y":[1,2],"x":1} }"#, "app"));
    assert_ne!(one, of(r#"{"a": {"x": 1, "y": [2, 1]}, "b": "é"}"#, "app"), "the order of an array matters");
    assert_ne!(one, of(r#"{"a": {"x": "1", "y": [1, 2]}, "b": "é"}"#, "app"));
    assert_ne!(one, of(r#"{"a": {"x": 1, "y": [1, 2]}, "b": "é"}"#, "other"));
}

/// Any JSON, with the contract's own words in it more often than chance would put them there.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "name",
        "pattern",
        "retry",
        "locks",
        "operations",
        "store",
        "sql",
        "cypher",
        "params",
        "upsert",
        "collection",
        "expect",
        "if",
        "equals",
        "rows",
        "id",
        "$ref",
        "$literal",
        "pg",
        "graph",
        "vec",
        "a",
        "max_attempts",
        "key",
        "record",
        "do",
        "in",
        "put",
        "set",
        "if_version",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        let name = prop_oneof![4 => word.clone().prop_map(str::to_owned), 1 => ".{0,6}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..6).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(value) = parse(&bytes) {
            let _ = request(value, &kinds);
        }
    }

    #[test]
    fn no_json_panics_and_every_pointer_leads_somewhere(body in any_json(), operation in any_json()) {
        for body in [body.clone(), one(operation.clone()), json!({"operations": [body, operation]})] {
            digest(&body, "p");
            let Err(problem) = request(body.clone(), &kinds) else { continue };
            let pointer = problem.pointer.expect("a refusal of a request says where");
            // An id may be missing where a default one clashes: then its parent is there.
            let place = body.pointer(&pointer).or_else(|| body.pointer(pointer.strip_suffix("/id")?));
            prop_assert!(place.is_some(), "{pointer} leads nowhere in {body}: {}", problem.detail);
        }
    }

    #[test]
    fn good_json_comes_back_as_it_was(body in any_json()) {
        for text in [body.to_string(), format!("{body:#}")] {
            prop_assert_eq!(parse(text.as_bytes()).map_err(|p| p.detail), Ok(body.clone()));
        }
    }
}
