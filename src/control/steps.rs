//! The next step of a replication group from the configuration it has to the one that is wished.
//!
//! Promises: one step at a time, each committed before the next is asked for; every configuration on the way has a
//! majority of live voters; who comes is caught up before it votes, and votes before anyone leaves; a leader that is to lose
//! its vote hands its office over first; dead voters leave before live ones, and voters that go before those that stay to follow.
//! Does not: know time. Who is live or caught up is what the caller says, and it may be wrong: a step that cannot commit
//! simply does not, and the next call sees what stands.

use std::collections::BTreeSet;

use crate::control::{GroupConfig, Placement};
use crate::ids::NodeId;

/// What the caller sees of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Who leads; `None` while nobody does.
    pub leader: Option<NodeId>,
    /// Who answers.
    pub live: BTreeSet<NodeId>,
    /// Members of the group that have almost all of the log.
    pub caught_up: BTreeSet<NodeId>,
}

/// A change to ask the group's leader for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Let the node follow.
    AddLearner(NodeId),
    /// Let exactly these vote: the present voters, and learners that are caught up. One joint change.
    Promote {
        /// All voters after the change.
        voters: BTreeSet<NodeId>,
    },
    /// Take the node's vote; it follows on as a learner.
    DemoteVoter(NodeId),
    /// Let the node no longer follow.
    RemoveLearner(NodeId),
    /// Hand the leader's office to the node.
    TransferLeadership {
        /// A live voter that is caught up and stays.
        to: NodeId,
    },
}

/// The next step from `current` to `wished`; `None` when it is reached, or nothing can be done now.
pub fn next_membership_step(current: &GroupConfig, wished: &GroupConfig, progress: &Progress) -> Option<Step> {
    // Without a leader nobody can be asked; without a live majority nothing commits.
    let leader = progress.leader?;
    if wished.voters.is_empty() || !stands(&current.voters, &progress.live) {
        return None;
    }
    add_learner(current, wished, progress)
        .or_else(|| promote(current, wished, progress))
        .or_else(|| demote(current, wished, progress, leader))
        .or_else(|| remove_learner(current, wished))
}

/// Whom the group's office should be handed to so that the wished primary leads; `None` when it does, or cannot yet.
pub fn next_transfer(current: &GroupConfig, wished: &Placement, progress: &Progress) -> Option<NodeId> {
    let leader = progress.leader?;
    wished.primary.filter(|&to| to != leader && can_lead(current, progress, to))
}

fn add_learner(current: &GroupConfig, wished: &GroupConfig, progress: &Progress) -> Option<Step> {
    let absent = |node: &NodeId| !current.voters.contains(node) && !current.learners.contains(node);
    wished.nodes().find(|node| absent(node) && progress.live.contains(node)).map(Step::AddLearner)
}

fn promote(current: &GroupConfig, wished: &GroupConfig, progress: &Progress) -> Option<Step> {
    let missing: BTreeSet<NodeId> = wished.voters.difference(&current.voters).copied().collect();
    let ready: BTreeSet<NodeId> = missing
        .iter()
        .copied()
        .filter(|node| {
            current.learners.contains(node) && progress.caught_up.contains(node) && progress.live.contains(node)
        })
        .collect();
    let voters: BTreeSet<NodeId> = current.voters.union(&ready).copied().collect();
    // An even vote waits for more voters than the odd one below it and survives no more failures, so it is only passed
    // through: when the last ones come, or when a dead voter can leave right after.
    let passes =
        ready.len() == missing.len() || voters.len() % 2 == 1 || dead_surplus(current, wished, progress).is_some();
    (!ready.is_empty() && passes).then_some(Step::Promote { voters })
}

fn demote(current: &GroupConfig, wished: &GroupConfig, progress: &Progress, leader: NodeId) -> Option<Step> {
    let complete = wished.voters.is_subset(&current.voters);
    let leaving = if complete {
        let surplus = || current.voters.difference(&wished.voters).copied();
        // Who leaves the group altogether goes before who stays to follow: it may have died since it was heard last, and its
        // certificate may be revoked.
        let order =
            |node: &NodeId| (progress.live.contains(node), wished.learners.contains(node), *node == leader, *node);
        surplus().filter(|node| stands_without(current, progress, *node)).min_by_key(order)
    } else if current.voters.len().is_multiple_of(2) {
        // More voters are to come; until then only an even vote with a dead voter is made odd.
        dead_surplus(current, wished, progress)
    } else {
        None
    };
    let leaving = leaving?;
    if leaving != leader {
        return Some(Step::DemoteVoter(leaving));
    }
    let stays = |node: &&NodeId| current.voters.contains(node) && can_lead(current, progress, **node);
    wished.voters.iter().find(stays).map(|&to| Step::TransferLeadership { to })
}

fn remove_learner(current: &GroupConfig, wished: &GroupConfig) -> Option<Step> {
    if current.voters != wished.voters {
        return None;
    }
    current.learners.iter().copied().find(|node| !wished.learners.contains(node)).map(Step::RemoveLearner)
}

/// A voter that is not wished and does not answer.
fn dead_surplus(current: &GroupConfig, wished: &GroupConfig, progress: &Progress) -> Option<NodeId> {
    current.voters.difference(&wished.voters).copied().find(|node| !progress.live.contains(node))
}

fn can_lead(current: &GroupConfig, progress: &Progress, node: NodeId) -> bool {
    current.voters.contains(&node) && progress.live.contains(&node) && progress.caught_up.contains(&node)
}

fn stands_without(current: &GroupConfig, progress: &Progress, leaving: NodeId) -> bool {
    let voters: BTreeSet<NodeId> = current.voters.iter().copied().filter(|&node| node != leaving).collect();
    stands(&voters, &progress.live)
}

/// Whether a majority of `voters` is live.
fn stands(voters: &BTreeSet<NodeId>, live: &BTreeSet<NodeId>) -> bool {
    voters.len() / 2 < voters.intersection(live).count()
}
