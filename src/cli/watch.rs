//! `outrigger txn watch`: what happens, a line an event, over restarts of the sidecar too.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::{Instant, timeout};

use super::client::{Client, Stream, encode};
use super::output::{Output, Stop};
use super::sse::{Block, Blocks};
use super::txn::text;

/// The door says something every 15 s.
const SILENCE: Duration = Duration::from_secs(50);
/// How long a sidecar that has gone is waited for.
const GONE: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// An aborted run may be run again: that it is not is asked for so often.
const GLANCE: Duration = Duration::from_millis(200);
const ENDED: [&str; 3] = ["committed", "aborted", "compensated"];

/// Whom to watch: everybody, or one.
struct Watch<'a> {
    client: &'a Client,
    /// A UUID or `name:N`.
    target: Option<&'a str>,
    stream: Option<Stream>,
    blocks: Blocks,
    /// The last place that was heard.
    last: Option<String>,
}

/// Follows until the watched transaction has ended; with none, until it is interrupted.
///
/// # Errors
/// No sidecar answers, at first or for five minutes; nobody knows the transaction.
pub(super) async fn watch(client: &Client, target: Option<&str>, output: &mut Output) -> Result<(), Stop> {
    let mut watch = Watch { client, target, stream: None, blocks: Blocks::default(), last: None };
    // Followed first and asked then: what happens in between is heard.
    watch.stream = Some(client.follow(&watch.path(), None).await?);
    if let Some(ended) = watch.look(false).await? {
        say_ended(&ended, output);
        return Ok(());
    }
    let mut maybe_ended = false;
    loop {
        let limit = if maybe_ended { GLANCE } else { SILENCE };
        let Some(block) = watch.next(limit).await? else {
            if !maybe_ended {
                watch.stream = None;
            } else if watch.look(true).await?.is_some() {
                return Ok(());
            }
            continue;
        };
        if block.data.is_empty() {
            continue;
        }
        let data: Value = serde_json::from_str(&block.data)
            .map_err(|e| Stop::fault(format!("the door sent an event that is not JSON: {e}")))?;
        say(&block, &data, output);
        if target.is_none() || block.event == "gap" {
            continue;
        }
        match (data["kind"].as_str(), data["state"].as_str()) {
            (Some("ended"), Some("committed")) => return Ok(()),
            (Some("ended"), _) => maybe_ended = true,
            // The sidecar was started: it ends what the log knows, and nothing else of it is left.
            (Some("opened"), _) => {
                if let Some(ended) = watch.look(true).await? {
                    say_ended(&ended, output);
                    return Ok(());
                }
            }
            _ => maybe_ended = false,
        }
    }
}

impl Watch<'_> {
    fn path(&self) -> String {
        match self.target {
            None => "/v1/events".to_owned(),
            Some(target) => match target.strip_prefix("name:") {
                Some(name) => format!("/v1/events?name={}", encode(name)),
                None => format!("/v1/events?transaction={}", encode(target)),
            },
        }
    }

    /// The watched transaction, where it has ended. `seen`: it was there before, so it must be known.
    async fn look(&self, seen: bool) -> Result<Option<Value>, Stop> {
        let Some(target) = self.target else { return Ok(None) };
        let found = match self.client.find(&format!("/v1/transactions/{}", encode(target))).await {
            // It has just gone: the stream will end, and be opened again.
            Err(stop) if seen && stop.is_unreachable() => return Ok(None),
            found => found?,
        };
        match found {
            Some(view) => Ok(Some(view).filter(|view| ENDED.iter().any(|state| view["state"] == *state))),
            // Whoever watches a name may be early.
            None if !seen && target.starts_with("name:") => Ok(None),
            None => Err(Stop::fault(format!(
                "nobody knows {target}: it never was, or nothing of it was promised yet when the sidecar stopped"
            ))),
        }
    }

    /// The next block, after however many cuts; `None` where nothing is said for so long.
    async fn next(&mut self, silence: Duration) -> Result<Option<Block>, Stop> {
        loop {
            if let Some(block) = self.blocks.next() {
                if !block.id.is_empty() {
                    self.last = Some(block.id.clone());
                }
                return Ok(Some(block));
            }
            let chunk = match &mut self.stream {
                Some(stream) => match timeout(silence, stream.chunk()).await {
                    Ok(chunk) => chunk,
                    Err(_) => return Ok(None),
                },
                None => None,
            };
            match chunk {
                Some(bytes) => self.blocks.feed(&bytes),
                None => self.connect().await?,
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Stop> {
        // Half a block is sent again, whole.
        (self.stream, self.blocks) = (None, Blocks::default());
        let (until, mut pause) = (Instant::now() + GONE, FIRST_PAUSE);
        loop {
            tokio::time::sleep(pause).await;
            match self.client.follow(&self.path(), self.last.as_deref()).await {
                Ok(stream) => {
                    self.stream = Some(stream);
                    return Ok(());
                }
                Err(stop) if !stop.is_unreachable() || Instant::now() > until => return Err(stop),
                Err(_) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }
}

fn say(block: &Block, data: &Value, output: &mut Output) {
    if output.is_json() {
        let mut line = Map::new();
        line.insert("id".to_owned(), block.id.clone().into());
        match data {
            Value::Object(members) if block.event.is_empty() => line.extend(members.clone()),
            other => drop(line.insert(block.event.clone(), other.clone())),
        }
        output.line(Value::Object(line));
    } else if block.event == "gap" {
        output.line(format_args!("… some {} cannot be told any more …", text(&data["lost"])));
    } else {
        let fields = ["at", "transaction", "kind", "state"].map(|name| text(&data[name]));
        let [at, transaction, kind, state] = fields;
        let more = ["name", "detail"].map(|name| text(&data[name]));
        let more: Vec<&str> = more.iter().map(String::as_str).filter(|text| *text != "-").collect();
        let line = format!("{at}  {transaction:36}  {kind:10}  {state:18}  {}", more.join("  "));
        output.line(line.trim_end());
    }
    output.flush();
}

/// It ended before anything was heard of it.
fn say_ended(view: &Value, output: &mut Output) {
    if output.is_json() {
        output.line(view);
    } else {
        output.line(format_args!("{} has ended: {}", text(&view["id"]), text(&view["state"])));
    }
}
