//! The seal: a segment is complete and durable, and this is what it holds.
//!
//! ```text
//!  0  u16       version (1)
//!  2  u16       reserved
//!  4  u32       magic "QSEL"
//!  8  [u8; 16]  log
//! 24  u32       segment
//! 28  u32       end: bytes in use, header included
//! 32  u64       first_number: number of the first frame
//! 40  u64       next_number: number of the first frame of the next segment
//! 48  u64       record_count
//! 56  [u8; 32]  BLAKE3 of the segment's bytes 0..end
//! 88  [u8; 32]  BLAKE3 of the hint file
//! 120 u32       shard_count
//! 124 u32       crc of bytes 0..124 and the shards
//! 128 shards: u16 shard, u16 + u32 reserved, u64 first index, u64 last index, u64 last term
//! ```
//!
//! Promises: a parsed seal is whole. Does not: prove that the segment still is; a scrub does.

use super::{VERSION, WireError, blank, put, u16_at, u32_at, u64_at};
use crc_fast::{CrcAlgorithm, Digest};

const MAGIC: u32 = u32::from_le_bytes(*b"QSEL");
const HEADER_BYTES: usize = 128;
const SHARD_BYTES: usize = 32;

/// What a sealed segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Name of the log.
    pub log: [u8; 16],
    /// Sequence of the segment.
    pub segment: u32,
    /// Bytes in use, header included.
    pub end: u32,
    /// Number of its first frame.
    pub first_number: u64,
    /// Number of the next segment's first frame.
    pub next_number: u64,
    /// Records in it.
    pub record_count: u64,
    /// BLAKE3 of the bytes in use.
    pub content: [u8; 32],
    /// BLAKE3 of the hint file.
    pub hint: [u8; 32],
    /// What each shard has in it.
    pub shards: Vec<Span>,
}

/// The entries of one shard in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The shard.
    pub shard: u16,
    /// Its first index here.
    pub first_index: u64,
    /// Its last index here.
    pub last_index: u64,
    /// The term of the last.
    pub last_term: u64,
}

impl Seal {
    /// The whole file.
    pub fn encode(&self) -> Vec<u8> {
        let mut file = vec![0; HEADER_BYTES + self.shards.len() * SHARD_BYTES];
        put(&mut file, 0, &VERSION.to_le_bytes());
        put(&mut file, 4, &MAGIC.to_le_bytes());
        put(&mut file, 8, &self.log);
        put(&mut file, 24, &self.segment.to_le_bytes());
        put(&mut file, 28, &self.end.to_le_bytes());
        put(&mut file, 32, &self.first_number.to_le_bytes());
        put(&mut file, 40, &self.next_number.to_le_bytes());
        put(&mut file, 48, &self.record_count.to_le_bytes());
        put(&mut file, 56, &self.content);
        put(&mut file, 88, &self.hint);
        put(&mut file, 120, &(self.shards.len() as u32).to_le_bytes());
        for (row, span) in file[HEADER_BYTES..].chunks_exact_mut(SHARD_BYTES).zip(&self.shards) {
            put(row, 0, &span.shard.to_le_bytes());
            put(row, 8, &span.first_index.to_le_bytes());
            put(row, 16, &span.last_index.to_le_bytes());
            put(row, 24, &span.last_term.to_le_bytes());
        }
        let crc = checksum(&file);
        put(&mut file, 124, &crc.to_le_bytes());
        file
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// Any [`WireError`]; the caller then treats the segment as not sealed.
    pub fn parse(file: &[u8]) -> Result<Self, WireError> {
        if file.len() < HEADER_BYTES {
            return Err(WireError::Short);
        }
        if u32_at(file, 4) != MAGIC {
            return Err(WireError::Magic("seal"));
        }
        if u16_at(file, 0) != VERSION {
            return Err(WireError::Version(u16_at(file, 0)));
        }
        if u32_at(file, 124) != checksum(file) {
            return Err(WireError::Checksum("seal"));
        }
        let rows = &file[HEADER_BYTES..];
        if u32_at(file, 120) as usize * SHARD_BYTES != rows.len() {
            return Err(WireError::Short);
        }
        let rows = rows.chunks_exact(SHARD_BYTES);
        if !blank(&file[2..4]) || rows.clone().any(|row| !blank(&row[2..8])) {
            return Err(WireError::Reserved("seal"));
        }
        let (mut log, mut content, mut hint) = ([0; 16], [0; 32], [0; 32]);
        log.copy_from_slice(&file[8..24]);
        content.copy_from_slice(&file[56..88]);
        hint.copy_from_slice(&file[88..120]);
        Ok(Self {
            log,
            segment: u32_at(file, 24),
            end: u32_at(file, 28),
            first_number: u64_at(file, 32),
            next_number: u64_at(file, 40),
            record_count: u64_at(file, 48),
            content,
            hint,
            shards: rows
                .map(|row| Span {
                    shard: u16_at(row, 0),
                    first_index: u64_at(row, 8),
                    last_index: u64_at(row, 16),
                    last_term: u64_at(row, 24),
                })
                .collect(),
        })
    }
}

fn checksum(file: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&file[..124]);
    digest.update(&file[HEADER_BYTES..]);
    digest.finalize() as u32
}
