//! Decides which records share a frame and which frames share a round, and whether there is room for one more.
//!
//! Promises: consecutive appends of one shard and term in one round share a frame; a record that was taken has its place on the
//! prepared space; what waits is bounded. Does not: write; it never looks at a clock or a file.

use crate::AppendError;
use crate::buffer::{AlignedBuffer, blocks_up};
use crate::entry::Entry;
use crate::record::Record;
use crate::wire::hint::{Item, Items};
use crate::wire::{EntryHead, FRAME_HEADER_BYTES};
use crc_fast::{CrcAlgorithm, Digest};
use std::collections::{BTreeMap, VecDeque};

/// Frame buffers kept for the next rounds.
const SPARES_MAX: usize = 32;
/// A buffer that grew larger than this is not kept, in bytes.
const SPARE_BYTES_MAX: usize = 1 << 20;
/// A new frame buffer, in bytes.
const FRAME_BYTES_EXPECTED: usize = 64 << 10;
/// When the backlog is full or a segment is late: come back after so many milliseconds, about the time of a few syncs.
const RETRY_AFTER_MS: u32 = 5;

/// Bounds of the gathering, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) frame_bytes_max: usize,
    pub(crate) round_bytes_max: usize,
    pub(crate) backlog_bytes_max: usize,
}

/// The last entry of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

/// Where the next frames will go: bytes left in the active segment, and in each that is prepared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Space {
    pub(crate) active_left: usize,
    pub(crate) ahead: VecDeque<usize>,
    /// The last preparation failed: the disk is full.
    pub(crate) full: bool,
}

/// An entry while it fills.
pub(crate) struct Frame {
    pub(crate) shard: u16,
    pub(crate) term: u64,
    pub(crate) index: u64,
    committed: u64,
    pub(crate) buffer: AlignedBuffer,
    pub(crate) items: Items,
    pub(crate) offsets: Vec<u32>,
    /// Sum of the records that came one by one.
    digest: Digest,
    /// Sum of the records of an entry that came whole.
    whole_crc: Option<u32>,
}

/// Frames that are written and synced together.
#[derive(Default)]
pub(crate) struct Round {
    pub(crate) frames: Vec<Frame>,
    /// Whole blocks, in bytes.
    pub(crate) bytes: usize,
}

pub(crate) struct Gather {
    bounds: Bounds,
    lasts: BTreeMap<u16, Last>,
    rounds: VecDeque<Round>,
    waiting_bytes: usize,
    in_flight_bytes: usize,
    spares: Vec<AlignedBuffer>,
}

impl Frame {
    fn new(shard: u16, last: Last, mut buffer: AlignedBuffer) -> Self {
        buffer.clear();
        buffer.resize(FRAME_HEADER_BYTES, 0);
        Self {
            shard,
            term: last.term,
            index: last.index,
            committed: 0,
            buffer,
            items: Items::default(),
            offsets: Vec::new(),
            digest: Digest::new(CrcAlgorithm::Crc32Iscsi),
            whole_crc: None,
        }
    }

    /// A frame of an entry that is whole; each of `hints` is of one record.
    fn whole(entry: &Entry, hints: impl Iterator<Item = (Record, Vec<u8>)>, mut buffer: AlignedBuffer) -> Self {
        let EntryHead { shard, term, index, committed, payload_crc, .. } = *entry.head();
        buffer.clear();
        buffer.resize(FRAME_HEADER_BYTES, 0);
        buffer.extend_from_slice(entry.payload());
        let mut items = Items::default();
        let mut offsets = Vec::new();
        let mut offset = FRAME_HEADER_BYTES as u32;
        for (record, hint) in hints {
            items.push(Item { offset, kind: record.kind(), key: record.key(), hint: &hint });
            offsets.push(offset);
            offset += record.bytes().len() as u32;
        }
        let digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        Self { shard, term, index, committed, buffer, items, offsets, digest, whole_crc: Some(payload_crc) }
    }

