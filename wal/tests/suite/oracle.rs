//! The rules of the format, written a second time from the README alone: what must an opening say of these bytes?
//!
//! Slow and plain on purpose. It shares no code with the crate, so that both would have to be wrong in the same way.

use outrigger_wal::sim::SimDisk;

const PAGE: u64 = 4096;

/// What an opening must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Open with exactly these records of the caller: (lsn, CRC of the payload).
    Open(Vec<(u64, u32)>),
    /// Refuse: acknowledged data is lost.
    Refuse(String),
}

struct Segment {
    number: u64,
    base: u64,
    salt: u64,
    previous: (u64, u64, u32),
    durable: u64,
    released: u64,
    bytes: Vec<u8>,
}

struct Found {
    lsn: u64,
    end: u64,
    durable: u64,
    class: u8,
    crc: u32,
    payload: Vec<u8>,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// All segments by their names, each sound or not.
fn segments(disk: &SimDisk) -> Vec<(u64, Option<Segment>)> {
    let mut found = Vec::new();
    for name in disk.names() {
        let Some(number) = name.strip_suffix(".wal") else { continue };
        let number: u64 = number.parse().unwrap();
        let bytes = disk.content(&name).unwrap();
        let sound = &bytes[..8] == b"OGR\x89WAL\n"
            && crc32fast::hash(&bytes[..4092]) == u32_at(&bytes, 4092)
            && u64_at(&bytes, 32) == number
            && u64_at(&bytes, 48) == bytes.len() as u64;
        let segment = sound.then(|| Segment {
            number,
            base: u64_at(&bytes, 40),
            salt: u64_at(&bytes, 56),
            previous: (u64_at(&bytes, 64), u64_at(&bytes, 72), u32_at(&bytes, 80)),
            durable: u64_at(&bytes, 104),
            released: u64_at(&bytes, 112),
            bytes,
        });
        found.push((number, segment));
    }
    found.sort_by_key(|(number, _)| *number);
    found
}

impl Segment {
    fn record(&self, at: u64) -> Option<Found> {
        let rest = self.bytes.get(at as usize..)?;
        if rest.len() < 32 {
            return None;
        }
        let (crc, len, lsn, durable) = (u32_at(rest, 0), u32_at(rest, 4) as usize, u64_at(rest, 8), u64_at(rest, 16));
        let whole = (32 + len).next_multiple_of(8);
        let (class, reserved) = (rest[25], &rest[26..32]);
        if lsn != self.base + at || whole > rest.len() || durable > lsn || class > 4 || reserved != [0; 6] {
            return None;
        }
        if class != 0 && len != 8 {
            return None;
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.salt.to_le_bytes());
        hasher.update(&rest[4..whole]);
        (hasher.finalize() == crc).then(|| Found {
            lsn,
            end: lsn + whole as u64,
            durable,
            class,
            crc,
            payload: rest[32..32 + len].to_vec(),
        })
    }

    /// The record that follows position `at` in the chain.
    fn chained(&self, at: u64) -> Option<Found> {
        let follows = |found: &Found| !matches!(found.class, 1 | 2) || u64_at(&found.payload, 0) == self.base + at;
        if let Some(found) = self.record(at).filter(follows) {
            return Some(found);
        }
        let page = at.next_multiple_of(PAGE);
        self.record(page).filter(|found| page != at && matches!(found.class, 1 | 2) && follows(found))
    }

    /// The highest durable Lsn that any valid record from `at` on states.
    fn witness(&self, at: u64) -> u64 {
        (at..self.bytes.len() as u64)
            .step_by(8)
            .filter_map(|at| self.record(at))
            .map(|found| found.durable)
            .max()
            .unwrap_or(0)
    }
}

/// What must an opening do with this disk?
pub(crate) fn judge(disk: &SimDisk) -> Verdict {
    let refuse = |why: &str| Verdict::Refuse(why.to_owned());
    let all = segments(disk);
    let mut kept = Vec::new();
    let mut released = 0;
    let mut first_base = None;
    // (number, base, salt, link) that the next segment must have.
    let mut expected = None;
    for (index, (_, segment)) in all.iter().enumerate() {
        let Some(segment) = segment else { return refuse("header") };
        if expected.is_some_and(|expected| expected != (segment.number, segment.base, segment.salt, segment.previous)) {
            return refuse("chain");
        }
        first_base.get_or_insert(segment.base);
        released = released.max(segment.released);
        let mut at = PAGE;
        loop {
            let Some(found) = segment.chained(at) else {
                let here = segment.base + at;
                let mut durable = segment.witness(at);
                let mut unsound = false;
                for (_, later) in &all[index + 1..] {
                    match later {
                        Some(later) => durable = durable.max(later.durable).max(later.witness(PAGE)),
                        None => unsound = true,
                    }
                }
                if durable > here {
                    return refuse("witness");
                }
                if unsound {
                    return refuse("header behind a tear");
                }
                if first_base.unwrap_or(0) > released {
                    return refuse("front");
                }
                return Verdict::Open(kept);
            };
            at = found.end - segment.base;
            match found.class {
                0 => kept.push((found.lsn, crc32fast::hash(&found.payload))),
                3 => {
                    let link = (segment.salt, found.lsn, found.crc);
                    let base = segment.base + segment.bytes.len() as u64;
                    expected = Some((segment.number + 1, base, u64_at(&found.payload, 0), link));
                    break;
                }
                4 => released = released.max(u64_at(&found.payload, 0)),
                _ => {}
            }
        }
    }
    match expected {
        Some(_) => refuse("successor"),
        None => Verdict::Open(kept),
    }
}
