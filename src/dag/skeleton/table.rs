//! From a key's hash to the number of its vertex: open addressing, four bytes a slot, replaced as it grows.
//!
//! Promises: a lookup takes no lock, and finds every number whose insertion it happened after; where two vertices have the
//! same key, the one inserted first. Bits that numbers do not need hold a piece of the hash, so that a probe seldom has to look
//! at the key itself.
//! Does not: hold keys. The caller compares.

use super::published::Published;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Slots of a new table.
const SLOTS_MIN: usize = 1024;
/// Full at 7/8: linear probing then reads about 32 neighbouring slots (two cache lines) for a key that is not there.
const LOAD_MAX: (usize, usize) = (7, 8);
/// A full table is replaced by one that is larger by half: between memory and the time to move every number.
const GROWTH: (usize, usize) = (3, 2);

/// Slots whose keys are looked up together when a table grows, so that the memory's answers overlap.
const GROW_BATCH: usize = 64;

struct Slots {
    slots: Box<[AtomicU32]>,
    /// Low bits of a slot that hold number + 1; the bits above hold a piece of the hash. 0 is an empty slot.
    number_bits: u32,
}

/// The table as readers see it.
pub(super) struct Table(Published<Slots>);

/// The writer's side: the same slots, and how many are taken.
pub(super) struct TableWriter {
    slots: Arc<Slots>,
    taken: usize,
}

impl Slots {
    fn new(slot_count: usize, number_max: u32) -> Self {
        let number_bits = u64::BITS - (u64::from(number_max) + 1).max(slot_count as u64).leading_zeros();
        assert!(number_bits <= 32, "a vertex number needs more than 32 bits");
        Self { slots: (0..slot_count).map(|_| AtomicU32::new(0)).collect(), number_bits }
    }

    #[inline]
    fn encode(&self, hash: u64, number: u32) -> u32 {
        self.tag(hash) | (number + 1)
    }

    /// The piece of the hash: its low bits, since the high ones choose the slot.
    #[inline]
    fn tag(&self, hash: u64) -> u32 {
        ((hash as u32) as u64).wrapping_shl(self.number_bits) as u32
    }

    #[inline]
    fn number_mask(&self) -> u32 {
        (((1u64) << self.number_bits) - 1) as u32
    }

    /// The first slot whose number `same` accepts, or the empty slot where the search ended.
    #[inline]
    fn find(&self, hash: u64, same: impl Fn(u32) -> bool) -> Result<u32, usize> {
        let (tag, mask) = (self.tag(hash), self.number_mask());
        let mut at = ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize;
        // Ends: the load is below 1, so an empty slot exists.
        loop {
            // Acquire pairs with the release in `insert`: what the writer stored for that vertex is visible.
            let slot = self.slots[at].load(Ordering::Acquire);
            if slot == 0 {
                return Err(at);
            }
            if slot & !mask == tag && same((slot & mask) - 1) {
                return Ok((slot & mask) - 1);
            }
            at += 1;
            if at == self.slots.len() {
                at = 0;
            }
        }
    }
}

impl Table {
    pub(super) fn new() -> (Self, TableWriter) {
        let table = Self(Published::new(Slots::new(SLOTS_MIN, 0)));
        let slots = table.0.load();
        (table, TableWriter { slots, taken: 0 })
    }

    /// The number whose key has this hash and which `same` accepts.
    #[inline]
    pub(super) fn find(&self, hash: u64, same: impl Fn(u32) -> bool) -> Option<u32> {
        self.0.with(|slots| slots.find(hash, same).ok())
    }

    /// Memory of the table, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.0.with(|slots| slots.slots.len() * size_of::<AtomicU32>())
    }
}

impl TableWriter {
    /// The number whose key has this hash and which `same` accepts, without the reader's detour.
    #[inline]
    pub(super) fn find(&self, hash: u64, same: impl Fn(u32) -> bool) -> Option<u32> {
        self.slots.find(hash, same).ok()
    }

