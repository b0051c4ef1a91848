//! A node as its callers see it: puts, gets, questions, refs over one QUIC connection.
//!
//! Promises: a put or get that the node was too busy for is asked again within the deadline; a connection that is lost is
//! made again once, and only what cannot be done twice by that is repeated; every record received is verified by its id.
//! Does not: cache, or choose among nodes.

pub mod address;
mod connect;
mod explain;
mod reads;
mod upstreams;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use qmesh_net::rpc::client::{Answer, CallError, Client};
use qmesh_net::wire::{FRAME_BYTES_MAX, Lane};
use qmesh_storage::Record;
use rkyv::util::AlignedVec;

use crate::dag::archive::{Scratch, SealedVertex};
use crate::error::{Reason, Refusal};
use crate::gateway::quic::wire::{
    ClusterAsk, OP_CLUSTER, OP_GET, OP_HAS, OP_PUT, OP_QUERY, OP_REF, OP_RESOLVE, OP_STATS, OP_WATCH,
    PUT_ALLOW_MISSING_PARENTS, PUT_HEAD_BYTES, QueryFrame, QueryRequest, RefAnswer, RefRequest, WatchFrame,
    WatchRequest, archive, put_request, put_rows, refusal_of, unarchive,
};
use crate::ids::{ID_BYTES, VertexId};
use crate::limits::{GET_BATCH_MAX, PUT_BATCH_MAX, RECORD_BYTES_MAX, REQUEST_TIMEOUT_MS};
use crate::router::PutOptions;
use crate::router::message::PutReceipt;

pub use address::{ADDRESS_DEFAULT, Address, AddressError};
pub use explain::explain_route;

/// Records of one put call, in bytes: large enough that a call's own cost vanishes, small enough that several are in flight.
pub const PUT_BYTES_PER_CALL: usize = 512 << 10;
/// Ids of one get call: an answer of records at their usual size stays within a few frames.
const GET_IDS_PER_CALL: usize = 256;
/// Times one request is asked when the node answers that it is overloaded.
const ATTEMPTS_MAX: u32 = 64;
/// Time until a full lane of our own is tried again, in milliseconds.
const LANE_FULL_WAIT_MS: u64 = 1;
/// The longest wait between two attempts, in milliseconds.
const BACKOFF_MS_MAX: u64 = 500;
/// Turns of the event loop in which the goodbye leaves the socket.
const FAREWELL_TURNS: usize = 4;

const _: () = assert!(PUT_HEAD_BYTES + RECORD_BYTES_MAX <= FRAME_BYTES_MAX, "a record must fit in a put");
const _: () = assert!(PUT_HEAD_BYTES + PUT_BYTES_PER_CALL <= FRAME_BYTES_MAX);
const _: () = assert!(GET_IDS_PER_CALL <= GET_BATCH_MAX);
const _: () = assert!(GET_BATCH_MAX * ID_BYTES <= FRAME_BYTES_MAX);

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// The PEM file of the authority to trust; `None` trusts whoever answers on this machine, and nobody elsewhere.
    pub authority: Option<PathBuf>,
    /// Time for one request, retries included, and between two parts of a streamed answer.
    pub timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { authority: None, timeout: Duration::from_millis(REQUEST_TIMEOUT_MS) }
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The address is not one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No node answers there.
    #[error("no node answers at {address} ({detail}); start one with `qmesh up`, or name one with --node")]
    Unreachable {
        /// Where it was sought.
        address: String,
        /// What happened.
        detail: String,
    },
    /// A certificate would have to be believed unseen.
    #[error(
        "{address} is not on this machine: name the authority to trust with --ca FILE or QMESH_CA (its tls/ca.pem)"
    )]
    Untrusted {
        /// The address.
        address: SocketAddr,
    },
    /// The node refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No answer in time.
    #[error("no answer within {} ms; allow more with --timeout", .limit.as_millis())]
    Timeout {
        /// The bound.
        limit: Duration,
    },
    /// The node sent a vertex that is not what its id says, or not signed by its key.
    #[error("the node sent a vertex that does not verify: {0}")]
    Unverified(String),
    /// The answer is larger than a client keeps.
    #[error("the answer is too large for one request; ask for less")]
    AnswerTooLarge,
    /// The node answered what this build cannot read.
    #[error("the node's answer cannot be read: {0}")]
    Broken(String),
}

