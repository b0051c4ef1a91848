//! What goes wrong, by the seed.
//!
//! Promises: all of it is over when [`happen`] returns, except what the world's calm mends. Does not: check anything.

use std::rc::Rc;
use std::time::Duration;

use qmesh::ids::ShardId;
use qmesh::shard::GroupChange;

use super::Dice;
use super::network::Quality;
use super::node::SHARDS;
use super::world::{FAULTS_MS, World, id};

/// A slow disk's sync, in milliseconds.
const SLOW_SYNC_MS_MAX: u64 = 80;
/// Longest time that a node is down, in milliseconds.
const DOWN_MS_MAX: u64 = 900;

/// Has things go wrong for [`FAULTS_MS`].
pub(crate) async fn happen(world: &Rc<World>, mut dice: Dice) {
    let until = tokio::time::Instant::now() + Duration::from_millis(FAULTS_MS);
    // Some worlds are wild, some are nearly calm.
    let pause_ms_max = 60 + dice.below(500);
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10 + dice.below(pause_ms_max))).await;
        world.ledger.borrow_mut().faults += 1;
        let nodes = world.plan.nodes as u64;
        let node = dice.below(nodes) as usize;
        match dice.below(13) {
            0 | 1 => isolate(world, &mut dice, node),
            2 | 3 => world.network.cuts.borrow_mut().clear(),
            4 => drop(world.network.cuts.borrow_mut().insert((node, dice.below(nodes) as usize))),
            5 => {
                let slow = if dice.chance(600) { 5 + dice.below(SLOW_SYNC_MS_MAX) } else { super::disk::SYNC_MS_MAX };
                world.nodes.borrow()[node].pace.set_sync_ms_max(slow);
            }
            6..10 => {
                let everyone = dice.chance(150);
                let who: Vec<usize> = if everyone { (0..world.plan.nodes).collect() } else { vec![node] };
                for node in who {
                    crash(world, &mut dice, node).await;
                }
            }
            10 => world.network.set_quality(Quality {
                loss_of_thousand: dice.below(150),
                delay_ms_max: 2 + dice.below(60),
                reorders: dice.chance(300),
            }),
            11 => hand_over(world, ShardId(dice.below(u64::from(SHARDS)) as u16), node),
            _ => world.network.set_quality(world.plan.quality),
        }
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
    let (world, down) = (world.clone(), Duration::from_millis(dice.below(DOWN_MS_MAX)));
    tokio::task::spawn_local(async move {
        tokio::time::sleep(down).await;
        world.start(node);
    });
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
