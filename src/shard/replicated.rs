//! A core's shards when they have several voters: proposals of the primary, and the way to it from any other replica.
//!
//! Promises: any replica takes any request and finds the shard's primary for it; a put is carried on until it is committed or its
//! patience ends, since it repeats safely; a move of a ref is sent on only while it certainly was not carried out.
//! Does not: decide who is primary ([`super::raft`] does), or read the bytes of a stranger: other replicas are authenticated.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use qmesh_net::wire::Lane;
use qmesh_storage::{Entry, Location};
use tokio::time::Instant;

use super::host::Host;
use super::raft::{Applied, Group, Machine, ProposeError};
use super::reads::strange;
use super::replica::{Proposal, Proposed, PutBatch, Replica};
use super::wire::{self, RefAsk, RefTold};
use crate::dag::archive::SealedVertex;
use crate::dag::refs::RefMove;
use crate::error::{Reason, Refusal};
use crate::ids::{LogIndex, NodeId, ShardId};
use crate::limits::PUT_BATCH_MAX;
use crate::router::PeerError;
use crate::router::message::{PutOutcomes, RefOutcome, RefReceipt, Reply};
use crate::router::peers::{OP_SHARD_PUT, OP_SHARD_REF};
use crate::router::wire as rows;

/// How long a replica looks for the primary of a shard before it answers Unavailable: several elections.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);
/// Time between two looks.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How often a replica that waits for another looks whether that still is the primary.
const PRIMARY_LOOK: Duration = Duration::from_millis(50);
/// Time for one try at another node.
const TRY_LIMIT: Duration = Duration::from_secs(4);

type Homeless = Vec<(SealedVertex, Rc<PutBatch>, usize)>;

/// What to do with a request for a shard, now.
pub(super) enum Way {
    /// This replica answers.
    Here,
    /// That node does.
    There(NodeId),
    /// Nobody does yet.
    Nobody,
}

impl Machine for Host {
    fn apply(&self, shard: ShardId, entry: &Entry, locations: &[Location]) -> Applied {
        let mut replicas = self.replicas.borrow_mut();
        let Some(replica) = replicas.get_mut(&shard) else { return Applied::Nothing };
        let mut publish = |item| self.parts.publisher.publish(item);
        let index = LogIndex(entry.head().index);
        let outcomes = replica.apply(index, entry.records(), locations, &mut publish, |token| {
            self.parts.progress.commit(token);
        });
        drop(replicas);
        self.flush_feed();
        Applied::Records(outcomes)
    }
}

impl Host {
    pub(super) fn group(&self, shard: ShardId) -> Option<Rc<Group>> {
        self.groups.borrow().get(&shard).cloned()
    }

    pub(super) fn way(&self, shard: ShardId) -> Way {
        let Some(group) = self.group(shard) else { return Way::Nobody };
        if group.is_ready_primary() {
            return Way::Here;
        }
        match group.primary() {
            Some(node) if node != self.own_node() => Way::There(node),
            _ => Way::Nobody,
        }
    }

    fn own_node(&self) -> NodeId {
        self.parts.consensus.as_ref().map_or(NodeId(0), |consensus| consensus.node)
    }

    async fn ask(&self, node: NodeId, lane: Lane, operation: u16, body: Bytes) -> Result<Bytes, PeerError> {
        match &self.parts.consensus {
            Some(consensus) => consensus.peers.call(node, lane, operation, body, TRY_LIMIT).await,
            None => Err(PeerError::Unreached("this node has no peers".to_owned())),
        }
    }

    /// Asks the primary of a shard, and gives up as soon as this replica hears that it is no longer: a node that died says nothing
    /// for as long as its connection is not missed.
    pub(super) async fn ask_primary(
        &self,
        shard: ShardId,
        node: NodeId,
        lane: Lane,
        operation: u16,
        body: Bytes,
    ) -> Result<Bytes, PeerError> {
        let mut answer = self.ask(node, lane, operation, body).boxed_local();
        loop {
            match tokio::time::timeout(PRIMARY_LOOK, &mut answer).await {
                Ok(answer) => return answer,
                Err(_) if matches!(self.way(shard), Way::There(primary) if primary == node) => {}
                Err(_) => return Err(PeerError::Lost(format!("{node} is no longer the primary of shard {}", shard.0))),
            }
        }
    }

    // Puts.

    pub(super) fn put_replicated(
        self: &Rc<Self>,
        records: Vec<SealedVertex>,
        patience: Option<Instant>,
        reply: Reply<PutOutcomes>,
    ) {
        let batch = PutBatch::new(records.len(), reply, patience);
        let mut away: BTreeMap<ShardId, Homeless> = BTreeMap::new();
        for (place, vertex) in records.into_iter().enumerate() {
            let shard = self.parts.table.shard(&vertex.id().0);
            if let Some(vertex) = self.gather(shard, vertex, &batch, place) {
                away.entry(shard).or_default().push((vertex, batch.clone(), place));
            }
        }
        for (shard, homeless) in away {
            self.rehome(shard, homeless, Duration::ZERO);
        }
    }

