//! JSON ⇄ Cypher against the real server.

use outrigger::model::powers::Role;
use outrigger::model::problem::{Code, Problem};
use outrigger::model::request::BoundOp;
use serde_json::{Value, json};

use crate::contract::{Subject, fresh_name, fresh_owner, fresh_run, no_note};
use crate::{expecting, op, subject};

/// What one reading operation answers.
async fn read(subject: &Subject, bound: BoundOp) -> Result<Value, Problem> {
    let context = subject.context(fresh_owner(), fresh_run());
    let mut session = subject.store.open(&context, Role::Reader).await.unwrap();
    let results = session.work(&[bound]).await;
    session.rollback().await;
    results.map(|mut results| results.remove(0))
}

/// What writing operations answer, rolled back.
async fn write(subject: &Subject, ops: &[BoundOp]) -> Result<Vec<Value>, Problem> {
    let owner = subject.registered().await;
    let mut session = subject.decider(&subject.context(owner, fresh_run())).await;
    let results = session.work(ops).await;
    session.rollback().await;
    results
}

async fn value(subject: &Subject, cypher: &str) -> Value {
    let result = read(subject, op(&format!("RETURN {cypher} AS v"), json!({}), true)).await.expect(cypher);
    result["rows"][0]["v"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_come_back_as_they_went() {
    let (subject, _turn) = subject().await;
    let deep = (0..100).fold(json!("deep"), |inner, _| json!([inner]));
    for sent in [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(0.5),
        json!(-1.5e300),
        json!(""),
        json!("ä 𝄞 \u{0} ' \" \\ $x"),
        json!("x".repeat(70_000)),
        json!([]),
        json!([1, null, "a", [true, {}]]),
        json!({"a": {"b": [1.5, {"c": null}]}, "": 1, "ä b": 2}),
        json!((0..1000).collect::<Vec<_>>()),
        deep,
    ] {
        for result in [
            read(&subject, op("RETURN $v AS v", json!({"v": sent}), true)).await.unwrap(),
            write(&subject, &[op("RETURN $v AS v", json!({"v": sent}), false)]).await.unwrap().remove(0),
        ] {
            assert_eq!(result["rows"], json!([{"v": sent}]));
            assert_eq!(result["counters"], json!({}));
        }
    }
    let result = read(&subject, op("UNWIND range(1, 1000) AS i RETURN i, toString(i) AS t", Value::Null, true)).await;
    let result = result.unwrap();
    let rows = result["rows"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[999]), (1000, &json!({"i": 1000, "t": "1000"})), "more rows than one PULL takes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_of_every_type() {
    let (subject, _turn) = subject().await;
    for (cypher, expected) in [
        ("0.0/0.0", json!("NaN")),
        ("1.0/0.0", json!("Infinity")),
        ("-1.0/0.0", json!("-Infinity")),
        ("date('2026-11-21')", json!("2026-11-21")),
        ("date('-0044-03-15')", json!("-0044-03-15")),
        ("localtime('12:50:35.556123456')", json!("12:50:35.556123")),
        ("localtime('12:50')", json!("12:50:00")),
        ("time('12:50:35.5+01:00')", json!("12:50:35.500+01:00")),
        ("time('12:50Z')", json!("12:50:00Z")),
        ("localdatetime('2026-11-21T06:23:59.000001')", json!("2026-11-21T06:23:59.000001")),
        ("datetime('2026-11-21T06:23:59Z')", json!("2026-11-21T06:23:59Z")),
        ("datetime('2026-11-21T06:23:59.123-03:30')", json!("2026-11-21T06:23:59.123-03:30")),
        ("datetime('2026-07-01T08:00:00[Europe/Paris]')", json!("2026-07-01T08:00:00+02:00")),
        ("duration('P1Y2M3DT4H5M6.789S')", json!("P1Y2M3DT4H5M6.789S")),
        ("duration({seconds: -90})", json!("PT-1M-30S")),
        ("duration({seconds: 0})", json!("PT0S")),
        ("point({x: 1.5, y: -2})", json!({"srid": 7203, "x": 1.5, "y": -2.0})),
        (
            "point({longitude: 12.0, latitude: 56.0, height: 3.0})",
            json!({"srid": 4979, "x": 12.0, "y": 56.0, "z": 3.0}),
        ),
        ("[date('2026-01-01'), null, {d: duration('P1D')}]", json!(["2026-01-01", null, {"d": "P1D"}])),
        ("{a: [], b: {}}", json!({"a": [], "b": {}})),
    ] {
        assert_eq!(value(&subject, cypher).await, expected, "{cypher}");
    }
    // What Neo4j calls a duration and what we call it are the same.
    for text in ["P1Y", "P14M3D", "PT0.000000001S", "PT-0.5S", "P-1M2DT-3.25S", "PT25H61M61S"] {
        let ours = value(&subject, &format!("duration('{text}')")).await;
        assert_eq!(ours, value(&subject, &format!("toString(duration('{text}'))")).await, "{text}");
    }
    let problem = read(&subject, op("RETURN date('-999999-01-01') AS v", json!({}), true)).await.unwrap_err();
    assert_eq!(problem.code, Code::RejectedByStore);
    assert!(problem.detail.contains("toString"), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_relationships_and_paths() {
    let (subject, _turn) = subject().await;
    let cypher = "CREATE (a:A:B {n: 1, tags: ['x'], at: date('2026-01-01')})-[r:KNOWS {since: 7}]->(b:A {n: 2})<-[s:SAW]-(c:A {n: 3}) \
                  WITH a, b, c, r, s MATCH p = (a)-->(b)<--(c) \
                  RETURN a, r, p, elementId(a) AS ea, elementId(b) AS eb, elementId(c) AS ec, elementId(r) AS er, elementId(s) AS es";
    let result = write(&subject, &[op(cypher, json!({}), false)]).await.unwrap().remove(0);
    let row = &result["rows"][0];
    let (ea, eb, ec, er, es) = (&row["ea"], &row["eb"], &row["ec"], &row["er"], &row["es"]);
    let mut a = row["a"].clone();
    a["labels"].as_array_mut().unwrap().sort_by_key(ToString::to_string);
    let properties = json!({"at": "2026-01-01", "n": 1, "tags": ["x"]});
    assert_eq!(a, json!({"element_id": ea, "labels": ["A", "B"], "properties": properties}));
    let knows = json!({"element_id": er, "type": "KNOWS", "start": ea, "end": eb, "properties": {"since": 7}});
    assert_eq!(row["r"], knows);
    let saw = json!({"element_id": es, "type": "SAW", "start": ec, "end": eb, "properties": {}});
    assert_eq!(row["p"]["relationships"], json!([knows, saw]), "the second is walked against its direction");
    let nodes: Vec<_> = row["p"]["nodes"].as_array().unwrap().iter().map(|node| node["element_id"].clone()).collect();
    assert_eq!(nodes, [ea.clone(), eb.clone(), ec.clone()]);
    assert_eq!(
        result["counters"],
        json!({"nodes_created": 3, "relationships_created": 2, "properties_set": 6, "labels_added": 4})
    );
    let alone = write(&subject, &[op("CREATE p = (n:A) RETURN p", json!({}), false)]).await.unwrap().remove(0);
    assert_eq!(alone["rows"][0]["p"]["nodes"].as_array().unwrap().len(), 1);
    // An element id of ours leads back to its node.
    let owner = subject.registered().await;
    let name = fresh_name();
    let mut session = subject.decider(&subject.context(owner, fresh_run())).await;
    let created =
        session.work(&[op("CREATE (t:Thing {name: $name}) RETURN t", json!({"name": name}), false)]).await.unwrap();
    let id = &created[0]["rows"][0]["t"]["element_id"];
    let find = op("MATCH (t) WHERE elementId(t) = $id RETURN t.name AS name", json!({"id": id}), false);
    assert_eq!(session.work(&[find]).await.unwrap()[0]["rows"], json!([{"name": name}]));
    session.rollback().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_counted_as_the_contract_says() {
    let (subject, _turn) = subject().await;
    let name = json!({"name": fresh_name()});
    let create = "CREATE (:Thing {name: $name}), (:Thing {name: $name})";
    let set = "MATCH (t:Thing {name: $name}) SET t.a = 1";
    let reads = "MATCH (t:Thing {name: $name}) RETURN t";
    let good = [
        expecting(2, op(create, name.clone(), false)),
        expecting(2, op(set, name.clone(), false)),
        expecting(2, op(reads, name.clone(), false)),
        expecting(0, op("MATCH (t:Nothing) SET t.a = 1", json!({}), false)),
        expecting(2, op("MATCH (t:Thing {name: $name}) DETACH DELETE t", name.clone(), false)),
        expecting(0, op(reads, name.clone(), false)),
    ];
    let results = write(&subject, &good).await.unwrap();
    assert_eq!(results[1]["counters"], json!({"properties_set": 2}));
    let problem = write(&subject, &[expecting(1, op(create, name, false))]).await.unwrap_err();
    assert_eq!((problem.code, problem.operation.as_deref()), (Code::Conflict, Some("node")));
    let mut session = subject.decider(&subject.context(subject.registered().await, fresh_run())).await;
    session.work(&[expecting(1, op("MATCH (t:Nothing) RETURN t", json!({}), false))]).await.unwrap_err();
    assert!(matches!(session.commit(&no_note()).await, outrigger::store::Decision::Refused(_)));
}

/// The first operation rides in the marker's statement where its text allows it; nobody must be able to tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_operation_is_like_any_other() {
    let (subject, _turn) = subject().await;
    let owner = subject.registered().await;
    let name = fresh_name();
    let given = json!({"name": name, "list": [1, 2]});
    for cypher in [
        "CREATE (t:Thing {name: $name}) SET t.a = 1, t.b = 2",
        "CREATE (t:Thing {name: $name}) RETURN t.name AS n, labels(t) AS l",
        "MERGE (t:Thing {name: $name}) ON CREATE SET t.made = true RETURN t.made AS made; ",
        "MATCH (t:Thing {name: $name}) RETURN count(t) AS n",
        "MATCH (t:Thing {name: $name}) RETURN t",
        "MATCH (t:Nothing) SET t.x = 1",
        "UNWIND $list AS x CREATE (t:Thing {name: $name, x: x}) RETURN *",
        "WITH 1 AS x UNWIND $list AS y RETURN *",
        "WITH *, 5 AS five RETURN five",
        "FOREACH (x IN $list | CREATE (:Thing {name: $name, x: x}))",
        "OPTIONAL MATCH (t:Nothing) RETURN t",
        "// RETURN\nCREATE (t:Thing {name: $name}) /* ; */ // the end",
        "MATCH (d:OutriggerDecision {id: $id}) RETURN d.outcome AS outcome",
        "CREATE (`RETURN`:Thing {name: $name}) DELETE `RETURN`",
        "RETURN 1 AS one UNION RETURN 2 AS one",
        "CYPHER runtime=slotted MATCH (t:Thing {name: $name}) RETURN count(t) AS n",
        "UNWIND $list AS x CALL (x) { RETURN x * 2 AS y } RETURN sum(y) AS s",
    ] {
        for key in [None, Some(crate::contract::fresh_key())] {
            let answered = |first: bool| {
                let (subject, given, key) = (&subject, given.clone(), key.clone());
                async move {
                    let run = fresh_run();
                    let mut given = given;
                    given["id"] = run.to_string().into();
                    let mut context = subject.context(owner, run);
                    context.key = key;
                    let mut session = subject.decider(&context).await;
                    if !first {
                        session.work(&[op("RETURN 1", json!({}), false)]).await.unwrap();
                    }
                    let mut result = session.work(&[op(cypher, given, false)]).await;
                    // Made anew each time, its number is another.
                    if let Ok(results) = &mut result
                        && let Some(rows) = results[0]["rows"].as_array_mut()
                    {
                        for node in rows.iter_mut().filter_map(|row| row.get_mut("t")).filter(|t| t.is_object()) {
                            node["element_id"] = Value::Null;
                        }
                    }
                    session.rollback().await;
                    result
                }
            };
            let (first, second) = (answered(true).await, answered(false).await);
            if !cypher.starts_with("WITH *") {
                assert!(first.is_ok(), "{cypher}: {first:?}");
            }
            assert_eq!(first, second, "{cypher}");
        }
    }
}

/// What the server says of a first operation is about the client's text, not about what we made of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_operation_is_refused_in_its_own_words() {
    let (subject, _turn) = subject().await;
    for cypher in [
        "CREATE (t:Thing",
        "MATCH (t:Thing) SET",
        "MATCH (t:Thing) RETURN nobody",
        "CREATE (t:Thing {a: 1 / $zero}) RETURN t",
        "MATCH (t) RETURN $missing",
        "MATCH (t:Thing); MATCH (u:Thing) DELETE u",
        "MATCH (t:Thing)",
        "CREATE (t:Thing {a: $map})",
    ] {
        let given = json!({"zero": 0, "map": {"a": 1}});
        let first = write(&subject, &[op(cypher, given.clone(), false)]).await.expect_err(cypher);
        let second =
            write(&subject, &[op("RETURN 1", json!({}), false), op(cypher, given, false)]).await.expect_err(cypher);
        assert!(!first.detail.contains("__ogr") && !first.detail.contains("Outrigger"), "{first}");
        assert_eq!(first, second, "{cypher}");
    }
}