impl ClientError {
    /// The stable reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Address(_) => Reason::BadRequest,
            Self::Unreachable { .. } => Reason::Unavailable,
            Self::Untrusted { .. } => Reason::Denied,
            Self::Refused(refusal) => refusal.reason,
            Self::Timeout { .. } => Reason::Timeout,
            Self::Unverified(_) => Reason::Unverified,
            Self::AnswerTooLarge => Reason::LimitExceeded,
            Self::Broken(_) => Reason::Internal,
        }
    }

    /// The same as a refusal, for whoever shows it.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal.clone(),
            other => Refusal::new(other.reason(), other.to_string()),
        }
    }
}

/// Whether a request whose answer was lost may be asked again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// Doing it twice is doing it once.
    Always,
    /// Only when the node certainly did not see it.
    Unseen,
}

/// A connection to a node.
pub struct Node {
    target: connect::Target,
    current: Mutex<Client>,
    timeout: Duration,
}

impl Node {
    /// Connects to `address`: `HOST:PORT`, `quic://…`, `http://…` or `https://…`. Must be called inside an event loop.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Untrusted`], [`ClientError::Unreachable`], [`ClientError::Timeout`].
    pub async fn connect(address: &str, options: &ConnectOptions) -> Result<Self, ClientError> {
        let address = Address::parse(address)?;
        let connecting = connect::connect(&address, options);
        let limit = options.timeout;
        let (target, client) =
            tokio::time::timeout(limit, connecting).await.map_err(|_| ClientError::Unreachable {
                address: address.to_string(),
                detail: format!("no answer within {} ms", limit.as_millis()),
            })??;
        Ok(Self { target, current: Mutex::new(client), timeout: limit })
    }

    /// The node's QUIC address.
    pub fn address(&self) -> SocketAddr {
        self.client().address()
    }

    /// Says goodbye without waiting for an answer, so that the node forgets this connection at once.
    pub async fn farewell(self) {
        drop(self.current);
        for _ in 0..FAREWELL_TURNS {
            tokio::task::yield_now().await;
        }
    }

