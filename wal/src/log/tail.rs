//! The growing end: framing records, and going over to the next segment.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::spares::{Claim, Spare};
use super::{Appended, Shared};
use crate::format::{Class, Frame, INTERNAL_BYTES, Link, PAGE, SegmentHeader, encode, encode_internal, record_bytes};
use crate::recover::begin;
use crate::storage::SegmentFile;
use crate::{Lsn, WalError};

/// A segment that is or was written in this opening.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) file: Box<dyn SegmentFile>,
}

/// Bytes of one segment that wait for their flush.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) segment: Arc<Segment>,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// All that waits for a flush.
#[derive(Debug)]
pub(super) struct Pending {
    /// In order of Lsn.
    pub(super) spans: Vec<Span>,
    pub(super) records: u64,
    /// What is durable once all of it is flushed.
    pub(super) up_to: Lsn,
}

impl Pending {
    pub(super) fn bytes(&self) -> u64 {
        self.spans.iter().map(|span| span.to - span.from).sum()
    }
}

/// A scratch buffer larger than this is given back after use.
const SCRATCH: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Tail {
    segment: Arc<Segment>,
    /// Where the next record begins; an end record always fits behind it.
    offset: u64,
    spans: Vec<Span>,
    records: u64,
    pub(super) closed: bool,
    /// Nothing more may be appended here but a seal, a close or the end record: the next record begins a new segment.
    pub(super) leave: bool,
    scratch: Vec<u8>,
}

impl Tail {
    pub(super) fn new(segment: Arc<Segment>, lsn: Lsn, leave: bool) -> Tail {
        let offset = lsn - segment.header.base;
        Tail { segment, offset, spans: Vec::new(), records: 0, closed: false, leave, scratch: Vec::new() }
    }

    pub(super) fn take_pending(&mut self) -> Pending {
        Pending {
            spans: std::mem::take(&mut self.spans),
            records: std::mem::take(&mut self.records),
            up_to: self.lsn(),
        }
    }

    /// The caller's records that wait for their flush.
    pub(super) fn pending_records(&self) -> u64 {
        self.records
    }

    fn lsn(&self) -> Lsn {
        self.segment.header.base + self.offset
    }

    /// Whether the segment holds nothing yet.
    fn is_empty(&self) -> bool {
        self.offset == PAGE
    }

    /// Where `bytes` bytes of this class may begin, with room for the end record behind them.
    fn place(&self, class: Class, bytes: u64) -> Option<u64> {
        if self.leave && !class.seals() {
            return None;
        }
        let fits = |at: u64| at + bytes + INTERNAL_BYTES <= self.segment.header.bytes;
        let page = self.offset.next_multiple_of(PAGE);
        if class.seals() && fits(page) {
            return Some(page);
        }
        // Near the segment's end a seal shares the page of what it seals: weaker, and still a witness.
        fits(self.offset).then_some(self.offset)
    }

    /// Writes `self.scratch` at `at` and goes behind it.
    fn write(&mut self, at: u64) -> std::io::Result<()> {
        self.segment.file.write_at(at, &self.scratch)?;
        let to = at + self.scratch.len() as u64;
        match self.spans.last_mut() {
            Some(span) if Arc::ptr_eq(&span.segment, &self.segment) => span.to = to,
            _ => self.spans.push(Span { segment: Arc::clone(&self.segment), from: at, to }),
        }
        self.offset = to;
        if self.scratch.capacity() > SCRATCH {
            self.scratch = Vec::new();
        }
        Ok(())
    }
}

/// A record to be appended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draft<'a> {
    pub(super) class: Class,
    pub(super) kind: u8,
    pub(super) flags: u16,
    pub(super) payload: &'a [u8],
}

impl Shared {
    pub(super) fn append(&self, claim: Claim, kind: u8, payload: &[u8]) -> Result<Appended, WalError> {
        let max = self.max_payload();
        if payload.len() > max {
            return Err(WalError::TooLarge { len: payload.len(), max });
        }
        if claim == Claim::Ordinary
            && let Some(full) = self.spares.exhausted(&*self.storage)
        {
            return Err(full);
        }
        // Before the tail is locked: others append meanwhile.
        let (payload, flags) = self.coder.compress(payload);
        let appended = self.put(claim, Draft { class: Class::User, kind, flags, payload: &payload })?;
        self.counters.records.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes.fetch_add(appended.end - appended.lsn, Ordering::Relaxed);
        // The flushing thread looks at the count after it has said that it sleeps, and here it is the other way round:
        // one of the two sees the other.
        self.appends.fetch_add(1, Ordering::SeqCst);
        if self.watermark.asleep.load(Ordering::SeqCst) {
            let state = self.watermark.state();
            self.watermark.asked.notify_one();
            drop(state);
        }
        Ok(appended)
    }

    /// Frames a record at the tail, in the next segment where this one has no room. Waits for a spare without holding
    /// the tail, so that what is appended already can be flushed meanwhile.
    pub(super) fn put(&self, claim: Claim, draft: Draft<'_>) -> Result<Appended, WalError> {
        let overhead = if draft.class == Class::User { self.coder.overhead() } else { 0 };
        let bytes = record_bytes((draft.payload.len() + overhead) as u64);
        let mut spare: Option<Spare> = None;
        loop {
            let mut tail = self.tail();
            self.usable(&tail)?;
            if let Some(at) = tail.place(draft.class, bytes) {
                let appended = self.frame(&mut tail, draft, at);
                drop(tail);
                if let Some(spare) = spare {
                    self.spares.put_back(spare);
                }
                return appended;
            }
            match spare.take() {
                Some(spare) => self.go_over(&mut tail, spare)?,
                None => {
                    drop(tail);
                    spare = Some(self.spares.take(&*self.storage, claim)?);
                }
            }
        }
    }

