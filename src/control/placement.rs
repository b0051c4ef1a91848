//! Where the copies of every group belong.
//!
//! All members that hold data hold a copy of every shard (the skeleton of each needs them all), so the question is who
//! votes and who is wished as primary. Votes are spread so that no member has two more than another, and a wish moves only
//! as far as that balance, a lost member or a changed policy asks: a member that joins takes at most its even share, and
//! nothing moves between the others. Where several choices are equally good, the rendezvous hash of group and node decides.
//!
//! Promises: the same state gives the same answer, and the answer of a state that holds that answer is that answer; voters
//! are an odd number, except a pair that was asked for; a draining member votes only where too few others could.
//! Does not: know who is alive. A dead member keeps its vote until a person removes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::control::{CONTROL_VOTERS_MAX, Cluster, MEMBERS_MAX, Member, MemberState, Role, State};
use crate::ids::{NodeId, ShardId};

/// A replication group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Group {
    /// The control plane's own.
    Control,
    /// A shard's.
    Shard(ShardId),
}

/// Who is in a replication group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupConfig {
    /// Those whose votes commit.
    pub voters: BTreeSet<NodeId>,
    /// Those who only follow.
    pub learners: BTreeSet<NodeId>,
}

/// Where the copies of a group are wished.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Who is wished in the group.
    pub config: GroupConfig,
    /// Who is wished to be its primary. A wish: the group elects.
    pub primary: Option<NodeId>,
}

/// Where the copies of every group belong; empty before the cluster is formed.
pub fn placement(state: &State) -> BTreeMap<Group, Placement> {
    state.cluster().map(of_cluster).unwrap_or_default()
}

pub(super) fn of_cluster(cluster: &Cluster) -> BTreeMap<Group, Placement> {
    let shards: Vec<Group> = cluster.groups().filter(|group| *group != Group::Control).collect();
    let policy = cluster.policy();
    let mut wished = votes_of(cluster, &[Group::Control], Role::Control, CONTROL_VOTERS_MAX, false);
    if let Some(control) = wished.get_mut(&Group::Control) {
        // Every member follows: it must know where the others are and whose certificates are revoked.
        let takes_part = |member: &Member| matches!(member.state, MemberState::Active | MemberState::Draining);
        let members = cluster.members().filter(|(_, member)| takes_part(member)).map(|(node, _)| node);
        control.config.learners = members.filter(|node| !control.config.voters.contains(node)).collect();
    }
    wished.extend(votes_of(
        cluster,
        &shards,
        Role::Storage,
        usize::from(policy.replication_factor),
        policy.pair_votes && 1 < policy.replication_factor,
    ));
    wish_primaries(cluster, &mut wished);
    wished
}

/// Those who may hold a copy of some groups, the ready first.
struct Candidates {
    active: BTreeSet<NodeId>,
    draining: BTreeSet<NodeId>,
}

impl Candidates {
    /// How many vote: an odd number, or an active pair. A draining member counts only up to the third, so that it gives up
    /// its vote unless that would leave a group that survives no failure.
    fn seat_count(&self, votes_max: usize, pair: bool) -> usize {
        let count = self.active.len() + self.draining.len();
        if pair && count == 2 && self.active.len() == 2 {
            return 2;
        }
        odd_at_most(votes_max.min(self.active.len().max(count.min(3))))
    }
}

/// The votes and learners of `groups` among the members with `role`.
fn votes_of(
    cluster: &Cluster,
    groups: &[Group],
    role: Role,
    votes_max: usize,
    pair: bool,
) -> BTreeMap<Group, Placement> {
    let with = |state: MemberState| {
        let fits = move |member: &Member| member.roles.has(role) && member.state == state;
        cluster.members().filter(move |(_, member)| fits(member)).map(|(node, _)| node).collect::<BTreeSet<_>>()
    };
    let candidates = Candidates { active: with(MemberState::Active), draining: with(MemberState::Draining) };
    let seats = candidates.seat_count(votes_max, pair);
    // Where the active alone can fill every seat they do; else all of them vote and the draining fill up.
    let (certain, pool, open) = if seats <= candidates.active.len() {
        (BTreeSet::new(), &candidates.active, seats)
    } else {
        (candidates.active.clone(), &candidates.draining, seats - candidates.active.len())
    };
    let mut seated = Seats::kept(cluster, groups, pool);
    seated.fill(open);
    seated.balance();
    let all: BTreeSet<NodeId> = candidates.active.union(&candidates.draining).copied().collect();
    groups
        .iter()
        .zip(seated.by_group)
        .map(|(&group, (_, chosen))| {
            let voters: BTreeSet<NodeId> = certain.union(&chosen).copied().collect();
            let learners = all.difference(&voters).copied().collect();
            (group, Placement { config: GroupConfig { voters, learners }, primary: None })
        })
        .collect()
}

