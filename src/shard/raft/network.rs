//! The asking side of consensus: openraft's requests to another replica.
//!
//! Promises: append requests to one replica are pipelined on one long-lived stream, at most [`super::APPENDS_IN_FLIGHT_MAX`] wait.
//! Does not: send snapshots. The log is the store and is never cut short, so a replica that is behind is sent entries.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::network::v2::RaftNetworkV2;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, RaftNetworkFactory};
use qmesh_net::wire::Lane;

use super::office::Office;
use super::{APPENDS_IN_FLIGHT_MAX, Types, wire};
use crate::ids::{NodeId, ShardId};
use crate::router::Peers;
use crate::router::peers::{OP_RAFT_APPEND, OP_RAFT_PRE_VOTE, OP_RAFT_TRANSFER, OP_RAFT_VOTE, PeerError};

type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + 'a>>;
type BoxStream<'a, T> = std::pin::Pin<Box<dyn Stream<Item = T> + 'a>>;
type TransferResponse = Result<(), openraft::raft::TransferLeaderError<Types>>;

/// Time for an answer to entries: a replica whose disk is slow is not asked again while it is still at work.
const APPEND_LIMIT: Duration = Duration::from_secs(2);

/// The replicas of a group, as openraft asks for them.
pub(super) struct Network {
    pub(super) shard: ShardId,
    pub(super) peers: Rc<dyn Peers>,
    pub(super) office: Rc<Office>,
}

/// One of them.
pub(super) struct Replica {
    shard: ShardId,
    peers: Rc<dyn Peers>,
    office: Rc<Office>,
    node: NodeId,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Replica;

    async fn new_client(&mut self, node: u64, (): &()) -> Replica {
        Replica { shard: self.shard, peers: self.peers.clone(), office: self.office.clone(), node: NodeId(node) }
    }
}

impl Replica {
    fn ask(&self, lane: Lane, operation: u16, body: Bytes, limit: Duration) -> crate::router::PeerAnswer {
        self.peers.call(self.node, lane, operation, body, limit)
    }

    /// The bytes of an append request, with the stamp of the replica that it goes to.
    fn append_body(&self, request: &AppendEntriesRequest<Types>) -> Bytes {
        wire::append_request(self.shard, request, self.office.echo(self.node, request))
    }

    fn parse_append_answer(&self, body: &[u8]) -> Result<AppendEntriesResponse<Types>, wire::Malformed> {
        let answer = wire::parse_append_answer(body)?;
        self.office.pulse.borrow_mut().heard(self.node.0, wire::stamp(body)?);
        Ok(answer)
    }
}

fn unreachable(error: &(impl std::error::Error + 'static)) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn answered<T>(
    answer: Result<Bytes, PeerError>,
    parse: impl FnOnce(&[u8]) -> Result<T, wire::Malformed>,
) -> Result<T, RPCError<Types>> {
    let body = answer.map_err(|error| unreachable(&error))?;
    parse(&body).map_err(|error| unreachable(&error))
}

/// A sign of life that comes late says nothing; entries that come late are still wanted.
fn limit(request: &AppendEntriesRequest<Types>, option: &RPCOption) -> Duration {
    if request.entries.is_empty() { option.hard_ttl() } else { option.hard_ttl().max(APPEND_LIMIT) }
}

/// The lane of the next request of a stream. Entries go with the writes; a sign of life must not wait behind them. A request
/// without entries that follows some of the same stream builds on them, and must not overtake them.
fn lane(request: &AppendEntriesRequest<Types>, follows_entries: &mut bool) -> Lane {
    *follows_entries |= !request.entries.is_empty();
    if *follows_entries { Lane::Put } else { Lane::Control }
}

impl RaftNetworkV2<Types> for Replica {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let body = self.append_body(&request);
        let answer = self.ask(lane(&request, &mut false), OP_RAFT_APPEND, body, limit(&request, &option)).await;
        answered(answer, |body| self.parse_append_answer(body))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Unpin + 'static,
    {
        let replica = &*self;
        let mut follows_entries = false;
        let answers = input
            .map(move |request| {
                let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
                let previous = request.prev_log_id;
                let body = replica.append_body(&request);
                let answer =
                    replica.ask(lane(&request, &mut follows_entries), OP_RAFT_APPEND, body, limit(&request, &option));
                async move { (previous, last, answered(answer.await, |body| replica.parse_append_answer(body))) }
            })
            .buffered(APPENDS_IN_FLIGHT_MAX);
        // What comes behind the first that was not taken whole is void: openraft begins again from what matched.
        let until_void = answers.scan(false, |is_over, (previous, last, answer)| {
            if *is_over {
                return std::future::ready(None);
            }
            let (result, goes_on) = match answer {
                Err(error) => (Err(error), false),
                Ok(AppendEntriesResponse::PartialSuccess(matched)) => (Ok(Ok(matched)), matched == last),
                Ok(answer) => {
                    let result = answer.into_stream_result(previous, last);
                    let goes_on = result.is_ok();
                    (Ok(result), goes_on)
                }
            };
            *is_over = !goes_on;
            std::future::ready(Some(result))
        });
        Box::pin(std::future::ready(Ok(Box::pin(until_void) as BoxStream<'s, _>)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let body = wire::vote_request(self.shard, &request);
        answered(self.ask(Lane::Control, OP_RAFT_VOTE, body, option.hard_ttl()).await, wire::parse_vote_answer)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let body = wire::vote_request(self.shard, &request);
        answered(self.ask(Lane::Control, OP_RAFT_PRE_VOTE, body, option.hard_ttl()).await, wire::parse_vote_answer)
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<Types>,
        _snapshot: SnapshotOf<Types, ()>,
        _cancel: impl Future<Output = ReplicationClosed> + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let never = AnyError::error("the log is never cut short, so there is no snapshot to send");
        Err(StreamingError::Unreachable(Unreachable::new(&never)))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferResponse, RPCError<Types>> {
        let body = wire::transfer_request(self.shard, &request);
        let answer = self.ask(Lane::Control, OP_RAFT_TRANSFER, body, option.hard_ttl()).await;
        match answered(answer, wire::parse_transfer_answer)? {
            0 => Ok(Ok(())),
            _ => Err(unreachable(&AnyError::error("the other replica is not ready to take the office"))),
        }
    }
}