    fn push(&mut self, record: &Record, hint: &[u8]) {
        let offset = self.buffer.len() as u32;
        self.buffer.extend_from_slice(record.bytes());
        self.digest.update(record.bytes());
        self.items.push(Item { offset, kind: record.kind(), key: record.key(), hint });
        self.offsets.push(offset);
    }

    /// Whole blocks, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        blocks_up(self.buffer.len())
    }

    pub(crate) fn head(&self) -> EntryHead {
        EntryHead {
            shard: self.shard,
            term: self.term,
            index: self.index,
            committed: self.committed,
            record_count: self.offsets.len() as u32,
            payload_bytes: (self.buffer.len() - FRAME_HEADER_BYTES) as u32,
            payload_crc: self.whole_crc.unwrap_or_else(|| self.digest.finalize() as u32),
        }
    }
}

impl Space {
    /// Whether frames of these sizes fit one behind the other; a frame does not span segments.
    fn fits(&self, frames: impl Iterator<Item = usize>) -> bool {
        let mut left = self.active_left;
        let mut ahead = self.ahead.iter();
        for bytes in frames {
            while left < bytes {
                match ahead.next() {
                    Some(&capacity) => left = capacity,
                    None => return false,
                }
            }
            left -= bytes;
        }
        true
    }
}

impl Gather {
    pub(crate) fn new(bounds: Bounds, lasts: BTreeMap<u16, Last>) -> Self {
        let rounds = VecDeque::new();
        Self { bounds, lasts, rounds, waiting_bytes: 0, in_flight_bytes: 0, spares: Vec::new() }
    }

    /// Takes a record and answers the index of the entry that will hold it.
    pub(crate) fn push(
        &mut self,
        space: &Space,
        shard: u16,
        term: u64,
        record: &Record,
        hint: &[u8],
    ) -> Result<u64, AppendError> {
        let length = record.bytes().len();
        let alone = blocks_up(FRAME_HEADER_BYTES + length);
        if self.bounds.frame_bytes_max < alone {
            let bytes_max = self.bounds.frame_bytes_max - FRAME_HEADER_BYTES;
            return Err(AppendError::TooLarge { bytes: length, bytes_max });
        }
        let place = self.open_frame(shard, term, length);
        let grown = match place {
            Some(frame) => {
                let frame = &self.rounds[self.rounds.len() - 1].frames[frame];
                blocks_up(frame.buffer.len() + length) - frame.bytes()
            }
            None => alone,
        };
        if grown != 0 {
            self.admit(space, place, grown)?;
        }
        let last = self.lasts.entry(shard).or_default();
        assert!(last.term <= term, "shard {shard}: term went back from {} to {term}", last.term);
        let frame = match place {
            Some(frame) => frame,
            None => {
                *last = Last { term, index: last.index + 1 };
                let last = *last;
                let buffer = self.spare();
                let round = self.round_for(alone);
                round.frames.push(Frame::new(shard, last, buffer));
                round.frames.len() - 1
            }
        };
        let round = self.rounds.back_mut().expect("the round of the frame");
        round.frames[frame].push(record, hint);
        round.bytes += grown;
        self.waiting_bytes += grown;
        Ok(round.frames[frame].index)
    }

    /// Takes an entry that is whole into a frame of its own. Its index follows the shard's last one, or replaces what is there
    /// from that index on.
    pub(crate) fn push_entry(
        &mut self,
        space: &Space,
        entry: &Entry,
        hints: impl Iterator<Item = (Record, Vec<u8>)>,
    ) -> Result<(), AppendError> {
        let EntryHead { shard, term, index, .. } = *entry.head();
        let length = entry.payload().len();
        let alone = blocks_up(FRAME_HEADER_BYTES + length);
        if self.bounds.frame_bytes_max < alone {
            let bytes_max = self.bounds.frame_bytes_max - FRAME_HEADER_BYTES;
            return Err(AppendError::TooLarge { bytes: length, bytes_max });
        }
        self.admit(space, None, alone)?;
        let last = self.lasts.entry(shard).or_default();
        assert!(0 < index && index <= last.index + 1, "shard {shard}: entry {index} behind entry {}", last.index);
        *last = Last { term, index };
        let buffer = self.spare();
        let round = self.round_for(alone);
        round.frames.push(Frame::whole(entry, hints, buffer));
        round.bytes += alone;
        self.waiting_bytes += alone;
        Ok(())
    }

