//! A wire that the test holds in its hand: slow, or cut at a chosen moment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Where the wire is cut when the client sends the trigger's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// They never arrive.
    BeforeArrival,
    /// They arrive; no answer comes back.
    BeforeAnswer,
}

/// A proxy on a loopback port before a server.
pub struct Proxy {
    /// Connect here.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    delay_us: AtomicU64,
    cuts: AtomicU32,
    trap: watch::Sender<Option<(Cut, Vec<u8>)>>,
}

impl Proxy {
    /// A wire to `server`, straight and fast.
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared =
            Arc::new(Shared { delay_us: AtomicU64::new(0), cuts: AtomicU32::new(0), trap: watch::Sender::new(None) });
        let accepting = shared.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = accepting.clone();
                tokio::spawn(async move { shared.carry(client, server).await });
            }
        });
        Self { address, shared }
    }

    /// From now on every burst takes so long, in each direction.
    pub fn delay(&self, each_way: Duration) {
        self.shared.delay_us.store(each_way.as_micros() as u64, Ordering::Relaxed);
    }

    /// Cuts the connection on which the client next sends `bytes` (within one read).
    pub fn cut(&self, cut: Cut, bytes: &[u8]) {
        self.shared.trap.send_replace(Some((cut, bytes.to_vec())));
    }

    /// How often it has cut.
    pub fn cuts(&self) -> u32 {
        self.shared.cuts.load(Ordering::Relaxed)
    }
}

impl Shared {
    async fn carry(self: Arc<Self>, client: TcpStream, server: SocketAddr) {
        let Ok(server) = TcpStream::connect(server).await else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
        let up = self.clone().pump(client_in, server_out, true);
        let down = self.clone().pump(server_in, client_out, false);
        // Whichever way ends, both end.
        tokio::select! { () = up => {}, () = down => {} }
    }

    /// A wire holds many bursts at once: each arrives its delay after it was sent, however many are before it.
    async fn pump(self: Arc<Self>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, upwards: bool) {
        let (sender, mut wire) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
        let sending = async {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count @ 1..) = from.read(&mut buffer).await {
                let delay = Duration::from_micros(self.delay_us.load(Ordering::Relaxed));
                if sender.send((Instant::now() + delay, buffer[..count].to_vec())).is_err() {
                    return;
                }
            }
            // What is on its way still arrives.
            drop(sender);
            std::future::pending::<()>().await;
        };
        let arriving = async {
            while let Some((due, burst)) = wire.recv().await {
                tokio::time::sleep_until(due).await;
                let sprung = if upwards { self.spring(&burst) } else { None };
                if sprung == Some(Cut::BeforeArrival) || to.write_all(&burst).await.is_err() || sprung.is_some() {
                    return;
                }
            }
        };
        tokio::select! { () = sending => {}, () = arriving => {} }
    }

    /// The trap, if these bytes spring it; it springs once.
    fn spring(&self, burst: &[u8]) -> Option<Cut> {
        let mut sprung = None;
        self.trap.send_if_modified(|trap| {
            let hit = trap.as_ref().is_some_and(|(_, bytes)| burst.windows(bytes.len()).any(|window| window == bytes));
            if hit {
                sprung = trap.take().map(|(cut, _)| cut);
            }
            hit
        });
        if sprung.is_some() {
            self.cuts.fetch_add(1, Ordering::Relaxed);
        }
        sprung
    }
}
