//! What goes wrong, by the seed.
//!
//! Promises: all of it is over when [`happen`] returns, except what the world's calm mends. Does not: check anything.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use qmesh::ids::ShardId;
use qmesh::router::message::Message;
use qmesh::shard::GroupChange;

use super::Dice;
use super::network::Quality;
use super::world::{FAULTS_MS, World, id};

/// A slow disk's sync, in milliseconds.
const SLOW_SYNC_MS_MAX: u64 = 80;
/// A group's first entries are made within so long, in milliseconds.
const FIRST_MS_MAX: u64 = 40;
/// Time for a node to stop when it is asked to.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// A disk that is nearly full has up to so much left, in bytes.
const FILL_BYTES_LEFT_MAX: u64 = 200 << 10;
/// Longest time that a node is down, in milliseconds.
const DOWN_MS_MAX: u64 = 900;
/// Longest time of a restart that nobody notices before it is over, in milliseconds.
const DOWN_MS_SHORT: u64 = 60;

/// Has things go wrong for [`FAULTS_MS`].
pub(crate) async fn happen(world: &Rc<World>, mut dice: Dice) {
    let until = tokio::time::Instant::now() + Duration::from_millis(FAULTS_MS);
    // Some worlds are wild, some are nearly calm.
    let pause_ms_max = 100 + dice.below(500);
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10 + dice.below(pause_ms_max))).await;
        world.ledger.borrow_mut().faults += 1;
        let nodes = world.plan.nodes as u64;
        let node = dice.below(nodes) as usize;
        match dice.below(18) {
            0 | 1 => isolate(world, &mut dice, node),
            2 | 3 => world.network.cuts.borrow_mut().clear(),
            4 => drop(world.network.cuts.borrow_mut().insert((node, dice.below(nodes) as usize))),
            5 => {
                let slow = if dice.chance(600) { 5 + dice.below(SLOW_SYNC_MS_MAX) } else { super::disk::SYNC_MS_MAX };
                world.nodes.borrow()[node].pace.set_sync_ms_max(slow);
            }
            6..10 => {
                let who = match dice.below(20) {
                    0..3 => (0..world.plan.nodes).collect(),
                    3..12 => vec![node],
                    _ => primaries(world).await,
                };
                for node in who {
                    crash(world, &mut dice, node).await;
                }
            }
            10 => world.network.set_quality(Quality {
                loss_of_thousand: dice.below(150),
                delay_ms_max: 2 + dice.below(60),
                reorders: dice.chance(300),
            }),
            13 => fill(world, &mut dice, node),
            14 => world.nodes.borrow()[node].disk.with_faults(|faults| faults.space_bytes = None),
            15 | 16 => change_voters(world, &mut dice),
            17 => stop(world, node).await,
            11 => hand_over(world, ShardId(dice.below(u64::from(world.plan.shards)) as u16), node),
            _ => world.network.set_quality(world.plan.quality),
        }
    }
}

/// The node that makes the groups dies while it makes them.
pub(crate) async fn hit_the_first(world: &Rc<World>, mut dice: Dice) {
    for _ in 0..dice.below(6) {
        tokio::time::sleep(Duration::from_millis(dice.below(FIRST_MS_MAX))).await;
        world.kill(0).await;
        world.nodes.borrow()[0].disk.crash();
        world.start(0);
    }
}

/// Cuts a node off, both ways or one way.
fn isolate(world: &World, dice: &mut Dice, node: usize) {
    let ways = dice.below(3);
    let mut cuts = world.network.cuts.borrow_mut();
    for other in (0..world.plan.nodes).filter(|&other| other != node) {
        if ways != 1 {
            cuts.insert((node, other));
        }
        if ways != 2 {
            cuts.insert((other, node));
        }
    }
}

/// A node dies: by a power cut that takes what was not synced, or alone, so that its machine keeps what was written.
async fn crash(world: &Rc<World>, dice: &mut Dice, node: usize) {
    world.kill(node).await;
    {
        let nodes = world.nodes.borrow();
        if dice.chance(800) {
            nodes[node].disk.crash();
        } else {
            nodes[node].disk.kill();
        }
    }
    let down_ms = if dice.chance(400) { DOWN_MS_SHORT } else { DOWN_MS_MAX };
    let (world, down) = (world.clone(), Duration::from_millis(dice.below(down_ms)));
    tokio::task::spawn_local(async move {
        tokio::time::sleep(down).await;
        world.start(node);
    });
}

/// A node's disk is nearly full.
fn fill(world: &World, dice: &mut Dice, node: usize) {
    let nodes = world.nodes.borrow();
    let disk = &nodes[node].disk;
    let used: usize = disk.paths().iter().filter_map(|path| disk.content(path)).map(|content| content.len()).sum();
    let left = dice.below(FILL_BYTES_LEFT_MAX);
    disk.with_faults(|faults| faults.space_bytes = Some(used as u64 + left));
}

/// Asks a primary to make other nodes voters; those that leave stay as learners.
fn change_voters(world: &Rc<World>, dice: &mut Dice) {
    let shard = ShardId(dice.below(u64::from(world.plan.shards)) as u16);
    let mut voters: BTreeSet<u64> = (1..=world.plan.nodes as u64).collect();
    if dice.chance(600) {
        voters.remove(&(1 + dice.below(world.plan.nodes as u64)));
    }
    if dice.chance(300) {
        voters.remove(&(1 + dice.below(world.plan.nodes as u64)));
    }
    let world = world.clone();
    tokio::task::spawn_local(async move {
        if let Some((primary, _)) = world.primary(shard).await {
            // It may refuse, or be gone by now.
            world.change(primary, shard, &GroupChange::SetVoters { voters, keep: true }).await;
        }
    });
}

/// The primaries of now, whom a fault hurts most.
async fn primaries(world: &World) -> Vec<usize> {
    let mut found = BTreeSet::new();
    for shard in world.shards() {
        found.extend(world.primary(shard).await.map(|(node, _)| node));
    }
    found.into_iter().collect()
}

/// A node is asked to stop, and starts again.
async fn stop(world: &Rc<World>, node: usize) {
    let (reply, stopped) = tokio::sync::oneshot::channel();
    if world.tell(node, Message::Drain { reply }) {
        if tokio::time::timeout(STOP_LIMIT, stopped).await.is_err() {
            world.ledger.borrow_mut().violation(format!("node {node} does not stop"));
        }
        world.kill(node).await;
        world.nodes.borrow()[node].disk.kill();
        world.start(node);
    }
}

/// Asks a primary to hand its office to `node`.
fn hand_over(world: &Rc<World>, shard: ShardId, node: usize) {
    let world = world.clone();
    tokio::task::spawn_local(async move {
        if let Some((primary, _)) = world.primary(shard).await {
            // It may refuse, or be gone by now.
            world.change(primary, shard, &GroupChange::Transfer { to: id(node).0 }).await;
        }
    });
}