/// Votes of several groups over one pool of members.
struct Seats<'a> {
    by_group: Vec<(Group, BTreeSet<NodeId>)>,
    pool: &'a BTreeSet<NodeId>,
}

impl<'a> Seats<'a> {
    /// The votes of the present wish that can stay.
    fn kept(cluster: &Cluster, groups: &[Group], pool: &'a BTreeSet<NodeId>) -> Self {
        let present = |group: &Group| cluster.wished(*group).map(|wish| &wish.config.voters);
        let kept = |group: &Group| present(group).into_iter().flatten().filter(|node| pool.contains(node));
        Self { by_group: groups.iter().map(|group| (*group, kept(group).copied().collect())).collect(), pool }
    }

    fn load(&self, node: NodeId) -> usize {
        self.by_group.iter().filter(|(_, voters)| voters.contains(&node)).count()
    }

    /// Gives every group exactly `open` votes: the least loaded get new ones, the most loaded lose surplus ones.
    fn fill(&mut self, open: usize) {
        for at in 0..self.by_group.len() {
            while self.by_group[at].1.len() != open {
                let (group, voters) = &self.by_group[at];
                if voters.len() < open {
                    let best = self.pool.difference(voters).min_by_key(|&&node| (self.load(node), rank(*group, node)));
                    let Some(&best) = best else { break };
                    self.by_group[at].1.insert(best);
                } else {
                    let worst = voters.iter().max_by_key(|&&node| (self.load(node), rank(*group, node)));
                    let Some(&worst) = worst else { break };
                    self.by_group[at].1.remove(&worst);
                }
            }
        }
    }

    /// Moves votes from the most to the least loaded until none has two more than another. Each move makes the sum of the
    /// squared loads smaller, so it ends; one who has more has a group in which the other has none, so it always can.
    fn balance(&mut self) {
        loop {
            let most = self.pool.iter().copied().max_by_key(|&node| (self.load(node), node));
            let least = self.pool.iter().copied().min_by_key(|&node| (self.load(node), node));
            let (Some(most), Some(least)) = (most, least) else { return };
            if self.load(most) <= self.load(least) + 1 {
                return;
            }
            let movable =
                |(_, voters): &&mut (Group, BTreeSet<NodeId>)| voters.contains(&most) && !voters.contains(&least);
            let Some((_, voters)) =
                self.by_group.iter_mut().filter(movable).min_by_key(|(group, _)| rank(*group, least))
            else {
                return;
            };
            voters.remove(&most);
            voters.insert(least);
        }
    }
}

/// Wishes a primary for every group: one a person asked for, else the present one, else the least burdened voter; then
/// shards move along voters until no member leads two more than it must.
fn wish_primaries(cluster: &Cluster, wished: &mut BTreeMap<Group, Placement>) {
    let active = |node: &NodeId| cluster.member(*node).is_some_and(|member| member.state == MemberState::Active);
    let mut leads: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut eligible: BTreeMap<Group, Vec<NodeId>> = BTreeMap::new();
    for (&group, wish) in wished.iter_mut() {
        let mut voters: Vec<NodeId> = wish.config.voters.iter().copied().filter(active).collect();
        if voters.is_empty() {
            voters.extend(&wish.config.voters);
        }
        let promoted = if let Group::Shard(shard) = group { cluster.promoted.get(&shard).copied() } else { None };
        let present = cluster.wished(group).and_then(|wish| wish.primary);
        wish.primary = promoted.or(present).filter(|node| voters.contains(node));
        // The control group is one more office, but never a reason to move a shard.
        if let (Some(node), Group::Shard(_)) = (wish.primary, group) {
            *leads.entry(node).or_default() += 1;
        }
        eligible.insert(group, voters);
    }
    for (&group, wish) in wished.iter_mut().filter(|(_, wish)| wish.primary.is_none()) {
        let load = |node: &NodeId| leads.get(node).copied().unwrap_or_default();
        wish.primary = eligible[&group].iter().copied().min_by_key(|node| (load(node), rank(group, *node)));
        if let (Some(node), Group::Shard(_)) = (wish.primary, group) {
            *leads.entry(node).or_default() += 1;
        }
    }
    let pinned = |group: Group| match group {
        Group::Control => true,
        Group::Shard(shard) => cluster.promoted.contains_key(&shard),
    };
    while let Some(path) = relief(wished, &eligible, pinned) {
        for (group, to) in path {
            if let Some(wish) = wished.get_mut(&group) {
                wish.primary = Some(to);
            }
        }
    }
}