    /// Answers an error where nothing may be appended any more.
    fn usable(&self, tail: &Tail) -> Result<(), WalError> {
        self.watermark.sound()?;
        if tail.closed { Err(WalError::Closed) } else { Ok(()) }
    }

    fn frame(&self, tail: &mut Tail, draft: Draft<'_>, at: u64) -> Result<Appended, WalError> {
        let header = &tail.segment.header;
        let lsn = header.base + at;
        let Draft { class, kind, flags, payload } = draft;
        let frame = Frame { salt: header.salt, lsn, durable: self.watermark.durable(), kind, class, flags };
        tail.scratch.clear();
        if class == Class::User {
            self.coder.frame(&mut tail.scratch, frame, payload);
        } else {
            encode(&mut tail.scratch, frame, payload);
        }
        tail.write(at).map_err(|error| self.watermark.poison(format!("a write failed: {error}")))?;
        tail.records += u64::from(draft.class == Class::User);
        self.publish(tail);
        Ok(Appended { lsn, end: tail.lsn() })
    }

    fn publish(&self, tail: &Tail) {
        self.next.store(tail.lsn().as_u64(), Ordering::Release);
    }

    /// Ends the tail's segment and makes the spare its successor. The successor's name is durable before the end record
    /// is written: an end record promises a successor.
    fn go_over(&self, tail: &mut Tail, spare: Spare) -> Result<(), WalError> {
        let old = &tail.segment.header;
        let end = Frame {
            salt: old.salt,
            lsn: old.base + tail.offset,
            durable: self.watermark.durable(),
            kind: 0,
            class: Class::End,
            flags: 0,
        };
        let salt = self.storage.random();
        tail.scratch.clear();
        let crc = encode_internal(&mut tail.scratch, end, salt);
        let header = SegmentHeader {
            log_id: old.log_id,
            number: old.number + 1,
            base: old.end(),
            bytes: spare.file.bytes(),
            salt,
            previous: Link { salt: old.salt, last: end.lsn, crc },
            durable: self.watermark.durable(),
            released: self.released(),
            coding: self.coder.coding(),
            recycled: spare.recycled,
            created_at: self.storage.now_micros(),
        };
        match begin(&*self.storage, &*spare.file, &spare.name, &header) {
            Ok(()) => {}
            // The file is still a spare, and the log as it was.
            Err(full @ WalError::Full { .. }) => {
                self.spares.put_back(spare);
                return Err(full);
            }
            Err(error) => return Err(self.watermark.poison(format!("beginning a segment failed: {error}"))),
        }
        self.spares.count(PAGE);
        let at = tail.offset;
        tail.write(at).map_err(|error| self.watermark.poison(format!("a write failed: {error}")))?;
        self.segments().push_back(header.clone());
        tail.segment = Arc::new(Segment { header, file: spare.file });
        tail.offset = PAGE;
        tail.leave = false;
        self.publish(tail);
        Ok(())
    }

    /// Goes over to the next segment now, unless this one is empty.
    pub(super) fn rotate(&self) -> Result<(), WalError> {
        let before = {
            let tail = self.tail();
            self.usable(&tail)?;
            if tail.is_empty() && !tail.leave {
                return Ok(());
            }
            tail.segment.header.number
        };
        let spare = self.spares.take(&*self.storage, Claim::Ordinary)?;
        let mut tail = self.tail();
        self.usable(&tail)?;
        if tail.segment.header.number != before {
            drop(tail);
            self.spares.put_back(spare);
            return Ok(());
        }
        self.go_over(&mut tail, spare)
    }

    /// Writes a seal behind everything, if records stand behind the last one and nothing was appended since the count
    /// `seen` (where that is asked). Gives whether it wrote one.
    pub(super) fn seal(&self, seen: Option<u64>) -> Result<bool, WalError> {
        let mut tail = self.tail();
        self.usable(&tail)?;
        let appends = self.appends.load(Ordering::SeqCst);
        if appends == self.sealed_at.load(Ordering::SeqCst) || seen.is_some_and(|seen| seen != appends) {
            return Ok(false);
        }
        // A seal that was framed before the flush of what it seals would be no witness for it.
        if seen.is_some() && self.watermark.durable() < tail.lsn() {
            return Ok(false);
        }
        self.sealed_at.store(appends, Ordering::SeqCst);
        // Without room the segment is about to end, and the next one's header will be the witness.
        let Some(at) = tail.place(Class::Seal, INTERNAL_BYTES) else { return Ok(false) };
        let previous = tail.lsn().as_u64().to_le_bytes();
        self.frame(&mut tail, Draft { class: Class::Seal, kind: 0, flags: 0, payload: &previous }, at)?;
        Ok(true)
    }

    /// Writes the close record and lets nothing be appended after it.
    pub(super) fn close_tail(&self) -> Result<(), WalError> {
        // A full segment is left first, so that the close record has a place; without a spare it must do without.
        let mut spare = None;
        loop {
            let mut tail = self.tail();
            self.usable(&tail)?;
            if let Some(at) = tail.place(Class::Close, INTERNAL_BYTES) {
                let previous = tail.lsn().as_u64().to_le_bytes();
                self.frame(&mut tail, Draft { class: Class::Close, kind: 0, flags: 0, payload: &previous }, at)?;
                tail.closed = true;
                return Ok(());
            }
            match spare.take() {
                Some(spare) => self.go_over(&mut tail, spare)?,
                None => {
                    drop(tail);
                    match self.spares.take(&*self.storage, Claim::Reserved) {
                        Ok(taken) => spare = Some(taken),
                        Err(_) => {
                            self.tail().closed = true;
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}
