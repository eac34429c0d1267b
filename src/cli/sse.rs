//! Reading server-sent events, as far as our own door sends them.

/// One block of a stream.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Block {
    /// The place that it names; empty: none.
    pub(super) id: String,
    /// Its type; empty: an ordinary one.
    pub(super) event: String,
    /// Its data; empty: it only moves the place, or is a comment.
    pub(super) data: String,
}

/// Bytes in, blocks out.
#[derive(Default)]
pub(super) struct Blocks {
    /// What has come of the block that is not complete yet.
    pending: Vec<u8>,
}

impl Blocks {
    /// Takes what has come.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole block.
    pub(super) fn next(&mut self) -> Option<Block> {
        let end = self.pending.windows(2).position(|pair| pair == b"\n\n")?;
        let text: Vec<u8> = self.pending.drain(..end + 2).collect();
        let mut block = Block::default();
        for line in String::from_utf8_lossy(&text).lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => value.clone_into(&mut block.id),
                "event" => value.clone_into(&mut block.event),
                "data" if block.data.is_empty() => value.clone_into(&mut block.data),
                "data" => block.data.push_str(&format!("\n{value}")),
                // Comments, `retry`, and what may come.
                _ => {}
            }
        }
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_whole_however_the_bytes_come() {
        let text = "retry: 1000\nid: 1-1-0\n\n: heartbeat\nid: 1-1-2\n\nevent: gap\nid:2-1-0\ndata: {\"a\":1}\ndata: x\n\nid: cut";
        let mut whole = Blocks::default();
        whole.feed(text.as_bytes());
        let mut bit_by_bit = Blocks::default();
        let mut seen = Vec::new();
        for byte in text.bytes() {
            bit_by_bit.feed(&[byte]);
            seen.extend(bit_by_bit.next());
        }
        let block = |id: &str, event: &str, data: &str| Block { id: id.into(), event: event.into(), data: data.into() };
        let expected = [block("1-1-0", "", ""), block("1-1-2", "", ""), block("2-1-0", "gap", "{\"a\":1}\nx")];
        assert_eq!(seen, expected);
        assert_eq!(std::iter::from_fn(|| whole.next()).collect::<Vec<_>>(), expected);
    }
}
