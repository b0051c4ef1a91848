//! The hall: from a key to the core that owns it, and from a question about the graph to the skeleton.
//!
//! Promises: a request crosses at most one inbox each way; a full inbox is answered Overloaded; a put whose parents are not
//! here is refused before anything is written, and so is one that would wait for them without memory to wait in; a graph question sees everything this node had committed when it was asked.
//! Does not: know how a shard stores anything.

mod admission;
pub mod consistency;
pub mod message;
pub mod peers;
pub mod slots;
pub mod wire;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{broadcast, oneshot, watch};

use crate::dag::archive::SealedVertex;
use crate::dag::query::{Answer, Machine, Query};
use crate::dag::ref_record::RefRecord;
use crate::dag::refs::{LogEntry, Position, RefMove, RefName};
use crate::dag::skeleton::{Number, Skeleton};
use crate::dag::walk::{Scratch, Step};
use crate::error::{Reason, Refusal};
use crate::feed::Progress;
use crate::ids::{LogIndex, ShardId, Token, VertexId};
use crate::limits::{GET_BATCH_MAX, PUT_BATCH_MAX, WALK_EDGES_PER_SLICE};
use crate::membership::driver::Seen;
use crate::runtime::{Full, Sender};
use consistency::{Consistency, Freshness};
use message::{CoreStats, Message, PutReceipt, Read, RefReceipt, Reply};
use slots::SlotTable;

pub use peers::{PeerAnswer, PeerError, Peers};

/// What every core knows of the node.
pub struct Shared {
    /// Key → slot → shard → core.
    pub table: SlotTable,
    /// The inbox of each core.
    pub inboxes: Vec<Sender<Message>>,
    /// The shape of the DAG.
    pub skeleton: Arc<Skeleton>,
    /// How far shards are committed and followed.
    pub progress: Arc<Progress>,
    /// Moves of refs, for watchers.
    pub ref_events: broadcast::Sender<Arc<RefRecord>>,
    /// Random at each start: cursors of another start are refused.
    pub boot: u64,
    /// What was asked about the graph so far.
    pub questions: Questions,
    /// Memory of vertices that wait for parents, above which no further one is taken, in bytes.
    pub staged_bytes_max: u64,
    /// Memory that is reserved for vertices on their way which may have to wait, in bytes.
    pub staging_bytes: AtomicU64,
    /// How the members of the cluster are, as the rumours have it.
    pub members: watch::Receiver<Arc<Seen>>,
}

/// Questions about the graph since the node started, over all cores.
#[derive(Debug, Default)]
pub struct Questions {
    count: AtomicU64,
    walk_ns: AtomicU64,
}

impl Questions {
    /// How many were answered.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Time that cores spent in walks for them, in nanoseconds: look-ups and steps, without waiting, sending or printing.
    pub fn walk_ns(&self) -> u64 {
        self.walk_ns.load(Ordering::Relaxed)
    }

    fn walked<T>(&self, walk: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = walk();
        self.walk_ns.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        done
    }
}

/// What a put may ask beside its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// Accept vertices whose parents are not here: imports and bridges. They are stored and readable, and join the graph
    /// when their parents have come.
    pub allow_missing_parents: bool,
}

/// The router of one core. Cheap to clone; never leaves its core.
#[derive(Clone)]
pub struct Router(Rc<Inner>);

struct Inner {
    core: usize,
    shared: Arc<Shared>,
    /// The own core's host, reached without an inbox.
    local: Box<dyn Fn(Message)>,
    /// Working memory of walks that are over.
    scratch: RefCell<Vec<Scratch>>,
}

/// Working memories of walks that a core keeps for the next ones; each may grow to 16 bytes a vertex.
const SCRATCHES_IDLE_MAX: usize = 2;

impl Router {
    /// The router of core `core`, whose own shards are reached by `local`.
    pub fn new(core: usize, shared: Arc<Shared>, local: Box<dyn Fn(Message)>) -> Self {
        Self(Rc::new(Inner { core, shared, local, scratch: RefCell::default() }))
    }

