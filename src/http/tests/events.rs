//! `GET /v1/events` and `traceparent` at the door.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{House, Limits, Wish, answer, assert_problem, good};
use crate::http::events::lines;
use crate::journal::feed::{About, Batch, EventId, Happening, Item};
use crate::model::ids::{Attempt, TxnId};
use crate::model::problem::Code;
use crate::model::state::TxnState;
use crate::model::trace::{TraceId, TraceParent};

/// Somebody who follows, by hand: the stream's blocks, one after the other.
struct Ear {
    response: reqwest::Response,
    text: String,
}

/// One block: id, event, data.
#[derive(Debug, Default)]
struct Block {
    id: String,
    event: String,
    data: Value,
}

impl Ear {
    async fn open(house: &House, query: &str, last: Option<&str>) -> Self {
        let mut request = house.request(Method::GET, &format!("/v1/events{query}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut ear = Self { response, text: String::new() };
        let first = ear.block().await.unwrap();
        assert!(!first.id.is_empty() && first.data.is_null(), "the place comes first: {first:?}");
        ear
    }

    /// The next block; `None` at the end.
    async fn block(&mut self) -> Option<Block> {
        while !self.text.contains("\n\n") {
            let chunk = timeout(Duration::from_secs(10), self.response.chunk()).await.expect("it says something");
            self.text.push_str(std::str::from_utf8(&chunk.ok()??).unwrap());
        }
        let (block, rest) = self.text.split_once("\n\n").unwrap();
        let mut read = Block::default();
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("id", id)) => id.clone_into(&mut read.id),
                Some(("event", event)) => event.clone_into(&mut read.event),
                Some(("data", data)) => read.data = serde_json::from_str(data).unwrap(),
                _ => {}
            }
        }
        self.text = rest.to_owned();
        Some(read)
    }

    async fn kinds(&mut self, count: usize) -> Vec<String> {
        let mut kinds = Vec::new();
        while kinds.len() < count {
            let block = self.block().await.expect("it goes on");
            if !block.data.is_null() {
                kinds.push(block.data["kind"].as_str().unwrap_or("gap").to_owned());
            }
        }
        kinds
    }
}

fn about(name: Option<&str>) -> Arc<About> {
    Arc::new(About { transaction: TxnId::fresh(), name: name.map(str::to_owned), trace: Some(TraceId::fresh()) })
}

fn tell(house: &House, about: &Arc<About>, kind: &'static str) {
    let what = Happening::step(about.clone(), Attempt::FIRST, 0, kind, TxnState::Active, None);
    house.api.journal().feed().step(what);
}

#[tokio::test]
async fn events_are_told_as_they_happen_and_from_where_one_left_off() {
    let house = House::new().await;
    let (one, other) = (about(Some("job")), about(None));
    tell(&house, &one, "begun");
    let mut all = Ear::open(&house, "", None).await;
    let mut of_one = Ear::open(&house, &format!("?transaction={}", one.transaction), None).await;
    let mut named = Ear::open(&house, "?name=job", None).await;
    tell(&house, &other, "begun");
    tell(&house, &one, "locked");
    let first = all.block().await.unwrap();
    assert_eq!(first.data["transaction"], other.transaction.to_string());
    assert_eq!(all.kinds(1).await, ["locked"]);
    let block = of_one.block().await.unwrap();
    let expected = serde_json::json!({
        "at": "1970-01-01T00:00:00.000000Z", "transaction": one.transaction.to_string(), "name": "job",
        "kind": "locked", "state": "active", "attempt": 1, "trace_id": one.trace.unwrap().to_string(), "detail": null,
    });
    assert_eq!((block.data, block.event.as_str()), (expected, ""));
    assert_eq!(named.kinds(1).await, ["locked"]);
    // From the first event on, by header and by query; the header goes first.
    let mut resumed = Ear::open(&house, "?after=0", Some(&first.id)).await;
    assert_eq!(resumed.block().await.unwrap().id, block.id);
    let mut resumed = Ear::open(&house, &format!("?after={}", first.id), None).await;
    assert_eq!(resumed.block().await.unwrap().id, block.id);
    assert!(house.metrics.render().contains("outrigger_event_followers 5\n"));
    drop((all, of_one, named, resumed));
}

#[tokio::test]
async fn what_is_no_id_or_filter_is_refused() {
    let house = House::new().await;
    for query in
        ["after=x", "after=1-2", "after=1--2", "after=99999999-1-0", "after=1-99-0", "transaction=x", "name=a%20b"]
    {
        assert_problem(house.get(&format!("/v1/events?{query}")).await, Code::InvalidRequest);
    }
    let both = format!("/v1/events?name=a&transaction={}", TxnId::fresh());
    assert_problem(house.get(&both).await, Code::InvalidRequest);
    let strange = house.request(Method::GET, "/v1/events").header("last-event-id", "1.5");
    assert_problem(answer(strange).await, Code::InvalidRequest);
    let head = house.request(Method::HEAD, "/v1/events").send().await.unwrap();
    assert_eq!((head.status().as_u16(), &head.headers()["content-type"]), (200, &"text/event-stream".parse().unwrap()));
    assert!(house.metrics.render().contains("outrigger_event_followers 0\n"));
}