/// The shortest chain of handovers that takes one shard from a member and gives one to a member that leads at least two
/// fewer. Shortest chains exist exactly when the spread of primaries can be made more even.
fn relief(
    wished: &BTreeMap<Group, Placement>,
    eligible: &BTreeMap<Group, Vec<NodeId>>,
    pinned: impl Fn(Group) -> bool,
) -> Option<Vec<(Group, NodeId)>> {
    let mut leads: BTreeMap<NodeId, usize> = eligible.values().flatten().map(|&node| (node, 0)).collect();
    for (group, wish) in wished {
        if let (Some(node), Group::Shard(_)) = (wish.primary, group) {
            *leads.entry(node).or_default() += 1;
        }
    }
    let mut sources: Vec<(usize, NodeId)> = leads.iter().map(|(&node, &count)| (count, node)).collect();
    sources.sort_by(|left, right| right.cmp(left));
    for (source_count, source) in sources {
        let mut reached: BTreeMap<NodeId, Vec<(Group, NodeId)>> = BTreeMap::from([(source, Vec::new())]);
        let mut frontier = vec![source];
        while !frontier.is_empty() {
            let mut further = Vec::new();
            for from in frontier {
                let movable = |(group, wish): &(&Group, &Placement)| wish.primary == Some(from) && !pinned(**group);
                for (&group, _) in wished.iter().filter(movable) {
                    for &to in &eligible[&group] {
                        if reached.contains_key(&to) {
                            continue;
                        }
                        let mut path = reached[&from].clone();
                        path.push((group, to));
                        if leads[&to] + 2 <= source_count {
                            return Some(path);
                        }
                        reached.insert(to, path);
                        further.push(to);
                    }
                }
            }
            frontier = further;
        }
    }
    None
}

/// The rendezvous hash: smaller is nearer. Equal on every node and for ever.
fn rank(group: Group, node: NodeId) -> [u8; 8] {
    let group = match group {
        Group::Control => u32::MAX,
        Group::Shard(shard) => u32::from(shard.0),
    };
    let mut key = [0; 12];
    key[..4].copy_from_slice(&group.to_le_bytes());
    key[4..].copy_from_slice(&node.0.to_le_bytes());
    let mut rank = [0; 8];
    rank.copy_from_slice(&blake3::hash(&key).as_bytes()[..8]);
    rank
}

/// The largest odd number up to `count`; 0 for 0.
fn odd_at_most(count: usize) -> usize {
    if count % 2 == 1 { count } else { count.saturating_sub(1) }
}

impl GroupConfig {
    /// A configuration with these voters and learners.
    pub fn new(voters: impl IntoIterator<Item = NodeId>, learners: impl IntoIterator<Item = NodeId>) -> Self {
        Self { voters: voters.into_iter().collect(), learners: learners.into_iter().collect() }
    }

    /// Everyone in it, voters first.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.voters.iter().chain(&self.learners).copied()
    }

    /// Votes that make a majority.
    pub fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// Whether a group can have it: somebody votes, nobody stands twice. While a group moves from one wish to another it
    /// may hold the members of both.
    pub(super) fn is_possible(&self) -> bool {
        !self.voters.is_empty() && self.voters.is_disjoint(&self.learners) && self.nodes().count() <= 2 * MEMBERS_MAX
    }
}

impl Member {
    /// Whether it may be in a group now.
    pub(super) fn takes_part(&self) -> bool {
        matches!(self.state, MemberState::Active | MemberState::Draining)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => f.write_str("the control group"),
            Self::Shard(shard) => write!(f, "shard {}", shard.0),
        }
    }
}
