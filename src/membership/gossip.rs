//! SWIM without hands: foca in the house's shape. The driver carries datagrams and wakes it in time.
//!
//! foca decides whom to probe and what to believe. This file gives it what it lacks: a queue of timers behind one deadline,
//! a roster outside of which nobody is heard, calls to members that are not heard of (at the start, and after a partition),
//! and the [`View`] in which suspicion is visible, which foca does not announce.
//!
//! Promises: after every input the driver finds all effects by polling until there are none; a peer that floods is ignored
//! before a queue overflows; nothing is sent outside the roster.
//! Does not: retry or order datagrams; rumours bear loss.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Config, Foca, NoCustomBroadcast, Notification, PeriodicParams, PostcardCodec, Runtime, State, Timer};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::ids::NodeId;
use crate::membership::wire::{self, PACKET_BYTES_MAX, WireError};
use crate::membership::{Change, EFFECTS_MAX, Identity, Life, Load, PEERS_MAX, Sign, TIMERS_MAX, View};

/// The rhythm of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often one member is probed, in milliseconds.
    pub probe_period_ms: u64,
    /// How long its answer is waited for before others are asked to probe it, in milliseconds.
    pub probe_answer_ms: u64,
    /// How long a suspect may contradict, in milliseconds.
    pub suspicion_ms: u64,
    /// How often members that are not heard of, or down, are called, in milliseconds.
    pub call_period_ms: u64,
}

impl Default for Timing {
    /// For members within one region: a dead one of seven is down for all after 5 to 10 seconds, and each sends two to three
    /// datagrams a second (simulated, up to 5 % loss).
    fn default() -> Self {
        Self { probe_period_ms: 1000, probe_answer_ms: 300, suspicion_ms: 4000, call_period_ms: 2000 }
    }
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a datagram to a member, if it can be sent at once; else forget it.
    Send {
        /// The member.
        to: NodeId,
        /// At most [`crate::membership::DATAGRAM_BYTES_MAX`].
        datagram: Vec<u8>,
    },
    /// A member's health changed.
    Changed(Change),
    /// The others held this node for dead; it has come back in a new life.
    Returned {
        /// Its generation now.
        generation: u64,
    },
}

/// Why a datagram was not heard. For counters; there is nothing to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// Not one of ours.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The sender is not in the roster.
    #[error("{0} is not in the roster")]
    Stranger(NodeId),
    /// The packet names another sender than the mesh does.
    #[error("{sender} speaks in the name of {claimed}")]
    Imposter {
        /// Who the mesh says it is.
        sender: NodeId,
        /// Who the packet says it is.
        claimed: NodeId,
    },
    /// The driver has not taken the effects, or there are too many timers.
    #[error("too much is waiting")]
    Full,
    /// It reads, but the protocol does not allow it.
    #[error("the protocol does not allow such a packet")]
    Protocol,
}

/// This node's part in the rumours.
pub struct Gossip {
    foca: Protocol,
    view: View,
    roster: BTreeSet<NodeId>,
    load: Load,
    timing: Timing,
    timers: BinaryHeap<Reverse<Pending>>,
    timer_next: u64,
    effects: VecDeque<Effect>,
}

type Protocol = Foca<Identity, PostcardCodec, SmallRng, NoCustomBroadcast>;

/// A timer, ordered by its time, then by its number.
struct Pending {
    due_ms: u64,
    number: u64,
    timer: Wake,
}

enum Wake {
    Protocol(Timer<Identity>),
    /// Calls members that are not heard of.
    Call,
}

impl Gossip {
    /// A node that knows only itself. `seed` may be any number that differs between nodes.
    ///
    /// # Panics
    /// When the timing is not possible: an answer is waited for less than half a period, and nothing takes no time.
    pub fn new(now_ms: u64, own: Identity, timing: Timing, seed: u64) -> Self {
        let Timing { probe_period_ms, probe_answer_ms, suspicion_ms, call_period_ms } = timing;
        assert!(0 < probe_answer_ms && probe_answer_ms <= probe_period_ms / 2, "a probe must fit its period");
        assert!(0 < suspicion_ms && 0 < call_period_ms, "nothing takes no time");
        let mut gossip = Self {
            foca: protocol(own, timing, SmallRng::seed_from_u64(seed ^ own.node.0)),
            view: View::new(now_ms, own.node, probe_period_ms + suspicion_ms),
            roster: BTreeSet::from([own.node]),
            load: Load::default(),
            timing,
            timers: BinaryHeap::new(),
            timer_next: 0,
            effects: VecDeque::new(),
        };
        gossip.wake(now_ms + call_period_ms, Wake::Call);
        gossip
    }

