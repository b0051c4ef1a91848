//! A world in one thread: nodes that are real shard hosts, a network, disks and a clock that the seed decides.
//!
//! Promises: a seed gives the same history every time, to the last message; what a node promised is checked after everything that
//! may happen to it has happened. Does not: have sockets, files, or time that passes by itself.

pub(crate) mod checks;
pub(crate) mod clients;
pub(crate) mod disk;
pub(crate) mod faults;
pub(crate) mod ledger;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod seeds;
pub(crate) mod world;

/// SplitMix64: the chances of one part of the world.
pub(crate) struct Dice(u64);

impl Dice {
    /// Chances that nobody else of the same seed shares.
    pub(crate) fn of(seed: u64, part: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        dice.next();
        dice
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 and below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True in so many cases of a thousand.
    pub(crate) fn chance(&mut self, of_thousand: u64) -> bool {
        self.below(1000) < of_thousand
    }
}
