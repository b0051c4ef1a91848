//! Seeded lives and deaths of a log on a disk in memory, and what it must answer when the disk fails it.
#![allow(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod scene;

use qmesh_storage::io::Disk;
use qmesh_storage::io::memory::{Faults, MemoryDisk};
use qmesh_storage::{AppendError, LogOptions};
use scene::{drive, number, on_core, open, record, small, turn, until};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

const DIRECTORY: &str = "/log";

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) % bound
    }
}

/// An entry as the model knows it, in the order in which entries were begun.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    shard: u16,
    term: u64,
    index: u64,
    records: Vec<u64>,
}

#[derive(Default)]
struct Model {
    entries: Vec<Entry>,
    /// So many of them were reported as durable.
    reported: usize,
    records: u64,
}

impl Model {
    fn append(&mut self, shard: u16, term: u64, index: u64, record: u64) {
        match self.entries.iter_mut().rfind(|entry| entry.shard == shard) {
            Some(entry) if entry.index == index => {
                assert_eq!(entry.term, term);
                entry.records.push(record);
            }
            last => {
                assert_eq!(
                    last.map_or(0, |entry| entry.index) + 1,
                    index,
                    "entries of a shard are numbered without a gap"
                );
                self.entries.push(Entry { shard, term, index, records: vec![record] });
            }
        }
    }

    /// What was replayed is a prefix of what was appended and holds all that was reported; what is missing never comes back.
    fn reopen(&mut self, replayed: &[scene::Seen]) -> Result<(), String> {
        let mut entries: Vec<Entry> = Vec::new();
        for seen in replayed {
            let number = number(&seen.key);
            match entries.last_mut() {
                Some(entry) if (entry.shard, entry.index) == (seen.shard, seen.index) => entry.records.push(number),
                _ => {
                    let (shard, term, index) = (seen.shard, seen.term, seen.index);
                    entries.push(Entry { shard, term, index, records: vec![number] });
                }
            }
        }
        if entries.len() < self.reported {
            return Err(format!("{} entries were reported, {} came back", self.reported, entries.len()));
        }
        if self.entries.get(..entries.len()) != Some(&entries) {
            return Err("what came back is no prefix of what was appended".to_owned());
        }
        self.entries = entries;
        self.reported = self.entries.len();
        Ok(())
    }
}

/// One life: open, check, append at random, die at a random moment or close.
async fn life(disk: &Rc<dyn Disk>, model: &mut Model, dice: &mut Dice, term: u64) -> Result<(), String> {
    let options = LogOptions { rounds_in_flight_max: 1 + dice.below(3) as usize, ..small() };
    let opened = open(disk, Path::new(DIRECTORY), &options).await;
    let (log, driver, opened, memo) = opened.map_err(|error| error.to_string())?;
    let replayed = memo.replayed.borrow().clone();
    model.reopen(&replayed)?;
    let tails: BTreeMap<u16, u64> = model.entries.iter().map(|entry| (entry.shard, entry.index)).collect();
    assert_eq!(opened.shards.iter().map(|tail| (tail.shard, tail.index)).collect::<BTreeMap<_, _>>(), tails);
    for seen in replayed.iter().skip(dice.below(7) as usize).step_by(11) {
        let read = log.read(seen.location).await.map_err(|error| error.to_string())?;
        assert_eq!(read.key(), &seen.key);
    }
    drive(driver);
    let found = model.reported;
    let report = |model: &mut Model| {
        let committed = memo.committed.borrow();
        for (entry, told) in model.entries[found..].iter().zip(committed.iter()) {
            assert_eq!((entry.shard, entry.term, entry.index), (told.0, told.1, told.2), "reported in log order");
            assert_eq!(entry.records.len(), told.3.len());
        }
        model.reported = found + committed.len();
    };
    for _ in 0..dice.below(120) {
        for _ in 0..dice.below(6) {
            let (shard, number) = (dice.below(3) as u16, model.records);
            match log.append(shard, term, &record(number, dice.below(2500) as usize)) {
                Ok(index) => {
                    model.append(shard, term, index, number);
                    model.records += 1;
                }
                Err(AppendError::Busy { .. }) => turn().await,
                Err(error) => return Err(error.to_string()),
            }
        }
        for _ in 0..dice.below(4) {
            turn().await;
        }
        report(model);
    }
    if dice.below(4) == 0 {
        log.close().await.map_err(|error| error.to_string())?;
        report(model);
        assert_eq!(model.reported, model.entries.len(), "a close leaves nothing behind");
    }
    Ok(())
}

