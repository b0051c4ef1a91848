//! The bytes of a mesh stream: its head and the frames that follow.
//!
//! Promises: fixed widths, little-endian, version first, reserved bytes zero and checked; any bytes at all are parsed
//! without a panic, and every refusal names the limit or the field.
//! Does not: read a socket, or know what an operation means.

/// Name in TLS (ALPN) of the protocol of clients.
pub const ALPN: &[u8] = b"qmesh/1";
/// Name in TLS of the protocol between nodes.
pub const PEER_ALPN: &[u8] = b"qmesh-peer/1";
/// Name in TLS of the protocol of those who want to become a node.
pub const JOIN_ALPN: &[u8] = b"qmesh-join/1";
/// Asks nothing but whether the connection was let in, on both protocols of the mesh. Answered with an empty body
/// before any handler; handlers number their operations from one.
pub const OPERATION_HELLO: u16 = 0;
/// Asks to join: the only operation of [`JOIN_ALPN`]. The body is the handler's.
pub const OPERATION_JOIN: u16 = 1;
/// Version of the stream head.
pub const VERSION: u8 = 1;
/// Length of a stream head, in bytes.
pub const STREAM_HEAD_BYTES: usize = 48;
/// Length of a frame header, in bytes.
pub const FRAME_HEADER_BYTES: usize = 16;
/// Body of one frame, in bytes. A longer answer is several frames.
pub const FRAME_BYTES_MAX: usize = 2 << 20;
/// Alignment at which a received body is placed, in bytes: what an archive needs to be read in place.
pub const BODY_ALIGNMENT: usize = 16;

/// Another frame of the same answer follows.
const FLAG_MORE: u8 = 1;
/// The last frame of an answer.
const FLAG_LAST: u8 = 2;

const _: () = assert!(FRAME_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(FRAME_HEADER_BYTES.is_multiple_of(BODY_ALIGNMENT));

/// Why a stream or a connection is closed, as the QUIC application error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// Nothing is wrong; the side that closes has finished.
    Done = 0,
    /// The stream head could not be read.
    BadHead = 1,
    /// A frame could not be read.
    BadFrame = 2,
    /// The stream head did not arrive in time.
    HeadTimeout = 3,
    /// The server is draining: requests it has read are answered, the rest were never seen and may be repeated.
    Draining = 4,
    /// The caller no longer wants the answer.
    Cancelled = 5,
    /// The peer's certificate is revoked.
    Revoked = 6,
    /// The peer showed no certificate on a protocol that wants one.
    CertificateMissing = 7,
    /// The peer's certificate is not one of a node of this cluster.
    CertificateRefused = 8,
    /// This endpoint lets nobody join.
    JoinsNobody = 9,
    /// Too many are joining just now.
    JoinersFull = 10,
    /// More was asked of a joining connection than it may.
    JoinOnly = 11,
    /// The connection has as many streams as it may.
    StreamsFull = 12,
}

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Length-prefixed requests and answers, pipelined.
    Rpc,
}

/// The class of a stream's traffic, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Membership, votes, commands of the control plane.
    Control = 0,
    /// Gets and refs: small answers that someone waits for.
    PointRead = 1,
    /// Writes.
    Put = 2,
    /// Walks of the graph.
    Traversal = 3,
    /// Feeds, exports, repair.
    Bulk = 4,
}

impl Lane {
    /// Every lane, in the order of its number on the wire.
    pub const ALL: [Self; 5] = [Self::Control, Self::PointRead, Self::Put, Self::Traversal, Self::Bulk];

    /// Priority of the lane's QUIC streams; the higher goes first.
    pub fn priority(self) -> i32 {
        4 - i32::from(self as u8)
    }
}

/// The span that a stream belongs to, as W3C trace context; all zero when there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// Identifies the whole trace.
    pub trace_id: [u8; 16],
    /// Identifies the caller's span.
    pub span_id: [u8; 8],
    /// Bit 0: sampled.
    pub flags: u8,
}

