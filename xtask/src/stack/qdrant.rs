//! Qdrant: the real engine behind its own gRPC API, by `tests/qdrant-dev` of this workspace.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};

use super::launch::Launch;
use super::record::Server;
use crate::tool;

/// The engine costs minutes to compile where nothing is built yet, and there may be other builds.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// The program: `OUTRIGGER_QDRANT_DEV` if set, else built (once a process; cargo knows when nothing is to be done).
pub(super) fn program() -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    if let Some(path) = env::var_os("OUTRIGGER_QDRANT_DEV").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return fs::canonicalize(&path).with_context(|| format!("OUTRIGGER_QDRANT_DEV names {}", path.display()));
    }
    let mut built = BUILT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(path) = &*built {
        return Ok(path.clone());
    }
    let _slow = tool::progress_if_slow("qdrant", "building qdrant-dev (minutes when the engine isn't built yet)");
    let path = tool::built("qdrant-dev", &[], BUILD_LIMIT)?;
    Ok(built.insert(path).clone())
}

/// Builds the program and makes the folder of its data, if they aren't there.
pub(super) fn prepare(home: &Path) -> Result<()> {
    program()?;
    fs::create_dir_all(home.join("storage")).with_context(|| format!("making {}", home.display()))
}

/// Tells how to start it.
pub(super) fn launch(server: &Server, dies_with_us: bool) -> Result<Launch> {
    let mut args = vec!["--listen".into(), format!("127.0.0.1:{}", server.port).into()];
    args.extend(["--storage".into(), server.home.join("storage").into()]);
    if let Some(port) = server.faults_port {
        args.extend(["--faults-listen".into(), format!("127.0.0.1:{port}").into()]);
    }
    Ok(Launch {
        program: program()?,
        args,
        env: vec![],
        cwd: server.home.clone(),
        user: None,
        dies_with_us: dies_with_us.then_some("KILL"),
    })
}

/// Does it speak HTTP/2, which is what gRPC's every call begins with?
pub(super) fn is_ready(port: u16) -> bool {
    greet(port).is_ok_and(|kind| kind == SETTINGS)
}

const SETTINGS: u8 = 4;

/// Sends a client's greeting (preface and an empty SETTINGS frame); answers the type of the first frame that returns.
fn greet(port: u16) -> std::io::Result<u8> {
    let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), PROBE_LIMIT)?;
    stream.set_read_timeout(Some(PROBE_LIMIT))?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    let mut frame = [0; 9];
    stream.read_exact(&mut frame)?;
    Ok(frame[3])
}
