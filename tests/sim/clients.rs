//! Clients: they put vertices and move refs through whichever node answers, and remember what they were told.
//!
//! Promises: every call and every answer is in the ledger in the order in which it happened. Does not: judge.

use std::rc::Rc;
use std::time::Duration;

use qmesh::dag::archive::SealedVertex;
use qmesh::dag::refs::{Expect, Position, RefMove, RefName};
use qmesh::dag::vertex::Vertex;
use qmesh::error::Reason;
use qmesh::ids::VertexId;
use qmesh::router::consistency::{Consistency, Freshness};
use qmesh::router::message::{Message, Read};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Dice;
use super::checks::{Asked, Told};
use super::node::ToNode;
use super::world::{Planted, World};

/// Refs that clients move.
pub(crate) const REFS: [&str; 4] = ["heads/main", "heads/next", "tags/one", "tags/two"];
/// Vertices of one put.
const PUT_VERTICES_MAX: u64 = 4;
/// Payload of one vertex, in bytes.
const PAYLOAD_BYTES_MAX: u64 = 300;

pub(crate) fn name(text: &str) -> RefName {
    text.parse().expect("a name of a ref")
}

/// One client's life.
pub(crate) async fn ask_for_ever(world: Rc<World>, mut dice: Dice) {
    // What this client put last, to be put again through another node.
    let mut last: Vec<SealedVertex> = Vec::new();
    while !world.clients_end.get() {
        let node = dice.below(world.plan.nodes as u64) as usize;
        match dice.below(10) {
            0..4 => last = put(&world, &mut dice, node, &last).await,
            4 => find(&world, &mut dice, node).await,
            5 | 6 => get_ref(&world, node, name(REFS[dice.below(4) as usize])).await,
            _ => set_ref(&world, &mut dice, node).await,
        }
        tokio::time::sleep(Duration::from_millis(1 + dice.below(world.plan.pause_ms_max))).await;
    }
    world.clients_left.set(world.clients_left.get() - 1);
}

async fn put(world: &World, dice: &mut Dice, node: usize, last: &[SealedVertex]) -> Vec<SealedVertex> {
    let records = if dice.chance(120) && !last.is_empty() { last.to_vec() } else { vertices(world, dice) };
    let asked = records.clone();
    let answer = world.ask(node, |reply| Message::Put { records, reply }).await;
    let mut ledger = world.ledger.borrow_mut();
    match answer {
        Some(Ok(outcomes)) => {
            for (vertex, outcome) in asked.iter().zip(outcomes) {
                match outcome {
                    Ok(receipt) => {
                        ledger.note(&receipt.index.0.to_le_bytes());
                        ledger.acknowledged.insert(vertex.id(), vertex.clone());
                    }
                    Err(refusal) => match refusal.reason {
                        Reason::Unavailable | Reason::Overloaded | Reason::DiskFull => {}
                        _ => ledger.violation(format!("a put was answered {refusal}")),
                    },
                }
            }
        }
        Some(Err(_)) => {}
        None => ledger.unknown += 1,
    }
    asked
}

/// Some vertex that was acknowledged before this moment.
fn acknowledged(world: &World, dice: &mut Dice) -> Option<VertexId> {
    let near = VertexId(std::array::from_fn(|_| dice.next() as u8));
    world.ledger.borrow().acknowledged.range(near..).next().map(|(id, _)| *id)
}

/// Reads a vertex that was acknowledged: whoever answers must have it, whatever is broken.
async fn find(world: &World, dice: &mut Dice, node: usize) {
    let Some(id) = acknowledged(world, dice) else { return };
    let found = if dice.chance(500) {
        let answer = world.ask(node, |reply| Message::Get { ids: vec![id], reply }).await;
        answer.and_then(Result::ok).and_then(|mut found| found.pop()?.ok()).map(|found| found.is_some())
    } else {
        let answer = world.ask(node, |reply| Message::Exists { ids: vec![id], reply }).await;
        answer.and_then(Result::ok).and_then(|mut found| found.pop()?.ok())
    };
    if found == Some(false) {
        world
            .ledger
            .borrow_mut()
            .violation(format!("node {node} says that {id} is nowhere; it was acknowledged: it is lost"));
    }
}

fn vertices(world: &World, dice: &mut Dice) -> Vec<SealedVertex> {
    let count = 1 + dice.below(PUT_VERTICES_MAX);
    (0..count)
        .map(|_| {
            let is_child = dice.chance(300);
            let parents = acknowledged(world, dice).into_iter().filter(|_| is_child).collect();
            let payload = (0..dice.below(PAYLOAD_BYTES_MAX)).map(|_| dice.next() as u8).collect();
            let vertex = Vertex {
                namespace: "default".to_owned(),
                kind: "note".to_owned(),
                author: None,
                timestamp_ms: dice.next() >> 20,
                parents,
                labels: [].into(),
                payload,
            };
            SealedVertex::seal(&vertex, None).expect("within limits")
        })
        .collect()
}

