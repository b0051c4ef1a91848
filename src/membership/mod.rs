//! Who answers, and how busy they are: rumours between the members that the control plane names.
//!
//! [`Gossip`] speaks SWIM (foca) over datagrams that a driver carries; [`View`] turns what it hears into a steering table.
//!
//! Promises: pure, the driver passes the time, the datagrams and one seed; a member that is dead is suspected and then down
//! within a bound, one that is merely unreachable for a while comes back by itself; strangers are not heard, and nobody is
//! heard in another's name; every queue has a bound.
//! Does not: remove anything. Suspicion steers requests elsewhere; who belongs to the cluster is the control plane's, and a
//! group's primary is its own affair. Nor does it open a socket or read a clock.

pub mod driver;
mod gossip;
mod view;
pub mod wire;

#[cfg(test)]
mod gossip_tests;
#[cfg(test)]
mod view_tests;

pub use gossip::{Effect, Gossip, Ignored, Timing};
pub use view::{Change, Health, Life, Peer, Sign, View, WEIGHT_FULL, WEIGHT_LEAST, WEIGHT_UNKNOWN};
pub use wire::{Build, Identity, Load};

/// Members that are gossiped with, this node included. The control plane allows fewer today.
pub const PEERS_MAX: usize = 64;
/// A datagram, in bytes: what every path carries in one packet of 1200 bytes inside QUIC, whose own part is at most some 50.
pub const DATAGRAM_BYTES_MAX: usize = 1140;
/// Effects that wait for the driver. One input makes no more than a few for each peer.
pub const EFFECTS_MAX: usize = 8 * PEERS_MAX;
/// Timers that wait. Those of the protocol are a handful; only peers that make us rejoin again and again add to them.
pub const TIMERS_MAX: usize = 1024;
/// Age at which a load report says nothing any more, in milliseconds.
pub const LOAD_STALE_MS: u64 = 10_000;
