//! The door and the porch over real sockets, with a fake behind them.

mod events;
mod fake;
mod interactive;
mod jobs;
mod operator;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::{Config, Listen, Principals};
use crate::metrics::Metrics;
use crate::model::problem::{Code, Problem};
use crate::model::state::TxnState;
use crate::model::view::Answer;
use fake::Fake;

/// A running door.
struct House {
    address: String,
    client: Client,
    api: Arc<Fake>,
    metrics: Metrics,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

/// What differs between the houses of the tests.
struct Wish {
    principals: Option<Principals>,
    max_in_flight: usize,
    limits: Limits,
}

impl Default for Wish {
    fn default() -> Self {
        Self { principals: None, max_in_flight: 8, limits: Limits::new(8, Duration::from_secs(5)) }
    }
}

impl House {
    async fn new() -> Self {
        Self::build(Wish::default()).await
    }

    async fn build(wish: Wish) -> Self {
        let text = "[stores.pg]\nkind = \"postgres\"\nurl = \"postgres://h/d\"";
        let mut server = Config::parse(text, []).unwrap().server;
        server.max_in_flight = wish.max_in_flight;
        server.max_body_bytes = 4096;
        let (api, metrics) = (Arc::new(Fake::default()), Metrics::new(&["pg".into()]));
        let access = Access::new(wish.principals.as_ref());
        let shutdown = CancellationToken::new();
        let behind = Arc::clone(&api) as Arc<dyn Api>;
        let router = Door::new(behind, access, metrics.clone(), &server, shutdown.clone()).router();
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap())).await.unwrap();
        let address = listener.address();
        let server = tokio::spawn(run(router, listener, wish.limits, shutdown.clone()));
        Self { address, client: Client::new(), api, metrics, shutdown, server }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    fn post(&self, body: &Value) -> reqwest::RequestBuilder {
        self.request(Method::POST, "/v1/transactions").json(body)
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path)).await
    }

    /// Sends raw bytes on a connection of its own and reads until the server closes.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut text = String::new();
        timeout(Duration::from_secs(20), stream.read_to_string(&mut text)).await.unwrap().unwrap();
        text
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

fn good() -> Value {
    json!({"operations": [{"id": "a", "store": "pg", "sql": "INSERT INTO t VALUES (1)"}]})
}

/// Asserts a problem with all its members.
fn assert_problem(response: (StatusCode, Value), code: Code) -> Value {
    let (status, body) = response;
    assert_eq!(body["code"], code.as_str(), "{body}");
    assert_eq!((status.as_u16(), body["status"].as_u64()), (code.status(), Some(code.status().into())));
    assert_eq!(body["type"], format!("urn:outrigger:problem:{}", code.as_str()));
    assert_eq!(body["retryable"], code.retryable());
    assert_eq!(body["title"], code.title());
    assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    body
}

#[tokio::test]
async fn a_transaction_goes_in_and_its_outcome_comes_out() {
    let house = House::new().await;
    let response = house.post(&good()).header("idempotency-key", "k/1").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert!(!response.headers().contains_key("server"));
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["state"], "committed");
    let (request, key) = house.api.last();
    assert_eq!(request.operations[0].id, "a");
    let key = key.unwrap();
    assert_eq!((key.key.as_str(), key.digest), ("anonymous/k/1", wire::digest(&good(), "anonymous")));
}

#[tokio::test]
async fn each_outcome_has_its_status() {
    let house = House::new().await;
    for state in [TxnState::Committed, TxnState::Committing, TxnState::NeedsIntervention] {
        house.api.answer_with(Answer::View(fake::view(state)));
        assert_eq!(house.post(&good()).send().await.unwrap().status(), 200, "{state:?}");
    }
    house.api.answer_with(Answer::View(fake::view(TxnState::InDoubt)));
    let response = house.post(&good()).send().await.unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["location"], format!("/v1/transactions/{}", fake::ID));
    assert_eq!(response.headers()["retry-after"], "1");
    house.api.answer_with(Answer::Replayed(fake::view(TxnState::Committed)));
    let response = house.post(&good()).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["idempotency-replayed"]),
        (200, &"true".parse().unwrap())
    );
    for code in Code::ALL {
        house.api.answer_with(Answer::Problem(Box::new(Problem::new(*code, "because"))));
        let response = house.post(&good()).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let waits = response.headers().contains_key("retry-after");
        assert_eq!(
            waits,
            [409, 429, 503, 507].contains(&code.status()) && Problem::new(*code, "").retry_after.is_some()
        );
        assert_problem((response.status(), response.json().await.unwrap()), *code);
    }
}