    /// Follows the control plane: gossips with exactly these members, and calls those that are new.
    ///
    /// # Panics
    /// When there are more than [`PEERS_MAX`].
    pub fn set_roster(&mut self, now_ms: u64, roster: impl IntoIterator<Item = NodeId>) {
        let own = *self.foca.identity();
        let roster: BTreeSet<NodeId> = roster.into_iter().chain([own.node]).collect();
        assert!(roster.len() <= PEERS_MAX, "a roster of {} members", roster.len());
        if roster == self.roster {
            return;
        }
        let left = self.roster.difference(&roster).next().is_some();
        self.roster = roster;
        let changes = self.view.set_roster(now_ms, self.roster.iter().copied());
        self.effects.extend(changes.into_iter().map(Effect::Changed));
        if left {
            self.forget_who_left(now_ms, own);
        }
        self.call(now_ms);
    }

    /// What this node says of its load from now on.
    pub fn set_load(&mut self, now_ms: u64, load: Load) {
        self.load = load;
        self.view.report(now_ms, self.foca.identity().node, load);
    }

    /// Hears a datagram from a member that the mesh has authenticated.
    ///
    /// # Errors
    /// Why it was not heard.
    pub fn handle_datagram(&mut self, now_ms: u64, sender: NodeId, bytes: &[u8]) -> Result<(), Ignored> {
        let (load, packet) = wire::decode(bytes)?;
        if !self.roster.contains(&sender) || sender == self.foca.identity().node {
            return Err(Ignored::Stranger(sender));
        }
        let (claimed, packet) = wire::screen(packet, |node| self.roster.contains(&node))?;
        if claimed != sender {
            return Err(Ignored::Imposter { sender, claimed });
        }
        // Half of each queue is kept for this node's own timers.
        if EFFECTS_MAX / 2 <= self.effects.len() || TIMERS_MAX / 2 <= self.timers.len() {
            return Err(Ignored::Full);
        }
        self.view.report(now_ms, sender, load);
        let heard = self.drive(now_ms, |foca, hands| foca.handle_data(&packet, hands));
        heard.map_err(|_| Ignored::Protocol)
    }

    /// Does what is due. Call it at [`Gossip::poll_deadline`], or late.
    pub fn expire(&mut self, now_ms: u64) {
        let changes = self.view.expire(now_ms);
        self.effects.extend(changes.into_iter().map(Effect::Changed));
        while let Some(Reverse(next)) = self.timers.peek()
            && next.due_ms <= now_ms
        {
            let Some(Reverse(next)) = self.timers.pop() else { return };
            match next.timer {
                // An error here is a probe that did not run its course because we woke late; foca starts another.
                Wake::Protocol(timer) => drop(self.drive(now_ms, |foca, hands| foca.handle_timer(timer, hands))),
                Wake::Call => {
                    self.call(now_ms);
                    self.wake(now_ms + self.timing.call_period_ms, Wake::Call);
                }
            }
        }
    }

    /// Says good-bye: some members hear that this node is down, and tell the others. It gossips no more.
    pub fn leave(&mut self, now_ms: u64) {
        drop(self.drive(now_ms, |foca, hands| foca.leave_cluster(hands)));
        self.timers.clear();
        self.roster = BTreeSet::from([self.foca.identity().node]);
    }

    /// The next effect. Poll after every input until there is none.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Gossip::expire`] has something to do next.
    pub fn poll_deadline(&self) -> Option<u64> {
        let timer = self.timers.peek().map(|Reverse(next)| next.due_ms);
        timer.into_iter().chain(self.view.deadline()).min()
    }

    /// The steering table.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// This node's present life.
    pub fn identity(&self) -> Identity {
        *self.foca.identity()
    }

    /// Members that the protocol keeps, in whatever state.
    #[cfg(test)]
    pub(super) fn kept_count(&self) -> usize {
        self.foca.iter_membership_state().len()
    }

    /// Lets the protocol act, and takes from its hands what it wants done.
    fn drive(
        &mut self,
        now_ms: u64,
        act: impl FnOnce(&mut Protocol, &mut Hands) -> Result<(), foca::Error>,
    ) -> Result<(), foca::Error> {
        let mut hands = Hands::default();
        let outcome = act(&mut self.foca, &mut hands);
        for (timer, after) in hands.timers {
            self.wake(now_ms + after.as_millis() as u64, Wake::Protocol(timer));
        }
        for (to, packet) in hands.packets {
            if self.roster.contains(&to) && self.effects.len() < EFFECTS_MAX {
                self.effects.push_back(Effect::Send { to, datagram: wire::encode(&self.load, &packet) });
            }
        }
        if let Some(generation) = hands.returned {
            self.effects.push_back(Effect::Returned { generation });
        }
        self.look(now_ms);
        outcome
    }