    /// Makes vertices durable; the outcomes are in the order of the records. Parents must be at the node, or stand earlier
    /// in `records`, unless `options` say otherwise. Records that the node was too busy for are sent again.
    ///
    /// # Errors
    /// What kept the request from being answered; refused records are in the outcomes.
    pub async fn put(
        &self,
        records: &[SealedVertex],
        options: PutOptions,
    ) -> Result<Vec<Result<PutReceipt, Refusal>>, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let mut outcomes = vec![Err(Refusal::new(Reason::Internal, "not sent")); records.len()];
        let mut waiting: Vec<usize> = (0..records.len()).collect();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut again = Vec::new();
            let mut wait_ms = 0;
            for call in calls(records, &waiting) {
                let flags = if options.allow_missing_parents { PUT_ALLOW_MISSING_PARENTS } else { 0 };
                let body = put_request(flags, call.iter().map(|&at| records[at].record().bytes()));
                let answer = self.call(Lane::Put, OP_PUT, body, Repeat::Always, deadline).await?;
                for (&at, outcome) in call.iter().zip(put_rows(&answer, call.len())?) {
                    if let Err(refusal) = &outcome
                        && refusal.reason == Reason::Overloaded
                    {
                        wait_ms = wait_ms.max(refusal.retry_after_ms);
                        again.push(at);
                    }
                    outcomes[at] = outcome;
                }
            }
            if again.is_empty() || !self.pause(attempt, wait_ms, deadline).await {
                return Ok(outcomes);
            }
            waiting = again;
        }
    }

    /// Reads one vertex; `None` is "not at this node".
    ///
    /// # Errors
    /// What kept the request from being answered, or an answer that does not verify.
    pub async fn get(&self, id: VertexId) -> Result<Option<SealedVertex>, ClientError> {
        Ok(self.get_many(&[id]).await?.pop().flatten())
    }

    /// Reads vertices; the answers are in the order of the ids, `None` is "not at this node".
    ///
    /// # Errors
    /// As [`Node::get`].
    pub async fn get_many(&self, ids: &[VertexId]) -> Result<Vec<Option<SealedVertex>>, ClientError> {
        let mut scratch = Scratch::default();
        let mut vertices = HashMap::with_capacity(ids.len());
        let mut calls: Vec<&[VertexId]> = ids.chunks(GET_IDS_PER_CALL).rev().collect();
        while let Some(call) = calls.pop() {
            let deadline = Instant::now() + self.timeout;
            let lane = if call.len() == 1 { Lane::PointRead } else { Lane::Bulk };
            let body = match self.call(lane, OP_GET, packed(call), Repeat::Always, deadline).await {
                Ok(body) => body,
                // Large vertices: ask for fewer at a time.
                Err(ClientError::AnswerTooLarge) if 1 < call.len() => {
                    let (first, second) = call.split_at(call.len() / 2);
                    calls.extend([second, first]);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let records =
                Record::parse_all(&body, call.len()).map_err(|error| ClientError::Broken(error.to_string()))?;
            for record in records {
                let vertex = SealedVertex::verify_with(record, &mut scratch);
                let vertex = vertex.map_err(|error| ClientError::Unverified(error.to_string()))?;
                vertices.insert(vertex.id(), vertex);
            }
        }
        Ok(ids.iter().map(|id| vertices.get(id).cloned()).collect())
    }

    /// Whether vertices are at the node and durable, in the order of the ids.
    ///
    /// # Errors
    /// What kept the request from being answered.
    pub async fn has(&self, ids: &[VertexId]) -> Result<Vec<bool>, ClientError> {
        let mut found = Vec::with_capacity(ids.len());
        for call in ids.chunks(GET_BATCH_MAX) {
            let deadline = Instant::now() + self.timeout;
            let bits = self.call(Lane::PointRead, OP_HAS, packed(call), Repeat::Always, deadline).await?;
            if bits.len() < call.len().div_ceil(8) {
                return Err(ClientError::Broken(format!("{} bytes for {} ids", bits.len(), call.len())));
            }
            found.extend((0..call.len()).map(|at| bits[at / 8] >> (at % 8) & 1 == 1));
        }
        Ok(found)
    }

    /// Asks a question about the graph; the answer comes in frames. The first is already here when this returns, so a
    /// refused question is an error of this call.
    ///
    /// # Errors
    /// The node's refusal, or what kept the request from being answered.
    pub async fn query(&self, request: &QueryRequest) -> Result<QueryAnswer, ClientError> {
        let body = archive!(request).map_err(|error| ClientError::Broken(error.to_string()))?;
        let deadline = Instant::now() + self.timeout;
        let mut reconnected = false;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let client = self.client();
            let first = async {
                let mut parts = client.call_streaming(Lane::Traversal, OP_QUERY, body.clone()).await?;
                let first = parts.next().await.transpose()?;
                Ok((parts, first))
            };
            match within(self.timeout, first).await? {
                Ok((parts, first)) => return Ok(QueryAnswer { parts, first, limit: self.timeout }),
                Err(error) => self.recover(&client, error, Repeat::Always, attempt, &mut reconnected, deadline).await?,
            }
        }
    }

    /// Reads, moves or lists refs.
    ///
    /// # Errors
    /// The node's refusal (Conflict, NotFound), or what kept the request from being answered.
    pub async fn refs(&self, request: &RefRequest) -> Result<RefAnswer, ClientError> {
        // A move that expects a state fails when it is repeated after it was done; one that expects none is a plain write.
        let repeat = match request {
            RefRequest::Set { expect, .. } if *expect != 0 => Repeat::Unseen,
            _ => Repeat::Always,
        };
        let body = archive!(request).map_err(|error| ClientError::Broken(error.to_string()))?;
        let answer = self.call(Lane::PointRead, OP_REF, body, repeat, Instant::now() + self.timeout).await?;
        unarchive!(RefAnswer, &aligned(answer)).map_err(|error| ClientError::Broken(error.to_string()))
    }

    /// The node's figures, as it tells them.
    ///
    /// # Errors
    /// What kept the request from being answered.
    pub async fn stats(&self) -> Result<serde_json::Value, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let body = self.call(Lane::PointRead, OP_STATS, Bytes::new(), Repeat::Always, deadline).await?;
        serde_json::from_slice(&body).map_err(|error| ClientError::Broken(error.to_string()))
    }

    /// Asks about the cluster; the answer is JSON of the question's own form. Commands carry their request's number, so that they
    /// repeat safely.
    ///
    /// # Errors
    /// What kept the request from being answered.
    pub async fn cluster(&self, ask: &ClusterAsk) -> Result<Bytes, ClientError> {
        let body = serde_json::to_vec(ask).map_err(|error| ClientError::Broken(error.to_string()))?;
        let deadline = Instant::now() + self.timeout;
        self.call(Lane::Control, OP_CLUSTER, body.into(), Repeat::Always, deadline).await
    }

    /// The id that `text` names: an id, `git:HASH` or `ref:NAME`. Ids cost no question.
    ///
    /// # Errors
    /// BadRequest, NotFound, or what kept the request from being answered.
    pub async fn resolve(&self, text: &str) -> Result<VertexId, ClientError> {
        if let Ok(id) = text.parse() {
            return Ok(id);
        }
        let deadline = Instant::now() + self.timeout;
        let body = Bytes::copy_from_slice(text.as_bytes());
        let id = self.call(Lane::PointRead, OP_RESOLVE, body, Repeat::Always, deadline).await?;
        let id = id[..].try_into().map_err(|_| ClientError::Broken(format!("an id of {} bytes", id.len())))?;
        Ok(VertexId(id))
    }

    /// Follows new vertices and moves of refs until the answer is dropped.
    ///
    /// # Errors
    /// The node's refusal, or what kept the request from being answered.
    pub async fn watch(&self, request: &WatchRequest) -> Result<WatchAnswer, ClientError> {
        let body = archive!(request).map_err(|error| ClientError::Broken(error.to_string()))?;
        let client = self.client();
        let asked = client.call_streaming(Lane::Bulk, OP_WATCH, body);
        let parts = within(self.timeout, asked).await?.map_err(|error| self.failed(error))?;
        Ok(WatchAnswer { parts })
    }

    fn client(&self) -> Client {
        self.current.lock().clone()
    }

    async fn call(
        &self,
        lane: Lane,
        operation: u16,
        body: Bytes,
        repeat: Repeat,
        deadline: Instant,
    ) -> Result<Bytes, ClientError> {
        let mut reconnected = false;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let client = self.client();
            match client.call(lane, operation, body.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.recover(&client, error, repeat, attempt, &mut reconnected, deadline).await?,
            }
        }
    }

    /// Waits or reconnects so that the request can be asked again, or says why it cannot.
    async fn recover(
        &self,
        client: &Client,
        error: CallError,
        repeat: Repeat,
        attempt: u32,
        reconnected: &mut bool,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        match &error {
            CallError::Refused { status, body } => {
                let refusal = refusal_of(*status, body);
                let overloaded = refusal.reason == Reason::Overloaded;
                if overloaded && self.pause(attempt, refusal.retry_after_ms, deadline).await {
                    return Ok(());
                }
                Err(ClientError::Refused(refusal))
            }
            CallError::Full { .. } | CallError::AnswersOpen { .. } if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(LANE_FULL_WAIT_MS)).await;
                Ok(())
            }
            CallError::Lost { .. } if !*reconnected && (repeat == Repeat::Always || error.is_retry_safe()) => {
                *reconnected = true;
                // Another request of this node may have reconnected already; a stream may be lost without its connection.
                if client.lost().is_some() && self.client().lost().is_some() {
                    let fresh = self.target.connect().await?;
                    *self.current.lock() = fresh;
                }
                Ok(())
            }
            _ => Err(self.failed(error)),
        }
    }

    /// Waits before the next attempt; `false` when there is none.
    async fn pause(&self, attempt: u32, retry_after_ms: u32, deadline: Instant) -> bool {
        let backoff_ms = u64::from(retry_after_ms.max(1)).saturating_mul(u64::from(attempt)).min(BACKOFF_MS_MAX);
        let wait = Duration::from_millis(backoff_ms);
        if ATTEMPTS_MAX <= attempt || deadline <= Instant::now() + wait {
            return false;
        }
        tokio::time::sleep(wait).await;
        true
    }

    fn failed(&self, error: CallError) -> ClientError {
        match error {
            CallError::Refused { status, body } => ClientError::Refused(refusal_of(status, &body)),
            CallError::Timeout { limit } => ClientError::Timeout { limit },
            CallError::Lost { detail, .. } => ClientError::Unreachable {
                address: self.address().to_string(),
                detail: format!("connection lost: {detail}"),
            },
            CallError::RequestTooLarge { bytes } => {
                ClientError::Refused(Refusal::limit("request", bytes, FRAME_BYTES_MAX, "bytes"))
            }
            CallError::Full { .. } => ClientError::Refused(Refusal::overloaded("this client's lane")),
            CallError::AnswersOpen { .. } => ClientError::Refused(Refusal::new(Reason::Overloaded, error.to_string())),
            CallError::AnswerTooLarge { .. } => ClientError::AnswerTooLarge,
            CallError::Protocol { .. } => ClientError::Broken(error.to_string()),
        }
    }
}

