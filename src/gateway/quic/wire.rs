//! The bytes of the native protocol: what stands in the bodies of the mesh's request and answer frames.
//!
//! Hot operations (put, get, has) are fixed layouts, little-endian, in which records stand as they are on disk. The others are
//! rkyv archives of the types below, checked when they arrive. Texts that name vertices are resolved by the node, so
//! `git:HASH` and `ref:NAME` work wherever an id does.
//!
//! ```text
//! PUT    request   u32 options (bit 0: allow missing parents), u32 reserved, u64 reserved, records one behind the other
//!        answer    a row of 16 bytes a record: u8 refusal (0 none), u8 existed, u16 shard, u32 retry_after_ms, u64 index;
//!                  then, when any was refused, the sentence of the first refusal
//! GET    request   ids of 32 bytes
//!        answer    the records that were found, as they are on disk; what is missing is not here
//! HAS    request   ids of 32 bytes
//!        answer    a bit an id, lowest bit first
//! refusal          u32 retry_after_ms, then the sentence; the reason is the frame's status
//! ```

#![allow(missing_docs, reason = "the derives make types whose fields they do not document; ours are documented")]

use bytes::{BufMut, Bytes, BytesMut};
use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::{NodeId, VertexId};
use crate::membership::Peer;
use crate::membership::driver::Seen;
use crate::router::consistency::Freshness;
pub use crate::router::wire::{PUT_ROW_BYTES, ids, put_row, put_rows, refusal, refusal_of};

/// Make vertices durable.
pub const OP_PUT: u16 = 1;
/// Read vertices.
pub const OP_GET: u16 = 2;
/// Ask whether vertices are here.
pub const OP_HAS: u16 = 3;
/// Ask a question about the graph; the answer may be many frames.
pub const OP_QUERY: u16 = 4;
/// Read, move, list refs and their logs.
pub const OP_REF: u16 = 5;
/// The node's figures, as JSON.
pub const OP_STATS: u16 = 6;
/// Resolve a text to an id.
pub const OP_RESOLVE: u16 = 7;
/// Follow new vertices and moves of refs; the answer is frames until the caller stops.
pub const OP_WATCH: u16 = 8;

/// Ask the control plane, or what this node's groups look like; JSON both ways, see [`ClusterAsk`].
pub const OP_CLUSTER: u16 = 9;
/// What the node knows of the MCP servers behind it, as JSON.
pub const OP_UPSTREAMS: u16 = 11;

/// Read a vertex of which "not here" may be old; [`ReadRequest`] and [`ReadAnswer`].
pub const OP_READ: u16 = 10;

/// What a person asks of the cluster through a node.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "of", rename_all = "snake_case", deny_unknown_fields)]
pub enum ClusterAsk {
    /// The control plane.
    Control {
        /// What.
        ask: Box<crate::control::ask::Ask>,
    },
    /// This node: what its groups look like.
    Groups,
    /// This node: how the members are, as it has heard; [`HealthRow`]s.
    Health,
}

/// How a member is, as the node that is asked has heard.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HealthRow {
    /// The member.
    pub node: u64,
    /// healthy, suspect or down.
    pub health: String,
    /// For how long, in milliseconds.
    pub for_ms: u64,
    /// What it said of itself last.
    pub load: Option<LoadRow>,
}

/// How busy a member said to be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LoadRow {
    /// When, milliseconds ago.
    pub heard_ms_ago: u64,
    /// Thousandths of its processors in use.
    pub cpu_permille: u16,
    /// Messages in the fullest inbox of its cores.
    pub inbox_depth: u32,
    /// Mean time of its commit rounds' syncs, in microseconds.
    pub commit_latency_us: u32,
    /// The version it runs.
    pub build: String,
    /// The newest topology it knows.
    pub epoch: u64,
}

