//! Accepting connections, with an end to everything: a connection that sends nothing, a head that never ends, a client
//! that never goes.
//!
//! | task | on shutdown | on error |
//! |---|---|---|
//! | accept loop | stops accepting at once, then waits for the connections | logs, pauses (out of descriptors), goes on |
//! | connection | finishes the request at work, takes no further one | ends; its client sees it |

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::events::Tie;
use crate::config::Listen;

/// Bounds of a server's connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A new connection must send its first byte within this.
    pub first_byte: Duration,
    /// A request's head must be complete within this; also how long an idle connection is kept.
    pub head: Duration,
    /// The size of a request's head, in bytes.
    pub head_bytes: usize,
    /// Connections at the same time; further ones wait in the kernel's queue.
    pub connections: usize,
    /// How long a shutdown waits for the requests at work.
    pub drain: Duration,
}

impl Limits {
    /// Enough connections for `in_flight` requests at work and others that idle.
    #[must_use]
    pub fn new(in_flight: usize, drain: Duration) -> Self {
        Self {
            first_byte: Duration::from_secs(10),
            head: Duration::from_secs(75),
            head_bytes: 32 << 10,
            connections: (in_flight * 2).max(1024),
            drain,
        }
    }
}

/// Something to accept connections from.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket; its file goes with it.
    Unix(UnixListener, SocketFile),
}

/// Removes the socket's file when the listener is gone.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already; a stale one is replaced at the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Listens at `address`. A socket file that nobody answers at any more is replaced.
    ///
    /// # Errors
    /// The address is taken, or may not be used.
    pub async fn bind(address: &Listen) -> io::Result<Self> {
        match address {
            Listen::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            Listen::Unix(path) => {
                if path.exists() {
                    replace_stale(path).await?;
                }
                let listener = UnixListener::bind(path)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
                Ok(Self::Unix(listener, SocketFile(path.clone())))
            }
        }
    }

    /// Where it listens, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(|e| e.to_string(), |address| address.to_string()),
            Self::Unix(_, SocketFile(path)) => format!("unix:{}", path.display()),
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are small: waiting for more to send would only cost 40 ms.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

async fn replace_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody answers at this socket")),
        Err(_) => std::fs::remove_file(path),
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Serves `router` until `shutdown`, then lets what is at work finish, for at most `limits.drain`.
pub async fn run(router: Router, listener: Listener, limits: Limits, shutdown: CancellationToken) {
    let tasks = TaskTracker::new();
    let places = Arc::new(Semaphore::new(limits.connections));
    let abandon = CancellationToken::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok(stream) => {
                let (router, shutdown, abandon) = (router.clone(), shutdown.clone(), abandon.clone());
                tasks.spawn(async move {
                    tokio::select! {
                        () = abandon.cancelled() => {}
                        () = attend(stream, router, limits, shutdown) => {}
                    }
                    drop(place);
                });
            }
            Err(e) => {
                // Out of descriptors, or a client that went while it was accepted: neither is helped by haste.
                tracing::warn!(error = %e, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    if timeout(limits.drain, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "connections are cut: they did not end in time");
        abandon.cancel();
        tasks.wait().await;
    }
}

async fn attend(stream: Stream, router: Router, limits: Limits, shutdown: CancellationToken) {
    let first_byte = async {
        match &stream {
            Stream::Tcp(stream) => stream.readable().await,
            Stream::Unix(stream) => stream.readable().await,
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => return,
        ready = timeout(limits.first_byte, first_byte) => if !matches!(ready, Ok(Ok(()))) { return },
    }
    match stream {
        Stream::Tcp(stream) => converse(stream, router, limits, shutdown).await,
        Stream::Unix(stream) => converse(stream, router, limits, shutdown).await,
    }
}

async fn converse<S>(stream: S, router: Router, limits: Limits, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tie = Tie::default();
    let tied = tie.clone();
    let service = router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(tied.clone());
        request
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_bytes.max(8192))
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let conversation = async {
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    tokio::select! {
        ended = conversation => if let Err(e) = ended {
            tracing::debug!(error = %e, "a connection ended early");
        },
        () = tie.0.cancelled() => tracing::debug!("a connection is cut: its client takes nothing any more"),
    }
}
