//! The world of one seed: what is decided by the seed, who is alive, and how a run goes from its first start to its verdict.
//!
//! Promises: one thread, one clock that stands still while there is something to do. Does not: judge; `checks` does.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use qmesh::control::driver::plane::bare_request;
use qmesh::error::Refusal;
use qmesh::ids::{NodeId, ShardId};
use qmesh::router::message::{Message, Reply};
use qmesh::router::peers::{OP_GROUP_CHANGE, OP_GROUP_VIEW};
use qmesh::shard::GroupChange;
use qmesh::shard::raft::{GroupView, Timers};
use qmesh_storage::io::memory::{Faults, MemoryDisk};
use tokio::sync::oneshot;

use super::Dice;
use super::disk::Pace;
use super::ledger::Ledger;
use super::network::{Network, Quality};
use super::node::{Life, Node, ToNode};

/// Who waits longer than this does not know what became of its request.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(900);
/// Time between two looks at something that is awaited.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A fault that is planted in the build, which the checks must catch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Planted {
    /// None: the build as it is.
    #[default]
    Nothing,
    /// A restarted primary resumes its office.
    RestoresOffice,
    /// Syncs answer and make nothing durable.
    LyingSync,
    /// A read of a ref is answered by whichever replica was asked, from its own table.
    ReadsFromFollowers,
    /// An old answer is taken for a new one.
    AgeIsHidden,
}

/// What the seed decided beforehand.
pub(crate) struct Plan {
    pub(crate) planted: Planted,
    pub(crate) nodes: usize,
    /// They share one log.
    pub(crate) shards: u16,
    pub(crate) clients: u64,
    pub(crate) pause_ms_max: u64,
    pub(crate) quality: Quality,
    /// Bytes that may wait for a disk, before writes are refused.
    pub(crate) backlog_bytes_max: usize,
    /// Faults begin while the groups are still being made.
    pub(crate) is_rough_from_the_start: bool,
}

/// How long faults happen, in milliseconds.
pub(crate) const FAULTS_MS: u64 = 4_000;
/// How long clients go on when everything is well again, in milliseconds.
const CALM_MS: u64 = 400;

impl Plan {
    fn of(seed: u64, planted: Planted) -> Self {
        let mut dice = Dice::of(seed, 0);
        Self {
            planted,
            nodes: if dice.chance(700) { 3 } else { 5 },
            shards: if dice.chance(500) { 1 } else { 2 },
            clients: 2 + dice.below(4),
            pause_ms_max: 10 + dice.below(60),
            quality: Quality {
                loss_of_thousand: dice.below(60),
                delay_ms_max: 2 + dice.below(25),
                reorders: dice.chance(300),
            },
            backlog_bytes_max: if dice.chance(400) { 64 << 10 } else { 256 << 10 },
            is_rough_from_the_start: dice.chance(250),
        }
    }

    pub(crate) fn timers(&self) -> Timers {
        Timers { restores_office: self.planted == Planted::RestoresOffice, ..Timers::default() }
    }
}

/// See the file.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) network: Network,
    pub(crate) nodes: RefCell<Vec<Node>>,
    pub(crate) ledger: RefCell<Ledger>,
    pub(crate) clients_end: Cell<bool>,
    pub(crate) clients_left: Cell<u64>,
}

/// What became of a seed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) vertices: usize,
    pub(crate) moves: u64,
    pub(crate) reads: u64,
    pub(crate) old_reads: u64,
    pub(crate) unknown: u64,
    pub(crate) faults: u64,
    pub(crate) letters: u64,
    pub(crate) hash: u64,
    pub(crate) violations: Vec<String>,
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Has panics of a seed's thread become violations: a task that panics is otherwise only a task that ended.
fn note_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let is_of_a_seed = std::thread::current().name().is_some_and(|name| name.starts_with("seed-"));
            if is_of_a_seed {
                PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
            } else {
                before(panic);
            }
        }));
    });
}