    /// The shape of the DAG.
    pub fn skeleton(&self) -> &Skeleton {
        &self.0.shared.skeleton
    }

    /// Key → slot → shard.
    pub fn table(&self) -> &SlotTable {
        &self.0.shared.table
    }

    /// How far shards are committed and followed.
    pub fn progress(&self) -> &Progress {
        &self.0.shared.progress
    }

    /// How the members of the cluster are, as the rumours have it.
    pub fn members(&self) -> Arc<Seen> {
        self.0.shared.members.borrow().clone()
    }

    /// The number of this start, which cursors carry.
    pub fn boot(&self) -> u64 {
        self.0.shared.boot
    }

    /// The number of the core this router is on.
    pub fn core(&self) -> usize {
        self.0.core
    }

    /// A watcher of ref moves. It lags at most [`crate::feed::REF_EVENTS_MAX`] moves.
    pub fn watch_refs(&self) -> broadcast::Receiver<Arc<RefRecord>> {
        self.0.shared.ref_events.subscribe()
    }

    /// Makes verified vertices durable. `each` is told the outcome of every record by its position, as cores answer.
    ///
    /// Parents must exist, or stand earlier in the same request, unless `options` say otherwise; then there must be memory to
    /// wait for them.
    pub async fn put(
        &self,
        records: Vec<SealedVertex>,
        options: PutOptions,
        mut each: impl FnMut(usize, Result<PutReceipt, Refusal>),
    ) {
        if records.len() > PUT_BATCH_MAX {
            for at in 0..records.len() {
                each(at, Err(Refusal::limit("vertices of one put", records.len(), PUT_BATCH_MAX, "vertices")));
            }
            return;
        }
        let (refused, reservation) = self.admit(&records, options).await;
        let core_count = self.0.shared.inboxes.len();
        let mut by_core: Vec<(Vec<usize>, Vec<SealedVertex>)> = vec![Default::default(); core_count];
        for (at, (record, refusal)) in records.into_iter().zip(refused).enumerate() {
            if let Some(refusal) = refusal {
                each(at, Err(refusal));
                continue;
            }
            let core = self.table().core(self.table().shard(&record.id().0));
            by_core[core].0.push(at);
            by_core[core].1.push(record);
        }
        let mut waiting = FuturesUnordered::new();
        for (core, (places, records)) in by_core.into_iter().enumerate() {
            if records.is_empty() {
                continue;
            }
            let answer = self.ask(core, |reply| Message::Put { records, reply });
            waiting.push(async move { (places, answer.await) });
        }
        let mut tokens: HashMap<ShardId, LogIndex> = HashMap::new();
        while let Some((places, answer)) = waiting.next().await {
            match answer {
                Ok(outcomes) => {
                    for (at, outcome) in places.into_iter().zip(outcomes) {
                        if let (Ok(receipt), true) = (&outcome, reservation.is_some()) {
                            let last = tokens.entry(receipt.shard).or_default();
                            *last = receipt.index.max(*last);
                        }
                        each(at, outcome);
                    }
                }
                Err(refusal) => places.into_iter().for_each(|at| each(at, Err(refusal.clone()))),
            }
        }
        if let Some(reservation) = reservation {
            let router = self.clone();
            crate::runtime::spawn(async move {
                for (shard, index) in tokens {
                    router.progress().caught_up(Some(Token { shard, index })).await;
                }
                drop(reservation);
            });
        }
    }

    /// Puts vertices and returns their outcomes in order.
    pub async fn put_all(&self, records: Vec<SealedVertex>, options: PutOptions) -> Vec<Result<PutReceipt, Refusal>> {
        let mut outcomes = vec![Err(Refusal::new(Reason::Internal, "the put was not answered")); records.len()];
        self.put(records, options, |at, outcome| outcomes[at] = outcome).await;
        outcomes
    }

    /// Reads one vertex; `None` is "not here".
    ///
    /// # Errors
    /// Overloaded, Corrupt.
    pub async fn get(&self, id: VertexId) -> Result<Option<SealedVertex>, Refusal> {
        let core = self.table().core(self.table().shard(&id.0));
        let mut answers = self.ask(core, |reply| Message::Get { ids: vec![id], reply }).await?;
        answers.pop().unwrap_or_else(|| Err(Refusal::new(Reason::Internal, "the get was not answered")))
    }