#[tokio::test]
async fn respond_async_is_accepted_with_a_location() {
    let house = House::new().await;
    let response = house.post(&good()).header("prefer", "wait=5, respond-async").send().await.unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()["location"], format!("/v1/transactions/{}", fake::ID));
    assert_eq!(response.headers()["preference-applied"], "respond-async");
    assert_eq!(response.json::<Value>().await.unwrap()["id"], fake::ID);
}

#[tokio::test]
async fn transactions_are_found_by_id_name_and_key() {
    let house = House::new().await;
    for path in [
        format!("/v1/transactions/{}", fake::ID),
        "/v1/transactions/name:ingest:doc-42".to_owned(),
        "/v1/idempotency/a%2Fb/c".to_owned(),
    ] {
        let (status, body) = house.get(&path).await;
        assert_eq!((status.as_u16(), &body["id"]), (200, &json!(fake::ID)), "{path}");
    }
    assert_eq!(house.api.found(), ["Id", "Name(\"ingest:doc-42\")", "Key(\"anonymous/a/b/c\")"]);
    let id = "0199aaaa-0000-7000-8000-000000000000";
    let body = assert_problem(house.get(&format!("/v1/transactions/{id}")).await, Code::NotFound);
    assert_eq!((&body["state"], &body["transaction"]), (&json!("unknown"), &json!(id)));
    for path in
        ["/v1/transactions/nonsense", "/v1/transactions/name:a%20b", "/v1/transactions/name:", "/v1/idempotency/a%20b"]
    {
        assert_problem(house.get(path).await, Code::InvalidRequest);
    }
}

#[tokio::test]
async fn lists_are_filtered_and_strange_parameters_refused() {
    let house = House::new().await;
    let (status, body) = house
        .get(&format!("/v1/transactions?state=in_doubt&name=x&store=pg&older_than_ms=5&limit=7&cursor={}", fake::ID))
        .await;
    assert_eq!((status.as_u16(), &body["next_cursor"]), (200, &Value::Null));
    let filter = house.api.filter();
    assert_eq!((filter.state, filter.limit, filter.older_than_ms), (Some(TxnState::InDoubt), 7, Some(5)));
    assert_eq!((filter.name.as_deref(), filter.store.as_deref()), (Some("x"), Some("pg")));
    assert_eq!(filter.cursor.map(|id| id.to_string()).as_deref(), Some(fake::ID));
    for query in [
        "stat=x",
        "state=lost",
        "limit=0",
        "limit=1001",
        "limit=x",
        "older_than_ms=-1",
        "cursor=x",
        "store=nowhere",
        "limit=1&limit=1",
    ] {
        assert_problem(house.get(&format!("/v1/transactions?{query}")).await, Code::InvalidRequest);
    }
    for path in ["/v1/status?x=1", "/openapi.json?x", "/v1/transactions/name:a?x=1", "/v1/idempotency/k?x=1"] {
        assert_problem(house.get(path).await, Code::InvalidRequest);
    }
    let posted = house.request(Method::POST, "/v1/transactions?dry=1").json(&good());
    assert_problem(answer(posted).await, Code::InvalidRequest);
}