    /// Inserts `number` unless a key that `same` accepts is there. `hash_of` gives the hash of a number inserted before, for
    /// the case that the table has to grow.
    pub(super) fn insert(
        &mut self,
        table: &Table,
        hash: u64,
        number: u32,
        same: impl Fn(u32) -> bool,
        hash_of: impl Fn(u32) -> u64,
    ) {
        if self.slots.slots.len() * LOAD_MAX.0 / LOAD_MAX.1 <= self.taken
            || u64::from(self.slots.number_mask()) < u64::from(number) + 1
        {
            self.grow(table, number, hash_of);
        }
        if let Err(at) = self.slots.find(hash, same) {
            self.slots.slots[at].store(self.slots.encode(hash, number), Ordering::Release);
            self.taken += 1;
        }
    }

    /// Makes room for `count` more at once, where the caller knows them.
    pub(super) fn reserve(&mut self, table: &Table, count: usize, number_max: u32, hash_of: impl Fn(u32) -> u64) {
        let slot_count = (self.taken + count) * LOAD_MAX.1 / LOAD_MAX.0 + 1;
        if self.slots.slots.len() < slot_count {
            self.replace(table, slot_count, number_max, hash_of);
        }
    }

    fn grow(&mut self, table: &Table, number: u32, hash_of: impl Fn(u32) -> u64) {
        let slot_count = self.slots.slots.len();
        let slot_count = if self.taken < slot_count * LOAD_MAX.0 / LOAD_MAX.1 {
            // Only the numbers have outgrown it.
            slot_count
        } else if self.taken < SLOTS_MIN << 4 {
            slot_count * 2
        } else {
            slot_count * GROWTH.0 / GROWTH.1
        };
        // Numbers may run ahead of a table in which few vertices are: leave room for twice as many.
        self.replace(table, slot_count, number.saturating_mul(2).min(u32::MAX - 2), hash_of);
    }

    fn replace(&mut self, table: &Table, slot_count: usize, number_max: u32, hash_of: impl Fn(u32) -> u64) {
        let old = &self.slots;
        let new = Slots::new(slot_count, number_max);
        let mask = old.number_mask();
        let mut batch = Vec::with_capacity(GROW_BATCH);
        for slots in old.slots.chunks(GROW_BATCH) {
            batch.clear();
            let numbers = slots.iter().map(|slot| slot.load(Ordering::Relaxed)).filter(|&slot| slot != 0);
            batch.extend(numbers.map(|slot| (hash_of((slot & mask) - 1), (slot & mask) - 1)));
            for &(hash, number) in &batch {
                // Every key is there once, so no two can be the same.
                if let Err(at) = new.find(hash, |_| false) {
                    new.slots[at].store(new.encode(hash, number), Ordering::Relaxed);
                }
            }
        }
        self.slots = Arc::new(new);
        table.0.replace(Arc::clone(&self.slots));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: u32) -> u64 {
        u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    #[test]
    fn s1_1_8_table_finds_all_and_only_what_was_inserted() {
        let (table, mut writer) = Table::new();
        for number in 0..100_000u32 {
            writer.insert(&table, hash(number * 3), number, |_| false, |number| hash(number * 3));
        }
        for key in 0..300_000u32 {
            let expected = key.is_multiple_of(3).then_some(key / 3);
            assert_eq!(table.find(hash(key), |number| number * 3 == key), expected, "key {key}");
        }
        assert!(table.bytes() <= 100_000 * 8);
        let before = table.bytes();
        writer.reserve(&table, 1_000, 101_000, |number| hash(number * 3));
        assert_eq!(table.bytes(), before, "there was room");
        writer.reserve(&table, 900_000, 1_000_000, |number| hash(number * 3));
        assert!(before < table.bytes() && table.bytes() <= 1_000_000 * 5);
        for number in 0..100_000u32 {
            assert_eq!(table.find(hash(number * 3), |other| other == number), Some(number));
        }
    }

    #[test]
    fn s1_1_8_table_keeps_the_first_of_equal_keys_and_takes_sparse_numbers() {
        let (table, mut writer) = Table::new();
        let key_of = |number: u32| number / 1_000_000 % 50;
        for number in (0..4_000u32).map(|n| n * 1_000_000) {
            writer.insert(
                &table,
                hash(key_of(number)),
                number,
                |other| key_of(other) == key_of(number),
                |other| hash(key_of(other)),
            );
        }
        for key in 0..50 {
            assert_eq!(table.find(hash(key), |number| key_of(number) == key), Some(key * 1_000_000));
        }
    }
}
