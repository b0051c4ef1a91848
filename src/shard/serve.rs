//! What other nodes ask of a core's shards, and the changes of a group that are asked of its primary.
//!
//! Promises: a request that another replica has sent on is answered here or refused, never sent on again; any bytes are read without
//! a panic. Does not: check who asks; the door of the mesh has.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use qmesh_storage::Record;

use super::host::Host;
use super::reads::{ref_at, ref_list, ref_log};
use super::replica::Replica;
use super::replicated::{no_group, no_primary};
use super::wire::{self, RefAsk, RefTold};
use crate::dag::archive::SealedVertex;
use crate::error::{Reason, Refusal};
use crate::ids::{NodeId, ShardId};
use crate::limits::{GET_BATCH_MAX, PAGE_MAX, PUT_BATCH_MAX, REFLOG_ENTRIES_MAX};
use crate::router::message::{PutReceipt, Reply};
use crate::router::peers::{OP_GROUP_CHANGE, OP_GROUP_VIEW, OP_SHARD_GET, OP_SHARD_PUT, OP_SHARD_REF};
use crate::router::wire as rows;

impl Host {
    /// Answers what another node asks of a shard of this core.
    pub(super) fn mesh(
        self: &Rc<Self>,
        operation: u16,
        shard: ShardId,
        body: Bytes,
        reply: Reply<Result<Bytes, Refusal>>,
    ) {
        let host = self.clone();
        (self.spawn)(Box::pin(async move {
            let answer = host.serve(operation, shard, body).await;
            drop(reply.send(answer));
        }));
    }

    async fn serve(self: &Rc<Self>, operation: u16, shard: ShardId, body: Bytes) -> Result<Bytes, Refusal> {
        match operation {
            OP_SHARD_PUT => self.serve_put(body).await,
            OP_SHARD_GET => self.serve_get(shard, body).await,
            OP_SHARD_REF => self.serve_ref(shard, body).await,
            OP_GROUP_VIEW => {
                let group = self.group(shard).ok_or_else(|| no_group(shard))?;
                let view = serde_json::to_vec(&group.view());
                view.map(Bytes::from).map_err(|error| Refusal::new(Reason::Internal, error.to_string()))
            }
            OP_GROUP_CHANGE => self.change_group(shard, &body).await.map(|()| Bytes::new()),
            _ if shard == ShardId::CONTROL && self.parts.steward(operation).is_some() => {
                match self.parts.steward(operation) {
                    Some(steward) => steward.clone().serve(operation, body).await,
                    None => Err(no_primary(shard)),
                }
            }
            _ => {
                let group = self.group(shard).ok_or_else(|| no_group(shard))?;
                group.serve(operation, &body).await
            }
        }
    }

    async fn serve_put(self: &Rc<Self>, body: Bytes) -> Result<Bytes, Refusal> {
        let (_, records) = wire::split(&body)?;
        let records = Record::parse_all(&records, PUT_BATCH_MAX)
            .map_err(|error| Refusal::bad_request(format!("a put of another node: {error}")))?;
        let vertices: Vec<SealedVertex> = records.into_iter().map(SealedVertex::trusted).collect();
        let (reply, outcomes) = tokio::sync::oneshot::channel();
        self.put_replicated(vertices, None, reply);
        let outcomes = outcomes.await.map_err(|_| Refusal::new(Reason::Unavailable, "the put was not answered"))?;
        Ok(put_answer(&outcomes))
    }

    async fn serve_get(self: &Rc<Self>, shard: ShardId, body: Bytes) -> Result<Bytes, Refusal> {
        let (flags, ids) = wire::split(&body)?;
        let ids = rows::ids(&ids)?;
        if GET_BATCH_MAX < ids.len() {
            return Err(Refusal::limit("ids of one get", ids.len(), GET_BATCH_MAX, "ids"));
        }
        let mut answer = BytesMut::new();
        if flags & wire::FLAG_PRESENCE != 0 {
            for id in ids {
                answer.extend_from_slice(&[u8::from(self.exists_at_primary(shard, id, false).await?)]);
            }
        } else {
            for vertex in self.get_at_primary(shard, ids, false).await?.into_iter().flatten() {
                answer.extend_from_slice(vertex.record().bytes());
            }
        }
        Ok(answer.freeze())
    }