    /// Takes a vertex into this replica's next proposal; gives it back when this replica is not the primary.
    fn gather(
        self: &Rc<Self>,
        shard: ShardId,
        vertex: SealedVertex,
        batch: &Rc<PutBatch>,
        place: usize,
    ) -> Option<SealedVertex> {
        let is_here = matches!(self.way(shard), Way::Here);
        let known = self.parts.skeleton.view().contains(&vertex.id());
        let mut replicas = self.replicas.borrow_mut();
        let Some(replica) = replicas.get_mut(&shard) else {
            batch.close(place, Err(Refusal::new(Reason::Internal, "the shard is not on this core")));
            return None;
        };
        if matches!(replica.propose(&vertex, batch, place, known), Proposed::Known) {
            return None;
        }
        if !is_here {
            return Some(vertex);
        }
        match self.admits(replica, vertex.record().bytes().len()) {
            Ok(()) => replica.gather_vertex(vertex, batch.clone(), place),
            Err(refusal) => {
                batch.close(place, Err(refusal));
                return None;
            }
        }
        let falls_due = replica.falls_due();
        drop(replicas);
        if falls_due {
            self.propose_soon(shard);
        }
        None
    }

    fn admits(&self, replica: &Replica, bytes: usize) -> Result<(), Refusal> {
        if self.draining.get() {
            return Err(Refusal::new(Reason::Unavailable, "the node is shutting down"));
        }
        if self.parts.publisher.behind() {
            return Err(Refusal::overloaded("the feed to the skeleton"));
        }
        replica.admits(bytes)?;
        self.has_room(bytes)
    }

    /// Proposes what has gathered once everything that arrived with it has gathered too.
    fn propose_soon(self: &Rc<Self>, shard: ShardId) {
        let host = self.clone();
        (self.spawn)(Box::pin(async move { host.propose_gathered(shard) }));
    }

    fn propose_gathered(self: &Rc<Self>, shard: ShardId) {
        let Some(group) = self.group(shard) else { return };
        loop {
            let next = self.replicas.borrow_mut().get_mut(&shard).and_then(Replica::next_proposal);
            let Some((payload, proposals)) = next else { return };
            let (host, group) = (self.clone(), group.clone());
            (self.spawn)(Box::pin(async move {
                let outcome = group.propose(payload).await;
                host.concluded(shard, proposals, outcome);
                host.propose_gathered(shard);
            }));
        }
    }

    fn concluded(
        self: &Rc<Self>,
        shard: ShardId,
        proposals: Vec<Proposal>,
        outcome: Result<(LogIndex, Applied), ProposeError>,
    ) {
        let mut replicas = self.replicas.borrow_mut();
        let Some(replica) = replicas.get_mut(&shard) else { return };
        match outcome {
            Ok((index, Applied::Records(outcomes))) => {
                let next_moves = replica.settle(index, proposals, &outcomes);
                drop(replicas);
                for (change, reply) in next_moves {
                    self.ref_set_replicated(change, true, reply);
                }
            }
            Ok((index, applied)) => panic!("entry {index:?} of a shard was applied to {applied:?}"),
            Err(_) => {
                let mut homeless = replica.dissolve(proposals);
                homeless.extend(replica.dissolve_waiting());
                drop(replicas);
                // Not at once: a primary whose lease is over refuses at once, and still looks like one.
                self.rehome(shard, homeless, LOOK_AGAIN);
            }
        }
    }

