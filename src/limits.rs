//! The bounds of the house: every queue, batch, frame, walk and retry, each with its unit.
//!
//! Promises: bounds that must relate are tied together where the compiler reads it.

/// Payload of one vertex, in bytes. Larger content is split by the caller into vertices.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Parents of one vertex.
pub const PARENTS_MAX: usize = 256;
/// Labels of one vertex.
pub const LABELS_MAX: usize = 64;
/// Key of a label, in bytes of UTF-8.
pub const LABEL_KEY_BYTES_MAX: usize = 128;
/// Value of a label, in bytes of UTF-8.
pub const LABEL_VALUE_BYTES_MAX: usize = 1024;
/// Kind of a vertex, in bytes of UTF-8.
pub const KIND_BYTES_MAX: usize = 64;
/// Namespace of a vertex, in bytes of UTF-8.
pub const NAMESPACE_BYTES_MAX: usize = 64;
/// Author of a vertex, in bytes of UTF-8.
pub const AUTHOR_BYTES_MAX: usize = 256;
/// Public key beside a signature, in bytes (ML-DSA-65: 1952).
pub const PUBLIC_KEY_BYTES_MAX: usize = 2048;
/// Signature, in bytes (ML-DSA-65: 3309).
pub const SIGNATURE_BYTES_MAX: usize = 4096;
/// One vertex in its archived form, envelope included, in bytes.
pub const RECORD_BYTES_MAX: usize = qmesh_storage::RECORD_BYTES_MAX;

/// Name of a ref, in bytes of UTF-8.
pub const REF_NAME_BYTES_MAX: usize = 512;
/// Reason noted beside a ref move, in bytes of UTF-8.
pub const REF_REASON_BYTES_MAX: usize = 1024;
/// Moves of one ref that its log answers; older moves stay in the segments.
pub const REFLOG_ENTRIES_MAX: usize = 256;
/// Refs of one shard.
pub const REFS_PER_SHARD_MAX: usize = 1 << 20;

/// Vertices of one put request.
pub const PUT_BATCH_MAX: usize = 4096;
/// Ids of one get or has request.
pub const GET_BATCH_MAX: usize = 4096;
/// Vertices or refs of one answered page, the most a caller may ask.
pub const PAGE_MAX: usize = 10_000;
/// Vertices or refs of one answered page when the caller says nothing.
pub const PAGE_DEFAULT: usize = 100;
/// Roots of one walk.
pub const ROOTS_MAX: usize = 256;
/// Edges a walk follows before it lets its core serve others.
pub const WALK_EDGES_PER_SLICE: usize = 20_000;

/// Messages waiting in one core's inbox.
pub const INBOX_MESSAGES_MAX: usize = 16_384;
/// Messages one core handles from its inbox before it polls sockets and disk again.
pub const INBOX_MESSAGES_PER_TURN: usize = 256;
/// Records proposed to one shard and not yet durable.
pub const SHARD_PENDING_RECORDS_MAX: usize = 65_536;
/// Bytes proposed to one shard and not yet durable.
pub const SHARD_PENDING_BYTES_MAX: usize = 64 << 20;
/// Committed records not yet seen by the skeleton; above it, puts are answered Overloaded.
pub const FEED_BACKLOG_MAX: usize = 1 << 20;
/// When to return after an Overloaded answer, in milliseconds.
pub const RETRY_AFTER_MS: u32 = 20;

/// Slots of a new node.
pub const SLOTS_DEFAULT: u16 = 16;
/// Shards of a new node.
pub const SHARDS_DEFAULT: u16 = 4;

