//! An append-only column of atomic numbers that one writer extends while readers read.
//!
//! Promises: an element never moves, so a reader needs no lock; at most a sixteenth of a column is spare.
//! Does not: say how long the column is. The published length of the skeleton decides what a reader may ask for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Added to an index before it is placed, so that the smallest chunk has 2^12 / 16 = 256 elements.
const BASE_BITS: u32 = 12;
/// Chunks of an octave: a column grows by a sixteenth of itself at a time.
const PIECES_BITS: u32 = 4;
/// Octaves of a column: indexes below 2^35, since an id has four words for each of 2^32 vertices.
const OCTAVES: usize = 23;

/// One atomic element.
pub(super) trait Cell: Default + Send + Sync {
    /// The number in it.
    type Value: Copy;
    /// Reads it; the order of publication is the caller's business.
    fn get(&self) -> Self::Value;
    /// Writes it.
    fn put(&self, value: Self::Value);
}

macro_rules! cell {
    ($($atomic:ty, $value:ty);*) => {$(
        impl Cell for $atomic {
            type Value = $value;
            #[inline]
            fn get(&self) -> $value {
                self.load(Ordering::Relaxed)
            }
            #[inline]
            fn put(&self, value: $value) {
                self.store(value, Ordering::Relaxed);
            }
        }
    )*};
}
cell!(AtomicU8, u8; AtomicU16, u16; AtomicU32, u32; AtomicU64, u64);

/// The column. Elements are relaxed atomics: what makes them visible is the release of the skeleton's length.
pub(super) struct Column<C> {
    chunks: Box<[OnceLock<Box<[C]>>]>,
}

/// Where an index lives: the chunk, the place in it, the length of that chunk.
#[inline]
fn place(index: usize) -> (usize, usize, usize) {
    let shifted = index as u64 + (1 << BASE_BITS);
    let octave = 63 - shifted.leading_zeros();
    let piece_bits = octave - PIECES_BITS;
    let piece = (shifted >> piece_bits) & ((1 << PIECES_BITS) - 1);
    let chunk = ((octave - BASE_BITS) << PIECES_BITS) as usize + piece as usize;
    (chunk, (shifted & ((1 << piece_bits) - 1)) as usize, 1 << piece_bits)
}

impl<C: Cell> Column<C> {
    pub(super) fn new() -> Self {
        Self { chunks: (0..OCTAVES << PIECES_BITS).map(|_| OnceLock::new()).collect() }
    }

    /// The element's cell. It must have been written: asking for another is a defect of ours.
    #[inline]
    pub(super) fn cell(&self, index: usize) -> &C {
        let (chunk, at, _) = place(index);
        &self.chunks[chunk].get().expect("an element is read only after it was written")[at]
    }

    /// The element's number.
    #[inline]
    pub(super) fn get(&self, index: usize) -> C::Value {
        self.cell(index).get()
    }

    /// Writes an element, making its chunk when it is the first there. For the writer only.
    #[inline]
    pub(super) fn put(&self, index: usize, value: C::Value) {
        self.cell_or_new(index).put(value);
    }

    /// The element's cell, made (as zero) when it is the first of its chunk. For the writer only.
    #[inline]
    pub(super) fn cell_or_new(&self, index: usize) -> &C {
        let (chunk, at, length) = place(index);
        &self.chunks[chunk].get_or_init(|| (0..length).map(|_| C::default()).collect())[at]
    }

    /// Memory of the column, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let elements: usize = self.chunks.iter().filter_map(|chunk| Some(chunk.get()?.len())).sum();
        elements * size_of::<C>() + self.chunks.len() * size_of::<OnceLock<Box<[C]>>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_1_8_column_places_are_dense_and_never_shared() {
        let (mut chunk_was, mut next, mut length_was) = (0, 0, 256);
        for index in 0..200_000 {
            let (chunk, at, length) = place(index);
            if chunk != chunk_was {
                assert_eq!((chunk, next), (chunk_was + 1, length_was), "chunk {chunk_was} is full before the next");
                (chunk_was, next, length_was) = (chunk, 0, length);
            }
            assert_eq!((at, length), (next, length_was), "index {index}");
            next += 1;
        }
        assert!(place((1 << 34) + 3).0 < OCTAVES << PIECES_BITS);
    }

    #[test]
    fn s1_1_8_column_gives_back_what_was_put() {
        let column = Column::<AtomicU16>::new();
        for index in 0..70_000 {
            column.put(index, (index % 65_521) as u16);
        }
        for index in 0..70_000 {
            assert_eq!(column.get(index), (index % 65_521) as u16);
        }
    }
}
