//! The steering table: what is known of every member, and how much of the traffic it should get.
//!
//! Promises: of two signs of one member the newer life counts, and within a life the worse; a member that nobody has heard
//! of is suspect, then down; among any choice of members somebody always has a weight, since suspicion may be wrong.
//! Does not: remove a member or anything it holds; only [`View::set_roster`], which follows the control plane, does.

use std::collections::BTreeMap;

use crate::ids::NodeId;
use crate::limits::INBOX_MESSAGES_MAX;
use crate::membership::{LOAD_STALE_MS, Load};

/// Weight of a healthy member that idles.
pub const WEIGHT_FULL: u32 = 1000;
/// Weight of a healthy member whose load is not known.
pub const WEIGHT_UNKNOWN: u32 = 500;
/// Weight of a healthy member at the end of its strength: enough to learn when it recovers.
pub const WEIGHT_LEAST: u32 = 10;
/// Commit latency up to which a member counts as quick, in microseconds; beyond it the weight falls in proportion.
const COMMIT_LATENCY_QUICK_US: u32 = 2_000;

/// How a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// It answers.
    Healthy,
    /// It did not answer somebody, or was not heard of yet; it has time to contradict.
    Suspect,
    /// It did not contradict in time.
    Down,
}

impl Health {
    /// Its word in logs and answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }
}

/// A sign of a member, as the rumours have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sign {
    /// It answers.
    Alive,
    /// It did not answer somebody.
    Suspect,
    /// It did not contradict, or said good-bye.
    Dead,
}

/// Which life of a member a sign is of. Both are the member's own to raise: the generation when it starts or comes back
/// from the dead, the incarnation when it contradicts a suspicion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// Raised at every start and return.
    pub generation: u64,
    /// Raised at every contradiction within a generation.
    pub incarnation: u16,
}

/// What is known of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// How it is.
    pub health: Health,
    /// Since when, by this node's clock, in milliseconds.
    pub since_ms: u64,
    /// The life that is known; `None` until it was heard of.
    pub life: Option<Life>,
    /// Its last word on its load, and when it was heard.
    pub load: Option<(Load, u64)>,
}

/// A member's health changed. A member that came has no `from`, one that left no `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The member.
    pub node: NodeId,
    /// How it was.
    pub from: Option<Health>,
    /// How it is.
    pub to: Option<Health>,
}

/// The table.
#[derive(Clone, Debug)]
pub struct View {
    own: NodeId,
    peers: BTreeMap<NodeId, Peer>,
    unheard_ms_max: u64,
}

impl View {
    /// A table that knows this node only, which is always healthy. Others are suspect until they are heard of, and down
    /// when that does not happen within `unheard_ms_max`.
    pub fn new(now_ms: u64, own: NodeId, unheard_ms_max: u64) -> Self {
        let myself = Peer { health: Health::Healthy, since_ms: now_ms, life: None, load: None };
        Self { own, peers: [(own, myself)].into(), unheard_ms_max }
    }

    /// Follows the control plane: who is not named is forgotten, this node excepted.
    pub fn set_roster(&mut self, now_ms: u64, roster: impl IntoIterator<Item = NodeId>) -> Vec<Change> {
        let mut before = std::mem::take(&mut self.peers);
        let fresh = Peer { health: Health::Suspect, since_ms: now_ms, life: None, load: None };
        let mut changes = Vec::new();
        for node in roster.into_iter().chain([self.own]) {
            let known = before.remove(&node);
            if known.is_none() && !self.peers.contains_key(&node) {
                changes.push(Change { node, from: None, to: Some(fresh.health) });
            }
            self.peers.entry(node).or_insert(known.unwrap_or(fresh));
        }
        changes.extend(before.into_iter().map(|(node, peer)| Change { node, from: Some(peer.health), to: None }));
        changes
    }

    /// Hears a sign of a member. Older lives are not listened to; death is the end of its generation.
    pub fn hear(&mut self, now_ms: u64, node: NodeId, life: Life, sign: Sign) -> Option<Change> {
        let peer = self.peers.get_mut(&node).filter(|_| node != self.own)?;
        let health = match sign {
            Sign::Alive => Health::Healthy,
            Sign::Suspect => Health::Suspect,
            Sign::Dead => Health::Down,
        };
        let counts = match peer.life {
            None => true,
            Some(known) if known.generation != life.generation => known.generation < life.generation,
            Some(_) if peer.health == Health::Down => false,
            Some(_) if health == Health::Down => true,
            Some(known) => known < life || (known == life && peer.health < health),
        };
        if !counts {
            return None;
        }
        peer.life = Some(life);
        peer.turn(now_ms, node, health)
    }

