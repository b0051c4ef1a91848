//! The network: requests and answers on their way, by the world's clock.
//!
//! Promises: what replicas append to each other keeps its order on its lane, as on a stream; of the rest, letters overtake each other
//! where the seed says so, and of two lanes always; a request that is answered "unreached" was not seen. Does not: retry, or tell a caller more than a real network would.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use qmesh::error::Refusal;
use qmesh::ids::NodeId;
use qmesh::router::message::Message;
use qmesh::router::peers::OP_RAFT_APPEND;
use qmesh::router::{PeerAnswer, PeerError, Peers};
use qmesh_net::wire::Lane;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::Dice;
use super::world::World;

/// After at most so long a sender knows that its connection is gone.
const CONNECTION_LOST_MS_MAX: u64 = 800;

type Answer = Result<Bytes, Refusal>;

/// What a caller learns.
type Caller = oneshot::Sender<Result<Bytes, PeerError>>;

enum Event {
    Request { operation: u16, body: Bytes, caller: Caller },
    Answer { answer: Answer, caller: Caller },
    Unreached { caller: Caller },
}

struct Letter {
    from: usize,
    to: usize,
    lane: Lane,
    keeps_order: bool,
    event: Event,
}

/// How good the links are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quality {
    pub(crate) loss_of_thousand: u64,
    pub(crate) delay_ms_max: u64,
    /// Letters of one lane overtake each other, except appends.
    pub(crate) reorders: bool,
}

/// See the file.
pub(crate) struct Network {
    dice: RefCell<Dice>,
    quality: Cell<Quality>,
    /// Links that carry nothing.
    pub(crate) cuts: RefCell<BTreeSet<(usize, usize)>>,
    /// By the time of arrival, then in the order of sending.
    on_the_way: RefCell<BTreeMap<(Instant, u64), Letter>>,
    latest: RefCell<BTreeMap<(usize, usize, u8), Instant>>,
    letters: Cell<u64>,
    sent: Notify,
}

impl Network {
    pub(crate) fn new(dice: Dice, quality: Quality) -> Self {
        Self {
            dice: RefCell::new(dice),
            quality: Cell::new(quality),
            cuts: RefCell::default(),
            on_the_way: RefCell::default(),
            latest: RefCell::default(),
            letters: Cell::new(0),
            sent: Notify::new(),
        }
    }

    pub(crate) fn set_quality(&self, quality: Quality) {
        self.quality.set(quality);
    }

    pub(crate) fn letters(&self) -> u64 {
        self.letters.get()
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.borrow().contains(&(from, to))
    }

    /// Sends a letter, or loses it.
    fn send(&self, letter: Letter) {
        let Quality { loss_of_thousand, delay_ms_max, reorders } = self.quality.get();
        let reorders = reorders && !letter.keeps_order;
        let mut dice = self.dice.borrow_mut();
        let is_lost = dice.chance(loss_of_thousand) || self.is_cut(letter.from, letter.to);
        // Most letters are quick, a few take long.
        let delay_ms = if dice.chance(800) { dice.below(2) } else { dice.below(delay_ms_max) };
        drop(dice);
        if is_lost {
            return;
        }
        let mut arrival = Instant::now() + Duration::from_millis(delay_ms);
        if !reorders {
            let link = (letter.from, letter.to, letter.lane as u8);
            let mut latest = self.latest.borrow_mut();
            let latest = latest.entry(link).or_insert(arrival);
            arrival = arrival.max(*latest);
            *latest = arrival;
        }
        let number = self.letters.get();
        self.letters.set(number + 1);
        self.on_the_way.borrow_mut().insert((arrival, number), letter);
        self.sent.notify_one();
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.on_the_way.borrow().first_key_value().map(|((arrival, _), _)| *arrival)
    }

    fn take_arrived(&self) -> Option<Letter> {
        let now = Instant::now();
        let mut on_the_way = self.on_the_way.borrow_mut();
        let first = on_the_way.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }
}

/// Brings letters to their nodes, for ever.
pub(crate) async fn carry(world: Rc<World>) {
    loop {
        while let Some(letter) = world.network.take_arrived() {
            arrive(&world, letter);
        }
        let sent = world.network.sent.notified();
        match world.network.next_arrival() {
            // Whichever comes first; which of two at the same time does not matter, both lead here.
            Some(arrival) => drop(tokio::time::timeout_at(arrival, sent).await),
            None => sent.await,
        }
    }
}

fn arrive(world: &Rc<World>, letter: Letter) {
    let Letter { from, to, lane, keeps_order, event } = letter;
    let back = move |event| Letter { from: to, to: from, lane, keeps_order, event };
    match event {
        // A caller that went away is no error.
        Event::Answer { answer, caller } => drop(caller.send(answer.map_err(PeerError::Refused))),
        Event::Unreached { caller } => drop(caller.send(Err(PeerError::Unreached("nobody there".to_owned())))),
        Event::Request { operation, body, caller } => {
            let Ok(shard) = qmesh::shard::raft::wire::shard(&body) else {
                world.ledger.borrow_mut().violation(format!("node {from} sent what names no shard"));
                return;
            };
            let (reply, answer) = oneshot::channel();
            if !world.tell(to, Message::Mesh { operation, shard, body, reply }) {
                return world.network.send(back(Event::Unreached { caller }));
            }
            let world = world.clone();
            tokio::task::spawn_local(async move {
                // A node that died does not answer, and its caller will know that the connection is gone.
                if let Ok(answer) = answer.await {
                    world.network.send(back(Event::Answer { answer, caller }));
                }
            });
        }
    }
}

/// The other nodes, as one node reaches them.
pub(crate) struct Links {
    pub(crate) world: Weak<World>,
    pub(crate) from: usize,
}

impl Peers for Links {
    fn call(&self, node: NodeId, lane: Lane, operation: u16, body: Bytes, limit: Duration) -> PeerAnswer {
        let (world, from, to) = (self.world.clone(), self.from, node.0 as usize - 1);
        Box::pin(async move {
            let gone = || PeerError::Lost("the world has ended".to_owned());
            let (answered, limit) = {
                let world = world.upgrade().ok_or_else(gone)?;
                let (caller, answered) = oneshot::channel();
                let lost_ms = 50 + world.network.dice.borrow_mut().below(CONNECTION_LOST_MS_MAX - 50);
                let event = Event::Request { operation, body, caller };
                let keeps_order = operation == OP_RAFT_APPEND;
                world.network.send(Letter { from, to, lane, keeps_order, event });
                (answered, limit.min(Duration::from_millis(lost_ms)))
            };
            // A letter that was lost took the caller's place for the answer with it, and the caller must not know that at once.
            let started = Instant::now();
            match tokio::time::timeout(limit, answered).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => {
                    tokio::time::sleep_until(started + limit).await;
                    Err(PeerError::Lost("the connection is gone".to_owned()))
                }
                Err(_) => Err(PeerError::Lost("no answer in time".to_owned())),
            }
        })
    }
}
