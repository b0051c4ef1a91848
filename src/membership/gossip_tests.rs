//! Members in a world of lost, late and cut datagrams, which is the same for the same seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::ids::{Epoch, NodeId};
use crate::limits::INBOX_MESSAGES_MAX;
use crate::membership::wire::{self, HEADER_BYTES, MEMBERSHIP_WIRE_VERSION, WireError};
use crate::membership::{
    Build, DATAGRAM_BYTES_MAX, EFFECTS_MAX, Effect, Gossip, Health, Identity, Ignored, Load, PEERS_MAX, Timing,
};

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A datagram on its way: when it arrives, its number, to whom, from whom, and its bytes.
type OnTheWay = Reverse<(u64, u64, NodeId, NodeId, Vec<u8>)>;

struct World {
    now_ms: u64,
    nodes: BTreeMap<NodeId, Gossip>,
    on_the_way: BinaryHeap<OnTheWay>,
    sent: u64,
    chance: Chance,
    loss_permille: u64,
    /// Who is on which side; datagrams between sides are lost.
    sides: BTreeMap<NodeId, u8>,
    returned: usize,
}

fn identity(node: u64, generation: u64) -> Identity {
    let address = format!("127.0.0.{node}:7000").parse().expect("an address");
    Identity { node: NodeId(node), generation, address }
}