    fn spare(&mut self) -> AlignedBuffer {
        self.spares.pop().unwrap_or_else(|| AlignedBuffer::with_capacity(FRAME_BYTES_EXPECTED))
    }

    /// The newest round, or a new one where `bytes` more would be too many for it.
    fn round_for(&mut self, bytes: usize) -> &mut Round {
        let full = |round: &Round| self.bounds.round_bytes_max < round.bytes + bytes;
        if self.rounds.back().is_none_or(full) {
            self.rounds.push_back(Round::default());
        }
        self.rounds.back_mut().expect("a round was just made sure of")
    }

    /// Whether `bytes` more would be taken now.
    pub(crate) fn has_room(&self, space: &Space, bytes: usize) -> Result<(), AppendError> {
        self.admit(space, None, blocks_up(FRAME_HEADER_BYTES + bytes))
    }

    /// The frame of the newest round that the record may join.
    fn open_frame(&self, shard: u16, term: u64, length: usize) -> Option<usize> {
        let round = self.rounds.back()?;
        let at = round.frames.iter().rposition(|frame| frame.shard == shard)?;
        let frame = &round.frames[at];
        let grown = blocks_up(frame.buffer.len() + length);
        let joins = frame.term == term
            && grown <= self.bounds.frame_bytes_max
            && round.bytes - frame.bytes() + grown <= self.bounds.round_bytes_max;
        joins.then_some(at)
    }

    fn admit(&self, space: &Space, place: Option<usize>, grown: usize) -> Result<(), AppendError> {
        if self.bounds.backlog_bytes_max < self.waiting_bytes + self.in_flight_bytes + grown {
            return Err(AppendError::Busy { retry_after_ms: RETRY_AFTER_MS });
        }
        if self.waiting_bytes + grown <= space.active_left {
            return Ok(());
        }
        let newest = self.rounds.len().wrapping_sub(1);
        let waiting = self.rounds.iter().enumerate().flat_map(|(number, round)| {
            let joined = place.filter(|_| number == newest);
            let sizes = round.frames.iter().enumerate();
            sizes.map(move |(at, frame)| frame.bytes() + if Some(at) == joined { grown } else { 0 })
        });
        let alone = place.is_none().then_some(grown);
        if space.fits(waiting.chain(alone)) {
            Ok(())
        } else if space.full {
            Err(AppendError::DiskFull)
        } else {
            Err(AppendError::Busy { retry_after_ms: RETRY_AFTER_MS })
        }
    }

    /// Bytes that wait for a round.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// The oldest round; from here on it is in flight.
    pub(crate) fn take(&mut self) -> Option<Round> {
        let round = self.rounds.pop_front()?;
        self.waiting_bytes -= round.bytes;
        self.in_flight_bytes += round.bytes;
        Some(round)
    }

    /// A round of `bytes` is durable.
    pub(crate) fn landed(&mut self, bytes: usize) {
        assert!(bytes <= self.in_flight_bytes, "more bytes landed than flew");
        self.in_flight_bytes -= bytes;
    }

    /// Keeps a buffer for a later frame.
    pub(crate) fn give_back(&mut self, buffer: AlignedBuffer) {
        if self.spares.len() < SPARES_MAX && buffer.capacity() <= SPARE_BYTES_MAX {
            self.spares.push(buffer);
        }
    }
}
