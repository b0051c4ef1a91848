//! What the log looks like on a disk. Everything is little-endian; reserved bytes are zero and checked; all checksums are
//! CRC-32C unless said otherwise.
//!
//! ```text
//! directory/
//!   LOCK            flock: one process at a time
//!   NNNNNNNN.seg    segment, sequence in eight decimal digits, from 00000001 without a gap
//!   NNNNNNNN.hint   what a replay of the segment needs, without its bodies (wire/hint.rs)
//!   NNNNNNNN.seal   the segment is complete and durable; sums over it and over its hint (wire/seal.rs)
//!   *.tmp           never renamed, removed at the next open
//!
//! segment: blocks of 4096 bytes, all zero when it is made
//!   block 0              header
//!   block 1 ..           frames, one behind the other, each on a block boundary
//!   the last block       kept free for a close frame
//!
//! segment header
//!    0  u16       version (1)
//!    2  u16       reserved
//!    4  u32       magic "QSEG"
//!    8  [u8; 16]  log: the random name of this log
//!   24  u32       sequence
//!   28  u32       segment_bytes, of the whole file
//!   32  [u8; 28]  reserved
//!   60  u32       crc of bytes 0..60
//!   64  zero up to 4096
//!
//! frame = placement, entry head, records, zeros up to the block
//!   placement: where these bytes belong, different on every replica
//!    0  u16       version (1)
//!    2  u8        kind: 1 entry, 2 close
//!    3  u8        reserved
//!    4  u32       magic "QFRM"
//!    8  [u8; 8]   first half of the log's name
//!   16  u32       segment
//!   20  u32       offset in the segment, in bytes
//!   24  u64       number: frames of a log are numbered from 1 without a gap
//!   32  u32       durable_segment  \ everything below this position was durable
//!   36  u32       durable_offset   / before this frame was written
//!   40  u32       frame_bytes, a multiple of 4096
//!   44  u32       crc of the entry head (its last field)
//!   48  [u8; 12]  reserved
//!   60  u32       crc of bytes 0..60
//!   entry head: the same on every replica
//!   64  u16       version (1)
//!   66  u16       shard
//!   68  u32       record_count
//!   72  u64       term
//!   80  u64       index: entries of a shard are numbered from 1 without a gap
//!   88  u32       payload_bytes
//!   92  u32       crc of the payload
//!   96  u64       committed: entries of the shard up to this index were committed when this one was proposed; 0 where nobody said
//!  104  [u8; 4]   reserved
//!  108  u32       crc of bytes 64..108
//!  112  records (record.rs), payload_bytes in all
//! ```
//!
//! A close frame has no records, shard 0, term 0 and index 0: it says that the log was closed and what was durable then.
//!
//! Promises: what `parse` returns was checked to the last bit that it covers. Does not: read or write files.

pub mod hint;
pub mod seal;

use crate::buffer::{AlignedBuffer, BLOCK_BYTES, blocks_up};
use crate::record;
use crc_fast::{CrcAlgorithm, Digest};

/// Version of everything described here.
pub const VERSION: u16 = 1;
/// The segment header takes one block, in bytes.
pub const SEGMENT_HEADER_BYTES: usize = BLOCK_BYTES;
/// Placement and entry head, in bytes.
pub const FRAME_HEADER_BYTES: usize = 112;
/// A whole frame, padding included, in bytes.
pub const FRAME_BYTES_MAX: usize = 4 << 20;
/// The head of an entry, the same on every replica, in bytes.
pub const ENTRY_HEAD_BYTES: usize = FRAME_HEADER_BYTES - ENTRY_AT;
/// A close frame takes one block, in bytes.
pub const CLOSE_FRAME_BYTES: usize = BLOCK_BYTES;

const SEGMENT_MAGIC: u32 = u32::from_le_bytes(*b"QSEG");
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"QFRM");
const ENTRY_AT: usize = 64;

// A record sits on a 16-byte boundary behind the frame's heads, and the largest record fits into a frame.
const _: () = assert!(FRAME_HEADER_BYTES.is_multiple_of(record::RECORD_ALIGN));
const _: () = assert!(FRAME_HEADER_BYTES + record::RECORD_BYTES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX.is_multiple_of(BLOCK_BYTES));

/// A place between frames: everything before it, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Sequence of the segment.
    pub segment: u32,
    /// Offset in the segment, in bytes.
    pub offset: u32,
}

