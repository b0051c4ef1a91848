//! What a command would do, without doing it.
//!
//! Promises: the outcome is the one the command would have if it were the next; the differences are all that would change
//! in members, tokens, certificates, policy, placement and epoch.
//! Does not: reserve anything; another command may come first.

use std::collections::BTreeMap;

use crate::control::{
    Cluster, Command, Group, GroupConfig, Member, MemberState, Outcome, Policy, Serial, State, TokenId,
};
use crate::ids::{Epoch, LogIndex, NodeId};

/// What a command would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// What it would be answered.
    pub outcome: Outcome,
    /// What would change, in the order of [`Difference`].
    pub differences: Vec<Difference>,
}

/// One thing that would change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// The epoch would grow.
    Epoch {
        /// Now.
        from: Epoch,
        /// Then.
        to: Epoch,
    },
    /// A member would come.
    MemberAdded(NodeId),
    /// A member would be in another part of its life, or have other addresses.
    MemberChanged {
        /// The member.
        node: NodeId,
        /// Its state now, in a word.
        from: &'static str,
        /// Its state then, in a word.
        to: &'static str,
    },
    /// A removed member would be listed no more.
    MemberForgotten(NodeId),
    /// The policy would change.
    Policy {
        /// The replication factor now and then.
        replication_factor: (u8, u8),
        /// Whether a pair votes now and then.
        pair_votes: (bool, bool),
    },
    /// A group would have other votes wished.
    Voters {
        /// The group.
        group: Group,
        /// Members that would get a vote.
        added: Vec<NodeId>,
        /// Members that would lose theirs.
        removed: Vec<NodeId>,
    },
    /// A group would have other learners wished.
    Learners {
        /// The group.
        group: Group,
        /// Members that would learn.
        added: Vec<NodeId>,
        /// Members that would no longer.
        removed: Vec<NodeId>,
    },
    /// A group would have another primary wished.
    Primary {
        /// The group.
        group: Group,
        /// Now.
        from: Option<NodeId>,
        /// Then.
        to: Option<NodeId>,
    },
    /// A member would get its next certificate.
    RenewalAsked(NodeId),
    /// A group would be known to stand otherwise.
    Standing(Group),
    /// A token would be known.
    TokenAdded(TokenId),
    /// A token would be used.
    TokenUsed(TokenId),
    /// A token would be forgotten.
    TokenForgotten(TokenId),
    /// A certificate would be known.
    CertificateAdded(Serial),
    /// A certificate would be revoked.
    CertificateRevoked(Serial),
    /// A certificate would be forgotten.
    CertificateForgotten(Serial),
}

/// Says what `command` would do to `state`.
pub fn preview(state: &State, command: &Command) -> Preview {
    let mut after = state.clone();
    let outcome = after.apply(LogIndex(state.applied().0 + 1), command);
    let mut differences = match (state.cluster(), after.cluster()) {
        (Some(before), Some(after)) => differences(before, after),
        (None, Some(after)) => {
            let formed = Difference::Epoch { from: Epoch(0), to: after.epoch };
            std::iter::once(formed).chain(after.members.keys().copied().map(Difference::MemberAdded)).collect()
        }
        _ => Vec::new(),
    };
    differences.sort();
    Preview { outcome, differences }
}

fn differences(before: &Cluster, after: &Cluster) -> Vec<Difference> {
    let mut found = Vec::new();
    if before.epoch != after.epoch {
        found.push(Difference::Epoch { from: before.epoch, to: after.epoch });
    }
    let (from, to): (Policy, Policy) = (before.policy, after.policy);
    if from != to {
        found.push(Difference::Policy {
            replication_factor: (from.replication_factor, to.replication_factor),
            pair_votes: (from.pair_votes, to.pair_votes),
        });
    }
    let changed = |node: NodeId, from: &Member, to: &Member| {
        let word = |state: MemberState| state.name();
        from.differs_in_topology(to).then(|| Difference::MemberChanged {
            node,
            from: word(from.state),
            to: word(to.state),
        })
    };
    found.extend(tables(
        &before.members,
        &after.members,
        Difference::MemberAdded,
        Difference::MemberForgotten,
        changed,
    ));
    found.extend(tables(
        &before.tokens,
        &after.tokens,
        Difference::TokenAdded,
        Difference::TokenForgotten,
        |token, from, to| (from != to).then_some(Difference::TokenUsed(token)),
    ));
    found.extend(tables(
        &before.certificates,
        &after.certificates,
        Difference::CertificateAdded,
        Difference::CertificateForgotten,
        |serial, from, to| (from != to).then_some(Difference::CertificateRevoked(serial)),
    ));
    found.extend(after.renewals.difference(&before.renewals).map(|&node| Difference::RenewalAsked(node)));
    let (none, nothing) = (GroupConfig::default(), None);
    for group in after.groups() {
        let config = |cluster: &Cluster| cluster.wished(group).map_or(none.clone(), |wish| wish.config.clone());
        let primary = |cluster: &Cluster| cluster.wished(group).map_or(nothing, |wish| wish.primary);
        let (from, to) = (config(before), config(after));
        let minus = |left: &std::collections::BTreeSet<NodeId>, right: &std::collections::BTreeSet<NodeId>| {
            left.difference(right).copied().collect::<Vec<NodeId>>()
        };
        if from.voters != to.voters {
            let (added, removed) = (minus(&to.voters, &from.voters), minus(&from.voters, &to.voters));
            found.push(Difference::Voters { group, added, removed });
        }
        if from.learners != to.learners {
            let (added, removed) = (minus(&to.learners, &from.learners), minus(&from.learners, &to.learners));
            found.push(Difference::Learners { group, added, removed });
        }
        let (from, to) = (primary(before), primary(after));
        if from != to {
            found.push(Difference::Primary { group, from, to });
        }
        if before.standing(group) != after.standing(group) {
            found.push(Difference::Standing(group));
        }
    }
    found
}

/// The differences of two tables: what came, what went, what is otherwise.
fn tables<K: Ord + Copy, V>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    added: impl Fn(K) -> Difference,
    forgotten: impl Fn(K) -> Difference,
    changed: impl Fn(K, &V, &V) -> Option<Difference>,
) -> Vec<Difference> {
    let went = before.keys().filter(|key| !after.contains_key(key)).map(|&key| forgotten(key));
    let came = after.iter().filter_map(|(&key, value)| match before.get(&key) {
        None => Some(added(key)),
        Some(earlier) => changed(key, earlier, value),
    });
    went.chain(came).collect()
}