/// The first bytes that a client sends on every bidirectional stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamHead {
    /// What the stream carries.
    pub kind: Kind,
    /// Its class of traffic.
    pub lane: Lane,
    /// Nodes that may still forward a request of this stream.
    pub hop_limit: u8,
    /// Time in which each request of the stream wants its answer, in milliseconds; zero for none.
    pub deadline_ms: u32,
    /// Epoch of the slot table that the caller routed by; zero when it has none.
    pub epoch: u64,
    /// The caller's span.
    pub trace: TraceContext,
}

impl StreamHead {
    /// A head for calls on `lane`, with one hop, no deadline, no epoch and no trace.
    pub fn rpc(lane: Lane) -> Self {
        Self { kind: Kind::Rpc, lane, hop_limit: 1, deadline_ms: 0, epoch: 0, trace: TraceContext::default() }
    }

    /// The head as bytes.
    pub fn encode(&self) -> [u8; STREAM_HEAD_BYTES] {
        let mut bytes = [0; STREAM_HEAD_BYTES];
        bytes[0] = VERSION;
        bytes[1] = match self.kind {
            Kind::Rpc => 1,
        };
        bytes[2] = self.lane as u8;
        bytes[3] = self.hop_limit;
        bytes[4..8].copy_from_slice(&self.deadline_ms.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.trace.trace_id);
        bytes[32..40].copy_from_slice(&self.trace.span_id);
        bytes[40] = self.trace.flags;
        bytes
    }

    /// Reads a head.
    pub fn parse(bytes: &[u8; STREAM_HEAD_BYTES]) -> Result<Self, HeadError> {
        if bytes[0] != VERSION {
            return Err(HeadError::Version { found: bytes[0] });
        }
        let kind = match bytes[1] {
            1 => Kind::Rpc,
            found => return Err(HeadError::Kind { found }),
        };
        let lane = *Lane::ALL.get(usize::from(bytes[2])).ok_or(HeadError::Lane { found: bytes[2] })?;
        if bytes[41..].iter().any(|&byte| byte != 0) {
            return Err(HeadError::Reserved);
        }
        Ok(Self {
            kind,
            lane,
            hop_limit: bytes[3],
            deadline_ms: u32::from_le_bytes(array(bytes, 4)),
            epoch: u64::from_le_bytes(array(bytes, 8)),
            trace: TraceContext { trace_id: array(bytes, 16), span_id: array(bytes, 32), flags: bytes[40] },
        })
    }
}

/// Why a stream head was refused. The peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// A version that this node does not speak.
    #[error("stream head of version {found}, this node speaks version {VERSION}")]
    Version {
        /// What was sent.
        found: u8,
    },
    /// A kind of stream that this node does not serve.
    #[error("stream of unknown kind {found}")]
    Kind {
        /// What was sent.
        found: u8,
    },
    /// A lane that does not exist.
    #[error("lane {found} does not exist, the highest is {}", Lane::ALL.len() - 1)]
    Lane {
        /// What was sent.
        found: u8,
    },
    /// Reserved bytes must be zero.
    #[error("reserved bytes of the stream head are not zero")]
    Reserved,
    /// The stream ended inside its head.
    #[error("stream ended inside its head of {STREAM_HEAD_BYTES} bytes")]
    Truncated,
}

/// A frame header of either direction.
pub(crate) trait FrameHeader: Copy {
    /// Reads a header, which includes the check of the length against [`FRAME_BYTES_MAX`].
    fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError>;
    /// Length of the body that follows, in bytes.
    fn body_bytes(&self) -> usize;
}

/// Header of a request frame: `length u32, operation u16, flags u8 = 0, reserved u8 = 0, id u64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Length of the body, in bytes.
    pub body_bytes: u32,
    /// What is asked; the meaning is the handler's.
    pub operation: u16,
    /// The caller's number for the request, returned with every frame of the answer.
    pub id: u64,
}

