//! The words of the house that are numbers or hashes.
//!
//! Promises: an id that exists is 32 bytes of BLAKE3; its text is a valid CIDv1 (dag-cbor, blake3), hex is accepted too.
//! Does not: know whether a vertex with that id exists.

use std::fmt;
use std::str::FromStr;

/// Multicodec of DAG-CBOR, as in the multicodec table.
pub const CODEC_DAG_CBOR: u64 = 0x71;
/// Multihash code of BLAKE3, as in the multicodec table.
pub const HASH_BLAKE3: u64 = 0x1e;
/// Length of an id in bytes.
pub const ID_BYTES: usize = 32;

/// The id of a vertex: BLAKE3-256 of its canonical DAG-CBOR form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(pub [u8; ID_BYTES]);

/// A slot: the unit in which keys are spread over shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// A shard: one replication group, which owns a range of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The group of the control plane, which is no shard of the DAG but has its entries in the same logs.
    pub const CONTROL: Self = Self(u16::MAX);
}

/// A node of the cluster, numbered by the control plane from 1. A number is never given twice: a node that lost its durable log comes
/// back under a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// The version of the cluster's topology: grows with every change of members, placement or policy. 0 means "none known".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Epoch(pub u64);

/// The position of an entry in its shard's log. The first entry has index 1; 0 means "nothing yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct LogIndex(pub u64);

/// "Not older than this": what a write returns and a read may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The shard that took the write.
    pub shard: ShardId,
    /// The index of the entry that holds it.
    pub index: LogIndex,
}

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Neither a CIDv1 nor 64 hexadecimal digits.
    #[error("an id is a CIDv1 in base32 (bafyr…, 59 characters) or 64 hexadecimal digits")]
    Form,
    /// A CID of another codec or hash.
    #[error("the CID is not of codec dag-cbor (0x71) with hash blake3-256 (0x1e)")]
    Kind,
}

impl VertexId {
    /// The slot of this id among `slot_count` (a power of two).
    pub fn slot(&self, slot_count: u16) -> Slot {
        debug_assert!(slot_count.is_power_of_two());
        Slot(u16::from_le_bytes([self.0[0], self.0[1]]) & (slot_count - 1))
    }

    /// The binary CIDv1: version, codec, hash code, length, digest (36 bytes).
    pub fn cid_bytes(&self) -> [u8; 36] {
        let mut cid = [0; 36];
        cid[..4].copy_from_slice(&[0x01, 0x71, 0x1e, 0x20]);
        cid[4..].copy_from_slice(&self.0);
        cid
    }

    /// The id as 64 lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

/// Bytes of hexadecimal digits in either case; `None` when the text is anything else.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
    text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

impl fmt::Display for VertexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        // 36 bytes are 288 bits: 58 characters of 5 bits, after the multibase prefix.
        let mut text = [b'b'; 59];
        let (mut bits, mut held, mut at) = (0u32, 0u32, 1);
        for byte in self.cid_bytes() {
            bits = bits << 8 | u32::from(byte);
            held += 8;
            while held >= 5 {
                held -= 5;
                text[at] = BASE32[(bits >> held & 31) as usize];
                at += 1;
            }
        }
        text[at] = BASE32[(bits << (5 - held) & 31) as usize];
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for VertexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VertexId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() == 2 * ID_BYTES
            && let Some(bytes) = unhex(text)
        {
            return Ok(Self(bytes.try_into().map_err(|_| IdError::Form)?));
        }
        let cid = cid::Cid::try_from(text).map_err(|_| IdError::Form)?;
        Self::from_cid(&cid)
    }
}

impl VertexId {
    /// The id inside a CID, if it is of our codec and hash.
    pub fn from_cid(cid: &cid::Cid) -> Result<Self, IdError> {
        if cid.codec() != CODEC_DAG_CBOR || cid.hash().code() != HASH_BLAKE3 {
            return Err(IdError::Kind);
        }
        Ok(Self(cid.hash().digest().try_into().map_err(|_| IdError::Kind)?))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.shard.0, self.index.0)
    }
}

impl FromStr for Token {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (shard, index) = text.split_once('.')?;
            Some(Self { shard: ShardId(shard.parse().ok()?), index: LogIndex(index.parse().ok()?) })
        };
        parse().ok_or("a token is SHARD.INDEX, as a write returned it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_1_8_id_text_is_a_cid_that_another_library_reads() {
        let id = VertexId(*blake3::hash(b"vertex").as_bytes());
        let text = id.to_string();
        let cid = cid::Cid::try_from(text.as_str()).expect("a CID");
        assert_eq!(cid.to_string(), text);
        assert_eq!(cid.to_bytes(), id.cid_bytes());
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(id.hex().parse(), Ok(id));
        assert_eq!(id.hex().to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn s1_1_8_id_text_of_another_kind_is_refused() {
        let check = |text: &str, expected| assert_eq!(text.parse::<VertexId>(), Err(expected), "input {text:?}");
        check("", IdError::Form);
        check("zz", IdError::Form);
        check(&"0".repeat(63), IdError::Form);
        check("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi", IdError::Kind);
    }

    #[test]
    fn s2_2_1_slot_is_the_low_bits_of_the_first_byte() {
        let mut id = VertexId([0; 32]);
        for (byte, slot) in [(0u8, 0), (15, 15), (16, 0), (0xff, 15)] {
            id.0[0] = byte;
            assert_eq!(id.slot(16), Slot(slot));
        }
    }
}