    /// Reads one vertex; "not here" may be as old as `consistency` says.
    ///
    /// # Errors
    /// Overloaded, Corrupt.
    pub async fn get_with(&self, id: VertexId, consistency: Consistency) -> Read<Option<SealedVertex>> {
        if consistency == Consistency::Linearizable {
            return Ok((self.get(id).await?, Freshness::NOW));
        }
        let core = self.table().core(self.table().shard(&id.0));
        self.ask(core, |reply| Message::GetWith { id, consistency, reply }).await?
    }

    /// Reads vertices; the answers are in the order of the ids.
    pub async fn get_many(&self, ids: &[VertexId]) -> Vec<Result<Option<SealedVertex>, Refusal>> {
        if ids.len() > GET_BATCH_MAX {
            let refusal = Refusal::limit("ids of one get", ids.len(), GET_BATCH_MAX, "ids");
            return vec![Err(refusal); ids.len()];
        }
        let answers = self.scatter(ids, |ids, reply| Message::Get { ids, reply }).await;
        answers.unwrap_or_else(|refusal| vec![Err(refusal); ids.len()])
    }

    /// Whether vertices are here and durable, in the order of the ids.
    ///
    /// # Errors
    /// Overloaded.
    pub async fn has(&self, ids: &[VertexId]) -> Result<Vec<bool>, Refusal> {
        if ids.len() > GET_BATCH_MAX {
            return Err(Refusal::limit("ids of one has", ids.len(), GET_BATCH_MAX, "ids"));
        }
        let mut unknown = Vec::new();
        let mut found: Vec<bool> = ids.iter().map(|id| self.skeleton().view().contains(id)).collect();
        for (at, _) in found.iter().enumerate().filter(|(_, found)| !**found) {
            unknown.push(at);
        }
        if !unknown.is_empty() {
            let ids: Vec<VertexId> = unknown.iter().map(|&at| ids[at]).collect();
            let answers = self.scatter(&ids, |ids, reply| Message::Exists { ids, reply }).await?;
            for (at, exists) in unknown.into_iter().zip(answers) {
                found[at] = exists?;
            }
        }
        Ok(found)
    }

    /// Reads a ref; `None` is "no such ref". Linearizable: the core that orders the ref's moves answers.
    ///
    /// # Errors
    /// Overloaded.
    pub async fn ref_get(&self, name: RefName) -> Result<Option<Position>, Refusal> {
        Ok(self.ref_get_with(name, Consistency::Linearizable).await?.0)
    }

    /// Reads a ref as new as is asked; `None` is "no such ref".
    ///
    /// # Errors
    /// Overloaded, Unavailable.
    pub async fn ref_get_with(&self, name: RefName, consistency: Consistency) -> Read<Option<Position>> {
        let core = self.table().core(self.table().shard(&name.key()));
        self.ask(core, |reply| Message::RefGet { name, consistency, reply }).await?
    }

    /// Moves a ref by compare-and-set. The target must exist.
    ///
    /// # Errors
    /// Conflict, NotFound (the target), Overloaded, DiskFull.
    pub async fn ref_set(&self, change: RefMove) -> Result<RefReceipt, Refusal> {
        if let Some(to) = change.to
            && !self.has(&[to]).await?[0]
        {
            return Err(Refusal::new(Reason::NotFound, format!("ref target {to} is not here; put the vertex first")));
        }
        let core = self.table().core(self.table().shard(&change.name.key()));
        self.ask(core, |reply| Message::RefSet { change: Box::new(change), reply }).await?
    }

    /// Refs by prefix over all shards, in the order of their names, after `after`, at most `limit`.
    ///
    /// # Errors
    /// Overloaded.
    pub async fn ref_list(
        &self,
        prefix: &str,
        after: Option<RefName>,
        limit: usize,
    ) -> Result<Vec<(RefName, Position)>, Refusal> {
        Ok(self.ref_list_with(prefix, after, limit, Consistency::Linearizable).await?.0)
    }