/// The head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Name of the log.
    pub log: [u8; 16],
    /// Sequence of the segment.
    pub sequence: u32,
    /// Bytes of the whole file.
    pub segment_bytes: u32,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// An entry of a shard.
    Entry,
    /// The log was closed here.
    Close,
}

/// Where a frame belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Entry or close.
    pub kind: FrameKind,
    /// Where the frame stands.
    pub at: Position,
    /// Number of the frame in its log.
    pub number: u64,
    /// Everything below was durable before this frame was written.
    pub durable: Position,
}

/// What an entry is, on whatever replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHead {
    /// The shard it belongs to.
    pub shard: u16,
    /// The term it was proposed in.
    pub term: u64,
    /// Its index in the shard.
    pub index: u64,
    /// Entries of the shard up to this index were committed when this one was proposed; 0 where nobody said.
    pub committed: u64,
    /// Records it holds.
    pub record_count: u32,
    /// Bytes of the records.
    pub payload_bytes: u32,
    /// Checksum of the records.
    pub payload_crc: u32,
}

/// Both heads of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Where it belongs.
    pub placement: Placement,
    /// What it holds.
    pub entry: EntryHead,
    /// Bytes of the whole frame, padding included.
    pub frame_bytes: u32,
}

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Nothing was ever written here.
    #[error("blank")]
    Blank,
    /// Fewer bytes than the layout needs.
    #[error("cut short")]
    Short,
    /// Some other bytes.
    #[error("not a {0}")]
    Magic(&'static str),
    /// A layout this build does not know.
    #[error("version {0}; this build reads version 1")]
    Version(u16),
    /// Reserved bytes or padding are not zero.
    #[error("reserved bytes of the {0} are not zero")]
    Reserved(&'static str),
    /// Damaged.
    #[error("checksum of the {0} does not match")]
    Checksum(&'static str),
    /// Written for another log, segment or offset: left over from an earlier use, or misdirected.
    #[error("belongs elsewhere: {0}")]
    Misplaced(&'static str),
    /// A field is outside its range.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// The records inside do not add up.
    #[error("records: {0}")]
    Record(#[from] record::RecordError),
}

impl SegmentHeader {
    /// The header's block.
    pub fn encode(&self) -> AlignedBuffer {
        let mut block = crate::buffer::zeroed(SEGMENT_HEADER_BYTES);
        put(&mut block, 0, &VERSION.to_le_bytes());
        put(&mut block, 4, &SEGMENT_MAGIC.to_le_bytes());
        put(&mut block, 8, &self.log);
        put(&mut block, 24, &self.sequence.to_le_bytes());
        put(&mut block, 28, &self.segment_bytes.to_le_bytes());
        let crc = crc(&block[..60]);
        put(&mut block, 60, &crc.to_le_bytes());
        block
    }

    /// Reads a header's block.
    ///
    /// # Errors
    /// Any [`WireError`]: a visible segment always has a durable header, so an error is damage.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() < SEGMENT_HEADER_BYTES {
            return Err(WireError::Short);
        }
        if u32_at(bytes, 4) != SEGMENT_MAGIC {
            return Err(WireError::Magic("segment"));
        }
        if u16_at(bytes, 0) != VERSION {
            return Err(WireError::Version(u16_at(bytes, 0)));
        }
        if u32_at(bytes, 60) != crc(&bytes[..60]) {
            return Err(WireError::Checksum("segment header"));
        }
        if !blank(&bytes[2..4]) || !blank(&bytes[32..60]) || !blank(&bytes[64..SEGMENT_HEADER_BYTES]) {
            return Err(WireError::Reserved("segment header"));
        }
        let mut log = [0; 16];
        log.copy_from_slice(&bytes[8..24]);
        Ok(Self { log, sequence: u32_at(bytes, 24), segment_bytes: u32_at(bytes, 28) })
    }
}

impl EntryHead {
    const CLOSE: Self =
        Self { shard: 0, term: 0, index: 0, committed: 0, record_count: 0, payload_bytes: 0, payload_crc: 0 };

    /// The head as it stands in every replica's frame and on the wire.
    pub fn encode(&self) -> [u8; ENTRY_HEAD_BYTES] {
        let mut head = [0; ENTRY_HEAD_BYTES];
        put(&mut head, 0, &VERSION.to_le_bytes());
        put(&mut head, 2, &self.shard.to_le_bytes());
        put(&mut head, 4, &self.record_count.to_le_bytes());
        put(&mut head, 8, &self.term.to_le_bytes());
        put(&mut head, 16, &self.index.to_le_bytes());
        put(&mut head, 24, &self.payload_bytes.to_le_bytes());
        put(&mut head, 28, &self.payload_crc.to_le_bytes());
        put(&mut head, 32, &self.committed.to_le_bytes());
        let sum = crc(&head[..44]);
        put(&mut head, 44, &sum.to_le_bytes());
        head
    }

    /// Reads a head from the front of `head`.
    ///
    /// # Errors
    /// [`WireError::Short`], [`WireError::Version`], [`WireError::Checksum`] or [`WireError::Reserved`].
    pub fn parse(head: &[u8]) -> Result<Self, WireError> {
        if head.len() < ENTRY_HEAD_BYTES {
            return Err(WireError::Short);
        }
        if u16_at(head, 0) != VERSION {
            return Err(WireError::Version(u16_at(head, 0)));
        }
        if u32_at(head, 44) != crc(&head[..44]) {
            return Err(WireError::Checksum("entry head"));
        }
        if !blank(&head[40..44]) {
            return Err(WireError::Reserved("entry head"));
        }
        Ok(Self {
            shard: u16_at(head, 2),
            record_count: u32_at(head, 4),
            term: u64_at(head, 8),
            index: u64_at(head, 16),
            payload_bytes: u32_at(head, 24),
            payload_crc: u32_at(head, 28),
            committed: u64_at(head, 32),
        })
    }
}

/// Writes both heads into `frame`, which holds [`FRAME_HEADER_BYTES`] of room and then the records, and pads it to blocks.
pub fn finish_frame(frame: &mut AlignedBuffer, log: &[u8; 16], placement: &Placement, entry: &EntryHead) {
    assert!(
        frame.len() == FRAME_HEADER_BYTES + entry.payload_bytes as usize,
        "a frame holds its heads and its records"
    );
    let frame_bytes = blocks_up(frame.len());
    assert!(frame_bytes <= FRAME_BYTES_MAX, "frame of {frame_bytes} bytes");
    frame.resize(frame_bytes, 0);
    frame[..FRAME_HEADER_BYTES].fill(0);
    put(frame, ENTRY_AT, &entry.encode());
    let entry_crc = u32_at(frame, 108);
    put(frame, 0, &VERSION.to_le_bytes());
    frame[2] = match placement.kind {
        FrameKind::Entry => 1,
        FrameKind::Close => 2,
    };
    put(frame, 4, &FRAME_MAGIC.to_le_bytes());
    put(frame, 8, &log[..8]);
    put(frame, 16, &placement.at.segment.to_le_bytes());
    put(frame, 20, &placement.at.offset.to_le_bytes());
    put(frame, 24, &placement.number.to_le_bytes());
    put(frame, 32, &placement.durable.segment.to_le_bytes());
    put(frame, 36, &placement.durable.offset.to_le_bytes());
    put(frame, 40, &(frame_bytes as u32).to_le_bytes());
    put(frame, 44, &entry_crc.to_le_bytes());
    let placement_crc = crc(&frame[..60]);
    put(frame, 60, &placement_crc.to_le_bytes());
}

/// A close frame for `placement`.
pub fn close_frame(log: &[u8; 16], placement: &Placement) -> AlignedBuffer {
    let mut frame = crate::buffer::zeroed(FRAME_HEADER_BYTES);
    let placement = Placement { kind: FrameKind::Close, ..*placement };
    finish_frame(&mut frame, log, &placement, &EntryHead::CLOSE);
    frame
}

/// Reads both heads at the front of `bytes`, which stand at `at` of the log `log`.
///
/// # Errors
/// [`WireError::Blank`] where the first block is all zero; [`WireError::Misplaced`] for a whole frame that belongs elsewhere.
pub fn parse_frame_header(bytes: &[u8], log: &[u8; 16], at: Position) -> Result<FrameHeader, WireError> {
    if bytes.len() < FRAME_HEADER_BYTES {
        return Err(WireError::Short);
    }
    if u32_at(bytes, 4) != FRAME_MAGIC {
        let block = &bytes[..bytes.len().min(BLOCK_BYTES)];
        return Err(if blank(block) { WireError::Blank } else { WireError::Magic("frame") });
    }
    if u16_at(bytes, 0) != VERSION {
        return Err(WireError::Version(u16_at(bytes, 0)));
    }
    if u32_at(bytes, 60) != crc(&bytes[..60]) {
        return Err(WireError::Checksum("placement"));
    }
    if bytes[3] != 0 || !blank(&bytes[48..60]) {
        return Err(WireError::Reserved("placement"));
    }
    if bytes[8..16] != log[..8] {
        return Err(WireError::Misplaced("another log"));
    }
    if (u32_at(bytes, 16), u32_at(bytes, 20)) != (at.segment, at.offset) {
        return Err(WireError::Misplaced("another segment or offset"));
    }
    let kind = match bytes[2] {
        1 => FrameKind::Entry,
        2 => FrameKind::Close,
        _ => return Err(WireError::Range("frame kind")),
    };
    let placement = Placement {
        kind,
        at,
        number: u64_at(bytes, 24),
        durable: Position { segment: u32_at(bytes, 32), offset: u32_at(bytes, 36) },
    };
    if u32_at(bytes, 108) != u32_at(bytes, 44) {
        return Err(WireError::Checksum("entry head"));
    }
    let entry = EntryHead::parse(&bytes[ENTRY_AT..])?;
    let frame_bytes = u32_at(bytes, 40);
    if blocks_up(FRAME_HEADER_BYTES + entry.payload_bytes as usize) != frame_bytes as usize
        || FRAME_BYTES_MAX < frame_bytes as usize
    {
        return Err(WireError::Range("frame_bytes"));
    }
    if at < placement.durable {
        return Err(WireError::Range("durable position"));
    }
    if kind == FrameKind::Close && entry != EntryHead::CLOSE {
        return Err(WireError::Range("entry of a close frame"));
    }
    Ok(FrameHeader { placement, entry, frame_bytes })
}

/// Reads and checks the whole frame at the front of `bytes`: heads, payload, the records' lengths, padding.
///
/// # Errors
/// Any [`WireError`].
pub fn parse_frame(bytes: &[u8], log: &[u8; 16], at: Position) -> Result<FrameHeader, WireError> {
    let header = parse_frame_header(bytes, log, at)?;
    let frame_bytes = header.frame_bytes as usize;
    if bytes.len() < frame_bytes {
        return Err(WireError::Short);
    }
    let payload_end = FRAME_HEADER_BYTES + header.entry.payload_bytes as usize;
    check_payload(&header.entry, &bytes[FRAME_HEADER_BYTES..payload_end])?;
    if !blank(&bytes[payload_end..frame_bytes]) {
        return Err(WireError::Reserved("frame's padding"));
    }
    Ok(header)
}

/// Checks an entry's payload against its head: checksum, lengths and number of the records.
///
/// # Errors
/// Any [`WireError`].
pub fn check_payload(entry: &EntryHead, payload: &[u8]) -> Result<(), WireError> {
    if crc(payload) != entry.payload_crc {
        return Err(WireError::Checksum("payload"));
    }
    let mut rest = payload;
    for _ in 0..entry.record_count {
        let length = record::length(rest)?;
        rest = rest.get(length..).ok_or(WireError::Range("record length"))?;
    }
    if rest.is_empty() { Ok(()) } else { Err(WireError::Range("record_count")) }
}

/// The checksum of everything here.
pub fn crc(bytes: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(bytes);
    digest.finalize() as u32
}

/// Whether all bytes are zero.
pub fn blank(bytes: &[u8]) -> bool {
    // SAFETY: any 16 bytes are a valid u128.
    let (head, body, tail) = unsafe { bytes.align_to::<u128>() };
    head.iter().chain(tail).all(|&byte| byte == 0) && body.iter().all(|&word| word == 0)
}

/// The file of segment `sequence`.
pub fn segment_name(sequence: u32) -> String {
    format!("{sequence:08}.seg")
}

/// The hint of segment `sequence`.
pub fn hint_name(sequence: u32) -> String {
    format!("{sequence:08}.hint")
}

/// The seal of segment `sequence`.
pub fn seal_name(sequence: u32) -> String {
    format!("{sequence:08}.seal")
}

/// The sequence in a segment's file name; `None` for any other name.
pub fn segment_sequence(name: &str) -> Option<u32> {
    let sequence = name.strip_suffix(".seg")?.parse().ok()?;
    (segment_name(sequence) == name).then_some(sequence)
}

/// The sequence in a seal's file name; `None` for any other name.
pub(crate) fn sealed_sequence(name: &str) -> Option<u32> {
    let sequence = name.strip_suffix(".seal")?.parse().ok()?;
    (seal_name(sequence) == name).then_some(sequence)
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests;