/// Runs one seed.
pub(crate) fn run(seed: u64, planted: Planted) -> Outcome {
    note_panics();
    let thread = std::thread::Builder::new().name(format!("seed-{seed}")).stack_size(16 << 20);
    let body = move || {
        qmesh::runtime::seed_chance(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("an event loop");
        let local = tokio::task::LocalSet::new();
        let mut outcome = local.block_on(&runtime, live(seed, planted));
        drop(local);
        outcome.violations.extend(PANICS.take().into_iter().map(|panic| format!("panic: {panic}")));
        outcome
    };
    let thread = thread.spawn(body).expect("a thread");
    thread.join().unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        Outcome { seed, violations: vec![format!("the world itself panicked: {what}")], ..Outcome::default() }
    })
}

async fn live(seed: u64, planted: Planted) -> Outcome {
    let plan = Plan::of(seed, planted);
    let node = |number: usize| {
        let faults = Faults { sync_lies: planted == Planted::LyingSync, ..Faults::default() };
        let chances = 100 + number as u64;
        Node {
            disk: MemoryDisk::new(Dice::of(seed, chances).next(), faults),
            pace: Pace::new(Dice::of(seed, 100 + chances)),
            life: None,
        }
    };
    let world = Rc::new(World {
        nodes: RefCell::new((0..plan.nodes).map(node).collect()),
        network: Network::new(Dice::of(seed, 1), plan.quality),
        ledger: RefCell::default(),
        clients_end: Cell::new(false),
        clients_left: Cell::new(plan.clients),
        plan,
    });
    let postman = tokio::task::spawn_local(super::network::carry(world.clone()));
    (0..world.plan.nodes).for_each(|number| world.start(number));
    let gathered = world.clone();
    let gathering = tokio::task::spawn_local(async move { gather(&gathered).await });
    if world.plan.is_rough_from_the_start {
        super::faults::hit_the_first(&world, Dice::of(seed, 3)).await;
    } else {
        // It was not cancelled: nothing cancels it.
        let _ = gathering.await;
    }
    for client in 0..world.plan.clients {
        let dice = Dice::of(seed, 10 + client);
        tokio::task::spawn_local(super::clients::ask_for_ever(world.clone(), dice));
    }
    tokio::task::spawn_local(super::clients::read_old_for_ever(world.clone(), Dice::of(seed, 4)));
    super::faults::happen(&world, Dice::of(seed, 2)).await;
    world.calm().await;
    tokio::time::sleep(Duration::from_millis(CALM_MS)).await;
    world.clients_end.set(true);
    while 0 < world.clients_left.get() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    super::checks::judge(&world).await;
    for number in 0..world.plan.nodes {
        world.kill(number).await;
    }
    postman.abort();
    let letters = world.network.letters();
    let mut ledger = world.ledger.borrow_mut();
    ledger.note(&letters.to_le_bytes());
    Outcome {
        seed,
        vertices: ledger.acknowledged.len(),
        moves: ledger.moves,
        reads: ledger.reads,
        old_reads: ledger.old_reads,
        unknown: ledger.unknown,
        faults: ledger.faults,
        letters,
        hash: ledger.hash(),
        violations: std::mem::take(&mut ledger.violations),
    }
}