fn ids(nodes: &[u64]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

impl World {
    fn of(count: u64, seed: u64, loss_permille: u64) -> Self {
        let mut world = Self {
            now_ms: 1000,
            nodes: BTreeMap::new(),
            on_the_way: BinaryHeap::new(),
            sent: 0,
            chance: Chance(seed),
            loss_permille,
            sides: BTreeMap::new(),
            returned: 0,
        };
        for node in 1..=count {
            world.start(node, 1, &(1..=count).collect::<Vec<_>>());
        }
        world
    }

    fn start(&mut self, node: u64, generation: u64, roster: &[u64]) {
        let seed = self.chance.below(u64::MAX);
        let mut gossip = Gossip::new(self.now_ms, identity(node, generation), Timing::default(), seed);
        gossip.set_roster(self.now_ms, ids(roster));
        self.nodes.insert(NodeId(node), gossip);
        self.carry(NodeId(node));
    }

    /// Takes a node's effects.
    fn carry(&mut self, from: NodeId) {
        while let Some(effect) = self.nodes.get_mut(&from).and_then(Gossip::poll_effect) {
            match effect {
                Effect::Send { to, datagram } => {
                    assert!(datagram.len() <= DATAGRAM_BYTES_MAX, "a datagram of {} bytes", datagram.len());
                    self.sent += 1;
                    let cut = self.sides.get(&from) != self.sides.get(&to);
                    let lost = self.chance.below(1000) < self.loss_permille;
                    let arrives_ms = self.now_ms + 1 + self.chance.below(80);
                    if !cut && !lost {
                        self.on_the_way.push(Reverse((arrives_ms, self.sent, to, from, datagram)));
                    }
                }
                Effect::Returned { .. } => self.returned += 1,
                Effect::Changed(_) => {}
            }
        }
    }

    /// Lets the world go on until `done` or until the time is over; answers how long it took.
    fn until(&mut self, within_ms: u64, done: impl Fn(&Self) -> bool) -> Option<u64> {
        let start_ms = self.now_ms;
        loop {
            if done(self) {
                return Some(self.now_ms - start_ms);
            }
            let arrival = self.on_the_way.peek().map(|Reverse((at, ..))| *at);
            let wake = self.nodes.values().filter_map(Gossip::poll_deadline).min();
            let next_ms = arrival.into_iter().chain(wake).min()?.max(self.now_ms);
            if start_ms + within_ms < next_ms {
                self.now_ms = start_ms + within_ms;
                return None;
            }
            self.now_ms = next_ms;
            while let Some(Reverse((at, ..))) = self.on_the_way.peek()
                && *at <= next_ms
            {
                let Some(Reverse((_, _, to, from, datagram))) = self.on_the_way.pop() else { break };
                let Some(node) = self.nodes.get_mut(&to) else { continue };
                match node.handle_datagram(next_ms, from, &datagram) {
                    Ok(()) | Err(Ignored::Stranger(_)) => {}
                    Err(ignored) => panic!("an honest datagram was ignored: {ignored}"),
                }
                self.carry(to);
            }
            for node in self.nodes.keys().copied().collect::<Vec<_>>() {
                let gossip = self.nodes.get_mut(&node).expect("it is there");
                if gossip.poll_deadline().is_some_and(|deadline| deadline <= next_ms) {
                    gossip.expire(next_ms);
                    self.carry(node);
                }
            }
        }
    }

    fn health(&self, of: u64, seen_by: u64) -> Health {
        self.nodes[&NodeId(seen_by)].view().peer(NodeId(of)).expect("it is in the roster").health
    }

    /// Whether everyone in `seers` sees `nodes` so.
    fn all_see(&self, seers: &[u64], nodes: &[u64], health: impl Fn(Health) -> bool) -> bool {
        seers
            .iter()
            .all(|&seer| nodes.iter().filter(|&&node| node != seer).all(|&node| health(self.health(node, seer))))
    }

    fn all_healthy(&self, nodes: &[u64]) -> bool {
        self.all_see(nodes, nodes, |health| health == Health::Healthy)
    }
}

const FIVE: [u64; 5] = [1, 2, 3, 4, 5];

#[test]
fn s5_1_9_five_members_find_each_other_under_loss_and_stay() {
    for seed in 0..20 {
        let mut world = World::of(5, seed, 200);
        world.until(10_000, |world| world.all_healthy(&FIVE)).unwrap_or_else(|| panic!("seed {seed}: no agreement"));
        world.loss_permille = 0;
        world.until(15_000, |world| world.all_healthy(&FIVE)).unwrap_or_else(|| panic!("seed {seed}: no agreement"));
        // Without loss nobody is ever suspected again.
        let calm = world.until(120_000, |world| !world.all_healthy(&FIVE));
        assert_eq!(calm, None, "seed {seed}: somebody was suspected for nothing");
    }
}

#[test]
fn s5_1_9_a_dead_member_is_suspected_then_down_within_a_bound() {
    for seed in 0..20 {
        let mut world = World::of(5, seed, 50);
        world.until(15_000, |world| world.all_healthy(&FIVE)).unwrap_or_else(|| panic!("seed {seed}: no agreement"));
        let dead = 1 + seed % 5;
        let others: Vec<u64> = FIVE.into_iter().filter(|&node| node != dead).collect();
        world.nodes.remove(&NodeId(dead));
        let timing = Timing::default();
        // Everyone is probed by everyone within two rounds of all; then the probe's own period; then rumour.
        let suspected_ms = (2 * 4 + 1) * timing.probe_period_ms + 500;
        let suspected =
            world.until(suspected_ms, |world| world.all_see(&others, &[dead], |health| health != Health::Healthy));
        assert!(suspected.is_some(), "seed {seed}: not suspected within {suspected_ms} ms");
        let down_ms = timing.suspicion_ms + 2 * timing.probe_period_ms;
        let down = world.until(down_ms, |world| world.all_see(&others, &[dead], |health| health == Health::Down));
        assert!(down.is_some(), "seed {seed}: not down within {down_ms} ms more");
    }
}

#[test]
fn s5_1_9_a_partition_heals_and_all_are_alive_again() {
    for seed in 0..20 {
        for (one, other) in [(vec![1, 2], vec![3, 4, 5]), (vec![1], vec![2, 3, 4, 5])] {
            let mut world = World::of(5, seed, 50);
            world
                .until(15_000, |world| world.all_healthy(&FIVE))
                .unwrap_or_else(|| panic!("seed {seed}: no agreement"));
            world.sides = one.iter().map(|&node| (NodeId(node), 1)).collect();
            let apart = |world: &World| {
                let down = |health| health == Health::Down;
                world.all_see(&one, &other, down) && world.all_see(&other, &one, down)
            };
            world.until(30_000, apart).unwrap_or_else(|| panic!("seed {seed}: {one:?} was not missed"));
            let alone = &world.nodes[&NodeId(1)];
            assert_eq!(alone.view().weights(world.now_ms, &ids(&other)), vec![10; other.len()], "down is not gone");
            world.until(60_000, |_| false);
            world.sides.clear();
            let healed = world.until(20_000, |world| world.all_healthy(&FIVE));
            assert!(healed.is_some(), "seed {seed}: {one:?} and {other:?} did not find together");
            assert!(0 < world.returned, "who was dead returns in a new life");
        }
    }
}

#[test]
fn s5_1_9_a_member_that_restarts_is_known_in_its_new_life() {
    for seed in 0..10 {
        let mut world = World::of(5, seed, 50);
        world.until(15_000, |world| world.all_healthy(&FIVE)).expect("agreement");
        world.start(3, 77, &FIVE);
        let known = |world: &World| {
            world.all_healthy(&FIVE)
                && [1, 2, 4, 5].iter().all(|seer| {
                    let peer = world.nodes[&NodeId(*seer)].view().peer(NodeId(3)).copied().expect("in the roster");
                    peer.life.is_some_and(|life| 77 <= life.generation)
                })
        };
        world.until(10_000, known).unwrap_or_else(|| panic!("seed {seed}: its new life is not known"));
    }
}

#[test]
fn s5_1_9_a_member_that_leaves_is_down_without_suspicion() {
    let mut world = World::of(5, 3, 0);
    world.until(15_000, |world| world.all_healthy(&FIVE)).expect("agreement");
    world.nodes.get_mut(&NodeId(2)).expect("it is there").leave(world.now_ms);
    world.carry(NodeId(2));
    world.nodes.remove(&NodeId(2));
    let down = world.until(1500, |world| world.all_see(&[1, 3, 4, 5], &[2], |health| health == Health::Down));
    assert!(down.is_some(), "good-bye was not heard");
}

#[test]
fn s5_1_9_the_roster_follows_the_control_plane() {
    let mut world = World::of(5, 9, 20);
    world.until(15_000, |world| world.all_healthy(&FIVE)).expect("agreement");
    // Node 5 is removed and does not know it; node 6 joins and knows only what it was told.
    let after = [1, 2, 3, 4, 6];
    for node in [1, 2, 3, 4] {
        world.nodes.get_mut(&NodeId(node)).expect("it is there").set_roster(world.now_ms, ids(&after));
        world.carry(NodeId(node));
    }
    world.start(6, 1, &after);
    world.until(15_000, |world| world.all_healthy(&after)).expect("agreement without node 5");
    for node in [1, 2, 3, 4] {
        assert_eq!(world.nodes[&NodeId(node)].view().peer(NodeId(5)), None, "node {node} still knows node 5");
    }
    assert_eq!(world.until(60_000, |world| !world.all_healthy(&after)).filter(|_| world.loss_permille == 0), None);
    for node in after {
        let kept_count = world.nodes[&NodeId(node)].kept_count();
        assert!(kept_count <= after.len(), "node {node} keeps {kept_count} members");
    }
    let alone = world.all_see(&[5], &[1, 2, 3, 4], |health| health == Health::Down);
    assert!(alone, "nobody speaks with a member that was removed");
}

#[test]
fn s5_1_9_a_load_report_steers_its_hearers() {
    let mut world = World::of(3, 1, 0);
    let busy = Load { inbox_depth: INBOX_MESSAGES_MAX as u32 / 2, cpu_permille: 900, ..Load::default() };
    world.nodes.get_mut(&NodeId(2)).expect("it is there").set_load(world.now_ms, busy);
    world.nodes.get_mut(&NodeId(3)).expect("it is there").set_load(world.now_ms, Load::default());
    world.until(5_000, |world| world.all_healthy(&[1, 2, 3])).expect("agreement");
    let heard = |world: &World| world.nodes[&NodeId(1)].view().weights(world.now_ms, &ids(&[2, 3])) == [100, 1000];
    world.until(5_000, heard).expect("the load was heard");
    // As long as it is probed it is fresh.
    assert_eq!(world.until(60_000, |world| !heard(world)), None);
}

#[test]
fn s5_1_9_a_node_that_slept_wakes_without_harm() {
    for seed in 0..10 {
        let mut world = World::of(5, seed, 0);
        world.until(15_000, |world| world.all_healthy(&FIVE)).expect("agreement");
        let sleeper = world.nodes.remove(&NodeId(4)).expect("it is there");
        world.until(30_000, |_| false);
        world.nodes.insert(NodeId(4), sleeper);
        world
            .until(20_000, |world| world.all_healthy(&FIVE))
            .unwrap_or_else(|| panic!("seed {seed}: it did not return"));
    }
}

#[test]
fn s6_1_4_nobody_is_heard_in_anothers_name_and_no_stranger_at_all() {
    let mut alice = Gossip::new(0, identity(1, 1), Timing::default(), 1);
    let mut bob = Gossip::new(0, identity(2, 1), Timing::default(), 2);
    bob.set_roster(0, ids(&[1, 3]));
    let sent = std::iter::from_fn(|| bob.poll_effect()).find_map(|effect| match effect {
        Effect::Send { to: NodeId(1), datagram } => Some(datagram),
        _ => None,
    });
    let datagram = sent.expect("bob calls alice");
    assert_eq!(alice.handle_datagram(1, NodeId(2), &datagram), Err(Ignored::Stranger(NodeId(2))));
    alice.set_roster(1, ids(&[2, 3]));
    let (sender, claimed) = (NodeId(3), NodeId(2));
    assert_eq!(alice.handle_datagram(1, sender, &datagram), Err(Ignored::Imposter { sender, claimed }));
    assert_eq!(alice.handle_datagram(1, NodeId(1), &datagram), Err(Ignored::Stranger(NodeId(1))), "one's own name");
    assert_eq!(alice.handle_datagram(1, NodeId(2), &datagram), Ok(()));
    assert_eq!(alice.view().peer(NodeId(2)).expect("in the roster").health, Health::Healthy);
}

#[test]
fn s6_1_4_rumours_about_strangers_are_not_repeated() {
    // Everyone but node 1 knows node 9; node 1 must neither list nor spread it.
    let mut world = World::of(3, 5, 0);
    for node in [2, 3] {
        world.nodes.get_mut(&NodeId(node)).expect("it is there").set_roster(world.now_ms, ids(&[1, 2, 3, 9]));
        world.carry(NodeId(node));
    }
    world.start(9, 1, &[1, 2, 3, 9]);
    world.until(20_000, |_| false);
    assert!(world.all_healthy(&[1, 2, 3]) && world.all_see(&[2, 3], &[9], |health| health == Health::Healthy));
    let innocent = &world.nodes[&NodeId(1)];
    assert_eq!(innocent.view().peers().map(|(node, _)| node.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(innocent.kept_count(), 2);
}

#[test]
fn s1_1_2_the_datagram_is_as_documented_and_its_head_is_checked() {
    let load = Load {
        inbox_depth: 0x0403_0201,
        cpu_permille: 0x0605,
        commit_latency_us: 0x0a09_0807,
        build: Build { major: 1, minor: 2, patch: 3 },
        epoch: Epoch(0x1817_1615_1413_1211),
    };
    let bytes = wire::encode(&load, &[0xaa, 0xbb]);
    let head = "0100 0000 01020304 0708090a 0506 0000 0100 0200 0300 0000 1112131415161718 aabb".replace(' ', "");
    assert_eq!(crate::ids::hex(&bytes), head);
    assert_eq!(wire::decode(&bytes), Ok((load, &[0xaa, 0xbb][..])));
    for length in 0..HEADER_BYTES {
        assert_eq!(wire::decode(&bytes[..length]), Err(WireError::Length(length)));
    }
    assert_eq!(wire::decode(&vec![1; DATAGRAM_BYTES_MAX + 1]), Err(WireError::Length(DATAGRAM_BYTES_MAX + 1)));
    let with = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x80;
        wire::decode(&bytes).map(|_| ())
    };
    assert_eq!(with(0), Err(WireError::Version(MEMBERSHIP_WIRE_VERSION ^ 0x80)));
    for reserved in [2, 3, 14, 15, 22, 23] {
        assert_eq!(with(reserved), Err(WireError::Form), "byte {reserved}");
    }
}

#[test]
fn s1_1_2_strangers_bytes_never_panic_nor_grow_what_is_kept() {
    let mut world = World::of(3, 11, 0);
    world.until(15_000, |world| world.all_healthy(&[1, 2, 3])).expect("agreement");
    // What nodes 2 and 3 really send to node 1, of every kind the protocol has.
    let mut seeds: Vec<(NodeId, Vec<u8>)> = Vec::new();
    world.loss_permille = 300;
    for step in 0..4000 {
        world.sides = if step % 1000 < 700 { [].into() } else { [(NodeId(3), 1)].into() };
        world.until(20, |_| false);
        let to_victim = world.on_the_way.iter().filter(|Reverse((_, _, to, ..))| *to == NodeId(1));
        seeds.extend(to_victim.map(|Reverse((_, _, _, from, datagram))| (*from, datagram.clone())));
    }
    assert!(300 < seeds.len(), "only {} datagrams", seeds.len());
    let mut victim = world.nodes.remove(&NodeId(1)).expect("it is there");
    let (mut heard, mut now_ms) = (0, world.now_ms);
    for _ in 0..60_000 {
        let pick = world.chance.below(seeds.len() as u64) as usize;
        let (from, mut bytes) = seeds[pick].clone();
        for _ in 0..world.chance.below(4) {
            let at = HEADER_BYTES + world.chance.below((bytes.len() - HEADER_BYTES).max(1) as u64) as usize;
            match world.chance.below(4) {
                0 => bytes.truncate(at),
                1 => bytes.push(world.chance.0 as u8),
                _ if at < bytes.len() => bytes[at] = [0, 1, 2, 3, 0x7f, 0x80, 0xff][world.chance.below(7) as usize],
                _ => {}
            }
            if bytes.len() <= HEADER_BYTES {
                break;
            }
        }
        heard += usize::from(victim.handle_datagram(now_ms, from, &bytes).is_ok());
        now_ms += world.chance.below(3);
        while let Some(effect) = victim.poll_effect() {
            if let Effect::Send { to, datagram } = effect {
                assert!(
                    datagram.len() <= DATAGRAM_BYTES_MAX && [2, 3].contains(&to.0),
                    "{to}, {} bytes",
                    datagram.len()
                );
            }
        }
        if victim.poll_deadline().is_some_and(|deadline| deadline <= now_ms) {
            victim.expire(now_ms);
        }
    }
    assert!(10_000 < heard, "only {heard} were heard: the test tests nothing");
    assert_eq!(victim.view().peers().len(), 3);
}

#[test]
fn s5_1_9_a_flood_is_ignored_before_a_queue_overflows() {
    let mut alice = Gossip::new(0, identity(1, 1), Timing::default(), 1);
    alice.set_roster(0, ids(&[2]));
    let mut bob = Gossip::new(0, identity(2, 1), Timing::default(), 2);
    bob.set_roster(0, ids(&[1]));
    let Some(Effect::Send { datagram, .. }) =
        std::iter::from_fn(|| bob.poll_effect()).find(|effect| matches!(effect, Effect::Send { .. }))
    else {
        panic!("bob calls alice")
    };
    // Nobody takes alice's effects.
    let mut full = 0;
    for _ in 0..2 * EFFECTS_MAX {
        full += usize::from(alice.handle_datagram(1, NodeId(2), &datagram) == Err(Ignored::Full));
    }
    assert!(EFFECTS_MAX < full);
    let waiting = std::iter::from_fn(|| alice.poll_effect()).count();
    assert!(waiting <= EFFECTS_MAX / 2 + 2 * PEERS_MAX, "{waiting} effects waited");
    assert_eq!(alice.handle_datagram(1, NodeId(2), &datagram), Ok(()), "it is heard again");
}