impl RequestHeader {
    /// The header as bytes.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        encode_header(self.body_bytes, self.operation, 0, 0, self.id)
    }

    /// Reads a request header.
    pub fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError> {
        if bytes[6] != 0 || bytes[7] != 0 {
            return Err(FrameError::Reserved);
        }
        let operation = u16::from_le_bytes(array(bytes, 4));
        Ok(Self { body_bytes: body_bytes(bytes)?, operation, id: u64::from_le_bytes(array(bytes, 8)) })
    }
}

impl FrameHeader for RequestHeader {
    fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError> {
        Self::parse(bytes)
    }

    fn body_bytes(&self) -> usize {
        self.body_bytes as usize
    }
}

/// Header of an answer frame: `length u32, reserved u16 = 0, flags u8, status u8, id u64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerHeader {
    /// Length of the body, in bytes.
    pub body_bytes: u32,
    /// Zero for success, else the number of a reason. Only the last frame may carry a reason.
    pub status: u8,
    /// Whether this frame ends the answer.
    pub last: bool,
    /// The request's number.
    pub id: u64,
}

impl AnswerHeader {
    /// The header as bytes.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let flags = if self.last { FLAG_LAST } else { FLAG_MORE };
        encode_header(self.body_bytes, 0, flags, self.status, self.id)
    }

    /// Reads an answer header.
    pub fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError> {
        let last = match bytes[6] {
            FLAG_MORE => false,
            FLAG_LAST => true,
            found => return Err(FrameError::Flags { found }),
        };
        let status = bytes[7];
        if bytes[4] != 0 || bytes[5] != 0 || (!last && status != 0) {
            return Err(FrameError::Reserved);
        }
        Ok(Self { body_bytes: body_bytes(bytes)?, status, last, id: u64::from_le_bytes(array(bytes, 8)) })
    }
}

impl FrameHeader for AnswerHeader {
    fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError> {
        Self::parse(bytes)
    }

    fn body_bytes(&self) -> usize {
        self.body_bytes as usize
    }
}

/// Why a frame was refused. The peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A body beyond the limit.
    #[error("frame of {bytes} bytes, the limit is {bytes_max}")]
    TooLarge {
        /// What was announced.
        bytes: u32,
        /// The limit.
        bytes_max: usize,
    },
    /// Reserved bytes must be zero.
    #[error("reserved bytes of the frame header are not zero")]
    Reserved,
    /// An answer is either continued or ended by a frame.
    #[error("flags {found} of an answer frame are neither MORE (1) nor LAST (2)")]
    Flags {
        /// What was sent.
        found: u8,
    },
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame")]
    Truncated,
}

fn encode_header(body_bytes: u32, operation: u16, flags: u8, status: u8, id: u64) -> [u8; FRAME_HEADER_BYTES] {
    assert!(body_bytes as usize <= FRAME_BYTES_MAX, "a frame of ours exceeds the limit: {body_bytes}");
    let mut bytes = [0; FRAME_HEADER_BYTES];
    bytes[0..4].copy_from_slice(&body_bytes.to_le_bytes());
    bytes[4..6].copy_from_slice(&operation.to_le_bytes());
    bytes[6] = flags;
    bytes[7] = status;
    bytes[8..16].copy_from_slice(&id.to_le_bytes());
    bytes
}

fn body_bytes(header: &[u8; FRAME_HEADER_BYTES]) -> Result<u32, FrameError> {
    let bytes = u32::from_le_bytes(array(header, 0));
    if bytes as usize <= FRAME_BYTES_MAX { Ok(bytes) } else { Err(too_large(bytes, FRAME_BYTES_MAX)) }
}

pub(crate) fn too_large(bytes: u32, bytes_max: usize) -> FrameError {
    FrameError::TooLarge { bytes, bytes_max }
}

/// `LENGTH` bytes from `offset`, which the callers choose inside the fixed header.
fn array<const LENGTH: usize>(bytes: &[u8], offset: usize) -> [u8; LENGTH] {
    let mut out = [0; LENGTH];
    out.copy_from_slice(&bytes[offset..offset + LENGTH]);
    out
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
