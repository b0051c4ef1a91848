//! The bytes of a gossip datagram.
//!
//! ```text
//! u16 version, u16 reserved, u32 inbox_depth, u32 commit_latency_us, u16 cpu_permille, u16 reserved,
//! u16 major, u16 minor, u16 patch, u16 reserved, u64 epoch    (32 bytes, little-endian: the sender's own load)
//! the packet of the SWIM protocol: header, then optionally u16 (big-endian) count and that many rumours
//! ```
//!
//! The load is its sender's own word and travels no further: in a small cluster everyone hears everyone every few seconds.
//! The packet is foca's, written by postcard; its identities are [`Identity`].
//!
//! Promises: strangers' bytes are bounded and never panic; what concerns nodes outside the roster is cut out before the
//! protocol sees it, so that its tables stay within the roster.
//! Does not: authenticate the sender; the mesh did, and passes who it is.

use std::net::SocketAddr;

use foca::{Header, Member};
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, NodeId};
use crate::membership::DATAGRAM_BYTES_MAX;

/// Version of the datagram.
pub const MEMBERSHIP_WIRE_VERSION: u16 = 1;
/// Bytes before the packet.
pub const HEADER_BYTES: usize = 32;
/// The packet, in bytes.
pub(super) const PACKET_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - HEADER_BYTES;

/// One life of a member. Lives of one node replace each other: the later generation wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The member.
    pub node: NodeId,
    /// Raised at every start and return from the dead; milliseconds of the wall clock at the start will do.
    pub generation: u64,
    /// Where the mesh reaches it.
    pub address: SocketAddr,
}

/// How busy a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Messages in the fullest inbox of its cores.
    pub inbox_depth: u32,
    /// Thousandths of its processors in use.
    pub cpu_permille: u16,
    /// Mean time of its commit rounds' syncs of late, in microseconds.
    pub commit_latency_us: u32,
    /// The version it runs.
    pub build: Build,
    /// The newest topology it knows.
    pub epoch: Epoch,
}

/// The version of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Build {
    /// Breaking.
    pub major: u16,
    /// Additions.
    pub minor: u16,
    /// Corrections.
    pub patch: u16,
}

/// Why a datagram is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Too short or too long.
    #[error("a datagram of {0} bytes; it has {HEADER_BYTES} to {DATAGRAM_BYTES_MAX}")]
    Length(usize),
    /// Another version.
    #[error("gossip version {0}; this build reads version {MEMBERSHIP_WIRE_VERSION}")]
    Version(u16),
    /// Its parts do not read.
    #[error("the datagram does not read as load and packet")]
    Form,
}

/// Puts the load of this node before a packet.
pub fn encode(load: &Load, packet: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + packet.len());
    bytes.extend(MEMBERSHIP_WIRE_VERSION.to_le_bytes());
    bytes.extend([0; 2]);
    bytes.extend(load.inbox_depth.to_le_bytes());
    bytes.extend(load.commit_latency_us.to_le_bytes());
    bytes.extend(load.cpu_permille.to_le_bytes());
    bytes.extend([0; 2]);
    for number in [load.build.major, load.build.minor, load.build.patch, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(load.epoch.0.to_le_bytes());
    assert_eq!(bytes.len(), HEADER_BYTES, "the layout of the header is not the documented one");
    bytes.extend(packet);
    assert!(bytes.len() <= DATAGRAM_BYTES_MAX, "a datagram of {} bytes", bytes.len());
    bytes
}

/// The sender's load and its packet.
///
/// # Errors
/// Any [`WireError`].
pub fn decode(bytes: &[u8]) -> Result<(Load, &[u8]), WireError> {
    let length = WireError::Length(bytes.len());
    if DATAGRAM_BYTES_MAX < bytes.len() {
        return Err(length);
    }
    let (header, packet) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(length)?;
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
    if half(0) != MEMBERSHIP_WIRE_VERSION {
        return Err(WireError::Version(half(0)));
    }
    if half(2) != 0 || half(14) != 0 || half(22) != 0 {
        return Err(WireError::Form);
    }
    let load = Load {
        inbox_depth: word(4),
        commit_latency_us: word(8),
        cpu_permille: half(12),
        build: Build { major: half(16), minor: half(18), patch: half(20) },
        epoch: Epoch(u64::from(word(24)) | u64::from(word(28)) << 32),
    };
    Ok((load, packet))
}

/// Who sent a packet, and the packet without the rumours about nodes that `known` does not know.
pub(super) fn screen(packet: &[u8], known: impl Fn(NodeId) -> bool) -> Result<(NodeId, Vec<u8>), WireError> {
    let (header, rest): (Header<Identity>, &[u8]) = postcard::take_from_bytes(packet).map_err(|_| WireError::Form)?;
    let mut screened = packet[..packet.len() - rest.len()].to_vec();
    let Some((count, mut rest)) = rest.split_first_chunk::<2>() else {
        return if rest.is_empty() { Ok((header.src.node, screened)) } else { Err(WireError::Form) };
    };
    let count_at = screened.len();
    screened.extend(count);
    let mut kept = 0u16;
    for _ in 0..u16::from_be_bytes(*count) {
        let (rumour, after): (Member<Identity>, &[u8]) =
            postcard::take_from_bytes(rest).map_err(|_| WireError::Form)?;
        if known(rumour.id().node) {
            screened.extend(&rest[..rest.len() - after.len()]);
            kept += 1;
        }
        rest = after;
    }
    screened[count_at..count_at + 2].copy_from_slice(&kept.to_be_bytes());
    if rest.is_empty() { Ok((header.src.node, screened)) } else { Err(WireError::Form) }
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { generation: self.generation.saturating_add(1), ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.generation, self.address) > (adversary.generation, adversary.address)
    }
}
