//! An entry: records of one shard that were ordered together, in the one form that a primary seals, a follower receives and every
//! replica's disk keeps.
//!
//! Promises: an [`Entry`] in hand has a head and a payload whose checksums were computed or checked by this process.
//! Does not: know what its records mean, or whether it is committed.

use crate::record::{RECORD_ALIGN, Record};
use crate::wire::{self, ENTRY_HEAD_BYTES, EntryHead, FRAME_HEADER_BYTES, Position, WireError};
use bytes::Bytes;
use rkyv::util::AlignedVec;

/// One entry. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    head: EntryHead,
    payload: Bytes,
}

/// The records of an entry before it has its place in the order.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    bytes: Bytes,
    record_count: u32,
    crc: u32,
}

impl Payload {
    /// Of records in their order. They are copied once, behind each other.
    pub fn of(records: &[Record]) -> Self {
        let length = records.iter().map(|record| record.bytes().len()).sum();
        let mut bytes = AlignedVec::<RECORD_ALIGN>::with_capacity(length);
        records.iter().for_each(|record| bytes.extend_from_slice(record.bytes()));
        let crc = wire::crc(&bytes);
        Self { bytes: Bytes::from_owner(bytes), record_count: records.len() as u32, crc }
    }

    /// Its length, in bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records in their order.
    pub fn records(&self) -> impl Iterator<Item = Record> + use<> {
        Record::split(&self.bytes)
    }

    /// Records it holds.
    pub fn record_count(&self) -> u32 {
        self.record_count
    }
}

impl Entry {
    /// The entry at `index` of `shard`, ordered in `term`, when the entries up to `committed` were committed.
    pub fn seal(shard: u16, term: u64, index: u64, committed: u64, payload: &Payload) -> Self {
        let head = EntryHead {
            shard,
            term,
            index,
            committed,
            record_count: payload.record_count,
            payload_bytes: payload.bytes.len() as u32,
            payload_crc: payload.crc,
        };
        Self { head, payload: payload.bytes.clone() }
    }

    /// The entry at the front of `bytes`, which came from another replica; `bytes` keeps what follows.
    ///
    /// # Errors
    /// Any [`WireError`].
    pub fn parse(bytes: &mut Bytes) -> Result<Self, WireError> {
        let head = EntryHead::parse(bytes)?;
        let end = ENTRY_HEAD_BYTES + head.payload_bytes as usize;
        if bytes.len() < end {
            return Err(WireError::Short);
        }
        let payload = bytes.slice(ENTRY_HEAD_BYTES..end);
        wire::check_payload(&head, &payload)?;
        let _ = bytes.split_to(end);
        Ok(Self { head, payload })
    }

    pub(crate) fn of_frame(bytes: &Bytes, log: &[u8; 16], at: Position) -> Result<Self, WireError> {
        let header = wire::parse_frame(bytes, log, at)?;
        let payload_end = FRAME_HEADER_BYTES + header.entry.payload_bytes as usize;
        Ok(Self { head: header.entry, payload: bytes.slice(FRAME_HEADER_BYTES..payload_end) })
    }

    /// Its head.
    pub fn head(&self) -> &EntryHead {
        &self.head
    }

    /// Its records, one behind the other.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Its records in their order.
    pub fn records(&self) -> impl Iterator<Item = Record> + use<> {
        Record::split(&self.payload)
    }

    /// The same records, free of their place.
    pub fn unordered(&self) -> Payload {
        Payload { bytes: self.payload.clone(), record_count: self.head.record_count, crc: self.head.payload_crc }
    }

    /// Bytes that it takes on the wire.
    pub fn wire_bytes(&self) -> usize {
        ENTRY_HEAD_BYTES + self.payload.len()
    }

    /// Appends its form on the wire.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head.encode());
        out.extend_from_slice(&self.payload);
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let EntryHead { shard, term, index, record_count, .. } = self.head;
        write!(
            f,
            "Entry(shard {shard}, term {term}, index {index}, {record_count} records, {} bytes)",
            self.payload.len()
        )
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({} records, {} bytes)", self.record_count, self.bytes.len())
    }
}
