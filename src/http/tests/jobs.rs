//! Batch jobs at the door.

use super::*;

#[tokio::test]
async fn a_job_is_opened_by_its_name() {
    let house = House::new().await;
    let body = json!({"name": "job-7", "job": {"chunks": 3}});
    let response = house.post(&body).send().await.unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["location"], format!("/v1/transactions/{}", fake::ID));
    let (status, again) = answer(house.post(&body)).await;
    assert_eq!((status.as_u16(), &again["name"]), (200, &json!("job-7")));
    assert_problem(answer(house.post(&body).header("idempotency-key", "k")).await, Code::InvalidRequest);
    let problem = assert_problem(answer(house.post(&json!({"job": {}}))).await, Code::InvalidRequest);
    assert_eq!(problem["pointer"], "");
}

#[tokio::test]
async fn a_chunk_is_a_transaction_with_a_parent() {
    let house = House::new().await;
    let undo = json!({"operations": [{"store": "pg", "sql": "DELETE", "params": [{"$ref": "a#/rows/0/id"}]}]});
    let mut body = good();
    body["parent"] = json!("job-7");
    body["chunk"] = json!(2);
    body["compensate"] = undo;
    let (status, done) = answer(house.post(&body)).await;
    assert_eq!((status.as_u16(), &done["parent"], &done["chunk"]), (200, &json!("job-7"), &json!(2)));
    assert_eq!(house.api.last().0.operations[0].id, "a");
    let refused = answer(house.post(&body).header("idempotency-key", "k")).await;
    assert_eq!(assert_problem(refused, Code::InvalidRequest)["pointer"], "/chunk");
    body["interactive"] = json!(true);
    assert_eq!(assert_problem(answer(house.post(&body)).await, Code::InvalidRequest)["pointer"], "/interactive");
    body.as_object_mut().unwrap().remove("interactive");
    body["compensate"]["operations"][0]["params"][0]["$ref"] = json!("b#/rows");
    let pointer = "/compensate/operations/0/params/0/$ref";
    assert_eq!(assert_problem(answer(house.post(&body)).await, Code::InvalidRequest)["pointer"], pointer);
}

#[tokio::test]
async fn a_verdict_on_a_job_goes_to_the_job() {
    let house = House::new().await;
    let post = |what: &str, body: Value| {
        house.request(Method::POST, &format!("/v1/transactions/name:job-7/{what}")).json(&body)
    };
    assert_eq!(post("commit", json!({})).send().await.unwrap().status(), 200);
    let response = post("rollback", json!({})).send().await.unwrap();
    assert_eq!(response.status(), 202, "it is being undone");
    assert_eq!(response.headers()["location"], format!("/v1/transactions/{}", fake::ID));
    post("rollback", json!({"mark_failed": true})).send().await.unwrap();
    let found = house.api.found();
    assert!(
        found[0].contains("Commit") && found[1].contains("RollBack") && found[2].contains("MarkFailed"),
        "{found:?}"
    );
    assert_problem(answer(post("commit", json!({"mark_failed": true}))).await, Code::InvalidRequest);
}