impl HealthRow {
    /// Rows of what was seen.
    pub fn of(seen: &Seen) -> Vec<Self> {
        let peers = seen.view.iter().flat_map(|view| view.peers());
        let row = |(node, peer): (NodeId, &Peer)| Self {
            node: node.0,
            health: peer.health.word().to_owned(),
            for_ms: seen.now_ms.saturating_sub(peer.since_ms),
            load: peer.load.map(|(load, heard_ms)| LoadRow {
                heard_ms_ago: seen.now_ms.saturating_sub(heard_ms),
                cpu_permille: load.cpu_permille,
                inbox_depth: load.inbox_depth,
                commit_latency_us: load.commit_latency_us,
                build: format!("{}.{}.{}", load.build.major, load.build.minor, load.build.patch),
                epoch: load.epoch.0,
            }),
        };
        peers.map(row).collect()
    }
}

/// Bit of the put options: accept vertices whose parents are not here.
pub const PUT_ALLOW_MISSING_PARENTS: u32 = 1;
/// Bytes before the records of a put.
pub const PUT_HEAD_BYTES: usize = 16;

/// How the vertices of an answer are sent.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub enum Projection {
    /// 32 bytes an id, packed.
    Ids,
    /// Hexadecimal git hashes, one a line; vertices without one are left out.
    Git,
    /// [`Summary`] rows, a `Vec` a frame.
    Summaries,
}

/// A question about the graph, as texts and numbers.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryRequest {
    /// parents, children, ancestors, descendants, path, lca, is-ancestor, range, topo, tips, diff.
    pub verb: String,
    /// The vertices it is about.
    pub ids: Vec<String>,
    /// range: vertices whose ancestors are left out.
    pub exclude: Vec<String>,
    /// bfs, topo or time; empty is the verb's own order.
    pub order: String,
    /// Edges from the roots, at most.
    pub depth: Option<u32>,
    /// Vertices of this answer, at most; `None` streams all.
    pub limit: Option<u32>,
    /// Where the page before ended; empty at the start.
    pub cursor: String,
    /// Only this namespace; empty is any. For tips: the namespace.
    pub namespace: String,
    /// Only this kind; empty is any.
    pub kind: String,
    /// Only vertices with all these labels.
    pub labels: Vec<(String, String)>,
    /// Only vertices of this time or later, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Only vertices of this time or earlier, in milliseconds since 1970.
    pub until_ms: Option<u64>,
    /// Only vertices of this generation or later.
    pub since_generation: Option<u32>,
    /// Only vertices of this generation or earlier.
    pub until_generation: Option<u32>,
    /// Not older than this token; empty is "what is committed when it is asked".
    pub token: String,
    /// How the vertices are sent: 0 ids, 1 git hashes, 2 summaries.
    pub projection: u8,
}

/// What the skeleton knows of a vertex.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Its id.
    #[serde(serialize_with = "id_text")]
    pub id: [u8; 32],
    /// 1 + the largest generation of its parents.
    pub generation: u32,
    /// Its time, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its git hash in hexadecimal, when it has one.
    pub git: Option<String>,
}

fn id_text<S: serde::Serializer>(id: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&VertexId(*id))
}

/// One frame of a query's answer.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum QueryFrame {
    /// Ids of 32 bytes, packed.
    Ids(Vec<u8>),
    /// Git hashes, one a line.
    Git(String),
    /// Rows.
    Summaries(Vec<Summary>),
    /// is-ancestor.
    Bool(bool),
    /// path: no chain exists.
    NoPath,
    /// The last frame: where the next page begins (empty: there is none).
    End {
        /// The cursor.
        cursor: String,
    },
    /// diff: what follows belongs to this part (0 only in the first, 1 only in the second, 2 common bases).
    Part(u8),
}

/// Read, move, list refs.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum RefRequest {
    /// Read one.
    Get {
        /// Its name.
        name: String,
        /// How new the answer must be: linearizable (or empty), bounded:MILLISECONDS, any.
        consistency: String,
    },
    /// Move one.
    Set {
        /// Its name.
        name: String,
        /// Where to; `None` deletes it.
        to: Option<String>,
        /// 0 anywhere, 1 absent, 2 at `expect_at`.
        expect: u8,
        /// Where it is expected.
        expect_at: String,
        /// Who moves it.
        actor: String,
        /// Why.
        reason: String,
    },
    /// List by prefix.
    List {
        /// Names start with this.
        prefix: String,
        /// Names come after this; empty is from the start.
        after: String,
        /// At most so many.
        limit: u32,
        /// As for one.
        consistency: String,
    },
    /// The latest moves.
    Log {
        /// Its name.
        name: String,
        /// At most so many.
        limit: u32,
        /// As for one.
        consistency: String,
    },
}

