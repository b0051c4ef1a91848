//! What a router says to the core that owns a shard, and what comes back.
//!
//! Promises: every message is owned and bounded by the limits of the door that made it; every message carries the place where
//! its answer is awaited.

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::dag::archive::SealedVertex;
use crate::dag::refs::{LogEntry, Position, RefMove, RefName};
use crate::error::Refusal;
use crate::ids::{LogIndex, ShardId, VertexId};
use crate::router::consistency::{Consistency, Freshness};

/// Where an answer is awaited. A caller that went away is no error.
pub type Reply<T> = oneshot::Sender<T>;

/// What became of each record of a put, in order.
pub type PutOutcomes = Vec<Result<PutReceipt, Refusal>>;

/// What was read, and how new it is.
pub type Read<T> = Result<(T, Freshness), Refusal>;

/// What became of a move of a ref.
pub type RefOutcome = Result<RefReceipt, Refusal>;

/// What a put that is durable returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutReceipt {
    /// The shard that holds the vertex.
    pub shard: ShardId,
    /// The entry that holds it, or a later one when it existed before.
    pub index: LogIndex,
    /// Whether it was there before.
    pub existed: bool,
}

/// What a move of a ref that is durable returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefReceipt {
    /// The ref after the move.
    pub position: Position,
    /// The shard that holds the ref.
    pub shard: ShardId,
    /// The entry that holds the move.
    pub index: LogIndex,
}

/// One shard's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ShardStats {
    /// The shard.
    pub shard: u16,
    /// The core that owns it.
    pub core: u16,
    /// Vertices and ref moves in its index.
    pub records: u64,
    /// Bytes of the index in memory.
    pub index_bytes: u64,
    /// Last committed entry.
    pub committed: u64,
    /// Refs.
    pub refs: u64,
    /// Records proposed and not yet durable.
    pub pending: u64,
    /// Puts that were durable.
    pub puts: u64,
    /// Reads answered.
    pub gets: u64,
}

/// One core's figures.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct CoreStats {
    /// The core.
    pub core: u16,
    /// Its shards.
    pub shards: Vec<ShardStats>,
    /// Its logs.
    pub logs: Vec<LogFigures>,
    /// Vertices in its read cache.
    pub cache_vertices: u64,
    /// Bytes in its read cache.
    pub cache_bytes: u64,
    /// Reads that the cache answered.
    pub cache_hits: u64,
    /// Reads that went to the log.
    pub cache_misses: u64,
    /// Messages waiting in its inbox.
    pub inbox_waiting: u64,
    /// Reads that were answered by a primary, here or elsewhere.
    pub reads_by_primary: u64,
    /// Reads that this node answered as another replica.
    pub reads_by_replica: u64,
}

/// One log's figures.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct LogFigures {
    /// The log.
    pub log: u16,
    /// The disk backend it writes through.
    pub backend: String,
    /// Segments, the active one included.
    pub segments: u64,
    /// Bytes of frames written since it was made.
    pub bytes: u64,
    /// Commit rounds since start.
    pub rounds: u64,
    /// Records committed since start.
    pub records: u64,
    /// Syncs that the disk answered since start.
    pub syncs: u64,
    /// Microseconds that the syncs took, summed.
    pub sync_us_total: u64,
    /// The slowest sync, in microseconds.
    pub sync_us_max: u64,
    /// Scrubs that read all sealed segments since start.
    pub scrubs: u64,
    /// Bytes that they read and checked.
    pub scrub_bytes: u64,
    /// Damaged places that the last of them found.
    pub scrub_damages: u64,
    /// Whether writes are refused because the disk is full.
    pub disk_full: bool,
}

/// A message to the core that owns the shards it is about.
#[derive(Debug)]
pub enum Message {
    /// Make vertices durable. Answers in the order of the records.
    Put {
        /// Verified vertices of shards of this core.
        records: Vec<SealedVertex>,
        /// One outcome a record.
        reply: Reply<PutOutcomes>,
    },
    /// Read vertices. Answers in the order of the ids.
    Get {
        /// Ids of shards of this core.
        ids: Vec<VertexId>,
        /// One outcome an id; `None` is "not here", answered by the primary.
        reply: Reply<Vec<Result<Option<SealedVertex>, Refusal>>>,
    },
    /// Read a vertex; "not here" may be as old as is said.
    GetWith {
        /// The id, of a shard of this core.
        id: VertexId,
        /// How new "not here" must be.
        consistency: Consistency,
        /// The vertex, which is never old.
        reply: Reply<Read<Option<SealedVertex>>>,
    },
    /// Whether vertices exist and are durable; waits for those whose put is in flight.
    Exists {
        /// Ids of shards of this core.
        ids: Vec<VertexId>,
        /// One answer an id.
        reply: Reply<Vec<Result<bool, Refusal>>>,
    },
    /// Read a ref.
    RefGet {
        /// Its name.
        name: RefName,
        /// How new the answer must be.
        consistency: Consistency,
        /// `None` is "no such ref".
        reply: Reply<Read<Option<Position>>>,
    },
    /// Move a ref by compare-and-set.
    RefSet {
        /// The move.
        change: Box<RefMove>,
        /// The state after it.
        reply: Reply<RefOutcome>,
    },
    /// Refs of one shard by prefix, in the order of their names.
    RefList {
        /// The shard.
        shard: ShardId,
        /// Names start with this.
        prefix: String,
        /// Names come after this.
        after: Option<RefName>,
        /// At most so many.
        limit: usize,
        /// How new the answer must be.
        consistency: Consistency,
        /// Names and states.
        reply: Reply<Read<Vec<(RefName, Position)>>>,
    },
    /// The latest moves of one ref, newest first.
    RefLog {
        /// Its name.
        name: RefName,
        /// At most so many.
        limit: usize,
        /// How new the answer must be.
        consistency: Consistency,
        /// Moves, and `None` when the ref never was.
        reply: Reply<Read<Option<Vec<LogEntry>>>>,
    },
    /// What another node asks of a shard of this core.
    Mesh {
        /// The operation, of [`super::peers`].
        operation: u16,
        /// The shard that the body names.
        shard: ShardId,
        /// With what.
        body: Bytes,
        /// The answer's body.
        reply: Reply<Result<Bytes, Refusal>>,
    },
    /// The core's figures.
    Stats {
        /// Where they go.
        reply: Reply<CoreStats>,
    },
    /// Take no more, finish what is in flight, close the logs.
    Drain {
        /// Answered when the logs are closed.
        reply: Reply<()>,
    },
}