fn lives(seed: u64, lying: bool) -> Result<(), String> {
    let mut dice = Dice(seed);
    let faults = Faults { turns_max: dice.below(6) as u32, sync_lies: lying, ..Faults::default() };
    let memory = MemoryDisk::new(seed, faults);
    let disk: Rc<dyn Disk> = Rc::new(memory.clone());
    let mut model = Model::default();
    for term in 1..=5 {
        on_core(life(&disk, &mut model, &mut dice, term))?;
        if dice.below(4) == 0 { memory.kill() } else { memory.crash() }
    }
    let memo = on_core(async {
        let opened = open(&disk, Path::new(DIRECTORY), &small()).await;
        opened.map(|(_, _, _, memo)| memo).map_err(|error| error.to_string())
    })?;
    model.reopen(&memo.replayed.borrow())
}

#[test]
fn s1_1_9_any_crash_leaves_a_prefix_with_every_reported_record() {
    for seed in 0..300 {
        lives(seed, false).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

#[test]
fn s1_1_9_the_checker_sees_a_lying_sync() {
    let caught = (0..60).filter(|&seed| lives(seed, true).is_err()).count();
    assert!(30 < caught, "a disk whose syncs do nothing was caught in {caught} of 60 lives only");
}

#[test]
fn s1_1_9_a_round_is_not_reported_before_an_earlier_one() {
    let memory = MemoryDisk::new(1, Faults::default());
    let disk: Rc<dyn Disk> = Rc::new(memory.clone());
    on_core(async {
        let (log, driver, _, memo) = open(&disk, Path::new(DIRECTORY), &small()).await.unwrap();
        drive(driver);
        until("a segment ahead", || log.stats().segments_ahead == 1).await;
        memory.with_faults(|faults| faults.sync_turns.extend([20_000, 1]));
        log.append(0, 1, &record(1, 100)).unwrap();
        until("the first round", || log.stats().rounds_in_flight == 1).await;
        log.append(1, 1, &record(2, 5000)).unwrap();
        until("the second sync", || log.stats().syncs == 1).await;
        assert_eq!(*memo.committed.borrow(), [], "the second round is durable, the first is not");
        until("both", || log.stats().rounds == 2).await;
        let order: Vec<u16> = memo.committed.borrow().iter().map(|entry| entry.0).collect();
        assert_eq!(order, [0, 1]);
    });
}

#[test]
fn s1_1_9_a_small_round_waits_for_the_sync_in_flight_only() {
    let memory = MemoryDisk::new(1, Faults::default());
    let disk: Rc<dyn Disk> = Rc::new(memory.clone());
    let options = LogOptions { round_bytes_eager: 32 << 10, ..small() };
    on_core(async {
        let (log, driver, _, memo) = open(&disk, Path::new(DIRECTORY), &options).await.unwrap();
        drive(driver);
        until("a segment ahead", || log.stats().segments_ahead == 1).await;
        memory.with_faults(|faults| faults.sync_turns.extend([20_000]));
        for number in 0..5 {
            log.append(0, 1, &record(number, 100)).unwrap();
            for _ in 0..10 {
                turn().await;
            }
        }
        until("all five", || memo.committed.borrow().iter().map(|entry| entry.3.len()).sum::<usize>() == 5).await;
        assert_eq!(log.stats().rounds, 2, "what came while the first round was in flight shares the second");
        assert_eq!(memo.committed.borrow().iter().map(|entry| entry.2).collect::<Vec<_>>(), [1, 2]);
    });
}

#[test]
fn s1_1_9_a_full_disk_refuses_writes_keeps_reads_and_clears_by_itself() {
    let memory = MemoryDisk::new(1, Faults { space_bytes: Some(140 << 10), ..Faults::default() });
    let disk: Rc<dyn Disk> = Rc::new(memory.clone());
    on_core(async {
        let (log, driver, _, memo) = open(&disk, Path::new(DIRECTORY), &small()).await.unwrap();
        drive(driver);
        let mut taken = 0;
        loop {
            match log.append(0, 1, &record(taken, 1000)) {
                Ok(_) => taken += 1,
                Err(AppendError::Busy { .. }) => {}
                Err(error) => break assert_eq!(error, AppendError::DiskFull),
            }
            turn().await;
        }
        assert!(20 < taken, "two segments take more than {taken} records");
        let records = || memo.committed.borrow().iter().map(|entry| entry.3.len() as u64).sum::<u64>();
        until("everything taken is durable", || records() == taken).await;
        assert!(log.stats().disk_full);
        let first = memo.committed.borrow()[0].3[0];
        assert_eq!(log.read(first).await.unwrap(), record(0, 1000));
        memory.with_faults(|faults| faults.space_bytes = Some(1 << 20));
        let mut tries = 0;
        while log.append(0, 1, &record(taken, 1000)).is_err() {
            tries += 1;
            assert!(tries < 1000, "the full disk never cleared");
            turn().await;
        }
        until("the write after", || records() == taken + 1).await;
        assert!(!log.stats().disk_full);
    });
}

#[test]
fn s1_1_9_nothing_is_reported_after_a_failed_sync_or_write() {
    for write in [false, true] {
        let mut faults = Faults::default();
        *(if write { &mut faults.write_fails_at } else { &mut faults.sync_fails_at }) = Some(3);
        let disk: Rc<dyn Disk> = Rc::new(MemoryDisk::new(1, faults));
        on_core(async {
            let (log, driver, _, memo) = open(&disk, Path::new(DIRECTORY), &small()).await.unwrap();
            let outcome = drive(driver);
            let mut number = 0;
            while outcome.borrow().is_none() {
                number += 1;
                if log.append(0, 1, &record(number, 10)).is_err() {
                    break;
                }
                for _ in 0..8 {
                    turn().await;
                }
            }
            until("the end of the driver", || outcome.borrow().is_some()).await;
            let failed = outcome.take().unwrap().unwrap_err();
            assert_eq!(failed.what, if write { "write" } else { "sync" });
            // The write or sync with number 3 is the fourth; a write fails before its sync is asked for.
            assert_eq!(memo.committed.borrow().len(), 3);
            assert_eq!(log.append(0, 1, &record(9, 10)), Err(AppendError::Closed));
            assert!(log.close().await.is_err());
        });
    }
}

#[test]
fn s1_1_9_too_much_at_once_is_answered_with_busy() {
    let disk: Rc<dyn Disk> = Rc::new(MemoryDisk::new(1, Faults::default()));
    on_core(async {
        let (log, driver, _, memo) = open(&disk, Path::new(DIRECTORY), &small()).await.unwrap();
        let mut taken = 0;
        let refused = loop {
            match log.append(0, 1, &record(taken, 1000)) {
                Ok(_) => taken += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, AppendError::Busy { .. }), "{refused}");
        let too_large = log.append(0, 1, &record(0, 60 << 10));
        assert!(matches!(too_large, Err(AppendError::TooLarge { .. })), "{too_large:?}");
        drive(driver);
        let records = || memo.committed.borrow().iter().map(|entry| entry.3.len() as u64).sum::<u64>();
        until("all that was taken", || records() == taken).await;
    });
}
