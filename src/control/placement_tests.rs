//! Where copies are placed: tables, balance, stability.

use std::collections::BTreeMap;

use super::scene_tests::{Scene, bootstrap, shard, storage_only};
use crate::control::{Action, Bootstrap, Group, Role, Roles, placement};
use crate::ids::{NodeId, ShardId};
use crate::router::slots::SlotTable;

/// Votes and primaries of the shards by member.
fn loads(scene: &Scene) -> (BTreeMap<u64, usize>, BTreeMap<u64, usize>) {
    let (mut votes, mut primaries) = (BTreeMap::new(), BTreeMap::new());
    for number in 0..scene.cluster().shard_count() {
        let wish = scene.cluster().wished(shard(number)).expect("a wish");
        for node in &wish.config.voters {
            *votes.entry(node.0).or_default() += 1;
        }
        *primaries.entry(wish.primary.expect("a primary").0).or_default() += 1;
    }
    (votes, primaries)
}

#[test]
fn s1_2_5_the_votes_are_the_odd_number_that_the_copies_allow() {
    // (members, factor) → votes of a shard; all others learn.
    let table = [
        ((1, 1), 1),
        ((1, 3), 1),
        ((2, 2), 1),
        ((2, 3), 1),
        ((3, 1), 1),
        ((3, 2), 1),
        ((3, 3), 3),
        ((4, 3), 3),
        ((4, 4), 3),
        ((4, 5), 3),
        ((5, 5), 5),
        ((5, 3), 3),
        ((6, 5), 5),
        ((6, 4), 3),
        ((7, 5), 5),
        ((7, 3), 3),
    ];
    for ((members, factor), votes) in table {
        let mut scene = Scene::with_members(members);
        scene.accept(Action::SetReplication { factor, pair_votes: false });
        for number in 0..4 {
            let (voters, learners) = (scene.voters(shard(number)).len(), scene.learners(shard(number)).len());
            assert_eq!(voters, votes, "{members} members, factor {factor}, shard {number}");
            assert_eq!(voters + learners, usize::from(members), "every member holds a copy");
        }
    }
}

#[test]
fn s1_1_2_the_control_group_is_odd_and_only_of_control_members() {
    for (members, votes) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (7, 5)] {
        assert_eq!(Scene::with_members(members).voters(Group::Control).len(), votes, "{members} members");
    }
    let mut scene = Scene::with_members(3);
    let stores = scene.join(4, storage_only());
    let guides = scene.join(5, [Role::Control].into_iter().collect());
    assert!(scene.voters(Group::Control).contains(&guides.0) || scene.learners(Group::Control).contains(&guides.0));
    let control = scene.cluster().wished(Group::Control).expect("a wish").config.clone();
    let data = scene.cluster().wished(shard(0)).expect("a wish").config.clone();
    assert!(
        !control.voters.contains(&stores) && control.learners.contains(&stores),
        "no role, no vote; but it follows"
    );
    assert!(data.nodes().all(|node| node != guides), "no role, no copy");
}

#[test]
fn s1_2_5_votes_and_primaries_are_even_over_members() {
    for members in 3..=7 {
        for factor in [1, 3, 5] {
            let mut scene = Scene::with_members(members);
            scene.accept(Action::SetReplication { factor, pair_votes: false });
            let (votes, primaries) = loads(&scene);
            let all = || (1..=u64::from(members)).map(|node| votes.get(&node).copied().unwrap_or(0));
            let (most, least) = (all().max().expect("one"), all().min().expect("one"));
            assert!(most <= least + 1, "{members} members, factor {factor}: votes {votes:?}");
            let most = primaries.values().max().expect("one");
            let fewest = 4usize.div_ceil(votes.len().min(4));
            assert!(*most <= fewest, "{members} members, factor {factor}: primaries {primaries:?}");
        }
    }
}

