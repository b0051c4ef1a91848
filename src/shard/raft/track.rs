//! Where the entries of one group stand on this replica, by index: their terms, their places, which are synced, which are applied.
//!
//! Promises: an entry is handed to the machine only when it is known to be committed; an entry that was replaced is forgotten whole.
//! Does not: touch a disk or a clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use qmesh_storage::{Entry, EntryPlace, Location, Record};

use super::wire;

/// Bytes of entries kept whole for followers that are close behind.
const RECENT_BYTES_MAX: usize = 8 << 20;

/// One entry.
#[derive(Clone, Copy)]
struct Slot {
    term: u64,
    /// `None` until it is synced.
    place: Option<EntryPlace>,
}

/// A record found at open whose entry is not yet known to be committed.
pub(in crate::shard) struct Pending {
    pub(in crate::shard) location: Location,
    pub(in crate::shard) kind: u8,
    pub(in crate::shard) key: [u8; 32],
    pub(in crate::shard) hint: Box<[u8]>,
}

/// Voters, learners and the entry that made them so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) term: u64,
    pub(super) index: u64,
    pub(super) configs: Vec<BTreeSet<u64>>,
    pub(super) nodes: BTreeSet<u64>,
}

/// The entries of one group.
#[derive(Default)]
pub(in crate::shard) struct Track {
    slots: Vec<Slot>,
    /// The newest entries, whole; the last one is the last of the log.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
    /// Places of the records of entries that are synced and not yet applied.
    locations: BTreeMap<u64, Vec<Location>>,
    /// Entries up to this index are synced here.
    durable: u64,
    committed: u64,
    applied: u64,
    applied_term: u64,
    membership: Option<Membership>,
    /// At open: records of entries that are not known to be committed.
    pending: BTreeMap<u64, Vec<Pending>>,
}

impl Track {
    /// An entry found at open. What it replaces is forgotten. Returns the records that are now known to be committed, by entry.
    pub(in crate::shard) fn replay_entry(
        &mut self,
        term: u64,
        index: u64,
        committed: u64,
        place: EntryPlace,
    ) -> Vec<(u64, Vec<Pending>)> {
        self.truncate(index - 1);
        self.slots.push(Slot { term, place: Some(place) });
        self.durable = index;
        self.pending.insert(index, Vec::new());
        let committed = committed.min(index - 1);
        self.committed = self.committed.max(committed);
        let rest = self.pending.split_off(&(self.committed + 1));
        let known: Vec<(u64, Vec<Pending>)> = std::mem::replace(&mut self.pending, rest).into_iter().collect();
        for (index, records) in &known {
            self.applied = *index;
            self.applied_term = self.term(*index).unwrap_or_default();
            self.locations.remove(index);
            for record in records.iter().filter(|record| record.kind == wire::RECORD_KIND_MEMBERSHIP) {
                let parsed = Record::parse(&Bytes::copy_from_slice(&record.hint)).ok();
                if let Some(membership) = parsed.and_then(|record| wire::membership(&record)) {
                    self.membership = Some(Membership { term: self.applied_term, index: *index, ..membership });
                }
            }
        }
        known
    }

    /// A record of the entry that was replayed last.
    pub(in crate::shard) fn replay_record(&mut self, index: u64, record: Pending) {
        self.locations.entry(index).or_default().push(record.location);
        self.pending.entry(index).or_default().push(record);
    }

    /// Forgets what is only needed at open.
    pub(super) fn opened(&mut self) {
        // What is not known to be committed is applied from the log when it is.
        self.pending.clear();
    }

    /// An entry was appended; it is not synced yet.
    pub(super) fn push(&mut self, entry: Entry) {
        let index = entry.head().index;
        assert!(index == self.last_index() + 1, "entry {index} behind entry {}", self.last_index());
        self.slots.push(Slot { term: entry.head().term, place: None });
        self.recent_bytes += entry.wire_bytes();
        self.recent.push_back(entry);
        self.forget_old();
    }

    /// An entry is synced. One that was replaced in the meantime is nothing to anyone.
    pub(super) fn landed(&mut self, term: u64, index: u64, place: EntryPlace, locations: &[Location]) {
        let Some(slot) = self.slots.get_mut(index as usize - 1).filter(|slot| slot.term == term) else { return };
        if slot.place.is_some() {
            return;
        }
        slot.place = Some(place);
        self.locations.insert(index, locations.to_vec());
        let synced = |durable: &u64| self.slots.get(*durable as usize).is_some_and(|slot| slot.place.is_some());
        let mut durable = self.durable;
        while synced(&durable) {
            durable += 1;
        }
        self.durable = durable;
        self.forget_old();
    }

    /// Forgets every entry behind `last`.
    pub(super) fn truncate(&mut self, last: u64) {
        if self.last_index() <= last {
            return;
        }
        assert!(self.applied <= last, "entry {} was applied and cannot be replaced from {last} on", self.applied);
        self.slots.truncate(last as usize);
        while let Some(entry) = self.recent.pop_back_if(|entry| last < entry.head().index) {
            self.recent_bytes -= entry.wire_bytes();
        }
        self.locations.split_off(&(last + 1));
        self.pending.split_off(&(last + 1));
        self.durable = self.durable.min(last);
    }

