//! Ports that stay ours while a store is down.
//!
//! A killed store must come back on its port. A port from the kernel's range for outgoing connections may be taken in
//! between by any client on the machine; worse, a client that keeps dialling a dead port of that range sooner or later
//! gets it as its own source port, and is connected to itself. So ports come from below that range.

use std::collections::HashSet;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

use anyhow::{Result, bail};

const FLOOR: u16 = 15_000;
const CEILING: u16 = 32_000;
const TRIES: usize = 500;

/// Those given out by this process: two stacks that start together haven't bound theirs yet.
static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A loopback port that nobody listens on, chosen at random, so that stacks of several processes don't collide.
pub(crate) fn free() -> Result<u16> {
    let outgoing = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let lowest: u16 = outgoing.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(CEILING);
    let ceiling = if lowest > FLOOR + 1_000 { lowest.min(CEILING) } else { CEILING };
    let mut taken = TAKEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let taken = taken.get_or_insert_default();
    for _ in 0..TRIES {
        let port = FLOOR + (RandomState::new().build_hasher().finish() % u64::from(ceiling - FLOOR)) as u16;
        if is_free(port) && taken.insert(port) {
            return Ok(port);
        }
    }
    bail!("found no free port between {FLOOR} and {ceiling} in {TRIES} tries")
}

/// Can this port be listened on now?
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