/// A ref as it is answered.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RefRow {
    /// Its name.
    pub name: String,
    /// Where it is; `None` when it was deleted.
    pub at: Option<String>,
    /// Moves so far.
    pub version: u64,
}

/// A move of a ref as it is answered.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RefLogRow {
    /// The version the move made.
    pub version: u64,
    /// From where; `None` when it was absent.
    pub from: Option<String>,
    /// To where; `None` when it was deleted.
    pub to: Option<String>,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub timestamp_ms: u64,
}

/// An answer about refs.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum RefAnswer {
    /// One ref, and the token of the move that made it (empty for a read).
    One {
        /// The ref.
        row: RefRow,
        /// "Not older than this".
        token: String,
        /// Of a read: how new it is.
        freshness: Option<FreshnessRow>,
    },
    /// Several.
    List {
        /// In the order of their names.
        rows: Vec<RefRow>,
        /// How new they are.
        freshness: FreshnessRow,
    },
    /// Moves.
    Log {
        /// Newest first.
        rows: Vec<RefLogRow>,
        /// How new they are.
        freshness: FreshnessRow,
    },
}

/// How new an answer is.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct FreshnessRow {
    /// Who answered: primary or replica.
    pub answered: String,
    /// How old the answer may be, in milliseconds; `None` from a replica that has not heard of its primary yet.
    pub staleness_ms: Option<u64>,
    /// The token up to which a replica's answer knows everything; empty when it is of several shards.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub applied: String,
}

impl From<Freshness> for FreshnessRow {
    fn from(freshness: Freshness) -> Self {
        Self {
            answered: freshness.answered.word().to_owned(),
            staleness_ms: freshness.staleness_ms,
            applied: freshness.applied.map(|token| token.to_string()).unwrap_or_default(),
        }
    }
}

/// Read a vertex.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// Its id.
    pub id: [u8; 32],
    /// How new "not here" must be.
    pub consistency: String,
}

/// A vertex that was read, or not here.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ReadAnswer {
    /// Its record, as it is on disk.
    pub record: Option<Vec<u8>>,
    /// How new "not here" is.
    pub freshness: FreshnessRow,
}

/// What a watcher is told.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum WatchFrame {
    /// New vertices.
    Vertices(Vec<Summary>),
    /// A ref moved.
    Ref {
        /// The ref after the move.
        row: RefRow,
        /// The move.
        change: RefLogRow,
    },
    /// The watcher was too slow and missed this many moves of refs.
    Missed(u64),
}

/// What a watcher asks for.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchRequest {
    /// Only this namespace; empty is any.
    pub namespace: String,
    /// Only this kind; empty is any.
    pub kind: String,
    /// Tell of moves of refs too.
    pub refs: bool,
}

/// The archive of a value, as a frame's body.
macro_rules! archive {
    ($value:expr) => {
        rkyv::to_bytes::<rkyv::rancor::Error>($value).map(|bytes| bytes::Bytes::from_owner(bytes))
    };
}
pub(crate) use archive;

/// The value of a stranger's archive.
macro_rules! unarchive {
    ($type:ty, $body:expr) => {
        rkyv::from_bytes::<$type, rkyv::rancor::Error>($body)
    };
}
pub(crate) use unarchive;

/// The body of a put request.
pub fn put_request<'a>(options: u32, records: impl IntoIterator<Item = &'a Bytes>) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u32_le(options);
    body.put_bytes(0, PUT_HEAD_BYTES - 4);
    for record in records {
        body.extend_from_slice(record);
    }
    body.freeze()
}
