//! Key → slot → shard → core, as a table.
//!
//! Promises: pure; the same table on every core. Does not: move slots.

use crate::ids::{ShardId, Slot, VertexId};

/// Which shard owns a slot, and which core and log own a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotTable {
    slots: Vec<ShardId>,
    core_of_shard: Vec<usize>,
    log_of_shard: Vec<usize>,
    log_count: usize,
}

impl SlotTable {
    /// Slots in ranges over the shards (0–3, 4–7, … for 16 slots in 4 shards), shards in turn over the logs, logs in turn over
    /// the cores.
    ///
    /// # Panics
    /// When `slot_count` is no power of two or smaller than `shard_count`, or a count is zero: the superblock was checked.
    pub fn new(slot_count: u16, shard_count: u16, log_count: usize, core_count: usize) -> Self {
        assert!(slot_count.is_power_of_two(), "slots: {slot_count} is no power of two");
        assert!(shard_count <= slot_count, "more shards than slots");
        assert!(0 < shard_count.min(log_count as u16).min(core_count as u16), "a count is zero");
        let slots = (0..slot_count)
            .map(|slot| ShardId((u32::from(slot) * u32::from(shard_count) / u32::from(slot_count)) as u16))
            .collect();
        let log_of_shard: Vec<usize> = (0..usize::from(shard_count)).map(|shard| shard % log_count).collect();
        let core_of_shard = log_of_shard.iter().map(|log| log % core_count).collect();
        Self { slots, core_of_shard, log_of_shard, log_count }
    }

    /// The shard that owns a key.
    pub fn shard(&self, key: &[u8; 32]) -> ShardId {
        let Slot(slot) = VertexId(*key).slot(self.slots.len() as u16);
        self.slots[usize::from(slot)]
    }

    /// The slot of a key.
    pub fn slot(&self, key: &[u8; 32]) -> Slot {
        VertexId(*key).slot(self.slots.len() as u16)
    }

    /// The core that owns a shard.
    pub fn core(&self, shard: ShardId) -> usize {
        self.core_of_shard[usize::from(shard.0)]
    }

    /// The log that holds a shard.
    pub fn log(&self, shard: ShardId) -> usize {
        self.log_of_shard[usize::from(shard.0)]
    }

    /// All shards.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.core_of_shard.len() as u16).map(ShardId)
    }

    /// The logs that a core owns, among `core_count` cores.
    pub fn logs_of_core(&self, core: usize, core_count: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.log_count).filter(move |log| log % core_count == core)
    }

    /// Slots known.
    pub fn slot_count(&self) -> u16 {
        self.slots.len() as u16
    }

    /// Shards known.
    pub fn shard_count(&self) -> u16 {
        self.core_of_shard.len() as u16
    }

    /// Logs known.
    pub fn log_count(&self) -> usize {
        self.log_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s2_2_2_sixteen_slots_in_four_shards_are_the_seed_ranges() {
        let table = SlotTable::new(16, 4, 2, 2);
        for slot in 0..16u8 {
            let mut key = [0xa0; 32];
            key[0] = 0xf0 | slot;
            assert_eq!(table.shard(&key), ShardId(u16::from(slot / 4)), "slot {slot}");
        }
    }

    #[test]
    fn s2_2_2_every_log_has_one_core_whatever_the_counts() {
        for (logs, cores) in [(1, 1), (1, 4), (4, 2), (2, 3)] {
            let table = SlotTable::new(16, 4, logs, cores);
            for shard in table.shards() {
                let core = table.core(shard);
                assert!(core < cores);
                assert!(
                    table.logs_of_core(core, cores).any(|log| log == table.log(shard)),
                    "{logs} logs {cores} cores"
                );
            }
        }
    }
}
