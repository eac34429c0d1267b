//! What is done by hand, over real sockets, with a fake behind them.

use super::*;

const TOKENS: [(&str, &str); 2] = [("app", "app"), ("olga", "operator")];

fn principals() -> Option<Principals> {
    use sha2::Digest;
    let one = |(name, role): (&str, &str)| {
        let hash: String = sha2::Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("[[principal]]\nname = \"{name}\"\ntoken_sha256 = \"{hash}\"\nrole = \"{role}\"\n")
    };
    Some(Principals::parse(&TOKENS.map(one).concat()).unwrap())
}

async fn house() -> House {
    House::build(Wish { principals: principals(), ..Wish::default() }).await
}

fn resolve(house: &House, who: &str, id: &str, body: &Value) -> reqwest::RequestBuilder {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    house
        .request(Method::POST, &format!("/v1/transactions/{id}/resolve"))
        .bearer_auth(who)
        .header("traceparent", trace)
        .json(body)
}

#[tokio::test]
async fn operators_resolve_and_others_are_written_down() {
    let house = house().await;
    let body = json!({"action": "skip", "reason": "the collection is gone"});
    let (status, view) = answer(resolve(&house, "olga", fake::ID, &body)).await;
    assert_eq!((status.as_u16(), &view["id"]), (200, &json!(fake::ID)));
    let named = json!({"action": "retry", "reason": "r"});
    assert_eq!(answer(resolve(&house, "olga", "name:ingest:1", &named)).await.0, 200);
    assert_eq!(
        house.api.by_hand(),
        [format!("olga skip Id({})", fake::ID), "olga retry Name(\"ingest:1\")".to_owned()]
    );
    assert!(house.api.noted().is_empty(), "the coordinator writes down what it is told");
    // Whoever is no operator is refused before anything is read, and that is written down.
    assert_problem(answer(resolve(&house, "nobody", fake::ID, &body)).await, Code::Unauthenticated);
    assert_problem(answer(resolve(&house, "app", fake::ID, &body)).await, Code::Forbidden);
    let noted = house.api.noted();
    assert_eq!((noted.len(), &noted[0]["who"], &noted[0]["outcome"]), (1, &json!("app"), &json!("refused")));
    assert_eq!((&noted[0]["object"], &noted[0]["detail"]), (&json!(fake::ID), &json!("forbidden")));
    assert_eq!(noted[0]["trace"], "0af7651916cd43dd8448eb211c80319c");
    // Nobody acts unseen, not even in vain.
    house.api.deaf.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_problem(answer(resolve(&house, "app", fake::ID, &body)).await, Code::JournalUnavailable);
    assert_eq!(house.api.by_hand().len(), 2);
}

#[tokio::test]
async fn what_a_hand_may_not_do_is_a_problem_with_the_state() {
    let house = house().await;
    let rollback = json!({"action": "rollback", "reason": "r"});
    let body = assert_problem(answer(resolve(&house, "olga", fake::ID, &rollback)).await, Code::WrongState);
    assert_eq!((&body["state"], &body["transaction"]), (&json!("committed"), &json!(fake::ID)));
    let unknown = "0199aaaa-0000-7000-8000-000000000000";
    let retry = json!({"action": "retry", "reason": "r"});
    let body = assert_problem(answer(resolve(&house, "olga", unknown, &retry)).await, Code::NotFound);
    assert_eq!((&body["state"], &body["transaction"]), (&json!("unknown"), &json!(unknown)));
    for (id, body) in [
        ("nonsense", retry.clone()),
        (fake::ID, json!({"action": "retry"})),
        (fake::ID, json!({"action": "force", "reason": "r"})),
        (fake::ID, json!({"action": "retry", "reason": "two\nlines"})),
    ] {
        assert_problem(answer(resolve(&house, "olga", id, &body)).await, Code::InvalidRequest);
    }
    let strange = house.request(Method::POST, &format!("/v1/transactions/{}/resolve?force=1", fake::ID));
    assert_problem(answer(strange.bearer_auth("olga").json(&retry)).await, Code::InvalidRequest);
    let plain = house.request(Method::POST, &format!("/v1/transactions/{}/resolve", fake::ID)).bearer_auth("olga");
    assert_problem(answer(plain.body("{}")).await, Code::UnsupportedMediaType);
    let long = json!({"action": "retry", "reason": "r".repeat(20_000)});
    assert_problem(answer(resolve(&house, "olga", fake::ID, &long)).await, Code::PayloadTooLarge);
    let got = house.request(Method::GET, &format!("/v1/transactions/{}/resolve", fake::ID)).bearer_auth("olga");
    let response = got.send().await.unwrap();
    assert_eq!(response.headers()["allow"], "POST");
    assert_problem((response.status(), response.json().await.unwrap()), Code::MethodNotAllowed);
}

#[tokio::test]
async fn everybody_who_may_come_in_may_have_it_explained() {
    let house = house().await;
    let path = format!("/v1/transactions/{}/explain", fake::ID);
    let (status, body) = answer(house.request(Method::GET, &path).bearer_auth("app")).await;
    assert_eq!((status.as_u16(), &body["summary"]), (200, &json!(["It is so."])));
    assert_problem(answer(house.request(Method::GET, &path)).await, Code::Unauthenticated);
    let unknown = house.request(Method::GET, "/v1/transactions/0199aaaa-0000-7000-8000-000000000000/explain");
    let body = assert_problem(answer(unknown.bearer_auth("app")).await, Code::NotFound);
    assert_eq!(body["state"], "unknown");
}

#[tokio::test]
async fn an_operator_who_takes_anothers_lease_is_written_down() {
    let house = house().await;
    let release =
        |who: &str, lease: &str| house.request(Method::DELETE, &format!("/v1/locks/{lease}")).bearer_auth(who);
    assert_problem(answer(release("olga", "anns")).await, Code::NotFound);
    let noted = house.api.noted();
    let steps: Vec<_> =
        noted.iter().map(|line| (line["step"].as_str().unwrap(), line["action"].as_str().unwrap())).collect();
    assert_eq!(steps, [("asked", "lease_release"), ("answered", "lease_release")]);
    assert_eq!((&noted[0]["object"], &noted[0]["before"]), (&json!("anns"), &json!("held by ann")));
    // Who has no business with it, and a lease that nobody holds, leave no trace.
    assert_problem(answer(release("app", "anns")).await, Code::NotFound);
    assert_problem(answer(release("olga", "nobodys")).await, Code::NotFound);
    assert!(house.api.noted().is_empty());
    house.api.deaf.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_problem(answer(release("olga", "anns")).await, Code::JournalUnavailable);
}

#[tokio::test]
async fn orphans_are_seen_by_all_and_ended_by_operators() {
    let house = house().await;
    let (status, body) = answer(house.request(Method::GET, "/v1/orphans").bearer_auth("app")).await;
    assert_eq!((status.as_u16(), body), (200, json!({"orphans": [], "unreachable": []})));
    assert_problem(
        answer(house.request(Method::GET, "/v1/orphans?x=1").bearer_auth("app")).await,
        Code::InvalidRequest,
    );
    let body = json!({"store": "pg", "gid": "ogr1:x", "action": "commit", "reason": "r"});
    let post = |who: &str| house.request(Method::POST, "/v1/orphans/resolve").bearer_auth(who).json(&body);
    assert_problem(answer(post("app")).await, Code::Forbidden);
    assert_eq!(house.api.noted().len(), 1);
    assert_problem(answer(post("olga")).await, Code::WrongState);
    assert_eq!(house.api.by_hand(), ["olga Committed ogr1:x in pg"]);
}