#[tokio::test]
async fn wrong_paths_methods_types_and_keys_are_problems() {
    let house = House::new().await;
    for path in ["/", "/v1", "/v1/transactions/", "/v1/locks/", "/metrics"] {
        assert_problem(house.get(path).await, Code::NotFound);
    }
    for (method, path) in
        [(Method::DELETE, "/v1/transactions"), (Method::PUT, "/v1/locks"), (Method::OPTIONS, "/openapi.json")]
    {
        let response = house.request(method, path).send().await.unwrap();
        assert!(response.headers()["allow"].to_str().unwrap().starts_with("GET, HEAD"));
        assert_problem((response.status(), response.json().await.unwrap()), Code::MethodNotAllowed);
    }
    let response = house.request(Method::GET, "/v1/locks/x").send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["allow"].to_str().unwrap()), (405, "PUT, DELETE"));
    for kind in
        ["text/plain", "application/xml", "application/json; charset=latin1", "application/x-www-form-urlencoded"]
    {
        let request =
            house.request(Method::POST, "/v1/transactions").header("content-type", kind).body(good().to_string());
        assert_problem(answer(request).await, Code::UnsupportedMediaType);
    }
    let request = house.request(Method::POST, "/v1/transactions").body(good().to_string());
    assert_problem(answer(request).await, Code::UnsupportedMediaType);
    for key in ["", "a b", &"x".repeat(256)] {
        assert_problem(answer(house.post(&good()).header("idempotency-key", key)).await, Code::InvalidRequest);
    }
    let twice = house.post(&good()).header("idempotency-key", "a").header("idempotency-key", "b");
    assert_problem(answer(twice).await, Code::InvalidRequest);
    let body = assert_problem(
        answer(house.post(&json!({"operations": [{"store": "pg", "sql": 1}]}))).await,
        Code::InvalidRequest,
    );
    assert_eq!((&body["pointer"], &body["operation"]), (&json!("/operations/0/sql"), &json!("0")));
    assert_eq!(house.api.submissions(), 0, "nothing of all that reached the coordinator");
}

#[tokio::test]
async fn large_and_broken_bodies_are_refused_and_the_client_hears_it() {
    let house = House::new().await;
    let large = || vec![b' '; 20 << 20];
    let request = house.request(Method::POST, "/v1/transactions").header("content-type", "application/json");
    assert_problem(answer(request.body(large())).await, Code::PayloadTooLarge);
    // The same without saying beforehand how long it will be.
    let head = "POST /v1/transactions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n";
    let chunk = format!("2000\r\n{}\r\n0\r\n\r\n", " ".repeat(0x2000));
    let text = house.raw(format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}").as_bytes()).await;
    assert!(text.starts_with("HTTP/1.1 413") && text.contains("payload_too_large"), "{text}");
    // A client that waits for leave to send is refused it.
    let text = house.raw(format!("{head}content-length: 99999\r\nexpect: 100-continue\r\n\r\n").as_bytes()).await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    let deep = "[".repeat(4000);
    for body in [&b"\xff\xfe{}"[..], b"{", deep.as_bytes(), b""] {
        let request = house.request(Method::POST, "/v1/transactions").header("content-type", "application/json");
        assert_problem(answer(request.body(body.to_vec())).await, Code::InvalidRequest);
    }
    assert_eq!(house.post(&good()).send().await.unwrap().status(), 200, "unharmed");
}

