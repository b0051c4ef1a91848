//! The replicated state of the control plane, and what must hold of it.
//!
//! Promises: what stands here follows from the commands alone; [`State::check`] says what every state keeps, and holds for
//! one that came from strangers' bytes too.
//! Does not: change; that is `apply`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::control::{
    CERTIFICATES_MAX, CertificateRecord, Domain, Group, GroupConfig, JoinToken, MEMBERS_MAX, Member, Name, Outcome,
    Placement, REMOVED_KEPT_MAX, REPLICATION_FACTOR_MAX, REQUESTS_KEPT_MAX, RequestId, Role, SHARDS_MAX, SLOTS_MAX,
    Serial, TOKENS_MAX, TokenId,
};
use crate::ids::{Epoch, LogIndex, NodeId, ShardId};

/// No counter of a true state gets here; the state of a stranger that does is refused, so that adding one never overflows.
const COUNTER_MAX: u64 = 1 << 62;

/// The state machine. A new one is empty and waits for its first command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(super) applied: LogIndex,
    pub(super) cluster: Option<Cluster>,
    /// Oldest first.
    pub(super) recent: VecDeque<Answered>,
}

/// The outcome of a request that may be asked again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answered {
    pub(super) request: RequestId,
    /// BLAKE3 of the action, so that a repeated id with another action is seen.
    pub(super) action_digest: [u8; 32],
    pub(super) outcome: Outcome,
}

/// A cluster that was formed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub(super) id: [u8; 16],
    pub(super) name: Name,
    pub(super) domain: Domain,
    pub(super) slot_count: u16,
    pub(super) shard_count: u16,
    pub(super) policy: Policy,
    pub(super) epoch: Epoch,
    pub(super) node_next: NodeId,
    pub(super) members: BTreeMap<NodeId, Member>,
    pub(super) tokens: BTreeMap<TokenId, JoinToken>,
    pub(super) certificates: BTreeMap<Serial, CertificateRecord>,
    /// Members that shall get their next certificate now.
    pub(super) renewals: BTreeSet<NodeId>,
    /// Primaries that a person asked for.
    pub(super) promoted: BTreeMap<ShardId, NodeId>,
    pub(super) wished: BTreeMap<Group, Placement>,
    pub(super) standing: BTreeMap<Group, Standing>,
}

/// What the cluster wants of its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Copies with a vote, 1 to 5; the odd number below is used.
    pub replication_factor: u8,
    /// With two members, whether both vote.
    pub pair_votes: bool,
}

/// The configuration that a group was last heard to have committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its members.
    pub config: GroupConfig,
    /// Where in the group's log it stands.
    pub at: LogIndex,
}

/// Whether a request knows the newest topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// It does.
    Current,
    /// The asker must learn the new topology.
    Stale {
        /// The epoch here.
        epoch: Epoch,
    },
    /// The asker knows a newer one: this node must learn it before it serves by its own.
    Behind {
        /// The epoch here.
        epoch: Epoch,
    },
}

/// Says whether a request that was routed by `epoch` knows the newest topology.
pub fn redirect(epoch: Epoch, state: &State) -> Redirect {
    let here = state.epoch();
    match epoch.cmp(&here) {
        std::cmp::Ordering::Equal => Redirect::Current,
        std::cmp::Ordering::Less => Redirect::Stale { epoch: here },
        std::cmp::Ordering::Greater => Redirect::Behind { epoch: here },
    }
}

