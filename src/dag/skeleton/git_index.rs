//! The git hashes of the vertices that have one, and the way back from a hash to its vertex.
//!
//! Promises: a vertex without a git hash costs a fifth of a byte; two vertices with one hash both keep it, and the hash leads to
//! the first of them.
//! Does not: check that a commit with that hash exists anywhere.

use super::column::{Cell, Column};
use super::table::{Table, TableWriter};
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Vertices of one block of the bitmap.
const BLOCK: usize = 64;
/// Length of a git hash, in words of four bytes: SHA-1.
pub(super) const SHA1_WORDS: usize = 5;
/// Length of a git hash, in words of four bytes: SHA-256.
pub(super) const SHA256_WORDS: usize = 8;

/// Hashes of one length. `WORDS` is the length in words of four bytes.
pub(super) struct GitIndex<const WORDS: usize> {
    /// Bit i of element b: vertex 64 b + i has a hash.
    present: Column<AtomicU64>,
    /// How many vertices before the block have one.
    rank: Column<AtomicU32>,
    /// The hashes, in the order of their vertices.
    words: Column<AtomicU32>,
    table: Table,
    /// Differs from process to process, so that nobody can choose hashes that collide in the table.
    seed: u64,
}

/// The writer's side.
pub(super) struct GitWriter<const WORDS: usize> {
    table: TableWriter,
    count: u32,
}

/// A git hash of `WORDS` words from its bytes, or `None` when the length is another.
pub(super) fn words_of<const WORDS: usize>(bytes: &[u8]) -> Option<[u32; WORDS]> {
    let (words, rest) = bytes.as_chunks::<4>();
    let words: &[[u8; 4]; WORDS] = words.try_into().ok()?;
    rest.is_empty().then(|| words.map(u32::from_le_bytes))
}

impl<const WORDS: usize> GitIndex<WORDS> {
    pub(super) fn new(seed: u64) -> (Self, GitWriter<WORDS>) {
        let (table, writer) = Table::new();
        let index = Self { present: Column::new(), rank: Column::new(), words: Column::new(), table, seed };
        (index, GitWriter { table: writer, count: 0 })
    }

    /// The hash of a vertex. Only for numbers that were admitted.
    pub(super) fn get(&self, number: u32) -> Option<[u32; WORDS]> {
        let (block, bit) = (number as usize / BLOCK, number as usize % BLOCK);
        let present = self.present.get(block);
        if present >> bit & 1 == 0 {
            return None;
        }
        let before = (present & ((1 << bit) - 1)).count_ones() + self.rank.get(block);
        Some(std::array::from_fn(|word| self.words.get(before as usize * WORDS + word)))
    }

    /// The first vertex with this hash.
    pub(super) fn find(&self, hash: &[u32; WORDS]) -> Option<u32> {
        self.table.find(self.mix(hash), |number| self.get(number).as_ref() == Some(hash))
    }

    fn mix(&self, hash: &[u32; WORDS]) -> u64 {
        hash.iter().fold(self.seed, |mixed, &word| {
            let wide = u128::from(mixed ^ u64::from(word)) * 0x9e37_79b9_7f4a_7c15;
            (wide as u64) ^ (wide >> 64) as u64
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.present.bytes() + self.rank.bytes() + self.words.bytes() + self.table.bytes()
    }
}

impl<const WORDS: usize> GitWriter<WORDS> {
    /// Makes room for `count` more hashes, of vertices up to `number_max`.
    pub(super) fn reserve(&mut self, index: &GitIndex<WORDS>, count: usize, number_max: u32) {
        let hash_of = |other: u32| index.get(other).map_or(0, |words| index.mix(&words));
        self.table.reserve(&index.table, count, number_max, hash_of);
    }

    /// Notes what vertex `number` has. Called once for each number, in order.
    pub(super) fn put(&mut self, index: &GitIndex<WORDS>, number: u32, hash: Option<&[u32; WORDS]>) {
        let (block, bit) = (number as usize / BLOCK, number as usize % BLOCK);
        let present = index.present.cell_or_new(block);
        if bit == 0 {
            index.rank.put(block, self.count);
        }
        let Some(hash) = hash else { return };
        for (word, &value) in hash.iter().enumerate() {
            index.words.put(self.count as usize * WORDS + word, value);
        }
        present.put(present.get() | 1 << bit);
        self.count += 1;
        let same = |other: u32| index.get(other).as_ref() == Some(hash);
        let hash_of = |other: u32| index.get(other).map_or(0, |words| index.mix(&words));
        self.table.insert(&index.table, index.mix(hash), number, same, hash_of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_1_8_git_index_finds_the_first_and_keeps_all() {
        let (index, mut writer) = GitIndex::<SHA1_WORDS>::new(7);
        // Every third vertex has a hash, every fifteenth the same one.
        let hash_of = |n: u32| n.is_multiple_of(3).then(|| if n.is_multiple_of(15) { [9; 5] } else { [n, 1, n, 2, n] });
        for number in 0..10_000 {
            writer.put(&index, number, hash_of(number).as_ref());
        }
        for number in 0..10_000 {
            assert_eq!(index.get(number), hash_of(number), "vertex {number}");
            if let Some(hash) = hash_of(number) {
                assert_eq!(index.find(&hash), Some(if number.is_multiple_of(15) { 0 } else { number }));
            }
        }
        assert_eq!(index.find(&[1, 1, 1, 2, 1]), None);
    }

    #[test]
    fn s1_1_8_git_hash_of_another_length_is_none() {
        assert_eq!(words_of::<2>(&[1, 0, 0, 0, 2, 0, 0, 0]), Some([1, 2]));
        assert_eq!(words_of::<2>(&[0; 9]), None);
        assert_eq!(words_of::<2>(&[0; 12]), None);
        assert_eq!(words_of::<2>(&[]), None);
    }
}