#[tokio::test]
async fn only_known_tokens_come_in() {
    let hash = |token: &str| {
        use sha2::Digest;
        sha2::Sha256::digest(token).iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let text = format!("[[principal]]\nname = \"app\"\ntoken_sha256 = \"{}\"\nrole = \"app\"", hash("s3cret"));
    let principals = Some(Principals::parse(&text).unwrap());
    let house = House::build(Wish { principals, ..Wish::default() }).await;
    let response = house.post(&good()).send().await.unwrap();
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    assert_problem((response.status(), response.json().await.unwrap()), Code::Unauthenticated);
    for authorization in ["Bearer wrong", "Basic s3cret", "Bearer", "s3cret"] {
        let request = house.post(&good()).header("authorization", authorization);
        assert_problem(answer(request).await, Code::Unauthenticated);
    }
    for path in ["/v1/transactions", "/v1/status", "/v1/idempotency/k", "/v1/transactions/name:x"] {
        assert_problem(house.get(path).await, Code::Unauthenticated);
    }
    let (status, _) = answer(house.post(&good()).header("idempotency-key", "k").bearer_auth("s3cret")).await;
    assert_eq!(status, 200);
    assert_eq!(house.api.last().1.unwrap().key, "app/k");
    assert_eq!(house.get("/openapi.json").await.0, 200, "the contract is no secret");
}

#[test]
fn the_local_operator_gets_a_token_for_nobody_else_to_read() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let mut access = Access::new(None);
    access.leave_operator_token(dir.path()).unwrap();
    access.leave_operator_token(dir.path()).unwrap();
    let path = operator_token_path(dir.path());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&path).unwrap();
    let headers = |token: &str| {
        let value = format!("Bearer {token}").parse().unwrap();
        ::http::HeaderMap::from_iter([(::http::header::AUTHORIZATION, value)])
    };
    assert!(access.visitor(&headers(&token)).unwrap().must_be_operator().is_ok());
    let other = access.visitor(&headers("other")).unwrap();
    assert_eq!((&*other.name, other.must_be_operator().unwrap_err().code), ("anonymous", Code::Forbidden));
}

#[tokio::test]
async fn beyond_the_bound_a_few_wait_and_the_rest_is_turned_away() {
    let house = House::build(Wish { max_in_flight: 1, ..Wish::default() }).await;
    house.api.hold();
    let spawn = || tokio::spawn(answer(house.post(&good())));
    let first = spawn();
    house.api.until_submitted(1).await;
    // One waits in the queue (of one), the next is refused at once, and the status is readable all the while.
    let second = spawn();
    let refused = async {
        loop {
            let began = Instant::now();
            let response = house.post(&good()).send().await.unwrap();
            if began.elapsed() < Duration::from_millis(500) {
                return response;
            }
        }
    };
    let refused = timeout(Duration::from_secs(10), refused).await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_problem((refused.status(), refused.json().await.unwrap()), Code::Overloaded);
    assert_eq!(house.get("/v1/status").await.0, 200);
    house.api.let_go();
    assert_eq!(first.await.unwrap().0, 200);
    let second = second.await.unwrap();
    assert!(second.0 == 200 || second.1["code"] == "overloaded", "{second:?}");
    assert_eq!(house.post(&good()).send().await.unwrap().status(), 200, "the places come back");
}

#[tokio::test]
async fn a_shutdown_lets_the_work_finish_and_cuts_what_never_ends() {
    let house = House::new().await;
    house.api.hold();
    let working = tokio::spawn(answer(house.post(&good())));
    house.api.until_submitted(1).await;
    let idle = TcpStream::connect(&house.address).await.unwrap();
    house.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(TcpStream::connect(&house.address).await.is_err(), "nobody new comes in");
    assert!(!house.server.is_finished(), "one is still at work");
    house.api.let_go();
    assert_eq!(working.await.unwrap().0, 200);
    timeout(Duration::from_secs(2), house.server).await.expect("nothing is left to wait for").unwrap();
    drop(idle);

    let limits = Limits { drain: Duration::from_millis(200), ..Limits::new(8, Duration::ZERO) };
    let house = House::build(Wish { limits, ..Wish::default() }).await;
    house.api.hold();
    let stuck = tokio::spawn(house.post(&good()).send());
    house.api.until_submitted(1).await;
    house.shutdown.cancel();
    timeout(Duration::from_secs(5), house.server).await.expect("the drain has an end").unwrap();
    assert!(stuck.await.unwrap().is_err());
}