    /// An entry was applied.
    pub(super) fn apply(&mut self, term: u64, index: u64) {
        assert!(index == self.applied + 1, "entry {index} applied behind entry {}", self.applied);
        self.applied = index;
        self.applied_term = term;
        self.committed = self.committed.max(index);
    }

    /// Membership that was applied.
    pub(super) fn set_membership(&mut self, membership: Membership) {
        self.membership = Some(membership);
    }

    /// Places of the records of an entry, once it is synced.
    pub(super) fn take_locations(&mut self, index: u64) -> Option<Vec<Location>> {
        self.slots.get(index as usize - 1).and_then(|slot| slot.place)?;
        Some(self.locations.remove(&index).unwrap_or_default())
    }

    /// The entry at `index` when it is kept whole.
    pub(super) fn recent(&self, index: u64) -> Option<&Entry> {
        let first = self.recent.front()?.head().index;
        self.recent.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    /// Where the entry at `index` stands, once it is synced.
    pub(super) fn place(&self, index: u64) -> Option<EntryPlace> {
        self.slots.get(usize::try_from(index.checked_sub(1)?).ok()?)?.place
    }

    /// The term of the entry at `index`.
    pub(super) fn term(&self, index: u64) -> Option<u64> {
        Some(self.slots.get(usize::try_from(index.checked_sub(1)?).ok()?)?.term)
    }

    /// The index of the last entry.
    pub(super) fn last_index(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Entries up to this index are synced here.
    pub(super) fn durable_index(&self) -> u64 {
        self.durable
    }

    /// Entries up to this index are known to be committed.
    pub(super) fn committed(&self) -> u64 {
        self.committed
    }

    /// Entries up to this index were applied.
    pub(super) fn applied_index(&self) -> u64 {
        self.applied
    }

    /// The term of the last entry that was applied.
    pub(super) fn applied_term(&self) -> u64 {
        self.applied_term
    }

    /// The last membership that was applied.
    pub(super) fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }

    /// Keeps what followers may want and what is not on the disk yet.
    fn forget_old(&mut self) {
        while RECENT_BYTES_MAX < self.recent_bytes
            && let Some(entry) = self.recent.pop_front_if(|entry| entry.head().index <= self.durable)
        {
            self.recent_bytes -= entry.wire_bytes();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]
mod tests {
    use super::*;
    use qmesh_storage::Payload;

    fn place(segment: u32) -> EntryPlace {
        EntryPlace { frame: Location { segment, unit: 256 }, frame_bytes: 4096 }
    }

    fn pending(number: u8) -> Pending {
        let location = Location { segment: u32::from(number), unit: 7 };
        Pending { location, kind: 1, key: [number; 32], hint: Box::default() }
    }

    fn entry(term: u64, index: u64) -> Entry {
        Entry::seal(0, term, index, 0, &Payload::of(&[]))
    }

    #[test]
    fn s1_2_3_a_replayed_record_is_known_only_when_a_later_entry_says_that_it_was_committed() {
        let mut track = Track::default();
        assert!(track.replay_entry(1, 1, 0, place(1)).is_empty());
        track.replay_record(1, pending(1));
        assert!(track.replay_entry(1, 2, 0, place(2)).is_empty());
        track.replay_record(2, pending(2));
        // Entry 2 is replaced; its record must never be handed out.
        let known = track.replay_entry(2, 2, 1, place(3));
        assert_eq!(known.len(), 1);
        assert_eq!((known[0].0, known[0].1[0].key), (1, [1; 32]));
        track.replay_record(2, pending(3));
        let known = track.replay_entry(2, 3, 2, place(4));
        assert_eq!((known[0].0, known[0].1[0].key), (2, [3; 32]));
        assert_eq!((track.committed(), track.applied_index(), track.applied_term(), track.last_index()), (2, 2, 2, 3));
        assert_eq!(track.durable_index(), 3);
    }

    #[test]
    fn s1_2_3_entries_land_in_any_order_and_durable_has_no_gap() {
        let mut track = Track::default();
        (1..=3).for_each(|index| track.push(entry(1, index)));
        track.landed(1, 2, place(1), &[]);
        assert_eq!(track.durable_index(), 0);
        track.landed(1, 1, place(1), &[]);
        assert_eq!(track.durable_index(), 2);
        track.truncate(1);
        track.push(entry(2, 2));
        // The sync of the replaced entry says nothing about the new one.
        track.landed(1, 2, place(1), &[]);
        assert_eq!(track.durable_index(), 1);
        track.landed(2, 2, place(2), &[Location { segment: 2, unit: 1 }]);
        assert_eq!(track.durable_index(), 2);
        assert_eq!(track.take_locations(2).unwrap().len(), 1);
        assert_eq!(track.recent(2).unwrap().head().term, 2);
        assert!(track.recent(3).is_none() && track.place(3).is_none());
    }
}
