//! The id index: from a key to the places where its record may stand, in 12 bytes an entry.
//!
//! Promises: every location that was inserted under a key is among its candidates. Does not: keep keys; two keys may share a tag,
//! so the caller confirms a candidate against the record's own key.

use crate::log::Location;
use hashbrown::HashTable;

/// Key to location.
#[derive(Default)]
pub struct Index {
    table: HashTable<Entry>,
}

/// Four bytes of the key, so that most strangers in a bucket are refused without a read.
struct Entry {
    tag: u32,
    location: Location,
}

// Twelve bytes, and one control byte of the table, at a load between 7/16 and 7/8: 15 to 30 bytes a vertex.
const _: () = assert!(size_of::<Entry>() == 12);

impl Index {
    /// An index with room for `entries`.
    pub fn with_capacity(entries: usize) -> Self {
        Self { table: HashTable::with_capacity(entries) }
    }

    /// Adds a place of `key`; places add up.
    pub fn insert(&mut self, key: &[u8; 32], location: Location) {
        let entry = Entry { tag: tag(key), location };
        self.table.insert_unique(hash(entry.tag), entry, |entry| hash(entry.tag));
    }

    /// Places where `key` may stand.
    pub fn candidates(&self, key: &[u8; 32]) -> impl Iterator<Item = Location> + '_ {
        let tag = tag(key);
        self.table.iter_hash(hash(tag)).filter(move |entry| entry.tag == tag).map(|entry| entry.location)
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Memory of the table, in bytes.
    pub fn bytes(&self) -> usize {
        self.table.allocation_size()
    }
}

fn tag(key: &[u8; 32]) -> u32 {
    u32::from_le_bytes([key[8], key[9], key[10], key[11]])
}

/// Spreads the tag over all 64 bits: the table looks at both ends. The hash must follow from the entry alone, for growth.
fn hash(tag: u32) -> u64 {
    u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_1_9_index_finds_every_place_in_at_most_24_bytes_a_vertex() {
        let count = 400_000_u32;
        let mut index = Index::default();
        let key = |number: u32| *blake3::hash(&number.to_le_bytes()).as_bytes();
        for number in 0..count {
            index.insert(&key(number), Location { segment: number / 1000, unit: number });
        }
        for number in (0..count).step_by(97) {
            let mut candidates = index.candidates(&key(number));
            assert!(candidates.any(|location| location.unit == number), "key {number}");
        }
        assert_eq!(index.len(), count as usize);
        assert!(index.bytes() <= 24 * count as usize, "{} bytes for {count}", index.bytes());
        let strangers = (count..2 * count).filter(|&number| index.candidates(&key(number)).next().is_some()).count();
        assert!(strangers < count as usize / 1000, "{strangers} strangers of {count} have candidates");
    }

    #[test]
    fn s1_1_9_index_keeps_both_places_of_one_key() {
        let mut index = Index::with_capacity(4);
        let places = [Location { segment: 1, unit: 256 }, Location { segment: 2, unit: 512 }];
        places.iter().for_each(|&place| index.insert(&[3; 32], place));
        let mut found: Vec<Location> = index.candidates(&[3; 32]).collect();
        found.sort_unstable();
        assert_eq!(found, places);
        assert_eq!(index.candidates(&[4; 32]).count(), 0);
    }
}