/// Body of one HTTP request that is not a batch stream, in bytes.
pub const HTTP_BODY_BYTES_MAX: usize = 4 << 20;
/// How many times its bytes a coded body of a request may unfold to. Text seldom reaches 20.
pub const HTTP_INFLATION_RATIO_MAX: usize = 100;
/// Bytes that a coded body may unfold to whatever its ratio.
pub const HTTP_INFLATION_FREE_BYTES: usize = 256 << 10;
/// Coded bodies that one core unfolds at a time.
pub const HTTP_INFLATIONS_PER_CORE_MAX: usize = 64;
/// One line of an NDJSON stream, in bytes.
pub const NDJSON_LINE_BYTES_MAX: usize = 4 << 20;
/// Head of one HTTP request, in bytes.
pub const HTTP_HEAD_BYTES_MAX: usize = 32 << 10;
/// HTTP connections of one core.
pub const HTTP_CONNECTIONS_PER_CORE_MAX: usize = 4096;
/// Streams of one HTTP/2 connection (S5.1: 100).
pub const HTTP2_STREAMS_MAX: u32 = 100;
/// Bytes that a peer may have on the way to us on one HTTP/3 stream.
pub const HTTP3_STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Bytes that a peer may have on the way to us on one HTTP/3 connection.
pub const HTTP3_CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// WebSockets of one core.
pub const WEBSOCKETS_PER_CORE_MAX: usize = 1024;
/// Requests of one WebSocket that are open.
pub const WEBSOCKET_REQUESTS_MAX: usize = 64;
/// Messages that wait for the reader of one WebSocket.
pub const WEBSOCKET_WAITING_MAX: usize = 64;
/// Silence after which the other end of a WebSocket is asked whether it is there, in milliseconds; after as much again it is gone.
pub const WEBSOCKET_PING_MS: u64 = 30_000;
/// Time without a message or an open request after which a WebSocket is closed, in milliseconds (S5.1: idle 300 s).
pub const WEBSOCKET_IDLE_MS: u64 = 300_000;
/// Time to send the head of a request, in milliseconds.
pub const HTTP_HEAD_TIMEOUT_MS: u64 = 10_000;
/// Time between two pieces of a request's body, in milliseconds.
pub const HTTP_BODY_IDLE_TIMEOUT_MS: u64 = 10_000;
/// Time the doors may take to finish what they took when the node drains, in milliseconds.
pub const DRAIN_TIMEOUT_MS: u64 = 10_000;
/// Default deadline of a request, in milliseconds (S3.2-5: 30 s).
pub const REQUEST_TIMEOUT_MS: u64 = 30_000;

/// Requests a second of one caller, unless the gateway's file says otherwise (S3.2-3).
pub const RATE_PER_SECOND_DEFAULT: u32 = 1000;
/// Requests of one caller at once (S3.2-4).
pub const RATE_BURST_DEFAULT: u32 = 5000;
/// Callers whose rate a node remembers. Those that come when as many are active share one rate.
pub const RATE_KEYS_MAX: usize = 65_536;
/// Callers whose rate one core has at hand; another is asked for again.
pub const RATE_KEYS_PER_CORE_MAX: usize = 16_384;
/// An access token, in bytes.
pub const ACCESS_TOKEN_BYTES_MAX: usize = 16 << 10;
/// Verified access tokens that one core remembers.
pub const VERIFIED_TOKENS_PER_CORE_MAX: usize = 4096;
/// A document of an issuer, in bytes.
pub const ISSUER_DOCUMENT_BYTES_MAX: usize = 256 << 10;
/// Keys of one issuer.
pub const ISSUER_KEYS_MAX: usize = 64;
/// Time for one document of an issuer, in milliseconds.
pub const ISSUER_TIMEOUT_MS: u64 = 5_000;
/// Time between two fetches of an issuer's keys that nobody asks for, in milliseconds.
pub const ISSUER_REFRESH_MS: u64 = 300_000;
/// Time before an issuer that did not answer is tried again, in milliseconds.
pub const ISSUER_RETRY_MS: u64 = 5_000;
/// Time that a request waits for an issuer's keys, in milliseconds.
pub const ISSUER_WAIT_MS: u64 = 3_000;

const _: () = assert!(ACCESS_TOKEN_BYTES_MAX < HTTP_HEAD_BYTES_MAX);
const _: () = assert!(RATE_KEYS_PER_CORE_MAX <= RATE_KEYS_MAX);
const _: () = assert!(
    PAYLOAD_BYTES_MAX
        + PARENTS_MAX * 32
        + LABELS_MAX * (LABEL_KEY_BYTES_MAX + LABEL_VALUE_BYTES_MAX + 16)
        + PUBLIC_KEY_BYTES_MAX
        + SIGNATURE_BYTES_MAX
        + 4096
        <= RECORD_BYTES_MAX,
    "a vertex at all its limits must fit in a record"
);
const _: () = assert!(RECORD_BYTES_MAX <= SHARD_PENDING_BYTES_MAX);
const _: () = assert!(PAGE_DEFAULT <= PAGE_MAX);
