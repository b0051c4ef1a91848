//! The way from one configuration to another: tables of single steps, and every way walked to its end.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::scene_tests::{config, nodes};
use crate::control::{GroupConfig, Placement, Progress, Step, next_membership_step, next_transfer};
use crate::ids::NodeId;

fn seen(leader: u64, live: &[u64], caught_up: &[u64]) -> Progress {
    Progress { leader: Some(NodeId(leader)), live: nodes(live), caught_up: nodes(caught_up) }
}

fn check(current: GroupConfig, wished: GroupConfig, progress: Progress, expected: Option<Step>) {
    let step = next_membership_step(&current, &wished, &progress);
    assert_eq!(step, expected, "{current:?} → {wished:?}, {progress:?}");
}

fn promote(voters: &[u64]) -> Option<Step> {
    Some(Step::Promote { voters: nodes(voters) })
}

#[test]
fn s1_2_9_who_comes_learns_then_votes_and_who_goes_hands_over_then_leaves() {
    let all = [1, 2, 3, 4];
    // A copy moves from node 1, which leads, to node 4.
    let wished = || config(&[2, 3, 4], &[]);
    check(config(&[1, 2, 3], &[]), wished(), seen(1, &all, &[1, 2, 3]), Some(Step::AddLearner(NodeId(4))));
    check(config(&[1, 2, 3], &[4]), wished(), seen(1, &all, &[1, 2, 3]), None);
    check(config(&[1, 2, 3], &[4]), wished(), seen(1, &all, &all), promote(&all));
    let to = NodeId(2);
    check(config(&all, &[]), wished(), seen(1, &all, &all), Some(Step::TransferLeadership { to }));
    check(config(&all, &[]), wished(), seen(2, &all, &all), Some(Step::DemoteVoter(NodeId(1))));
    check(wished(), wished(), seen(2, &all, &all), None);
    check(config(&[2, 3, 4], &[1]), wished(), seen(2, &all, &all), Some(Step::RemoveLearner(NodeId(1))));
}

#[test]
fn s1_2_9_an_even_vote_is_only_passed_through() {
    // One voter becomes three when both are ready, never two.
    let wished = config(&[1, 2, 3], &[]);
    check(config(&[1], &[2, 3]), wished.clone(), seen(1, &[1, 2, 3], &[1, 2]), None);
    check(config(&[1], &[2, 3]), wished, seen(1, &[1, 2, 3], &[1, 2, 3]), promote(&[1, 2, 3]));
    // A dead voter is replaced by the one that is ready; the group does not wait for the other.
    let wished = config(&[3, 4, 5], &[]);
    let live = [2, 3, 4, 5];
    check(config(&[1, 2, 3], &[4, 5]), wished.clone(), seen(3, &live, &[2, 3, 4]), promote(&[1, 2, 3, 4]));
    check(config(&[1, 2, 3, 4], &[5]), wished.clone(), seen(3, &live, &[2, 3, 4]), Some(Step::DemoteVoter(NodeId(1))));
    check(config(&[2, 3, 4], &[1, 5]), wished, seen(3, &live, &[2, 3, 4]), None);
}

#[test]
fn s1_2_9_no_step_leads_below_a_live_majority() {
    // Nothing commits, so nothing is asked.
    check(config(&[1, 2, 3], &[]), config(&[1], &[]), seen(1, &[1], &[1]), None);
    let nobody = Progress { leader: None, ..seen(1, &[1, 2, 3], &[1, 2, 3]) };
    check(config(&[1, 2, 3], &[]), config(&[1], &[]), nobody, None);
    // The dead go first: then two of two are live, where the other way one of two would be.
    check(config(&[1, 2, 3], &[]), config(&[1], &[]), seen(1, &[1, 2], &[1, 2]), Some(Step::DemoteVoter(NodeId(3))));
    let live = [1, 2, 3, 4];
    let wished = config(&[1, 2, 3], &[]);
    check(config(&[1, 2, 3, 4, 5], &[]), wished, seen(4, &live, &live), Some(Step::DemoteVoter(NodeId(5))));
    check(config(&[1, 2, 3], &[]), config(&[3], &[]), seen(1, &[1, 2], &[1, 2]), None);
    check(config(&[1, 2, 3], &[]), config(&[], &[]), seen(1, &[1, 2, 3], &[1, 2, 3]), None);
    // Nor may who goes be counted on: it may have died a moment ago, and half of two is no majority.
    let wished = config(&[1], &[2]);
    let heard = seen(1, &[1, 2, 3], &[1, 2, 3]);
    check(config(&[1, 2, 3], &[]), wished.clone(), heard.clone(), Some(Step::DemoteVoter(NodeId(3))));
    check(config(&[1, 2], &[3]), wished, heard, Some(Step::DemoteVoter(NodeId(2))));
    // Who does not answer is not taken in.
    check(config(&[1], &[]), config(&[1, 2, 3], &[]), seen(1, &[1, 3], &[1]), Some(Step::AddLearner(NodeId(3))));
    check(config(&[1], &[3]), config(&[1, 2, 3], &[]), seen(1, &[1, 3], &[1, 3]), None);
    // A leader that goes waits for somebody to hand over to.
    check(config(&[1, 2], &[]), config(&[2], &[1]), seen(1, &[1, 2], &[1]), None);
}

