//! Just enough of Neo4j's Bolt protocol (4.4) to ask whether a server answers, and what it holds.
//!
//! Synchronous, one connection, no types beyond JSON's. The sidecar has a real driver; this serves readiness and audits
//! without bringing an async runtime into every tool.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// One connection. Dropping it closes it; the server rolls an open transaction back.
pub struct Bolt {
    stream: TcpStream,
}

const MAGIC: [u8; 4] = [0x60, 0x60, 0xB0, 0x17];
const OFFER: [u8; 4] = [0, 0, 4, 4];

const HELLO: u8 = 0x01;
const RUN: u8 = 0x10;
const BEGIN: u8 = 0x11;
const COMMIT: u8 = 0x12;
const ROLLBACK: u8 = 0x13;
const PULL: u8 = 0x3F;
const SUCCESS: u8 = 0x70;
const RECORD: u8 = 0x71;
const FAILURE: u8 = 0x7F;

impl Bolt {
    /// Connects to `address` (host:port) and logs in. `limit` bounds the dial and later every single read.
    pub fn connect(address: &str, user: &str, password: &str, limit: Duration) -> Result<Bolt> {
        let target = address.to_socket_addrs().with_context(|| format!("resolving {address}"))?.next();
        let target = target.with_context(|| format!("{address} is no address"))?;
        let stream = TcpStream::connect_timeout(&target, limit).with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(limit)).context("bounding reads")?;
        stream.set_nodelay(true).context("sending at once")?;
        let mut bolt = Bolt { stream };
        let mut hello = MAGIC.to_vec();
        hello.extend(OFFER);
        hello.extend([0; 12]);
        bolt.stream.write_all(&hello).context("greeting Neo4j")?;
        let mut chosen = [0; 4];
        bolt.stream.read_exact(&mut chosen).context("Neo4j's greeting")?;
        ensure!(chosen == OFFER, "the server does not speak Bolt 4.4, it answered {chosen:?}");
        let auth =
            json!({"user_agent": "outrigger-xtask", "scheme": "basic", "principal": user, "credentials": password});
        bolt.send(HELLO, &[auth])?;
        bolt.finish(&mut Vec::new())?;
        Ok(bolt)
    }

    /// Runs one statement, in the open transaction if there is one, and answers its rows.
    ///
    /// Nodes and relationships come as `{"structure": TAG, "fields": […]}`. A statement that fails is an error, and the
    /// connection is of no use afterwards.
    pub fn run(&mut self, cypher: &str, parameters: Value) -> Result<Vec<Vec<Value>>> {
        let mut rows = Vec::new();
        self.send(RUN, &[json!(cypher), parameters, json!({})])?;
        self.finish(&mut rows)?;
        self.send(PULL, &[json!({"n": -1})])?;
        self.finish(&mut rows)?;
        Ok(rows)
    }

    /// Opens a transaction.
    pub fn begin(&mut self) -> Result<()> {
        self.send(BEGIN, &[json!({})])?;
        self.finish(&mut Vec::new())
    }

    /// Commits the open transaction. An error leaves it unknown whether it is committed.
    pub fn commit(&mut self) -> Result<()> {
        self.send(COMMIT, &[])?;
        self.finish(&mut Vec::new())
    }

    /// Rolls the open transaction back.
    pub fn rollback(&mut self) -> Result<()> {
        self.send(ROLLBACK, &[])?;
        self.finish(&mut Vec::new())
    }

    fn send(&mut self, tag: u8, fields: &[Value]) -> Result<()> {
        let mut body = vec![0xB0 | fields.len() as u8, tag];
        for field in fields {
            pack(field, &mut body)?;
        }
        let mut message = Vec::with_capacity(body.len() + 8);
        for chunk in body.chunks(usize::from(u16::MAX)) {
            message.extend((chunk.len() as u16).to_be_bytes());
            message.extend(chunk);
        }
        message.extend([0, 0]);
        self.stream.write_all(&message).context("sending to Neo4j")
    }

    /// Reads up to the end of one answer, collecting the records on the way.
    fn finish(&mut self, rows: &mut Vec<Vec<Value>>) -> Result<()> {
        loop {
            let (tag, fields) = self.receive()?;
            match (tag, fields.into_iter().next()) {
                (SUCCESS, _) => return Ok(()),
                (RECORD, Some(Value::Array(row))) => rows.push(row),
                (FAILURE, Some(error)) => {
                    let text = |key: &str| error[key].as_str().unwrap_or("?").to_owned();
                    bail!("Neo4j: {}: {}", text("code"), text("message"));
                }
                (tag, _) => bail!("Neo4j answered with an unexpected message 0x{tag:02x}"),
            }
        }
    }

    fn receive(&mut self) -> Result<(u8, Vec<Value>)> {
        let mut body = Vec::new();
        loop {
            let mut length = [0; 2];
            self.stream.read_exact(&mut length).context("waiting for Neo4j's answer")?;
            match usize::from(u16::from_be_bytes(length)) {
                // An empty chunk before a message keeps the connection alive, after one it ends the message.
                0 if body.is_empty() => {}
                0 => break,
                length => {
                    let from = body.len();
                    body.resize(from + length, 0);
                    self.stream.read_exact(&mut body[from..]).context("reading Neo4j's answer")?;
                }
            }
        }
        let mut reader = Reader(&body);
        let head = reader.byte()?;
        ensure!(head & 0xF0 == 0xB0, "a Bolt message begins with a structure, not 0x{head:02x}");
        let tag = reader.byte()?;
        let fields = (0..head & 0x0F).map(|_| reader.value()).collect::<Result<_>>()?;
        Ok((tag, fields))
    }
}

