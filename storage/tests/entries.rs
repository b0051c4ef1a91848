//! Entries that were ordered elsewhere: taken as they are, read back as they were, replaced from an index on.
#![allow(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod scene;

use bytes::Bytes;
use qmesh_storage::io::Disk;
use qmesh_storage::io::memory::{Faults, MemoryDisk};
use qmesh_storage::{Committed, Entry, EntryPlace, Log, Observer, Payload, Record, Replayed, ReplayedEntry};
use scene::{drive, number, on_core, record, small, until};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

const SHARD: u16 = 2;

/// Term, place and record numbers of every entry that is not replaced, by index.
type Tail = Vec<(u64, Option<EntryPlace>, Vec<u64>)>;

#[derive(Default)]
struct Follower {
    tail: RefCell<Tail>,
    committed_told: RefCell<u64>,
    landed: RefCell<Vec<(u64, EntryPlace)>>,
}

impl Observer for Follower {
    fn describe(&self, record: &Record) -> Vec<u8> {
        record.key()[..8].to_vec()
    }

    fn entry(&self, entry: ReplayedEntry) {
        let mut tail = self.tail.borrow_mut();
        tail.truncate(entry.index as usize - 1);
        tail.push((entry.term, Some(entry.place), Vec::new()));
        let mut committed = self.committed_told.borrow_mut();
        *committed = committed.max(entry.committed);
    }

    fn replay(&self, item: Replayed<'_>) {
        self.tail.borrow_mut().last_mut().unwrap().2.push(number(item.key));
    }

    fn committed(&self, entry: Committed<'_>) {
        self.landed.borrow_mut().push((entry.index, entry.place));
    }
}

async fn open(disk: &Rc<dyn Disk>) -> (Log, Rc<Follower>) {
    let follower = Rc::new(Follower::default());
    let opened = Log::open(disk.clone(), Path::new("/log"), small(), follower.clone(), &mut |_, _| ()).await;
    let (log, driver, _) = opened.unwrap();
    drive(driver);
    (log, follower)
}

fn entry(term: u64, index: u64, committed: u64, numbers: &[u64]) -> Entry {
    let records: Vec<Record> = numbers.iter().map(|&number| record(number, 100 + number as usize % 900)).collect();
    Entry::seal(SHARD, term, index, committed, &Payload::of(&records))
}

/// Three entries of term 1, the last of which is replaced by two of term 3; an entry without records; more than a segment.
fn history() -> Vec<Entry> {
    let mut history = vec![
        entry(1, 1, 0, &[1, 2]),
        entry(1, 2, 0, &[3]),
        entry(1, 3, 1, &[4, 5, 6]),
        entry(3, 3, 2, &[7]),
        entry(3, 4, 3, &[]),
        entry(5, 4, 3, &[]),
    ];
    history.extend((5..200).map(|index| entry(5, index, index - 2, &[2 * index, 2 * index + 1])));
    history
}

async fn append(log: &Log, follower: &Follower, entries: &[Entry]) {
    for entry in entries {
        while log.append_entry(entry).is_err() {
            scene::turn().await;
        }
    }
    let last = entries.last().unwrap().head().index;
    until("the last entry", || follower.landed.borrow().last().is_some_and(|(index, _)| *index == last)).await;
}

#[test]
fn s1_2_1_entries_are_replayed_with_what_replaced_them() {
    for seed in 0..10 {
        on_core(async {
            let disk: Rc<dyn Disk> = Rc::new(MemoryDisk::new(seed, Faults::default()));
            let (log, follower) = open(&disk).await;
            append(&log, &follower, &history()).await;
            log.close().await.unwrap();
            let (log, again) = open(&disk).await;
            let tail = again.tail.borrow().clone();
            assert_eq!(tail.len(), 199);
            assert_eq!(*again.committed_told.borrow(), 197);
            let terms: Vec<u64> = tail.iter().take(5).map(|(term, ..)| *term).collect();
            assert_eq!(terms, [1, 1, 3, 5, 5]);
            let numbers: Vec<u64> = tail.iter().take(5).flat_map(|(_, _, numbers)| numbers.clone()).collect();
            assert_eq!(numbers, [1, 2, 3, 7, 10, 11]);
            for entry in history() {
                let (term, place, _) = &tail[entry.head().index as usize - 1];
                if *term == entry.head().term {
                    assert_eq!(log.read_entry(place.unwrap()).await.unwrap(), entry, "the entry as it was ordered");
                }
            }
        });
    }
}

#[test]
fn s1_2_1_an_entry_is_the_same_bytes_on_the_wire_and_refuses_any_flipped_bit() {
    let entries = history();
    let mut wire = Vec::new();
    entries.iter().take(6).for_each(|entry| entry.write(&mut wire));
    let mut rest = Bytes::copy_from_slice(&wire);
    for entry in entries.iter().take(6) {
        assert_eq!(&Entry::parse(&mut rest).unwrap(), entry);
    }
    assert!(rest.is_empty());
    let mut one = Vec::new();
    entries[0].write(&mut one);
    assert_eq!(one.len(), entries[0].wire_bytes());
    for bit in 0..one.len() * 8 {
        let mut flipped = one.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Entry::parse(&mut Bytes::from(flipped)).is_err(), "bit {bit}");
    }
    for length in 0..one.len() {
        assert!(Entry::parse(&mut Bytes::copy_from_slice(&one[..length])).is_err(), "{length} bytes");
    }
}
