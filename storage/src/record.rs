//! A record: the unit that is hashed, sent, written, cached and returned, always as the same bytes.
//!
//! Layout, little-endian, every record a multiple of 16 bytes and 16-byte aligned in memory and in its segment:
//!
//! ```text
//!  0  u8        version (1)
//!  1  u8        kind, given by the room above; the log only carries it
//!  2  u16       reserved, zero
//!  4  u32       body_bytes
//!  8  u32       crc32c of bytes 0..8, 12..48 and the body
//! 12  u32       reserved, zero
//! 16  [u8; 32]  key
//! 48  body, zero-padded to 16 bytes
//! ```
//!
//! Promises: a [`Record`] in hand has a valid header and a checksum that was computed or checked by this process, and its body
//! is 16-byte aligned. Does not: know what the body means.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use rkyv::util::AlignedVec;

/// Alignment of a record in memory and on disk, in bytes.
pub const RECORD_ALIGN: usize = 16;
/// Header before the body, in bytes.
pub const RECORD_HEADER_BYTES: usize = 48;
/// A whole record, header and padding included, in bytes.
pub const RECORD_BYTES_MAX: usize = (1 << 20) + (256 << 10);
/// Version of the layout above.
pub const RECORD_VERSION: u8 = 1;

/// One record: header, body, padding. Cheap to clone, may cross cores.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(Bytes);

/// Why bytes are not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than the header, or than the header says.
    #[error("record cut short: {bytes} bytes, {wanted} wanted")]
    Short {
        /// Bytes at hand.
        bytes: usize,
        /// Bytes the record needs.
        wanted: usize,
    },
    /// A layout this build does not know.
    #[error("record version {0}; this build reads version 1")]
    Version(u8),
    /// Reserved bytes or padding are not zero.
    #[error("reserved bytes of the record are not zero")]
    Reserved,
    /// Larger than [`RECORD_BYTES_MAX`].
    #[error("record of {bytes} bytes, at most {bytes_max} bytes")]
    TooLarge {
        /// Bytes of the record.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The checksum does not match: damaged on the way or on the disk.
    #[error("record checksum is {found:08x}, the header says {expected:08x}")]
    Checksum {
        /// What the header says.
        expected: u32,
        /// What the bytes have.
        found: u32,
    },
}

impl Record {
    /// Builds a record in one buffer: `write_body` appends the body behind the header that is reserved for it.
    ///
    /// # Errors
    /// [`RecordError::TooLarge`], or what `write_body` returned.
    pub fn build<E: From<RecordError>>(
        kind: u8,
        key: &[u8; 32],
        body_bytes_expected: usize,
        write_body: impl FnOnce(AlignedVec<RECORD_ALIGN>) -> Result<AlignedVec<RECORD_ALIGN>, E>,
    ) -> Result<Self, E> {
        let mut buffer = AlignedVec::with_capacity(RECORD_HEADER_BYTES + body_bytes_expected + RECORD_ALIGN);
        buffer.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        let mut buffer = write_body(buffer)?;
        let body_bytes = buffer.len() - RECORD_HEADER_BYTES;
        let bytes = padded(buffer.len());
        if bytes > RECORD_BYTES_MAX {
            return Err(RecordError::TooLarge { bytes, bytes_max: RECORD_BYTES_MAX }.into());
        }
        buffer.resize(bytes, 0);
        buffer[0] = RECORD_VERSION;
        buffer[1] = kind;
        buffer[4..8].copy_from_slice(&(body_bytes as u32).to_le_bytes());
        buffer[16..48].copy_from_slice(key);
        let crc = checksum(&buffer, body_bytes);
        buffer[8..12].copy_from_slice(&crc.to_le_bytes());
        Ok(Self(Bytes::from_owner(buffer)))
    }

    /// The first record in `bytes`, checked; what follows it is left alone. Copies when `bytes` is not aligned.
    ///
    /// # Errors
    /// Any [`RecordError`]; the bytes are a stranger's.
    pub fn parse(bytes: &Bytes) -> Result<Self, RecordError> {
        let length = check(bytes)?;
        Ok(Self::aligned(bytes.slice(..length)))
    }