#[test]
fn s1_2_5_a_member_that_joins_takes_its_share_and_nothing_moves_between_the_others() {
    for factor in [1, 3, 5] {
        let mut scene = Scene::with_members(1);
        scene.accept(Action::SetReplication { factor, pair_votes: false });
        for number in 2..=7u8 {
            let before = scene.clone();
            let came = scene.join(number, Roles::all());
            let share = (0..4).map(|at| scene.voters(shard(at)).len()).sum::<usize>() / usize::from(number);
            let same_votes = before.voters(shard(0)).len() == scene.voters(shard(0)).len();
            let mut taken = 0;
            for at in 0..4 {
                let (had, has) = (before.voters(shard(at)), scene.voters(shard(at)));
                let new: Vec<u64> = has.iter().copied().filter(|node| !had.contains(node)).collect();
                if same_votes {
                    assert!(
                        new.iter().all(|&node| node == came.0),
                        "factor {factor}, {number} members: {new:?} got votes"
                    );
                    taken += new.len();
                } else {
                    assert!(had.iter().all(|node| has.contains(node)), "more votes, yet one was taken away");
                }
            }
            assert!(taken <= share, "factor {factor}: node {number} took {taken} votes, its share is {share}");
        }
    }
}

#[test]
fn s1_2_5_only_the_votes_of_a_member_that_leaves_move() {
    for leaving in 1..=5u64 {
        let mut scene = Scene::with_members(5);
        let before = scene.clone();
        scene.accept(Action::Drain { node: NodeId(leaving) });
        for number in 0..4 {
            let (had, has) = (before.voters(shard(number)), scene.voters(shard(number)));
            let stayed = had.iter().filter(|node| has.contains(node)).count();
            // One more may move so that the rest are even again.
            assert!(had.len() - 1 - usize::from(!had.contains(&leaving)) <= stayed, "{had:?} became {has:?}");
        }
        let (votes, _) = loads(&scene);
        let (most, least) = (votes.values().max().expect("one"), votes.values().min().expect("one"));
        assert!(most <= &(least + 1) && votes.len() == 4, "{votes:?}");
    }
}

#[test]
fn s1_2_5_a_placement_that_is_stored_is_its_own_answer() {
    for members in 1..=7 {
        let scene = Scene::with_members(members);
        let stored: BTreeMap<_, _> = scene
            .cluster()
            .groups()
            .map(|group| (group, scene.cluster().wished(group).expect("a wish").clone()))
            .collect();
        assert_eq!(placement(&scene.state), stored, "{members} members");
    }
    assert!(placement(&crate::control::State::default()).is_empty());
}

#[test]
fn s2_2_2_the_slots_of_a_shard_are_those_of_the_routers_table() {
    for (slot_count, shard_count) in [(16, 4), (16, 3), (16, 16), (1, 1), (16_384, 64), (1024, 7)] {
        let mut scene = Scene::empty();
        scene.accept(Action::Bootstrap(Bootstrap { slot_count, shard_count, ..bootstrap(3) }));
        let table = SlotTable::new(slot_count, shard_count, 1, 1);
        for slot in 0..slot_count {
            let mut key = [0; 32];
            key[..2].copy_from_slice(&slot.to_le_bytes());
            let owners = (0..shard_count)
                .map(ShardId)
                .filter(|&shard| scene.cluster().slots(shard).expect("a shard of the cluster").contains(&slot));
            assert!(owners.eq([table.shard(&key)]), "slot {slot} of {slot_count} in {shard_count}");
        }
        assert_eq!(scene.cluster().slots(ShardId(shard_count)), None);
    }
}

#[test]
fn s1_2_9_a_promoted_primary_stays_and_the_others_make_room() {
    let mut scene = Scene::with_members(3);
    for number in 0..4 {
        scene.accept(Action::Promote { shard: ShardId(number), node: NodeId(2) });
    }
    assert_eq!(loads(&scene).1, BTreeMap::from([(2, 4)]), "a person's wish outweighs the balance");
    scene.accept(Action::Drain { node: NodeId(2) });
    scene.accept(Action::Undrain { node: NodeId(2) });
    let (_, primaries) = loads(&scene);
    assert_eq!(primaries.values().sum::<usize>(), 4);
    assert!(primaries.values().all(|&count| count <= 2), "{primaries:?}");
}