#[tokio::test]
async fn silent_and_endless_clients_are_cut() {
    let short = Duration::from_millis(150);
    let limits = Limits { first_byte: short, head: short, ..Limits::new(8, short) };
    let house = House::build(Wish { limits, ..Wish::default() }).await;
    for bytes in [&b""[..], b"GET /v1/status HTTP/1.1\r\nhost: x\r\nx-a: ", b"nonsense\r\n\r\n"] {
        let began = Instant::now();
        let text = house.raw(bytes).await;
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(!text.contains("200 OK"), "{text}");
    }
    let huge = format!("GET /v1/status HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(60_000));
    assert!(house.raw(huge.as_bytes()).await.starts_with("HTTP/1.1 431"));
    // An idle connection goes as well.
    let text = house.raw(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn a_panic_is_a_problem_and_nothing_more() {
    let house = House::new().await;
    house.api.panic_once();
    assert_problem(answer(house.post(&good())).await, Code::Internal);
    assert_eq!(house.post(&good()).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn requests_are_counted_by_route_and_status() {
    let house = House::new().await;
    let series = |m: &Metrics| m.render().lines().filter(|l| l.starts_with("outrigger_http")).count();
    let before = series(&house.metrics);
    house.post(&good()).send().await.unwrap();
    house.post(&json!({})).send().await.unwrap();
    house.get("/v1/status").await;
    house.get("/v1/idempotency/k").await;
    house.get("/nowhere").await;
    house.request(Method::HEAD, "/v1/status").send().await.unwrap();
    let text = house.metrics.render();
    for (route, status, count) in [
        ("POST /v1/transactions", 200, 1),
        ("POST /v1/transactions", 400, 1),
        ("GET /v1/status", 200, 2),
        ("GET /v1/idempotency/{key}", 200, 1),
        ("unknown", 404, 1),
    ] {
        let line = format!("outrigger_http_requests_total{{route=\"{route}\",status=\"{status}\"}} {count}");
        assert!(text.lines().any(|l| l == line), "{line} is missing");
    }
    assert_eq!(series(&house.metrics), before, "every series was there from the start");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a list of what is there is long")]
async fn the_contract_lists_every_path_with_its_problems() {
    let house = House::new().await;
    let (_, document) = house.get("/openapi.json").await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths: BTreeMap<String, Value> = serde_json::from_value(document["paths"].clone()).unwrap();
    let expected = [
        "/openapi.json",
        "/v1/deadlocks",
        "/v1/events",
        "/v1/idempotency/{key}",
        "/v1/locks",
        "/v1/locks/{lease}",
        "/v1/orphans",
        "/v1/orphans/resolve",
        "/v1/status",
        "/v1/transactions",
        "/v1/transactions/{id}",
        "/v1/transactions/{id}/commit",
        "/v1/transactions/{id}/explain",
        "/v1/transactions/{id}/operations",
        "/v1/transactions/{id}/prepare",
        "/v1/transactions/{id}/resolve",
        "/v1/transactions/{id}/rollback",
        "/v1/wait-for",
    ];
    assert_eq!(paths.keys().collect::<Vec<_>>(), expected);
    let responses = &paths["/v1/transactions"]["post"]["responses"];
    for status in
        ["200", "202", "400", "401", "403", "409", "413", "415", "422", "429", "500", "501", "503", "504", "507"]
    {
        assert!(responses[status].is_object(), "{status} is not documented");
    }
    let problem = &responses["409"]["content"]["application/problem+json"]["schema"]["$ref"];
    assert_eq!(problem, "#/components/schemas/Problem");
    assert!(responses["409"]["description"].as_str().unwrap().contains("`deadlock`"));
    // Every `$ref` of the document leads somewhere.
    let text = document.to_string();
    for part in text.split("\"$ref\":\"#").skip(1) {
        let pointer = part.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer} leads nowhere");
    }
    // Every member that `wire` knows stands in it.
    let schemas = &document["components"]["schemas"];
    for (schema, members) in [
        (
            "TransactionRequest",
            &[
                "name",
                "pattern",
                "isolation",
                "timeout_ms",
                "retry",
                "locks",
                "wait",
                "interactive",
                "lease_ms",
                "operations",
            ][..],
        ),
        (
            "Operation",
            &["id", "store", "read", "write", "sql", "cypher", "params", "collection", "upsert", "count", "expect"],
        ),
        ("Record", &["do", "in", "key", "set", "vector", "version", "if_version"]),
        ("MoreOperations", &["operations"]),
        ("PrepareRequest", &["prepared_ttl_ms", "on_expiry"]),
        ("EndRequest", &["wait"]),
        ("LeaseRequest", &["key", "mode", "ttl_ms", "wait_ms"]),
        ("RenewRequest", &["ttl_ms"]),
        ("ResolveRequest", &["action", "reason"]),
        ("Explanation", &["summary", "decider", "promises", "ends_when", "operator", "setbacks"]),
        ("Expect", &["rows", "equals", "if"]),
        ("Event", &["at", "transaction", "name", "kind", "state", "attempt", "trace_id", "detail"]),
        ("View", &["id", "trace_id", "state", "plan", "results", "pending", "timeline"]),
    ] {
        for member in members {
            assert!(schemas[schema]["properties"][member].is_object(), "{schema} lacks {member}");
        }
    }
}

#[tokio::test]
async fn the_porch_answers_probes_and_takes_nothing() {
    let ready = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_ready = Arc::clone(&ready);
    let router = porch::router(
        Metrics::new(&["pg".into()]),
        Arc::new(move || is_ready.load(std::sync::atomic::Ordering::Relaxed)),
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("porch.sock");
    let listen = Listen::Unix(path.clone());
    // A socket file that a dead process left behind is no obstacle; a living one is.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = Listener::bind(&listen).await.unwrap();
    assert!(Listener::bind(&listen).await.is_err());
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(run(router, listener, Limits::new(8, Duration::from_secs(1)), shutdown.clone()));
    let ask = async |request: &str| {
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        stream
            .write_all(format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    assert!(ask("GET /livez").await.starts_with("HTTP/1.1 200"));
    assert!(ask("GET /readyz").await.starts_with("HTTP/1.1 503"));
    assert!(ask("GET /metrics").await.contains("\noutrigger_ready 0\n"));
    ready.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(ask("GET /readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = ask("GET /metrics").await;
    assert!(metrics.contains("\noutrigger_ready 1\n"), "the gauge says what the probe says");
    assert!(metrics.contains("text/plain; version=0.0.4") && metrics.contains("outrigger_build_info"));
    assert!(ask("GET /v1/transactions").await.starts_with("HTTP/1.1 404"));
    assert!(ask("POST /metrics").await.starts_with("HTTP/1.1 405"));
    shutdown.cancel();
    server.await.unwrap();
    assert!(!path.exists(), "the socket goes with its server");
}

#[tokio::test]
async fn in_repair_mode_only_the_status_answers() {
    let text = "[stores.pg]\nkind = \"postgres\"\nurl = \"postgres://h/d\"";
    let server = Config::parse(text, []).unwrap().server;
    let api = RepairMode { reason: "segment 3 is corrupt".into(), stores: vec![("pg".into(), "postgres")] };
    let shutdown = CancellationToken::new();
    let router = Door::new(Arc::new(api), Access::new(None), Metrics::new(&[]), &server, shutdown.clone()).router();
    let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let base = format!("http://{}/v1", listener.address());
    tokio::spawn(run(router, listener, Limits::new(8, Duration::ZERO), shutdown.clone()));
    let client = Client::new();
    let get = |path: &str| client.get(format!("{base}{path}"));
    for request in [
        client.post(format!("{base}/transactions")).json(&good()),
        client.post(format!("{base}/transactions")).json(&good()).header("prefer", "respond-async"),
        get("/transactions"),
        get("/transactions/name:x"),
        get("/idempotency/k"),
        get("/events"),
    ] {
        assert_problem(answer(request).await, Code::JournalUnavailable);
    }
    let (status, body) = answer(get("/status")).await;
    assert_eq!(
        (status.as_u16(), &body["reason"], &body["ready"]),
        (200, &json!("segment 3 is corrupt"), &json!(false))
    );
    shutdown.cancel();
}