    /// Reads the protocol's table into the view.
    fn look(&mut self, now_ms: u64) {
        for member in self.foca.iter_membership_state() {
            let life = Life { generation: member.id().generation, incarnation: member.incarnation() };
            let sign = match member.state() {
                State::Alive => Sign::Alive,
                State::Suspect => Sign::Suspect,
                State::Down => Sign::Dead,
            };
            let change = self.view.hear(now_ms, member.id().node, life, sign);
            self.effects.extend(change.map(Effect::Changed));
        }
    }

    /// Calls the members that the protocol does not hold for active. They answer with whom they know; who held us for dead
    /// says so, and we come back in a new life.
    fn call(&mut self, now_ms: u64) {
        let own = *self.foca.identity();
        let active: BTreeSet<NodeId> = self.foca.iter_members().map(|member| member.id().node).collect();
        let silent = self.roster.iter().copied().filter(|node| *node != own.node && !active.contains(node));
        for node in silent.collect::<Vec<_>>() {
            // Any life of the node hears a call; only the node's number counts.
            let any_life = Identity { node, generation: 0, address: own.address };
            drop(self.drive(now_ms, |foca, hands| foca.announce(any_life, hands)));
        }
    }

    /// foca has no way to forget a member, so the protocol begins anew with those who stay, in a new life so that nothing
    /// that is under way is mistaken for it.
    fn forget_who_left(&mut self, now_ms: u64, own: Identity) {
        let own = Identity { generation: own.generation.saturating_add(1), ..own };
        let seed = own.generation ^ now_ms;
        let before = std::mem::replace(&mut self.foca, protocol(own, self.timing, SmallRng::seed_from_u64(seed)));
        self.timers.retain(|Reverse(pending)| matches!(pending.timer, Wake::Call));
        let stay: Vec<_> =
            before.iter_membership_state().filter(|member| self.roster.contains(&member.id().node)).cloned().collect();
        drop(self.drive(now_ms, |foca, hands| foca.apply_many(stay.into_iter(), false, hands)));
    }

    fn wake(&mut self, due_ms: u64, timer: Wake) {
        assert!(self.timers.len() < TIMERS_MAX, "the protocol set {} timers", self.timers.len());
        self.timer_next += 1;
        self.timers.push(Reverse(Pending { due_ms, number: self.timer_next, timer }));
    }
}

fn protocol(own: Identity, timing: Timing, chance: SmallRng) -> Protocol {
    const MANY: NonZeroUsize = NonZeroUsize::new(3).unwrap();
    const PACKET_BYTES: NonZeroUsize = NonZeroUsize::new(PACKET_BYTES_MAX).unwrap();
    const TELLINGS: NonZeroU8 = NonZeroU8::new(8).unwrap();
    let config = Config {
        probe_period: Duration::from_millis(timing.probe_period_ms),
        probe_rtt: Duration::from_millis(timing.probe_answer_ms),
        num_indirect_probes: MANY,
        max_transmissions: TELLINGS,
        suspect_to_down_after: Duration::from_millis(timing.suspicion_ms),
        // The table is as small as the roster, and the dead come back in a new life.
        remove_down_after: None,
        max_packet_size: PACKET_BYTES,
        notify_down_members: true,
        periodic_announce: None,
        // `Gossip::call` does it, for members that were never heard of too.
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams {
            frequency: Duration::from_millis((timing.probe_period_ms / 4).max(1)),
            num_members: MANY,
        }),
    };
    Foca::new(own, config, chance, PostcardCodec)
}

/// What the protocol wants done.
#[derive(Default)]
struct Hands {
    packets: Vec<(NodeId, Vec<u8>)>,
    timers: Vec<(Timer<Identity>, Duration)>,
    returned: Option<u64>,
}

impl Runtime<Identity> for Hands {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        if let Notification::Rejoin(own) = notification {
            self.returned = Some(own.generation);
        }
    }

    fn send_to(&mut self, to: Identity, packet: &[u8]) {
        self.packets.push((to.node, packet.to_vec()));
    }

    fn submit_after(&mut self, timer: Timer<Identity>, after: Duration) {
        self.timers.push((timer, after));
    }
}

impl Pending {
    fn order(&self) -> (u64, u64) {
        (self.due_ms, self.number)
    }
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Pending {}

impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}