/// The frames of a question's answer.
pub struct QueryAnswer {
    parts: Answer,
    first: Option<Bytes>,
    limit: Duration,
}

impl QueryAnswer {
    /// The next frame; `None` after the last.
    ///
    /// # Errors
    /// A refusal that came while the answer was on its way, a lost connection, a frame that did not come in time.
    pub async fn next(&mut self) -> Result<Option<QueryFrame>, ClientError> {
        let part = match self.first.take() {
            Some(first) => first,
            None => match within(self.limit, self.parts.next()).await? {
                None => return Ok(None),
                Some(part) => part.map_err(streamed)?,
            },
        };
        unarchive!(QueryFrame, &aligned(part)).map(Some).map_err(|error| ClientError::Broken(error.to_string()))
    }
}

/// What a watcher is told.
pub struct WatchAnswer {
    parts: Answer,
}

impl WatchAnswer {
    /// The next event, however long it takes; `None` when the node drains.
    ///
    /// # Errors
    /// A lost connection, an event that cannot be read.
    pub async fn next(&mut self) -> Result<Option<WatchFrame>, ClientError> {
        let Some(part) = self.parts.next().await else { return Ok(None) };
        let part = aligned(part.map_err(streamed)?);
        unarchive!(WatchFrame, &part).map(Some).map_err(|error| ClientError::Broken(error.to_string()))
    }
}