/// What does not hold of a state: a defect of ours, or bytes that no state machine wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control state is broken: {0}")]
pub struct Broken(pub &'static str);

impl State {
    /// The index of the last command applied; 0 when there was none.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The cluster, once it is formed.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// The epoch; 0 before the cluster is formed.
    pub fn epoch(&self) -> Epoch {
        self.cluster.as_ref().map_or(Epoch(0), |cluster| cluster.epoch)
    }

    /// Says what does not hold.
    ///
    /// # Errors
    /// The first promise of the state that is broken.
    pub fn check(&self) -> Result<(), Broken> {
        hold(self.recent.len() <= REQUESTS_KEPT_MAX, "too many requests are remembered")?;
        hold(self.applied.0 < COUNTER_MAX, "the index of the log is at its end")?;
        hold(self.cluster.is_none() || self.applied != LogIndex(0), "a cluster came from no command")?;
        self.cluster.as_ref().map_or(Ok(()), Cluster::check)
    }
}

impl Cluster {
    /// Its id, which its authority bears.
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its trust domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Its slots.
    pub fn slot_count(&self) -> u16 {
        self.slot_count
    }

    /// Its shards.
    pub fn shard_count(&self) -> u16 {
        self.shard_count
    }

    /// What it wants of its copies.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Its epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Its members, removed ones that are still listed included.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (NodeId, &Member)> {
        self.members.iter().map(|(&node, member)| (node, member))
    }

    /// A member.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// Its join tokens.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = (TokenId, &JoinToken)> {
        self.tokens.iter().map(|(&token, record)| (token, record))
    }

    /// Its certificates.
    pub fn certificates(&self) -> impl ExactSizeIterator<Item = (Serial, &CertificateRecord)> {
        self.certificates.iter().map(|(&serial, record)| (serial, record))
    }

    /// The serials that no member believes.
    pub fn revoked(&self) -> impl Iterator<Item = Serial> {
        self.certificates().filter(|(_, record)| record.revoked_ms.is_some()).map(|(serial, _)| serial)
    }

    /// Whether the member shall get its next certificate now.
    pub fn is_renewal_asked(&self, node: NodeId) -> bool {
        self.renewals.contains(&node)
    }

    /// Every group, the control group first.
    pub fn groups(&self) -> impl Iterator<Item = Group> + use<> {
        std::iter::once(Group::Control).chain((0..self.shard_count).map(|shard| Group::Shard(ShardId(shard))))
    }

    /// The slots of a shard, as the router's table has them: ranges in the order of the shards.
    pub fn slots(&self, shard: ShardId) -> Option<Range<u16>> {
        let start = |shard: u16| (u32::from(shard) * u32::from(self.slot_count)).div_ceil(u32::from(self.shard_count));
        (shard.0 < self.shard_count).then(|| start(shard.0) as u16..start(shard.0 + 1) as u16)
    }

    /// Where the copies of a group are wished.
    pub fn wished(&self, group: Group) -> Option<&Placement> {
        self.wished.get(&group)
    }

    /// The configuration that a group was last heard to have committed.
    pub fn standing(&self, group: Group) -> Option<&Standing> {
        self.standing.get(&group)
    }

    fn check(&self) -> Result<(), Broken> {
        let here = self.members.values().filter(|member| !member.state.is_removed()).count();
        hold(self.slot_count.is_power_of_two() && self.slot_count <= SLOTS_MAX, "slots are no power of two")?;
        hold((1..=SHARDS_MAX.min(self.slot_count)).contains(&self.shard_count), "shards do not fit the slots")?;
        hold((1..=REPLICATION_FACTOR_MAX).contains(&self.policy.replication_factor), "the factor is out of range")?;
        hold((1..COUNTER_MAX).contains(&self.epoch.0), "the epoch is none, or at its end")?;
        hold((2..COUNTER_MAX).contains(&self.node_next.0), "the node ids were never given, or are at their end")?;
        hold((1..=MEMBERS_MAX).contains(&here), "no members, or too many")?;
        hold(self.members.len() - here <= REMOVED_KEPT_MAX, "too many removed members are listed")?;
        hold(self.tokens.len() <= TOKENS_MAX, "too many tokens")?;
        hold(self.certificates.len() <= CERTIFICATES_MAX, "too many certificates")?;
        let given = |node: NodeId| NodeId(0) < node && node < self.node_next;
        hold(self.members.keys().all(|&node| given(node)), "a member's id was never given")?;
        hold(self.members.values().all(|member| !member.roles.is_empty()), "a member has no role")?;
        let mut names: Vec<&Name> =
            self.members.values().filter(|member| !member.state.is_removed()).map(|member| &member.name).collect();
        names.sort();
        hold(names.windows(2).all(|pair| pair[0] != pair[1]), "two members share a name")?;
        let users = || self.tokens.values().filter_map(|token| token.used.as_ref()).map(|used| used.node);
        hold(users().all(given), "a token's user was never a member")?;
        hold(self.certificates.values().all(|record| given(record.owner)), "a certificate's owner was never a member")?;
        let stands = |node: &NodeId| self.members.get(node).is_some_and(Member::takes_part);
        hold(self.renewals.iter().all(stands), "a certificate is to be renewed of a node that takes no part")?;
        hold(self.wished.keys().copied().eq(self.groups()), "the wish is not for every group")?;
        hold(self.standing.keys().copied().eq(self.groups()), "not every group stands")?;
        let voter = |shard: &ShardId, node: &NodeId| self.wished[&Group::Shard(*shard)].config.voters.contains(node);
        hold(
            self.promoted.iter().all(|(shard, node)| shard.0 < self.shard_count && voter(shard, node)),
            "a promoted member has no vote",
        )?;
        for standing in self.standing.values() {
            hold(standing.config.is_possible(), "a standing configuration is impossible")?;
            hold(standing.config.nodes().all(given), "a standing configuration names a node that never was")?;
        }
        self.wished.iter().try_for_each(|(&group, wish)| self.check_wish(group, wish))
    }

    fn check_wish(&self, group: Group, wish: &Placement) -> Result<(), Broken> {
        let role = if group == Group::Control { Role::Control } else { Role::Storage };
        let may =
            |node: NodeId| self.members.get(&node).is_some_and(|member| member.roles.has(role) && member.takes_part());
        let votes = wish.config.voters.len();
        let pair = self.policy.pair_votes && votes == 2 && wish.config.learners.is_empty() && group != Group::Control;
        hold(wish.config.is_possible(), "a wished configuration is impossible")?;
        hold(wish.config.voters.iter().copied().all(may), "a wished vote is of a member that may not have it")?;
        // Every member follows the control group, whatever its roles.
        let follows = |node: NodeId| {
            may(node) || (group == Group::Control && self.members.get(&node).is_some_and(Member::takes_part))
        };
        hold(wish.config.nodes().all(follows), "a wished copy is on a member that may not hold it")?;
        hold(votes % 2 == 1 || pair, "a wished vote is even")?;
        hold(
            group == Group::Control || votes <= usize::from(self.policy.replication_factor),
            "more votes than wished",
        )?;
        hold(wish.primary.is_none_or(|node| wish.config.voters.contains(&node)), "a wished primary has no vote")
    }
}

fn hold(holds: bool, broken: &'static str) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(broken)) }
}
