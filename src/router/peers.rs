//! How a core reaches other nodes, and the operations that nodes ask of each other.
//!
//! Promises: what can be asked on the mesh is listed here, once; every request names its shard first, so that whoever takes it can
//! hand it to the core that owns the shard. Does not: connect; the node brings a [`Peers`].

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use qmesh_net::wire::Lane;

use crate::ids::NodeId;

/// Append entries to a replica's log.
pub const OP_RAFT_APPEND: u16 = 0x0100;
/// Ask for a replica's vote.
pub const OP_RAFT_VOTE: u16 = 0x0101;
/// Ask whether a replica would vote.
pub const OP_RAFT_PRE_VOTE: u16 = 0x0102;
/// Hand an office over.
pub const OP_RAFT_TRANSFER: u16 = 0x0103;
/// Make vertices durable; asked of a shard's primary.
pub const OP_SHARD_PUT: u16 = 0x0110;
/// Read vertices; asked of a shard's primary, whose "not here" is the truth.
pub const OP_SHARD_GET: u16 = 0x0111;
/// Refs; asked of a shard's primary.
pub const OP_SHARD_REF: u16 = 0x0112;
/// What the control plane is asked; its shard is [`crate::ids::ShardId::CONTROL`].
pub const OP_CONTROL: u16 = 0x0120;
/// A stranger with a token; only asked by the door for strangers of the same node.
pub const OP_JOIN: u16 = 0x0123;
/// What a group looks like from a replica.
pub const OP_GROUP_VIEW: u16 = 0x0121;
/// Membership change or hand-over; asked of a group's primary.
pub const OP_GROUP_CHANGE: u16 = 0x0122;

/// Why another node gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerError {
    /// It refused.
    Refused(crate::error::Refusal),
    /// It could not be reached; the request was certainly not seen.
    Unreached(String),
    /// No answer came; the request may have been carried out.
    Lost(String),
}

impl std::fmt::Display for PeerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(refusal) => write!(f, "{refusal}"),
            Self::Unreached(why) => write!(f, "not reached: {why}"),
            Self::Lost(why) => write!(f, "no answer: {why}"),
        }
    }
}

impl std::error::Error for PeerError {}

/// The answer of another node.
pub type PeerAnswer = Pin<Box<dyn Future<Output = Result<Bytes, PeerError>>>>;

/// Other nodes, as one core reaches them.
pub trait Peers {
    /// Asks `node` and waits for its answer, at most `limit`. Requests of one lane to one node leave in the order in which their
    /// answers are first polled.
    fn call(&self, node: NodeId, lane: Lane, operation: u16, body: Bytes, limit: Duration) -> PeerAnswer;
}
