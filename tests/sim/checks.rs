//! What must hold when the faults are over: nothing acknowledged is lost, all replicas are alike, refs were linearizable.
//!
//! Promises: the judge of linearizability is a checker that this project did not write. Does not: trust a replica; vertices are
//! verified by their hashes.

use std::collections::BTreeMap;
use std::time::Duration;

use qmesh::dag::archive::SealedVertex;
use qmesh::dag::refs::{Expect, Position};
use qmesh::ids::VertexId;
use qmesh::router::message::Message;
use todc_utils::{Action, History, Specification, WGLChecker};
use tokio::sync::oneshot;

use super::clients::{REFS, get_ref, name};
use super::node::ToNode;
use super::world::{World, gather};

/// Replicas that are well must be alike after so long.
const CONVERGE_MS_MAX: u64 = 15_000;
const LOOK_AGAIN_MS: u64 = 100;

/// What a client asked of a ref.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Get,
    Set { expect: Expect, to: Option<VertexId> },
}

/// What it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Where the ref is.
    At(Option<Position>),
    /// It was not where the client expected it.
    Refused,
    /// It may have been moved, and may still be.
    Unknown,
    /// Nothing was moved, and nothing was read.
    Nothing,
}

/// Calls and answers about one ref, in the order in which they happened.
#[derive(Default)]
pub(crate) struct RefHistory {
    calls: Vec<(Asked, Option<Told>)>,
    events: Vec<Event>,
    seen_last: Option<Position>,
}

#[derive(Clone, Copy)]
enum Event {
    Call(usize),
    Answer(usize),
}

impl RefHistory {
    pub(crate) fn call(&mut self, asked: Asked) -> usize {
        self.calls.push((asked, None));
        self.events.push(Event::Call(self.calls.len() - 1));
        self.calls.len() - 1
    }

    pub(crate) fn told(&mut self, call: usize, told: Told) {
        self.calls[call].1 = Some(told);
        self.events.push(Event::Answer(call));
        if let Told::At(position) = told {
            self.seen_last = position;
        }
    }

    pub(crate) fn seen_last(&self) -> Option<Position> {
        self.seen_last
    }

    /// Whether some order of the calls, each between its call and its answer, explains every answer.
    pub(crate) fn is_linearizable(&self) -> bool {
        let operation =
            |call: usize| Operation { asked: self.calls[call].0, told: self.calls[call].1.unwrap_or(Told::Unknown) };
        let counts = |call: usize| operation(call).told != Told::Nothing;
        let mut actions = Vec::new();
        let mut open = Vec::new();
        for event in &self.events {
            match *event {
                Event::Call(call) if counts(call) => {
                    actions.push((call, Action::Call(operation(call))));
                    open.push(call);
                }
                Event::Answer(call) if counts(call) && operation(call).told != Told::Unknown => {
                    actions.push((call, Action::Response(operation(call))));
                    open.retain(|&other| other != call);
                }
                _ => {}
            }
        }
        // What is unknown may happen at any time after its call, and never.
        actions.extend(open.into_iter().map(|call| (call, Action::Response(operation(call)))));
        actions.is_empty() || WGLChecker::<Register>::is_linearizable(History::from_actions(actions))
    }

    /// The history in words, for whoever has to find out why it is not linearizable.
    pub(crate) fn words(&self) -> String {
        let short = |id: Option<VertexId>| id.map_or("-".to_owned(), |id| format!("{:02x}{:02x}", id.0[0], id.0[1]));
        let mut out = String::new();
        for event in &self.events {
            let line = match *event {
                Event::Call(call) => match self.calls[call].0 {
                    Asked::Get => format!("{call:>4} get\n"),
                    Asked::Set { expect: Expect::At(at), to } => {
                        format!("{call:>4} set {} -> {}\n", short(Some(at)), short(to))
                    }
                    Asked::Set { expect, to } => format!("{call:>4} set {expect:?} -> {}\n", short(to)),
                },
                Event::Answer(call) => match self.calls[call].1 {
                    Some(Told::At(Some(position))) => {
                        format!("{call:>4}     = {} version {}\n", short(position.at), position.version)
                    }
                    told => format!("{call:>4}     = {told:?}\n"),
                },
            };
            out.push_str(&line);
        }
        out
    }
}