    /// The same as new as is asked; the answer is as old as the part of the oldest shard.
    ///
    /// # Errors
    /// Overloaded, Unavailable.
    pub async fn ref_list_with(
        &self,
        prefix: &str,
        after: Option<RefName>,
        limit: usize,
        consistency: Consistency,
    ) -> Read<Vec<(RefName, Position)>> {
        let (mut all, mut freshness) = (Vec::new(), Freshness::NOW);
        for shard in self.table().shards() {
            let core = self.table().core(shard);
            let (prefix, after) = (prefix.to_owned(), after.clone());
            let asked = |reply| Message::RefList { shard, prefix, after, limit, consistency, reply };
            let (rows, of_shard) = self.ask(core, asked).await??;
            all.extend(rows);
            freshness = freshness.and(of_shard);
        }
        all.sort_by(|(left, _), (right, _)| left.cmp(right));
        all.truncate(limit);
        Ok((all, freshness))
    }

    /// The latest moves of a ref, newest first; `None` when it never was.
    ///
    /// # Errors
    /// Overloaded.
    pub async fn ref_log(&self, name: RefName, limit: usize, consistency: Consistency) -> Read<Option<Vec<LogEntry>>> {
        let core = self.table().core(self.table().shard(&name.key()));
        self.ask(core, |reply| Message::RefLog { name, limit, consistency, reply }).await?
    }

    /// Asks the core that has a group, as another node would.
    ///
    /// # Errors
    /// What the answer refuses; Overloaded.
    pub async fn group(&self, operation: u16, shard: ShardId, body: Bytes) -> Result<Bytes, Refusal> {
        let core = if shard == ShardId::CONTROL { 0 } else { self.table().core(shard) };
        self.ask(core, |reply| Message::Mesh { operation, shard, body, reply }).await?
    }

    /// The figures of every core.
    ///
    /// # Errors
    /// Overloaded.
    pub async fn stats(&self) -> Result<Vec<CoreStats>, Refusal> {
        let mut all = Vec::new();
        for core in 0..self.0.shared.inboxes.len() {
            all.push(self.ask(core, |reply| Message::Stats { reply }).await?);
        }
        Ok(all)
    }

    /// The id that a text names: a CID, 64 hex digits, `git:<commit hash>` or `ref:<name>`.
    ///
    /// # Errors
    /// BadRequest, NotFound.
    pub async fn resolve(&self, text: &str) -> Result<VertexId, Refusal> {
        if let Some(hash) = text.strip_prefix("git:") {
            let bytes = crate::ids::unhex(hash).filter(|bytes| matches!(bytes.len(), 20 | 32));
            let bytes = bytes.ok_or_else(|| Refusal::bad_request(format!("{text}: git: takes a full commit hash")))?;
            let mut found = self.skeleton().view().by_git(&bytes);
            if found.is_none() {
                self.progress().caught_up(None).await;
                found = self.skeleton().view().by_git(&bytes);
            }
            return found.map(|number| self.skeleton().view().id(number)).ok_or_else(|| {
                Refusal::new(
                    Reason::NotFound,
                    format!("{text}: no such commit here; run `qmesh dag import git PATH` first"),
                )
            });
        }
        if let Some(name) = text.strip_prefix("ref:") {
            let name: RefName = name.parse().map_err(|error| Refusal::bad_request(format!("{text}: {error}")))?;
            let state = self.ref_get(name).await?;
            return state
                .and_then(|position| position.at)
                .ok_or_else(|| Refusal::new(Reason::NotFound, format!("{text}: no such ref")));
        }
        text.parse().map_err(|error| Refusal::bad_request(format!("{text}: {error}, or git:HASH, or ref:NAME")))
    }

