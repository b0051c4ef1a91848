//! The host of a core's shards: takes messages, drives the logs, answers.
//!
//! Promises: a message is taken at once or answered Overloaded; the core is never held up by a read that is not in memory.
//! Does not: know other cores.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use hashbrown::HashMap;
use qmesh_storage::io::Disk;
use qmesh_storage::{
    AppendError, Committed, Driver, Location, Log, LogOptions, Observer, OpenError, ReadError, Record,
};
use quick_cache::unsync::Cache;
use tokio::time::Instant;

use super::raft::{Group, Machine, Store, Timers, Track};
use super::recovery::LogObserver;
use super::replica::{Proposed, PutBatch, Replica, TERM_SOLO, Waiter};
use crate::dag::archive::{RECORD_KIND_VERTEX, SealedVertex};
use crate::dag::refs::{Position, RefMove, RefName};
use crate::dag::skeleton::Skeleton;
use crate::error::{EXIT_DISK_FAILED, Reason, Refusal, fatal};
use crate::feed::{Progress, Publisher};
use crate::ids::{LogIndex, NodeId, ShardId, Token, VertexId};
use crate::router::Peers;
use crate::router::consistency::{AnsweredBy, Freshness};
use crate::router::message::{CoreStats, LogFigures, Message, PutOutcomes, RefOutcome, Reply};
use crate::router::slots::SlotTable;

/// Weight of a cached vertex beside its bytes: key, handle, cache entry.
const CACHE_ENTRY_BYTES: u64 = 160;
/// How long a put looks for the primary of a shard: several elections.
const PUT_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<VertexId, SealedVertex> for Weight {
    fn weight(&self, _: &VertexId, vertex: &SealedVertex) -> u64 {
        CACHE_ENTRY_BYTES + vertex.record().bytes().len() as u64
    }
}

/// What a host is made of.
pub struct HostParts {
    /// The number of the core.
    pub core: usize,
    /// How many cores there are.
    pub core_count: usize,
    /// Key → slot → shard → log → core.
    pub table: SlotTable,
    /// The shape of the DAG.
    pub skeleton: Arc<Skeleton>,
    /// How far shards are committed and followed.
    pub progress: Arc<Progress>,
    /// Where committed records go.
    pub publisher: Rc<Publisher>,
    /// The disk backend.
    pub disk: Rc<dyn Disk>,
    /// Its name, for the figures.
    pub backend: &'static str,
    /// The data directory.
    pub directory: PathBuf,
    /// How the logs are driven.
    pub log_options: LogOptions,
    /// Bytes of the core's read cache.
    pub cache_bytes: u64,
    /// With several voters: how this core takes part. `None`: this node is alone, and the commit is the local sync.
    pub consensus: Option<ConsensusParts>,
}

/// How a core takes part in consensus.
pub struct ConsensusParts {
    /// This node.
    pub node: NodeId,
    /// The other nodes.
    pub peers: Rc<dyn Peers>,
    /// The times of an election.
    pub timers: Timers,
    /// The machine of the control plane's group, on the core that has it.
    pub steward: Option<Rc<dyn Steward>>,
}

/// The control plane, as the core that has its group sees it.
pub trait Steward: Machine {
    /// At open: a record that is known to be committed; a record that is not of a vertex stands in its hint whole.
    fn replay(&self, index: LogIndex, kind: u8, hint: &[u8]);
    /// Answers what another node asks.
    fn serve(self: Rc<Self>, operation: u16, body: Bytes) -> LocalAnswer;
}

/// An answer that takes its time, on its own core.
pub type LocalAnswer = std::pin::Pin<Box<dyn Future<Output = Result<Bytes, Refusal>>>>;

impl HostParts {
    pub(super) fn steward(&self, operation: u16) -> Option<&Rc<dyn Steward>> {
        let is_its_own = matches!(operation, crate::router::peers::OP_CONTROL | crate::router::peers::OP_JOIN);
        self.consensus.as_ref()?.steward.as_ref().filter(|_| is_its_own)
    }
}

/// A recovered record: where it stands, its key, and its shape when it is a vertex.
pub type Recovered<'a> = (Token, VertexId, Option<&'a [u8]>);

