//! Reads of a shard with several voters: what this replica may answer by itself, and the way to the primary for everything else.
//!
//! Promises: a vertex that is here is answered here, its hash proves it; "not here" and the place of a ref are answered by a primary
//! that asked a majority whether it still is one, unless the caller takes an older answer; an older answer says how old it may be.
//! Does not: measure that age ([`super::raft`] does), or read the bytes of a stranger: other replicas are authenticated.

use std::collections::BTreeMap;
use std::rc::Rc;

use qmesh_net::wire::Lane;
use qmesh_storage::Record;
use tokio::time::Instant;

use super::host::Host;
use super::replica::Replica;
use super::replicated::{LOOK_AGAIN, PATIENCE, Way, no_primary};
use super::wire::{self, RefAsk, RefTold};
use crate::dag::archive::SealedVertex;
use crate::dag::refs::{LogEntry, Position, RefName};
use crate::error::{Reason, Refusal};
use crate::ids::{ShardId, Token, VertexId};
use crate::limits::{PAGE_MAX, REFLOG_ENTRIES_MAX};
use crate::router::PeerError;
use crate::router::consistency::{AnsweredBy, Consistency, Freshness};
use crate::router::message::{Read, Reply};
use crate::router::peers::{OP_SHARD_GET, OP_SHARD_REF};

impl Host {
    // Vertices.

