//! Interactive transactions at the door.

use http::Method;
use serde_json::{Value, json};

use super::{House, fake};

/// The door's own part of interactive transactions: which transaction, what body, whose.
#[tokio::test]
async fn calls_to_an_open_transaction_are_read_and_passed_on() {
    let house = House::new().await;
    let opened = house.post(&json!({"interactive": true})).send().await.unwrap();
    assert_eq!(opened.status(), 201);
    assert_eq!(opened.headers()["location"], format!("/v1/transactions/{}", fake::ID));
    let call = |what: &str, body: Option<Value>| {
        let request = house.request(Method::POST, &format!("/v1/transactions/name:a/{what}"));
        match body {
            Some(body) => request.json(&body),
            None => request,
        }
    };
    let operations = json!({"operations": [{"store": "pg", "sql": "SELECT 1"}]});
    for (what, body, status) in [
        ("operations", Some(operations), 200),
        ("operations", None, 400),
        ("prepare", None, 200),
        ("prepare", Some(json!({"prepared_ttl_ms": 1})), 400),
        ("commit", None, 200),
        ("commit", Some(json!({"wait": "decided"})), 200),
        ("rollback", Some(json!({"reason": "x"})), 400),
        ("nothing", None, 404),
    ] {
        let reply = call(what, body.clone()).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), status, "{what} {body:?}");
    }
    let found = house.api.found();
    assert_eq!(found.len(), 4, "what was refused reached nobody: {found:?}");
    assert!(found[1].contains("prepare 86400s rollback"), "{found:?}");
    assert!(found[3].contains(r#"committed Some(Decided) Principal("anonymous")"#), "{found:?}");
    let (status, _) = house.get("/v1/transactions/name:a/commit").await;
    assert_eq!(status, 405);
}