/// The shards of one core.
pub struct Host {
    this: Weak<Self>,
    pub(super) parts: HostParts,
    pub(super) replicas: RefCell<HashMap<ShardId, Replica>>,
    /// While the logs are opened: the entries of each group.
    pub(super) tracks: RefCell<HashMap<ShardId, Track>>,
    pub(super) stores: RefCell<HashMap<ShardId, Rc<Store>>>,
    pub(super) groups: RefCell<HashMap<ShardId, Rc<Group>>>,
    logs: RefCell<HashMap<usize, Log>>,
    cache: RefCell<Cache<VertexId, SealedVertex, Weight>>,
    cache_hits: Cell<u64>,
    cache_misses: Cell<u64>,
    /// Reads that a primary answered, and those that this node answered as another replica.
    pub(super) reads: [Cell<u64>; 2],
    flushing: Cell<bool>,
    pub(super) draining: Cell<bool>,
    inbox_waiting: Box<dyn Fn() -> usize>,
    /// Spawns a task on this core.
    pub(super) spawn: fn(std::pin::Pin<Box<dyn Future<Output = ()>>>),
}

impl Host {
    /// Opens the logs of this core and replays them. `recovered` gets every vertex in the order of its log; `progress` the bytes
    /// done and in all, of one log after the other.
    ///
    /// # Errors
    /// [`OpenError`]: a log is damaged, locked, of another version, or the disk failed.
    pub async fn open(
        parts: HostParts,
        inbox_waiting: Box<dyn Fn() -> usize>,
        recovered: impl FnMut(Recovered<'_>) + 'static,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Rc<Self>, OpenError> {
        let cache_bytes = parts.cache_bytes.max(1);
        let cache_items = (cache_bytes / 1024).clamp(16, 1 << 22) as usize;
        let own = parts.table.shards().filter(|&shard| parts.table.core(shard) == parts.core);
        let replicas = own.map(|shard| (shard, Replica::new(shard, parts.core as u16))).collect();
        let host = Rc::new_cyclic(|this| Self {
            this: this.clone(),
            replicas: RefCell::new(replicas),
            tracks: RefCell::default(),
            stores: RefCell::default(),
            groups: RefCell::default(),
            logs: RefCell::default(),
            cache: RefCell::new(Cache::with_weighter(cache_items, cache_bytes, Weight)),
            cache_hits: Cell::new(0),
            cache_misses: Cell::new(0),
            reads: Default::default(),
            flushing: Cell::new(false),
            draining: Cell::new(false),
            inbox_waiting,
            spawn: |task| crate::runtime::spawn(task),
            parts,
        });
        let observer =
            Rc::new(LogObserver { host: Rc::downgrade(&host), recovered: RefCell::new(Box::new(recovered)) });
        let mut drivers: Vec<Driver> = Vec::new();
        for log in host.parts.table.logs_of_core(host.parts.core, host.parts.core_count) {
            let directory = log_directory(&host.parts.directory, log);
            let observer: Rc<dyn Observer> = observer.clone();
            let options = host.parts.log_options.clone();
            let (opened, driver, report) =
                Log::open(host.parts.disk.clone(), &directory, options, observer, &mut progress).await?;
            tracing::info!(log, ?report, "log opened");
            host.logs.borrow_mut().insert(log, opened);
            drivers.push(driver);
        }
        host.open_stores().await?;
        // What recovery handed to the skeleton is bounded; from here on the feed carries it.
        *observer.recovered.borrow_mut() = Box::new(|_| {});
        for driver in drivers {
            crate::runtime::spawn(async move {
                // P3: after a failed write or sync nobody knows what is on the disk; recovery is the repair.
                if let Err(failed) = driver.run().await {
                    fatal(EXIT_DISK_FAILED, &failed);
                }
            });
        }
        Ok(host)
    }

    /// This core's groups.
    pub fn groups(&self) -> Vec<Rc<Group>> {
        let mut groups: Vec<Rc<Group>> = self.groups.borrow().values().cloned().collect();
        groups.sort_by_key(|group| group.shard());
        groups
    }

    pub(super) fn log_number(&self, shard: ShardId) -> usize {
        if shard == ShardId::CONTROL { 0 } else { self.parts.table.log(shard) }
    }

    pub(super) fn log(&self, shard: ShardId) -> Option<Log> {
        self.logs.borrow().get(&self.log_number(shard)).cloned()
    }

    pub(super) fn has_room(&self, bytes: usize) -> Result<(), Refusal> {
        self.logs.borrow().values().try_for_each(|log| log.has_room(bytes).map_err(not_appended))
    }

    /// Takes one message. Its answer goes to its reply.
    pub fn accept(self: &Rc<Self>, message: Message) {
        let is_replicated = self.parts.consensus.is_some();
        match message {
            Message::Mesh { operation, shard, body, reply } => self.mesh(operation, shard, body, reply),
            Message::Put { records, reply } if is_replicated => {
                self.put_replicated(records, Some(Instant::now() + PUT_PATIENCE), reply);
            }
            Message::RefGet { name, consistency, reply } if is_replicated => {
                self.ref_get_replicated(name, consistency, reply);
            }
            Message::RefSet { change, reply } if is_replicated => self.ref_set_replicated(*change, true, reply),
            Message::RefList { shard, prefix, after, limit, consistency, reply } if is_replicated => {
                self.ref_list_replicated(shard, (prefix, after, limit), consistency, reply);
            }
            Message::RefLog { name, limit, consistency, reply } if is_replicated => {
                self.ref_log_replicated(name, limit, consistency, reply);
            }
            Message::Put { records, reply } => self.put(records, reply),
            Message::Get { ids, reply } => self.get(ids, reply),
            Message::GetWith { id, consistency, reply } => self.get_with(id, consistency, reply),
            Message::Exists { ids, reply } => self.exists(ids, reply),
            // A node that is alone is always the primary, and always current.
            Message::RefGet { name, reply, .. } => {
                let shard = self.parts.table.shard(&name.key());
                let replicas = self.replicas.borrow();
                let state = replicas.get(&shard).and_then(|replica| replica.refs().state(&name));
                let here = state.map(|state| state.position).filter(|position| position.at.is_some());
                self.count_read(AnsweredBy::Primary);
                let _ = reply.send(Ok((here, Freshness::NOW)));
            }
            Message::RefSet { change, reply } => self.ref_set(*change, reply),
            Message::RefList { shard, prefix, after, limit, reply, .. } => {
                let replicas = self.replicas.borrow();
                let refs = replicas.get(&shard).map(Replica::refs);
                let list = refs.into_iter().flat_map(|refs| refs.list(&prefix, after.as_ref(), limit));
                let list = list.map(|(name, _, state)| (name.clone(), state.position)).collect();
                self.count_read(AnsweredBy::Primary);
                drop(reply.send(Ok((list, Freshness::NOW))));
            }
            Message::RefLog { name, limit, reply, .. } => {
                let shard = self.parts.table.shard(&name.key());
                let replicas = self.replicas.borrow();
                let refs = replicas.get(&shard).map(Replica::refs).filter(|refs| refs.state(&name).is_some());
                self.count_read(AnsweredBy::Primary);
                drop(reply.send(Ok((refs.map(|refs| refs.log(&name, limit).cloned().collect()), Freshness::NOW))));
            }
            Message::Stats { reply } => drop(reply.send(self.stats())),
            Message::Drain { reply } => self.drain(reply),
        }
    }

    fn put(self: &Rc<Self>, records: Vec<SealedVertex>, reply: Reply<PutOutcomes>) {
        let batch = PutBatch::new(records.len(), reply, None);
        let behind = self.parts.publisher.behind();
        let mut replicas = self.replicas.borrow_mut();
        for (place, vertex) in records.into_iter().enumerate() {
            let id = vertex.id();
            let shard = self.parts.table.shard(&id.0);
            let Some(replica) = replicas.get_mut(&shard) else {
                batch.close(place, Err(Refusal::new(Reason::Internal, "the shard is not on this core")));
                continue;
            };
            let known = self.parts.skeleton.view().contains(&id);
            if matches!(replica.propose(&vertex, &batch, place, known), Proposed::Known) {
                continue;
            }
            let admitted = if self.draining.get() {
                Err(Refusal::new(Reason::Unavailable, "the node is shutting down"))
            } else if behind {
                Err(Refusal::overloaded("the feed to the skeleton"))
            } else {
                replica.admits(vertex.record().bytes().len())
            };
            match admitted.and_then(|()| self.append(shard, vertex.record())) {
                Ok(()) => replica.appended(vertex, batch.clone(), place),
                Err(refusal) => batch.close(place, Err(refusal)),
            }
        }
    }

    fn append(&self, shard: ShardId, record: &Record) -> Result<(), Refusal> {
        let logs = self.logs.borrow();
        let log = logs.get(&self.parts.table.log(shard));
        let log = log.ok_or_else(|| Refusal::new(Reason::Internal, "the log is not on this core"))?;
        log.append(shard.0, TERM_SOLO, record).map(drop).map_err(not_appended)
    }

    fn get(self: &Rc<Self>, ids: Vec<VertexId>, reply: Reply<Vec<Result<Option<SealedVertex>, Refusal>>>) {
        let mut answers: Vec<Result<Option<SealedVertex>, Refusal>> = Vec::with_capacity(ids.len());
        let mut cold: Vec<(usize, VertexId, Vec<Location>)> = Vec::new();
        let is_replicated = self.parts.consensus.is_some();
        let mut answerer: Option<(ShardId, AnsweredBy)> = None;
        {
            let cache = self.cache.borrow();
            let mut replicas = self.replicas.borrow_mut();
            for (place, id) in ids.into_iter().enumerate() {
                let shard = self.parts.table.shard(&id.0);
                let Some(replica) = replicas.get_mut(&shard) else {
                    answers.push(Err(Refusal::new(Reason::Internal, "the shard is not on this core")));
                    continue;
                };
                replica.gets += 1;
                if let Some(vertex) = cache.get(&id) {
                    self.cache_hits.set(self.cache_hits.get() + 1);
                    let known = answerer.filter(|(known, _)| *known == shard);
                    let by = known.map_or_else(|| self.answers_here(shard), |(_, by)| by);
                    answerer = Some((shard, by));
                    self.count_read(by);
                    answers.push(Ok(Some(vertex.clone())));
                    continue;
                }
                answers.push(Ok(None));
                let candidates = replica.candidates(&id);
                if !candidates.is_empty() || is_replicated {
                    cold.push((place, id, candidates));
                }
            }
        }
        if cold.is_empty() {
            drop(reply.send(answers));
            return;
        }
        let host = self.clone();
        (self.spawn)(Box::pin(async move {
            let reads = cold.into_iter().map(|(place, id, candidates)| {
                let host = host.clone();
                async move { (place, host.read_or_ask(id, candidates).await) }
            });
            for (place, answer) in futures_util::future::join_all(reads).await {
                answers[place] = answer;
            }
            drop(reply.send(answers));
        }));
    }

    /// Reads a vertex here; where it is not and there are other replicas, the primary has the truth.
    pub(super) async fn read_or_ask(
        self: &Rc<Self>,
        id: VertexId,
        candidates: Vec<Location>,
    ) -> Result<Option<SealedVertex>, Refusal> {
        let here = self.read(id, candidates).await;
        let shard = self.parts.table.shard(&id.0);
        match here {
            Ok(None) | Err(_) if self.parts.consensus.is_some() => {
                let mut found = self.get_at_primary(shard, vec![id], true).await?;
                self.count_read(AnsweredBy::Primary);
                Ok(found.pop().flatten())
            }
            here => {
                self.count_read(self.answers_here(shard));
                here
            }
        }
    }

    pub(super) fn count_read(&self, by: AnsweredBy) {
        let count = &self.reads[by as usize];
        count.set(count.get() + 1);
    }

    /// Where a ref is by this replica's table alone, which may be behind. For comparisons of replicas; an answer to a caller comes
    /// from the primary.
    pub fn ref_here(&self, name: &RefName) -> Option<Position> {
        let shard = self.parts.table.shard(&name.key());
        let replicas = self.replicas.borrow();
        replicas.get(&shard)?.refs().state(name).map(|state| state.position)
    }

    pub(super) fn candidates(&self, shard: ShardId, id: &VertexId) -> Vec<Location> {
        self.replicas.borrow().get(&shard).map(|replica| replica.candidates(id)).unwrap_or_default()
    }

    /// Reads a vertex from one of the places where it may be.
    pub(super) async fn read(&self, id: VertexId, candidates: Vec<Location>) -> Result<Option<SealedVertex>, Refusal> {
        self.cache_misses.set(self.cache_misses.get() + 1);
        if candidates.is_empty() {
            return Ok(None);
        }
        let log = self.log(self.parts.table.shard(&id.0));
        let log = log.ok_or_else(|| Refusal::new(Reason::Internal, "the log is not on this core"))?;
        for location in candidates {
            let record = log.read(location).await.map_err(|error: ReadError| {
                tracing::error!(%id, ?location, %error, "read failed");
                Refusal::new(
                    Reason::Corrupt,
                    format!("{id}: {error}; run `qmesh inspect integrity` on the data directory"),
                )
            })?;
            if record.key() == &id.0 && record.kind() == RECORD_KIND_VERTEX {
                let vertex = SealedVertex::trusted(record);
                self.cache.borrow_mut().insert(id, vertex.clone());
                return Ok(Some(vertex));
            }
        }
        // A tag that happens to be the same leads to a stranger's record, and the vertex was never here. One that the graph
        // holds was: then its place holds something else, whole and wrong, as a misdirected write leaves it.
        if self.parts.skeleton.view().contains(&id) {
            tracing::error!(%id, "the place of a vertex holds another record");
            let detail =
                format!("{id}: its place holds another record; run `qmesh inspect integrity` on the data directory");
            return Err(Refusal::new(Reason::Corrupt, detail));
        }
        Ok(None)
    }

    fn exists(self: &Rc<Self>, ids: Vec<VertexId>, reply: Reply<Vec<Result<bool, Refusal>>>) {
        let host = self.clone();
        (self.spawn)(Box::pin(async move {
            let mut found = Vec::with_capacity(ids.len());
            for id in ids {
                let shard = host.parts.table.shard(&id.0);
                let here = host.exists_here(shard, id).await;
                let is_known = here || host.parts.consensus.is_none();
                found.push(if is_known { Ok(here) } else { host.exists_at_primary(shard, id, true).await });
            }
            drop(reply.send(found));
        }));
    }

    pub(super) async fn exists_here(&self, shard: ShardId, id: VertexId) -> bool {
        if self.parts.skeleton.view().contains(&id) {
            return true;
        }
        let (sender, durable) = tokio::sync::oneshot::channel();
        let is_on_its_way = {
            let mut replicas = self.replicas.borrow_mut();
            let Some(replica) = replicas.get_mut(&shard) else { return false };
            let tell = move || {
                // Who asked may have given up.
                let _ = sender.send(());
            };
            replica.wait_for(&id, Waiter::Exists(Box::new(tell))).is_none()
        };
        // What is put again and came to nothing this time may be here all the same.
        if is_on_its_way && durable.await.is_ok() {
            return true;
        }
        matches!(self.read(id, self.candidates(shard, &id)).await, Ok(Some(_)))
    }

    fn ref_set(&self, change: RefMove, reply: Reply<RefOutcome>) {
        if self.draining.get() {
            drop(reply.send(Err(Refusal::new(Reason::Unavailable, "the node is shutting down"))));
            return;
        }
        if self.parts.publisher.behind() {
            drop(reply.send(Err(Refusal::overloaded("the feed to the skeleton"))));
            return;
        }
        let shard = self.parts.table.shard(&change.name.key());
        let mut replicas = self.replicas.borrow_mut();
        let Some(replica) = replicas.get_mut(&shard) else {
            drop(reply.send(Err(Refusal::new(Reason::Internal, "the shard is not on this core"))));
            return;
        };
        let Some((record, sealed, reply)) = replica.decide_ref(change, reply) else { return };
        let bytes = sealed.bytes().len();
        match replica.admits(bytes).and_then(|()| self.append(shard, &sealed)) {
            Ok(()) => replica.ref_appended(record, bytes, reply),
            Err(refusal) => drop(reply.send(Err(refusal))),
        }
    }

    pub(super) fn committed(self: &Rc<Self>, entry: &Committed<'_>) {
        let shard = ShardId(entry.shard);
        if self.parts.consensus.is_some() {
            let store = self.stores.borrow().get(&shard).cloned();
            if let Some(store) = store {
                store.landed(entry);
            }
            return;
        }
        let next_moves = {
            let mut replicas = self.replicas.borrow_mut();
            let Some(replica) = replicas.get_mut(&shard) else { return };
            let mut publish = |item| self.parts.publisher.publish(item);
            replica
                .commit(LogIndex(entry.index), entry.locations, &mut publish, |token| self.parts.progress.commit(token))
        };
        for (change, reply) in next_moves {
            self.ref_set(change, reply);
        }
        self.flush_feed();
    }

    pub(super) fn flush_feed(&self) {
        if self.parts.publisher.behind() && !self.flushing.replace(true) {
            let Some(host) = self.this.upgrade() else { return };
            (self.spawn)(Box::pin(async move {
                host.parts.publisher.flush().await;
                host.flushing.set(false);
            }));
        }
    }

    fn drain(self: &Rc<Self>, reply: Reply<()>) {
        self.draining.set(true);
        let logs: Vec<Log> = self.logs.borrow().values().cloned().collect();
        let groups = self.groups();
        (self.spawn)(Box::pin(async move {
            for group in groups {
                group.end().await;
            }
            for log in logs {
                if let Err(error) = log.close().await {
                    fatal(EXIT_DISK_FAILED, &error);
                }
            }
            // Who asked may have given up.
            let _ = reply.send(());
        }));
    }

    /// The logs of this core, for the scrub.
    pub fn logs(&self) -> Vec<(usize, Log)> {
        self.logs.borrow().iter().map(|(number, log)| (*number, log.clone())).collect()
    }

    fn stats(&self) -> CoreStats {
        let cache = self.cache.borrow();
        let mut shards: Vec<_> = self.replicas.borrow().values().map(Replica::stats).collect();
        shards.sort_by_key(|stats| stats.shard);
        let mut logs: Vec<LogFigures> = Vec::new();
        for (number, log) in self.logs.borrow().iter() {
            let stats = log.stats();
            logs.push(LogFigures {
                log: *number as u16,
                backend: self.parts.backend.to_owned(),
                segments: stats.segments,
                bytes: stats.bytes_committed,
                rounds: stats.rounds,
                records: stats.records_committed,
                syncs: stats.syncs,
                sync_us_total: stats.sync_us_total,
                sync_us_max: stats.sync_us_max,
                scrubs: stats.scrubs,
                scrub_bytes: stats.scrub_bytes,
                scrub_damages: stats.scrub_damages,
                disk_full: stats.disk_full,
            });
        }
        logs.sort_by_key(|figures| figures.log);
        CoreStats {
            core: self.parts.core as u16,
            shards,
            logs,
            cache_vertices: cache.len() as u64,
            cache_bytes: cache.weight(),
            cache_hits: self.cache_hits.get(),
            cache_misses: self.cache_misses.get(),
            inbox_waiting: (self.inbox_waiting)() as u64,
            reads_by_primary: self.reads[AnsweredBy::Primary as usize].get(),
            reads_by_replica: self.reads[AnsweredBy::Replica as usize].get(),
        }
    }
}

fn not_appended(error: AppendError) -> Refusal {
    match error {
        AppendError::Busy { retry_after_ms } => {
            Refusal { retry_after_ms, ..Refusal::overloaded("the log's queue of bytes not yet written") }
        }
        AppendError::DiskFull => {
            Refusal::new(Reason::DiskFull, "the disk is full; reads go on, writes resume when there is room")
        }
        AppendError::TooLarge { .. } => Refusal::new(Reason::LimitExceeded, error.to_string()),
        AppendError::Closed => Refusal::new(Reason::Unavailable, "the node is shutting down"),
    }
}

/// The directory of one log inside the data directory.
pub fn log_directory(data: &Path, log: usize) -> PathBuf {
    data.join(format!("log-{log:02}"))
}
