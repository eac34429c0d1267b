//! Assembly: listeners, services, and the order in which they end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qdrant_client::qdrant::collections_server::CollectionsServer;
use qdrant_client::qdrant::points_server::PointsServer;
use qdrant_client::qdrant::qdrant_server::QdrantServer;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::api::{CollectionsApi, HealthApi, PointsApi, Shared};
use crate::faults::{Faults, control};
use crate::store::{Store, files};

/// What a real server accepts by default.
const MESSAGE_AT_MOST: usize = 32 * 1024 * 1024;
/// How long calls that are under way may take to end. Those that a fault holds for ever are cut off then.
const DRAIN: Duration = Duration::from_secs(2);

/// What to serve, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the gRPC API listens; loopback only. Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The folder that holds the data; made if it is missing.
    pub storage: PathBuf,
    /// Where the control port of the faults listens; loopback only.
    pub faults_listen: Option<SocketAddr>,
    /// Gets the addresses, one a line: the API's, then the control port's if there is one.
    pub port_file: Option<PathBuf>,
}

/// Serves until `shutdown` resolves, then lets accepted writes finish and closes the engine. `ready` is called with the
/// addresses of the API and the control port once both take connections.
///
/// Cancelled, it stops serving; what was acknowledged is durable all the same.
///
/// # Errors
/// When an address is not loopback or taken, or the folder cannot be owned or loaded.
pub async fn serve(
    options: Options,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(SocketAddr, Option<SocketAddr>),
) -> Result<()> {
    let listener = listen(options.listen).await?;
    let address = listener.local_addr()?;
    let control = match options.faults_listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let control_address = control.as_ref().map(TcpListener::local_addr).transpose()?;

    let storage = options.storage;
    let store = Arc::new(tokio::task::spawn_blocking(move || Store::open(&storage)).await??);
    let shared = Shared { store: Arc::clone(&store), faults: Arc::new(Faults::default()) };
    let control_task =
        control.map(|control| tokio::spawn(control::serve(control, Arc::clone(&shared.faults), Arc::clone(&store))));

    if let Some(path) = &options.port_file {
        let lines: String = [Some(address), control_address].iter().flatten().map(|at| format!("{at}\n")).collect();
        files::replace(path, lines.as_bytes())?;
    }
    ready(address, control_address);
    let outcome = serve_api(listener, shared, shutdown).await;
    if let Some(task) = control_task {
        task.abort();
    }
    store.close().await;
    outcome
}

async fn serve_api(listener: TcpListener, shared: Shared, shutdown: impl Future<Output = ()>) -> Result<()> {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = Server::builder()
        .add_service(QdrantServer::new(HealthApi))
        .add_service(CollectionsServer::new(CollectionsApi(shared.clone())).max_decoding_message_size(MESSAGE_AT_MOST))
        .add_service(PointsServer::new(PointsApi(shared)).max_decoding_message_size(MESSAGE_AT_MOST))
        // Small answers must not wait for Nagle.
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async {
            let _ = stopped.await;
        });
    tokio::pin!(serving, shutdown);
    tokio::select! {
        outcome = &mut serving => return outcome.context("serving"),
        () = shutdown => {}
    }
    let _ = stop.send(());
    match tokio::time::timeout(DRAIN, serving).await {
        Ok(outcome) => outcome.context("draining"),
        Err(_) => Ok(()),
    }
}

/// Whoever reaches this server may do anything to it: it is not for other machines.
async fn listen(address: SocketAddr) -> Result<TcpListener> {
    ensure!(address.ip().is_loopback(), "{address} is not a loopback address: qdrant-dev serves this machine only");
    TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))
}
