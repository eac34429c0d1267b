//! The control port: lines of text over TCP, one answer line each, `ok …` or `error …`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::Faults;
use super::parse::{self, Command};
use crate::store::{Store, Work};

/// Longer lines end the connection.
const LINE_AT_MOST: u64 = 4096;

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, faults: Arc<Faults>, store: Arc<Store>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, Arc::clone(&faults), Arc::clone(&store)));
            }
            Err(error) => {
                eprintln!("qdrant-dev: control port: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A client that goes away, or writes no text, ends its connection; nobody needs to hear of it.
async fn converse(stream: TcpStream, faults: Arc<Faults>, store: Arc<Store>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    let mut line = String::new();
    loop {
        line.clear();
        match (&mut lines).take(LINE_AT_MOST).read_line(&mut line).await {
            Ok(n) if n > 0 && line.ends_with('\n') => {}
            _ => return,
        }
        let answer = match obey(line.trim(), &faults, &store).await {
            Ok(answer) => format!("ok {answer}\n"),
            Err(reason) => format!("error {reason}\n"),
        };
        if write.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn obey(line: &str, faults: &Faults, store: &Store) -> Result<String, String> {
    match parse::command(line)? {
        Command::Inject(rule) => {
            faults.arm(rule);
            Ok("armed".to_owned())
        }
        Command::Reset => {
            faults.reset();
            Ok("reset".to_owned())
        }
        Command::Status => {
            let counts = store.counts();
            let sums = [
                ("jobs", &counts.jobs),
                ("flushes", &counts.flushes),
                ("apply_us", &counts.apply_us),
                ("flush_us", &counts.flush_us),
            ];
            let mut status = faults.status();
            for (name, sum) in sums {
                status[name] = json!(sum.load(Ordering::Relaxed));
            }
            Ok(status.to_string())
        }
        Command::Optimize(name) => optimize(store, &name).await.map(|()| "optimized".to_owned()),
    }
}

async fn optimize(store: &Store, name: &str) -> Result<(), String> {
    let collection = store.get(name).await.map_err(|status| status.message().to_owned())?;
    let done = collection.submit(Work::Optimize, Duration::ZERO).map_err(|status| status.message().to_owned())?;
    done.await.map_err(|_| "the engine panicked".to_owned())?.map_err(|error| error.to_string())
}