/// A call with its answer, as the checker takes it.
#[derive(Clone, Copy, Debug)]
struct Operation {
    asked: Asked,
    told: Told,
}

/// What a ref is: a register that moves by compare-and-set and counts its moves.
struct Register;

impl Specification for Register {
    type State = (Option<[u8; 32]>, u64);
    type Operation = Operation;

    fn init() -> Self::State {
        (None, 0)
    }

    fn apply(operation: &Operation, &(at, version): &Self::State) -> (bool, Self::State) {
        let same = (at, version);
        let Asked::Set { expect, to } = operation.asked else {
            let Told::At(seen) = operation.told else { return (true, same) };
            let seen = seen.map(|position| (position.at.map(|id| id.0), position.version));
            return (seen == at.is_some().then_some(same), same);
        };
        let is_as_expected = match expect {
            Expect::Any => true,
            Expect::Absent => at.is_none(),
            Expect::At(id) => at == Some(id.0),
        };
        let moves = is_as_expected && (at.is_some() || to.is_some());
        let moved = if moves { (to.map(|id| id.0), version + 1) } else { same };
        match operation.told {
            Told::At(position) => {
                let told = position.map(|position| (position.at.map(|id| id.0), position.version));
                (moves && told == Some(moved), moved)
            }
            Told::Refused => (!moves, same),
            Told::Unknown | Told::Nothing => (true, moved),
        }
    }
}

/// Judges a world that is well again and whose clients have ended.
pub(crate) async fn judge(world: &World) {
    // Who became a learner is a voter again; nobody is left behind.
    if tokio::time::timeout(Duration::from_millis(CONVERGE_MS_MAX), gather(world)).await.is_err() {
        world.ledger.borrow_mut().violation("the groups are not those of all nodes again".to_owned());
    }
    converge(world).await;
    for text in REFS {
        for node in 0..world.plan.nodes {
            get_ref(world, node, name(text)).await;
        }
    }
    replicas_are_alike(world).await;
    acknowledged_is_everywhere(world).await;
    let mut ledger = world.ledger.borrow_mut();
    let refs = std::mem::take(&mut ledger.refs);
    for (name, history) in &refs {
        if !history.is_linearizable() {
            ledger.violation(format!("the history of {name} is not linearizable:\n{}", history.words()));
        }
    }
}

/// Waits until every replica of every shard has applied the same last entry.
async fn converge(world: &World) {
    for shard in world.shards() {
        let mut waited_ms = 0;
        loop {
            let mut views = Vec::new();
            for node in 0..world.plan.nodes {
                views.push(world.view(node, shard).await);
            }
            let is_alike = views.iter().all(|view| {
                view.as_ref().is_some_and(|view| {
                    view.applied == view.last && views[0].as_ref().is_some_and(|first| first.last == view.last)
                })
            });
            let has_primary = views.iter().flatten().any(|view| view.role == "primary");
            if is_alike && has_primary {
                let seen = format!("{:?}", views.first());
                world.ledger.borrow_mut().note(seen.as_bytes());
                break;
            }
            if CONVERGE_MS_MAX < waited_ms {
                let what = format!("shard {} does not come together: {views:#?}", shard.0);
                world.ledger.borrow_mut().violation(what);
                break;
            }
            waited_ms += LOOK_AGAIN_MS;
            tokio::time::sleep(Duration::from_millis(LOOK_AGAIN_MS)).await;
        }
    }
}

