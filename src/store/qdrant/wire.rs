//! Connections. Reads share one channel that reconnects by itself. Each writer has a link of its own that can be *cut*:
//! a copy of a write that the server has not read yet must die with its connection before the write is repeated.

use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use ::qdrant_client::qdrant::collections_client::CollectionsClient;
use ::qdrant_client::qdrant::points_client::PointsClient;
use ::qdrant_client::qdrant::qdrant_client::QdrantClient;
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use super::QdrantConfig;

/// The largest answer that we read.
const LARGEST_ANSWER: usize = 256 << 20;
/// How long a cut link may take to be gone. It takes one turn of its task; the bound is against defects.
const CUT_WITHIN: Duration = Duration::from_secs(1);

/// A channel whose requests carry the API key.
pub(super) type Keyed = InterceptedService<Channel, ApiKey>;

/// Adds the API key to each request.
#[derive(Clone)]
pub(super) struct ApiKey(Option<MetadataValue<Ascii>>);

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("api-key", key.clone());
        }
        Ok(request)
    }
}

/// How to reach the server.
pub(super) struct Dial {
    endpoint: Endpoint,
    key: ApiKey,
    reads: OnceLock<Channel>,
}

impl Dial {
    /// Does no I/O.
    ///
    /// # Errors
    /// Why no server can be reached with this configuration.
    pub(super) fn new(config: &QdrantConfig) -> Result<Self, String> {
        let wrong = |error: tonic::transport::Error| format!("`{}`: {error:?}", config.url);
        let url = if config.tls { config.url.replacen("http://", "https://", 1) } else { config.url.clone() };
        let with_tls = url.starts_with("https://");
        let mut endpoint = Endpoint::from_shared(url)
            .map_err(wrong)?
            .connect_timeout(config.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        if with_tls {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(wrong)?;
        }
        let key = config.api_key.as_deref().map(|key| {
            let mut key: MetadataValue<Ascii> = key.parse().map_err(|_| "the API key is no header value".to_owned())?;
            key.set_sensitive(true);
            Ok::<_, String>(key)
        });
        Ok(Self { endpoint, key: ApiKey(key.transpose()?), reads: OnceLock::new() })
    }

    /// For reads: connects when it is first used, and again whenever the connection is lost.
    pub(super) fn points(&self) -> PointsClient<Keyed> {
        limited(PointsClient::with_interceptor(self.reads(), self.key.clone()))
    }

    /// For what describes collections.
    pub(super) fn collections(&self) -> CollectionsClient<Keyed> {
        CollectionsClient::with_interceptor(self.reads(), self.key.clone())
    }

    /// For the server itself.
    pub(super) fn server(&self) -> QdrantClient<Keyed> {
        QdrantClient::with_interceptor(self.reads(), self.key.clone())
    }

    fn reads(&self) -> Channel {
        self.reads.get_or_init(|| self.endpoint.connect_lazy()).clone()
    }

    /// Connects a link for writes.
    ///
    /// # Errors
    /// Why it could not be reached: nothing was sent.
    pub(super) async fn link(&self) -> Result<Link, String> {
        let (kill, sockets) = (CancellationToken::new(), TaskTracker::new());
        let connector = {
            let (kill, sockets) = (kill.clone(), sockets.clone());
            tower::service_fn(move |uri: Uri| Socket::connect(uri, kill.clone(), sockets.token()))
        };
        let channel = self.endpoint.connect_with_connector(connector).await.map_err(|error| root(&error))?;
        let points = limited(PointsClient::with_interceptor(channel, self.key.clone()));
        Ok(Link { points, kill, sockets })
    }
}

fn limited(client: PointsClient<Keyed>) -> PointsClient<Keyed> {
    client.max_decoding_message_size(LARGEST_ANSWER)
}

/// The innermost cause: `transport error` alone helps nobody.
pub(super) fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// A connection for writes.
pub(super) struct Link {
    /// Its client.
    pub(super) points: PointsClient<Keyed>,
    kill: CancellationToken,
    sockets: TaskTracker,
}

impl Link {
    /// Closes the connection: what our kernel has not sent is thrown away, and the server gets a reset.
    pub(super) async fn cut(self) {
        self.kill.cancel();
        drop(self.points);
        self.sockets.close();
        // After the bound the socket is still dead to us: its next poll ends it.
        let _ = timeout(CUT_WITHIN, self.sockets.wait()).await;
    }
}

/// A TCP connection that ends at once when it is told to.
struct Socket {
    stream: TcpStream,
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
    _counted: TaskTrackerToken,
}

impl Socket {
    async fn connect(uri: Uri, kill: CancellationToken, counted: TaskTrackerToken) -> io::Result<TokioIo<Self>> {
        if kill.is_cancelled() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(Self { stream, killed: Box::pin(kill.cancelled_owned()), _counted: counted }))
    }

    fn alive(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.killed.as_mut().poll(context).is_pending() {
            return Ok(());
        }
        // Without it the kernel would go on sending what it has buffered.
        self.stream.set_zero_linger()?;
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut: the answer to a write was lost"))
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.alive(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.alive(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.alive(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