/// Splits the records at `places` into calls, by number and by bytes.
fn calls<'a>(records: &[SealedVertex], places: &'a [usize]) -> Vec<&'a [usize]> {
    let mut calls = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (nth, &at) in places.iter().enumerate() {
        let record_bytes = records[at].record().bytes().len();
        if from < nth && (PUT_BATCH_MAX <= nth - from || PUT_BYTES_PER_CALL < bytes + record_bytes) {
            calls.push(&places[from..nth]);
            (from, bytes) = (nth, 0);
        }
        bytes += record_bytes;
    }
    if from < places.len() {
        calls.push(&places[from..]);
    }
    calls
}

fn packed(ids: &[VertexId]) -> Bytes {
    let mut body = BytesMut::with_capacity(ids.len() * ID_BYTES);
    ids.iter().for_each(|id| body.extend_from_slice(&id.0));
    body.freeze()
}

/// The same bytes where an archive can be read in place; an answer of several frames was joined at any alignment.
fn aligned(body: Bytes) -> Bytes {
    const ALIGN: usize = 16;
    if body.as_ptr().addr().is_multiple_of(ALIGN) {
        return body;
    }
    let mut copy = AlignedVec::<ALIGN>::with_capacity(body.len());
    copy.extend_from_slice(&body);
    Bytes::from_owner(copy)
}