    /// All records that `bytes` holds, one behind the other.
    ///
    /// # Errors
    /// Any [`RecordError`]; a tail that is no record is an error too.
    pub fn parse_all(bytes: &Bytes, records_max: usize) -> Result<Vec<Self>, RecordError> {
        let mut records = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            if records.len() == records_max {
                return Err(RecordError::TooLarge { bytes: bytes.len(), bytes_max: at });
            }
            let record = Self::parse(&bytes.slice(at..))?;
            at += record.0.len();
            records.push(record);
        }
        Ok(records)
    }

    /// The records of `payload`, one behind the other. The caller has checked lengths and a checksum over all of it.
    pub(crate) fn split(payload: &Bytes) -> impl Iterator<Item = Self> + use<> {
        let mut rest = payload.clone();
        std::iter::from_fn(move || {
            let length = length(&rest).ok()?;
            Some(Self::aligned(rest.split_to(length)))
        })
    }

    fn aligned(bytes: Bytes) -> Self {
        if bytes.as_ptr().addr().is_multiple_of(RECORD_ALIGN) {
            return Self(bytes);
        }
        let mut copy = AlignedVec::<RECORD_ALIGN>::with_capacity(bytes.len());
        copy.extend_from_slice(&bytes);
        Self(Bytes::from_owner(copy))
    }

    /// What the room above said it is.
    pub fn kind(&self) -> u8 {
        self.0[1]
    }

    /// The key under which the index finds it.
    pub fn key(&self) -> &[u8; 32] {
        self.0[16..48].try_into().expect("32 bytes between 16 and 48")
    }

    /// The body, 16-byte aligned.
    pub fn body(&self) -> &[u8] {
        &self.0[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + body_bytes(&self.0)]
    }

    /// The whole record: header, body, padding.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Record(kind {}, {} bytes)", self.kind(), self.0.len())
    }
}

/// Checks the record at the front of `bytes` and returns its whole length in bytes.
///
/// # Errors
/// Any [`RecordError`].
pub fn check(bytes: &[u8]) -> Result<usize, RecordError> {
    let length = length(bytes)?;
    if bytes.len() < length {
        return Err(RecordError::Short { bytes: bytes.len(), wanted: length });
    }
    let body = body_bytes(bytes);
    if bytes[RECORD_HEADER_BYTES + body..length].iter().any(|&byte| byte != 0) {
        return Err(RecordError::Reserved);
    }
    let expected = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    let found = checksum(bytes, body);
    if found != expected {
        return Err(RecordError::Checksum { expected, found });
    }
    Ok(length)
}

/// The whole length of the record whose header stands at the front of `bytes`, in bytes; the body is not looked at.
///
/// # Errors
/// [`RecordError::Short`], [`RecordError::Version`], [`RecordError::Reserved`] or [`RecordError::TooLarge`].
pub fn length(bytes: &[u8]) -> Result<usize, RecordError> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return Err(RecordError::Short { bytes: bytes.len(), wanted: RECORD_HEADER_BYTES });
    }
    if bytes[0] != RECORD_VERSION {
        return Err(RecordError::Version(bytes[0]));
    }
    if bytes[2..4] != [0; 2] || bytes[12..16] != [0; 4] {
        return Err(RecordError::Reserved);
    }
    let length = padded(RECORD_HEADER_BYTES + body_bytes(bytes));
    if length > RECORD_BYTES_MAX {
        return Err(RecordError::TooLarge { bytes: length, bytes_max: RECORD_BYTES_MAX });
    }
    Ok(length)
}

fn body_bytes(bytes: &[u8]) -> usize {
    u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(RECORD_ALIGN)
}

fn checksum(bytes: &[u8], body_bytes: usize) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&bytes[..8]);
    digest.update(&bytes[12..RECORD_HEADER_BYTES + body_bytes]);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: &[u8]) -> Record {
        Record::build::<RecordError>(7, &[9; 32], body.len(), |mut buffer| {
            buffer.extend_from_slice(body);
            Ok(buffer)
        })
        .expect("fits")
    }

    #[test]
    fn s1_1_9_record_round_trip() {
        for length in [0, 1, 15, 16, 17, 1024] {
            let body = vec![0xab; length];
            let built = record(&body);
            let parsed = Record::parse(built.bytes()).expect("valid");
            assert_eq!((parsed.kind(), parsed.key(), parsed.body()), (7, &[9; 32], &body[..]));
            assert!(parsed.body().as_ptr().addr().is_multiple_of(RECORD_ALIGN));
        }
    }

    #[test]
    fn s1_1_9_record_any_flipped_bit_is_seen() {
        let good = record(b"some body of a record").bytes().to_vec();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&bad).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(check(&good[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn s1_1_9_record_unaligned_bytes_are_realigned() {
        let good = record(b"body");
        let mut shifted = vec![0; 1];
        shifted.extend_from_slice(good.bytes());
        let parsed = Record::parse(&Bytes::from(shifted).slice(1..)).expect("valid");
        assert_eq!(parsed, good);
        assert!(parsed.body().as_ptr().addr().is_multiple_of(RECORD_ALIGN));
    }
}