#[tokio::test]
async fn followers_have_a_bound_of_their_own_and_no_place_at_the_gate() {
    let house = House::build(Wish { max_in_flight: 1, ..Wish::default() }).await;
    let mut ears = Vec::new();
    for _ in 0..64 {
        ears.push(Ear::open(&house, "", None).await);
    }
    let refused = house.request(Method::GET, "/v1/events").send().await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_problem((refused.status(), refused.json().await.unwrap()), Code::Overloaded);
    assert_eq!(house.post(&good()).send().await.unwrap().status(), 200, "they take no transaction's place");
    drop(ears.pop());
    // The connection's end is noticed when it is, and then there is a place again.
    let again = async {
        while house.request(Method::GET, "/v1/events").send().await.unwrap().status() != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), again).await.unwrap();
}

#[tokio::test]
async fn a_stop_waits_neither_for_followers_nor_for_deaf_ones() {
    let limits = Limits::new(8, Duration::from_secs(60));
    let house = House::build(Wish { limits, ..Wish::default() }).await;
    let mut ear = Ear::open(&house, "", None).await;
    let mut deaf = TcpStream::connect(&house.address).await.unwrap();
    deaf.write_all(b"GET /v1/events?after=0 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // It reads the head and nothing more, until nothing fits on the wire any more.
    let mut head = [0; 16];
    deaf.read_exact(&mut head).await.unwrap();
    let noisy = Arc::new(About { transaction: TxnId::fresh(), name: Some("n".repeat(128)), trace: None });
    let detail = "d".repeat(1024);
    let mut heard = 0;
    for _ in 0..40 {
        for _ in 0..250 {
            let what = Happening::step(noisy.clone(), Attempt::FIRST, 0, "loud", TxnState::Active, Some(&detail));
            house.api.journal().feed().step(what);
        }
        heard += ear.kinds(250).await.len();
    }
    assert_eq!(heard, 10_000, "one who reads hears everything, whoever else does not");
    house.shutdown.cancel();
    while ear.block().await.is_some() {}
    // Far less than the drain of a minute: the deaf one was cut.
    timeout(Duration::from_secs(20), house.server).await.expect("nobody is waited for").unwrap();
    assert!(house.metrics.render().contains("outrigger_event_followers 0\n"));
}

#[test]
fn an_empty_batch_is_a_comment_that_moves_the_place() {
    let at: EventId = "40-2-7".parse().unwrap();
    assert_eq!(lines(&Batch { items: Vec::new(), at }), ": heartbeat\nid: 40-2-7\n\n");
    let what = Happening::step(about(None), Attempt::FIRST, 0, "x", TxnState::Active, Some("two\nlines"));
    let text = lines(&Batch { items: vec![Item::Event(at, what)], at });
    assert!(text.starts_with("id: 40-2-7\ndata: {") && text.ends_with("}\n\n"));
    assert_eq!(text.lines().count(), 3, "no detail can begin a line of its own: {text}");
}

#[tokio::test]
async fn a_trace_goes_in_and_comes_out() {
    let house = House::new().await;
    let sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let response = house.post(&good()).header("traceparent", sent).send().await.unwrap();
    let ours = response.headers()["traceparent"].to_str().unwrap().to_owned();
    let (ours, sent): (TraceParent, TraceParent) = (ours.parse().unwrap(), sent.parse().unwrap());
    assert!(ours.trace == sent.trace && ours != sent, "the trace is the same and the span is ours");
    assert_eq!(house.api.last().0.trace, sent.trace, "the transaction has it");
    // Without one, or with one that is none, or with two: a fresh trace each time, in the answer and the transaction.
    let mut seen = vec![sent.trace];
    for values in [&[][..], &["nonsense"], &["00-0-0-0"], &[&sent.to_string(), &sent.to_string()]] {
        let request = values.iter().fold(house.post(&good()), |request, value| request.header("traceparent", *value));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{values:?}");
        let ours: TraceParent = response.headers()["traceparent"].to_str().unwrap().parse().unwrap();
        assert_eq!(house.api.last().0.trace, ours.trace);
        assert!(!seen.contains(&ours.trace), "{values:?}");
        seen.push(ours.trace);
    }
    let refused = house.request(Method::GET, "/nowhere").header("traceparent", sent.to_string()).send().await.unwrap();
    assert!(refused.headers()["traceparent"].to_str().unwrap().contains(&sent.trace.to_string()), "problems, too");
}
