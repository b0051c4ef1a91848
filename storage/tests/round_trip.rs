//! The same story on every disk: append, commit, read, close, open again.
#![allow(clippy::unwrap_used, reason = "a test that cannot set its scene fails")]

mod scene;

use qmesh_storage::Index;
use qmesh_storage::io::Disk;
use qmesh_storage::io::glommio::GlommioDisk;
use qmesh_storage::io::memory::{Faults, MemoryDisk};
use qmesh_storage::io::threads::ThreadDisk;
use qmesh_storage::io::uring::{self, UringDisk};
use scene::{drive, number, on_core, open, record, small, turn, until};
use std::path::Path;
use std::rc::Rc;

const RECORDS: u64 = 200;

async fn story(disk: Rc<dyn Disk>, directory: &Path) {
    let body_bytes = |number: u64| (number * 37 % 3000) as usize;
    let (log, driver, opened, memo) = open(&disk, directory, &small()).await.unwrap();
    assert_eq!(opened, qmesh_storage::Opened::default());
    drive(driver);
    let mut taken = 0;
    while taken < RECORDS {
        match log.append((taken % 3) as u16, 1 + taken / 100, &record(taken, body_bytes(taken))) {
            Ok(_) => taken += 1,
            Err(qmesh_storage::AppendError::Busy { .. }) => turn().await,
            Err(error) => panic!("{error}"),
        }
        if taken % 7 == 0 {
            turn().await;
        }
    }
    log.close().await.unwrap();
    let committed: usize = memo.committed.borrow().iter().map(|entry| entry.3.len()).sum();
    assert_eq!(committed as u64, RECORDS);
    assert!(1 < log.stats().segments, "the story fills more than one segment");

    let (log, driver, opened, memo) = open(&disk, directory, &small()).await.unwrap();
    assert_eq!((opened.records, opened.bytes_scanned, opened.hints_rebuilt, opened.cut), (RECORDS, 0, 0, None));
    drive(driver);
    let seen = memo.replayed.borrow().clone();
    let mut index = Index::default();
    for seen in &seen {
        index.insert(&seen.key, seen.location);
    }
    for seen in &seen {
        let wanted = record(number(&seen.key), body_bytes(number(&seen.key)));
        assert_eq!(seen.hint, wanted.body()[..wanted.body().len().min(5)]);
        let mut found = false;
        for candidate in index.candidates(wanted.key()) {
            found |= log.read(candidate).await.unwrap() == wanted;
        }
        assert!(found, "record {}", number(&seen.key));
    }
    let mut index = log.append(0, 9, &record(RECORDS, 10));
    // The last segment may be full to the last block, and the next one on its way.
    while let Err(qmesh_storage::AppendError::Busy { .. }) = index {
        turn().await;
        index = log.append(0, 9, &record(RECORDS, 10));
    }
    let index = index.unwrap();
    assert_eq!(Some(index), opened.shards.first().map(|tail| tail.index + 1));
    until("one more commit", || memo.committed.borrow().len() == 1).await;
    log.close().await.unwrap();
}

#[test]
fn s1_1_9_round_trip_memory() {
    for seed in 0..20 {
        let faults = Faults { turns_max: (seed % 5) as u32, ..Faults::default() };
        let disk: Rc<dyn Disk> = Rc::new(MemoryDisk::new(seed, faults));
        on_core(story(disk, Path::new("/log")));
    }
}

#[test]
fn s1_1_9_round_trip_threads() {
    for direct in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let disk: Rc<dyn Disk> = Rc::new(ThreadDisk::start(2, direct).unwrap());
        on_core(story(disk, &directory.path().join("log")));
    }
}

#[test]
fn s1_1_9_round_trip_uring() {
    for direct in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        uring::builder().start(async {
            let disk: Rc<dyn Disk> = Rc::new(UringDisk::start(direct).unwrap());
            story(disk, &directory.path().join("log")).await;
        });
    }
}

#[test]
fn s1_1_9_round_trip_glommio() {
    let directory = tempfile::tempdir().unwrap();
    let disk: Rc<dyn Disk> = Rc::new(GlommioDisk::start(None).unwrap());
    on_core(story(disk, &directory.path().join("log")));
}
