//! One node: a real shard host on a disk of its own, with what it needs around it.
//!
//! Promises: when a node dies, every task of it stops at that moment. Does not: have doors; clients speak to its host.

use std::path::PathBuf;
use std::rc::Rc;

use qmesh::dag::refs::{Position, RefName};
use qmesh::dag::shape::Shape;
use qmesh::dag::skeleton;
use qmesh::feed::{self, Progress, Publisher};
use qmesh::ids::NodeId;
use qmesh::router::message::Message;
use qmesh::router::slots::SlotTable;
use qmesh::runtime::inbox;
use qmesh::shard::{ConsensusParts, Host, HostParts};
use qmesh_storage::LogOptions;
use qmesh_storage::io::memory::MemoryDisk;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::{JoinHandle, LocalSet};

use super::disk::{Pace, PacedDisk};
use super::ledger::Tap;
use super::network::Links;
use super::world::World;

/// Items between a shard and the skeleton.
const FEED_ITEMS_MAX: usize = 1024;

/// What a node is told.
pub(crate) enum ToNode {
    Message(Message),
    /// Where is the ref by this replica's own table?
    RefHere(RefName, oneshot::Sender<Option<Position>>),
}

/// A node between its lives.
pub(crate) struct Node {
    pub(crate) disk: MemoryDisk,
    pub(crate) pace: Rc<Pace>,
    pub(crate) life: Option<Life>,
}

/// A running node.
pub(crate) struct Life {
    pub(crate) inbox: mpsc::UnboundedSender<ToNode>,
    pub(crate) is_serving: Rc<std::cell::Cell<bool>>,
    task: JoinHandle<()>,
}

impl Life {
    /// Begins a life of node `number`.
    pub(crate) fn begin(world: &Rc<World>, number: usize, disk: MemoryDisk, pace: Rc<Pace>) -> Self {
        let (inbox, told) = mpsc::unbounded_channel();
        let is_serving = Rc::new(std::cell::Cell::new(false));
        let (world, serving) = (world.clone(), is_serving.clone());
        world.ledger.borrow_mut().born(number);
        let task = tokio::task::spawn_local(async move {
            let disk = Rc::new(PacedDisk::new(disk, pace));
            let own = LocalSet::new();
            own.run_until(live(world, number, disk, told, serving)).await;
        });
        Self { inbox, is_serving, task }
    }

    /// Ends it at once; what it had under way never happens.
    pub(crate) async fn end(self) {
        self.task.abort();
        // It was cancelled, or had ended by itself.
        let _ = self.task.await;
    }
}

/// Small segments, so that a run has many of them.
fn log_options(backlog_bytes_max: usize) -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        round_bytes_max: 64 << 10,
        backlog_bytes_max,
        round_bytes_eager: 8 << 10,
        prepare_retry_ms: 0,
        ..LogOptions::default()
    }
}

async fn live(
    world: Rc<World>,
    number: usize,
    disk: Rc<PacedDisk>,
    mut told: mpsc::UnboundedReceiver<ToNode>,
    is_serving: Rc<std::cell::Cell<bool>>,
) {
    let progress = std::sync::Arc::new(Progress::new(world.plan.shards));
    let (writer, skeleton) = skeleton::new(world.plan.shards);
    let writer = Rc::new(std::cell::RefCell::new(writer));
    let (published, mut items) = inbox(FEED_ITEMS_MAX);
    let parts = HostParts {
        core: 0,
        core_count: 1,
        table: SlotTable::new(16, world.plan.shards, 1, 1),
        skeleton,
        progress: progress.clone(),
        publisher: Publisher::new(published),
        disk,
        backend: "memory",
        directory: PathBuf::from("/data"),
        log_options: log_options(world.plan.backlog_bytes_max),
        cache_bytes: 64 << 10,
        consensus: Some(ConsensusParts {
            node: NodeId(number as u64 + 1),
            peers: Rc::new(Links { world: Rc::downgrade(&world), from: number }),
            timers: world.plan.timers(),
            steward: None,
        }),
    };
    let recovered = {
        let (world, writer, progress) = (world.clone(), writer.clone(), progress.clone());
        move |(token, key, shape): qmesh::shard::Recovered<'_>| {
            if let Some(bytes) = shape {
                match Shape::decode(&key.0, bytes) {
                    Ok(shape) => feed::admit(&mut writer.borrow_mut(), token, &shape),
                    Err(error) => world.ledger.borrow_mut().violation(format!("node {number}: {key}: {error}")),
                }
            }
            writer.borrow_mut().advance(token.shard, token.index);
            feed::recovered(&progress, token);
            world.ledger.borrow_mut().recovered(number, token, shape.is_some().then_some(key));
        }
    };
    let host = match Host::open(parts, Box::new(|| 0), recovered, |_, _| ()).await {
        Ok(host) => host,
        Err(error) => return world.ledger.borrow_mut().violation(format!("node {number} does not open: {error}")),
    };
    world.ledger.borrow_mut().opened(number);
    let Some(writer) = Rc::into_inner(writer) else { unreachable!("recovery is over") };
    let (followed, queue) = inbox(FEED_ITEMS_MAX);
    let (ref_events, _) = broadcast::channel(16);
    qmesh::runtime::spawn(feed::follow(queue, writer.into_inner(), progress, ref_events));
    let watcher = world.clone();
    qmesh::runtime::spawn(async move {
        let (mut tap, mut taken) = (Tap::default(), Vec::new());
        loop {
            items.receive(&mut taken, FEED_ITEMS_MAX, std::time::Duration::ZERO).await;
            for item in taken.drain(..) {
                if let Some((token, applied)) = tap.take(&item) {
                    watcher.ledger.borrow_mut().applied(number, token, applied);
                }
                let mut item = item;
                while let Err(qmesh::runtime::Full(back)) = followed.push(item) {
                    item = back;
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    if let Err(error) = host.start_groups(number == 0).await {
        return world.ledger.borrow_mut().violation(format!("node {number} does not start its groups: {error}"));
    }
    is_serving.set(true);
    while let Some(asked) = told.recv().await {
        match asked {
            ToNode::Message(message) => host.accept(message),
            // Who asked may have gone.
            ToNode::RefHere(name, reply) => drop(reply.send(host.ref_here(&name))),
        }
    }
}