    /// The truth about ids that this replica does not have: vertices of those that are somewhere, in the order of `ids`.
    pub(super) async fn get_at_primary(
        self: &Rc<Self>,
        shard: ShardId,
        ids: Vec<VertexId>,
        forwards: bool,
    ) -> Result<Vec<Option<SealedVertex>>, Refusal> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.way(shard) {
                Way::Here => {
                    let group = self.group(shard).ok_or_else(|| no_primary(shard))?;
                    if group.confirm().await.is_ok() {
                        let mut found = Vec::with_capacity(ids.len());
                        for &id in &ids {
                            let candidates = self.candidates(shard, &id);
                            found.push(self.read(id, candidates).await?);
                        }
                        return Ok(found);
                    }
                }
                Way::There(node) if forwards => {
                    let mut body = wire::head(shard, 0, ids.len() * 32);
                    ids.iter().for_each(|id| body.extend_from_slice(&id.0));
                    if let Ok(answer) = self.ask_primary(shard, node, Lane::PointRead, OP_SHARD_GET, body.into()).await
                    {
                        let records = Record::parse_all(&answer, ids.len())
                            .map_err(|error| Refusal::new(Reason::Internal, format!("a peer's answer: {error}")))?;
                        let mut found: BTreeMap<VertexId, SealedVertex> = BTreeMap::new();
                        for record in records {
                            let vertex = SealedVertex::trusted(record);
                            found.insert(vertex.id(), vertex);
                        }
                        return Ok(ids.iter().map(|id| found.get(id).cloned()).collect());
                    }
                }
                Way::There(_) => return Err(no_primary(shard)),
                Way::Nobody => {}
            }
            if until <= Instant::now() {
                return Err(no_primary(shard));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether ids that this replica does not have are anywhere.
    pub(super) async fn exists_at_primary(
        self: &Rc<Self>,
        shard: ShardId,
        id: VertexId,
        forwards: bool,
    ) -> Result<bool, Refusal> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.way(shard) {
                Way::Here => {
                    let group = self.group(shard).ok_or_else(|| no_primary(shard))?;
                    if group.confirm().await.is_ok() {
                        return Ok(self.exists_here(shard, id).await);
                    }
                }
                Way::There(node) if forwards => {
                    let mut body = wire::head(shard, wire::FLAG_PRESENCE, 32);
                    body.extend_from_slice(&id.0);
                    if let Ok(answer) = self.ask_primary(shard, node, Lane::PointRead, OP_SHARD_GET, body.into()).await
                    {
                        return Ok(answer.first() == Some(&1));
                    }
                }
                Way::There(_) => return Err(no_primary(shard)),
                Way::Nobody => {}
            }
            if until <= Instant::now() {
                return Err(no_primary(shard));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    // Refs.

    /// Who answers when this replica does.
    pub(super) fn answers_here(&self, shard: ShardId) -> AnsweredBy {
        match self.group(shard) {
            Some(group) if !group.is_ready_primary() => AnsweredBy::Replica,
            _ => AnsweredBy::Primary,
        }
    }

    /// How new an answer of this replica is, when it is new enough.
    fn new_enough(&self, shard: ShardId, consistency: Consistency) -> Option<Freshness> {
        if consistency == Consistency::Linearizable {
            return None;
        }
        let group = self.group(shard)?;
        let answered = self.answers_here(shard);
        let (index, staleness_ms) = group.staleness_ms();
        let freshness = Freshness { answered, staleness_ms, applied: Some(Token { shard, index }) };
        freshness.suffices(consistency).then_some(freshness)
    }

    /// Reads a vertex of which "not here" may be as old as `consistency` says.
    pub(super) fn get_with(
        self: &Rc<Self>,
        id: VertexId,
        consistency: Consistency,
        reply: Reply<Read<Option<SealedVertex>>>,
    ) {
        let host = self.clone();
        (self.spawn)(Box::pin(async move {
            let shard = host.parts.table.shard(&id.0);
            // Asked before the vertex is looked for: it may be applied in between, and no sooner than this.
            let freshness = host.new_enough(shard, consistency);
            if let Some(freshness) = freshness
                && let Ok(found) = host.read(id, host.candidates(shard, &id)).await
            {
                host.count_read(freshness.answered);
                return drop(reply.send(Ok((found, freshness))));
            }
            let found = host.read_or_ask(id, host.candidates(shard, &id)).await;
            drop(reply.send(found.map(|found| (found, Freshness::NOW))));
        }));
    }

    /// Asks about refs, this replica when it is new enough.
    async fn about_refs(
        self: &Rc<Self>,
        shard: ShardId,
        ask: RefAsk,
        consistency: Consistency,
        here: impl Fn(&Replica) -> RefTold,
    ) -> Read<RefTold> {
        if let Some(freshness) = self.new_enough(shard, consistency)
            && let Some(replica) = self.replicas.borrow().get(&shard)
        {
            self.count_read(freshness.answered);
            return Ok((here(replica), freshness));
        }
        let told = self.refs_at_primary(shard, ask, true, here).await?;
        self.count_read(AnsweredBy::Primary);
        Ok((told, Freshness::NOW))
    }

    /// Asks about refs where the truth is; `here` answers at a primary that was confirmed.
    pub(super) async fn refs_at_primary(
        self: &Rc<Self>,
        shard: ShardId,
        ask: RefAsk,
        forwards: bool,
        here: impl Fn(&Replica) -> RefTold,
    ) -> Result<RefTold, Refusal> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.way(shard) {
                Way::Here => {
                    let group = self.group(shard).ok_or_else(|| no_primary(shard))?;
                    if group.confirm().await.is_ok()
                        && let Some(replica) = self.replicas.borrow().get(&shard)
                    {
                        return Ok(here(replica));
                    }
                }
                Way::There(node) if forwards => {
                    let body = wire::ref_request(shard, &ask)?;
                    match self.ask_primary(shard, node, Lane::PointRead, OP_SHARD_REF, body).await {
                        Ok(answer) => return wire::ref_told(&answer),
                        Err(PeerError::Refused(refusal)) if refusal.reason != Reason::Unavailable => {
                            return Err(refusal);
                        }
                        Err(_) => {}
                    }
                }
                Way::There(_) => return Err(no_primary(shard)),
                Way::Nobody => {}
            }
            if until <= Instant::now() {
                return Err(no_primary(shard));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    pub(super) fn ref_get_replicated(
        self: &Rc<Self>,
        name: RefName,
        consistency: Consistency,
        reply: Reply<Read<Option<Position>>>,
    ) {
        let host = self.clone();
        (self.spawn)(Box::pin(async move {
            let shard = host.parts.table.shard(&name.key());
            let ask = RefAsk::Get { name: name.to_string() };
            let told = host.about_refs(shard, ask, consistency, |replica| ref_at(replica, &name)).await;
            drop(reply.send(told.and_then(|(told, freshness)| match told {
                RefTold::At(place) => Ok((place.map(wire::Place::position), freshness)),
                _ => Err(strange()),
            })));
        }));
    }

    pub(super) fn ref_list_replicated(
        self: &Rc<Self>,
        shard: ShardId,
        (prefix, after, limit): (String, Option<RefName>, usize),
        consistency: Consistency,
        reply: Reply<Read<Vec<(RefName, Position)>>>,
    ) {
        let host = self.clone();
        (self.spawn)(Box::pin(async move {
            let (limit, text) = (limit.min(PAGE_MAX), after.as_ref().map(RefName::to_string));
            let ask = RefAsk::List { prefix: prefix.clone(), after: text, limit: limit as u32 };
            let here = |replica: &Replica| ref_list(replica, &prefix, after.as_ref(), limit);
            let told = host.about_refs(shard, ask, consistency, here).await;
            drop(reply.send(told.and_then(|(told, freshness)| match told {
                RefTold::List(rows) => {
                    let rows = rows.into_iter().map(|(name, place)| Ok((wire::name(&name)?, place.position())));
                    Ok((rows.collect::<Result<_, Refusal>>()?, freshness))
                }
                _ => Err(strange()),
            })));
        }));
    }

    pub(super) fn ref_log_replicated(
        self: &Rc<Self>,
        name: RefName,
        limit: usize,
        consistency: Consistency,
        reply: Reply<Read<Option<Vec<LogEntry>>>>,
    ) {
        let host = self.clone();
        (self.spawn)(Box::pin(async move {
            let shard = host.parts.table.shard(&name.key());
            let limit = limit.min(REFLOG_ENTRIES_MAX);
            let ask = RefAsk::Log { name: name.to_string(), limit: limit as u32 };
            let told = host.about_refs(shard, ask, consistency, |replica| ref_log(replica, &name, limit)).await;
            drop(reply.send(told.and_then(|(told, freshness)| match told {
                RefTold::Log(rows) => {
                    Ok((rows.map(|rows| rows.into_iter().map(wire::Moved::entry).collect()), freshness))
                }
                _ => Err(strange()),
            })));
        }));
    }
}

pub(super) fn strange() -> Refusal {
    Refusal::new(Reason::Internal, "a peer answered another question about refs")
}

pub(super) fn ref_at(replica: &Replica, name: &RefName) -> RefTold {
    let position = replica.refs().state(name).map(|state| state.position).filter(|position| position.at.is_some());
    RefTold::At(position.map(wire::Place::of))
}

pub(super) fn ref_list(replica: &Replica, prefix: &str, after: Option<&RefName>, limit: usize) -> RefTold {
    let list = replica.refs().list(prefix, after, limit);
    RefTold::List(list.map(|(name, _, state)| (name.to_string(), wire::Place::of(state.position))).collect())
}

pub(super) fn ref_log(replica: &Replica, name: &RefName, limit: usize) -> RefTold {
    let refs = replica.refs();
    RefTold::Log(refs.state(name).map(|_| refs.log(name, limit).map(wire::Moved::of).collect()))
}
