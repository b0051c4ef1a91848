//! The bytes of what a replica asks of its shard's primary.
//!
//! ```text
//! every request   0 u16 version (1), 2 u16 shard, 4 u32 flags, 8 reserved (8)
//! put             16 records, one behind the other
//!   answer        rows of the native protocol's put
//! get             16 ids of 32 bytes; flag bit 0: only whether they are here
//!   answer        records that were found, as they are on disk; or a byte an id
//! ref             16 an rkyv archive of RefAsk
//!   answer        an rkyv archive of RefTold
//! ```
//!
//! Promises: any bytes are read without a panic. Does not: know how they travel.

#![allow(missing_docs, reason = "the derives make types whose fields they do not document; ours are documented")]

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

use crate::dag::refs::{Expect, LogEntry, Position, RefMove, RefName};
use crate::error::Refusal;
use crate::ids::{ID_BYTES, LogIndex, ShardId, VertexId};

/// Bytes before what a request carries.
pub(super) const HEAD_BYTES: usize = 16;
const VERSION: u16 = 1;
/// Flag of a get: only whether the ids are here.
pub(super) const FLAG_PRESENCE: u32 = 1;

/// The head of a request, with room for `bytes` more.
pub(super) fn head(shard: ShardId, flags: u32, bytes: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(HEAD_BYTES + bytes);
    body.extend_from_slice(&VERSION.to_le_bytes());
    body.extend_from_slice(&shard.0.to_le_bytes());
    body.extend_from_slice(&flags.to_le_bytes());
    body.extend_from_slice(&[0; 8]);
    body
}

/// The flags of a request and what it carries; its shard was read by whoever handed it here.
pub(super) fn split(body: &Bytes) -> Result<(u32, Bytes), Refusal> {
    let head = body.first_chunk::<HEAD_BYTES>();
    let head = head.ok_or_else(|| Refusal::bad_request("a request between nodes is shorter than its head"))?;
    if head[..2] != VERSION.to_le_bytes() || head[8..] != [0; 8] {
        return Err(Refusal::bad_request("a request between nodes of another version"));
    }
    Ok((u32::from_le_bytes([head[4], head[5], head[6], head[7]]), body.slice(HEAD_BYTES..)))
}

/// What is asked about refs.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) enum RefAsk {
    /// Where is it?
    Get { name: String },
    /// Move it.
    Set(Box<Move>),
    /// Refs by prefix.
    List { prefix: String, after: Option<String>, limit: u32 },
    /// Its latest moves.
    Log { name: String, limit: u32 },
}

/// A wanted move.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct Move {
    name: String,
    /// 0 anywhere, 1 absent, 2 at `expect_at`.
    expect: u8,
    expect_at: [u8; ID_BYTES],
    to: Option<[u8; ID_BYTES]>,
    actor: String,
    reason: String,
    timestamp_ms: u64,
}

/// Where a ref is.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    at: Option<[u8; ID_BYTES]>,
    version: u64,
}

/// One move that happened.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    index: u64,
    version: u64,
    from: Option<[u8; ID_BYTES]>,
    to: Option<[u8; ID_BYTES]>,
    actor: String,
    reason: String,
    timestamp_ms: u64,
}

/// What is told about refs.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) enum RefTold {
    /// Of a get: `None` is "no such ref".
    At(Option<Place>),
    /// Of a move.
    Set { place: Place, index: u64 },
    /// Of a list.
    List(Vec<(String, Place)>),
    /// Of a log: `None` is "no such ref".
    Log(Option<Vec<Moved>>),
}

impl Move {
    pub(super) fn of(change: &RefMove) -> Self {
        let (expect, expect_at) = match change.expect {
            Expect::Any => (0, [0; ID_BYTES]),
            Expect::Absent => (1, [0; ID_BYTES]),
            Expect::At(id) => (2, id.0),
        };
        Self {
            name: change.name.to_string(),
            expect,
            expect_at,
            to: change.to.map(|id| id.0),
            actor: change.actor.clone(),
            reason: change.reason.clone(),
            timestamp_ms: change.timestamp_ms,
        }
    }

    pub(super) fn wanted(self) -> Result<RefMove, Refusal> {
        let expect = match self.expect {
            0 => Expect::Any,
            1 => Expect::Absent,
            2 => Expect::At(VertexId(self.expect_at)),
            _ => return Err(Refusal::bad_request("an expectation that this node does not know")),
        };
        Ok(RefMove {
            name: name(&self.name)?,
            expect,
            to: self.to.map(VertexId),
            actor: self.actor,
            reason: self.reason,
            timestamp_ms: self.timestamp_ms,
        })
    }
}

impl Place {
    pub(super) fn of(position: Position) -> Self {
        Self { at: position.at.map(|id| id.0), version: position.version }
    }

    pub(super) fn position(self) -> Position {
        Position { at: self.at.map(VertexId), version: self.version }
    }
}

impl Moved {
    pub(super) fn of(entry: &LogEntry) -> Self {
        Self {
            index: entry.index.0,
            version: entry.version,
            from: entry.from.map(|id| id.0),
            to: entry.to.map(|id| id.0),
            actor: entry.actor.to_string(),
            reason: entry.reason.to_string(),
            timestamp_ms: entry.timestamp_ms,
        }
    }

    pub(super) fn entry(self) -> LogEntry {
        LogEntry {
            index: LogIndex(self.index),
            version: self.version,
            from: self.from.map(VertexId),
            to: self.to.map(VertexId),
            actor: self.actor.into(),
            reason: self.reason.into(),
            timestamp_ms: self.timestamp_ms,
        }
    }
}

/// A name that came from another node.
pub(super) fn name(text: &str) -> Result<RefName, Refusal> {
    text.parse().map_err(|error: crate::dag::refs::RefError| Refusal::bad_request(error.to_string()))
}

/// The request that asks `ask`.
pub(super) fn ref_request(shard: ShardId, ask: &RefAsk) -> Result<Bytes, Refusal> {
    let archive = rkyv::to_bytes::<rkyv::rancor::Error>(ask).map_err(unwritable)?;
    let mut body = head(shard, 0, archive.len());
    body.extend_from_slice(&archive);
    Ok(body.into())
}

/// What a request asks.
pub(super) fn ref_ask(archive: &[u8]) -> Result<RefAsk, Refusal> {
    let malformed = |error: rkyv::rancor::Error| Refusal::bad_request(format!("a question about refs: {error}"));
    rkyv::from_bytes(&aligned(archive)).map_err(malformed)
}

/// The body that tells `told`.
pub(super) fn ref_answer(told: &RefTold) -> Result<Bytes, Refusal> {
    rkyv::to_bytes::<rkyv::rancor::Error>(told).map(Bytes::from_owner).map_err(unwritable)
}

/// What an answer tells.
pub(super) fn ref_told(archive: &[u8]) -> Result<RefTold, Refusal> {
    let malformed = |error: rkyv::rancor::Error| Refusal::bad_request(format!("an answer about refs: {error}"));
    rkyv::from_bytes(&aligned(archive)).map_err(malformed)
}

fn aligned(bytes: &[u8]) -> rkyv::util::AlignedVec {
    let mut copy = rkyv::util::AlignedVec::with_capacity(bytes.len());
    copy.extend_from_slice(bytes);
    copy
}

fn unwritable(error: rkyv::rancor::Error) -> Refusal {
    Refusal::new(crate::error::Reason::Internal, format!("a message between nodes could not be written: {error}"))
}