    /// Finds the primary for vertices that this replica could not propose, beginning after `pause`.
    fn rehome(self: &Rc<Self>, shard: ShardId, homeless: Homeless, pause: Duration) {
        let mut patient = Vec::new();
        for (vertex, batch, place) in homeless {
            match batch.patience {
                Some(until) if Instant::now() < until => patient.push((vertex, batch, place)),
                _ => batch.close(place, Err(no_primary(shard))),
            }
        }
        if patient.is_empty() {
            return;
        }
        let host = self.clone();
        (self.spawn)(Box::pin(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            host.put_at_primary(shard, patient).await;
        }));
    }

    async fn put_at_primary(self: Rc<Self>, shard: ShardId, mut homeless: Homeless) {
        loop {
            match self.way(shard) {
                Way::Here => {
                    let mut left = Vec::new();
                    for (vertex, batch, place) in homeless {
                        if let Some(vertex) = self.gather(shard, vertex, &batch, place) {
                            left.push((vertex, batch, place));
                        }
                    }
                    homeless = left;
                }
                Way::There(node) => homeless = self.put_there(shard, node, homeless).await,
                Way::Nobody => {}
            }
            let now = Instant::now();
            let (patient, over): (Homeless, Homeless) =
                homeless.into_iter().partition(|(_, batch, _)| batch.patience.is_some_and(|until| now < until));
            over.into_iter().for_each(|(_, batch, place)| batch.close(place, Err(no_primary(shard))));
            if patient.is_empty() {
                return;
            }
            homeless = patient;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Puts at another node, in requests of at most a frame; returns what it did not take.
    async fn put_there(&self, shard: ShardId, node: NodeId, homeless: Homeless) -> Homeless {
        let mut left = Vec::new();
        let mut homeless = homeless.into_iter().peekable();
        while homeless.peek().is_some() {
            let (mut body, mut sent) = (wire::head(shard, 0, 0), Vec::new());
            while let Some(next) = homeless.next_if(|(vertex, ..)| {
                let bytes = vertex.record().bytes().len();
                sent.is_empty()
                    || (body.len() + bytes <= qmesh_net::wire::FRAME_BYTES_MAX && sent.len() < PUT_BATCH_MAX)
            }) {
                body.extend_from_slice(next.0.record().bytes());
                sent.push(next);
            }
            let answer = self.ask_primary(shard, node, Lane::Put, OP_SHARD_PUT, body.into()).await;
            let outcomes = answer.ok().and_then(|answer| rows::put_rows(&answer, sent.len()).ok());
            match outcomes {
                None => left.extend(sent),
                Some(outcomes) => {
                    for ((vertex, batch, place), outcome) in sent.into_iter().zip(outcomes) {
                        match outcome {
                            Err(refusal) if refusal.reason == Reason::Unavailable => left.push((vertex, batch, place)),
                            outcome => batch.close(place, outcome),
                        }
                    }
                }
            }
        }
        left
    }

    // Moves of refs.

    pub(super) fn ref_set_replicated(self: &Rc<Self>, change: RefMove, forwards: bool, reply: Reply<RefOutcome>) {
        let host = self.clone();
        (self.spawn)(Box::pin(async move {
            let shard = host.parts.table.shard(&change.name.key());
            let until = Instant::now() + PATIENCE;
            loop {
                match host.way(shard) {
                    Way::Here => {
                        let Some(group) = host.group(shard) else { break };
                        // A refusal says where the ref is, so it is a read: it waits for a majority as a read does.
                        if group.confirm().await.is_ok() {
                            return host.decide_here(shard, change, reply);
                        }
                    }
                    Way::There(node) if forwards => {
                        let ask = RefAsk::Set(Box::new(wire::Move::of(&change)));
                        if let Ok(outcome) = host.set_there(shard, node, &ask).await {
                            return drop(reply.send(outcome));
                        }
                    }
                    Way::There(_) => break,
                    Way::Nobody => {}
                }
                if until <= Instant::now() {
                    break;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            drop(reply.send(Err(no_primary(shard))));
        }));
    }

    async fn set_there(&self, shard: ShardId, node: NodeId, ask: &RefAsk) -> Result<RefOutcome, NotSeen> {
        let body = match wire::ref_request(shard, ask) {
            Ok(body) => body,
            Err(refusal) => return Ok(Err(refusal)),
        };
        Ok(match self.ask_primary(shard, node, Lane::Put, OP_SHARD_REF, body).await {
            Ok(answer) => wire::ref_told(&answer).and_then(|told| match told {
                RefTold::Set { place, index } => {
                    Ok(RefReceipt { position: place.position(), shard, index: LogIndex(index) })
                }
                _ => Err(strange()),
            }),
            Err(PeerError::Refused(refusal)) if refusal.reason == Reason::Unavailable => return Err(NotSeen),
            Err(PeerError::Refused(refusal)) => Err(refusal),
            Err(PeerError::Unreached(_)) => return Err(NotSeen),
            Err(PeerError::Lost(why)) => {
                let detail = format!("{why}: the ref may or may not have been moved; read it before you try again");
                Err(Refusal::new(Reason::OutcomeUnknown, detail))
            }
        })
    }

    fn decide_here(self: &Rc<Self>, shard: ShardId, change: RefMove, reply: Reply<RefOutcome>) {
        let mut replicas = self.replicas.borrow_mut();
        let Some(replica) = replicas.get_mut(&shard) else { return };
        let Some((record, sealed, reply)) = replica.decide_ref(change, reply) else { return };
        match self.admits(replica, sealed.bytes().len()) {
            Ok(()) => replica.gather_ref(record, sealed, reply),
            Err(refusal) => return drop(reply.send(Err(refusal))),
        }
        let falls_due = replica.falls_due();
        drop(replicas);
        if falls_due {
            self.propose_soon(shard);
        }
    }
}

/// The other node certainly did not carry it out.
struct NotSeen;

pub(super) fn no_group(shard: ShardId) -> Refusal {
    let detail = format!("this node takes no part in group {}; it is alone, or still starting", shard.0);
    Refusal::new(Reason::Unavailable, detail)
}

pub(super) fn no_primary(shard: ShardId) -> Refusal {
    let detail = format!("shard {} has no primary that answers; is a majority of its voters up?", shard.0);
    Refusal::new(Reason::Unavailable, detail)
}