fn streamed(error: CallError) -> ClientError {
    match error {
        CallError::Refused { status, body } => ClientError::Refused(refusal_of(status, &body)),
        CallError::Timeout { limit } => ClientError::Timeout { limit },
        CallError::AnswersOpen { .. } => ClientError::Refused(Refusal::new(Reason::Overloaded, error.to_string())),
        other => ClientError::Broken(format!("the answer broke off: {other}")),
    }
}

async fn within<F: Future>(limit: Duration, future: F) -> Result<F::Output, ClientError> {
    tokio::time::timeout(limit, future).await.map_err(|_| ClientError::Timeout { limit })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]
mod tests {
    use super::*;
    use crate::dag::vertex::Vertex;

    fn sealed(payload_bytes: usize) -> SealedVertex {
        let vertex = Vertex {
            namespace: "default".to_owned(),
            kind: "test".to_owned(),
            author: None,
            timestamp_ms: 0,
            parents: Vec::new(),
            labels: Default::default(),
            payload: vec![7; payload_bytes],
        };
        SealedVertex::seal(&vertex, None).unwrap()
    }

    #[test]
    fn s1_1_8_puts_are_cut_into_calls_by_number_and_by_bytes() {
        let small = vec![sealed(10); PUT_BATCH_MAX + 1];
        let places: Vec<usize> = (0..small.len()).collect();
        let lengths = |calls: Vec<&[usize]>| calls.iter().map(|call| call.len()).collect::<Vec<_>>();
        assert!(lengths(calls(&small, &places)).iter().all(|&length| length <= PUT_BATCH_MAX));
        assert_eq!(calls(&small, &places).concat(), places);
        let large = vec![sealed(PUT_BYTES_PER_CALL), sealed(1), sealed(1), sealed(PUT_BYTES_PER_CALL)];
        assert_eq!(lengths(calls(&large, &[0, 1, 2, 3])), [1, 2, 1]);
        assert!(calls(&large, &[]).is_empty());
    }

    #[test]
    fn s3_1_15_every_error_of_a_client_has_its_exit_code() {
        let check = |error: ClientError, code| assert_eq!(error.reason().exit_code(), code, "{error}");
        check(AddressError { text: String::new() }.into(), 2);
        check(ClientError::Unreachable { address: String::new(), detail: String::new() }, 3);
        check(Refusal::new(Reason::Conflict, "moved").into(), 4);
        check(Refusal::new(Reason::NotFound, "absent").into(), 5);
        check(ClientError::Untrusted { address: "192.0.2.1:1".parse().unwrap() }, 6);
        check(Refusal::overloaded("inbox").into(), 7);
        check(ClientError::Timeout { limit: Duration::from_secs(1) }, 8);
    }
}
