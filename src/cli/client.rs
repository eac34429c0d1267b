//! Asking the door of a running sidecar, over TCP or its Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::output::Stop;
use crate::config::Listen;
use crate::http::operator_token_path;

const PATIENCE: Duration = Duration::from_secs(30);
const LARGEST_ANSWER: usize = 256 << 20;

/// Where the door is, and as whom to knock.
#[derive(Args, Debug)]
pub(super) struct DoorArgs {
    /// The door's address, IP:PORT or unix:/PATH [default: server.listen of the configuration]
    #[arg(long, value_name = "ADDRESS")]
    door: Option<Listen>,
    /// A file that holds the bearer token [default: the one that `serve` leaves beside the journal]
    #[arg(long, value_name = "PATH", env = "OUTRIGGER_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// A door that can be asked.
pub(super) struct Client {
    address: Listen,
    token: Option<String>,
}

/// One request.
struct Ask<'a> {
    method: Method,
    path: &'a str,
    body: Option<&'a Value>,
    /// The last event that was heard.
    last: Option<&'a str>,
}

impl<'a> Ask<'a> {
    fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, body: None, last: None }
    }
}

impl Client {
    /// Finds address and token. The configuration is needed only where the arguments leave something open.
    pub(super) fn new(args: &DoorArgs, config: Option<&Path>) -> Result<Self, Stop> {
        let config = if args.door.is_some() { None } else { Some(super::load(config)?) };
        let token = match &args.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                Some(text.map_err(|e| Stop::fault(format!("cannot read {}: {e}", path.display())))?)
            }
            // Who may not read it, or finds none, knocks without: an open door needs no token.
            None => config.as_ref().and_then(|c| std::fs::read_to_string(operator_token_path(&c.journal.dir)).ok()),
        };
        let token = token.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let address = match (&args.door, config) {
            (Some(address), _) => address.clone(),
            (None, Some(config)) => reachable(config.server.listen),
            (None, None) => return Err(Stop::fault("no door: say --door")),
        };
        Ok(Self { address, token })
    }

    /// The JSON at `path`.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Stop> {
        let (status, value) = self.patiently(self.ask(Ask::get(path))).await?;
        judge(status, value)
    }

    /// What posting `body` to `path` answers.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, Stop> {
        let ask = Ask { method: Method::POST, body: Some(body), ..Ask::get(path) };
        let (status, value) = self.patiently(self.ask(ask)).await?;
        judge(status, value)
    }

    /// The same; `None` where nobody knows what was asked for.
    pub(super) async fn find(&self, path: &str) -> Result<Option<Value>, Stop> {
        let (status, value) = self.patiently(self.ask(Ask::get(path))).await?;
        if status == StatusCode::NOT_FOUND { Ok(None) } else { judge(status, value).map(Some) }
    }

    /// The events at `path`, from behind `last` on.
    pub(super) async fn follow(&self, path: &str, last: Option<&str>) -> Result<Stream, Stop> {
        let response = self.patiently(self.send(Ask { last, ..Ask::get(path) })).await?;
        let status = response.0.status();
        if status.is_success() {
            let (response, sender) = response;
            return Ok(Stream { body: response.into_body(), _sender: sender });
        }
        let (status, value) = self.patiently(self.whole(response.0)).await?;
        // Too many follow already: there may be a place later.
        match judge(status, value) {
            Err(stop) if status == StatusCode::TOO_MANY_REQUESTS => Err(Stop::unreachable(stop.to_string())),
            Err(stop) => Err(stop),
            Ok(_) => Err(self.broken(&"it is neither a success nor a problem")),
        }
    }

    async fn patiently<T>(&self, asked: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
            Err(Stop::unreachable(format!("the door at {} gave no answer in {} s", self.address, PATIENCE.as_secs())))
        })
    }

    async fn ask(&self, ask: Ask<'_>) -> Result<(StatusCode, Value), Stop> {
        let (response, _sender) = self.send(ask).await?;
        self.whole(response).await
    }

    async fn send(&self, ask: Ask<'_>) -> Result<(Response<Incoming>, Sender), Stop> {
        let cannot =
            |e: std::io::Error| Stop::unreachable(format!("no sidecar answers at the door {}: {e}", self.address));
        match &self.address {
            Listen::Tcp(address) => self.converse(TcpStream::connect(address).await.map_err(cannot)?, ask).await,
            Listen::Unix(socket) => self.converse(UnixStream::connect(socket).await.map_err(cannot)?, ask).await,
        }
    }

    async fn converse<S>(&self, stream: S, ask: Ask<'_>) -> Result<(Response<Incoming>, Sender), Stop>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broken(&e))?;
        // Ends with the sender; what goes wrong on it is told to the request.
        tokio::spawn(connection);
        let mut request = Request::builder().method(ask.method).uri(ask.path).header(HOST, "outrigger");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(last) = ask.last {
            request = request.header("last-event-id", last);
        }
        if ask.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(ask.body.map(|body| Bytes::from(body.to_string())).unwrap_or_default());
        let request = request.body(body).map_err(|e| Stop::fault(format!("cannot ask that: {e}")))?;
        let response = sender.send_request(request).await.map_err(|e| self.broken(&e))?;
        Ok((response, sender))
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<(StatusCode, Value), Stop> {
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await.map_err(|e| self.broken(&e))?;
        let value = serde_json::from_slice(&body.to_bytes())
            .map_err(|e| Stop::fault(format!("the door answered {status} with something that is not JSON: {e}")))?;
        Ok((status, value))
    }

    fn broken(&self, why: &dyn std::fmt::Display) -> Stop {
        Stop::unreachable(format!("the door at {} broke off: {why}", self.address))
    }
}

type Sender = http1::SendRequest<Full<Bytes>>;

/// An answer that goes on.
pub(super) struct Stream {
    body: Incoming,
    /// Its connection ends with it.
    _sender: Sender,
}

impl Stream {
    /// What comes next; `None` once it has ended, however.
    pub(super) async fn chunk(&mut self) -> Option<Bytes> {
        loop {
            if let Ok(data) = self.body.frame().await?.ok()?.into_data() {
                return Some(data);
            }
        }
    }
}

fn judge(status: StatusCode, value: Value) -> Result<Value, Stop> {
    if status.is_success() {
        return Ok(value);
    }
    let detail = value["detail"].as_str().unwrap_or("no detail");
    let message = format!("{}: {detail}", value["code"].as_str().unwrap_or(status.as_str()));
    Err(if status.is_server_error() { Stop::unreachable(message) } else { Stop::fault(message) })
}

/// A door that listens everywhere is reached through loopback.
fn reachable(listen: Listen) -> Listen {
    match listen {
        Listen::Tcp(mut address) if address.ip().is_unspecified() => {
            let loopback = if address.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::IpAddr::from(std::net::Ipv6Addr::LOCALHOST)
            };
            address.set_ip(loopback);
            Listen::Tcp(address)
        }
        other => other,
    }
}

/// A text as part of a path or query.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'@' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
