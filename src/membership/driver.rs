//! Drives the gossip: datagrams in and out, a clock, and the table that the rest of the node reads.
//!
//! Promises: the table is published whenever somebody's health changes, and every second; a datagram that cannot be sent at once is
//! forgotten. Does not: know how datagrams travel, or who is a member.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Change, Effect, Gossip, Health, Identity, Load, Timing, View};
use crate::ids::NodeId;

/// Datagrams that were heard and wait for the driver.
pub const HEARD_MAX: usize = 256;
/// Time between two looks at the roster and the load.
const LOOK: Duration = Duration::from_secs(1);

/// A datagram and the member that the mesh says it is of.
pub type Heard = (NodeId, Bytes);

/// What was known of the members at a moment.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The moment, by the driver's clock, in milliseconds.
    pub now_ms: u64,
    /// The table; `None` on a node that is alone, or before the first look.
    pub view: Option<View>,
}

/// What the driver is given.
pub struct Parts {
    /// This node in this life.
    pub own: Identity,
    /// The rhythm.
    pub timing: Timing,
    /// Datagrams of members.
    pub heard: mpsc::Receiver<Heard>,
    /// Sends a datagram, or forgets it.
    pub send: Box<dyn Fn(NodeId, Vec<u8>)>,
    /// The members that the control plane names.
    pub roster: Box<dyn Fn() -> Vec<NodeId>>,
    /// How busy this node is.
    pub load: Box<dyn FnMut() -> Load>,
    /// Where the table goes.
    pub told: watch::Sender<Arc<Seen>>,
    /// When this node stops.
    pub stops: watch::Receiver<bool>,
}

/// Gossips until the node stops, then says good-bye.
pub async fn run(mut parts: Parts) {
    let began = Instant::now();
    let now_ms = || began.elapsed().as_millis() as u64;
    let mut gossip = Gossip::new(0, parts.own, parts.timing, parts.own.generation);
    let mut look_at = began;
    loop {
        if look_at <= Instant::now() {
            look_at = Instant::now() + LOOK;
            gossip.set_roster(now_ms(), (parts.roster)());
            gossip.set_load(now_ms(), (parts.load)());
            publish(&parts.told, now_ms(), &gossip);
        }
        act(&mut gossip, &parts, now_ms());
        let due = gossip.poll_deadline().map_or(look_at, |due_ms| began + Duration::from_millis(due_ms));
        tokio::select! {
            heard = parts.heard.recv() => match heard {
                // What is not heard is counted nowhere: a member of another build, or one that has just been removed.
                Some((sender, datagram)) => match gossip.handle_datagram(now_ms(), sender, &datagram) {
                    Ok(()) => {}
                    Err(ignored) => tracing::debug!(%sender, %ignored, "a datagram was not heard"),
                },
                None => return,
            },
            () = tokio::time::sleep_until(due.min(look_at)) => gossip.expire(now_ms()),
            () = stopped(&mut parts.stops) => break,
        }
    }
    gossip.leave(now_ms());
    act(&mut gossip, &parts, now_ms());
}

async fn stopped(stops: &mut watch::Receiver<bool>) {
    // Whoever would tell it is gone, which is the same.
    drop(stops.wait_for(|&stops| stops).await);
}

fn act(gossip: &mut Gossip, parts: &Parts, now_ms: u64) {
    let mut has_changed = false;
    while let Some(effect) = gossip.poll_effect() {
        match effect {
            Effect::Send { to, datagram } => (parts.send)(to, datagram),
            Effect::Changed(Change { node, from, to }) => {
                has_changed = true;
                let word = |health: Option<Health>| health.map_or("no member", Health::word);
                tracing::info!(%node, from = word(from), to = word(to), "health");
            }
            Effect::Returned { generation } => {
                tracing::warn!(generation, "the others held this node for dead; it is back");
            }
        }
    }
    if has_changed {
        publish(&parts.told, now_ms, gossip);
    }
}

fn publish(told: &watch::Sender<Arc<Seen>>, now_ms: u64, gossip: &Gossip) {
    told.send_replace(Arc::new(Seen { now_ms, view: Some(gossip.view().clone()) }));
}
