//! Changes to valid bytes: what a careless, a broken or a hostile sender makes of them.
//!
//! Promises: the result stays within [`BYTES_MAX`] beyond what came in; the same numbers make the same changes.
//! Does not: know any format. A target that knows checksums mends them afterwards, so that its bytes get past the first check.

use super::drive::Random;

/// Bytes that one round of changes adds at most.
pub(crate) const BYTES_MAX: usize = 16 << 10;

/// Numbers at which counting goes wrong.
const EDGES: [u64; 24] = [
    0,
    1,
    2,
    7,
    8,
    15,
    16,
    17,
    31,
    32,
    63,
    64,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    i64::MAX as u64,
    u64::MAX,
];

/// Changes `bytes` in one to five places. `others` are valid inputs to take pieces from, `words` what the format is made of.
pub(crate) fn mutate(random: &mut Random, bytes: &mut Vec<u8>, others: &[Vec<u8>], words: &[&[u8]]) {
    for _ in 0..=random.below(5) {
        mutate_once(random, bytes, others, words);
    }
}

fn mutate_once(random: &mut Random, bytes: &mut Vec<u8>, others: &[Vec<u8>], words: &[&[u8]]) {
    if bytes.is_empty() {
        bytes.push(random.next() as u8);
    }
    let length = bytes.len();
    let at = random.below(length);
    match random.below(14) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 => bytes[at] = bytes[at].wrapping_add(1),
        3 => bytes[at] = bytes[at].wrapping_sub(1),
        4 | 5 => number(random, bytes, at),
        6 => {
            let end = at + random.length(length - at);
            drop(bytes.drain(at..end));
        }
        7 => {
            let end = at + random.length((length - at).min(BYTES_MAX / 8));
            let piece = bytes[at..end].to_vec();
            let to = random.below(length);
            drop(bytes.splice(to..to, piece));
        }
        8 => bytes.truncate(at),
        9 => {
            let count = random.length(BYTES_MAX / 8);
            let piece = if random.one_in(2) { vec![0; count] } else { random.bytes(count) };
            bytes.extend(piece);
        }
        10 => {
            let end = at + random.length(length - at);
            let value = if random.one_in(2) { 0 } else { 0xff };
            bytes[at..end].fill(value);
        }
        11 if !others.is_empty() => {
            let other = random.pick(others);
            let from = random.below(other.len().max(1)).min(other.len());
            let end = (from + random.length(BYTES_MAX / 8)).min(other.len());
            let piece = other[from..end].to_vec();
            let until = if random.one_in(2) { at } else { (at + piece.len()).min(length) };
            drop(bytes.splice(at..until, piece));
        }
        12 if !words.is_empty() => {
            let word = *random.pick(words);
            let until = if random.one_in(2) { at } else { (at + word.len()).min(length) };
            drop(bytes.splice(at..until, word.iter().copied()));
        }
        // Two pieces change places.
        _ => {
            let other = random.below(length);
            let count = random.length(length / 2).min(length - at.max(other));
            for step in 0..count {
                bytes.swap(at + step, other + step);
            }
        }
    }
}

/// Writes a number at which counting goes wrong: an edge, the length of everything, or what stands there give or take one.
fn number(random: &mut Random, bytes: &mut [u8], at: usize) {
    let width = (1 << random.below(4)).min(bytes.len() - at);
    // Fields of binary formats stand at multiples of their width more often than not.
    let at = if random.one_in(2) { at / width * width } else { at };
    let place = &mut bytes[at..at + width];
    let mut present = [0; 8];
    present[..width].copy_from_slice(place);
    let present = u64::from_le_bytes(present);
    let value = match random.below(5) {
        0 => present.wrapping_add(1 + random.below(16) as u64),
        1 => present.wrapping_sub(1 + random.below(16) as u64),
        2 => (random.below(1 << 16) as u64).wrapping_sub(8),
        _ => *random.pick(&EDGES),
    };
    if random.one_in(3) {
        place.copy_from_slice(&value.to_be_bytes()[8 - width..]);
    } else {
        place.copy_from_slice(&value.to_le_bytes()[..width]);
    }
}
