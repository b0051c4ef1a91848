//! Committed records in order, for everyone who follows.
//!
//! Every core pushes what its shards committed; one follower admits the vertices into the skeleton and tells the watchers of
//! refs. Promises: what a shard reports as committed is in the queue before its writer is answered; [`Progress`] says how far
//! each shard is committed and how far it has been followed, so a read can ask for "not older than".
//! Does not: keep history. The segments do.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, broadcast};

use crate::dag::archive::SealedVertex;
use crate::dag::ref_record::RefRecord;
use crate::dag::shape::Shape;
use crate::dag::skeleton::{ShapeRef, Writer};
use crate::ids::{LogIndex, ShardId, Token};
use crate::runtime::{Full, Receiver, Sender};

/// Committed items between the cores and the follower.
pub const FEED_ITEMS_MAX: usize = 65_536;
/// Items the follower takes before it lets its core serve others.
const FEED_ITEMS_PER_TURN: usize = 256;
/// Ref moves a watcher may lag behind before it is told that it missed some.
pub const REF_EVENTS_MAX: usize = 1024;

/// One committed record, or the end of an entry.
#[derive(Clone, Debug)]
pub enum Item {
    /// A vertex was committed.
    Vertex(Token, SealedVertex),
    /// A ref was moved.
    Ref(Arc<RefRecord>),
    /// All records of the entry at this index were pushed.
    Entry(Token),
}

/// How far each shard is committed, and how far the skeleton has followed.
pub struct Progress {
    committed: Vec<AtomicU64>,
    followed: Vec<AtomicU64>,
    changed: Notify,
}

impl Progress {
    /// Nothing committed yet.
    pub fn new(shard_count: u16) -> Self {
        let zeros = || (0..shard_count).map(|_| AtomicU64::new(0)).collect();
        Self { committed: zeros(), followed: zeros(), changed: Notify::new() }
    }

    /// The last committed index of a shard.
    pub fn committed(&self, shard: ShardId) -> LogIndex {
        LogIndex(self.committed[usize::from(shard.0)].load(Ordering::Acquire))
    }

    /// The last index of a shard that the skeleton has seen.
    pub fn followed(&self, shard: ShardId) -> LogIndex {
        LogIndex(self.followed[usize::from(shard.0)].load(Ordering::Acquire))
    }

    /// Called by the shard's core when an entry is durable.
    pub fn commit(&self, token: Token) {
        self.committed[usize::from(token.shard.0)].store(token.index.0, Ordering::Release);
    }

    fn follow(&self, token: Token) {
        self.followed[usize::from(token.shard.0)].store(token.index.0, Ordering::Release);
    }

    /// Waits until the skeleton has seen everything committed at the time of the call, and `token` where one is given.
    pub async fn caught_up(&self, token: Option<Token>) {
        let mut wanted: Vec<u64> = self.committed.iter().map(|index| index.load(Ordering::Acquire)).collect();
        if let Some(token) = token {
            let at = usize::from(token.shard.0);
            wanted[at] = wanted[at].max(token.index.0);
        }
        let reached = || wanted.iter().zip(&self.followed).all(|(&want, have)| want <= have.load(Ordering::Acquire));
        while !reached() {
            let changed = self.changed.notified();
            if reached() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until the skeleton has moved on after this call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Shards known.
    pub fn shard_count(&self) -> u16 {
        self.committed.len() as u16
    }
}

/// The core's end of the feed: a push that finds the queue full is kept here and tried again.
pub struct Publisher {
    queue: Sender<Item>,
    held: RefCell<std::collections::VecDeque<Item>>,
}

impl Publisher {
    /// A publisher for one core.
    pub fn new(queue: Sender<Item>) -> Rc<Self> {
        Rc::new(Self { queue, held: RefCell::default() })
    }

    /// Publishes a committed item. Never fails and never waits: the number of items held here is bounded by the records that
    /// the shards of this core had in flight when the follower fell behind, because [`Publisher::behind`] stops new ones.
    pub fn publish(&self, item: Item) {
        let mut held = self.held.borrow_mut();
        if !held.is_empty() {
            held.push_back(item);
        } else if let Err(Full(item)) = self.queue.push(item) {
            held.push_back(item);
        }
    }

    /// Whether the follower is behind: the shards of this core answer Overloaded to puts until it has caught up.
    pub fn behind(&self) -> bool {
        !self.held.borrow().is_empty()
    }

    /// Pushes held items again, for as long as there are any.
    pub async fn flush(&self) {
        loop {
            {
                let mut held = self.held.borrow_mut();
                while let Some(item) = held.pop_front() {
                    if let Err(Full(item)) = self.queue.push(item) {
                        held.push_front(item);
                        break;
                    }
                }
                if held.is_empty() {
                    return;
                }
            }
            tokio::time::sleep(FLUSH_INTERVAL).await;
        }
    }
}

/// Time between two tries to hand over held items.
const FLUSH_INTERVAL: Duration = Duration::from_millis(1);

/// Follows the feed for ever: admits vertices into the skeleton and tells the watchers of refs.
pub async fn follow(
    mut queue: Receiver<Item>,
    mut writer: Writer,
    progress: Arc<Progress>,
    ref_events: broadcast::Sender<Arc<RefRecord>>,
) {
    let mut items = Vec::with_capacity(FEED_ITEMS_PER_TURN);
    loop {
        queue.receive(&mut items, FEED_ITEMS_PER_TURN, Duration::ZERO).await;
        for item in items.drain(..) {
            match item {
                Item::Vertex(token, vertex) => {
                    let shape = Shape::of(&vertex);
                    admit(&mut writer, token, &shape);
                }
                // No watcher is not an error: nobody asked.
                Item::Ref(record) => drop(ref_events.send(record)),
                Item::Entry(token) => {
                    writer.advance(token.shard, token.index);
                    progress.follow(token);
                }
            }
        }
        progress.changed.notify_waiters();
        tokio::task::yield_now().await;
    }
}

/// Admits a vertex known by its shape.
pub fn admit(writer: &mut Writer, token: Token, shape: &Shape<'_>) {
    writer.apply(
        token.shard,
        token.index,
        ShapeRef {
            id: shape.id,
            parents: &shape.parents,
            timestamp_ms: shape.timestamp_ms,
            namespace: shape.namespace,
            kind: shape.kind,
            label_hashes: &shape.label_hashes,
            git: shape.git_bytes(),
        },
    );
}

/// Marks what recovery replayed as committed and followed.
pub fn recovered(progress: &Progress, token: Token) {
    progress.commit(token);
    progress.follow(token);
}