    async fn serve_ref(self: &Rc<Self>, shard: ShardId, body: Bytes) -> Result<Bytes, Refusal> {
        let (_, archive) = wire::split(&body)?;
        let ask = wire::ref_ask(&archive)?;
        let told = match ask.clone() {
            RefAsk::Set(change) => {
                let (reply, outcome) = tokio::sync::oneshot::channel();
                self.ref_set_replicated(change.wanted()?, false, reply);
                let receipt = outcome.await.map_err(|_| no_primary(shard))??;
                RefTold::Set { place: wire::Place::of(receipt.position), index: receipt.index.0 }
            }
            RefAsk::Get { name } => {
                let name = wire::name(&name)?;
                self.refs_at_primary(shard, ask, false, |replica| ref_at(replica, &name)).await?
            }
            RefAsk::List { prefix, after, limit } => {
                let after = after.as_deref().map(wire::name).transpose()?;
                let limit = (limit as usize).min(PAGE_MAX);
                let here = |replica: &Replica| ref_list(replica, &prefix, after.as_ref(), limit);
                self.refs_at_primary(shard, ask, false, here).await?
            }
            RefAsk::Log { name, limit } => {
                let name = wire::name(&name)?;
                let limit = (limit as usize).min(REFLOG_ENTRIES_MAX);
                self.refs_at_primary(shard, ask, false, |replica| ref_log(replica, &name, limit)).await?
            }
        };
        wire::ref_answer(&told)
    }

    async fn change_group(&self, shard: ShardId, body: &Bytes) -> Result<(), Refusal> {
        let (_, json) = wire::split(body)?;
        let change: GroupChange = serde_json::from_slice(&json)
            .map_err(|error| Refusal::bad_request(format!("a group's change: {error}")))?;
        let group = self.group(shard).ok_or_else(|| no_primary(shard))?;
        let done = match change {
            GroupChange::AddLearner { node } => group.add_learner(NodeId(node)).await,
            GroupChange::SetVoters { voters, keep } => group.set_voters(voters, keep).await,
            GroupChange::RemoveLearner { node } => group.remove_learner(NodeId(node)).await,
            GroupChange::Transfer { to } => group.transfer(NodeId(to)).await,
        };
        done.map_err(|error| Refusal::new(Reason::Unavailable, format!("shard {}: {error}", shard.0)))
    }
}

/// A change of a group's members or office, asked of its primary.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub enum GroupChange {
    /// A replica that takes entries and does not vote.
    AddLearner {
        /// Its node.
        node: u64,
    },
    /// Exactly these vote.
    SetVoters {
        /// Their nodes.
        voters: std::collections::BTreeSet<u64>,
        /// Those that leave stay as learners.
        keep: bool,
    },
    /// A learner leaves.
    RemoveLearner {
        /// Its node.
        node: u64,
    },
    /// The office goes to another voter.
    Transfer {
        /// Its node.
        to: u64,
    },
}

impl GroupChange {
    /// The body that asks for it.
    pub fn request(&self, shard: ShardId) -> Bytes {
        let json = serde_json::to_vec(self).unwrap_or_default();
        let mut body = wire::head(shard, 0, json.len());
        body.extend_from_slice(&json);
        body.into()
    }
}

/// The head of a request of another room: version, shard, flags.
pub fn request_head(shard: ShardId, flags: u32) -> Vec<u8> {
    wire::head(shard, flags, 0)
}

fn put_answer(outcomes: &[Result<PutReceipt, Refusal>]) -> Bytes {
    let mut answer = BytesMut::new();
    outcomes.iter().for_each(|outcome| rows::put_row(&mut answer, outcome));
    if let Some(refusal) = outcomes.iter().find_map(|outcome| outcome.as_ref().err()) {
        answer.extend_from_slice(refusal.detail.as_bytes());
    }
    answer.freeze()
}