/// A put whose client has gone may still be on its way, so replicas that differ are looked at again for a while.
async fn replicas_are_alike(world: &World) {
    let mut waited_ms = 0;
    loop {
        let mut differences = of_entries(world);
        differences.extend(of_refs(world).await);
        differences.extend(of_queues(world).await);
        if differences.is_empty() {
            return;
        }
        if CONVERGE_MS_MAX < waited_ms {
            let mut ledger = world.ledger.borrow_mut();
            return differences.into_iter().for_each(|difference| ledger.violation(difference));
        }
        waited_ms += LOOK_AGAIN_MS;
        tokio::time::sleep(Duration::from_millis(LOOK_AGAIN_MS)).await;
    }
}

/// Where a replica does not hold the entries that were agreed.
fn of_entries(world: &World) -> Vec<String> {
    let ledger = world.ledger.borrow();
    let mut differences = Vec::new();
    for (node, held) in &ledger.held {
        for (place, agreed) in &ledger.agreed {
            if held.get(place) != Some(&agreed.vertices) {
                let (held, agreed) = (held.get(place), &agreed.vertices);
                differences.push(format!("node {node} holds {held:?} at {place:?}, agreed were {agreed:?}"));
            }
        }
        let more = held.iter().filter(|(place, vertices)| !vertices.is_empty() && !ledger.agreed.contains_key(place));
        // Recovered by everyone and applied by nobody: then all must hold the same.
        for (place, vertices) in more {
            if ledger.held.values().any(|other| other.get(place) != Some(vertices)) {
                differences.push(format!("node {node} holds {vertices:?} at {place:?}, another does not"));
            }
        }
    }
    differences
}

/// Where the tables of refs differ.
async fn of_refs(world: &World) -> Vec<String> {
    let mut differences = Vec::new();
    for text in REFS {
        let mut positions: BTreeMap<usize, Option<Position>> = BTreeMap::new();
        for node in 0..world.plan.nodes {
            let (reply, answer) = oneshot::channel();
            if world.tell_node(node, ToNode::RefHere(name(text), reply)) {
                positions.extend(answer.await.ok().map(|position| (node, position)));
            }
        }
        let first = positions.values().next().copied().flatten();
        if positions.len() != world.plan.nodes || positions.values().any(|&position| position != first) {
            differences.push(format!("{text} is not at one place on all replicas: {positions:?}"));
        }
    }
    differences
}

/// Where something that was proposed never came to an end.
async fn of_queues(world: &World) -> Vec<String> {
    let mut differences = Vec::new();
    for node in 0..world.plan.nodes {
        let stats = world.ask(node, |reply| Message::Stats { reply }).await.and_then(Result::ok);
        let pending = stats.map(|stats| stats.shards.iter().map(|shard| shard.pending).sum::<u64>());
        if pending != Some(0) {
            differences.push(format!("node {node} has {pending:?} records that are proposed and never settled"));
        }
    }
    differences
}

async fn acknowledged_is_everywhere(world: &World) {
    let acknowledged: Vec<VertexId> = world.ledger.borrow().acknowledged.keys().copied().collect();
    for node in 0..world.plan.nodes {
        for ids in acknowledged.chunks(256) {
            let answer = world.ask(node, |reply| Message::Get { ids: ids.to_vec(), reply }).await;
            let Some(Ok(found)) = answer else {
                let what = format!("node {node} does not answer a read of {} vertices", ids.len());
                return world.ledger.borrow_mut().violation(what);
            };
            let mut ledger = world.ledger.borrow_mut();
            for (id, found) in ids.iter().zip(found) {
                let verified = found.map(|found| found.map(|vertex| SealedVertex::verify(vertex.into_record())));
                match verified {
                    Ok(Some(Ok(vertex))) if vertex.id() == *id => {}
                    Ok(None) => ledger.violation(format!("node {node} lost {id}, which was acknowledged")),
                    other => ledger.violation(format!("node {node} answers {other:?} for {id}")),
                }
            }
        }
    }
}