fn pack(value: &Value, out: &mut Vec<u8>) -> Result<()> {
    match value {
        Value::Null => out.push(0xC0),
        Value::Bool(value) => out.push(0xC2 | u8::from(*value)),
        Value::Number(number) => match number.as_i64() {
            Some(number) => {
                out.push(0xCB);
                out.extend(number.to_be_bytes());
            }
            None => {
                out.push(0xC1);
                out.extend(number.as_f64().context("a number that fits in 64 bits")?.to_be_bytes());
            }
        },
        Value::String(text) => {
            head(0xD2, text.len(), out)?;
            out.extend(text.as_bytes());
        }
        Value::Array(items) => {
            head(0xD6, items.len(), out)?;
            items.iter().try_for_each(|item| pack(item, out))?;
        }
        Value::Object(members) => {
            head(0xDA, members.len(), out)?;
            for (key, value) in members {
                head(0xD2, key.len(), out)?;
                out.extend(key.as_bytes());
                pack(value, out)?;
            }
        }
    }
    Ok(())
}

/// The widest spelling of every length is always allowed, so the narrow ones are not written.
fn head(tag: u8, length: usize, out: &mut Vec<u8>) -> Result<()> {
    out.push(tag);
    out.extend(u32::try_from(length).context("a value of under 4 GiB")?.to_be_bytes());
    Ok(())
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Result<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("Neo4j's answer ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A big-endian number of `count` bytes.
    fn unsigned(&mut self, count: usize) -> Result<u64> {
        Ok(self.take(count)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn value(&mut self) -> Result<Value> {
        let tag = self.byte()?;
        Ok(match tag {
            0xC0 => Value::Null,
            0xC1 => json!(f64::from_bits(self.unsigned(8)?)),
            0xC2 | 0xC3 => json!(tag == 0xC3),
            0x00..=0x7F | 0xF0..=0xFF => json!(tag as i8),
            0xC8 => json!(self.unsigned(1)? as i8),
            0xC9 => json!(self.unsigned(2)? as i16),
            0xCA => json!(self.unsigned(4)? as i32),
            0xCB => json!(self.unsigned(8)? as i64),
            0x80..=0x8F => self.text(usize::from(tag & 0x0F))?,
            0xD0..=0xD2 => {
                let length = self.unsigned(1 << (tag - 0xD0))? as usize;
                self.text(length)?
            }
            0x90..=0x9F => self.list(usize::from(tag & 0x0F))?,
            0xD4..=0xD6 => {
                let length = self.unsigned(1 << (tag - 0xD4))? as usize;
                self.list(length)?
            }
            0xA0..=0xAF => self.map(usize::from(tag & 0x0F))?,
            0xD8..=0xDA => {
                let length = self.unsigned(1 << (tag - 0xD8))? as usize;
                self.map(length)?
            }
            0xB0..=0xBF => {
                let structure = self.byte()?;
                json!({"structure": structure, "fields": self.list(usize::from(tag & 0x0F))?})
            }
            _ => bail!("Neo4j sent a value of the unknown kind 0x{tag:02x}"),
        })
    }

    fn text(&mut self, length: usize) -> Result<Value> {
        Ok(json!(std::str::from_utf8(self.take(length)?).context("Neo4j sent text that isn't UTF-8")?))
    }

    fn list(&mut self, length: usize) -> Result<Value> {
        (0..length).map(|_| self.value()).collect::<Result<Vec<_>>>().map(Value::Array)
    }

    fn map(&mut self, length: usize) -> Result<Value> {
        let mut members = Map::new();
        for _ in 0..length {
            let Value::String(key) = self.value()? else { bail!("a map's key from Neo4j is no text") };
            members.insert(key, self.value()?);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests;