#[test]
fn s1_2_9_the_office_is_handed_to_the_wished_primary_when_it_can_take_it() {
    let wish = Placement { config: config(&[1, 2, 3], &[]), primary: Some(NodeId(2)) };
    let table = [
        (seen(1, &[1, 2, 3], &[1, 2, 3]), Some(NodeId(2))),
        (seen(2, &[1, 2, 3], &[1, 2, 3]), None),
        (seen(1, &[1, 3], &[1, 2, 3]), None),
        (seen(1, &[1, 2, 3], &[1, 3]), None),
        (Progress::default(), None),
    ];
    for (progress, expected) in table {
        assert_eq!(next_transfer(&wish.config, &wish, &progress), expected, "{progress:?}");
    }
    assert_eq!(next_transfer(&config(&[1, 3], &[2]), &wish, &seen(1, &[1, 2, 3], &[1, 2, 3])), None);
}

/// Does to a configuration what a group does.
fn take(current: &mut GroupConfig, progress: &mut Progress, step: &Step) {
    match step {
        Step::AddLearner(node) => assert!(current.learners.insert(*node), "it follows already"),
        Step::Promote { voters } => {
            assert!(current.voters.is_subset(voters), "a promotion takes a vote away");
            assert!(voters.difference(&current.voters).all(|node| current.learners.contains(node)), "a stranger votes");
            assert!(
                voters.difference(&current.voters).all(|node| progress.caught_up.contains(node)),
                "it knows nothing"
            );
            current.learners.retain(|node| !voters.contains(node));
            current.voters.clone_from(voters);
        }
        Step::DemoteVoter(node) => {
            assert_ne!(progress.leader, Some(*node), "the leader took its own vote");
            assert!(current.voters.remove(node) && current.learners.insert(*node), "it had no vote");
        }
        Step::RemoveLearner(node) => assert!(current.learners.remove(node), "it did not follow"),
        Step::TransferLeadership { to } => {
            assert!(current.voters.contains(to) && progress.live.contains(to), "it cannot lead");
            progress.leader = Some(*to);
        }
    }
}

/// Subsets of seven nodes as voters and learners.
fn configs() -> impl Strategy<Value = GroupConfig> {
    proptest::collection::vec(0..3u8, 7).prop_filter_map("somebody votes", |parts| {
        let of =
            |wanted: u8| (1..=7u64).zip(&parts).filter(move |(_, part)| **part == wanted).map(|(node, _)| NodeId(node));
        let config = GroupConfig::new(of(1), of(2));
        (!config.voters.is_empty()).then_some(config)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn s1_2_9_every_way_ends_at_the_wish_and_is_safe_throughout(
        current in configs(), wished in configs(), dead in proptest::collection::btree_set(1..=7u64, 0..3), slow in any::<u64>(),
    ) {
        let (mut current, mut wished) = (current, wished);
        let everyone = nodes(&[1, 2, 3, 4, 5, 6, 7]);
        let mut live: BTreeSet<NodeId> = everyone.difference(&nodes(&Vec::from_iter(dead))).copied().collect();
        if current.voters.intersection(&live).count() <= current.voters.len() / 2 {
            live = everyone;
        }
        // The wish is one that can come true: all that are in it answer.
        wished.voters.retain(|node| live.contains(node));
        wished.learners.retain(|node| live.contains(node));
        if wished.voters.is_empty() {
            let first = *live.first().expect("somebody answers");
            wished.learners.remove(&first);
            wished.voters.insert(first);
        }
        let leader = current.voters.intersection(&live).next().copied();
        let mut progress = Progress { leader, live: live.clone(), caught_up: current.voters.intersection(&live).copied().collect() };
        let answering = |voters: &BTreeSet<NodeId>| voters.intersection(&live).count();
        let fewest = answering(&current.voters).min(wished.voters.len());
        let (mut steps, mut waits) = (0, 0);
        while current != wished {
            match next_membership_step(&current, &wished, &progress) {
                Some(step) => {
                    let before = current.voters.clone();
                    take(&mut current, &mut progress, &step);
                    steps += 1;
                    prop_assert!(current.voters.len() / 2 < current.voters.intersection(&live).count(), "{current:?} stands not");
                    prop_assert!(before.len() / 2 < before.intersection(&live).count());
                    prop_assert!(fewest <= answering(&current.voters), "fewer live votes than before and after");
                    prop_assert!(current.voters.is_disjoint(&current.learners));
                    if matches!(step, Step::DemoteVoter(_)) && live.contains(before.difference(&current.voters).next().expect("one")) {
                        prop_assert!(wished.voters.is_subset(&current.voters), "a live voter left before the new ones came");
                    }
                }
                None => {
                    // A learner catches up; which one first is the seed's choice.
                    let lagging: Vec<NodeId> =
                        current.learners.intersection(&live).filter(|node| !progress.caught_up.contains(node)).copied().collect();
                    prop_assert!(!lagging.is_empty(), "stuck at {current:?} on the way to {wished:?}");
                    progress.caught_up.insert(lagging[slow as usize % lagging.len()]);
                    waits += 1;
                }
            }
            prop_assert!(steps <= 4 * 7 && waits <= 7, "no end");
        }
        prop_assert_eq!(next_membership_step(&current, &wished, &progress), None);
    }
}