/// Reads a ref through a node.
pub(crate) async fn get_ref(world: &World, node: usize, name: RefName) {
    let call = world.ledger.borrow_mut().refs.entry(name.clone()).or_default().call(Asked::Get);
    let answer = if world.plan.planted == Planted::ReadsFromFollowers {
        let (reply, answer) = oneshot::channel();
        let is_told = world.tell_node(node, ToNode::RefHere(name.clone(), reply));
        let position = if is_told { answer.await.ok() } else { None };
        position.map(|position| Ok(position.filter(|position| position.at.is_some())))
    } else {
        let asked = name.clone();
        let answer = world
            .ask(node, |reply| Message::RefGet { name: asked, consistency: Consistency::Linearizable, reply })
            .await;
        answer.and_then(Result::ok).map(|read| read.map(|(position, _)| position))
    };
    let mut ledger = world.ledger.borrow_mut();
    ledger.note(format!("{answer:?}").as_bytes());
    let told = match answer {
        Some(Ok(position)) => {
            ledger.reads += 1;
            Told::At(position)
        }
        // A read that has no answer says nothing.
        Some(Err(_)) | None => Told::Nothing,
    };
    ledger.refs.entry(name).or_default().told(call, told);
}

/// Reads refs at whichever replica, however old its answer is, and holds it to the age that it tells.
pub(crate) async fn read_old_for_ever(world: Rc<World>, mut dice: Dice) {
    while !world.clients_end.get() {
        tokio::time::sleep(Duration::from_millis(1 + dice.below(world.plan.pause_ms_max))).await;
        let node = dice.below(world.plan.nodes as u64) as usize;
        let name = name(REFS[dice.below(4) as usize]);
        let (asked, asked_at) = (name.clone(), Instant::now());
        let answer = world
            .ask(node, |reply| Message::RefGet { name: asked, consistency: Consistency::Any, reply })
            .await
            .and_then(Result::ok);
        let Some(Ok((position, freshness))) = answer as Option<Read<Option<Position>>> else { continue };
        let Freshness { staleness_ms: Some(mut staleness_ms), answered, .. } = freshness else { continue };
        if world.plan.planted == Planted::AgeIsHidden {
            staleness_ms = 0;
        }
        let mut ledger = world.ledger.borrow_mut();
        ledger.old_reads += 1;
        let Some(then) = asked_at.checked_sub(Duration::from_millis(staleness_ms)) else { continue };
        let moves = ledger.acknowledged_moves.get(&name).into_iter().flatten();
        let known = moves.filter(|(at, _)| *at <= then).map(|(_, version)| *version).max().unwrap_or(0);
        // A ref that is not there may have been deleted, by a move that nobody was told of too.
        let is_older = position.is_some_and(|position| position.version < known)
            || (position.is_none() && 0 < known && !ledger.deleted.contains(&name));
        if is_older {
            let what = format!(
                "node {node} ({answered:?}) answers {position:?} for {name} and says {staleness_ms} ms, but version {known} is older than that"
            );
            ledger.violation(what);
        }
    }
}

async fn set_ref(world: &World, dice: &mut Dice, node: usize) {
    let name = name(REFS[dice.below(4) as usize]);
    let known = world.ledger.borrow().refs.get(&name).and_then(|history| history.seen_last());
    let expect = match (dice.below(10), known.and_then(|position| position.at)) {
        (0 | 1, _) => Expect::Any,
        (2, _) => Expect::Absent,
        (_, Some(at)) => Expect::At(at),
        (_, None) => Expect::Absent,
    };
    // Every target is new, so that a read says which move it saw.
    let to = if dice.chance(100) { None } else { Some(VertexId(std::array::from_fn(|_| dice.next() as u8))) };
    if to.is_none() {
        world.ledger.borrow_mut().deleted.insert(name.clone());
    }
    let call = world.ledger.borrow_mut().refs.entry(name.clone()).or_default().call(Asked::Set { expect, to });
    let change =
        RefMove { name: name.clone(), expect, to, actor: "client".into(), reason: String::new(), timestamp_ms: 1 };
    let answer = world.ask(node, |reply| Message::RefSet { change: Box::new(change), reply }).await;
    let mut ledger = world.ledger.borrow_mut();
    ledger.note(format!("{answer:?}").as_bytes());
    let told = match answer {
        Some(Ok(Ok(receipt))) => {
            ledger.moves += 1;
            let acknowledged = (Instant::now(), receipt.position.version);
            ledger.acknowledged_moves.entry(name.clone()).or_default().push(acknowledged);
            Told::At(Some(receipt.position))
        }
        Some(Ok(Err(refusal))) => match refusal.reason {
            Reason::Conflict => Told::Refused,
            Reason::OutcomeUnknown => Told::Unknown,
            // These promise that nothing was moved.
            Reason::Unavailable | Reason::Overloaded | Reason::DiskFull => Told::Nothing,
            _ => {
                ledger.violation(format!("a move of a ref was answered {refusal}"));
                Told::Unknown
            }
        },
        Some(Err(_)) => Told::Nothing,
        None => Told::Unknown,
    };
    if told == Told::Unknown {
        ledger.unknown += 1;
    }
    ledger.refs.entry(name).or_default().told(call, told);
}