    /// Answers a question about the graph, as of everything committed here when it is asked, and not older than `token`.
    ///
    /// # Errors
    /// NotFound, BadRequest, LimitExceeded, CursorExpired.
    pub async fn query(&self, query: Query, token: Option<Token>) -> Result<Answer, Refusal> {
        let mut machine = self.machine(query, token).await?;
        let mut numbers = Vec::new();
        while self.step(&mut machine, &mut numbers) == Step::More {
            tokio::task::yield_now().await;
        }
        Ok(self.finish(machine, numbers))
    }

    /// One slice of a walk; the core serves others between two.
    pub fn step(&self, machine: &mut Machine, numbers: &mut Vec<Number>) -> Step {
        self.0.shared.questions.walked(|| machine.step(self.skeleton(), WALK_EDGES_PER_SLICE, numbers))
    }

    /// What was asked about the graph so far.
    pub fn questions(&self) -> &Questions {
        &self.0.shared.questions
    }

    /// The answer of a machine that is done; its working memory serves the next question on this core.
    pub fn finish(&self, machine: Machine, numbers: Vec<Number>) -> Answer {
        let questions = &self.0.shared.questions;
        questions.count.fetch_add(1, Ordering::Relaxed);
        let (answer, scratch) = questions.walked(|| machine.finish(numbers));
        let mut idle = self.0.scratch.borrow_mut();
        if idle.len() < SCRATCHES_IDLE_MAX {
            idle.push(scratch);
        }
        answer
    }

    /// The machine of a question, ready to be stepped, once the skeleton is as new as the question wants.
    ///
    /// # Errors
    /// As [`Router::query`].
    pub async fn machine(&self, query: Query, token: Option<Token>) -> Result<Machine, Refusal> {
        if let Some(token) = token {
            let known = self.table().shard_count();
            if token.shard.0 >= known || token.index > self.progress().committed(token.shard) {
                return Err(Refusal::bad_request(format!("token {token}: this node never returned it")));
            }
        }
        self.progress().caught_up(token).await;
        let scratch = self.0.scratch.borrow_mut().pop().unwrap_or_default();
        self.0.shared.questions.walked(|| Machine::with_scratch(query, self.skeleton(), self.boot(), scratch))
    }

    /// Asks the cores that own `ids` and puts their answers back into the order of the ids.
    async fn scatter<T, F>(&self, ids: &[VertexId], message: F) -> Result<Vec<T>, Refusal>
    where
        F: Fn(Vec<VertexId>, Reply<Vec<T>>) -> Message,
    {
        let mut by_core: Vec<(Vec<usize>, Vec<VertexId>)> = vec![Default::default(); self.0.shared.inboxes.len()];
        for (at, id) in ids.iter().enumerate() {
            let core = self.table().core(self.table().shard(&id.0));
            by_core[core].0.push(at);
            by_core[core].1.push(*id);
        }
        let mut waiting = Vec::new();
        for (core, (places, ids)) in by_core.into_iter().enumerate() {
            if !ids.is_empty() {
                waiting.push((places, self.ask(core, |reply| message(ids, reply))));
            }
        }
        let mut answers: Vec<Option<T>> = ids.iter().map(|_| None).collect();
        for (places, answer) in waiting {
            for (at, one) in places.into_iter().zip(answer.await?) {
                answers[at] = Some(one);
            }
        }
        let all: Option<Vec<T>> = answers.into_iter().collect();
        all.ok_or_else(|| Refusal::new(Reason::Internal, "a core answered for fewer ids than it was asked"))
    }

    /// Sends one message to a core. It is sent at the call, not at the first poll, so that messages of one caller arrive in
    /// the order of its calls; the future awaits the answer.
    fn ask<T, F>(&self, core: usize, message: F) -> impl Future<Output = Result<T, Refusal>> + use<T, F>
    where
        F: FnOnce(Reply<T>) -> Message,
    {
        let (reply, answer) = oneshot::channel();
        let message = message(reply);
        let sent = if core == self.0.core {
            (self.0.local)(message);
            Ok(())
        } else {
            self.0.shared.inboxes[core].push(message).map_err(|Full(_)| Refusal::overloaded("the inbox of a core"))
        };
        async move {
            sent?;
            answer.await.map_err(|_| Refusal::new(Reason::Unavailable, "the node is shutting down"))
        }
    }
}