impl World {
    pub(crate) fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.plan.shards).map(ShardId)
    }

    /// Starts a node that is down.
    pub(crate) fn start(self: &Rc<Self>, number: usize) {
        let (disk, pace) = {
            let nodes = self.nodes.borrow();
            let node = &nodes[number];
            if node.life.is_some() {
                return;
            }
            (node.disk.clone(), node.pace.clone())
        };
        let life = Life::begin(self, number, disk, pace);
        self.nodes.borrow_mut()[number].life = Some(life);
    }

    /// Ends a node's life; its disk is as the last write left it.
    pub(crate) async fn kill(&self, number: usize) {
        let life = self.nodes.borrow_mut()[number].life.take();
        if let Some(life) = life {
            life.end().await;
        }
    }

    /// Hands something to a node; false when it is not serving.
    pub(crate) fn tell(&self, number: usize, message: Message) -> bool {
        self.tell_node(number, ToNode::Message(message))
    }

    pub(crate) fn tell_node(&self, number: usize, what: ToNode) -> bool {
        let nodes = self.nodes.borrow();
        let life = nodes[number].life.as_ref().filter(|life| life.is_serving.get());
        life.is_some_and(|life| life.inbox.send(what).is_ok())
    }

    /// Asks a node's host as a client does. `None`: nobody knows what became of it. `Some(Err)`: the node was not there.
    pub(crate) async fn ask<T>(
        &self,
        number: usize,
        message: impl FnOnce(Reply<T>) -> Message,
    ) -> Option<Result<T, NotThere>> {
        let (reply, answer) = oneshot::channel();
        if !self.tell(number, message(reply)) {
            return Some(Err(NotThere));
        }
        tokio::time::timeout(ANSWER_TIMEOUT, answer).await.ok()?.ok().map(Ok)
    }

    async fn ask_group(
        &self,
        number: usize,
        operation: u16,
        shard: ShardId,
        body: bytes::Bytes,
    ) -> Option<bytes::Bytes> {
        let answer: Option<Result<Result<bytes::Bytes, Refusal>, NotThere>> =
            self.ask(number, |reply| Message::Mesh { operation, shard, body, reply }).await;
        answer?.ok()?.ok()
    }

    /// What a group looks like from a node.
    pub(crate) async fn view(&self, number: usize, shard: ShardId) -> Option<GroupView> {
        let view = self.ask_group(number, OP_GROUP_VIEW, shard, bare_request(shard)).await?;
        serde_json::from_slice(&view).ok()
    }

    /// Asks for a change of a group; true when it was carried out.
    pub(crate) async fn change(&self, number: usize, shard: ShardId, change: &GroupChange) -> bool {
        self.ask_group(number, OP_GROUP_CHANGE, shard, change.request(shard)).await.is_some()
    }

    /// The node that believes to be primary in the highest term, with what it sees.
    pub(crate) async fn primary(&self, shard: ShardId) -> Option<(usize, GroupView)> {
        let mut found: Option<(usize, GroupView)> = None;
        for number in 0..self.plan.nodes {
            let Some(view) = self.view(number, shard).await.filter(|view| view.role == "primary") else { continue };
            if found.as_ref().is_none_or(|(_, known)| known.term < view.term) {
                found = Some((number, view));
            }
        }
        found
    }

    /// Everything that was broken is mended, and everyone is started.
    pub(crate) async fn calm(self: &Rc<Self>) {
        self.network.cuts.borrow_mut().clear();
        self.network.set_quality(Quality { loss_of_thousand: 0, delay_ms_max: 2, reorders: false });
        for number in 0..self.plan.nodes {
            {
                let nodes = self.nodes.borrow();
                nodes[number].pace.set_sync_ms_max(super::disk::SYNC_MS_MAX);
                nodes[number].disk.with_faults(|faults| faults.space_bytes = None);
            }
            self.start(number);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The node was down.
#[derive(Debug)]
pub(crate) struct NotThere;

/// Makes all nodes voters of all groups, whatever happens meanwhile.
pub(crate) async fn gather(world: &World) {
    let everyone: std::collections::BTreeSet<u64> = (1..=world.plan.nodes as u64).collect();
    for shard in world.shards() {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            let Some((primary, view)) = world.primary(shard).await else { continue };
            if view.voters == everyone {
                break;
            }
            for &node in everyone.iter().filter(|node| !view.voters.contains(node) && !view.learners.contains(node)) {
                world.change(primary, shard, &GroupChange::AddLearner { node }).await;
            }
            world.change(primary, shard, &GroupChange::SetVoters { voters: everyone.clone(), keep: false }).await;
        }
    }
}

/// The id of a node by its number.
pub(crate) fn id(number: usize) -> NodeId {
    NodeId(number as u64 + 1)
}