    /// Hears from a member itself how busy it is.
    pub fn report(&mut self, now_ms: u64, node: NodeId, load: Load) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.load = Some((load, now_ms));
        }
    }

    /// Gives up on those who were named long ago and never heard of.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Change> {
        let late = |peer: &Peer| {
            peer.life.is_none() && peer.health == Health::Suspect && peer.since_ms + self.unheard_ms_max <= now_ms
        };
        let unheard = self.peers.iter_mut().filter(|(_, peer)| late(peer));
        unheard.filter_map(|(&node, peer)| peer.turn(now_ms, node, Health::Down)).collect()
    }

    /// When [`View::expire`] has something to do next.
    pub fn deadline(&self) -> Option<u64> {
        let waits = |peer: &&Peer| peer.life.is_none() && peer.health == Health::Suspect;
        self.peers.values().filter(waits).map(|peer| peer.since_ms + self.unheard_ms_max).min()
    }

    /// What is known of every member, this node included.
    pub fn peers(&self) -> impl ExactSizeIterator<Item = (NodeId, &Peer)> {
        self.peers.iter().map(|(&node, peer)| (node, peer))
    }

    /// What is known of a member.
    pub fn peer(&self, node: NodeId) -> Option<&Peer> {
        self.peers.get(&node)
    }

    /// The members of `choice` in the order in which one that could be any of them should be tried: those that answer before the
    /// suspect and those before the ones that are down, the least busy first among equals.
    pub fn in_order(&self, now_ms: u64, choice: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
        let mut order: Vec<NodeId> = choice.into_iter().collect();
        order.sort_by_key(|node| {
            let peer = self.peers.get(node);
            let strength = peer.map_or(0, |peer| peer.strength(now_ms));
            (peer.map_or(Health::Down, |peer| peer.health), std::cmp::Reverse(strength))
        });
        order
    }

    /// How the traffic should be spread over `choice`, members that could all serve it: by load over the healthy; when
    /// none is, evenly over the suspect; when all are down, evenly over all, since this node may be the one cut off.
    /// Strangers get nothing unless all are strangers.
    pub fn weights(&self, now_ms: u64, choice: &[NodeId]) -> Vec<u32> {
        let health = |node: &NodeId| self.peers.get(node).map(|peer| peer.health);
        let best = choice.iter().filter_map(health).min();
        let weight = |node: &NodeId| match (best, self.peers.get(node)) {
            (Some(best), Some(peer)) if peer.health == best => {
                if best == Health::Healthy {
                    peer.strength(now_ms)
                } else {
                    WEIGHT_LEAST
                }
            }
            (None, _) => WEIGHT_LEAST,
            _ => 0,
        };
        choice.iter().map(weight).collect()
    }
}

impl Peer {
    fn turn(&mut self, now_ms: u64, node: NodeId, health: Health) -> Option<Change> {
        let from = std::mem::replace(&mut self.health, health);
        if from == health {
            return None;
        }
        self.since_ms = now_ms;
        Some(Change { node, from: Some(from), to: Some(health) })
    }

    /// The weight of a healthy member: what its scarcest resource leaves.
    fn strength(&self, now_ms: u64) -> u32 {
        let Some((load, _)) = self.load.filter(|&(_, heard_ms)| now_ms < heard_ms + LOAD_STALE_MS) else {
            return WEIGHT_UNKNOWN;
        };
        let cpu_left = WEIGHT_FULL.saturating_sub(u32::from(load.cpu_permille));
        let messages_max = INBOX_MESSAGES_MAX as u32;
        let inbox_left = messages_max.saturating_sub(load.inbox_depth) * WEIGHT_FULL / messages_max;
        let quickness = COMMIT_LATENCY_QUICK_US * WEIGHT_FULL / load.commit_latency_us.max(COMMIT_LATENCY_QUICK_US);
        cpu_left.min(inbox_left).min(quickness).max(WEIGHT_LEAST)
    }
}

// The products above stay within their type.
const _: () = assert!(INBOX_MESSAGES_MAX <= (u32::MAX / WEIGHT_FULL) as usize);
const _: () = assert!(COMMIT_LATENCY_QUICK_US <= u32::MAX / WEIGHT_FULL);
const _: () = assert!(0 < WEIGHT_LEAST && WEIGHT_LEAST < WEIGHT_UNKNOWN && WEIGHT_UNKNOWN < WEIGHT_FULL);
